package partition

import (
	"context"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// watchErasures hands the loop each newer set of tombstones.
func (l *loop) watchErasures(ctx context.Context) {
	for s := range l.o.Erasures.Updates(ctx) {
		select {
		case l.erasedC <- s:
		case <-ctx.Done():
			return
		}
	}
}

// adoptErasures goes by tombstones from here on: what is in flight of their subjects is cut off, and what waits in a lane ends
// when it is taken out. What is read from the log later is held against them there.
func (l *loop) adoptErasures(s *erasure.Snapshot) error {
	if s.Revision() < l.erased.Revision() {
		return nil
	}
	l.erased = s
	for _, t := range l.live {
		if t.cancelled != relay.ReasonErased && s.Covers(t.endpoint.Tenant, t.subject, t.key.Seq) {
			t.cancelled = relay.ReasonErased
			if t.cancel != nil {
				t.cancel()
			}
		}
	}
	return l.grant()
}

// admitErased records the end of deliveries that were erased before they began.
func (l *loop) admitErased(fresh []route.Routed) error {
	for i := range fresh {
		if err := l.record(outcomeOf(fresh[i].Delivery, relay.Cancelled, relay.ReasonErased), true, false); err != nil {
			return err
		}
	}
	return nil
}

// placeErased ends the delivery whose event was read, whatever for. One that is settled stays what it is.
func (l *loop) placeErased(f fetched) error {
	e := f.item.entry
	if _, open := l.state.Get(e.Key); open {
		if err := l.record(outcomeOf(l.identify(f.event, e), relay.Cancelled, relay.ReasonErased), !e.Recorded, false); err != nil {
			return err
		}
	}
	if f.item.reply != nil {
		f.item.reply(ErrGone)
	}
	return nil
}

// erase is what those who erase ask of an owner: one of the three.
type erase struct {
	Operation string `json:"operation"`
	// Events have no delivery that is open when it answers.
	Events []erasedEvent `json:"events,omitempty"`
	// Outcomes, a record of them, are appended; each is Retold.
	Outcomes []byte `json:"outcomes,omitempty"`
	// Past is an OUTCOMES sequence up to which no start reads any more when it answers.
	Past uint64 `json:"past,omitempty"`
}

// erasedEvent is an event without its subject and data.
type erasedEvent struct {
	Seq    uint64    `json:"seq"`
	ID     string    `json:"id"`
	Type   string    `json:"type"`
	Time   time.Time `json:"time"`
	Accept time.Time `json:"accept"`
}

// EndErased returns once the owner of a tenant's partition goes by tombstones that are at least of this revision, no
// delivery of an erased event is in a lane or in flight, and none of these events is open; what ended so is durable.
func (o Owners) EndErased(ctx context.Context, operation, tenant string, revision uint64, events []relay.Event) error {
	e := &erase{Operation: operation}
	for i := range events {
		ev := &events[i]
		e.Events = append(e.Events, erasedEvent{Seq: ev.Seq, ID: ev.ID, Type: ev.Type, Time: ev.Time, Accept: ev.AcceptTime})
	}
	return o.ask(ctx, o.Journal.Partition(tenant), request{Kind: kindErase, Tenant: tenant, Revision: revision, Erase: e})
}

// Retell has outcomes appended that take the place of earlier ones (see relay.Outcome.Retold), and returns once that is
// durable.
func (o Owners) Retell(ctx context.Context, operation, tenant string, outcomes []relay.Outcome) error {
	e := &erase{Operation: operation}
	for i := range outcomes {
		var err error
		if e.Outcomes, err = record.AppendOutcome(e.Outcomes, &outcomes[i]); err != nil {
			return err
		}
	}
	return o.ask(ctx, o.Journal.Partition(tenant), request{Kind: kindErase, Tenant: tenant, Erase: e})
}

// PassOutcomes returns once a checkpoint is saved from which on no start of the owner reads OUTCOMES at or below a sequence.
func (o Owners) PassOutcomes(ctx context.Context, operation, tenant string, seq uint64) error {
	e := &erase{Operation: operation, Past: seq}
	return o.ask(ctx, o.Journal.Partition(tenant), request{Kind: kindErase, Tenant: tenant, Erase: e})
}

// wish is asked for again and again until it is granted: then its caller gets the answer.
type wish struct {
	granted func() (bool, error)
	answer  reply
}

// erase takes the place of what the same operation asked for before: nobody waits for that any more.
func (l *loop) erase(r request, answer reply) {
	e := r.Erase
	if e == nil {
		answer(fmt.Errorf("unknown command %q", r.Kind))
		return
	}
	w := wish{answer: answer}
	switch {
	case e.Past > 0:
		w.granted = func() (bool, error) { return l.passed(e.Past), nil }
	case len(e.Outcomes) > 0:
		outcomes, err := record.DecodeOutcomes(e.Outcomes)
		if err != nil {
			answer(err)
			return
		}
		w.granted = func() (bool, error) { return true, l.retell(outcomes) }
	default:
		w.granted = func() (bool, error) { return l.endErased(r.Tenant, r.Revision, e.Events) }
	}
	if old, asked := l.wishes[e.Operation]; asked {
		old.answer(ErrUnavailable)
	}
	l.wishes[e.Operation] = w
}

// passed tells whether no start reads OUTCOMES at or below a sequence any more. Until then it has checkpoints saved
// more often than is usual.
func (l *loop) passed(seq uint64) bool {
	c := &l.checkpoint
	if c.safe.outcomes > seq {
		return true
	}
	if l.o.Clock().Sub(c.at) > time.Second {
		c.at = time.Time{}
	}
	return false
}

// grant looks at each wish.
func (l *loop) grant() error {
	for operation, w := range l.wishes {
		granted, err := w.granted()
		if err != nil {
			return err
		}
		if granted {
			delete(l.wishes, operation)
			l.afterSync(w.answer)
		}
	}
	return nil
}

// endErased ends what is open of events, and tells whether nothing is any more.
func (l *loop) endErased(tenant string, revision uint64, events []erasedEvent) (bool, error) {
	if l.erased.Revision() < revision {
		return false, nil
	}
	for _, t := range l.live {
		if t.cancelled == relay.ReasonErased && t.endpoint.Tenant == tenant {
			return false, nil
		}
	}
	if len(events) == 0 {
		return true, nil
	}
	all := true
	for _, id := range l.state.Endpoints() {
		if ep := l.snapshot.Endpoint(id); ep != nil && ep.Tenant != tenant {
			continue
		}
		for i := range events {
			ended, err := l.endOne(owner.Key{Seq: events[i].Seq, Endpoint: id}, tenant, &events[i])
			if err != nil {
				return false, err
			}
			all = all && ended
		}
	}
	for i := range events {
		all = all && events[i].Seq <= l.state.Routed() // what has yet to be routed ends there
	}
	return all, nil
}

// endOne ends an open delivery. One that is Busy is on its way between the log and its lane, and meets the tombstone there.
func (l *loop) endOne(k owner.Key, tenant string, ev *erasedEvent) (bool, error) {
	e, open := l.state.Get(k)
	switch {
	case !open:
		return true, nil
	case e.Status == owner.Busy:
		return false, nil
	}
	d := l.identify(&relay.Event{Tenant: tenant, ID: ev.ID, Type: ev.Type, Time: ev.Time, Seq: ev.Seq, AcceptTime: ev.Accept}, e)
	return true, l.record(outcomeOf(d, relay.Cancelled, relay.ReasonErased), !e.Recorded, false)
}

// retell appends what was told before. It says nothing new of any delivery.
func (l *loop) retell(outcomes []relay.Outcome) error {
	for i := range outcomes {
		if outcomes[i].Retold == 0 {
			continue
		}
		if err := l.record(&outcomes[i], false, false); err != nil {
			return err
		}
	}
	return nil
}
