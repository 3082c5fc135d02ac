package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// follower plays the view: it stands where the log ends, and notes what it was to scrub.
type follower struct {
	w        *world
	mu       sync.Mutex
	scrubbed int
}

func (f *follower) Position(ctx context.Context, _ int) (uint64, error) {
	return f.w.journal.Outcomes(0).Synced(ctx)
}

func (f *follower) Scrub(context.Context, time.Time, time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scrubbed++
	return nil
}

// eraser runs erasures over a world.
type eraser struct {
	*world
	view   *follower
	keeper *operation.Keeper
	done   []operation.Operation // in the audit log
	stop   func()
}

// erasing begins to run operations; wrap may fail what the runner asks of owners.
func (w *world) erasing(wrap func(erasure.Owners) erasure.Owners) *eraser {
	w.Helper()
	e := &eraser{world: w, view: &follower{w: w}}
	owners := erasure.Owners(w.owners())
	if wrap != nil {
		owners = wrap(owners)
	}
	bucket, err := w.journal.Bucket(w.Context(), operation.BucketName)
	if err != nil {
		w.Fatal(err)
	}
	e.keeper, err = operation.Open(context.Background(), bucket, operation.Options{
		Partition: w.journal.Partition, Logger: slog.New(slog.DiscardHandler),
		Runners: map[operation.Kind]operation.Runner{operation.Erasure: &erasure.Runner{
			Set: w.erasures, Journal: w.journal, Owners: owners, View: e.view, Now: w.now,
			Record: func(_ context.Context, op operation.Operation, _ erasure.Digest) error {
				e.done = append(e.done, op)
				return nil
			},
		}},
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); e.keeper.Run(ctx, 0) }()
	e.stop = sync.OnceFunc(func() { cancel(); <-ended; e.keeper.Close() })
	w.Cleanup(e.stop)
	return e
}

// begin asks for a subject's erasure.
func (e *eraser) begin(subject string) string {
	e.Helper()
	op, err := e.keeper.Create(e.Context(), operation.Request{
		Tenant: "acme", Kind: operation.Erasure, Author: "dpo", Reason: "ticket 7", Body: e.erasures.Digest("acme", subject).Body(),
	})
	if err != nil {
		e.Fatal(err)
	}
	return op.ID
}

// await waits for the operation's end.
func (e *eraser) await(id string) operation.Operation {
	e.Helper()
	var op operation.Operation
	e.until("the erasure", func() bool {
		var err error
		if op, err = e.keeper.Get(e.Context(), id); err != nil {
			e.Fatal(err)
		}
		return op.State.Ended()
	})
	if op.State != operation.Succeeded {
		e.Fatalf("it ended %s: %s", op.State, op.Error)
	}
	return op
}

// about publishes an event of a subject, with something in it that is that person's.
func (w *world) about(subject, eventType string) uint64 {
	w.Helper()
	w.events++
	ev := &relay.Event{
		Tenant: "acme", ID: fmt.Sprint("evt_", w.events), Type: eventType, Time: time.Now(), Subject: subject,
		Data: fmt.Appendf(nil, `{"mail":"mail-of-%s@example.org"}`, subject),
	}
	return w.keep(ev)
}

func (w *world) keep(ev *relay.Event) uint64 {
	w.Helper()
	payload, err := record.EncodeEvent(nil, ev)
	if err != nil {
		w.Fatal(err)
	}
	receipt, err := w.journal.Events(0).Accept(w.Context(), journal.Entry{ID: ev.Tenant + "." + ev.ID, Payload: payload})
	if err != nil {
		w.Fatal(err)
	}
	return receipt.Seq
}

// holds lists the files of the data folder in which a text stands.
func (w *world) holds(text string) (names []string) {
	w.Helper()
	err := filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if bytes.Contains(data, []byte(text)) {
			names = append(names, strings.TrimPrefix(name, w.dir))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Fatal(err)
	}
	return names
}

// echo answers with what was sent, as some receivers do.
func echo(o *Options) { o.Courier = echoing{o.Courier.(*partner)} }

type echoing struct{ *partner }

func (e echoing) Send(ctx context.Context, parcel *courier.Parcel, i int) (relay.Attempt, relay.Verdict) {
	e.mu.Lock()
	data := e.packed[parcel].Data
	e.mu.Unlock()
	a, v := e.partner.Send(ctx, parcel, i)
	a.ResponseBody, a.BodySHA256 = append([]byte("you sent: "), data...), strings.Repeat("0123456789abcdef", 4)
	return a, v
}

func key(seq uint64, endpoint string) owner.Key { return owner.Key{Seq: seq, Endpoint: endpoint} }

