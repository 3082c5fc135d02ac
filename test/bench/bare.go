// Package bench measures Sealpost beside a bare HTTP client on the same machine, in the same run: machines differ and drift, so
// a figure means something only as a ratio.
package bench

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// BareWorkers is how many requests the bare client has under way.
const BareWorkers = 64

// Bare POSTs body to url for about the given time with a tuned net/http transport and an HMAC-SHA256 a request, and returns
// requests a second: what a sender that keeps nothing and decides nothing does here. This file is changed by itself, never
// together with what is measured beside it.
func Bare(ctx context.Context, url string, body []byte, lasting time.Duration) (float64, error) {
	transport := &http.Transport{
		MaxIdleConnsPerHost: BareWorkers, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var done atomic.Int64
	var failed atomic.Value
	var workers sync.WaitGroup
	began := time.Now()
	for range BareWorkers {
		workers.Go(func() {
			key := []byte("a key of thirty-two bytes length")
			for ctx.Err() == nil {
				if err := post(ctx, transport, url, key, body); err != nil {
					if ctx.Err() == nil {
						failed.Store(err)
						cancel()
					}
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	if err, ok := failed.Load().(error); ok {
		return 0, err
	}
	return float64(done.Load()) / took.Seconds(), nil
}

func post(ctx context.Context, transport *http.Transport, url string, key, body []byte) error {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Signature", hex.EncodeToString(mac.Sum(nil)))
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
