package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/store"
)

// process is a Sealpost process under test.
type process struct {
	t     *testing.T
	http  string
	token string
}

func start(t *testing.T, o app.Options) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if o.Data == "" {
		o.Data = t.TempDir()
	}
	o.GRPC, o.HTTP, o.Admin = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	o.OpenView = func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
		return store.Open(ctx, url, store.Options{Logger: log})
	}
	o.Journal.MinFreeDisk = -1
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	a, err := app.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-ready
	token, err := os.ReadFile(filepath.Join(o.Data, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	return &process{t: t, http: "http://" + a.Addresses()["http"].String(), token: strings.TrimSpace(string(token))}
}

func (p *process) call(method, path string, body any) (int, map[string]any) {
	p.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.http+path, in)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		p.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, raw)
	}
	return resp.StatusCode, out
}

func TestAnEventReachesItsPartnerVerified(t *testing.T) {
	t.Parallel()
	type receipt struct {
		header http.Header
		body   []byte
	}
	received := make(chan receipt, 10)
	partner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- receipt{r.Header.Clone(), body}
	}))
	defer partner.Close()
	p := start(t, app.Options{Dev: true})

	status, created := p.call("POST", "/v1/endpoints", map[string]any{
		"tenant": "acme", "url": partner.URL + "/hook", "owner": "ops@partner.example", "purpose": "test",
		"eventTypes": []string{"contact.*"}, "scheme": "standard",
		"redaction": map[string]any{"mode": "DENY_LISTED", "drop": []string{"**.ssn"}},
		"tls":       map[string]any{"clientCertificate": "NONE"},
	})
	if status != http.StatusOK {
		t.Fatalf("create: %d %v", status, created)
	}
	endpoint := created["endpoint"].(map[string]any)
	key, err := signer.ParseKey(signer.Standard, created["secret"].(string))
	if err != nil {
		t.Fatal(err)
	}
	status, published := p.call("POST", "/v1/events", map[string]any{
		"tenant": "acme", "id": "evt_1", "type": "contact.updated", "time": "2026-01-02T03:04:05Z", "subject": "contact/42",
		"data": map[string]any{"name": "Ann", "ssn": "078-05-1120"},
	})
	if status != http.StatusOK || published["id"] != "evt_1" {
		t.Fatalf("publish: %d %v", status, published)
	}
	var got receipt
	select {
	case got = <-received:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was delivered")
	}
	verifier, err := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(got.header, signer.Request{Method: "POST", URL: partner.URL + "/hook", Body: got.body}, time.Now()); err != nil {
		t.Errorf("verify: %v", err)
	}
	if bytes.Contains(got.body, []byte("078-05-1120")) {
		t.Errorf("a dropped field was delivered: %s", got.body)
	}
	query := fmt.Sprintf("/v1/deliveries?tenant=acme&endpointId=%s&state=DELIVERED", endpoint["id"])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status, page := p.call("GET", query, nil)
		if status != http.StatusOK {
			t.Fatalf("list: %d %v", status, page)
		}
		if list, _ := page["deliveries"].([]any); len(list) == 1 {
			d := list[0].(map[string]any)
			if d["eventId"] != "evt_1" || d["state"] != "DELIVERED" {
				t.Fatalf("delivery: %v", d)
			}
			_, whole := p.call("GET", "/v1/deliveries/"+d["id"].(string)+"?tenant=acme", nil)
			t.Logf("%v", whole)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the view does not have the delivery")
		}
	}
}

func TestAnEventWithoutATimeCanBePublishedAgain(t *testing.T) {
	t.Parallel()
	p := start(t, app.Options{Dev: true})
	event := map[string]any{"tenant": "acme", "id": "evt_1", "type": "contact.updated", "data": map[string]any{"n": 1}}
	for _, duplicate := range []bool{false, true} {
		status, published := p.call("POST", "/v1/events", event)
		if status != http.StatusOK || published["duplicate"] != duplicate {
			t.Fatalf("publish: %d %v, want duplicate %v", status, published, duplicate)
		}
	}
}
