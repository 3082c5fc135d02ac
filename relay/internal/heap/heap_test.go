package heap

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type number struct{ n, place int }

func (a *number) Before(b *number) bool { return a.n < b.n }
func (a *number) Place() *int           { return &a.place }

// Whatever is pushed, moved and taken out, the first is the least, and each item knows its place.
func TestHeap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var h Heap[*number]
		var in []*number
		pick := func() (int, *number) {
			i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
			return i, in[i]
		}
		draw := func() int { return rapid.IntRange(0, 20).Draw(t, "n") }
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if h.Len() != len(in) {
					t.Fatalf("%d items, want %d", h.Len(), len(in))
				}
				for _, one := range in {
					if h.items[one.place] != one {
						t.Fatalf("item %d is not at its place", one.n)
					}
					if one.Before(h.First()) {
						t.Fatalf("the first is %d, and there is %d", h.First().n, one.n)
					}
				}
			},
			"push": func(*rapid.T) {
				in = append(in, &number{n: draw()})
				h.Push(in[len(in)-1])
			},
			"pop": func(t *rapid.T) {
				if len(in) > 0 {
					first := h.Pop()
					in = slices.DeleteFunc(in, func(one *number) bool { return one == first })
				}
			},
			"remove": func(*rapid.T) {
				if len(in) > 0 {
					i, one := pick()
					h.Remove(one)
					in = slices.Delete(in, i, i+1)
				}
			},
			"fix": func(*rapid.T) {
				if len(in) > 0 {
					_, one := pick()
					one.n = draw()
					h.Fix(one)
				}
			},
			"clear": func(*rapid.T) {
				if len(in) > 20 {
					h.Clear()
					in = nil
				}
			},
		})
	})
}
