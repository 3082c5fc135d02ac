package owner

// window counts, for each event above the cursor, the deliveries of it that no outcome records yet. It is a ring over
// contiguous sequences; its length is what was routed within the few seconds in which everything is recorded, and what was
// routed before others that are lower.
type window struct {
	base   uint64 // the cursor: everything at or below it is routed and recorded
	lowest uint64 // everything below it is routed, or gone from the log
	slots  []slot // ring; slots[head] is base+1
	head   int
	n      int
}

type slot struct {
	left     int32  // deliveries without an outcome; unrouted
	foldFrom uint64 // the last OUTCOMES sequence when the event, or a higher one, was routed
}

// unrouted marks an event that waits to be routed, or is gone.
const unrouted = -1

// top is the highest routed sequence.
func (w *window) top() uint64 { return w.base + uint64(w.n) }

// through is the sequence up to which all are routed.
func (w *window) through() uint64 { return max(w.base, min(w.top(), max(w.lowest, 1)-1)) }

// route notes the deliveries of seq. Everything below lowest that was not routed by now is gone.
func (w *window) route(seq uint64, n int, folded, lowest uint64) {
	if w.n == 0 {
		w.base = max(w.base, min(seq, lowest)-1)
	}
	for w.top() < seq {
		w.push(slot{left: unrouted, foldFrom: folded})
	}
	if s := w.at(seq); s != nil && s.left == unrouted {
		s.left = int32(n)
	}
	for gone := max(w.lowest, w.base+1); gone < min(lowest, w.top()+1); gone++ {
		if s := w.at(gone); s.left == unrouted {
			s.left = 0
		}
	}
	w.lowest = max(w.lowest, lowest)
	w.advance()
}

// at is the slot of a sequence; nil outside of the window.
func (w *window) at(seq uint64) *slot {
	if seq <= w.base || seq > w.top() {
		return nil
	}
	return &w.slots[(w.head+int(seq-w.base-1))%len(w.slots)]
}

// record takes one delivery off what seq waits for.
func (w *window) record(seq uint64) {
	s := w.at(seq)
	if s == nil {
		return
	}
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
