// Package route decides who may have an event and what of it: it matches endpoints, applies each one's policy, and asks its
// filter about what is left. It promises that what it hands on holds nothing that policy removed, and that a doubt
// (a filter or a policy that fails) withholds the delivery. It is the last place that sees the raw event. A value in,
// values out: no I/O, no clock.
package route

import (
	"fmt"
	"iter"
	"runtime/debug"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Routed is what became of one event for one endpoint.
type Routed struct {
	Kind     Kind
	Endpoint *registry.Endpoint
	// Delivery holds what identifies it; its Data and Subject are set for Send alone.
	Delivery *relay.Delivery
	// Reason says why the delivery is withheld.
	Reason relay.Reason
	// Detail is for the log: it names the rule or place that failed, never content.
	Detail string
	// Redacted counts the fields that policy dropped, masked or replaced.
	Redacted int
}

// Kind is a route's result.
type Kind uint8

// Send: the endpoint is to have the event. Withhold: it would, but nothing may leave. Skip: it does not want it (only from
// One; Handle leaves those out). Later: it is to have it, and what of it One will say when its turn comes (only from Handle).
const (
	Send Kind = iota
	Withhold
	Skip
	Later
)

// clockSkew is by how much the clocks of the processes that accept events and register endpoints may differ: an event is not
// withheld from an endpoint for having been accepted just before it by another clock.
const clockSkew = time.Minute

// Handle yields, for each endpoint whose subscription names the event, what becomes of it. An event that yields nothing
// is unmatched. Endpoints that were never approved, and those made after the event was accepted, have no claim to
// it, nor have sandbox endpoints to real ones and the others to synthetic ones. Where behind says that an endpoint has others to be sent first, and no filter decides, policy is left for later: it would be
// applied again then. A nil behind is none.
func Handle(ev *relay.Event, snapshot *registry.Snapshot, behind func(endpointID string) bool) iter.Seq[Routed] {
	return func(yield func(Routed) bool) {
		var shared bodies
		for ep := range snapshot.Match(ev.Tenant, ev.Type) {
			if ep.State == relay.EndpointPending || ep.State == relay.EndpointUnverified || !ep.Takes(ev.Synthetic) || ev.AcceptTime.Before(ep.CreateTime.Add(-clockSkew)) {
				continue
			}
			if behind != nil && ep.Filter == nil && ep.Err == nil && behind(ep.ID) {
				if !yield(Routed{Kind: Later, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint)}) {
					return
				}
				continue
			}
			if r := one(ev, ep, &shared); r.Kind != Skip && !yield(r) {
				return
			}
		}
	}
}

// One is what becomes of an event for one endpoint that had a claim to it before: a retry, or one that was parked. The policy in
// force now decides.
func One(ev *relay.Event, ep *registry.Endpoint) Routed {
	if ep.Err != nil && ep.State != relay.EndpointDeleted {
		// What it would match may be what cannot be read; see one.
		return Routed{Kind: Send, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint)}
	}
	if ep.State == relay.EndpointDeleted || !ep.Matches(ev.Type) || ep.Tenant != ev.Tenant || !ep.Takes(ev.Synthetic) {
		return Routed{Kind: Skip, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint)}
	}
	if !ep.Leaves(ev.Type) {
		return Routed{Kind: Withhold, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint), Reason: relay.ReasonTypeForbidden}
	}
	return one(ev, ep, &bodies{})
}

// one applies policy, then asks the filter. What goes wrong in either, a panic too, withholds the delivery and no more than
// that.
func one(ev *relay.Event, ep *registry.Endpoint, shared *bodies) (r Routed) {
	r = Routed{Kind: Withhold, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint)}
	defer func() {
		if p := recover(); p != nil {
			r = Routed{Kind: Withhold, Endpoint: ep, Delivery: Identify(ev, ep.Endpoint), Reason: relay.ReasonPanicked,
				Detail: fmt.Sprintf("%T at %s", p, firstFrames(debug.Stack()))}
		}
	}()
	if ep.Err != nil {
		// The endpoint could not be compiled: it is not Sendable, and its deliveries wait, without data, until it can be.
		r.Kind = Send
		return r
	}
	body, err := shared.redact(ev, ep)
	if err != nil {
		r.Reason, r.Detail = relay.ReasonRedactionFailed, err.Error()
		return r
	}
	r.Redacted = body.redacted
	subject, kept := ep.Redact.ApplySubject(ev.Subject)
	if subject != ev.Subject || !kept {
		r.Redacted++
	}
	if !kept {
		subject = ""
	}
	if ep.Filter != nil {
		wanted, err := ep.Filter.Match(filter.Input{
			Tenant: ev.Tenant, ID: ev.ID, Type: ev.Type, Subject: subject, Time: ev.Time, Data: body.data,
		})
		if err != nil {
			r.Reason, r.Detail = relay.ReasonFilterFailed, err.Error()
			return r
		}
		if !wanted {
			r.Kind = Skip
			return r
		}
	}
	r.Kind, r.Delivery.Data, r.Delivery.Subject = Send, body.data, subject
	return r
}

// Identify is the delivery of an event to an endpoint with nothing of the event's content.
func Identify(ev *relay.Event, ep *relay.Endpoint) *relay.Delivery {
	return &relay.Delivery{
		ID: relay.DeliveryID(ev.Tenant, ev.ID, ep.ID), Endpoint: ep,
		EventID: ev.ID, EventType: ev.Type, EventTime: ev.Time, Seq: ev.Seq, AcceptTime: ev.AcceptTime, Synthetic: ev.Synthetic,
	}
}

// bodies keeps what each policy leaves of one event, so that endpoints of one policy share it.
type bodies struct {
	last [4]body
	n    int
}

type body struct {
	policy   [32]byte
	data     []byte
	redacted int
}

func (b *bodies) redact(ev *relay.Event, ep *registry.Endpoint) (*body, error) {
	for i := range min(b.n, len(b.last)) {
		if b.last[i].policy == ep.PolicyHash {
			return &b.last[i], nil
		}
	}
	data, stats, err := ep.Redact.Apply(make([]byte, 0, len(ev.Data)+64), ev.Data)
	if err != nil {
		return nil, err
	}
	at := &b.last[b.n%len(b.last)]
	*at = body{policy: ep.PolicyHash, data: data, redacted: stats.Dropped + stats.Masked + stats.Pseudonymized}
	b.n++
	return at, nil
}

// firstFrames keeps enough of a stack to find the place, and nothing of the arguments' values.
func firstFrames(stack []byte) string {
	const most = 2048
	if len(stack) > most {
		stack = stack[:most]
	}
	return string(stack)
}
