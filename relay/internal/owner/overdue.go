package owner

import (
	"math"
	"time"
)

// Overdue are deliveries of an endpoint, at most limit of them, whose deadline is before active, a time on the endpoint's
// active clock. What is Held has no deadline, and what is Busy comes back by itself; both are left out. It looks into those
// blocks of 512 alone that may have one: a million deliveries that have time left cost two thousand comparisons.
func (s *State) Overdue(endpointID string, active time.Time, limit int) []Entry {
	ep := s.endpoints[endpointID]
	if ep == nil {
		return nil
	}
	var late []Entry
	ep.open.overdue(clampSeconds(active.Add(time.Second-1)), func(e *entry) bool {
		late = append(late, s.export(Key{e.seq, endpointID}, *e))
		return len(late) < limit
	})
	return late
}

// ends is the time from which on an entry's deadline can end it: never while it is held, or busy.
func (e *entry) ends() uint32 {
	if e.busy() || e.waits() == Held {
		return math.MaxUint32
	}
	return e.deadline
}

// overdue calls yield for each entry that ends before now until it returns false, in ascending order of sequence. Of a block
// that it has seen whole it knows from then on when it is worth looking at again.
func (x *index) overdue(now uint32, yield func(*entry) bool) {
	var e entry
	for i := range x.blocks {
		b := &x.blocks[i]
		if b.soonest >= now {
			continue
		}
		soonest := uint32(math.MaxUint32)
		for j := range b.packed {
			e = b.at(j)
			ends := e.ends()
			if ends < now && !yield(&e) {
				return
			}
			soonest = min(soonest, ends)
		}
		b.soonest = soonest
	}
}
