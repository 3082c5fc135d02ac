package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sealpost/sealpost/relay"
)

// book is what was published.
type book struct {
	*Alerts
	mu     sync.Mutex
	events []relay.Event
	fail   error
	room   bool
	stop   func()
}

func newBook(t *testing.T) *book {
	b := &book{room: true}
	b.Alerts = New(Options{
		Publish: func(_ context.Context, e *relay.Event) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.fail == nil {
				b.events = append(b.events, *e)
			}
			return b.fail
		},
		Room:  func(context.Context) bool { b.mu.Lock(); defer b.mu.Unlock(); return b.room },
		Clock: time.Now, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.Run(ctx) }()
	b.stop = func() { cancel(); <-done }
	t.Cleanup(b.stop)
	return b
}

func (b *book) after(d time.Duration) []relay.Event {
	time.Sleep(d)
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]relay.Event(nil), b.events...)
}

func dead(n int) Notice {
	return Notice{Kind: DeliveryDead, Tenant: "acme", EndpointID: "ep_1", Reason: "REJECTED", Fact: fmt.Sprint("dlv_", n), Time: time.Now()}
}

func counter(t *testing.T, c *prometheus.CounterVec, label string) float64 {
	var m dto.Metric
	if err := c.WithLabelValues(label).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func counted(t *testing.T, e relay.Event) int64 {
	t.Helper()
	var d data
	if err := json.Unmarshal(e.Data, &d); err != nil {
		t.Fatal(err)
	}
	return d.Count
}

// TestGathered: a million of one kind over ten minutes are some eleven events, which count them all; the first comes soon.
func TestGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.Raise(dead(0))
		if got := b.after(2 * time.Second); len(got) != 1 || counted(t, got[0]) != 1 || got[0].Type != "sealpost.delivery.dead" || got[0].Tenant != "sealpost" {
			t.Fatalf("%+v", got)
		}
		for i := range 1000 {
			for k := range 1000 {
				b.Raise(dead(1000*i + k + 1))
			}
			time.Sleep(600 * time.Millisecond)
		}
		got := b.after(2 * time.Minute)
		total := int64(0)
		for _, e := range got {
			if bad := e.Check(); bad != nil || !json.Valid(e.Data) || len(e.Data) > 1000 {
				t.Fatalf("%v: %s", bad, e.Data)
			}
			total += counted(t, e)
		}
		if len(got) > 13 || total != 1_000_001 {
			t.Errorf("%d events count %d", len(got), total)
		}
	})
}

// TestNoLoop: what happens in the reserved tenant is not told.
func TestNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		for _, k := range Kinds() {
			b.Raise(Notice{Kind: k, Tenant: relay.ReservedTenant, EndpointID: "ep_ops", Time: time.Now()})
		}
		if got := b.after(5 * time.Minute); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestSameFactsSameEvent: told again by another process, the same facts have the same id, whatever their order; others another one.
func TestSameFactsSameEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := func(facts ...int) string {
			b := newBook(t)
			for _, n := range facts {
				b.Raise(dead(n))
			}
			got := b.after(3 * time.Second)
			if len(got) != 1 {
				t.Fatalf("%+v", got)
			}
			b.stop()
			return got[0].ID
		}
		if id(1, 2, 3) != id(3, 1, 2) {
			t.Error("the same facts are two events")
		}
		if id(1, 2, 3) == id(1, 2, 4) || id(1) == id(2) {
			t.Error("different facts are one event")
		}
	})
}

// TestSameFactTwice is one: two attempts that find the same endpoint gone suspend it once.
func TestSameFactTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.Raise(dead(1))
		b.Raise(dead(1))
		b.Raise(dead(2))
		if got := b.after(2 * time.Second); len(got) != 1 || counted(t, got[0]) != 2 {
			t.Errorf("%+v", got)
		}
	})
}

// TestFullJournal: alerts go first, and are counted; later ones are told again.
func TestFullJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.mu.Lock()
		b.room = false
		b.mu.Unlock()
		for i := range 7 {
			b.Raise(dead(i))
		}
		if got := b.after(2 * time.Second); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		if n := counter(t, b.dropped, whyNoRoom); n != 7 {
			t.Errorf("%v dropped", n)
		}
		b.mu.Lock()
		b.room = true
		b.mu.Unlock()
		b.Raise(dead(9))
		if got := b.after(2 * time.Minute); len(got) != 1 || counted(t, got[0]) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// TestTriedAgain: what cannot be written for a while is written later, as one; for too long, it is dropped and counted.
func TestTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		set := func(err error) { b.mu.Lock(); b.fail = err; b.mu.Unlock() }
		set(errors.New("unavailable"))
		b.Raise(dead(1))
		b.after(3 * time.Minute)
		b.Raise(dead(2))
		b.after(10 * time.Second)
		set(nil)
		if got := b.after(10 * time.Second); len(got) != 1 || counted(t, got[0]) != 2 || !strings.Contains(string(got[0].Data), `"dlv_1","dlv_2"`) {
			t.Errorf("%+v", got)
		}
		set(errors.New("unavailable"))
		b.after(2 * time.Minute)
		b.Raise(dead(3))
		b.after(20 * time.Minute)
		set(nil)
		if got := b.after(5 * time.Minute); len(got) != 1 || counter(t, b.dropped, whyLate) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// TestBounded: however many endpoints, no more than the bound is kept; and what is told no more is forgotten.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		for i := range maxGroups + 500 {
			b.Raise(Notice{Kind: BreakerOpened, Tenant: "acme", EndpointID: fmt.Sprint("ep_", i), Time: time.Now()})
		}
		if n := counter(t, b.dropped, whyMany); n != 500 {
			t.Errorf("%v dropped", n)
		}
		b.after(5 * time.Minute)
		b.Alerts.mu.Lock()
		defer b.Alerts.mu.Unlock()
		if n := len(b.groups); n != 0 {
			t.Errorf("%d are kept", n)
		}
	})
}

// TestStop tells what was gathered.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.Raise(dead(1))
		b.stop()
		if got := b.after(0); len(got) != 1 {
			t.Errorf("%+v", got)
		}
	})
}
