package lane

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/breaker"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type item struct {
	lane  string
	n     int
	size  int
	since time.Time
}

// next is l.Next with a ticket to point at.
func next[T any](l *Lanes[T], now time.Time) (*Ticket[T], bool) {
	t, ok := l.Next(now)
	return &t, ok
}

// world is lanes with a plain model of them.
type world struct {
	t        *rapid.T
	l        *Lanes[item]
	limits   Limits
	now      time.Time
	n        int
	settings map[string]Settings
	queued   map[string][]item
	flying   []*Ticket[item]
	limit    map[string]int  // slow start
	proven   map[string]bool // the last word of an endpoint was a fast success, and nothing of it is slow
	probing  map[string]int
}

func newWorld(t *rapid.T, limits Limits) *world {
	return &world{t: t, l: New[item](limits), limits: limits, now: start, settings: map[string]Settings{},
		queued: map[string][]item{}, limit: map[string]int{}, proven: map[string]bool{}, probing: map[string]int{}}
}

func (w *world) of(id string) (tickets []*Ticket[item]) {
	for _, f := range w.flying {
		if f.Item.lane == id {
			tickets = append(tickets, f)
		}
	}
	return tickets
}

func (w *world) configure(id string, s Settings) {
	if _, known := w.settings[id]; !known || s.Open && !w.settings[id].Open {
		w.limit[id], w.proven[id] = 1, false
	}
	w.settings[id] = s
	w.l.Configure(id, s, w.now)
}

func (w *world) offer(id string, size int) {
	open, probe := w.l.BreakerOpen(id)
	w.n++
	it := item{id, w.n, size, w.now}
	took := w.l.Offer(id, it, size, w.now)
	queued := 0
	for _, q := range w.queued[id] {
		queued += q.size
	}
	may := w.settings[id].Open && len(w.queued[id]) < w.limits.LaneItems && queued < w.limits.LaneBytes && w.bytesOf(w.settings[id].Tenant) < 4*(w.limits.Bytes-w.bytes())
	if open {
		may = may && len(w.queued[id]) == 0 && !w.now.Before(probe) && w.probing[id] == 0
	}
	if took != may {
		w.t.Fatalf("offer to %s: %v, want %v (breaker open %v)", id, took, may, open)
	}
	if took {
		w.queued[id] = append(w.queued[id], it)
	}
}

func (w *world) bytes() (n int) {
	for _, q := range w.queued {
		for _, it := range q {
			n += it.size
		}
	}
	for _, f := range w.flying {
		n += f.Size
	}
	return n
}

func (w *world) bytesOf(tenant string) (n int) {
	for id, q := range w.queued {
		for _, it := range q {
			if w.settings[id].Tenant == tenant {
				n += it.size
			}
		}
	}
	for _, f := range w.flying {
		if w.settings[f.Item.lane].Tenant == tenant {
			n += f.Size
		}
	}
	return n
}

func (w *world) unproven() (n int) {
	for _, f := range w.flying {
		if f.class != fast && !f.aside {
			n++
		}
	}
	return n
}

// slots counts those in flight that hold one; the rest must be slow, and within their bound.
func (w *world) slots() (n int) {
	var aside [2]int
	for _, f := range w.flying {
		switch {
		case !f.aside:
			n++
		case f.class == slow:
			aside[0]++
		case f.slow || f.class == unknown:
			aside[1]++
		default:
			w.t.Fatal("an attempt of a fast lane that is not slow holds no slot")
		}
	}
	if aside[0] > w.limits.Slow || aside[1] > w.limits.newlySlow() {
		w.t.Fatalf("%v beside the slots, at most %d and %d", aside, w.limits.Slow, w.limits.newlySlow())
	}
	return n
}

