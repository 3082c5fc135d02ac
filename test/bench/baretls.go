package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// bareTransport is a transport for bareTLS, with the client's certificate and roots in conf, HTTP/1.1 as the relay speaks it.
func bareTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: BareWorkers, IdleConnTimeout: time.Minute, DisableCompression: true, TLSClientConfig: conf,
	}
}

// bareTLS is Bare over a transport that lives on between runs, so that the best of several is one without handshakes.
func bareTLS(ctx context.Context, transport *http.Transport, url string, body []byte, lasting time.Duration) (float64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lasting, errLasted)
	defer cancel()
	var done atomic.Int64
	var first error
	var once sync.Once
	var workers sync.WaitGroup
	began := time.Now()
	for range BareWorkers {
		workers.Go(func() {
			key := []byte("a key of thirty-two bytes length")
			for ctx.Err() == nil {
				if err := post(ctx, transport, url, key, body); err != nil {
					if ctx.Err() == nil {
						once.Do(func() { first = err })
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
	if first != nil {
		return 0, first
	}
	if cause := context.Cause(ctx); !errors.Is(cause, errLasted) {
		return 0, cause
	}
	return float64(done.Load()) / took.Seconds(), nil
}

// errLasted ends a run that took its time.
var errLasted = errors.New("bench: the time is over")

// trips are the bare client's latencies, in milliseconds, from before a request to its answer.
type trips struct {
	took []float64
	err  error
}

// roundTrips POSTs one request after the other at a gentle rate.
func roundTrips(ctx context.Context, url string, requests int, every time.Duration) trips {
	transport := bareTransport(nil)
	defer transport.CloseIdleConnections()
	key, body := []byte("a key of thirty-two bytes length"), contact(0)
	var t trips
	began := time.Now()
	for i := 0; i < requests && t.err == nil; i++ {
		sleep(ctx, time.Until(began.Add(time.Duration(i)*every)))
		start := time.Now()
		t.err = post(ctx, transport, url, key, body)
		t.took = append(t.took, float64(time.Since(start).Nanoseconds())/1e6)
	}
	return t
}
