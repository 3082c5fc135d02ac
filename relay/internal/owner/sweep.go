package owner

import (
	"cmp"
	"slices"
)

// Want is what an endpoint can take from a sweep.
type Want struct {
	Endpoint string
	Room     int
	Ordered  bool // only its lowest open delivery, and those right behind it
}

// Sweep takes the next Ready deliveries for those who want some, at most limit, in ascending order of their
// sequences, and makes them Busy. It begins at the sequence from and begins anew from the lowest when nothing is left above
// it: the returned next is where the following call should begin. So a block of EVENTS is read once for
// everybody (the elevator). Events above Routed are left alone: after a start they may yet have deliveries to
// come before them.
func (s *State) Sweep(from uint64, wants []Want, limit int) (taken []Entry, next uint64) {
	for _, start := range []uint64{from, 0} {
		for _, w := range wants {
			taken = s.collect(taken, w, start, limit)
		}
		if len(taken) > 0 || from == 0 {
			break
		}
	}
	slices.SortFunc(taken, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	if len(taken) > limit {
		taken = taken[:limit]
	}
	for i := range taken {
		s.SetStatus(taken[i].Key, Busy)
		taken[i].Status = Busy
		next = taken[i].Seq + 1
	}
	return taken, next
}

// collect appends what one endpoint can have, without changing anything.
func (s *State) collect(into []Entry, w Want, start uint64, limit int) []Entry {
	ep := s.endpoints[w.Endpoint]
	if ep == nil || ep.ready == 0 || w.Room <= 0 {
		return into
	}
	room := min(w.Room, limit)
	if w.Ordered {
		start = 0
	}
	top := s.window.top()
	ep.open.ascend(start, func(e *entry) bool {
		if e.seq > top || room == 0 {
			return false
		}
		switch e.status() {
		case Ready:
			into = append(into, s.export(Key{e.seq, w.Endpoint}, *e))
			room--
		case Busy:
			// In a lane already, ahead of what follows.
		default:
			if w.Ordered {
				return false
			}
		}
		return true
	})
	return into
}