func (w *world) next() bool {
	unproven := w.unproven()
	ticket, ok := next(w.l, w.now)
	if !ok {
		return false
	}
	id := ticket.Item.lane
	if !w.settings[id].Open {
		w.t.Fatalf("%s is closed and gave something out", id)
	}
	if len(w.queued[id]) == 0 || w.queued[id][0] != ticket.Item {
		w.t.Fatalf("%s gave out %+v, not the first of %+v", id, ticket.Item, w.queued[id])
	}
	w.queued[id] = w.queued[id][1:]
	if !w.proven[id] && unproven >= max(1, w.limits.InFlight/2) {
		w.t.Fatalf("%s has not shown to be fast, and took a slot that is kept", id)
	}
	w.flying = append(w.flying, ticket)
	if n := len(w.of(id)); n > w.settings[id].Concurrency || n > w.limit[id] {
		w.t.Fatalf("%d in flight of %s; concurrency %d, earned %d", n, id, w.settings[id].Concurrency, w.limit[id])
	}
	if n := w.slots(); n > w.limits.InFlight {
		w.t.Fatalf("%d slots are held", n)
	}
	if open, _ := w.l.BreakerOpen(id); open != ticket.Probe {
		w.t.Fatalf("breaker open %v, probe %v", open, ticket.Probe)
	}
	if ticket.Probe {
		if w.probing[id]++; w.probing[id] > 1 && w.now.Sub(start) < 2*time.Minute {
			w.t.Fatalf("%d probes at once", w.probing[id])
		}
	}
	return true
}

func (w *world) done(i int, r Result) breaker.Change {
	ticket := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	id, slow := ticket.Item.lane, ticket.slow
	if ticket.Probe {
		w.probing[id]--
	}
	if !r.Uncounted {
		switch {
		case !r.Healthy:
			w.limit[id], w.proven[id] = max(1, w.limit[id]/2), false
		case slow:
			w.proven[id] = false
		default:
			w.limit[id] = min(w.limit[id]+1, w.settings[id].Concurrency)
			w.proven[id] = !slices.ContainsFunc(w.of(id), func(f *Ticket[item]) bool { return f.slow })
		}
	}
	return w.l.Done(ticket, r, w.now)
}

func (w *world) counters() {
	if got, want := w.l.Bytes(), w.bytes(); got != want || w.l.Full() != (want >= w.limits.Bytes) {
		w.t.Fatalf("%d bytes, want %d", got, want)
	}
	if got := w.l.InFlight(""); got != len(w.flying) {
		w.t.Fatalf("%d in flight, want %d", got, len(w.flying))
	}
	for id := range w.settings {
		if got := w.l.InFlight(id); got != len(w.of(id)) {
			w.t.Fatalf("%d in flight of %s, want %d", got, id, len(w.of(id)))
		}
		if room := w.l.Room(id, w.now); room < 0 || room > 0 && !w.settings[id].Open || room > w.limits.LaneItems {
			w.t.Fatalf("room of %s: %d", id, room)
		}
	}
}

func ids(w *world) []string { return slices.Sorted(maps.Keys(w.settings)) }

var laneIDs = []string{"a", "b", "c", "d", "e"}

// tenantOf gives the first two lanes to one tenant.
func tenantOf(id string) string { return map[string]string{"a": "t", "b": "t"}[id] + "u" }

func anySettings(t *rapid.T, tenant string) Settings {
	return Settings{
		Tenant: tenant, Open: rapid.IntRange(0, 4).Draw(t, "open") > 0, Concurrency: rapid.IntRange(1, 6).Draw(t, "concurrency"),
		Rate: rapid.SampledFrom([]float64{0, 0, 0, 0.05, 3, 100}).Draw(t, "rate"),
	}
}

