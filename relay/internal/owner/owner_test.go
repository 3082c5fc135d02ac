package owner

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// view is what can be seen of a state's open deliveries, with what is due by now taken for Ready and what is Busy as what
// it would be after a crash.
func view(s *State, now time.Time) map[Key]Entry {
	for len(s.Due(now, 1000)) > 0 {
	}
	all := map[Key]Entry{}
	for _, id := range s.Endpoints() {
		s.Each(id, func(e Entry) bool {
			if !e.Recorded {
				return true
			}
			if e.Status == Busy {
				found, _ := s.find(e.Key)
				e.Status = found.waits()
			}
			all[e.Key] = e
			return true
		})
	}
	return all
}

// entryOf is what an outcome makes of its delivery.
func entryOf(o *relay.Outcome, now time.Time) Entry {
	e := Entry{Key: Key{o.Seq, o.EndpointID}, Attempts: o.Attempts, Deadline: o.Deadline, Recorded: true, Progress: o.Progress}
	switch {
	case o.State == relay.Held:
		e.Status = Held
	case o.State == relay.Retrying && o.Due.After(now):
		e.Status = Waiting
	}
	return e
}

func same(t *rapid.T, what string, got, want map[Key]Entry) {
	t.Helper()
	for k, w := range want {
		if g, ok := got[k]; !ok {
			t.Fatalf("%s: %v is forgotten", what, k)
		} else if g.Deadline = g.Deadline.UTC(); g != w {
			t.Fatalf("%s: %v is %+v, want %+v", what, k, g, w)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Fatalf("%s: %v is open and should not be", what, k)
		}
	}
}

// world is an owner over two logs that it may lose the unsynced end of, with a model of both beside it.
type world struct {
	t      *rapid.T
	now    int
	events [][]string // the endpoints that each event matches; nil: unmatched; events[0] is sequence 1

	log    []relay.Outcome // OUTCOMES
	seqs   []int           // the sequence of each
	open   bool            // the last record is still being filled
	synced int             // the sequence up to which OUTCOMES survives a crash
	saved  []byte          // the last checkpoint; nil: none
	trim   int             // OUTCOMES below and with it may be gone: what the checkpoint allows

	s        *State
	new      map[Key]bool // routed, not recorded: in a lane, in flight or deferred
	deferred map[Key]bool
	routed   map[uint64]bool // in this life
	began    uint64          // the cursor with which this life began
}

func (w *world) restart() {
	n, _ := slices.BinarySearch(w.seqs, w.synced+1)
	w.log, w.seqs, w.open = w.log[:n], w.seqs[:n], false
	w.new, w.deferred, w.routed = map[Key]bool{}, map[Key]bool{}, map[uint64]bool{}
	from := 0
	w.s = New(0)
	if w.saved != nil {
		s, foldFrom, err := Restore(w.saved)
		if err != nil {
			w.t.Fatal(err)
		}
		w.s, from = s, int(foldFrom)
	}
	if from < w.trim {
		w.t.Fatalf("outcomes up to %d were trimmed, and the state asks for those after %d", w.trim, from)
	}
	for i := range w.log {
		if w.seqs[i] > from {
			w.s.Fold(uint64(w.seqs[i]), &w.log[i])
		}
	}
	w.s.Whole()
	w.began = w.s.Cursor()
	same(w.t, "checkpoint and tail", view(w.s, at(w.now)), w.model())
	if w.s.Folded() != uint64(w.last()) {
		w.t.Fatalf("folded up to %d of %d", w.s.Folded(), w.last())
	}
}

// last is the last sequence of OUTCOMES.
func (w *world) last() int {
	if len(w.seqs) == 0 {
		return 0
	}
	return w.seqs[len(w.seqs)-1]
}

// append ends the record that is being filled.
func (w *world) append() {
	w.open = false
	w.s.Whole()
}

// model folds everything.
func (w *world) model() map[Key]Entry {
	last := map[Key]*relay.Outcome{}
	for i := range w.log {
		last[Key{w.log[i].Seq, w.log[i].EndpointID}] = &w.log[i]
	}
	open := map[Key]Entry{}
	for k, o := range last {
		if !o.State.Terminal() {
			open[k] = entryOf(o, at(w.now))
		}
	}
	return open
}

