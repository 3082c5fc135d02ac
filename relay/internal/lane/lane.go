// Package lane decides whose delivery is sent next. Each endpoint has a lane: a bounded queue with its own concurrency,
// rate and breaker. It promises that no endpoint, however it hangs, trickles, fails or is flooded, takes what another one
// needs, and no tenant, however many endpoints it has: the tenant that holds the fewest slots is served next, and its lanes
// round-robin; concurrency grows only with success; half of all slots are kept for endpoints that answer fast, and half of
// the rest for those that have not been slow yet; where the machine is the bottleneck, those who send more than their share of
// it wait. It trusts its caller to report the end of everything that Next gave out. Pure: time is an argument; one
// goroutine at a time.
package lane

import (
	"cmp"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay/internal/breaker"
	"github.com/sealpost/sealpost/relay/internal/heap"
)

// Limits bound all lanes together, and each of them.
type Limits struct {
	InFlight  int           // slots of all lanes, 1 at least
	Slow      int           // in flight beside them: attempts that last longer than SlowAfter, and hold no slot any more, of lanes known for it
	NewlySlow int           // the same of lanes that are slow for the first time; zero: four times Slow
	Bytes     int           // of bodies queued and in flight in all lanes; one tenant has four fifths of it at most
	LaneItems int           // queued in one lane
	LaneBytes int           // queued in one lane
	MaxWait   time.Duration // in a lane, before its item is given back
}

// DefaultLimits are those of a process (DESIGN section 6's figures).
func DefaultLimits() Limits {
	return Limits{InFlight: 512, Slow: 1024, Bytes: 256 << 20, LaneItems: 256, LaneBytes: 16 << 20, MaxWait: 5 * time.Second}
}

const (
	// SlowAfter is how long an attempt may last before it counts as slow.
	SlowAfter = time.Second
	// YieldAfter is how long one of a lane that nothing is known of may hold a slot while other such lanes find none.
	YieldAfter = 100 * time.Millisecond
)

// Settings are what an endpoint's lane goes by.
type Settings struct {
	Tenant      string  // whose endpoint it is; does not change
	Open        bool    // false: nothing is taken in or given out
	Concurrency int     // in flight at most; 1 for ordered endpoints
	Rate        float64 // given out a second; 0: no bound
}

// Lanes are the lanes of one owner, with items of type T.
type Lanes[T any] struct {
	limits  Limits
	lanes   map[string]*lane[T]
	tenants map[string]*tenant[T]
	order   [2][classes]heap.Heap[*group[T]] // who could give something out now: those with a share of the machine, and the heavy ones
	timed   heap.Heap[*lane[T]]
	clock   uint64       // counts turns
	held    [classes]int // slots, by what their lanes were when they got them
	aside   [2]int       // in flight without a slot: of lanes known to be slow, and of others
	bytes   int
	heavy   heavy
}

type lane[T any] struct {
	id       string
	tenant   *tenant[T]
	settings Settings
	queue    fifo[T]
	bytes    int // of the queue
	inFlight int
	slow     int // of those in flight: longer than SlowAfter
	limit    int // of those in flight: slow start
	proven   bool
	wasSlow  bool // the last attempt that ended was
	breaker  breaker.Breaker
	limiter  *rate.Limiter
	place    place
	group    *group[T] // where place is inGroup
	previous *lane[T]  // in it
	next     *lane[T]  // in it
	wake     time.Time // where place is inTimed
	heapAt   int       // where place is inTimed

	second  time.Time // when the count of out began
	out     int       // given out since
	lastOut int       // given out in the second before
}

// place says in which list a lane stands, so that it stands in one at most.
type place uint8

const (
	idle place = iota
	inGroup
	inTimed
)

// Ticket is one item on its way, to be handed back with Done.
type Ticket[T any] struct {
	Item  T
	Size  int
	Probe bool // the breaker's probe

	lane  *lane[T]
	slow  bool
	aside bool  // it holds no slot
	class class // how it was counted when it was given out, and is where it holds a slot
}

// AtOnce is how many can be in flight together.
func (l Limits) AtOnce() int { return l.InFlight + l.Slow + l.newlySlow() }

func (l Limits) newlySlow() int { return cmp.Or(l.NewlySlow, 4*l.Slow) }

// New makes empty lanes.
func New[T any](limits Limits) *Lanes[T] {
	limits.NewlySlow = limits.newlySlow()
	return &Lanes[T]{limits: limits, lanes: map[string]*lane[T]{}, tenants: map[string]*tenant[T]{}, heavy: newHeavy(limits.InFlight)}
}

