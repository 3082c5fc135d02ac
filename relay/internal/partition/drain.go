package partition

import (
	"time"

	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
)

const (
	// drainLeast and drainShare say how much of the backlog may be on its way while new deliveries are sent, for what is sent beside
	// them costs them that much of the machine: so many for each that is new where these are many; otherwise so many for each
	// processor, and more while hardly anything waits for one, as where the backlog is limited by its receivers alone.
	drainLeast   = 1
	drainShare   = 0.1
	drainCrowded = 2
	drainCalm    = 1
	// drainBusy is from how many new deliveries in flight on the share alone counts, whatever waits.
	drainBusy = 16
	// freshFor is how long after the last new delivery there is nothing to be spared.
	freshFor = 250 * time.Millisecond
)

// drain is what is on its way of the backlog, of what a record says was parked or failed before, and beside it of what is new.
type drain struct {
	backlog   int // in lanes and in flight
	fresh     int // in flight
	lastFresh time.Time
	pace      lane.Pace
}

func newDrain() drain {
	return drain{pace: lane.Pace{Crowded: drainCrowded, Calm: drainCalm, Least: drainLeast, Bound: fetchAtMost}}
}

// press tells how many goroutines are ready to run; see lane.Pace.
func (d *drain) press(now time.Time, processors int, ready func() int) {
	d.pace.Press(now, processors, d.backlog, ready)
}

// room is how many more of the backlog may be fetched now.
func (d *drain) room(now time.Time) int {
	if now.Sub(d.lastFresh) > freshFor {
		return fetchAtMost
	}
	if d.fresh >= drainBusy {
		return int(drainShare*float64(d.fresh)) - d.backlog
	}
	return d.pace.Room(d.backlog)
}

// enter notes a task that comes to its lane, and leave one that leaves it or ends.
func (d *drain) enter(t *task) {
	if t.backlog {
		d.backlog++
	}
}

func (d *drain) leave(t *task) {
	if t.backlog {
		d.backlog--
	}
}

// takeOff notes a task that a courier gets, and land one that comes back.
func (d *drain) takeOff(t *task, now time.Time) {
	if !t.backlog {
		d.fresh++
		d.lastFresh = now
	}
}

func (d *drain) land(t *task) {
	if !t.backlog {
		d.fresh--
	}
}

// wants are the endpoints that have room for what is ready, with no more of the backlog together than there is room for.
func (l *loop) wants(now time.Time) []owner.Want {
	var wants, draining []owner.Want
	l.state.EachReady(func(id string, backlog int) {
		room := l.lanes.Room(id, now)
		if room <= 0 {
			return
		}
		ep := l.snapshot.Endpoint(id)
		w := owner.Want{Endpoint: id, Room: room, Ordered: ep != nil && ep.Ordered}
		if backlog == 0 {
			wants = append(wants, w)
		} else {
			draining = append(draining, w)
		}
	})
	left := l.draining.room(now)
	each := max(1, left/max(1, len(draining)))
	for _, w := range draining { // in no order: each has its turn
		if left <= 0 {
			break
		}
		w.Room = min(w.Room, each, left)
		left -= w.Room
		wants = append(wants, w)
	}
	return wants
}
