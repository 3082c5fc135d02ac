package lane

import "time"

type queued[T any] struct {
	item  T
	size  int
	since time.Time
}

// fifo is a queue on a ring that grows and, once empty, lets go of what it grew to.
type fifo[T any] struct {
	ring []queued[T]
	head int
	n    int
}

func (f *fifo[T]) len() int { return f.n }

func (f *fifo[T]) first() *queued[T] { return &f.ring[f.head] }

func (f *fifo[T]) push(q queued[T]) {
	if f.n == len(f.ring) {
		grown := make([]queued[T], max(4, 2*len(f.ring)))
		for i := range f.n {
			grown[i] = f.ring[(f.head+i)%len(f.ring)]
		}
		f.ring, f.head = grown, 0
	}
	f.ring[(f.head+f.n)%len(f.ring)] = q
	f.n++
}

func (f *fifo[T]) pop() queued[T] {
	q := f.ring[f.head]
	f.ring[f.head] = queued[T]{}
	f.head = (f.head + 1) % len(f.ring)
	f.n--
	if f.n == 0 && len(f.ring) > 64 {
		f.ring, f.head = nil, 0
	}
	return q
}