// Whatever happens in whatever order, the bounds hold, and in the end everything that an open lane took is given out.
func TestLanes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, Limits{
			InFlight: rapid.IntRange(1, 8).Draw(t, "slots"), Slow: rapid.IntRange(0, 3).Draw(t, "slow"), Bytes: 4000, LaneItems: 8, LaneBytes: 1500, MaxWait: 5 * time.Second,
		})
		lane := rapid.SampledFrom(laneIDs)
		for _, id := range laneIDs {
			w.configure(id, Settings{Tenant: tenantOf(id), Open: true, Concurrency: 4})
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { w.counters() },
			"configure": func(t *rapid.T) {
				id := lane.Draw(t, "lane")
				w.configure(id, anySettings(t, tenantOf(id)))
			},
			"offer": func(t *rapid.T) {
				id := lane.Draw(t, "lane")
				for range rapid.IntRange(1, 6).Draw(t, "n") {
					w.offer(id, rapid.IntRange(0, 400).Draw(t, "size"))
				}
			},
			"next": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "n") {
					w.next()
				}
			},
			"done": func(t *rapid.T) {
				for range min(len(w.flying), rapid.IntRange(1, 4).Draw(t, "n")) {
					w.done(rapid.IntRange(0, len(w.flying)-1).Draw(t, "which"),
						Result{Healthy: rapid.Bool().Draw(t, "healthy"), Uncounted: rapid.IntRange(0, 5).Draw(t, "uncounted") == 0})
				}
			},
			"an endpoint is down": func(t *rapid.T) {
				id := lane.Draw(t, "lane")
				for range 30 {
					w.offer(id, 1)
					w.next()
					if i := slices.IndexFunc(w.flying, func(f *Ticket[item]) bool { return f.Item.lane == id }); i >= 0 {
						w.done(i, Result{})
					}
				}
			},
			"slow": func(t *rapid.T) {
				if len(w.flying) > 0 {
					f := rapid.SampledFrom(w.flying).Draw(t, "which")
					w.proven[f.Item.lane] = w.proven[f.Item.lane] && f.slow
					w.l.Slow(f)
				}
			},
			"yield": func(t *rapid.T) {
				if len(w.flying) > 0 {
					w.l.Yield(rapid.SampledFrom(w.flying).Draw(t, "which"))
				}
			},
			"pressure": func(t *rapid.T) {
				w.l.Press(w.now, 1, func() int { return rapid.SampledFrom([]int{0, 4, 100}).Draw(t, "ready") })
			},
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(0, 15000).Draw(t, "ms")) * time.Millisecond)
			},
			"flush": func(t *rapid.T) {
				id := lane.Draw(t, "lane")
				if got := w.l.Flush(id); !slices.Equal(got, w.queued[id]) {
					t.Fatalf("flushed %v of %v", got, w.queued[id])
				}
				w.queued[id] = nil
			},
			"expired": func(t *rapid.T) {
				got := w.l.Expired(w.now)
				for _, id := range ids(w) {
					late := 0
					for late < len(w.queued[id]) && w.now.Sub(w.queued[id][late].since) > w.limits.MaxWait {
						late++
					}
					var mine []item
					for _, it := range got {
						if it.lane == id {
							mine = append(mine, it)
						}
					}
					if !slices.Equal(mine, w.queued[id][:late]) {
						t.Fatalf("expired of %s: %v, want %v", id, mine, w.queued[id][:late])
					}
					w.queued[id] = w.queued[id][late:]
				}
			},
			"remove": func(t *rapid.T) {
				id := lane.Draw(t, "lane")
				empty := len(w.queued[id]) == 0 && len(w.of(id)) == 0
				w.l.Remove(id)
				if _, there := w.l.lanes[id]; there == empty {
					t.Fatalf("removed: %v, empty: %v", !there, empty)
				}
				if empty {
					delete(w.settings, id)
					w.configure(id, Settings{Tenant: tenantOf(id), Open: true, Concurrency: 4})
				}
			},
		})
		w.drain()
	})
}

