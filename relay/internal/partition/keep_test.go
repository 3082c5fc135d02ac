package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// A chunked delivery goes on at the first chunk that was not accepted: after a failure, and after a restart.
func TestChunksGoOn(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]func(*world){
		"failure": func(*world) {},
		"stop":    func(w *world) { w.finish(); w.start() },
		"crash":   func(w *world) { w.crash(); w.start() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.endpoint("ep")
			failed := false
			w.script(func(s sent) relay.Verdict {
				if s.chunk == 3 && !failed {
					failed = true
					return relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonServerError, After: 50 * time.Millisecond}
				}
				return status(200)
			})
			w.start()
			seq := w.publish("contact.imported", `{"rows":[`+strings.Repeat(`{"name":"`+strings.Repeat("x", 480)+`"},`, 59)+`{}]}`)
			o := w.reaches(seq, "ep", relay.Retrying, "")
			if o.Progress.Next != 3 || o.Progress.Total < 6 || o.Attempts != 4 {
				t.Fatalf("%+v", o)
			}
			restart(w)
			done := w.reaches(seq, "ep", relay.Delivered, "")
			var chunks, numbers []int
			for _, s := range w.received() {
				chunks, numbers = append(chunks, s.chunk), append(numbers, s.number)
			}
			want := []int{0, 1, 2, 3, 3}
			for i := 4; i < o.Progress.Total; i++ {
				want = append(want, i)
			}
			if !slices.Equal(chunks, want) {
				t.Errorf("chunks %v, want %v", chunks, want)
			}
			for i, n := range numbers {
				if n != i+1 {
					t.Errorf("attempts are numbered %v", numbers)
					break
				}
			}
			if done.Attempts != len(want) || done.Progress.Next != o.Progress.Total {
				t.Errorf("%+v", done)
			}
			w.finish()
			w.settled()
		})
	}
}

// An event on which a step panics is withheld, and stops nothing.
func TestPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep", ordered)
	w.partner.poison = "evt_2"
	w.start()
	seqs := w.many(4)
	w.reaches(seqs[1], "ep", relay.Withheld, relay.ReasonPanicked)
	w.reachAll([]uint64{seqs[0], seqs[2], seqs[3]}, "ep", relay.Delivered)
	w.finish()
	w.settled()
}

// Held until a caller releases it, over restarts.
func TestHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.script(func(sent) relay.Verdict {
		return relay.Verdict{Kind: relay.VerdictHold, Reason: relay.ReasonThrottled, Healthy: true}
	})
	w.start()
	seqs := w.many(3)
	w.reachAll(seqs, "ep", relay.Held)
	w.crash()
	w.script(nil)
	w.start()
	w.later(100 * 24 * time.Hour)
	w.marker()
	w.reachAll(seqs, "ep", relay.Held)
	if err := w.owners().Retry(t.Context(), 0, ref(seqs[0], "evt_1", "ep")); err != nil {
		t.Fatal(err)
	}
	w.reaches(seqs[0], "ep", relay.Delivered, "")
	w.reachAll(seqs[1:], "ep", relay.Held)
	for i, seq := range seqs[1:] {
		if err := w.owners().Cancel(t.Context(), 0, ref(seq, fmt.Sprint("evt_", i+2), "ep")); err != nil {
			t.Fatal(err)
		}
	}
	w.finish()
	w.settled()
}

// deafBucket is a bucket whose watch can be broken.
type deafBucket struct {
	*journal.Bucket
	mu   sync.Mutex
	cut  context.CancelFunc
	deaf bool
}

var errDeaf = errors.New("not heard")

func (b *deafBucket) Watch(ctx context.Context, fn func(journal.Item) error) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	b.mu.Lock()
	b.cut = cut
	deaf := b.deaf
	b.mu.Unlock()
	if deaf {
		return errDeaf
	}
	err := b.Bucket.Watch(ctx, fn)
	return errors.Join(err, errDeaf)
}

func (b *deafBucket) set(deaf bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deaf = deaf
	b.cut()
}

// Nothing new is sent while nobody knows whether an endpoint was paused.
func TestNothingIsSentUnderAnUnheardRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	bucket, err := w.journal.Bucket(t.Context(), registry.BucketName)
	if err != nil {
		t.Fatal(err)
	}
	deaf := &deafBucket{Bucket: bucket}
	if w.registry, err = registry.Open(t.Context(), deaf, w.root, registry.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.registry.Close)
	w.start()
	first := w.many(3)
	w.reachAll(first, "ep", relay.Delivered)
	deaf.set(true)
	w.until("the registry to know", func() bool { return w.registry.Err() != nil })
	seqs := w.many(3)
	w.marker()
	if n := len(w.received()); n != len(first) {
		t.Errorf("%d POSTs", n)
	}
	deaf.set(false)
	w.reachAll(seqs, "ep", relay.Delivered)
	w.finish()
	w.settled()
}

