package owner

// window counts, for each event above the cursor that was routed, the deliveries of it that no outcome records
// yet. It is a ring over contiguous sequences; its length is what was routed within the few seconds in which
// everything is recorded.
type window struct {
	base  uint64 // the cursor: everything at or below it is routed and recorded
	slots []slot // ring; slots[head] is base+1
	head  int
	n     int
}

type slot struct {
	left     int32
	foldFrom uint64 // the last OUTCOMES sequence when the event was routed
}

// top is the highest routed sequence.
func (w *window) top() uint64 { return w.base + uint64(w.n) }

// route adds seq and, as already done, every sequence between it and the top.
func (w *window) route(seq uint64, n int, folded uint64) {
	if w.n == 0 && seq > w.base+1 {
		w.base = seq - 1
	}
	for w.top() < seq {
		left := int32(0)
		if w.top()+1 == seq {
			left = int32(n)
		}
		w.push(slot{left: left, foldFrom: folded})
	}
	w.advance()
}

// record takes one delivery off what seq waits for.
func (w *window) record(seq uint64) {
	if seq <= w.base || seq > w.top() {
		return
	}
	s := &w.slots[(w.head+int(seq-w.base-1))%len(w.slots)]
	if s.left > 0 {
		s.left--
	}
	w.advance()
}

func (w *window) advance() {
	for w.n > 0 && w.slots[w.head].left == 0 {
		w.head = (w.head + 1) % len(w.slots)
		w.n--
		w.base++
	}
}

// foldFrom is where the outcomes of the events above the cursor begin.
func (w *window) foldFrom(folded uint64) uint64 {
	if w.n == 0 {
		return folded
	}
	return w.slots[w.head].foldFrom
}

func (w *window) push(s slot) {
	if w.n == len(w.slots) {
		grown := make([]slot, max(64, 2*len(w.slots)))
		for i := range w.n {
			grown[i] = w.slots[(w.head+i)%len(w.slots)]
		}
		w.slots, w.head = grown, 0
	}
	w.slots[(w.head+w.n)%len(w.slots)] = s
	w.n++
}