// drain ends everything, and demands that nothing stays.
func (w *world) drain() {
	for _, id := range ids(w) {
		s := w.settings[id]
		s.Open = true
		w.configure(id, s)
	}
	for round := 0; ; round++ {
		w.l.Press(w.now, 1, func() int { return 100 }) // however crowded the machine is, all is sent
		for len(w.flying) > 0 {
			w.done(0, Result{Healthy: true})
		}
		for w.next() {
		}
		left := 0
		for _, q := range w.queued {
			left += len(q)
		}
		if left == 0 && len(w.flying) == 0 {
			break
		}
		if round > 1000 {
			w.t.Fatalf("after %v %d items are still queued: %v", w.now.Sub(start), left, w.queued)
		}
		if len(w.flying) > 0 {
			continue
		}
		wake := w.l.Wake()
		if wake.IsZero() {
			w.t.Fatalf("%d items are queued, nothing is in flight, and time will not help: %v", left, w.queued)
		}
		if !wake.After(w.now) {
			w.t.Fatal("the wake time has come and nothing was given out")
		}
		w.now = wake
	}
	w.counters()
	if w.l.Bytes() != 0 || w.l.held != [classes]int{} || w.l.aside != [2]int{} || w.l.heavy.held != 0 {
		w.t.Fatalf("left over: %d bytes, slots %v, %v beside them, %d paced", w.l.Bytes(), w.l.held, w.l.aside, w.l.heavy.held)
	}
	for name, one := range w.l.tenants {
		if one.held != 0 || one.bytes != 0 {
			w.t.Fatalf("left over in tenant %s: %d slots, %d bytes", name, one.held, one.bytes)
		}
	}
	for id, n := range w.l.lanes {
		if n.bytes != 0 || n.slow != 0 || n.inFlight != 0 {
			w.t.Fatalf("left over in %s: %+v", id, n)
		}
	}
}

func fill(t testing.TB, l *Lanes[item], id string, n int, now time.Time) {
	t.Helper()
	for i := range n {
		if !l.Offer(id, item{lane: id, n: i}, 1, now) {
			t.Fatalf("no room for item %d of %s", i, id)
		}
	}
}

// Lanes take turns: however much each has and how fast it may go, none gets more than one ahead of another while both
// could run.
func TestRoundRobin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 6).Draw(t, "slots")
		l := New[item](Limits{InFlight: 2 * slots, Bytes: 1 << 20, LaneItems: 1000, LaneBytes: 1 << 20, MaxWait: time.Hour})
		n := rapid.IntRange(2, 8).Draw(t, "lanes")
		served := map[string]int{}
		for i := range n {
			id := fmt.Sprint(i)
			l.Configure(id, Settings{Open: true, Concurrency: 1}, start)
			for j := range 200 {
				if !l.Offer(id, item{lane: id, n: j}, 1, start) {
					t.Fatal("no room")
				}
			}
		}
		for range 2 * n { // each shows that it is fast
			ticket, ok := next(l, start)
			if !ok {
				t.Fatal("nothing to send")
			}
			l.Done(ticket, Result{Healthy: true}, start)
		}
		var flying []*Ticket[item]
		for range 100 {
			for {
				ticket, ok := next(l, start)
				if !ok {
					break
				}
				served[ticket.Item.lane]++
				flying = append(flying, ticket)
			}
			lowest, highest := slices.Min(slices.Collect(maps.Values(served))), slices.Max(slices.Collect(maps.Values(served)))
			if len(served) == n && highest-lowest > 1 {
				t.Fatalf("served %v", served)
			}
			for len(flying) > 0 {
				l.Done(flying[0], Result{Healthy: true}, start)
				flying = flying[1:]
			}
		}
		if len(served) != n {
			t.Fatalf("only %d of %d lanes were served", len(served), n)
		}
	})
}

func TestSlowStart(t *testing.T) {
	t.Parallel()
	l := New[item](DefaultLimits())
	l.Configure("a", Settings{Open: true, Concurrency: 6}, start)
	fill(t, l, "a", 200, start)
	takeAll := func() (tickets []*Ticket[item]) {
		for {
			ticket, ok := next(l, start)
			if !ok {
				return tickets
			}
			tickets = append(tickets, ticket)
		}
	}
	for _, want := range []int{1, 2, 4, 6, 6} {
		flying := takeAll()
		if len(flying) != want {
			t.Fatalf("%d in flight, want %d", len(flying), want)
		}
		for _, f := range flying {
			l.Done(f, Result{Healthy: true}, start)
		}
	}
	flying := takeAll()
	l.Done(flying[0], Result{}, start)
	for _, f := range flying[1:] {
		l.Done(f, Result{Uncounted: true}, start)
	}
	if flying = takeAll(); len(flying) != 3 {
		t.Fatalf("after a failure %d in flight, want half of 6", len(flying))
	}
}

