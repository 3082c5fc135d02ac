package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
)

// lookedThrough is how many pages of the view one page for a partner may cost.
const lookedThrough = 20

// ListDeliveries lists deliveries, newest first. A partner sees those to its own endpoints alone; where they are few among many a
// page may hold fewer than were asked for, or none, and still have a next one.
func (c *Control) ListDeliveries(ctx context.Context, who access.Caller, q relay.DeliveryQuery) (relay.DeliveryPage, error) {
	if err := c.narrow(ctx, who, "delivery.list", &q); err != nil {
		return relay.DeliveryPage{}, err
	}
	var out relay.DeliveryPage
	size := cmp.Or(q.PageSize, relay.DefaultPageSize)
	for range lookedThrough {
		q.PageSize = size - len(out.Deliveries)
		page, err := c.Ledger.Deliveries(ctx, q)
		if err != nil {
			return relay.DeliveryPage{}, viewed(err)
		}
		for _, d := range page.Deliveries {
			if c.seesDelivery(who, d.Tenant, d.EndpointID) {
				out.Deliveries = append(out.Deliveries, d)
			}
		}
		q.PageToken, out.NextPageToken = page.NextPageToken, page.NextPageToken
		if who.Role != access.Partner && who.Environment == "" || page.NextPageToken == "" || len(out.Deliveries) == size {
			break
		}
	}
	return out, nil
}

// narrow checks a query and bounds it to the caller's tenant.
func (c *Control) narrow(ctx context.Context, who access.Caller, name string, q *relay.DeliveryQuery) error {
	q.Tenant, q.AllTenants = cmp.Or(q.Tenant, who.Tenant), false
	if err := c.allow(ctx, who, access.DeliveriesRead, &audit.Act{Name: name, Tenant: clip(q.Tenant)}); err != nil {
		return err
	}
	q.AllTenants = q.Tenant == "" && who.AllTenants()
	var bad relay.Invalid
	if q.Tenant != "" && !relay.ValidTenant(q.Tenant) {
		bad.Add("tenant", "is not a tenant's name")
	}
	if q.EventType != "" && !relay.ValidPattern(q.EventType) {
		bad.Add("eventType", "must be an event type, or the beginning of some with '.*'")
	}
	if q.EventID != "" && !relay.ValidEventID(q.EventID) {
		bad.Add("eventId", "is not an event's id")
	}
	if q.PageSize < 0 || q.PageSize > relay.MaxPageSize {
		bad.Add("pageSize", "must be 1 to %d", relay.MaxPageSize)
	}
	return bad.Err()
}

// seesDelivery tells whether a caller may know of a delivery to an endpoint.
func (c *Control) seesDelivery(who access.Caller, tenant, endpointID string) bool {
	if !who.Sees(tenant) {
		return false
	}
	if who.Role != access.Partner && who.Environment == "" {
		return true
	}
	e := c.Registry.Snapshot().Endpoint(endpointID)
	return e != nil && e.Tenant == tenant && c.knows(who, e)
}

// GetDelivery is one delivery with its attempts.
func (c *Control) GetDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error) {
	if err := c.allow(ctx, who, access.DeliveriesRead, &audit.Act{Name: "delivery.read", Object: clip(id)}); err != nil {
		return relay.DeliveryStatus{}, err
	}
	return c.delivery(ctx, who, tenant, id)
}

func (c *Control) delivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error) {
	if len(id) > maxDeliveryID {
		return relay.DeliveryStatus{}, ErrNotFound
	}
	for _, t := range c.tenants(who, cmp.Or(tenant, who.Tenant)) {
		d, err := c.Ledger.Delivery(ctx, t, id)
		switch {
		case errors.Is(err, relay.ErrNotFound):
		case err != nil:
			return relay.DeliveryStatus{}, viewed(err)
		case d.Tenant == t && c.seesDelivery(who, t, d.EndpointID):
			return d, nil
		}
	}
	return relay.DeliveryStatus{}, ErrNotFound
}

const maxDeliveryID = 64

// RetryDelivery sends a delivery again, now, whatever state it is in, under the policy in force. It answers when that is
// recorded.
func (c *Control) RetryDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error) {
	return c.steer(ctx, who, "delivery.retry", tenant, id, c.Owners.Retry, func(d relay.DeliveryStatus) error {
		if e := c.Registry.Snapshot().Endpoint(d.EndpointID); e == nil || e.State == relay.EndpointDeleted {
			return &StateError{Act: "retry the delivery", State: string(relay.EndpointDeleted), Reason: "its endpoint is gone"}
		}
		return nil
	})
}

