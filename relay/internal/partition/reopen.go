package partition

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// A replay sends settled deliveries again by reopening them, a few at a time. New events of an endpoint go behind what is ready for
// it, so an owner opens no more of them at once than leave the endpoint's live traffic its pace, and none while the endpoint
// cannot be sent to: what is not opened stays settled, and the replay comes again with it.

// Reopening asks for deliveries of one endpoint, in their order.
type Reopening struct {
	EndpointID string `json:"endpointId"`
	Items      []Ref  `json:"items"` // at most MaxReopening; their own EndpointID is not looked at
	// Missing asks for deliveries that the endpoint never had. The caller has made sure that none is recorded.
	Missing bool `json:"missing,omitempty"`
}

// MaxReopening bounds the deliveries of one command.
const MaxReopening = 64

// Reopened is what became of one delivery.
type Reopened string

// What can become of it.
const (
	ReopenedSent     Reopened = "sent"     // it is on its way again
	ReopenedOpen     Reopened = "open"     // it was on its way already, and is left alone
	ReopenedGone     Reopened = "gone"     // its event or its endpoint is no longer there
	ReopenedUnwanted Reopened = "unwanted" // the subscription in force does not name it; nothing is recorded
	ReopenedWithheld Reopened = "withheld" // policy withheld it, and a record says so
)

// ReopenAnswer is what an owner took of a Reopening.
type ReopenAnswer struct {
	// Results are those of the first items; the others were not looked at, for the endpoint has enough for now.
	Results []Reopened `json:"results,omitempty"`
	// Closed is why nothing can be sent to the endpoint now, if that is so.
	Closed relay.Reason `json:"closed,omitempty"`
	Error  string       `json:"error,omitempty"`
}

// Reopen has deliveries of an endpoint sent again that are settled, or that never were, in their order, under the policy in force now. It returns
// once what it says is durable.
func (o Owners) Reopen(ctx context.Context, partition int, r Reopening) (a ReopenAnswer, err error) {
	if err = o.tell(ctx, partition, request{Kind: kindReopen, Reopening: &r}, &a); err != nil {
		return a, err
	}
	return a, known(a.Error)
}

// Standing is how far an owner is.
type Standing struct {
	// Cursor is the EVENTS sequence up to which each event is routed, and each of its deliveries recorded in OUTCOMES at or
	// below Outcomes, which is durable.
	Cursor   uint64 `json:"cursor"`
	Outcomes uint64 `json:"outcomes"`
	Error    string `json:"error,omitempty"`
}

// Stand asks the owner of a partition how far it is.
func (o Owners) Stand(ctx context.Context, partition int) (s Standing, err error) {
	if err = o.tell(ctx, partition, request{Kind: kindStand}, &s); err != nil {
		return s, err
	}
	return s, known(s.Error)
}

// tell is ask for an answer that is more than an error.
func (o Owners) tell(ctx context.Context, partition int, r request, answer any) error {
	asked, err := json.Marshal(r)
	if err != nil {
		return err
	}
	got, err := o.Journal.Request(ctx, subject(partition), asked)
	if errors.Is(err, journal.ErrNotFound) {
		return ErrUnavailable
	} else if err != nil {
		return err
	}
	if err := json.Unmarshal(got, answer); err != nil {
		return fmt.Errorf("answer of the partition's owner: %w", err)
	}
	return nil
}

func known(text string) error {
	if text == "" {
		return nil
	}
	return decodeAnswer(text)
}

func (l *loop) obeyStand(ctx context.Context) []byte {
	var s Standing
	done := make(chan error, 1)
	ok := l.hand(ctx, command{answer: func(err error) { done <- err }, run: func(l *loop) {
		s = Standing{Cursor: l.state.Cursor(), Outcomes: l.state.Folded()}
		l.afterSync(func(err error) { done <- err })
	}})
	s.Error = awaited(ctx, done, ok)
	if s.Error != "" {
		s = Standing{Error: s.Error}
	}
	return encoded(s)
}

func (l *loop) obeyReopen(ctx context.Context, r *Reopening) []byte {
	if r == nil || len(r.Items) > MaxReopening {
		return encoded(ReopenAnswer{Error: "not a reopening"})
	}
	batch := &reopening{asked: *r, done: make(chan error, 1)}
	ok := l.hand(ctx, command{answer: func(err error) { batch.done <- err }, run: func(l *loop) { l.reopen(batch) }})
	if text := awaited(ctx, batch.done, ok); text != "" {
		return encoded(ReopenAnswer{Error: text})
	}
	return encoded(batch.answer)
}

func awaited(ctx context.Context, done <-chan error, handed bool) string {
	if !handed {
		return encodeAnswer(ErrUnavailable)
	}
	select {
	case err := <-done:
		if err == nil {
			return ""
		}
		return encodeAnswer(err)
	case <-ctx.Done():
		return encodeAnswer(ErrUnavailable)
	}
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte("{}")
	}
	return b
}

// reopening is a Reopening under way. It belongs to the loop until done.
type reopening struct {
	asked  Reopening
	answer ReopenAnswer
	left   int   // items that were taken and have no result yet
	err    error // one of them could not be looked at
	done   chan error
}

// result notes what became of an item that is not to be recorded, or is.
func (l *loop) result(r *reopening, i int, what Reopened) {
	r.answer.Results[i] = what
	if r.left--; r.left == 0 {
		l.afterSync(func(err error) { r.done <- cmp.Or(err, r.err) })
	}
}