func (w *world) recorded(k Key) bool {
	return slices.ContainsFunc(w.log, func(o relay.Outcome) bool { return o.Seq == k.Seq && o.EndpointID == k.Endpoint })
}

func (w *world) record(k Key, state relay.DeliveryState, busy bool) {
	o := relay.Outcome{Seq: k.Seq, EndpointID: k.Endpoint, State: state}
	if state != relay.Unmatched {
		o.Attempts = rapid.IntRange(0, 9).Draw(w.t, "attempts")
		o.Deadline = at(rapid.IntRange(100, 200).Draw(w.t, "deadline"))
	}
	if state == relay.Retrying {
		o.Due = at(w.now + rapid.IntRange(0, 5).Draw(w.t, "due"))
	}
	if rapid.IntRange(0, 3).Draw(w.t, "chunked") == 0 {
		o.Progress = relay.Progress{Digest: [32]byte{byte(k.Seq)}, Next: 1, Total: 3}
	}
	seq := w.last()
	if !w.open {
		seq++
	}
	w.log, w.seqs, w.open = append(w.log, o), append(w.seqs, seq), true
	first := w.new[k]
	delete(w.new, k)
	delete(w.deferred, k)
	w.s.Apply(uint64(seq), &o, first, busy)
	if rapid.Bool().Draw(w.t, "append") {
		w.append()
	}
}

// waiting are the events that were not routed in this life, lowest first.
func (w *world) waiting() (seqs []uint64) {
	for seq := w.s.Cursor() + 1; seq <= uint64(len(w.events)); seq++ {
		if !w.routed[seq] {
			seqs = append(seqs, seq)
		}
	}
	return seqs
}

// route does with one of the next events what the loop does.
func (w *world) route() {
	waiting := w.waiting()
	if len(waiting) == 0 {
		return
	}
	i := rapid.IntRange(0, min(2, len(waiting)-1)).Draw(w.t, "next")
	seq := waiting[i]
	w.routed[seq] = true
	lowest := uint64(len(w.events)) + 1
	if rest := slices.Delete(waiting, i, i+1); len(rest) > 0 {
		lowest = rest[0]
	}
	matches := w.events[seq-1]
	if matches == nil {
		k := Key{Seq: seq}
		if known := w.s.Known(k); known != w.recorded(k) {
			w.t.Fatalf("event %d: unmatched record known %v", seq, known)
		} else if known {
			w.s.RouteAhead(seq, 0, lowest)
			return
		}
		w.s.RouteAhead(seq, 1, lowest)
		w.new[k] = true
		w.record(k, relay.Unmatched, false)
		return
	}
	var fresh []Key
	for _, id := range matches {
		k := Key{seq, id}
		if known := w.s.Known(k); known != w.recorded(k) {
			w.t.Fatalf("%v: known %v, recorded %v", k, known, !known)
		} else if !known {
			fresh = append(fresh, k)
		}
	}
	w.s.RouteAhead(seq, len(fresh), lowest)
	for _, k := range fresh {
		w.new[k] = true
		if rapid.IntRange(0, 3).Draw(w.t, "defer") == 0 {
			w.s.Defer(k, at(150))
			w.deferred[k] = true
		}
	}
}

func (w *world) cursorIsSafe() {
	cursor := w.s.Cursor()
	if cursor > w.s.Routed() {
		w.t.Fatalf("cursor %d above what is routed, %d", cursor, w.s.Routed())
	}
	for k := range w.new {
		if k.Seq <= cursor {
			w.t.Fatalf("the cursor %d passed %v, which no outcome knows", cursor, k)
		}
	}
	for seq := range w.events {
		if seq := uint64(seq + 1); seq > w.began && seq <= cursor && !w.routed[seq] {
			w.t.Fatalf("the cursor %d passed event %d, which was not routed", cursor, seq)
		}
	}
	// And it is not lazy: the event behind it is what it waits for.
	if cursor < w.s.Routed() && w.routed[cursor+1] && !slices.ContainsFunc(keysOf(w.new), func(k Key) bool { return k.Seq == cursor+1 }) {
		w.t.Fatalf("the cursor stands at %d though all of event %d is recorded", cursor, cursor+1)
	}
	// All of an event above the cursor stands after FoldFrom.
	for i := range w.log {
		if w.seqs[i] <= int(w.s.FoldFrom()) && w.log[i].Seq > cursor {
			w.t.Fatalf("outcome %d is of event %d above the cursor %d, but before %d", w.seqs[i], w.log[i].Seq, cursor, w.s.FoldFrom())
		}
	}
}

