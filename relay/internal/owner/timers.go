package owner

import (
	"container/heap"
	"time"
)

// timers are the times at which waiting deliveries become ready. A timer is not taken out when its delivery's state
// changes: State.due tells a stale one when its time comes.
type timers struct{ heap timerHeap }

type timer struct {
	due int64 // nanoseconds since 1970
	key Key
}

func (t *timers) add(one timer) { heap.Push(&t.heap, one) }

func (t *timers) pop(now time.Time) (timer, bool) {
	if len(t.heap) == 0 || t.heap[0].due > now.UnixNano() {
		return timer{}, false
	}
	return heap.Pop(&t.heap).(timer), true
}

func (t *timers) next() time.Time {
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return time.Unix(0, t.heap[0].due)
}

type timerHeap []timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	*h = (*h)[:last]
	return t
}
