package lane

import "time"

// Pace bounds how much of what can wait is on its way while the machine is the bottleneck. More of it makes nothing faster then: each
// attempt waits for its turn on a processor, and so does everybody else's. So the bound shrinks until hardly more is ready to run than
// it allows for, and grows again when less is.
type Pace struct {
	Crowded, Calm int // goroutines ready to run, for each processor: above the one the bound shrinks, below the other it grows
	Least         int // what is let out in any case, for each processor
	Bound         int // what is let out at most

	most   int
	full   bool // there was no room since the last look
	looked time.Time
}

// lookEvery is how often the pressure is looked at.
const lookEvery = 5 * time.Millisecond

// Room is how much more may be on its way, beside what is.
func (p *Pace) Room(held int) int {
	room := min(p.most, p.Bound) - held
	p.full = p.full || room <= 0
	return max(0, room)
}

// Press tells how much is on its way, how many goroutines are ready to run and how many processors there are for them; ready is asked
// only where it is time to know.
func (p *Pace) Press(now time.Time, processors, held int, ready func() int) {
	if since := now.Sub(p.looked); since >= 0 && since < lookEvery {
		return
	}
	p.looked = now
	least := min(p.Bound, p.Least*processors)
	switch n := ready(); {
	case n > p.Crowded*processors:
		p.most = min(p.most, held) * 3 / 4
	case n < p.Calm*processors && p.full:
		p.most += max(1, p.most/4)
	}
	p.most = min(p.Bound, max(least, p.most))
	p.full = false
}

// heavy holds those back who send the most.
type heavy struct {
	pace    Pace
	held    int       // slots
	tallied time.Time // when it was looked who sends how much
}

// tallyEvery is how often it is looked who sends how much.
const tallyEvery = 100 * time.Millisecond

func newHeavy(slots int) heavy {
	return heavy{pace: Pace{Crowded: 6, Calm: 3, Least: 3, Bound: slots, most: slots}}
}

// Press tells how many goroutines are ready to run and how many processors there are for them; ready is asked only where it is time
// to know.
func (l *Lanes[T]) Press(now time.Time, processors int, ready func() int) {
	l.tally(now)
	l.heavy.pace.Press(now, processors, l.heavy.held, ready)
}

// tally says who is heavy: who sends as much as all do on average, or more. One who sends alone holds nobody up.
func (l *Lanes[T]) tally(now time.Time) {
	if since := now.Sub(l.heavy.tallied); since >= 0 && since < tallyEvery {
		return
	}
	l.heavy.tallied = now
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
			l.orderOf(g).Remove(g)
		}
	}
	t.heavy = heavy
	if heavy {
		l.heavy.held += t.held
	} else {
		l.heavy.held -= t.held
	}
	for c := range t.groups {
		if g := &t.groups[c]; g.first != nil {
			l.orderOf(g).Push(g)
		}
	}
}
