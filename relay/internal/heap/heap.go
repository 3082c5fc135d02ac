// Package heap is container/heap for items that know their places: an item can be moved when what it is ordered by changes, and taken
// out, and no type has to say again how items are swapped. Pure: one goroutine at a time.
package heap

import "container/heap"

// Item is what can be in one heap at a time.
type Item[T any] interface {
	// Before tells whether the item comes before another one.
	Before(T) bool
	// Place is where the heap notes the item's index. It means nothing while the item is in none.
	Place() *int
}

// Heap gives the item that comes first. Its zero value is empty.
type Heap[T Item[T]] struct{ items items[T] }

// Len counts the items.
func (h *Heap[T]) Len() int { return len(h.items) }

// First is the item that comes first; there must be one.
func (h *Heap[T]) First() T { return h.items[0] }

// Push adds an item.
func (h *Heap[T]) Push(item T) { heap.Push(&h.items, item) }

// Pop takes out the item that comes first; there must be one.
func (h *Heap[T]) Pop() T { return heap.Pop(&h.items).(T) }

// Remove takes out an item that is in the heap.
func (h *Heap[T]) Remove(item T) { heap.Remove(&h.items, *item.Place()) }

// Fix moves an item that is in the heap to where it belongs.
func (h *Heap[T]) Fix(item T) { heap.Fix(&h.items, *item.Place()) }

// Clear takes out all items and keeps the room for as many.
func (h *Heap[T]) Clear() {
	clear(h.items)
	h.items = h.items[:0]
}

type items[T Item[T]] []T

func (s items[T]) Len() int           { return len(s) }
func (s items[T]) Less(i, j int) bool { return s[i].Before(s[j]) }

func (s items[T]) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	*s[i].Place(), *s[j].Place() = i, j
}

func (s *items[T]) Push(x any) {
	item := x.(T)
	*item.Place() = len(*s)
	*s = append(*s, item)
}

func (s *items[T]) Pop() any {
	last := len(*s) - 1
	item := (*s)[last]
	var none T
	(*s)[last] = none
	*s = (*s)[:last]
	return item
}
