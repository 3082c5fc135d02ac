package partition

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/tally"
)

// tick is how often the loop looks at what only time changes.
const tick = 100 * time.Millisecond

// loop is one life of an owner. Its fields belong to the goroutine of loop.loop, but for the channels and what is
// said to be safe for others.
type loop struct {
	o       Options // never written
	log     *slog.Logger
	metrics *Metrics
	events  *journal.Events
	work    context.Context // until everything has stopped; safe

	state    *owner.State
	lanes    *lane.Lanes[*task]
	appender *journal.Appender // safe
	snapshot *registry.Snapshot
	erased   *erasure.Snapshot

	live       map[owner.Key]*task         // in a lane or in flight
	flying     []*task                     // in flight, in no order
	deferred   []deferral                  // oldest first
	configured map[string]registry.Version // the version that each endpoint's lane goes by
	purging    map[string]struct{}         // deleted endpoints with open deliveries
	tallies    map[string]*tally.Tally     // by endpoint: what came of its attempts
	forgot     time.Time                   // when tallies were last let go of
	told       map[[2]string]time.Time     // when the log last said so, by endpoint and reason
	overtaken  overtaken                   // safe
	draining   drain
	urgent     []fetchItem            // to be fetched before any sweep
	reopening  map[owner.Key]struct{} // settled deliveries among them, that a caller wants sent again
	replays    replays                // see reopen.go
	fetching   bool
	unreadable time.Time // until then nothing is fetched: something could not be read
	hungry     bool      // something parked may have room now
	stopping   bool
	workers    int

	waiting    []waiter        // for a sync
	settling   []settlement    // for a registry revision
	wishes     map[string]wish // of those who erase, by operation
	unsynced   bool            // something was appended since the last sync was asked for
	checkpoint checkpointing   // see checkpoint.go
	lastExpiry time.Time
	clockSeen  time.Time // when setBack looked at the clock last
	recording  recording // see record.go
	ready      ready     // see ready.go

	routedC    chan routed
	fetchC     chan []fetchItem
	fetchedC   chan fetched
	courierC   chan *task
	resultC    chan result
	commandC   chan command
	syncedC    chan synced
	snapshotC  chan *registry.Snapshot
	erasedC    chan *erasure.Snapshot
	savedC     chan saved
	dirtyC     chan struct{} // to keepSynced: there is something to sync
	hurryC     chan struct{} // to keepSynced: somebody waits for it
	intake     *intake
	ahead      *semaphore.Weighted // of what is routed
	endReading context.CancelFunc
	couriers   sync.WaitGroup
}

// loop runs until ctx ends and nothing is in flight any more, or until it cannot go on.
func (l *loop) loop(ctx context.Context) error {
	now := l.o.Clock()
	l.clockSeen = now
	l.erased = l.o.Erasures.Snapshot()
	l.adopt(l.o.Registry.Snapshot(), now)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	stop := ctx.Done()
	var graceOver <-chan time.Time
	for {
		var err error
		select {
		case r := <-l.routedC:
			err = l.admit(r)
		case r := <-l.resultC:
			err = l.finish(r)
		case f := <-l.fetchedC:
			err = l.place(f)
		case c := <-l.commandC:
			c.run(l)
			err = l.grant()
		case s := <-l.syncedC:
			err = l.synced(s)
		case s := <-l.savedC:
			l.saved(s)
		case s := <-l.snapshotC:
			err = l.adopt(s, l.o.Clock())
		case s := <-l.erasedC:
			err = l.adoptErasures(s)
		case <-ticker.C:
			err = l.housekeep(l.o.Clock())
		case <-wake.C:
		case <-l.o.Journal.Failed():
			err = l.o.Journal.Err()
		case <-l.o.Tenure.Lost:
			err = ErrLost
		case <-stop:
			stop, l.stopping = nil, true
			l.endReading()
			timer := time.NewTimer(l.o.StopGrace)
			defer timer.Stop()
			graceOver = timer.C
		case <-graceOver:
			l.interrupt(func(*task) bool { return true })
		}
		if err == nil {
			err = l.drain()
		}
		if err == nil {
			err = l.appendDue()
		}
		if err != nil {
			return err
		}
		if l.stopping {
			if len(l.flying) == 0 {
				return nil
			}
			continue
		}
		now = l.o.Clock()
		l.setBack(now)
		l.due(now)
		if err := l.dispatch(now); err != nil {
			return err
		}
		l.startFetch(now)
		if wait := l.idle(now); wait > 0 {
			wake.Reset(wait)
		}
	}
}

// minWake keeps the loop from spinning where what was due could not be done.
const minWake = time.Millisecond

// drainAtMost bounds how long the loop takes what is there before it looks at everything else again.
const drainAtMost = 128