// A rate holds over every window: no more than its tenth at once and the rate beyond.
func TestRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.SampledFrom([]float64{0.5, 1, 7, 50}).Draw(t, "rate")
		l := New[item](Limits{InFlight: 64, Bytes: 1 << 20, LaneItems: 400, LaneBytes: 1 << 20, MaxWait: time.Hour})
		l.Configure("a", Settings{Open: true, Concurrency: 32, Rate: rate}, start)
		now := start
		var times []time.Time
		for range 200 {
			l.Offer("a", item{lane: "a"}, 1, now)
			for {
				ticket, ok := next(l, now)
				if !ok {
					break
				}
				times = append(times, now)
				l.Done(ticket, Result{Healthy: true}, now)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			if wake := l.Wake(); !wake.IsZero() && rapid.Bool().Draw(t, "wake") && wake.After(now) {
				now = wake
			}
		}
		burst := max(1, float64(int(rate/10)))
		for i := range times {
			for j := i; j < len(times); j++ {
				if n, most := float64(j-i+1), burst+rate*times[j].Sub(times[i]).Seconds(); n > most+1e-6 {
					t.Fatalf("%v given out in %v, at most %v", n, times[j].Sub(times[i]), most)
				}
			}
		}
	})
}

// However many endpoints hang, those that answer fast keep half of the slots.
func TestHangingEndpointsHoldNobody(t *testing.T) {
	t.Parallel()
	l := New[item](Limits{InFlight: 40, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour})
	l.Configure("fast", Settings{Open: true, Concurrency: 20}, start)
	fill(t, l, "fast", 100, start)
	for range 10 { // it shows that it is fast
		ticket, ok := next(l, start)
		if !ok {
			t.Fatal("nothing to send")
		}
		l.Done(ticket, Result{Healthy: true}, start)
	}
	for i := range 100 {
		id := fmt.Sprint("hangs", i)
		l.Configure(id, Settings{Open: true, Concurrency: 8}, start)
		fill(t, l, id, 5, start)
	}
	inFlight := func(id string) int { return l.InFlight(id) }
	for {
		if _, ok := next(l, start); !ok {
			break
		}
	}
	if hang := l.InFlight("") - inFlight("fast"); hang != 20 || inFlight("fast") < 10 {
		t.Fatalf("%d slots are held by those that hang, %d by the fast one", hang, inFlight("fast"))
	}
}

// Endpoints that hang from the start, more than there are slots, hold up one that has not shown yet that it is fast for no
// longer than it takes to see that they are slow.
func TestSlowAttemptsGiveTheirSlotsBack(t *testing.T) {
	t.Parallel()
	const hanging = 100
	l := New[item](Limits{InFlight: 40, Slow: hanging, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour})
	for i := range hanging {
		id := fmt.Sprint("hangs", i)
		l.Configure(id, Settings{Open: true, Concurrency: 8}, start)
		fill(t, l, id, 5, start)
	}
	l.Configure("new", Settings{Open: true, Concurrency: 8}, start)
	fill(t, l, "new", 5, start)
	var flying []*Ticket[item]
	for now := start; ; now = now.Add(SlowAfter) {
		for {
			ticket, ok := next(l, now)
			if !ok {
				break
			}
			if ticket.Item.lane == "new" {
				l.Done(ticket, Result{Healthy: true}, now)
				if l.lanes["new"].queue.len() > 0 {
					continue
				}
				// It was served while all the others hang; now they end, and nothing is left over.
				for _, f := range flying {
					l.Done(f, Result{}, now)
				}
				if l.held != [classes]int{} || l.aside != [2]int{} {
					t.Fatalf("left over: slots %v, %v beside them", l.held, l.aside)
				}
				return
			}
			flying = append(flying, ticket)
		}
		if now.Sub(start) > hanging*SlowAfter {
			t.Fatal("the new endpoint found no slot")
		}
		for _, f := range flying {
			l.Slow(f)
		}
	}
}