func keysOf[V any](m map[Key]V) []Key {
	var keys []Key
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Endpoint, b.Endpoint)) })
	return keys
}

func pick(t *rapid.T, keys []Key) (Key, bool) {
	if len(keys) == 0 {
		return Key{}, false
	}
	return keys[rapid.IntRange(0, len(keys)-1).Draw(t, "which")], true
}

var openStates = []relay.DeliveryState{relay.Pending, relay.Retrying, relay.Parked, relay.Held}
var terminalStates = []relay.DeliveryState{relay.Delivered, relay.Dead, relay.Withheld, relay.Cancelled}

// Whatever the history, wherever it is cut, however often: nothing is forgotten, nothing settled is made anew, and a
// checkpoint with the outcomes after it says what all outcomes say.
func TestHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t}
		w.events = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) []string {
			return []string{"a", "b", "c", "d"}[:rapid.IntRange(0, 4).Draw(t, "matches")]
		}), 1, 12).Draw(t, "events")
		for i, e := range w.events {
			if len(e) == 0 {
				w.events[i] = nil
			}
		}
		w.restart()
		anyState := rapid.SampledFrom(slices.Concat(openStates, terminalStates))
		t.Repeat(map[string]func(*rapid.T){
			"":      func(*rapid.T) { w.cursorIsSafe() },
			"route": func(*rapid.T) { w.route() },
			"first outcome": func(t *rapid.T) {
				if k, ok := pick(t, keysOf(w.new)); ok {
					state := anyState.Draw(t, "state")
					w.record(k, state, !state.Terminal() && rapid.Bool().Draw(t, "busy"))
				}
			},
			"next outcome": func(t *rapid.T) {
				if k, ok := pick(t, keysOf(w.model())); ok {
					state := anyState.Draw(t, "state")
					w.record(k, state, !state.Terminal() && rapid.Bool().Draw(t, "busy"))
				}
			},
			"retry of a settled one": func(t *rapid.T) {
				var keys []Key
				open := w.model()
				for _, o := range w.log {
					k := Key{o.Seq, o.EndpointID}
					if _, is := open[k]; !is && o.State != relay.Unmatched && !slices.Contains(keys, k) && k.Seq <= w.s.Routed() && (k.Seq <= w.began || w.routed[k.Seq]) {
						keys = append(keys, k)
					}
				}
				if k, ok := pick(t, keys); ok {
					w.record(k, relay.Retrying, false)
				}
			},
			"busy": func(t *rapid.T) {
				if k, ok := pick(t, keysOf(w.model())); ok {
					w.s.SetBusy(k, rapid.Bool().Draw(t, "busy"))
				}
			},
			"sweep": func(t *rapid.T) {
				var wants []Want
				for _, id := range []string{"a", "b", "c", "d"} {
					wants = append(wants, Want{id, rapid.IntRange(0, 3).Draw(t, "room"), id == "d"})
				}
				for _, e := range w.s.Sweep(wants, rapid.IntRange(1, 4).Draw(t, "limit")) {
					if e.Recorded == w.new[e.Key] {
						t.Fatalf("%v: recorded %v", e.Key, e.Recorded)
					}
				}
			},
			"time": func(t *rapid.T) {
				w.now += rapid.IntRange(0, 3).Draw(t, "seconds")
				w.s.Due(at(w.now), 3)
			},
			"append": func(*rapid.T) { w.append() },
			"sync": func(*rapid.T) {
				w.append()
				w.synced = w.last()
			},
			"checkpoint": func(*rapid.T) {
				w.append()
				w.synced = w.last()
				w.saved, w.trim = w.s.Checkpoint(), int(w.s.FoldFrom())
			},
			"crash": func(t *rapid.T) {
				// Of what was not synced any beginning may be there all the same.
				last := w.last()
				if w.open {
					last--
				}
				w.synced = rapid.IntRange(w.synced, last).Draw(t, "durable")
				w.restart()
			},
		})
		w.append()
		w.synced = w.last()
		w.restart()
		for range w.events {
			w.route()
		}
		for i, matches := range w.events {
			for _, id := range matches {
				if k := (Key{uint64(i + 1), id}); !w.new[k] && !w.recorded(k) {
					t.Fatalf("%v is lost", k)
				}
			}
		}
		same(t, "at the end", view(w.s, at(w.now)), w.model())
	})
}