// Whatever a delivery of the subject waits for when it is erased, it ends, nothing of it is sent any more, and nothing is left of it in
// the data folder; others, and what comes later, are delivered as ever.
func TestErase(t *testing.T) {
	t.Parallel()
	const person, other = "contact/42", "contact/43"
	w := newWorld(t, echo, impatient)
	w.endpoint("ep")
	w.endpoint("ep_paused", func(r *registry.Record) { r.State = relay.EndpointPaused })
	w.endpoint("ep_down")
	w.endpoint("ep_hangs")
	w.script(func(s sent) relay.Verdict {
		if s.Endpoint == "ep_down" {
			return relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonServerError, After: time.Hour}
		}
		return status(200)
	})
	open := w.hang("ep_hangs")
	w.start()
	e := w.erasing(nil)
	var gone, kept []uint64
	for range 12 {
		gone = append(gone, w.about(person, "contact.updated"))
		kept = append(kept, w.about(other, "contact.updated"))
	}
	unmatched := w.about(person, "deal.won")
	all := slices.Concat(gone, kept)
	w.reachAll(all, "ep", relay.Delivered)
	w.reachAll(all, "ep_paused", relay.Parked)
	w.until("failures", func() bool {
		for _, seq := range all[:1] {
			if len(w.of(seq, "ep_down")) == 0 {
				return false
			}
		}
		return w.inFlight("ep_hangs") > 0
	})
	if len(w.holds("mail-of-"+person)) < 2 {
		t.Fatalf("the mail is in %v: this test looks for nothing", w.holds("mail-of-"+person))
	}
	op := e.await(e.begin(person))
	for _, ep := range []string{"ep_paused", "ep_down", "ep_hangs"} {
		for _, seq := range gone {
			if last := w.latest()[key(seq, ep)]; last.State != relay.Cancelled || last.Reason != relay.ReasonErased {
				t.Errorf("event %d at %s is %s %s", seq, ep, last.State, last.Reason)
			}
		}
	}
	if op.Progress.Done != int64(len(gone)+1) || op.Progress.Examined < int64(len(all)+1) || op.Progress.Fraction != 1 {
		t.Errorf("%+v", op.Progress)
	}
	for _, seq := range append(gone, unmatched) {
		if _, err := w.journal.Events(0).Get(t.Context(), seq); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("event %d: %v", seq, err)
		}
	}
	if names := w.holds("mail-of-" + person); len(names) > 0 {
		t.Errorf("the mail is still in %v", names)
	}
	if names := w.holds(person); len(names) > 0 {
		t.Errorf("the subject is still in %v", names)
	}
	if len(w.holds("mail-of-"+other)) < 2 {
		t.Error("what another was sent is gone too")
	}
	if len(e.done) != 1 || e.view.scrubbed == 0 {
		t.Errorf("recorded %d times, scrubbed %d times", len(e.done), e.view.scrubbed)
	}
	// What OUTCOMES tells again is what it told, but for what is personal.
	for _, o := range w.outcomes() {
		if o.Retold != 0 && slices.Contains(kept, o.Seq) && o.Attempt != nil && len(o.Attempt.ResponseBody) == 0 {
			t.Errorf("an attempt of event %d at %s lost its answer", o.Seq, o.EndpointID)
		}
	}
	before := len(w.received())
	open()
	w.state("ep_paused", relay.EndpointActive)
	w.script(nil)
	w.later(2 * time.Hour)
	for _, ep := range []string{"ep", "ep_paused", "ep_down", "ep_hangs"} {
		w.reachAll(kept, ep, relay.Delivered)
	}
	later := w.about(person, "contact.updated") // a new fact
	w.reaches(later, "ep", relay.Delivered, "")
	for _, s := range w.received()[before:] {
		if slices.Contains(gone, s.Seq) {
			t.Errorf("event %d was sent to %s after it was erased", s.Seq, s.Endpoint)
		}
	}
	w.finish()
	w.start()
	w.reaches(w.about(other, "contact.updated"), "ep", relay.Delivered, "")
	if err := w.owners().Retry(t.Context(), 0, ref(gone[0], "evt_1", "ep")); !errors.Is(err, ErrGone) {
		t.Errorf("retry of what is erased: %v", err)
	}
	w.finish()
}

// mortal is owners of a process that is killed at one of the runner's questions, before or after it was answered.
type mortal struct {
	erasure.Owners
	at    int
	after bool

	mu    sync.Mutex
	asked int
	died  chan struct{}
}

func (m *mortal) ask(ctx context.Context, question func() error) error {
	m.mu.Lock()
	m.asked++
	dies := m.asked == m.at
	m.mu.Unlock()
	if !dies {
		return question()
	}
	if m.after {
		if err := question(); err != nil {
			return err
		}
	}
	close(m.died)
	<-ctx.Done()
	return ctx.Err()
}

func (m *mortal) EndErased(ctx context.Context, op, tenant string, revision uint64, events []relay.Event) error {
	return m.ask(ctx, func() error { return m.Owners.EndErased(ctx, op, tenant, revision, events) })
}