// reopen takes as many of the items as the endpoint has room for.
func (l *loop) reopen(r *reopening) {
	id, now := r.asked.EndpointID, l.o.Clock()
	if l.stopping {
		r.done <- ErrUnavailable
		return
	}
	ep := l.snapshot.Endpoint(id)
	gone := ep == nil || ep.State == relay.EndpointDeleted
	room := len(r.asked.Items)
	if !gone {
		if r.answer.Closed = l.closed(id, now); r.answer.Closed != relay.ReasonNone {
			r.done <- nil
			return
		}
		room = l.replays.room(ep, l.readyFor(id))
	}
	n := min(room, len(r.asked.Items))
	if n == 0 {
		r.done <- nil
		return
	}
	r.answer.Results, r.left = make([]Reopened, n), n
	for i := range n {
		if gone {
			l.result(r, i, ReopenedGone)
			continue
		}
		l.reopenOne(r, i)
	}
}

func (l *loop) readyFor(endpointID string) int {
	_, ready := l.state.Open(endpointID)
	return ready
}

// reopenOne has the event of one item read, if nothing of it is under way.
func (l *loop) reopenOne(r *reopening, i int) {
	ref := r.asked.Items[i]
	k := owner.Key{Seq: ref.Seq, Endpoint: r.asked.EndpointID}
	_, open := l.state.Get(k)
	_, live := l.live[k]
	_, reopening := l.reopening[k]
	switch {
	case open, live, reopening:
		l.result(r, i, ReopenedOpen)
		return
	case ref.Seq > l.state.Routed():
		r.err = ErrUnavailable // just after a start: it is yet to be read again
		l.result(r, i, ReopenedGone)
		return
	case ref.Seq == 0:
		l.result(r, i, ReopenedGone)
		return
	}
	l.reopening[k] = struct{}{}
	l.replays.begin(k)
	item := fetchItem{
		entry:   owner.Entry{Key: k, Attempts: ref.Attempts, Recorded: true},
		purpose: purposeRetry, reason: relay.ReasonReplayed, deliveryID: ref.DeliveryID, redacted: ref.Redacted,
	}
	if r.asked.Missing {
		item.purpose = purposeOpen
	}
	item.reply = func(err error) {
		what := ReopenedSent
		switch {
		case errors.Is(err, ErrUnavailable):
			r.err = err
			what = ReopenedGone
		case errors.Is(err, errUnwanted):
			what = ReopenedUnwanted
		case errors.Is(err, errWithheld):
			what = ReopenedWithheld
		case err != nil:
			what = ReopenedGone
		}
		if what != ReopenedSent {
			l.replays.end(k)
		}
		l.result(r, i, what)
	}
	l.urgent = append(l.urgent, item)
}

// What becomes of a delivery that the endpoint never had, beside being sent.
var (
	errUnwanted = errors.New("the subscription in force does not name the event")
	errWithheld = errors.New("the delivery is withheld")
)

// placeOpen opens a delivery that the endpoint never had, if the policy in force now wants it sent.
func (l *loop) placeOpen(f fetched) error {
	k, r, now := f.item.entry.Key, f.routed, l.o.Clock()
	ep := l.snapshot.Endpoint(k.Endpoint)
	if refused := retryRefused(f.item.deliveryID, relay.DeliveryID(f.event.Tenant, f.event.ID, k.Endpoint), ep); refused != nil {
		f.item.reply(refused)
		return nil
	}
	if r.Endpoint == nil || r.Kind == route.Skip || ep.Tenant != f.event.Tenant {
		f.item.reply(errUnwanted)
		return nil
	}
	o := outcomeOf(r.Delivery, relay.Retrying, relay.ReasonReplayed)
	o.Due, o.Deadline, o.Redacted = now, deadline(ep, now), r.Redacted
	var answer error
	if r.Kind == route.Withhold {
		l.withheld(&r, now)
		o.State, o.Reason, o.Due = relay.Withheld, r.Reason, time.Time{}
		answer = errWithheld
	}
	if err := l.record(o, false, false); err != nil {
		return err
	}
	f.item.reply(answer)
	return nil
}

// replays counts, by endpoint, what was reopened and is on its way since.
type replays struct {
	keys      map[owner.Key]struct{}
	endpoints map[string]int
}

func (r *replays) begin(k owner.Key) {
	if r.keys == nil {
		r.keys, r.endpoints = map[owner.Key]struct{}{}, map[string]int{}
	}
	r.keys[k] = struct{}{}
	r.endpoints[k.Endpoint]++
}

// passed notes that a delivery came to a further state: it no longer stands in front of live traffic, or is among what is
// ready.
func (r *replays) passed(o *relay.Outcome) {
	if len(r.keys) > 0 && o.State != relay.Pending && o.Reason != relay.ReasonReplayed {
		r.end(owner.Key{Seq: o.Seq, Endpoint: o.EndpointID})
	}
}

func (r *replays) end(k owner.Key) {
	if _, ok := r.keys[k]; !ok {
		return
	}
	delete(r.keys, k)
	if r.endpoints[k.Endpoint]--; r.endpoints[k.Endpoint] == 0 {
		delete(r.endpoints, k.Endpoint)
	}
}

// room is how many more may be opened for an endpoint that has so many ready: half of its concurrency, so that the other half is
// always there for live traffic; one at a time where it is ordered or has a rate, or where others wait already.
func (r *replays) room(ep *registry.Endpoint, ready int) int {
	under := r.endpoints[ep.ID]
	most := max(1, ep.Concurrency/2)
	if ep.Ordered || ep.RateLimit > 0 || ready > under {
		most = 1
	}
	return max(0, most-under)
}
