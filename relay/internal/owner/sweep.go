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

// elevator is where the sweep that is under way stands, and where it ends: what was routed when it began. Without an end, an
// endpoint whose backlog grows as fast as it drains would never come back to what it left behind.
type elevator struct{ at, end uint64 }

// Sweep takes the next Ready deliveries for those who want some, at most limit, in ascending order of their
// sequences, and makes them Busy. Calls go upwards through the log together, so that a block of EVENTS is read once for
// everybody, and begin anew from the lowest. An endpoint that has nothing ahead of the elevator gets what it has
// elsewhere: it does not wait for another one's backlog. Each gets the same share of limit at most; of more than limit
// wants the first ones count. Events above Routed are left alone: after a start they may yet have deliveries to come
// before them.
func (s *State) Sweep(wants []Want, limit int) []Entry {
	if len(wants) == 0 || limit <= 0 {
		return nil
	}
	top := s.Routed()
	if s.elevator.at > s.elevator.end {
		s.elevator = elevator{0, top}
	}
	at, end := s.elevator.at, s.elevator.end
	ahead := uint64(0) // the highest that somebody had ahead of the elevator
	share := max(1, limit/len(wants))
	var taken []Entry
	for _, w := range wants[:min(len(wants), limit)] {
		w.Room = min(w.Room, share)
		if w.Ordered {
			taken = s.collect(taken, &w, 0, top)
			continue
		}
		n := len(taken)
		taken = s.collect(taken, &w, at, end)
		if len(taken) > n {
			ahead = max(ahead, taken[len(taken)-1].Seq)
		}
		if at > 0 {
			taken = s.collect(taken, &w, 0, at-1)
		}
		taken = s.collect(taken, &w, end+1, top)
	}
	s.elevator.at = end + 1
	if ahead > 0 {
		s.elevator.at = ahead + 1
	}
	slices.SortFunc(taken, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	for i := range taken {
		s.SetBusy(taken[i].Key, true)
		taken[i].Status = Busy
	}
	return taken
}

// collect appends what one endpoint can have from first to last, and takes it off its room.
func (s *State) collect(into []Entry, w *Want, first, last uint64) []Entry {
	ep := s.endpoints[w.Endpoint]
	if ep == nil || ep.count[Ready] == 0 || w.Room <= 0 {
		return into
	}
	ep.open.ascend(first, func(e *entry) bool {
		if e.seq > last || w.Room == 0 {
			return false
		}
		switch e.status() {
		case Ready:
			into = append(into, s.export(Key{e.seq, w.Endpoint}, *e))
			w.Room--
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
