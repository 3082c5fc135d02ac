package crash_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
)

// disk is a disk that can be told to hold its syncs back, or to fail them.
type disk struct {
	mu   sync.Mutex
	gate chan struct{} // not nil: syncs wait until it is closed
	fail error
}

func (d *disk) sync(f *os.File) error {
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	d.mu.Lock()
	fail := d.fail
	d.mu.Unlock()
	if fail != nil {
		return fail
	}
	return f.Sync()
}

func (d *disk) hold() (release func()) {
	gate := make(chan struct{})
	d.mu.Lock()
	d.gate = gate
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.gate = nil
		d.mu.Unlock()
		close(gate)
	}
}

func (d *disk) breakDown() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = errors.New("input/output error")
}

// onDisk runs a process in this one, on a disk of the test's, until it is told to stop.
func onDisk(t *testing.T, d *disk) (publish func(ctx context.Context) (int, error), stop func(), ended <-chan error) {
	t.Helper()
	data := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Options{
		Data: data, GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0", Dev: true, Journal: app.Journal{MinFreeDisk: -1}, Fsync: d.sync,
		StopGrace: time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ready, done, over := make(chan struct{}), make(chan error, 1), make(chan struct{})
	go func() { done <- a.Run(ctx, func() { close(ready) }); close(over) }()
	t.Cleanup(func() { cancel(); <-over })
	<-ready
	token, err := os.ReadFile(filepath.Join(data, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) (int, error) {
		body := strings.NewReader(`{"tenant":"acme","type":"contact.updated","data":{}}`)
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+a.Addresses()["http"].String()+"/v1/events", body)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}, cancel, done
}

// TestPublishWaitsForTheSync holds the disk's syncs back: Publish answers after them, and not before.
func TestPublishWaitsForTheSync(t *testing.T) {
	t.Parallel()
	d := &disk{}
	publish, _, _ := onDisk(t, d)
	if status, err := publish(t.Context()); status != http.StatusOK {
		t.Fatalf("on a good disk: %d %v", status, err)
	}
	release := d.hold()
	const callers = 8
	answers := make(chan int, callers)
	for range callers {
		go func() {
			status, _ := publish(context.Background())
			answers <- status
		}()
	}
	select {
	case status := <-answers:
		t.Errorf("answered with %d before the sync", status)
	case <-time.After(500 * time.Millisecond): // nothing to wait for: it must stay silent
	}
	release()
	for range callers {
		if status := <-answers; status != http.StatusOK {
			t.Errorf("after the sync: %d", status)
		}
	}
}

// TestPublishFailsWithTheSync breaks the disk: what was not synced is not answered with OK, nothing is accepted any more, and
// the process ends with an error.
func TestPublishFailsWithTheSync(t *testing.T) {
	t.Parallel()
	d := &disk{}
	publish, _, ended := onDisk(t, d)
	if status, err := publish(t.Context()); status != http.StatusOK {
		t.Fatalf("on a good disk: %d %v", status, err)
	}
	d.breakDown()
	for range 20 {
		if status, err := publish(t.Context()); status == http.StatusOK {
			t.Error("accepted on a disk that fails")
		} else if err == nil && status != http.StatusServiceUnavailable {
			t.Errorf("refused with %d", status)
		}
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the process ended without an error")
		}
	case <-time.After(30 * time.Second):
		t.Error("the process goes on")
	}
}

// TestStopOfWhatHangs tells a process to stop whose disk answers nothing any more: it ends within its bounds, with an error that names
// what did not stop.
func TestStopOfWhatHangs(t *testing.T) {
	t.Parallel()
	d := &disk{}
	publish, stop, ended := onDisk(t, d)
	if status, err := publish(t.Context()); status != http.StatusOK {
		t.Fatalf("on a good disk: %d %v", status, err)
	}
	defer d.hold()() // for good, as far as the process can tell
	answered := make(chan int, 1)
	go func() {
		status, _ := publish(context.Background())
		answered <- status
	}()
	select {
	case status := <-answered:
		t.Errorf("answered with %d on a disk that hangs", status)
	case <-time.After(500 * time.Millisecond): // nothing to wait for: it must stay silent
	}
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, app.ErrStuck) || !strings.Contains(err.Error(), "partition 0") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the process goes on")
	}
	if status := <-answered; status == http.StatusOK {
		t.Error("the answer was OK")
	}
}
