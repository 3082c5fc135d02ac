package partition

import (
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// admit takes a routed event: each of its deliveries that is not known from before goes to its lane, or behind what waits
// already, or is recorded as what it is. From Route on, the cursor stays below the event until each has an outcome.
func (l *loop) admit(r routed) error {
	if r.err != nil {
		return r.err
	}
	defer l.ahead.Release(r.weight)
	seq := r.event.Seq
	l.events.ConsumedOf(r.event.Tenant, seq)
	l.events.Consumed(r.lowest-1, r.above)
	if len(r.results) == 0 {
		return l.admitUnmatched(r)
	}
	fresh := r.results[:0]
	for _, one := range r.results {
		if !l.state.Known(owner.Key{Seq: seq, Endpoint: one.Endpoint.ID}) {
			fresh = append(fresh, one)
		}
	}
	l.state.RouteAhead(seq, len(fresh), r.lowest)
	l.metrics.routed.Inc()
	if l.erased.Covers(r.event.Tenant, r.event.Subject, seq) {
		return l.admitErased(fresh)
	}
	now := l.o.Clock()
	for i := range fresh {
		if err := l.admitOne(&fresh[i], r.event.Subject, now); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) admitUnmatched(r routed) error {
	ev := r.event
	if l.state.Known(owner.Key{Seq: ev.Seq}) {
		l.state.RouteAhead(ev.Seq, 0, r.lowest)
		return nil
	}
	l.state.RouteAhead(ev.Seq, 1, r.lowest)
	l.metrics.routed.Inc()
	return l.record(&relay.Outcome{
		Tenant: ev.Tenant, EventID: ev.ID, EventType: ev.Type, EventTime: ev.Time, AcceptTime: ev.AcceptTime, Seq: ev.Seq,
		State: relay.Unmatched, Reason: relay.ReasonNoMatch,
	}, true, false)
}

func (l *loop) admitOne(r *route.Routed, subject string, now time.Time) error {
	d := r.Delivery
	d.Deadline = deadline(r.Endpoint, d.AcceptTime)
	t := newTask(d, r.Endpoint, subject, r.Redacted, true)
	if r.Kind == route.Withhold {
		l.withheld(r, now)
		return l.record(t.outcome(relay.Withheld, r.Reason), true, false)
	}
	switch reason := l.closed(t.key.Endpoint, now); reason {
	case relay.ReasonNone:
	case relay.ReasonEndpointDeleted:
		return l.record(t.outcome(relay.Cancelled, reason), true, false)
	default:
		return l.record(t.outcome(relay.Parked, reason), true, false)
	}
	if behind := l.behind(t); behind || r.Kind == route.Later || !l.offer(t, now) {
		l.overtaken.set(t.key.Endpoint, behind)
		l.deferTask(t, now)
	}
	return nil
}

// overtaken are the endpoints whose deliveries wait for others: what is routed for them now will be routed again when its turn
// comes. The loop writes it and the reader reads it, a little late, which is no harm: what it takes for behind is fetched at once.
type overtaken struct {
	ids sync.Map // of endpoint ids
}

func (o *overtaken) has(endpointID string) bool {
	_, ok := o.ids.Load(endpointID)
	return ok
}

func (o *overtaken) set(endpointID string, behind bool) {
	switch {
	case behind == o.has(endpointID):
	case behind:
		o.ids.Store(endpointID, nil)
	default:
		o.ids.Delete(endpointID)
	}
}

// behind tells whether the delivery must wait for others of its endpoint, or for being routed again because the endpoint
// changed since.
func (l *loop) behind(t *task) bool {
	open, ready := l.state.Open(t.key.Endpoint)
	if ready > 0 || t.endpoint.Ordered && open > 0 {
		return true
	}
	current := l.snapshot.Endpoint(t.key.Endpoint)
	return current == nil || current.Version() != t.endpoint.Version()
}

// offer puts a task into its lane if there is room.
func (l *loop) offer(t *task, now time.Time) bool {
	if !l.lanes.Offer(t.key.Endpoint, t, len(t.delivery.Data), now) {
		return false
	}
	l.live[t.key] = t
	l.draining.enter(t)
	return true
}

// deadline is when a delivery is given up, on its endpoint's active clock.
func deadline(ep *registry.Endpoint, from time.Time) time.Time {
	return ep.ActiveTime(from).Add(ep.RetryFor)
}

// deferral is a new delivery that waits behind a full lane by its sequence alone; meta is the record that will say so if
// it waits for long.
type deferral struct {
	key   owner.Key
	meta  *relay.Outcome
	since time.Time
}

// withheld says in the log why a delivery is withheld: once a minute for an endpoint and reason, for all may be.
func (l *loop) withheld(r *route.Routed, now time.Time) {
	k := [2]string{r.Endpoint.ID, string(r.Reason)}
	if last, told := l.told[k]; told && now.Sub(last) < time.Minute {
		return
	}
	l.told[k] = now
	l.log.Warn("delivery withheld", "delivery", r.Delivery.ID, "endpoint", r.Endpoint.ID, "event", r.Delivery.EventID,
		"reason", r.Reason, "detail", r.Detail)
}

// maxDeferred bounds the new deliveries that wait without a record.
const maxDeferred = 1 << 16

func (l *loop) deferTask(t *task, now time.Time) {
	l.state.Defer(t.key, t.delivery.Deadline)
	l.deferred = append(l.deferred, deferral{t.key, t.outcome(relay.Parked, relay.ReasonLaneFull), now})
	l.hungry = true
}

// recordDeferred records as parked what has waited for as long as a delivery may wait in a lane, and the oldest above the
// bound. What was fetched meanwhile is recorded by whatever becomes of it.
func (l *loop) recordDeferred(now time.Time) error {
	n := 0
	for ; n < len(l.deferred); n++ {
		d := &l.deferred[n]
		if now.Sub(d.since) < l.o.Limits.MaxWait && len(l.deferred)-n <= maxDeferred {
			break
		}
		if e, ok := l.state.Get(d.key); ok && !e.Recorded && e.Status == owner.Ready {
			if err := l.record(d.meta, true, false); err != nil {
				return err
			}
		}
	}
	clear(l.deferred[:n])
	l.deferred = l.deferred[n:]
	return nil
}

// giveBack takes a task out of its lane's hands: it waits by its sequence, and a record says so.
func (l *loop) giveBack(t *task, reason relay.Reason) error {
	if t.cancelled != relay.ReasonNone {
		return l.conclude(t, relay.Cancelled, t.cancelled, nil)
	}
	l.leave(t)
	if !t.first {
		l.state.SetBusy(t.key, false)
		return nil
	}
	return l.record(t.outcome(relay.Parked, reason), true, false)
}

// flush gives back everything in an endpoint's lane.
func (l *loop) flush(endpointID string, reason relay.Reason) error {
	for _, t := range l.lanes.Flush(endpointID) {
		if err := l.giveBack(t, reason); err != nil {
			return err
		}
	}
	return nil
}