// CancelDelivery ends a delivery that is not settled. It answers when that is recorded and nothing of it is in flight.
func (c *Control) CancelDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error) {
	return c.steer(ctx, who, "delivery.cancel", tenant, id, c.Owners.Cancel, func(d relay.DeliveryStatus) error {
		if d.State.Terminal() && d.State != relay.Cancelled {
			return &StateError{Act: "cancel the delivery", State: string(d.State), Reason: "it is settled"}
		}
		return nil
	})
}

// steer does an act on a delivery by its partition's owner and returns what the view then has of it.
func (c *Control) steer(ctx context.Context, who access.Caller, name, tenant, id string,
	do func(context.Context, DeliveryRef) error, fits func(relay.DeliveryStatus) error) (d relay.DeliveryStatus, err error) {
	act := audit.Act{Name: name, Object: clip(id)}
	if err := c.allow(ctx, who, access.DeliveriesSteer, &act); err != nil {
		return d, err
	}
	if d, err = c.delivery(ctx, who, tenant, id); err != nil {
		return d, c.refuse(ctx, who, act, err)
	}
	act.Tenant, act.Detail = d.Tenant, map[string]string{"endpoint": d.EndpointID, "event": d.EventID}
	act.Before, _ = audit.Changes(map[string]any{"state": d.State, "attempts": d.Attempts}, nil)
	if err := fits(d); err != nil {
		return d, err
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		return nil, do(ctx, DeliveryRef{
			Tenant: d.Tenant, DeliveryID: d.ID, EndpointID: d.EndpointID, EventID: d.EventID, Partition: d.Partition, Seq: d.Seq,
			Attempts: d.Attempts, Redacted: d.Redacted,
		})
	})
	if err != nil {
		return d, err
	}
	now, err := c.readBack(ctx, d)
	if err != nil {
		return d, fmt.Errorf("%w: it is done, but cannot be read back: %w", ErrUnavailable, err)
	}
	return now, nil
}

// The view follows what is recorded within some 50 ms: a caller who changed a delivery is shown it changed.
const (
	viewWithin = 500 * time.Millisecond
	viewAgain  = 10 * time.Millisecond
)

// readBack is a delivery in the view, newer than it was, or as the view has it after viewWithin.
func (c *Control) readBack(ctx context.Context, was relay.DeliveryStatus) (relay.DeliveryStatus, error) {
	for late := time.Now().Add(viewWithin); ; {
		now, err := c.Ledger.Delivery(ctx, was.Tenant, was.ID)
		if err != nil || now.Updated.After(was.Updated) || now.State == relay.Cancelled || time.Now().After(late) {
			return now, err
		}
		select {
		case <-time.After(viewAgain):
		case <-ctx.Done():
			return now, nil
		}
	}
}

// WatchDeliveries calls fn with every change, from now on, of the deliveries that a query asks for and the caller may
// know of, until ctx ends, the caller's credential does, or fn returns an error. Pages and times of the query do not count.
func (c *Control) WatchDeliveries(ctx context.Context, who access.Caller, q relay.DeliveryQuery, fn func(*relay.Outcome) error) error {
	if err := c.narrow(ctx, who, "delivery.watch", &q); err != nil {
		return err
	}
	for o, err := range c.Feed.Outcomes(ctx) {
		if err != nil {
			return translated(err)
		}
		if who.CredentialID != "" {
			if err := c.Access.Live(who); err != nil {
				return err
			}
		}
		if o.State == relay.Unmatched || !wants(&q, o) || !c.seesDelivery(who, o.Tenant, o.EndpointID) {
			continue
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func wants(q *relay.DeliveryQuery, o *relay.Outcome) bool {
	return (q.Tenant == "" || q.Tenant == o.Tenant) &&
		(q.EndpointID == "" || q.EndpointID == o.EndpointID) &&
		(q.EventID == "" || q.EventID == o.EventID) &&
		(q.EventType == "" || relay.MatchPattern(q.EventType, o.EventType)) &&
		(q.State == "" || q.State == o.State)
}