// A lane that found no slot, or sleeps for its rate or its breaker, does not wait on once that is no longer why.
func TestReconsidered(t *testing.T) {
	t.Parallel()
	limits := Limits{InFlight: 2, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour}
	want := func(t *testing.T, l *Lanes[item], now time.Time, want string) *Ticket[item] {
		t.Helper()
		ticket, ok := next(l, now)
		if !ok && want != "" || ok && ticket.Item.lane != want {
			t.Fatalf("%+v, %v; want one of %q", ticket, ok, want)
		}
		return ticket
	}
	t.Run("rate lifted", func(t *testing.T) {
		l := New[item](limits)
		l.Configure("a", Settings{Open: true, Concurrency: 2, Rate: 0.001}, start)
		fill(t, l, "a", 3, start)
		l.Done(want(t, l, start, "a"), Result{Healthy: true}, start)
		want(t, l, start, "")
		l.Configure("a", Settings{Open: true, Concurrency: 2}, start)
		want(t, l, start, "a")
	})
	t.Run("reopened", func(t *testing.T) {
		l := New[item](limits)
		l.Configure("a", Settings{Open: true, Concurrency: 2}, start)
		fill(t, l, "a", 20, start)
		for range breaker.MaxConsecutive {
			l.Done(want(t, l, start, "a"), Result{}, start)
		}
		want(t, l, start, "")
		l.Configure("a", Settings{Concurrency: 2}, start)
		l.Configure("a", Settings{Open: true, Concurrency: 2}, start)
		want(t, l, start, "a")
	})
	t.Run("recovered", func(t *testing.T) {
		l := New[item](limits)
		l.Configure("a", Settings{Open: true, Concurrency: 2}, start)
		fill(t, l, "a", 20, start)
		for range breaker.MaxConsecutive {
			l.Done(want(t, l, start, "a"), Result{}, start)
		}
		now := start.Add(breaker.FirstProbe)
		probe := want(t, l, now, "a")
		want(t, l, now, "")
		if change := l.Done(probe, Result{Healthy: true}, now); !probe.Probe || change != breaker.Recovered {
			t.Fatal(probe.Probe, change)
		}
		want(t, l, now, "a")
	})
	t.Run("proven while starved", func(t *testing.T) {
		l := New[item](Limits{InFlight: 4, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour})
		l.Configure("a", Settings{Open: true, Concurrency: 8}, start)
		fill(t, l, "a", 20, start)
		for range 5 {
			l.Done(want(t, l, start, "a"), Result{Healthy: true}, start)
		}
		failing, fast := want(t, l, start, "a"), want(t, l, start, "a")
		for _, id := range []string{"b", "c", "d"} {
			l.Configure(id, Settings{Open: true, Concurrency: 1}, start)
			fill(t, l, id, 1, start)
		}
		l.Done(failing, Result{}, start) // a has to show anew that it is fast
		for range 2 {
			if _, ok := next(l, start); !ok {
				t.Fatal("half of the slots are for those that are not known to be fast")
			}
		}
		want(t, l, start, "") // and now taken
		l.Done(fast, Result{Healthy: true}, start)
		want(t, l, start, "a")
	})
}

