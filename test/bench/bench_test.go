package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/store"
	"github.com/sealpost/sealpost/test/bench"
)

// sink counts requests and reads their bodies.
func sink(b *testing.B) (url string, count *atomic.Int64) {
	count = &atomic.Int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		count.Add(1)
	})}
	go server.Serve(l)
	b.Cleanup(func() { server.Close() })
	return "http://" + l.Addr().String() + "/", count
}

// relayed is a running Sealpost with its API's address and operator token.
func relayed(b *testing.B) (grpc, rest, token string) {
	ctx, cancel := context.WithCancel(context.Background())
	dir := b.TempDir()
	o := app.Options{
		Data: dir, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0", Dev: true,
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
		Journal: app.Journal{MinFreeDisk: -1},
		Logger:  slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	a, err := app.New(ctx, o)
	if err != nil {
		b.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	<-ready
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	raw, err := os.ReadFile(filepath.Join(dir, "operator.token"))
	if err != nil {
		b.Fatal(err)
	}
	at := a.Addresses()
	return at["grpc"].String(), "http://" + at["http"].String(), strings.TrimSpace(string(raw))
}

func register(b *testing.B, rest, token string, endpoint map[string]any) {
	body, _ := json.Marshal(endpoint)
	req, _ := http.NewRequest("POST", rest+"/v1/endpoints", bytes.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body)
		b.Fatalf("register: %d %s", resp.StatusCode, answer)
	}
}

func contact(n int) []byte {
	return fmt.Appendf(nil, `{"contact":{"id":%d,"name":"Ann Example","email":"ann%d@example.com","ssn":"078-05-1120","notes":"%s"}}`,
		n, n, strings.Repeat("x", 900))
}

// cpu is what this process has used of the processors, the sink and the publisher included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBare is the bare client's cost alone.
func BenchmarkBare(b *testing.B) {
	url, count := sink(b)
	for range b.N {
		spent := cpu()
		rate, err := bench.Bare(b.Context(), url, contact(1), time.Second)
		if err != nil {
			b.Fatal(err)
		}
		spent = cpu() - spent
		b.ReportMetric(rate, "bare/s")
		b.ReportMetric(spent.Seconds()/float64(count.Swap(0))*10_000, "cpu-s/10k")
	}
}

// BenchmarkEndToEnd publishes b.N events of 1 KiB over gRPC, each durable before it is acknowledged, and waits until a partner on the same
// machine has all of them; the view is on. ratio is to the bare client's rate in the same run, before and after.
func BenchmarkEndToEnd(b *testing.B) {
	for _, redacted := range []bool{false, true} {
		b.Run(fmt.Sprintf("redaction=%v", redacted), func(b *testing.B) { endToEnd(b, redacted) })
	}
}

func endToEnd(b *testing.B, redacted bool) {
	url, count := sink(b)
	grpc, rest, token := relayed(b)
	endpoint := map[string]any{
		"tenant": "acme", "url": url, "owner": "bench@example.com", "eventTypes": []string{"*"}, "scheme": "standard",
		"concurrency": 64, "tls": map[string]any{"clientCertificate": "NONE"},
	}
	if redacted {
		endpoint["redaction"] = map[string]any{"mode": "DENY_LISTED", "drop": []string{"**.ssn"}, "mask": []any{map[string]any{"path": "**.email", "keepLast": 4}}}
	}
	register(b, rest, token, endpoint)
	c, err := client.New(client.Options{Target: grpc, Token: token})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()

	before, err := bench.Bare(b.Context(), url, contact(1), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	count.Store(0)
	publisher := c.NewPublisher(client.PublisherOptions{})
	var refused atomic.Int64
	var acked sync.WaitGroup
	b.ResetTimer()
	began, spent := time.Now(), cpu()
	for i := range b.N {
		acked.Add(1)
		err := publisher.Publish(b.Context(), relay.Event{
			Tenant: "acme", ID: fmt.Sprintf("evt_%d", i), Type: "contact.updated", Time: time.Unix(1_700_000_000, 0), Data: contact(i),
		}, func(_ client.Receipt, err error) {
			if err != nil {
				refused.Add(1)
			}
			acked.Done()
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	acked.Wait()
	accepted := time.Since(began)
	for count.Load() < int64(b.N)-refused.Load() {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	spent = cpu() - spent
	b.StopTimer()
	if err := publisher.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	if n := refused.Load(); n > 0 {
		b.Fatalf("%d events were refused", n)
	}
	after, err := bench.Bare(b.Context(), url, contact(1), time.Second)
	if err != nil {
		b.Fatal(err)
	}
	rate := float64(b.N) / took.Seconds()
	b.ReportMetric(rate, "deliveries/s")
	b.ReportMetric(spent.Seconds()/float64(b.N)*10_000, "cpu-s/10k")
	b.ReportMetric(float64(b.N)/accepted.Seconds(), "accepted/s")
	b.ReportMetric((before+after)/2, "bare/s")
	b.ReportMetric(rate/((before+after)/2), "ratio")
}