// drain takes what has come in meanwhile without waiting: one turn through the loop serves many.
func (l *loop) drain() error {
	for range drainAtMost {
		var err error
		select {
		case r := <-l.resultC:
			err = l.finish(r)
		case r := <-l.routedC:
			err = l.admit(r)
		case f := <-l.fetchedC:
			err = l.place(f)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// idle is how long the loop can wait if nothing happens; 0: until its next tick.
func (l *loop) idle(now time.Time) time.Duration {
	if len(l.recording.bytes) > 0 {
		return recordFor
	}
	next := l.lanes.Wake()
	if due := l.state.NextDue(); !due.IsZero() && (next.IsZero() || due.Before(next)) {
		next = due
	}
	if next.IsZero() {
		return 0
	}
	return max(minWake, next.Sub(now))
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dispatch gives couriers what has its turn; nothing while the registry's changes are not heard, for an endpoint may have
// been paused, nor while those of the erasures are not, while the lease is not
// confirmed, or while the log does not take what would become of it.
func (l *loop) dispatch(now time.Time) error {
	l.lanes.Press(now, runtime.GOMAXPROCS(0), l.ready.count)
	l.draining.press(now, runtime.GOMAXPROCS(0), l.ready.count)
	for l.o.Registry.Err() == nil && l.o.Erasures.Err() == nil && l.o.Tenure.Held() && !l.appender.Stalled() {
		ticket, ok := l.lanes.Next(now)
		if !ok {
			break
		}
		t := ticket.Item
		if t.cancelled != relay.ReasonNone {
			l.lanes.Done(&ticket, lane.Result{Uncounted: true}, now)
			if err := l.conclude(t, relay.Cancelled, t.cancelled, nil); err != nil {
				return err
			}
			continue
		}
		if t.endpoint.Ordered {
			// What was sent before it must not be sent again after it.
			if err := l.append(); err != nil {
				return err
			}
		}
		t.ticket, t.started = ticket, now
		t.ctx, t.cancel = context.WithCancel(l.work)
		t.slot = len(l.flying)
		l.draining.takeOff(t, now)
		l.flying = append(l.flying, t)
		if len(l.flying) > l.workers {
			l.workers++
			l.couriers.Go(l.courier)
		}
		l.courierC <- t
	}
	return nil
}

// housekeep does what time alone brings about.
func (l *loop) housekeep(now time.Time) error {
	if !l.o.Tenure.Held() {
		l.interrupt(func(*task) bool { return true })
	}
	starved := l.lanes.Starved()
	for _, t := range l.flying {
		if lasts := now.Sub(t.started); lasts < lane.YieldAfter {
			continue
		} else if lasts < lane.SlowAfter {
			if starved {
				l.lanes.Yield(&t.ticket)
			}
			continue
		}
		l.lanes.Slow(&t.ticket)
		if t.first {
			// What lasts is recorded, so that it can be seen, and that the cursor can pass it.
			if err := l.record(t.outcome(relay.Pending, relay.ReasonSlow), true, true); err != nil {
				return err
			}
			t.first = false
		}
	}
	for _, t := range l.lanes.Expired(now) {
		if err := l.giveBack(t, relay.ReasonLaneFull); err != nil {
			return err
		}
		if t.endpoint.Ordered {
			// What came to the lane later must not be sent sooner.
			if err := l.flush(t.key.Endpoint, relay.ReasonBehindParked); err != nil {
				return err
			}
		}
	}
	if err := l.recordDeferred(now); err != nil {
		return err
	}
	l.expire(now)
	l.checkSettled(now)
	l.forgetTallies(now)
	if err := l.grant(); err != nil {
		return err
	}
	l.hungry = true
	l.metrics.observe(l)
	return l.startCheckpoint(now)
}

// setBack notices that the clock was set back. Lanes and breakers compare times by their monotonic readings and are not
// moved; the times of retries, which are the log's, have none.
func (l *loop) setBack(now time.Time) {
	before := l.clockSeen
	l.clockSeen = now
	if moved := now.Round(0).Sub(before.Round(0)); moved < -time.Second {
		by := now.Sub(before) - moved
		l.log.Warn("the clock was set back", "by", by)
		l.state.SetBack(by)
	}
}

// due makes ready what has waited its time; what its endpoint cannot have now is recorded as parked.
func (l *loop) due(now time.Time) {
	due := l.state.Due(now, 1024)
	l.hungry = l.hungry || len(due) > 0
	for _, e := range due {
		if reason := l.closed(e.Endpoint, now); reason != relay.ReasonNone {
			l.later(e, purposePark, reason)
		}
	}
}

// closed says why nothing can be sent to an endpoint now, if that is so.
func (l *loop) closed(endpointID string, now time.Time) relay.Reason {
	ep := l.snapshot.Endpoint(endpointID)
	switch {
	case ep == nil || ep.State == relay.EndpointDeleted:
		return relay.ReasonEndpointDeleted
	case ep.State == relay.EndpointPaused:
		return relay.ReasonEndpointPaused
	case ep.State == relay.EndpointSuspended:
		return relay.ReasonEndpointSuspended
	case ep.State == relay.EndpointContained:
		return relay.ReasonEndpointContained
	case !ep.Sendable():
		return relay.ReasonEndpointInactive
	}
	if open, probe := l.lanes.BreakerOpen(endpointID); open && now.Before(probe) {
		return relay.ReasonBreakerOpen
	}
	return relay.ReasonNone
}

// interrupt ends the attempts of those in flight that which names.
func (l *loop) interrupt(which func(*task) bool) {
	for _, t := range l.flying {
		if which(t) {
			t.cancel()
		}
	}
}
