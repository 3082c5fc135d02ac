// Package turn decides who comes next where many want something that there is too little of, such as a place in the next
// group or the attention of a router. It promises that whoever waits is served in proportion to what it costs and not to
// how much it brings: one that floods waits behind its own, and one that comes now and then is served next. It trusts its caller to
// charge what a turn cost. Pure: one goroutine at a time.
package turn

import "github.com/sealpost/sealpost/relay/internal/heap"

// Queue holds items in lines, one for each key. The line whose turns have cost the least comes next (start-time fair queueing);
// within a line items keep their order. The zero value is empty.
type Queue[T any] struct {
	lines map[string]*line[T]
	order heap.Heap[*line[T]]
	clock int64 // what the line that was served last had spent: one that comes anew begins there
	n     int
}

type line[T any] struct {
	key   string
	items []T
	head  int
	spent int64
	at    int // in Queue.order
}

// Before tells whose turn it is.
func (l *line[T]) Before(other *line[T]) bool { return l.spent < other.spent }

// Place is in Queue.order.
func (l *line[T]) Place() *int { return &l.at }

// Len counts the items.
func (q *Queue[T]) Len() int { return q.n }

// Push appends an item to its key's line.
func (q *Queue[T]) Push(key string, item T) {
	if q.n == 0 { // nobody waits: what turns have cost is history
		clear(q.lines)
		q.order.Clear()
		q.clock = 0
	}
	l := q.lines[key]
	if l == nil {
		if q.lines == nil {
			q.lines = map[string]*line[T]{}
		}
		l = &line[T]{key: key, spent: q.clock}
		q.lines[key] = l
		q.order.Push(l)
	}
	if l.head > 0 && len(l.items) == cap(l.items) { // before it grows, move what is left to the front
		n := copy(l.items, l.items[l.head:])
		clear(l.items[n:])
		l.items, l.head = l.items[:n], 0
	}
	l.items = append(l.items, item)
	q.n++
}

// Next is the item whose turn it is, and its key; false where there is none. It stays where it is.
func (q *Queue[T]) Next() (key string, item T, ok bool) {
	if l := q.first(); l != nil {
		return l.key, l.items[l.head], true
	}
	return "", item, false
}

// Pop takes the item whose turn it is, for the cost given, which Charge can add to once more is known.
func (q *Queue[T]) Pop(cost int64) (key string, item T, ok bool) {
	l := q.first()
	if l == nil {
		return "", item, false
	}
	q.clock = l.spent
	return l.key, q.take(l, cost), true
}

// PopOf takes a key's next item whether it is its turn or not.
func (q *Queue[T]) PopOf(key string, cost int64) (item T, ok bool) {
	l := q.lines[key]
	if l == nil || l.head == len(l.items) {
		return item, false
	}
	return q.take(l, cost), true
}

func (q *Queue[T]) take(l *line[T], cost int64) T {
	item := l.items[l.head]
	var none T
	l.items[l.head] = none
	if l.head++; l.head == len(l.items) {
		l.items, l.head = l.items[:0], 0
		if cap(l.items) > keptItems {
			l.items = nil
		}
	}
	q.n--
	q.charge(l, cost)
	return item
}

// keptItems is how many places a line keeps while it is empty.
const keptItems = 64

// Charge adds to what a key's turns have cost, as far as others have waited meanwhile.
func (q *Queue[T]) Charge(key string, cost int64) {
	if l := q.lines[key]; l != nil {
		q.charge(l, cost)
	}
}

func (q *Queue[T]) charge(l *line[T], cost int64) {
	l.spent += max(cost, 0)
	q.order.Fix(l)
}

// first is the line that comes next. One that has no items is forgotten when the others have caught up with it: from then on it is
// as good as a new one.
func (q *Queue[T]) first() *line[T] {
	for q.order.Len() > 0 {
		l := q.order.First()
		if l.head < len(l.items) {
			return l
		}
		if q.n == 0 {
			return nil
		}
		q.clock = max(q.clock, l.spent)
		q.order.Pop()
		delete(q.lines, l.key)
	}
	return nil
}