// Configure sets an endpoint's settings and makes its lane if there is none. A lane that opens starts anew: one in flight,
// breaker closed.
func (l *Lanes[T]) Configure(id string, s Settings, now time.Time) {
	n := l.lanes[id]
	if n == nil {
		n = &lane[T]{id: id, limit: 1, tenant: l.tenant(s.Tenant)}
		n.tenant.lanes++
		l.lanes[id] = n
	}
	s.Tenant = n.tenant.name
	s.Concurrency = max(1, s.Concurrency)
	if s == n.settings {
		return
	}
	if s.Open && !n.settings.Open {
		n.breaker.Reset()
		n.limit, n.proven, n.wasSlow = 1, false, false
	}
	if s.Rate != n.settings.Rate {
		n.limiter = nil
		if s.Rate > 0 {
			n.limiter = rate.NewLimiter(rate.Limit(s.Rate), max(1, int(s.Rate/10)))
		}
	}
	n.settings = s
	l.reconsider(n)
}

// Spent has an endpoint's rate begin with nothing saved up, as where another owner may have sent to it a moment ago.
func (l *Lanes[T]) Spent(id string, now time.Time) {
	if n := l.lanes[id]; n != nil && n.limiter != nil {
		n.limiter.ReserveN(now, n.limiter.Burst())
	}
}

// Remove forgets a lane that is empty; it does nothing to another one.
func (l *Lanes[T]) Remove(id string) {
	if n := l.lanes[id]; n != nil && n.queue.len() == 0 && n.inFlight == 0 {
		l.detach(n)
		delete(l.lanes, id)
		if n.tenant.lanes--; n.tenant.lanes == 0 {
			delete(l.tenants, n.tenant.name)
		}
	}
}

// Room is how many items it is worth fetching for a lane now: what there is space for, and what it will have given out
// before MaxWait is half over, judging by the last second.
func (l *Lanes[T]) Room(id string, now time.Time) int {
	n := l.lanes[id]
	if n == nil {
		return 0
	}
	worth := max(2*n.limit, int(float64(n.recent(now))*l.limits.MaxWait.Seconds()/2))
	return max(0, min(l.space(n, now), worth-n.queue.len()))
}

// space is how many items of a usual size the lane would take now; 0 where it is closed, or its breaker lets nothing through.
// Where the breaker waits for a probe it is one.
func (l *Lanes[T]) space(n *lane[T], now time.Time) int {
	if !n.settings.Open || n.bytes >= l.limits.LaneBytes || n.tenant.bytes >= 4*(l.limits.Bytes-l.bytes) {
		return 0
	}
	switch n.breaker.State() {
	case breaker.Probing:
		return 0
	case breaker.Open:
		if now.Before(n.breaker.NextProbe()) || n.queue.len() > 0 {
			return 0
		}
		return 1
	}
	return l.limits.LaneItems - n.queue.len()
}

// Offer queues an item of that many bytes, or says that there is no room.
func (l *Lanes[T]) Offer(id string, item T, size int, now time.Time) bool {
	n := l.lanes[id]
	if n == nil || l.space(n, now) <= 0 {
		return false
	}
	n.queue.push(queued[T]{item, size, now})
	n.bytes += size
	l.weigh(n, size)
	l.consider(n)
	return true
}

// Next takes the next item to send, if there is one and a slot for it.
func (l *Lanes[T]) Next(now time.Time) (Ticket[T], bool) {
	l.wakeTimed(now)
	for l.slots() < l.limits.InFlight {
		n := l.turn()
		if n == nil {
			break
		}
		if t, ok := l.take(n, now); ok {
			l.consider(n)
			return t, true
		}
	}
	return Ticket[T]{}, false
}

// take takes a lane's first item if nothing speaks against it; else it leaves the lane where it will be
// considered again.
func (l *Lanes[T]) take(n *lane[T], now time.Time) (Ticket[T], bool) {
	if !n.runnable() {
		return Ticket[T]{}, false
	}
	if n.limiter != nil && n.limiter.TokensAt(now) < 1 {
		seconds := min((1-n.limiter.TokensAt(now))/n.settings.Rate, longestSleep.Seconds())
		l.sleep(n, now.Add(time.Duration(seconds*float64(time.Second))+time.Millisecond))
		return Ticket[T]{}, false
	}
	send, probe := n.breaker.Allow(now)
	if !send {
		l.sleep(n, n.breaker.NextProbe())
		return Ticket[T]{}, false
	}
	if n.limiter != nil {
		n.limiter.AllowN(now, 1)
	}
	first := n.queue.pop()
	n.recent(now)
	n.out++
	n.bytes -= first.size
	n.inFlight++
	t := Ticket[T]{Item: first.item, Size: first.size, Probe: probe, lane: n, class: n.class()}
	l.hold(n.tenant, t.class, 1)
	l.sent(n.tenant)
	return t, true
}

