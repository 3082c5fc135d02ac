package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/ledger"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// memory is a view in memory that can be emptied, and can fail.
type memory struct {
	relay.Ledger // what is not asked for here
	mu           sync.Mutex
	position     uint64
	answered     uint64 // the position that was last told
	states       map[string]relay.DeliveryState
	applied      int // outcomes, over all
	largest      int // group
	failure      error
	calls        int
}

func (m *memory) Position(context.Context, int) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	m.answered = m.position
	return m.position, m.failure
}

func (m *memory) Apply(_ context.Context, partition int, upTo uint64, outcomes []relay.SequencedOutcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.failure != nil {
		return m.failure
	}
	if m.position != m.answered {
		return relay.ErrPositionLost
	}
	for i, o := range outcomes {
		if o.Sequence <= m.position || o.Sequence > upTo || i > 0 && o.Sequence <= outcomes[i-1].Sequence {
			return fmt.Errorf("outcome %d out of order", o.Sequence)
		}
		if o.State == relay.Unmatched {
			continue
		}
		if o.DeliveryID == "" {
			return errors.New("an outcome without a delivery")
		}
		m.states[o.DeliveryID] = o.State
	}
	m.applied += len(outcomes)
	m.largest = max(m.largest, len(outcomes))
	m.position, m.answered = upTo, upTo
	return nil
}

func (m *memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memory) empty() {
	m.set(func() { m.position, m.states = 0, map[string]relay.DeliveryState{} })
}

type world struct {
	testing.TB
	journal  *journal.Journal
	appender *journal.Appender
	n        int
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{TB: tb}
	var err error
	if w.journal, err = journal.Open(tb.Context(), journal.Options{Dir: tb.TempDir(), MinFreeDisk: -1}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.journal.Close(context.Background()) })
	if w.appender, err = w.journal.Outcomes(0).NewAppender(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.appender.Close)
	return w
}

func delivery(i int) string { return relay.DeliveryID("acme", fmt.Sprint("evt_", i), "ep") }

// outcome appends and syncs the next outcomes: each of another delivery.
func (w *world) outcomes(n int, change ...func(*relay.Outcome)) {
	w.Helper()
	for range n {
		w.n++
		o := relay.Outcome{
			DeliveryID: delivery(w.n), Tenant: "acme", EndpointID: "ep", EventID: fmt.Sprint("evt_", w.n), EventType: "contact.updated",
			EventTime: time.Now(), AcceptTime: time.Now(), Time: time.Now(), Seq: uint64(w.n), State: relay.Delivered, Reason: relay.ReasonAccepted, Attempts: 1,
		}
		for _, f := range change {
			f(&o)
		}
		b, err := record.AppendOutcome(nil, &o)
		if err != nil {
			w.Fatal(err)
		}
		if _, err := w.appender.Append(w.Context(), b); err != nil {
			w.Fatal(err)
		}
	}
	if _, err := w.appender.Sync(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// run projects until the test, or stop, ends it.
func (w *world) run(view relay.Ledger, hub *ledger.Hub) (p *ledger.Projector, stop func()) {
	p = ledger.NewProjector(0, w.journal.Outcomes(0), view, hub, slog.New(slog.DiscardHandler), ledger.NewMetrics(prometheus.NewRegistry()))
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("the projector ended with %v", err)
		}
	})
	w.Cleanup(stop)
	return p, stop
}

func (w *world) until(what string, holds func() bool) {
	w.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited for %s", what)
		}
	}
}

func newMemory() *memory { return &memory{states: map[string]relay.DeliveryState{}} }

func (m *memory) has(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.states) == n
}

