package partition

import (
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/breaker"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/retry"
)

// finish takes a courier's result: the one place where a verdict becomes a state.
func (l *loop) finish(r result) error {
	t, now := r.task, l.o.Clock()
	if r.attempt != nil {
		t.attempts = r.attempt.Number
		l.metrics.attempt(r.attempt)
		l.countAttempt(&r, now)
	}
	t.progress = r.progress
	if !r.final {
		if t.turn != nil {
			t.turn <- l.lanes.Charge(&t.ticket, now)
		}
		o := t.outcome(relay.Pending, relay.ReasonChunkAccepted)
		o.Attempt = r.attempt
		err := l.record(o, t.first, true)
		t.first = false
		return err
	}
	l.land(t)
	change := l.lanes.Done(&t.ticket, lane.Result{
		Healthy: r.verdict.Healthy, Uncounted: r.attempt == nil || !courier.Counts(r.verdict),
	}, now)
	if err := l.decide(t, r, now); err != nil {
		return err
	}
	return l.react(t, r, change)
}

// mendWithin is after what time at most a delivery is tried again that we could not send for a fault of our own.
const mendWithin = 10 * time.Minute

// decide records what the verdict makes of the delivery.
func (l *loop) decide(t *task, r result, now time.Time) error {
	v := r.verdict
	switch v.Kind {
	case relay.VerdictDone:
		return l.conclude(t, relay.Delivered, v.Reason, r.attempt)
	case relay.VerdictDead:
		return l.conclude(t, relay.Dead, v.Reason, r.attempt)
	case relay.VerdictWithhold:
		return l.conclude(t, relay.Withheld, v.Reason, r.attempt)
	}
	closed := l.closed(t.key.Endpoint, now)
	switch {
	case t.cancelled != relay.ReasonNone:
		return l.conclude(t, relay.Cancelled, t.cancelled, r.attempt)
	case closed == relay.ReasonEndpointDeleted:
		return l.conclude(t, relay.Cancelled, closed, r.attempt)
	case v.Kind == relay.VerdictHold:
		return l.conclude(t, relay.Held, v.Reason, r.attempt)
	case v.Reason == relay.ReasonInterrupted && closed != relay.ReasonNone:
		return l.conclude(t, relay.Parked, closed, r.attempt)
	case v.Reason == relay.ReasonInterrupted:
		// Ended by us: it is open, and ready at once when it may be sent again.
		return l.conclude(t, relay.Pending, v.Reason, r.attempt)
	}
	ep := l.snapshot.Endpoint(t.key.Endpoint)
	if ep == nil {
		ep = t.endpoint
	}
	active := ep.ActiveTime(now)
	// Accepted chunks are attempts too, and no failures.
	failures := t.attempts - t.progress.Next
	due, dead := l.o.Schedule.Decide(failures, t.delivery.Deadline, v.After, active, retry.Backoff)
	if v.Kind == relay.VerdictPark {
		// It is for us to mend, not for the receiver, and is to go out soon after it was.
		o := t.outcome(relay.Parked, v.Reason)
		o.Attempt, o.Due = r.attempt, now.Add(min(l.o.Schedule.Next(failures, retry.Backoff), mendWithin))
		return l.close(t, o)
	}
	if dead {
		return l.conclude(t, relay.Dead, relay.ReasonDeadline, r.attempt)
	}
	if closed != relay.ReasonNone && v.After == 0 {
		return l.conclude(t, relay.Parked, closed, r.attempt)
	}
	o := t.outcome(relay.Retrying, v.Reason)
	o.Attempt, o.Due = r.attempt, now.Add(due.Sub(active))
	return l.close(t, o)
}

// react does what a result means for the endpoint's other deliveries.
func (l *loop) react(t *task, r result, change breaker.Change) error {
	id := t.key.Endpoint
	if r.verdict.Suspend && l.o.Suspend != nil {
		l.couriers.Go(func() { l.o.Suspend(l.work, id, r.verdict.Reason) })
	}
	if change == breaker.Opened || change == breaker.FailedAgain {
		if change == breaker.Opened {
			l.log.Warn("breaker opened", "endpoint", id, "reason", r.verdict.Reason)
			l.alertBreaker(alert.BreakerOpened, t, r.verdict.Reason)
		}
		return l.flush(id, relay.ReasonBreakerOpen)
	}
	if change == breaker.Recovered {
		l.log.Info("breaker closed", "endpoint", id)
		l.alertBreaker(alert.BreakerClosed, t, relay.ReasonNone)
	}
	open, ready := l.state.Open(id)
	l.hungry = l.hungry || ready > 0
	if _, unsettled := l.state.Get(t.key); t.endpoint.Ordered && open > 0 && unsettled {
		return l.flush(id, relay.ReasonBehindParked)
	}
	return nil
}

// conclude records the state in which a task leaves its lane.
func (l *loop) conclude(t *task, state relay.DeliveryState, reason relay.Reason, attempt *relay.Attempt) error {
	o := t.outcome(state, reason)
	o.Attempt = attempt
	return l.close(t, o)
}

func (l *loop) close(t *task, o *relay.Outcome) error {
	l.leave(t)
	if err := l.record(o, t.first, false); err != nil {
		return err
	}
	t.first = false
	for _, w := range t.waiters {
		if o.State == relay.Cancelled {
			l.afterSync(w)
		} else {
			w(ErrSettled)
		}
	}
	return nil
}

// leave takes a task out of those that are in a lane or in flight, if it is among them.
func (l *loop) leave(t *task) {
	if l.live[t.key] == t {
		delete(l.live, t.key)
		l.draining.leave(t)
	}
}

// land takes a task out of those in flight.
func (l *loop) land(t *task) {
	l.draining.land(t)
	last := len(l.flying) - 1
	l.flying[t.slot] = l.flying[last]
	l.flying[t.slot].slot = t.slot
	l.flying[last] = nil
	l.flying = l.flying[:last]
	t.cancel()
}
