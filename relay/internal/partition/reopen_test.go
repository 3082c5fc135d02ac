package partition

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// refs are those of events evt_N with these sequences to an endpoint.
func refs(endpoint string, seqs []uint64) (out []Ref) {
	for _, seq := range seqs {
		out = append(out, ref(seq, fmt.Sprint("evt_", seq), endpoint))
	}
	return out
}

func (w *world) reopen(r Reopening) ReopenAnswer {
	w.Helper()
	a, err := w.owners().Reopen(w.Context(), 0, r)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func results(n int, what Reopened) []Reopened { return slices.Repeat([]Reopened{what}, n) }

func TestReopenLeavesRoom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*registry.Record)
		room   int
	}{
		"half of the concurrency": {func(*registry.Record) {}, 4},
		"ordered":                 {ordered, 1},
		"with a rate":             {func(r *registry.Record) { r.Settings.RateLimit = 1000 }, 1},
		"concurrency of one":      {func(r *registry.Record) { r.Settings.Concurrency = 1 }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.endpoint("ep", c.change)
			w.start()
			seqs := w.many(12)
			w.reachAll(seqs, "ep", relay.Delivered)
			open := w.hang("ep")
			asked := Reopening{EndpointID: "ep", Items: refs("ep", seqs)}
			if a := w.reopen(asked); !slices.Equal(a.Results, results(c.room, ReopenedSent)) || a.Closed != relay.ReasonNone {
				t.Fatalf("%+v", a)
			}
			// They hang: there is no room for more, and those that are asked for again are on their way.
			if a := w.reopen(asked); len(a.Results) != 0 {
				t.Errorf("with %d on their way it took %+v", c.room, a)
			}
			first := w.of(seqs[0], "ep")
			if last := first[len(first)-1]; last.State != relay.Retrying && last.State != relay.Pending || !slices.ContainsFunc(first, func(o relay.Outcome) bool {
				return o.State == relay.Retrying && o.Reason == relay.ReasonReplayed
			}) {
				t.Errorf("recorded: %+v", first)
			}
			open()
			w.reachAll(seqs, "ep", relay.Delivered)
			for i := c.room; i < len(seqs); {
				a := w.reopen(Reopening{EndpointID: "ep", Items: refs("ep", seqs[i:])})
				i += len(a.Results)
			}
			w.reachAll(seqs, "ep", relay.Delivered)
			for _, seq := range seqs {
				w.until("each is sent twice", func() bool { return w.count(seq, "ep") >= 2 })
				if n := w.count(seq, "ep"); n != 2 {
					t.Errorf("event %d was sent %d times", seq, n)
				}
			}
			w.finish()
		})
	}
}

func TestReopenWhatIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.start()
	seqs := w.many(4)
	w.reachAll(seqs, "ep", relay.Delivered)
	// Another delivery stands there, or none.
	wrong := refs("ep", seqs[:2])
	wrong[0].DeliveryID = relay.DeliveryID("acme", "evt_9", "ep")
	wrong[1].Seq = 0
	if a := w.reopen(Reopening{EndpointID: "ep", Items: wrong}); !slices.Equal(a.Results, results(2, ReopenedGone)) {
		t.Errorf("wrong ones: %+v", a)
	}
	if a := w.reopen(Reopening{EndpointID: "ep_none", Items: refs("ep_none", seqs)}); !slices.Equal(a.Results, results(4, ReopenedGone)) {
		t.Errorf("to no endpoint: %+v", a)
	}
	if _, err := w.owners().Reopen(t.Context(), 0, Reopening{EndpointID: "ep", Items: make([]Ref, MaxReopening+1)}); err == nil {
		t.Error("too many were taken")
	}
	w.state("ep", relay.EndpointPaused)
	w.until("the pause", func() bool {
		return w.reopen(Reopening{EndpointID: "ep", Items: refs("ep", seqs)}).Closed == relay.ReasonEndpointPaused
	})
	parked := w.many(1)
	w.reachAll(parked, "ep", relay.Parked)
	w.state("ep", relay.EndpointActive)
	w.reachAll(parked, "ep", relay.Delivered)
	for _, seq := range seqs {
		if n := w.count(seq, "ep"); n != 1 {
			t.Errorf("event %d was sent %d times", seq, n)
		}
	}
	// An owner that knows of no more than it read anew has it come again, and nothing is taken for gone.
	if s, err := w.owners().Stand(t.Context(), 0); err != nil || s.Cursor < seqs[3] || s.Outcomes == 0 {
		t.Errorf("stands at %+v, %v", s, err)
	}
	if _, err := w.owners().Reopen(t.Context(), 0, Reopening{EndpointID: "ep", Items: []Ref{{DeliveryID: "x", Seq: 1 << 40}}}); err != ErrUnavailable {
		t.Errorf("an event that was not read yet: %v", err)
	}
	w.finish()
}