func TestFollows(t *testing.T) {
	t.Parallel()
	w, view := newWorld(t), newMemory()
	w.outcomes(1200)
	p, stop := w.run(view, nil)
	w.until("what was there", func() bool { return view.has(1200) })
	w.outcomes(10)
	w.until("what came", func() bool { return view.has(1210) && p.Position() == 1210 && p.Healthy() })
	stop()
	w.outcomes(5)
	if !view.has(1210) {
		t.Fatal("it goes on after its end")
	}
	_, stop = w.run(view, nil)
	w.until("what came meanwhile", func() bool { return view.has(1215) })
	stop()
	if view.applied != 1215 || view.largest > 500 || view.largest < 100 {
		t.Errorf("%d outcomes were applied, in groups of up to %d", view.applied, view.largest)
	}
}

// What is not durable is not in the view: a loss of power could still take it back.
func TestOnlyDurable(t *testing.T) {
	t.Parallel()
	w, view := newWorld(t), newMemory()
	w.outcomes(1)
	p, _ := w.run(view, nil)
	w.until("the first", func() bool { return p.Position() == 1 })
	b, err := record.AppendOutcome(nil, &relay.Outcome{DeliveryID: delivery(2), Tenant: "acme", EventID: "evt_2", Seq: 2, State: relay.Delivered})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.appender.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	calls := func() (n int) { view.set(func() { n = view.calls }); return n }
	before := calls()
	w.until("a look at the view", func() bool { return calls() > before }) // it had the time
	if p.Position() != 1 {
		t.Fatal("an outcome is in the view that is not durable")
	}
	if _, err := w.appender.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("the second", func() bool { return p.Position() == 2 })
}

// A view that was emptied is rebuilt, busy or idle; those who watch are told nothing twice.
func TestEmptied(t *testing.T) {
	t.Parallel()
	w, view, hub := newWorld(t), newMemory(), &ledger.Hub{}
	p, _ := w.run(view, hub)
	w.until("health", p.Healthy)
	seen := watch(t, hub)
	w.outcomes(300)
	w.until("all", func() bool { return view.has(300) })
	view.empty()
	w.until("all again, without anything new", func() bool { return view.has(300) })
	view.empty()
	w.outcomes(50)
	w.until("all again, and what came", func() bool { return view.has(350) && p.Healthy() })
	w.until("the watcher", func() bool { return len(seen()) >= 350 })
	for i, id := range seen() {
		if id != delivery(i+1) {
			t.Fatalf("the watcher was told of %s at %d", id, i)
		}
	}
}

func TestFailingView(t *testing.T) {
	t.Parallel()
	w, view := newWorld(t), newMemory()
	view.failure = errors.New("no connection")
	w.outcomes(10)
	p, _ := w.run(view, nil)
	calls := 0
	w.until("tries", func() bool { view.set(func() { calls = view.calls }); return calls > 3 })
	if p.Healthy() || p.Position() != 0 {
		t.Error("it says that all is well")
	}
	view.set(func() { view.failure = nil })
	w.until("all", func() bool { return view.has(10) && p.Healthy() })
	view.set(func() { view.failure = errors.New("no connection") })
	w.outcomes(10)
	w.until("the failure", func() bool { return !p.Healthy() })
	view.set(func() { view.failure = nil })
	w.until("the rest", func() bool { return view.has(20) && p.Healthy() })
	if view.applied != 20 {
		t.Errorf("%d outcomes were applied", view.applied)
	}
}

// A view of another journal, which is ahead of this one, is left alone.
func TestForeignView(t *testing.T) {
	t.Parallel()
	w, view := newWorld(t), newMemory()
	view.position = 99
	w.outcomes(3)
	p, _ := w.run(view, nil)
	calls := 0
	w.until("tries", func() bool { view.set(func() { calls = view.calls }); return calls > 2 })
	if p.Healthy() || !view.has(0) {
		t.Error("it was written to")
	}
}

