package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/partition"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// owners lets control reach the partitions' owners, in its words.
type owners struct{ partition.Owners }

func (o owners) Settle(ctx context.Context, tenant string, revision uint64) error {
	return refusal(owned(ctx, func() error { return o.Owners.Settle(ctx, tenant, revision) }), "")
}

func (o owners) Retry(ctx context.Context, ref control.DeliveryRef) error {
	return refusal(owned(ctx, func() error { return o.Owners.Retry(ctx, ref.Partition, delivery(ref)) }), "retry")
}

func (o owners) Cancel(ctx context.Context, ref control.DeliveryRef) error {
	return refusal(owned(ctx, func() error { return o.Owners.Cancel(ctx, ref.Partition, delivery(ref)) }), "cancel")
}

func (o owners) Health(ctx context.Context, tenant, endpointID string) (h relay.EndpointHealth, err error) {
	err = owned(ctx, func() (err error) {
		h, err = o.Owners.Health(ctx, tenant, endpointID)
		return err
	})
	return h, refusal(err, "")
}

// A partition is without its owner for the moment in which a process starts, or takes it over from another.
const (
	ownerWithin = 10 * time.Second
	ownerAgain  = 20 * time.Millisecond
)

// owned asks again for a while where the partition has no owner.
func owned(ctx context.Context, ask func() error) error {
	for late := time.Now().Add(ownerWithin); ; {
		err := ask()
		if !errors.Is(err, partition.ErrUnavailable) || time.Now().After(late) {
			return err
		}
		select {
		case <-time.After(ownerAgain):
		case <-ctx.Done():
			return err
		}
	}
}

func delivery(ref control.DeliveryRef) partition.Ref {
	return partition.Ref{DeliveryID: ref.DeliveryID, EndpointID: ref.EndpointID, Seq: ref.Seq, Attempts: ref.Attempts, Redacted: ref.Redacted}
}

func refusal(err error, act string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, partition.ErrBusy):
		return &control.StateError{Act: act, State: string(relay.Pending), Reason: "it is being sent now"}
	case errors.Is(err, partition.ErrSettled):
		return &control.StateError{Act: act, State: "SETTLED", Reason: "it ended before"}
	case errors.Is(err, partition.ErrGone):
		return &control.StateError{Act: act, State: "EXPIRED", Reason: "its event is no longer kept"}
	}
	return fmt.Errorf("%w: %w", control.ErrOwnerUnavailable, err)
}

// tester sends a synthetic event to one endpoint, past its lane.
type tester struct{ *App }

// testType is the event type of what Test sends; the reserved first segment keeps it from being published.
const testType = "sealpost.test"

const testData = `{"message":"A test of this endpoint. No data of the CRM is in it.","synthetic":true}`

// Test makes one attempt and reports it. It is signed, and redacted, as every delivery is.
func (t tester) Test(ctx context.Context, ep *registry.Endpoint) (relay.Attempt, relay.Verdict, error) {
	if ep.Err != nil {
		return relay.Attempt{}, relay.Verdict{}, fmt.Errorf("the endpoint cannot be used: %w", ep.Err)
	}
	ev := &relay.Event{
		Tenant: ep.Tenant, ID: "test_" + rand.Text(), Type: testType, Time: t.o.Clock().UTC(), Subject: "sealpost/test", Data: []byte(testData),
		Synthetic: true,
	}
	d := route.Identify(ev, ep.Endpoint)
	data, _, err := ep.Redact.Apply(nil, ev.Data)
	if err != nil {
		return relay.Attempt{}, relay.Verdict{}, fmt.Errorf("redaction: %w", err)
	}
	d.Data = data
	d.Subject, _ = ep.Redact.ApplySubject(ev.Subject)
	// A connection of its own: each phase of making one is part of the test.
	pool := egress.NewPool(t.way)
	defer pool.Close()
	own, err := t.newCourier(pool)
	if err != nil {
		return relay.Attempt{}, relay.Verdict{}, err
	}
	attempt, verdict := own.Handle(ctx, d)
	return attempt, verdict, nil
}

// feed tells watchers what becomes of deliveries.
type feed struct{ changes }

type changes interface {
	Watch(context.Context) iter.Seq2[relay.Outcome, error]
}

func (f feed) Outcomes(ctx context.Context) iter.Seq2[*relay.Outcome, error] {
	return func(yield func(*relay.Outcome, error) bool) {
		for o, err := range f.changes.Watch(ctx) {
			if !yield(&o, err) {
				return
			}
		}
	}
}
