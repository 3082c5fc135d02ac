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

	w.do(func(l *loop) { l.draining.lastFresh = time.Now().Add(time.Hour) }) // as if new ones came all the time
	w.state("ep", relay.EndpointActive)
	most := 0
	w.until("some of it", func() bool {
		most = max(most, underWay())
		return len(w.received()) > 300
	})
	if most > drainLeast {
		t.Errorf("%d of the backlog under way beside live traffic, want at most %d", most, drainLeast)
	}
	w.do(func(l *loop) { l.draining.lastFresh = time.Time{} })
	w.until("more of it", func() bool { return underWay() > drainLeast })
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
	d := drain{}
	if got := d.room(now); got != fetchAtMost {
		t.Errorf("room for %d where nothing is new", got)
	}
	fresh, old := &task{}, &task{backlog: true}
	for range 100 {
		d.takeOff(fresh, now)
	}
	for range 5 {
		d.enter(old)
		d.takeOff(old, now)
	}
	if got := d.room(now.Add(freshFor)); got != 15 {
		t.Errorf("room for %d beside 100 and 5 of the backlog, want 15", got)
	}
	for range 100 {
		d.land(fresh)
	}
	if got := d.room(now.Add(freshFor)); got != drainLeast-5 {
		t.Errorf("room for %d beside 5 of the backlog, want %d", got, drainLeast-5)
	}
	if got := d.room(now.Add(freshFor + 1)); got != fetchAtMost {
		t.Errorf("room for %d when nothing new came for long", got)
	}
}
