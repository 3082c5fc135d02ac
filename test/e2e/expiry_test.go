package e2e_test

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
)

// TestTokenExpires runs a process with a clock of the test's: a token is good for as long as it was made for.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	data := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Options{
		Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0", Journal: app.Journal{MinFreeDisk: -1},
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Clock:  func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	<-ready
	operator, err := os.ReadFile(filepath.Join(data, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	call := func(token, method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Addresses()["http"].String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var text strings.Builder
		resp.Write(&text)
		return resp.StatusCode, text.String()
	}
	_, text := call(strings.TrimSpace(string(operator)), "POST", "/v1/tokens", `{"account":"crm","role":"PUBLISHER","tenant":"acme","ttl":"60s"}`)
	_, rest, _ := strings.Cut(text, `"secret":"`)
	token, _, _ := strings.Cut(rest, `"`)
	const event = `{"tenant":"acme","type":"contact.updated","data":{}}`
	if status, text := call(token, "POST", "/v1/events", event); status != http.StatusOK {
		t.Fatalf("a fresh token: %s", text)
	}
	ahead.Store(int64(59 * time.Second))
	if status, text := call(token, "POST", "/v1/events", event); status != http.StatusOK {
		t.Errorf("a token in its last second: %s", text)
	}
	ahead.Store(int64(61 * time.Second))
	if status, text := call(token, "POST", "/v1/events", event); status != http.StatusUnauthorized || !strings.Contains(text, "expired") {
		t.Errorf("a token past its time: %s", text)
	}
}