// longestSleep is after what time a lane whose rate is next to nothing is looked at again.
const longestSleep = time.Hour

// recent is what the lane gave out within a second or so.
func (n *lane[T]) recent(now time.Time) int {
	if age := now.Sub(n.second); age >= time.Second {
		n.lastOut = 0
		if age < 2*time.Second {
			n.lastOut = n.out
		}
		n.second, n.out = now, 0
	}
	return max(n.out, n.lastOut)
}

func (n *lane[T]) runnable() bool {
	return n.settings.Open && n.queue.len() > 0 && n.inFlight < min(n.limit, n.settings.Concurrency)
}

// reconsider takes a lane out of whatever list it waits in, for what it waited for may be no more, and considers it.
func (l *Lanes[T]) reconsider(n *lane[T]) {
	if n.place != inGroup || n.group != &n.tenant.groups[n.class()] {
		l.detach(n)
	}
	l.consider(n)
}

// detach takes a lane out of its list.
func (l *Lanes[T]) detach(n *lane[T]) {
	switch n.place {
	case inGroup:
		l.leave(n)
	case inTimed:
		l.timed.Remove(n)
	}
	n.place = idle
}

// consider has a lane take its turn if it could give something out.
func (l *Lanes[T]) consider(n *lane[T]) {
	if n.place == idle && n.runnable() {
		l.join(n)
	}
}

// Slow notes that an item has been in flight for longer than SlowAfter: it gives its slot back and counts against a bound
// of its own. Beyond that bound it keeps a slot, but one of those for slow endpoints, as far as there are others.
func (l *Lanes[T]) Slow(t *Ticket[T]) {
	if t.slow {
		return
	}
	t.slow = true
	t.lane.slow++
	t.lane.proven = false
	l.setAside(t)
	if !t.aside && t.class != slow {
		l.hold(t.lane.tenant, t.class, -1)
		t.class = slow
		l.hold(t.lane.tenant, slow, 1)
	}
	if t.lane.place == inGroup {
		l.reconsider(t.lane)
	}
}

// Yield has an item that has been in flight for longer than YieldAfter give its slot back, where nothing is known of its lane. It is
// for when others like it are Starved: what hangs from its first attempt on must not hold up what works.
func (l *Lanes[T]) Yield(t *Ticket[T]) {
	if t.class == unknown {
		l.setAside(t)
	}
}

// Starved tells whether lanes that nothing is known of wait for a slot.
func (l *Lanes[T]) Starved() bool {
	return l.order[0][unknown].Len()+l.order[1][unknown].Len() > 0 && !l.room(unknown)
}

// setAside takes an item's slot back, if there is room beside.
func (l *Lanes[T]) setAside(t *Ticket[T]) {
	bound, most := &l.aside[0], l.limits.Slow
	if t.class != slow {
		bound, most = &l.aside[1], l.limits.NewlySlow
	}
	if !t.aside && *bound < most {
		l.hold(t.lane.tenant, t.class, -1)
		t.aside = true
		*bound++
	}
}

// giveSlot takes back what an item in flight holds.
func (l *Lanes[T]) giveSlot(t *Ticket[T]) {
	switch {
	case !t.aside:
		l.hold(t.lane.tenant, t.class, -1)
	case t.class == slow:
		l.aside[0]--
	default:
		l.aside[1]--
	}
}

// Charge counts one more request of an item that is in flight, as for its next chunk, against its lane's rate, and says how long
// to wait before it is made. What the lane gives out next waits for it too.
func (l *Lanes[T]) Charge(t *Ticket[T], now time.Time) time.Duration {
	if t.lane.limiter == nil {
		return 0
	}
	return t.lane.limiter.ReserveN(now, 1).DelayFrom(now)
}

// Result is how an attempt ended, for its lane.
type Result struct {
	Healthy   bool // the endpoint works
	Uncounted bool // nothing was learned: interrupted
}