func (m *mortal) Retell(ctx context.Context, op, tenant string, outcomes []relay.Outcome) error {
	return m.ask(ctx, func() error { return m.Owners.Retell(ctx, op, tenant, outcomes) })
}

func (m *mortal) PassOutcomes(ctx context.Context, op, tenant string, seq uint64) error {
	return m.ask(ctx, func() error { return m.Owners.PassOutcomes(ctx, op, tenant, seq) })
}

// An erasure that is killed at any of its steps, together with the owner, comes to the same end in the next life.
func TestEraseKilled(t *testing.T) {
	t.Parallel()
	steps := 0
	for at, more := 1, true; more; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprint(at, after), func(t *testing.T) { more = eraseKilled(t, at, after) })
			if more {
				steps++
			}
		}
	}
	if steps < 8 {
		t.Errorf("killed at %d steps", steps)
	}
}

func eraseKilled(t *testing.T, at int, after bool) bool {
	const person, other = "contact/42", "contact/43"
	w := newWorld(t, echo, impatient)
	w.endpoint("ep")
	w.endpoint("ep_paused", func(r *registry.Record) { r.State = relay.EndpointPaused })
	w.start()
	var gone, kept []uint64
	for range 3 {
		gone = append(gone, w.about(person, "contact.updated"))
		kept = append(kept, w.about(other, "contact.updated"))
	}
	all := slices.Concat(gone, kept)
	w.reachAll(all, "ep", relay.Delivered)
	w.reachAll(all, "ep_paused", relay.Parked)
	m := &mortal{at: at, after: after, died: make(chan struct{})}
	first := w.erasing(func(o erasure.Owners) erasure.Owners { m.Owners = o; return m })
	id := first.begin(person)
	died := false
	w.until("a death, or the end", func() bool {
		select {
		case <-m.died:
			died = true
		default:
		}
		op, err := first.keeper.Get(t.Context(), id)
		return died || err == nil && op.State.Ended()
	})
	sent := len(w.received())
	w.crash()
	first.stop()
	w.start()
	second := w.erasing(nil)
	second.await(id)
	if names := w.holds("mail-of-" + person); len(names) > 0 {
		t.Errorf("the mail is still in %v", names)
	}
	w.state("ep_paused", relay.EndpointActive)
	w.reachAll(kept, "ep_paused", relay.Delivered)
	w.reachAll(gone, "ep_paused", relay.Cancelled)
	w.reachAll(all[3:], "ep", relay.Delivered)
	for _, s := range w.received()[sent:] {
		if slices.Contains(gone, s.Seq) {
			t.Errorf("event %d was sent to %s", s.Seq, s.Endpoint)
		}
	}
	if w.count(kept[0], "ep") != 1 {
		t.Errorf("what another was sent was sent again")
	}
	w.finish()
	w.start()
	w.finish()
	return died
}

// A tombstone alone, while all its events are still in the log, keeps them from leaving: from wherever they are read.
func TestTombstone(t *testing.T) {
	t.Parallel()
	const person, other = "contact/42", "contact/43"
	w := newWorld(t)
	w.endpoint("ep")
	w.endpoint("ep_paused", func(r *registry.Record) { r.State = relay.EndpointPaused })
	w.start()
	sent := w.about(person, "contact.updated")
	w.reaches(sent, "ep", relay.Delivered, "")
	w.reaches(sent, "ep_paused", relay.Parked, "")
	w.finish()
	unrouted := w.about(person, "contact.updated")
	kept := w.about(other, "contact.updated")
	revision, err := w.erasures.Put(t.Context(), erasure.Tombstone{
		Tenant: "acme", Subject: w.erasures.Digest("acme", person), Seq: kept, Time: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	for s := range w.erasures.Updates(t.Context()) {
		if s.Revision() >= revision {
			break
		}
	}
	w.start()
	w.reaches(unrouted, "ep", relay.Cancelled, relay.ReasonErased) // routed first
	w.reaches(unrouted, "ep_paused", relay.Cancelled, relay.ReasonErased)
	w.reaches(kept, "ep", relay.Delivered, "")
	if err := w.owners().Retry(t.Context(), 0, ref(sent, "evt_1", "ep")); !errors.Is(err, ErrGone) {
		t.Errorf("retry: %v", err)
	}
	w.state("ep_paused", relay.EndpointActive) // the elevator
	w.reaches(sent, "ep_paused", relay.Cancelled, relay.ReasonErased)
	w.reaches(kept, "ep_paused", relay.Delivered, "")
	if last := w.latest()[key(sent, "ep")]; last.State != relay.Delivered {
		t.Errorf("what was settled became %s", last.State)
	}
	if n := w.count(sent, "ep") + w.count(sent, "ep_paused") + w.count(unrouted, "ep"); n != 1 {
		t.Errorf("%d POSTs", n)
	}
	w.finish()
	w.settled()
}