// A cut between the routing that follows a start and its end must not forget what was settled before the first start.
func TestSecondCrashBeforeTheCursorPassed(t *testing.T) {
	t.Parallel()
	s := New(0)
	s.Route(1, 2) // to a and b
	s.Apply(1, &relay.Outcome{Seq: 1, EndpointID: "a", State: relay.Delivered}, true, false)
	logged := []relay.Outcome{{Seq: 1, EndpointID: "a", State: relay.Delivered}}
	var err error
	from := s.FoldFrom()
	for start := range 3 {
		if s, _, err = Restore(s.Checkpoint()); err != nil {
			t.Fatal(err)
		}
		for i := from; i < uint64(len(logged)); i++ {
			s.Fold(i+1, &logged[i])
		}
		if start == 1 {
			s.Route(1, 1)
		}
		if start != 1 && !s.Known(Key{1, "a"}) {
			t.Fatalf("start %d: a settled delivery would be sent again", start)
		}
		from = s.FoldFrom()
	}
}

// A held delivery stays held whatever is asked about it meanwhile.
func TestBusyGivesBackWhatItWas(t *testing.T) {
	t.Parallel()
	s := New(0)
	s.Route(1, 3)
	s.Apply(1, &relay.Outcome{Seq: 1, EndpointID: "held", State: relay.Held}, true, false)
	s.Apply(2, &relay.Outcome{Seq: 1, EndpointID: "later", State: relay.Retrying, Due: at(9)}, true, false)
	s.Apply(3, &relay.Outcome{Seq: 1, EndpointID: "soon", State: relay.Retrying, Due: at(1)}, true, false)
	for _, id := range []string{"held", "later", "soon"} {
		s.SetBusy(Key{1, id}, true)
	}
	again, _, err := Restore(s.Checkpoint())
	if err != nil {
		t.Fatal(err)
	}
	if due := s.Due(at(2), 9); len(due) != 0 {
		t.Fatalf("due although busy: %v", due)
	}
	for _, id := range []string{"held", "later", "soon"} {
		s.SetBusy(Key{1, id}, false)
	}
	for id, want := range map[string]Status{"held": Held, "later": Waiting, "soon": Ready} {
		if e, _ := s.Get(Key{1, id}); e.Status != want {
			t.Errorf("%s became %v", id, e.Status)
		}
	}
	for id, want := range map[string]Status{"held": Held, "later": Waiting, "soon": Waiting} {
		if e, _ := again.Get(Key{1, id}); e.Status != want {
			t.Errorf("after a crash %s became %v", id, e.Status)
		}
	}
	if due := s.Due(at(9), 9); len(due) != 1 || due[0].Endpoint != "later" {
		t.Errorf("due: %v", due)
	}
}

func TestRouteOverGaps(t *testing.T) {
	t.Parallel()
	s := New(4)
	s.Route(7, 1)
	if s.Cursor() != 6 || s.Routed() != 7 {
		t.Fatalf("cursor %d, routed %d", s.Cursor(), s.Routed())
	}
	s.Route(10, 1)
	s.Apply(1, &relay.Outcome{Seq: 10, EndpointID: "a", State: relay.Delivered}, true, false)
	if s.Cursor() != 6 || s.Routed() != 10 {
		t.Fatalf("cursor %d, routed %d", s.Cursor(), s.Routed())
	}
	s.Apply(2, &relay.Outcome{Seq: 7, EndpointID: "a", State: relay.Delivered}, true, false)
	s.Whole()
	if s.Cursor() != 10 || s.FoldFrom() != 2 {
		t.Fatalf("cursor %d, fold from %d", s.Cursor(), s.FoldFrom())
	}
}

