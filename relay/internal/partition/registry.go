package partition

import (
	"context"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// watchRegistry hands the loop each newer snapshot.
func (l *loop) watchRegistry(ctx context.Context) {
	for s := range l.o.Registry.Updates(ctx) {
		select {
		case l.snapshotC <- s:
		case <-ctx.Done():
			return
		}
	}
}

// adopt goes by a snapshot from here on. What is queued for an endpoint that changed is given back, to be routed again
// under what is in force now; what is in flight goes on, see settle.
func (l *loop) adopt(s *registry.Snapshot, now time.Time) error {
	if l.snapshot != nil && s.Revision() < l.snapshot.Revision() {
		return nil
	}
	taken := l.snapshot == nil
	l.snapshot = s
	for ep := range s.All() {
		// One that this partition knows stays known though its record, and with it its tenant, cannot be read any more.
		if version, known := l.configured[ep.ID]; known && version == ep.Version() || !known && l.o.Journal.Partition(ep.Tenant) != l.o.Partition {
			continue
		}
		l.configured[ep.ID] = ep.Version()
		if err := l.configure(ep, now); err != nil {
			return err
		}
		if taken {
			l.lanes.Spent(ep.ID, now) // a rate holds over all owners, the one before this included
		}
	}
	for id := range l.configured {
		if open, _ := l.state.Open(id); open == 0 && s.Endpoint(id) == nil {
			l.lanes.Remove(id)
			delete(l.configured, id)
		}
	}
	for _, id := range l.state.Endpoints() {
		if s.Endpoint(id) == nil {
			l.purging[id] = struct{}{} // deleted, and its tombstone purged, before its deliveries were
		}
	}
	l.hungry = true
	l.checkSettled(now)
	return nil
}

func (l *loop) configure(ep *registry.Endpoint, now time.Time) error {
	settings := lane.Settings{Tenant: ep.Tenant, Open: ep.Sendable(), Concurrency: ep.Concurrency, Rate: ep.RateLimit}
	if ep.Ordered {
		settings.Concurrency = 1
	}
	l.lanes.Configure(ep.ID, settings, now)
	reason := relay.ReasonEndpointChanged
	if closed := l.closed(ep.ID, now); closed != relay.ReasonNone {
		reason = closed
	}
	if err := l.flush(ep.ID, reason); err != nil {
		return err
	}
	if ep.State == relay.EndpointContained { // what is in flight is not given the time that it has otherwise, see settleWithin
		l.interrupt(func(t *task) bool { return t.key.Endpoint == ep.ID })
	}
	if ep.State == relay.EndpointDeleted {
		l.purging[ep.ID] = struct{}{}
		l.lanes.Remove(ep.ID)
		l.overtaken.set(ep.ID, false)
	}
	return nil
}

// settlement waits until the loop goes by a registry revision and nothing is in flight to an endpoint that it closed.
type settlement struct {
	revision uint64
	tenant   string
	since    time.Time
	reply    reply
}

// settleWithin is how long what is in flight to a closed endpoint may end by itself; then it is cut off, and what became of
// it is unknown, so that it is sent again when the endpoint is opened.
const settleWithin = 5 * time.Second

// checkSettled answers who waits for a settlement.
func (l *loop) checkSettled(now time.Time) {
	open := l.settling[:0]
	for _, s := range l.settling {
		if l.snapshot.Revision() < s.revision {
			open = append(open, s)
			continue
		}
		closing := false
		for _, t := range l.flying {
			if l.closing(t, s.tenant) {
				closing = true
				if now.Sub(s.since) > settleWithin {
					t.cancel()
				}
			}
		}
		if closing {
			open = append(open, s)
			continue
		}
		s.reply(nil)
	}
	clear(l.settling[len(open):])
	l.settling = open
}

// closing tells whether a task is in flight to one of the tenant's endpoints that may no longer be sent to, or not its type of event, or
// signed with a key that is no longer the endpoint's.
func (l *loop) closing(t *task, tenant string) bool {
	if t.endpoint.Tenant != tenant {
		return false
	}
	ep := l.snapshot.Endpoint(t.key.Endpoint)
	return ep == nil || !ep.Sendable() || !ep.Leaves(t.delivery.EventType) || !ep.Holds(t.endpoint.CurrentKey())
}
