package journal

import "time"

// hold keeps the way to the disk free for those who publish a little while others flood. Whoever comes while a group is written and
// synced waits for the whole of it, and then for a sync of its own. So groups of those who flood take hardly longer than the others do,
// and have that way a small part of the time. How long groups take tells of everything that is short, of the disk and of processors
// alike, so their sizes and the pauses between them go by it, and by no figure of the machine's. One who floods alone, or beside others
// who do as well, is not held.
type hold struct {
	busy   bool         // a group of those who flood is under way
	next   time.Time    // before it there is none
	most   int          // events in it
	usual  float64      // seconds that a group of others takes; 0: not known
	gentle [2]publisher // who published last without flooding
}

// whose events a group has.
type whose uint8

const (
	anyones whose = iota
	gentle        // only of those who do not flood
	flood         // of those who do, held back for others
)

// publisher is when a share published.
type publisher struct {
	share string
	at    time.Time
}

const (
	// floodWaiting is how many events of one share wait for their answers where it floods, floodWaitingBytes how many bytes, and
	// floodFor how long it counts as one that does from then on.
	floodWaiting      = 128
	floodWaitingBytes = 1 << 20
	floodFor          = time.Second
	// floodLeast and floodMost bound the events of a group of those who flood beside others; floodEach is how many bytes an event may
	// have there on average.
	floodLeast = 32
	floodMost  = 1024
	floodEach  = 4 << 10
	// floodLonger is how many times as long as others a group of theirs may take.
	floodLonger = 1.5
	// usualShare is what the last group counts in the mean.
	usualShare = 1. / 16
	// holdFor is how many times as long as a group of theirs took none follows, and holdMost bounds it where the disk hung.
	holdFor  = 7
	holdMost = 250 * time.Millisecond
	// joinAfter is how long after their turn they share a group with others, where these never leave the way free.
	joinAfter = 50 * time.Millisecond
)

// watch notes that a share published, and sees whether it floods.
func (s *shares) watch(key string, one *share, now time.Time) {
	if s.last != key {
		if s.last != "" {
			s.crowded = now
		}
		s.last = key
	}
	if one.waiting > floodWaiting || one.uncommitted > floodWaitingBytes {
		one.flooded = now
	}
	if floods := now.Sub(one.flooded) < floodFor; floods != one.floods {
		s.setFloods(key, one, floods)
	}
	if !one.floods {
		s.hold.saw(key, now)
	}
}

// setFloods moves what a share has queued, in its order.
func (s *shares) setFloods(key string, one *share, floods bool) {
	from, to := &s.queue, &s.held
	if !floods {
		from, to = to, from
	}
	one.floods = floods
	for p, ok := from.PopOf(key, 0); ok; p, ok = from.PopOf(key, 0) {
		to.Push(key, p)
	}
}

func (h *hold) saw(key string, now time.Time) {
	if h.gentle[0].share != key {
		h.gentle[1] = h.gentle[0]
	}
	h.gentle[0] = publisher{key, now}
}

// beside tells whether somebody publishes who does not flood.
func (h *hold) beside(s *shares, now time.Time) bool {
	for _, p := range h.gentle {
		one := s.of[p.share]
		if now.Sub(p.at) < crowdedFor && (one == nil || !one.floods) {
			return true
		}
	}
	return false
}

// due tells whether it is the turn of those who flood.
func (h *hold) due(now time.Time, others bool) bool {
	since := now.Sub(h.next)
	return !h.busy && since >= 0 && (!others || since > joinAfter)
}

func (h *hold) wait(now time.Time) time.Duration {
	if h.busy {
		return 0 // its end tells
	}
	return max(0, h.next.Sub(now))
}

// bounds are those of a group of those who flood.
func (h *hold) bounds() bounds {
	n := max(floodLeast, h.most)
	return bounds{n, int64(n) * floodEach}
}

// over notes that a group was answered.
func (h *hold) over(of whose, began, now time.Time) {
	took := now.Sub(began)
	switch of {
	case gentle:
		if h.usual == 0 {
			h.usual = took.Seconds()
		}
		h.usual += (took.Seconds() - h.usual) * usualShare
	case flood:
		h.busy = false
		h.next = now.Add(min(holdFor*took, holdMost))
		if took.Seconds() > floodLonger*h.usual {
			h.most = max(floodLeast, h.most*3/4)
		} else {
			h.most = min(floodMost, h.most+1+h.most/8)
		}
	}
}