// Events are routed before lower ones: the cursor waits for those, and what is gone from the log holds nothing up.
func TestRouteAhead(t *testing.T) {
	t.Parallel()
	delivered := func(s *State, n, seq uint64) {
		s.Apply(n, &relay.Outcome{Seq: seq, EndpointID: "a", State: relay.Delivered}, true, false)
		s.Whole()
	}
	s := New(4)
	s.RouteAhead(9, 1, 6) // 5 is gone, 6 waits
	delivered(s, 1, 9)
	if s.Cursor() != 5 || s.Routed() != 9 {
		t.Fatalf("cursor %d, routed %d", s.Cursor(), s.Routed())
	}
	s.RouteAhead(6, 1, 8) // 7 is gone
	delivered(s, 2, 6)
	if s.Cursor() != 7 || s.FoldFrom() != 0 {
		t.Fatalf("cursor %d, fold from %d", s.Cursor(), s.FoldFrom())
	}
	s.RouteAhead(8, 0, 10)
	if s.Cursor() != 9 || s.FoldFrom() != 2 {
		t.Fatalf("cursor %d, fold from %d", s.Cursor(), s.FoldFrom())
	}
}

func TestLowestOpen(t *testing.T) {
	t.Parallel()
	s := New(0)
	if s.LowestOpen() != math.MaxUint64 {
		t.Fatal("nothing is open")
	}
	s.Route(1, 0)
	s.Route(2, 1)
	s.Route(3, 1)
	s.Defer(Key{3, "b"}, start)
	if s.LowestOpen() != 3 {
		t.Fatal(s.LowestOpen())
	}
	s.Apply(1, &relay.Outcome{Seq: 2, EndpointID: "a", State: relay.Parked}, true, false)
	if s.LowestOpen() != 2 {
		t.Fatal(s.LowestOpen())
	}
	s.Apply(2, &relay.Outcome{Seq: 2, EndpointID: "a", State: relay.Delivered}, false, false)
	if open, _ := s.Open("a"); s.LowestOpen() != 3 || open != 0 || !slices.Equal(s.Endpoints(), []string{"b"}) {
		t.Fatal("settled deliveries are kept")
	}
}

// Sweeps are fair, bounded and in order, and leave nothing behind.
func TestSweep(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := New(0)
		ids := []string{"a", "b", "c", "o", "p"}
		ordered := func(id string) bool { return id >= "o" }
		top := rapid.IntRange(1, 60).Draw(t, "top")
		states := rapid.SampledFrom([]relay.DeliveryState{relay.Parked, relay.Parked, relay.Parked, relay.Retrying, relay.Held})
		n := uint64(0)
		for seq := range uint64(top + 5) {
			for _, id := range ids {
				if rapid.Bool().Draw(t, "open") {
					n++
					// Above top it is known from the log, and not routed yet.
					s.Fold(n, &relay.Outcome{Seq: seq + 1, EndpointID: id, State: states.Draw(t, "state"), Due: at(100)})
				}
			}
		}
		for seq := range uint64(top) {
			s.Route(seq+1, 0)
		}
		ready := map[Key]bool{}
		for _, id := range ids {
			blocked := false
			s.Each(id, func(e Entry) bool {
				if e.Status != Ready && ordered(id) {
					blocked = true
				}
				if e.Status == Ready && e.Seq <= uint64(top) && !blocked {
					ready[e.Key] = true
				}
				return true
			})
		}
		returns := 0 // of deliveries that found no room after all
		for round := 0; len(ready) > 0; round++ {
			if round > 5*top*len(ids)+100 {
				t.Fatalf("%d deliveries are never taken, such as %v", len(ready), keysOf(ready)[0])
			}
			var wants []Want
			for _, id := range ids {
				wants = append(wants, Want{id, rapid.IntRange(0, 4).Draw(t, "room"), ordered(id)})
			}
			wants[round%len(wants)].Room++
			first := round % len(wants)
			wants[0], wants[first] = wants[first], wants[0]
			limit := rapid.IntRange(1, 8).Draw(t, "limit")
			room := map[string]int{}
			for _, w := range wants {
				room[w.Endpoint] = w.Room
			}
			taken := s.Sweep(wants, limit)
			if len(taken) > limit {
				t.Fatalf("%d taken, %d allowed", len(taken), limit)
			}
			for i, e := range taken {
				if i > 0 && taken[i-1].Seq > e.Seq {
					t.Fatal("not ascending")
				}
				if room[e.Endpoint]--; room[e.Endpoint] < 0 {
					t.Fatalf("%s got more than it has room for", e.Endpoint)
				}
				if !ready[e.Key] {
					t.Fatalf("%v was not to be had", e.Key)
				}
				if ordered(e.Endpoint) {
					s.Each(e.Endpoint, func(lower Entry) bool {
						if lower.Seq < e.Seq && lower.Status != Busy {
							t.Fatalf("%v was taken before %v", e.Key, lower.Key)
						}
						return lower.Seq < e.Seq
					})
				}
			}
			for _, e := range taken {
				// Its lane may have no room after all; an ordered endpoint's then all come back.
				if returns < 20 && !ordered(e.Endpoint) && rapid.IntRange(0, 5).Draw(t, "back") == 0 {
					returns++
					s.SetBusy(e.Key, false)
					continue
				}
				delete(ready, e.Key)
			}
		}
	})
}

