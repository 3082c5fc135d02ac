package partition

import (
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// What was parked is sent beside what is new by a few at a time, and by as many as may be once nothing new comes.
func TestDrainSparesLiveTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep", func(r *registry.Record) { r.Settings.Concurrency = 64 })
	underWay := func() (n int) {
		w.do(func(l *loop) { n = l.draining.backlog })
		return n
	}
	w.state("ep", relay.EndpointPaused)
	w.start()
	parked := w.many(2000)
	w.reachAll(parked, "ep", relay.Parked)

	const few = 4
	w.do(func(l *loop) {
		l.draining.lastFresh = time.Now().Add(time.Hour) // as if new ones came all the time
		l.draining.pace.Bound = few                      // and the machine had room for so many
	})
	w.state("ep", relay.EndpointActive)
	most := 0
	w.until("some of it", func() bool {
		most = max(most, underWay())
		return len(w.received()) > 300
	})
	if most > few {
		t.Errorf("%d of the backlog under way beside live traffic, want at most %d", most, few)
	}
	w.do(func(l *loop) { l.draining.lastFresh = time.Time{} })
	w.until("more of it", func() bool { return underWay() > few })
	w.reachAll(parked, "ep", relay.Delivered)
	w.do(func(l *loop) {
		if l.draining.backlog != 0 || l.draining.fresh != 0 {
			t.Errorf("at rest, %+v is on its way", l.draining)
		}
	})
	w.finish()
	w.settled()
}

// The more is new, the more of the backlog goes beside it; without anything new all that there is room for.
func TestDrainRoom(t *testing.T) {
	t.Parallel()
	now := time.Now()
	d := newDrain()
	if got := d.room(now); got != fetchAtMost {
		t.Errorf("room for %d where nothing is new", got)
	}
	d.press(now, 2, func() int { return 100 })
	fresh, old := &task{}, &task{backlog: true}
	for range 100 {
		d.takeOff(fresh, now)
	}
	for range 5 {
		d.enter(old)
		d.takeOff(old, now)
	}
	if got := d.room(now.Add(freshFor)); got != 5 {
		t.Errorf("room for %d beside 100 and 5 of the backlog, want 5", got)
	}
	d.press(now.Add(time.Second), 2, func() int { return 0 })
	if got := d.room(now.Add(freshFor)); got != 5 {
		t.Errorf("room for %d beside 100 and 5 of the backlog where nothing waits for a processor, want 5", got)
	}
	d.press(now.Add(2*time.Second), 2, func() int { return 100 })
	for range 99 {
		d.land(fresh)
	}
	if got := d.room(now.Add(freshFor)); got > 0 {
		t.Errorf("room for %d on a crowded machine beside 5 of the backlog, want none", got)
	}
	if got := d.room(now.Add(freshFor + 1)); got != fetchAtMost {
		t.Errorf("room for %d when nothing new came for long", got)
	}
}

// Beside what is new, a backlog whose receiver is slow goes out as fast as it takes it, and one that makes the machine the
// bottleneck a little at a time.
func TestDrainGoesByTheMachine(t *testing.T) {
	t.Parallel()
	now := time.Now()
	d := newDrain()
	ready := 0
	fill := func() {
		for range 100 {
			now = now.Add(10 * time.Millisecond)
			d.press(now, 2, func() int { return ready })
			d.takeOff(&task{}, now)
			for range d.room(now) {
				d.enter(&task{backlog: true})
			}
			d.land(&task{})
			if ready > 0 { // what is sent is soon done
				d.backlog = 0
			}
		}
	}
	if fill(); d.backlog != fetchAtMost {
		t.Errorf("%d of the backlog on its way where nothing waits for a processor, want %d", d.backlog, fetchAtMost)
	}
	ready = 100
	fill()
	if got := d.room(now); got != 2*drainLeast {
		t.Errorf("room for %d on a crowded machine, want %d", got, 2*drainLeast)
	}
}
