package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
	"github.com/sealpost/sealpost/test/rig"
)

// clock is a machine's clock that somebody sets, by whole seconds: the wall's time moves, and the monotonic reading does not.
type clock struct{ ahead atomic.Int64 }

// now moves the wall's part of a time.Time that has a monotonic reading: seconds in the bits above those of the nanoseconds.
// Package time has no other way to say what a machine says whose clock was set.
func (c *clock) now() time.Time {
	t := time.Now()
	const nanosecondBits = 30
	*(*uint64)(unsafe.Pointer(&t)) += uint64(c.ahead.Load()) << nanosecondBits
	return t
}

func (c *clock) set(by time.Duration) { c.ahead.Add(int64(by / time.Second)) }

// holds checks that this Go's times are laid out as now takes them to be.
func (c *clock) holds(t *testing.T) {
	t.Helper()
	before := c.now()
	c.set(-time.Hour)
	after := c.now()
	c.set(time.Hour)
	wall := after.Round(0).Sub(before.Round(0))
	if wall > -59*time.Minute || wall < -time.Hour || after.Sub(before) < 0 || after.Sub(before) > time.Minute {
		t.Fatalf("set back by an hour, the wall's time moved by %v and the monotonic one by %v", wall, after.Sub(before))
	}
}

// inProcess is a Sealpost in this process, called over HTTP.
type inProcess struct {
	t           *testing.T
	http, token string
}

func runHere(t *testing.T, c *clock) *inProcess {
	t.Helper()
	data := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Options{
		Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0", Dev: true, Clock: c.now,
		Journal:  app.Journal{MinFreeDisk: -1},
		Delivery: app.Delivery{RetryIntervals: []time.Duration{time.Second}, CheckpointEvery: 500 * time.Millisecond},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
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
			t.Errorf("it ended with %v", err)
		}
	})
	<-ready
	token, err := os.ReadFile(filepath.Join(data, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	return &inProcess{t, "http://" + a.Addresses()["http"].String(), strings.TrimSpace(string(token))}
}

func (p *inProcess) call(method, path string, body any) rig.Object {
	p.t.Helper()
	in, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.http+path, bytes.NewReader(in))
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
	var out rig.Object
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(raw, &out) != nil {
		p.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, raw, err)
	}
	return out
}

// failsOnce refuses every fourth delivery to /retried the first time, so that it waits for a retry (more would open the breaker),
// and counts those that it took.
type failsOnce struct {
	counter
	seen  sync.Map
	first atomic.Int64
}

func (f *failsOnce) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, again := f.seen.LoadOrStore(r.Header.Get("Webhook-Id"), true); !again && r.URL.Path == "/retried" && f.first.Add(1)%4 == 1 {
		f.refused.Add(1)
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	f.counter.ServeHTTP(w, r)
}

// TestClockSteps sets the clock back and forth by hours while events are published, delivered and retried: nothing is lost, a
// retry's time comes as soon as it would have, and the caller's token is good.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	steps := []time.Duration{-3 * time.Hour, 5 * time.Hour, -time.Hour, 2 * time.Hour, -4 * time.Hour, -3 * time.Second}
	if *long {
		steps = append(append(steps, steps...), steps...)
	}
	var c clock
	c.holds(t)
	partner := &failsOnce{counter: *newCounter()}
	server := rig.Serve(t, partner)
	p := runHere(t, &c)
	for _, path := range []string{"/plain", "/retried"} {
		p.call("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": server + path, "owner": "ops@partner.example", "purpose": "tests",
			"eventTypes": []string{"contact.*"}, "redaction": rig.Object{"mode": "NONE"}})
	}
	// What is accepted before an endpoint was made is not for it, by the clock: it is older than the steps are wide.
	c.set(24 * time.Hour)
	published := 0
	publish := func(n int) {
		for range n {
			p.call("POST", "/v1/events", rig.Object{"tenant": "acme", "id": fmt.Sprint("e-", published), "type": "contact.updated", "data": rig.Object{}})
			published++
		}
	}
	const each = 8
	for i, step := range steps {
		refused := partner.refused.Load()
		publish(each)
		rig.Eventually(t, "retries wait", func() bool { return partner.refused.Load() == refused+each/4 })
		c.set(step)
		began := time.Now()
		publish(each)
		rig.Eventually(t, fmt.Sprintf("all is delivered after the clock was set by %v", step), func() bool {
			n, _, _ := partner.tally()
			return n == 2*published
		}, func() string { n, _, _ := partner.tally(); return fmt.Sprintf("%d of %d are", n, 2*published) })
		t.Logf("step %d, %v: all delivered %v later", i+1, step, time.Since(began).Round(10*time.Millisecond))
	}
	deliveries, twice, _ := partner.tally()
	if twice > 0 {
		t.Errorf("%d came twice", twice)
	}
	settled := 0
	rig.Eventually(t, "the view has it all", func() bool {
		settled = len(p.call("GET", "/v1/deliveries?pageSize=1000&tenant=acme&state=DELIVERED", nil).L("deliveries"))
		return settled == 2*published
	}, func() string { return fmt.Sprintf("%d of %d", settled, 2*published) })
	t.Logf("%d steps, %d events, %d deliveries, %d refused once, %d came twice", len(steps), published, deliveries, partner.refused.Load(), twice)
}