// BenchmarkLanes gives out and takes back while every lane has something waiting: it takes about as long, and nothing from the heap,
// however many lanes and tenants there are.
func BenchmarkLanes(b *testing.B) {
	for _, n := range []struct{ tenants, endpoints int }{{1, 10}, {1, 10_000}, {100, 10_000}, {10_000, 10_000}} {
		b.Run(fmt.Sprintf("%d of %d", n.endpoints, n.tenants), func(b *testing.B) {
			l := New[int](DefaultLimits())
			ids := make([]string, n.endpoints)
			for i := range ids {
				ids[i] = fmt.Sprint("ep_", i)
				l.Configure(ids[i], Settings{Tenant: fmt.Sprint(i % n.tenants), Open: true, Concurrency: 8}, start)
				l.Offer(ids[i], i, 1000, start)
				l.Offer(ids[i], i, 1000, start)
			}
			b.ReportAllocs()
			for b.Loop() {
				if t, ok := l.Next(start); ok {
					l.Done(&t, Result{Healthy: true}, start)
					l.Offer(ids[t.Item], t.Item, 1000, start)
				}
			}
		})
	}
}

// What was spent by another owner is not there to be spent again.
func TestSpent(t *testing.T) {
	t.Parallel()
	l := New[item](Limits{InFlight: 4, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour})
	l.Configure("a", Settings{Open: true, Concurrency: 4, Rate: 20}, start)
	l.Spent("a", start)
	l.Spent("unknown", start)
	fill(t, l, "a", 3, start)
	if _, ok := next(l, start.Add(40*time.Millisecond)); ok {
		t.Error("sent at once")
	}
	if _, ok := next(l, start.Add(60*time.Millisecond)); !ok {
		t.Error("not sent when the rate allows")
	}
}

func TestChargeDelaysWhatFollows(t *testing.T) {
	t.Parallel()
	l := New[item](Limits{InFlight: 4, Bytes: 1 << 20, LaneItems: 100, LaneBytes: 1 << 20, MaxWait: time.Hour})
	l.Configure("a", Settings{Open: true, Concurrency: 4, Rate: 10}, start)
	fill(t, l, "a", 3, start)
	ticket, ok := next(l, start)
	if !ok {
		t.Fatal("nothing to send")
	}
	for i := range 3 { // three chunks more, a tenth of a second each
		if wait, want := l.Charge(ticket, start), time.Duration(i+1)*100*time.Millisecond; wait.Round(time.Millisecond) != want {
			t.Errorf("charge %d: wait %v, want %v", i, wait, want)
		}
	}
	l.Done(ticket, Result{Healthy: true}, start)
	if _, ok := next(l, start.Add(350*time.Millisecond)); ok {
		t.Error("the next item did not wait for the chunks")
	}
	if _, ok := next(l, start.Add(450*time.Millisecond)); !ok {
		t.Error("the next item waits on")
	}
}

// When slots are what there is too little of, each tenant gets the same number of them, however many endpoints it has.
func TestTenantsShareSlots(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const slots = 60
		l := New[item](Limits{InFlight: slots, Bytes: 1 << 20, LaneItems: 300, LaneBytes: 1 << 20, MaxWait: time.Hour})
		tenants := rapid.IntRange(2, 4).Draw(t, "tenants")
		for i := range tenants {
			for e := range rapid.IntRange(1, 100).Draw(t, "endpoints") {
				id := fmt.Sprint(i, "/", e)
				l.Configure(id, Settings{Tenant: fmt.Sprint(i), Open: true, Concurrency: slots}, start)
				for n := range 300 {
					l.Offer(id, item{lane: id, n: n}, 1, start)
				}
			}
		}
		var flying []*Ticket[item]
		held := map[string]int{}
		for step := range 20 * slots { // the oldest ends, but the first tenant's last four times as long; and another goes
			for {
				ticket, ok := next(l, start)
				if !ok {
					break
				}
				held[ticket.lane.tenant.name]++
				flying = append(flying, ticket)
			}
			at := slices.IndexFunc(flying, func(f *Ticket[item]) bool { return (f.lane.tenant.name == "0") == (step%(4*tenants) == 0) })
			at = max(0, at)
			first := flying[at]
			flying = slices.Delete(flying, at, at+1)
			held[first.lane.tenant.name]--
			l.Done(first, Result{Healthy: true}, start)
			l.Offer(first.Item.lane, first.Item, 1, start)
		}
		for name, n := range held {
			if most := slots/tenants + 2; n > most && len(held) == tenants {
				t.Fatalf("tenant %s holds %d of %d slots: %v", name, n, slots, held)
			}
		}
	})
}

