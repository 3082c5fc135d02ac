package turn

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Each key's items come in their order, all of them come, and nothing stays of who is gone.
func TestQueueKeepsOrderAndLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q Queue[int]
		want := map[string][]int{}
		total, n := 0, 0
		key := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		pop := func() {
			peekKey, peeked, there := q.Next()
			k, got, ok := q.Pop(rapid.Int64Range(0, 50).Draw(t, "cost"))
			if ok != (total > 0) || ok != there {
				t.Fatalf("pop %v, next %v with %d items", ok, there, total)
			}
			if !ok {
				return
			}
			if k != peekKey || got != peeked || got != want[k][0] {
				t.Fatalf("popped %d of %s, next said %d of %s, want %v", got, k, peeked, peekKey, want[k])
			}
			want[k] = want[k][1:]
			total--
			if rapid.Bool().Draw(t, "charge") {
				q.Charge(k, rapid.Int64Range(0, 1000).Draw(t, "more"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if q.Len() != total {
					t.Fatalf("%d items, want %d", q.Len(), total)
				}
			},
			"push": func(t *rapid.T) {
				k := key.Draw(t, "key")
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					n++
					q.Push(k, n)
					want[k] = append(want[k], n)
					total++
				}
			},
			"pop": func(*rapid.T) { pop() },
			"pop of one": func(t *rapid.T) {
				k := key.Draw(t, "key")
				got, ok := q.PopOf(k, 1)
				if ok != (len(want[k]) > 0) || ok && got != want[k][0] {
					t.Fatalf("popped %d, %v of %v", got, ok, want[k])
				}
				if ok {
					want[k] = want[k][1:]
					total--
				}
			},
		})
		for total > 0 {
			pop()
		}
		q.Push("another", 1)
		if left := slices.Collect(maps.Keys(q.lines)); len(left) != 1 {
			t.Fatalf("lines of %v are kept although nobody waited", left)
		}
	})
}

// Of keys that always wait, each gets the same amount of cost served, to within one turn of the dearest; and one that comes anew is
// served after one turn at most.
func TestQueueSharesByCost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q Queue[int64]
		keys := rapid.IntRange(2, 6).Draw(t, "keys")
		cost := map[string]int64{}
		dearest := int64(0)
		for i := range keys {
			k := fmt.Sprint(i)
			cost[k] = rapid.Int64Range(1, 1000).Draw(t, "cost")
			dearest = max(dearest, cost[k])
			for range 2000 {
				q.Push(k, cost[k])
			}
		}
		served := map[string]int64{}
		for range 1500 {
			k, c, _ := q.Pop(1)
			q.Charge(k, c-1)
			served[k] += c
		}
		all := slices.Collect(maps.Values(served))
		if len(all) != keys || slices.Max(all)-slices.Min(all) > 2*dearest {
			t.Fatalf("served %v at costs %v", served, cost)
		}
		q.Push("late", 1)
		for range keys + 1 { // those whose turn it was already may come first, once each
			k, c, _ := q.Pop(1)
			if k == "late" {
				return
			}
			q.Charge(k, c-1)
		}
		t.Fatal("one that comes anew waits")
	})
}

func BenchmarkQueue(b *testing.B) {
	for _, keys := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			var q Queue[int]
			names := make([]string, keys)
			for i := range names {
				names[i] = fmt.Sprint("tenant-", i)
				q.Push(names[i], i)
				q.Push(names[i], i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k, _, _ := q.Pop(1)
				q.Push(k, i)
			}
		})
	}
}