// An endpoint whose backlog grows as fast as it drains keeps neither another endpoint's nor its own older deliveries from
// their turn.
func TestSweepReturnsUnderLoad(t *testing.T) {
	t.Parallel()
	s := New(0)
	seq, outcome := uint64(0), uint64(0)
	park := func(id string) {
		seq++
		outcome++
		s.Route(seq, 1)
		s.Apply(outcome, &relay.Outcome{Seq: seq, EndpointID: id, State: relay.Parked}, true, false)
	}
	wants := []Want{{"busy", 8, false}, {"other", 8, false}}
	park("other")
	park("busy")
	for range 100 {
		park("busy")
	}
	s.SetBusy(Key{1, "other"}, true)
	s.SetBusy(Key{2, "busy"}, true)
	for range 3 {
		s.Sweep(wants, 16)
	}
	s.SetBusy(Key{1, "other"}, false) // both come back behind the elevator
	s.SetBusy(Key{2, "busy"}, false)
	for round := 0; ; round++ {
		if round > 40 {
			t.Fatal("the older delivery of the busy endpoint does not come to its turn")
		}
		for range 8 {
			park("busy")
		}
		taken := s.Sweep(wants, 16)
		if e, _ := s.Get(Key{1, "other"}); e.Status != Busy {
			t.Fatal("the other endpoint waits for the busy one")
		}
		if slices.ContainsFunc(taken, func(e Entry) bool { return e.Key == Key{2, "busy"} }) {
			return
		}
	}
}

func ExampleState_Sweep() {
	s := New(0)
	for seq := range uint64(4) {
		s.Route(seq+1, 1)
		s.Apply(seq+1, &relay.Outcome{Seq: seq + 1, EndpointID: fmt.Sprint("ep_", seq%2), State: relay.Parked}, true, false)
	}
	for _, e := range s.Sweep([]Want{{Endpoint: "ep_0", Room: 2}, {Endpoint: "ep_1", Room: 1}}, 10) {
		fmt.Println(e.Seq, e.Endpoint)
	}
	// Output:
	// 1 ep_0
	// 2 ep_1
	// 3 ep_0
}

func TestTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	s := New(0)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.Route(1, 2)
	for i, id := range []string{"ep_1", "ep_2"} {
		s.Apply(uint64(i+1), &relay.Outcome{EndpointID: id, Seq: 1, State: relay.Retrying, Due: at.Add(time.Duration(i) * time.Minute)}, true, false)
	}
	s.SetBack(3 * time.Hour)
	at = at.Add(-3 * time.Hour)
	if got := s.Due(at.Add(-time.Second), 10); len(got) != 0 || !s.NextDue().Equal(at) {
		t.Errorf("a second too early: %v, the next at %v", got, s.NextDue())
	}
	if got := s.Due(at, 10); len(got) != 1 || got[0].Endpoint != "ep_1" {
		t.Errorf("the first at its time: %v", got)
	}
	if got := s.Due(at.Add(time.Minute), 10); len(got) != 1 || got[0].Endpoint != "ep_2" {
		t.Errorf("the second at its time: %v", got)
	}
}

// What is told once more says nothing new, neither when it is appended nor when the log is read again.
func TestRetold(t *testing.T) {
	t.Parallel()
	s := New(0)
	parked := relay.Outcome{Seq: 1, EndpointID: "ep", State: relay.Parked, Deadline: start}
	delivered := relay.Outcome{Seq: 1, EndpointID: "ep", State: relay.Delivered}
	again := parked
	again.Retold = 1
	s.Fold(1, &parked)
	s.Fold(2, &delivered)
	s.Fold(3, &again)
	s.Whole()
	s.Apply(4, &again, false, false)
	if open, _ := s.Open("ep"); open != 0 {
		t.Error("what was settled is open again")
	}
	if s.Folded() != 4 {
		t.Errorf("folded up to %d", s.Folded())
	}
}
