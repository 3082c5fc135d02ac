package lane

import (
	"container/heap"
	"time"
)

// pace holds those back who send the most while the machine is the bottleneck. More in flight makes nothing faster then: each
// attempt waits for its turn on a processor, and so does everybody else's. So what the heavy tenants have in flight together shrinks
// until hardly more is ready to run than the machine has processors, and grows again when less is.
type pace struct {
	most    int       // slots that the heavy ones may hold together
	bound   int       // of most: all slots
	held    int       // that they hold
	full    bool      // they found none since the last look
	looked  time.Time // at the pressure
	tallied time.Time // at who sends how much
}

const (
	// lookEvery is how often the pressure is looked at, and tallyEvery how often who sends how much.
	lookEvery  = 5 * time.Millisecond
	tallyEvery = 100 * time.Millisecond
	// crowded and calm are ready goroutines for each processor: above the one less is let out, below the other more.
	crowded = 6
	calm    = 3
	// leastPace is what is let out in any case, for each processor.
	leastPace = 3
)

func newPace(slots int) pace { return pace{most: slots, bound: slots} }

func (p *pace) room() bool {
	if p.held < p.most {
		return true
	}
	p.full = true
	return false
}

// Press tells how many goroutines are ready to run and how many processors there are for them; ready is asked only where it is time
// to know.
func (l *Lanes[T]) Press(now time.Time, processors int, ready func() int) {
	l.tally(now)
	p := &l.pace
	if since := now.Sub(p.looked); since >= 0 && since < lookEvery {
		return
	}
	p.looked = now
	least := min(p.bound, leastPace*processors)
	switch n := ready(); {
	case n > crowded*processors:
		p.most = max(least, min(p.most, p.held)*3/4)
	case n < calm*processors && p.full:
		p.most = min(p.bound, p.most+max(1, p.most/4))
	}
	p.full = false
}

// tally says who is heavy: who sends as much as all do on average, or more. One who sends alone holds nobody up.
func (l *Lanes[T]) tally(now time.Time) {
	if since := now.Sub(l.pace.tallied); since >= 0 && since < tallyEvery {
		return
	}
	l.pace.tallied = now
	sent, senders := 0, 0
	for _, t := range l.tenants {
		if t.sent > 0 {
			sent, senders = sent+t.sent, senders+1
		}
	}
	for _, t := range l.tenants {
		l.setHeavy(t, senders > 1 && t.sent > 0 && t.sent*senders >= sent)
		t.sent = 0
	}
}

func (l *Lanes[T]) sent(t *tenant[T]) { t.sent++ }

func (l *Lanes[T]) setHeavy(t *tenant[T], heavy bool) {
	if t.heavy == heavy {
		return
	}
	for c := range t.groups {
		if g := &t.groups[c]; g.first != nil {
			heap.Remove(l.orderOf(g), g.at)
		}
	}
	t.heavy = heavy
	if heavy {
		l.pace.held += t.held
	} else {
		l.pace.held -= t.held
	}
	for c := range t.groups {
		if g := &t.groups[c]; g.first != nil {
			heap.Push(l.orderOf(g), g)
		}
	}
}