// Done gives a slot back. It returns what the breaker made of the result.
func (l *Lanes[T]) Done(t *Ticket[T], r Result, now time.Time) breaker.Change {
	n := t.lane
	n.inFlight--
	l.giveSlot(t)
	l.weigh(n, -t.Size)
	if t.slow {
		n.slow--
	}
	change := breaker.Unchanged
	switch {
	case r.Uncounted && t.Probe:
		n.breaker.Release(now)
	case r.Uncounted:
	default:
		change = n.breaker.Record(now, r.Healthy, t.Probe)
		n.learn(r.Healthy, t.slow)
	}
	if n.place == inGroup || n.place == inTimed && (change == breaker.Recovered || n.breaker.State() == breaker.Open) {
		l.reconsider(n)
	} else {
		l.consider(n)
	}
	return change
}

// learn adjusts how much may be in flight: one more for each fast success, half after a failure.
func (n *lane[T]) learn(healthy, slow bool) {
	n.wasSlow = slow || n.wasSlow && !healthy
	switch {
	case !healthy:
		n.limit = max(1, n.limit/2)
		n.proven = false
	case slow:
		n.proven = false
	default:
		n.proven = n.slow == 0
		n.limit = min(n.limit+1, n.settings.Concurrency)
	}
}

// Flush takes everything out of an endpoint's queue, in order.
func (l *Lanes[T]) Flush(id string) []T {
	n := l.lanes[id]
	if n == nil {
		return nil
	}
	var out []T
	for n.queue.len() > 0 {
		out = append(out, l.drop(n))
	}
	return out
}

// Expired takes out what has waited in its lane for longer than MaxWait.
func (l *Lanes[T]) Expired(now time.Time) []T {
	var out []T
	for _, n := range l.lanes {
		for n.queue.len() > 0 && now.Sub(n.queue.first().since) > l.limits.MaxWait {
			out = append(out, l.drop(n))
		}
	}
	return out
}

func (l *Lanes[T]) drop(n *lane[T]) T {
	q := n.queue.pop()
	n.bytes -= q.size
	l.weigh(n, -q.size)
	return q.item
}

// BreakerOpen tells whether an endpoint's breaker lets nothing but probes through, and when the next one may go.
func (l *Lanes[T]) BreakerOpen(id string) (open bool, probe time.Time) {
	n := l.lanes[id]
	if n == nil || n.breaker.State() == breaker.Closed {
		return false, time.Time{}
	}
	return true, n.breaker.NextProbe()
}

// Breaker is the state of an endpoint's breaker; closed for one that is not known.
func (l *Lanes[T]) Breaker(id string) breaker.State {
	if n := l.lanes[id]; n != nil {
		return n.breaker.State()
	}
	return breaker.Closed
}

// Queued counts what waits in an endpoint's lane.
func (l *Lanes[T]) Queued(id string) int {
	if n := l.lanes[id]; n != nil {
		return n.queue.len()
	}
	return 0
}

// BreakersOpen counts the endpoints whose breakers let nothing but probes through.
func (l *Lanes[T]) BreakersOpen() (n int) {
	for _, one := range l.lanes {
		if one.breaker.State() != breaker.Closed {
			n++
		}
	}
	return n
}

// InFlight counts what Next gave out and Done has not taken back: of one endpoint, or of all where id is empty.
func (l *Lanes[T]) InFlight(id string) int {
	if id == "" {
		return l.slots() + l.aside[0] + l.aside[1]
	}
	if n := l.lanes[id]; n != nil {
		return n.inFlight
	}
	return 0
}

// Bytes are those of all bodies queued and in flight.
func (l *Lanes[T]) Bytes() int { return l.bytes }

// Full tells whether the bodies of all lanes together have reached their bound.
func (l *Lanes[T]) Full() bool { return l.bytes >= l.limits.Bytes }

// Wake is when Next may have something that it has not now, if only time passes; zero: never.
func (l *Lanes[T]) Wake() time.Time {
	if l.timed.Len() == 0 {
		return time.Time{}
	}
	return l.timed.First().wake
}

func (l *Lanes[T]) sleep(n *lane[T], until time.Time) {
	n.place, n.wake = inTimed, until
	l.timed.Push(n)
}

func (l *Lanes[T]) wakeTimed(now time.Time) {
	for l.timed.Len() > 0 && !l.timed.First().wake.After(now) {
		n := l.timed.Pop()
		n.place = idle
		l.consider(n)
	}
}

// Before tells which of the lanes that wait for a time comes first.
func (n *lane[T]) Before(other *lane[T]) bool { return n.wake.Before(other.wake) }

// Place is where place is inTimed.
func (n *lane[T]) Place() *int { return &n.heapAt }
