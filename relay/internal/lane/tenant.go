package lane

import "github.com/sealpost/sealpost/relay/internal/heap"

// class is what is known of a lane. Half of all slots are for fast ones, and a quarter for all but slow ones.
type class uint8

const (
	fast    class = iota // its last attempt was a fast success, and nothing of it is slow
	unknown              // neither that nor slow
	slow                 // its last attempt was, or one in flight is
	classes
)

func (n *lane[T]) class() class {
	switch {
	case n.proven:
		return fast
	case n.slow > 0 || n.wasSlow:
		return slow
	}
	return unknown
}

// tenant is whose lanes they are.
type tenant[T any] struct {
	name   string
	lanes  int
	held   int // slots
	bytes  int // of bodies queued and in flight
	groups [classes]group[T]
	sent   int  // since the last look at who sends how much
	heavy  bool // sends more than its share of what the machine can do
}

// group is a tenant's lanes of one class that could give something out now, in turn.
type group[T any] struct {
	tenant *tenant[T]
	class  class
	first  *lane[T]
	last   *lane[T]
	served uint64 // when it was served last
	at     int    // in its order, where it has lanes
}

func (l *Lanes[T]) tenant(name string) *tenant[T] {
	t := l.tenants[name]
	if t == nil {
		t = &tenant[T]{name: name}
		for c := range t.groups {
			t.groups[c] = group[T]{tenant: t, class: class(c)}
		}
		l.tenants[name] = t
	}
	return t
}

// join puts a lane at the end of its group.
func (l *Lanes[T]) join(n *lane[T]) {
	g := &n.tenant.groups[n.class()]
	n.place, n.group, n.previous, n.next = inGroup, g, g.last, nil
	if g.last != nil {
		g.last.next = n
		g.last = n
		return
	}
	g.first, g.last = n, n
	l.orderOf(g).Push(g)
}

// leave takes a lane out of its group.
func (l *Lanes[T]) leave(n *lane[T]) {
	g := n.group
	if n.previous != nil {
		n.previous.next = n.next
	} else {
		g.first = n.next
	}
	if n.next != nil {
		n.next.previous = n.previous
	} else {
		g.last = n.previous
	}
	n.group, n.previous, n.next = nil, nil, nil
	if g.first == nil {
		l.orderOf(g).Remove(g)
	}
}

func (l *Lanes[T]) orderOf(g *group[T]) *heap.Heap[*group[T]] {
	if g.tenant.heavy {
		return &l.order[1][g.class]
	}
	return &l.order[0][g.class]
}

// turn takes the lane out of its group whose turn it is: of the tenant that holds the fewest slots, among those classes for which
// there is a slot.
func (l *Lanes[T]) turn() *lane[T] {
	var next *group[T]
	for weight := range l.order {
		if weight == 1 && l.heavy.pace.Room(l.heavy.held) == 0 {
			break
		}
		for c := range classes {
			o := &l.order[weight][c]
			if o.Len() > 0 && l.room(c) && (next == nil || o.First().Before(next)) {
				next = o.First()
			}
		}
	}
	if next == nil {
		return nil
	}
	l.clock++
	next.served = l.clock
	n := next.first
	l.leave(n)
	n.place = idle
	if next.first != nil {
		l.orderOf(next).Fix(next)
	}
	return n
}

// room tells whether there is a slot for a lane of a class.
func (l *Lanes[T]) room(c class) bool {
	unproven := max(1, l.limits.InFlight/2)
	switch c {
	case fast:
		return true
	case slow:
		if l.held[slow] >= max(1, unproven/2) {
			return false
		}
	}
	return l.held[unknown]+l.held[slow] < unproven
}

// slots are how many are held.
func (l *Lanes[T]) slots() int { return l.held[fast] + l.held[unknown] + l.held[slow] }

// hold counts slots that a tenant takes, or gives back.
func (l *Lanes[T]) hold(t *tenant[T], c class, n int) {
	l.held[c] += n
	t.held += n
	if t.heavy {
		l.heavy.held += n
	}
	for c := range t.groups {
		if g := &t.groups[c]; g.first != nil {
			l.orderOf(g).Fix(g)
		}
	}
}

// weigh counts bytes that a lane takes, or gives back.
func (l *Lanes[T]) weigh(n *lane[T], size int) {
	l.bytes += size
	n.tenant.bytes += size
}

// Before tells whose turn it is.
func (g *group[T]) Before(other *group[T]) bool {
	if g.tenant.held != other.tenant.held {
		return g.tenant.held < other.tenant.held
	}
	return g.served < other.served
}

// Place is in its order.
func (g *group[T]) Place() *int { return &g.at }