// What an endpoint never had is opened under the policy in force now, and is kept over kill -9.
func TestReopenMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("old")
	w.start()
	seqs := w.many(3)
	deal := w.publish("deal.won", `{}`)
	w.reachAll(seqs, "old", relay.Delivered)
	w.endpoint("new", func(r *registry.Record) { r.Settings.RetryFor = relay.DefaultRetryFor })
	ask := func(seqs ...uint64) Reopening {
		return Reopening{EndpointID: "new", Items: refs("new", seqs), Missing: true}
	}
	w.until("the endpoint is known", func() bool {
		a := w.reopen(ask(deal))
		return slices.Equal(a.Results, results(1, ReopenedUnwanted))
	})
	w.hang("new")
	if a := w.reopen(ask(seqs...)); !slices.Equal(a.Results, results(3, ReopenedSent)) {
		t.Fatalf("%+v", a)
	}
	if a := w.reopen(ask(seqs[0])); len(a.Results) == 1 && a.Results[0] != ReopenedOpen {
		t.Errorf("one that is on its way: %+v", a)
	}
	w.crash()
	w.release()
	w.start()
	w.reachAll(seqs, "new", relay.Delivered)
	for _, seq := range seqs {
		if n := w.count(seq, "old"); n != 1 {
			t.Errorf("event %d was sent to the other endpoint %d times", seq, n)
		}
	}
	if len(w.of(deal, "new")) != 0 {
		t.Error("what the endpoint does not want is recorded")
	}
	w.finish()
}

// TestReplaysCount: what is counted is what was begun and has neither ended nor passed.
func TestReplaysCount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var r replays
		open := map[owner.Key]bool{}
		ep := &registry.Endpoint{Endpoint: &relay.Endpoint{ID: "a", Concurrency: rapid.IntRange(1, 16).Draw(t, "concurrency")}}
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			k := owner.Key{Seq: rapid.Uint64Range(1, 5).Draw(t, "seq"), Endpoint: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "endpoint")}
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				if !open[k] {
					r.begin(k)
					open[k] = true
				}
			case 1:
				r.end(k)
				delete(open, k)
			case 2:
				o := relay.Outcome{Seq: k.Seq, EndpointID: k.Endpoint, State: rapid.SampledFrom(relay.DeliveryStates()).Draw(t, "state"),
					Reason: rapid.SampledFrom([]relay.Reason{relay.ReasonReplayed, relay.ReasonAccepted}).Draw(t, "reason")}
				r.passed(&o)
				if o.State != relay.Pending && o.Reason != relay.ReasonReplayed {
					delete(open, k)
				}
			}
			counts := map[string]int{}
			for k := range open {
				counts[k.Endpoint]++
			}
			for _, id := range []string{"a", "b"} {
				if r.endpoints[id] != counts[id] {
					t.Fatalf("%s: %d counted, %d open", id, r.endpoints[id], counts[id])
				}
			}
			ready := rapid.IntRange(0, 8).Draw(t, "ready")
			room, under := r.room(ep, ready), counts["a"]
			if room < 0 || room+under > max(under, ep.Concurrency/2, 1) || ready > under && room+under > max(under, 1) || under == 0 && room == 0 {
				t.Fatalf("room for %d with %d on their way, %d ready, concurrency %d", room, under, ready, ep.Concurrency)
			}
		}
	})
}