// Logs are trimmed up to what is still open, or young; what is open then is sent as ever.
func TestTrim(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Retention, o.TrimEvery = time.Hour, time.Millisecond })
	w.endpoint("ep")
	w.endpoint("ep_paused", func(r *registry.Record) { r.State, r.Settings.EventTypes = relay.EndpointPaused, []string{"deal.won"} })
	w.start()
	log := w.journal.Events(0)
	first := func() uint64 {
		st, err := log.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.First
	}
	big := `{"n":"` + strings.Repeat("x", 900<<10) + `"}`
	var seqs []uint64
	publish := func(n int) {
		for range n {
			seqs = append(seqs, w.publish("deal.lost", big))
		}
	}
	publish(20)
	open := w.publish("deal.won", `{}`)
	publish(20)
	w.reaches(open, "ep_paused", relay.Parked, "")
	w.until("all recorded", func() bool { return len(w.latest()) == len(seqs)+1 })
	saved := func() {
		n := 0
		w.until("checkpoints", func() bool { n++; w.marker(); return n > 20 })
	}
	saved()
	if first() != 1 {
		t.Errorf("young events were trimmed: the log begins at %d", first())
	}
	w.later(2 * time.Hour)
	w.until("old events to go", func() bool { return first() > 1 })
	saved()
	if got := first(); got > open {
		t.Fatalf("the log begins at %d, and %d is open", got, open)
	}
	w.crash()
	w.start()
	w.state("ep_paused", relay.EndpointActive)
	w.reaches(open, "ep_paused", relay.Delivered, "")
	w.until("the rest to go", func() bool { return first() > open })
	w.finish()
	w.start() // from a checkpoint, with trimmed logs
	w.reaches(w.many(1)[0], "ep", relay.Delivered, "")
	w.finish()
}

// A log that is nearly full lets go of what is settled before its time, the oldest first, and of nothing from the oldest
// on that is open: behind that it fills up and refuses.
func TestTrimBytes(t *testing.T) {
	t.Parallel()
	const bound, block = 96 << 20, 9 << 20
	w := openWorld(t, t.TempDir(), func(o *journal.Options) { o.EventsMaxBytes, o.OutcomesMaxBytes = bound, bound })
	w.options = func(o *Options) { o.TrimEvery = time.Millisecond }
	w.endpoint("ep")
	w.endpoint("ep_paused", func(r *registry.Record) { r.State, r.Settings.EventTypes = relay.EndpointPaused, []string{"deal.won"} })
	w.start()
	log := w.journal.Events(0)
	state := func() journal.State {
		st, err := log.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	big := `{"n":"` + strings.Repeat("x", 900<<10) + `"}`
	for range 2 * bound >> 20 { // twice what it has room for
		w.until("room", func() bool { return state().Bytes < bound-4<<20 })
		w.publish("deal.lost", big)
	}
	w.until("no more than its share", func() bool { w.marker(); return float64(state().Bytes) <= bound*trimAbove+block })
	open := w.publish("deal.won", `{}`)
	w.reaches(open, "ep_paused", relay.Parked, "")
	full := func() error {
		w.events++
		payload, err := record.EncodeEvent(nil, &relay.Event{
			Tenant: "acme", ID: fmt.Sprint("evt_", w.events), Type: "deal.lost", Time: time.Now(), Data: []byte(big),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = log.Accept(t.Context(), journal.Entry{ID: fmt.Sprint(w.events), Payload: payload})
		return err
	}
	var err error
	for n := 0; err == nil && n < 2*bound>>20; n++ {
		err = full()
	}
	if !errors.Is(err, journal.ErrFull) {
		t.Fatalf("with nothing that may go, it said: %v", err)
	}
	if first := state().First; first > open {
		t.Fatalf("the log begins at %d, and %d is open", first, open)
	}
	w.state("ep_paused", relay.EndpointActive)
	w.reaches(open, "ep_paused", relay.Delivered, "")
	w.until("room again", func() bool { return full() == nil })
	w.finish()
}

// A checkpoint that knows more than the logs is refused: events that come would be taken for routed.
func TestForeignCheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.journal.SaveCheckpoint(t.Context(), 0, owner.New(7).Checkpoint()); err != nil {
		t.Fatal(err)
	}
	w.many(3)
	if err := Run(t.Context(), w.made()); err == nil || !strings.Contains(err.Error(), "another journal") {
		t.Fatalf("started: %v", err)
	}
	if err := w.journal.SaveCheckpoint(t.Context(), 0, []byte("\x01nonsense")); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), w.made()); !errors.Is(err, owner.ErrCheckpoint) {
		t.Fatalf("started: %v", err)
	}
}

// A failing receiver that is gone for good suspends its endpoint.
func TestSuspend(t *testing.T) {
	t.Parallel()
	suspended := make(chan string, 9)
	w := newWorld(t, func(o *Options) {
		o.Suspend = func(_ context.Context, id string, reason relay.Reason) { suspended <- fmt.Sprint(id, " ", reason) }
	})
	w.endpoint("ep")
	w.script(func(sent) relay.Verdict { return status(410) })
	w.start()
	w.reaches(w.many(1)[0], "ep", relay.Dead, relay.ReasonGone)
	if got := <-suspended; got != "ep GONE" {
		t.Error(got)
	}
	w.finish()
	w.settled()
}