// 200 endpoints hang, and then 1,500 more, all of the tenant whose new endpoint is well: it is served within a second, and from
// then on as if they were not there.
func TestManyHangingEndpoints(t *testing.T) {
	t.Parallel()
	l := New[item](DefaultLimits())
	hang := func(from, to int, now time.Time) {
		for i := from; i < to; i++ {
			id := fmt.Sprint("hangs", i)
			l.Configure(id, Settings{Tenant: "t", Open: true, Concurrency: 8}, now)
			fill(t, l, id, 3, now)
		}
	}
	flying := map[*Ticket[item]]time.Time{}
	var served []time.Time
	turn := func(now time.Time) {
		for {
			ticket, ok := next(l, now)
			if !ok {
				break
			}
			if ticket.Item.lane == "well" {
				served = append(served, now)
				l.Done(ticket, Result{Healthy: true}, now)
				continue
			}
			flying[ticket] = now
		}
		starved := l.Starved()
		for ticket, since := range flying { // as the loop does, every tenth of a second
			switch age := now.Sub(since); {
			case age >= 15*time.Second:
				l.Done(ticket, Result{}, now)
				delete(flying, ticket)
			case age >= SlowAfter:
				l.Slow(ticket)
			case age >= YieldAfter && starved:
				l.Yield(ticket)
			}
		}
	}
	now := start
	step := func(n int) {
		for range n {
			turn(now)
			now = now.Add(100 * time.Millisecond)
		}
	}
	hang(0, 200, now)
	step(30)
	hang(200, 1700, now)
	step(2)
	l.Configure("well", Settings{Tenant: "t", Open: true, Concurrency: 8}, now)
	fill(t, l, "well", 50, now)
	came := now
	step(300)
	if len(served) != 50 || served[49].Sub(came) > 2*time.Second {
		t.Fatalf("%d of 50 were served, beside %d in flight; the last after %v", len(served), l.InFlight(""), served[max(0, len(served)-1)].Sub(came))
	}
	if l.aside[0] > l.limits.Slow || l.aside[1] > l.limits.newlySlow() {
		t.Fatalf("%v beside the slots", l.aside)
	}
}

// While the machine is the bottleneck those who send the most have few in flight, and who sends little goes at once; when there is
// room again, all slots are theirs.
func TestPressureHoldsBackTheHeaviest(t *testing.T) {
	t.Parallel()
	l := New[item](Limits{InFlight: 256, Bytes: 1 << 20, LaneItems: 2000, LaneBytes: 1 << 20, MaxWait: time.Hour})
	for _, id := range []string{"heavy", "gentle"} {
		l.Configure(id, Settings{Tenant: id, Open: true, Concurrency: 256}, start)
	}
	now, ready := start, 100
	var flying []*Ticket[item]
	turn := func() (gentle bool) {
		now = now.Add(lookEvery)
		for _, f := range flying {
			l.Done(f, Result{Healthy: true}, now)
		}
		flying = flying[:0]
		for l.Offer("heavy", item{lane: "heavy"}, 1, now) {
		}
		l.Offer("gentle", item{lane: "gentle"}, 1, now)
		l.Press(now, 2, func() int { return ready })
		for {
			ticket, ok := next(l, now)
			if !ok {
				return gentle
			}
			gentle = gentle || ticket.Item.lane == "gentle"
			flying = append(flying, ticket)
		}
	}
	for i := range 100 {
		if !turn() {
			t.Fatalf("turn %d: the gentle one waits", i)
		}
	}
	if n := len(flying); n > 2*l.heavy.pace.Least+1 {
		t.Fatalf("%d are in flight although the machine is the bottleneck", n)
	}
	ready = 0
	for range 100 {
		turn()
	}
	if n := len(flying); n < 128 {
		t.Fatalf("%d are in flight although there is room", n)
	}
}