// An outcome that names no delivery holds up nothing.
func TestNameless(t *testing.T) {
	t.Parallel()
	w, view := newWorld(t), newMemory()
	w.outcomes(2)
	w.outcomes(1, func(o *relay.Outcome) { o.DeliveryID, o.EventID, o.Tenant, o.State = "", "", "", relay.Cancelled })
	p, _ := w.run(view, nil)
	w.until("the position", func() bool { return p.Position() == 3 && view.has(2) })
	w.outcomes(1, func(o *relay.Outcome) { o.DeliveryID, o.State = "", relay.Cancelled })
	w.outcomes(1)
	w.until("what comes behind it", func() bool { return p.Position() == 5 && view.has(3) })
}

// The same over the real embedded view.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	open := func() relay.Ledger {
		view, err := store.Open(t.Context(), dir+"/view", store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return view
	}
	view := open()
	w.outcomes(600)
	w.outcomes(1, func(o *relay.Outcome) { o.DeliveryID, o.EndpointID, o.State = "", "", relay.Unmatched })
	p, stop := w.run(view, nil)
	w.until("all", func() bool { return p.Position() == 601 })
	got, err := view.Delivery(t.Context(), "acme", delivery(17))
	if err != nil || got.State != relay.Delivered || got.Seq != 17 {
		t.Errorf("%+v, %v", got, err)
	}
	if ev, err := view.Event(t.Context(), "acme", "evt_601"); err != nil || ev.Matched {
		t.Errorf("%+v, %v", ev, err)
	}
	stop()
	if err := view.Close(); err != nil {
		t.Fatal(err)
	}
	view = open()
	defer view.Close()
	w.outcomes(10)
	p, stop = w.run(view, nil)
	w.until("the rest", func() bool { return p.Position() == 611 })
	stop()
	if _, err := view.Delivery(t.Context(), "acme", delivery(610)); err != nil {
		t.Error(err)
	}
}

// watch collects the ids that a watcher is told.
func watch(t *testing.T, hub *ledger.Hub) (seen func() []string) {
	var mu sync.Mutex
	var ids []string
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	changes := hub.Watch(ctx)
	go func() {
		defer close(done)
		for o, err := range changes {
			if err != nil {
				return
			}
			mu.Lock()
			ids = append(ids, o.DeliveryID)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(ids)
	}
}

func TestWatchers(t *testing.T) {
	t.Parallel()
	w, view, hub := newWorld(t), newMemory(), &ledger.Hub{}
	w.outcomes(5) // before anybody watches
	p, _ := w.run(view, hub)
	w.until("the start", func() bool { return p.Position() == 5 })
	one, other := watch(t, hub), watch(t, hub)
	lagging := hub.Watch(t.Context())
	left := hub.Watch(t.Context())
	w.outcomes(1, func(o *relay.Outcome) { o.DeliveryID, o.EndpointID, o.State = "", "", relay.Unmatched })
	w.outcomes(3)
	for o, err := range left {
		if err != nil || o.DeliveryID != delivery(7) {
			t.Errorf("%+v, %v", o, err)
		}
		break
	}
	want := []string{delivery(7), delivery(8), delivery(9)}
	for _, seen := range []func() []string{one, other} {
		w.until("three changes", func() bool { return len(seen()) >= 3 })
		if got := seen(); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	// One that does not read is let go, and holds up nobody.
	w.outcomes(6000)
	w.until("the others", func() bool { return len(one()) == 6003 && len(other()) == 6003 })
	var last error
	n := 0
	for _, err := range lagging {
		n++
		last = err
	}
	if !errors.Is(last, ledger.ErrLagged) || n > 4097 {
		t.Errorf("the one that lagged got %d, %v", n, last)
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	hub := &ledger.Hub{}
	ctx, cancel := context.WithCancel(t.Context())
	changes := hub.Watch(ctx)
	cancel()
	for _, err := range changes {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// A closed journal ends the projector: there is nothing to wait for.
func TestClosedJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := ledger.NewProjector(0, w.journal.Outcomes(0), newMemory(), nil, slog.New(slog.DiscardHandler), ledger.NewMetrics(prometheus.NewRegistry()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	w.until("health", p.Healthy)
	w.appender.Close()
	if err := w.journal.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, journal.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
}
