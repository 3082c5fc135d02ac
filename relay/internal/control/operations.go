package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// ErrTooMany is for an operation more than a tenant may have at a time.
var ErrTooMany = operation.ErrTooMany

// Operation is an operation with what its kind asked for.
type Operation struct {
	operation.Operation
	Replay *relay.Replay // of a replay
	Erased string        // of an erasure: what stands for the subject
}

// ReplayDeliveries begins to send deliveries again, and answers once the operation that does is durable. A partner replays those to an
// endpoint of its own. A repeat with the same request id gets the first one's operation.
func (c *Control) ReplayDeliveries(ctx context.Context, who access.Caller, r relay.Replay, reason, requestID string) (Operation, error) {
	act := audit.Act{Name: "delivery.replay", Object: clip(r.EndpointID), Tenant: clip(r.Tenant), Reason: clip(reason), RequestID: clip(requestID)}
	if err := c.allow(ctx, who, access.DeliveriesSteer, &act); err != nil {
		return Operation{}, err
	}
	bad := r.Check()
	if len(reason) > operation.MaxReason {
		bad.Add("reason", "must be at most %d bytes", operation.MaxReason)
	}
	if len(requestID) > operation.MaxRequestID {
		bad.Add("requestId", "must be at most %d bytes", operation.MaxRequestID)
	}
	if who.Role == access.Partner && r.EndpointID == "" {
		bad.Add("replay.endpointId", "is required: a partner replays to an endpoint of its own")
	}
	if err := bad.Err(); err != nil {
		return Operation{}, err
	}
	if e := c.Registry.Snapshot().Endpoint(r.EndpointID); r.EndpointID != "" && (e == nil || e.State == relay.EndpointDeleted || !c.seesDelivery(who, r.Tenant, r.EndpointID) || e.Tenant != r.Tenant) {
		return Operation{}, c.refuse(ctx, who, act, ErrNotFound)
	}
	request, err := replayRequest(who, r, reason, requestID, c.now())
	if err != nil {
		return Operation{}, err
	}
	act.Detail = replayFacts(&r)
	var op operation.Operation
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		op, err = c.Operations.Create(ctx, request)
		return map[string]string{"operation": op.ID}, err
	})
	if err != nil {
		return Operation{}, err
	}
	return shownOperation(op), nil
}

// replayRequest is a request whose repeat is known by what was asked for, not by the time to which "until now" comes.
func replayRequest(who access.Caller, r relay.Replay, reason, requestID string, now time.Time) (operation.Request, error) {
	asked, err := record.EncodeReplay(&r)
	if err != nil {
		return operation.Request{}, err
	}
	r = r.WithDefaults(now)
	body, err := record.EncodeReplay(&r)
	return operation.Request{
		Tenant: r.Tenant, Kind: operation.Replay, Author: who.Account, Reason: reason, Body: body, RequestID: requestID,
		Digest: sha256.Sum256(append(append([]byte(reason), 0), asked...)),
	}, err
}

// replayFacts are for the audit log.
func replayFacts(r *relay.Replay) map[string]string {
	facts := map[string]string{
		"missing": strconv.FormatBool(r.Missing), "types": clip(strings.Join(r.EventTypes, " ")), "states": fmt.Sprint(r.States),
	}
	for name, t := range map[string]time.Time{"after": r.After, "before": r.Before} {
		if !t.IsZero() {
			facts[name] = t.UTC().Format(time.RFC3339Nano)
		}
	}
	return facts
}

func shownOperation(op operation.Operation) Operation {
	out := Operation{Operation: op}
	switch op.Kind { // one that cannot be read is shown without
	case operation.Replay:
		out.Replay, _ = record.DecodeReplay(op.Request)
	case operation.Erasure:
		if subject, _, err := erasure.ParseBody(op.Request); err == nil {
			out.Erased = subject.String()
		}
	}
	return out
}

// seesOperation tells whether a caller may know of an operation: a partner of those that it began, and those to an endpoint of its own.
func (c *Control) seesOperation(who access.Caller, op *Operation) bool {
	if !who.Sees(op.Tenant) {
		return false
	}
	return who.Role != access.Partner || op.Author == who.Account ||
		op.Replay != nil && op.Replay.EndpointID != "" && c.seesDelivery(who, op.Tenant, op.Replay.EndpointID)
}

// GetOperation is an operation as it is now.
func (c *Control) GetOperation(ctx context.Context, who access.Caller, tenant, id string) (Operation, error) {
	if err := c.allow(ctx, who, access.DeliveriesRead, &audit.Act{Name: "operation.read", Object: clip(id)}); err != nil {
		return Operation{}, err
	}
	return c.operation(ctx, who, tenant, id)
}

func (c *Control) operation(ctx context.Context, who access.Caller, tenant, id string) (Operation, error) {
	found, err := c.Operations.Get(ctx, id)
	if err != nil {
		return Operation{}, translated(err)
	}
	op := shownOperation(found)
	if !c.seesOperation(who, &op) || tenant != "" && tenant != op.Tenant {
		return Operation{}, ErrNotFound
	}
	return op, nil
}

// OperationQuery asks for operations. Zero fields do not narrow it.
type OperationQuery struct {
	Tenant    string
	Kind      operation.Kind
	State     operation.State
	PageSize  int // 1 to relay.MaxPageSize; 0 is relay.DefaultPageSize
	PageToken string
}

// OperationPage is one page of a list. NextPageToken is empty on the last page.
type OperationPage struct {
	Operations    []Operation
	NextPageToken string
}

// ListOperations lists operations, newest first.
func (c *Control) ListOperations(ctx context.Context, who access.Caller, q OperationQuery) (OperationPage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.DeliveriesRead, &audit.Act{Name: "operation.list", Tenant: clip(q.Tenant)}); err != nil {
		return OperationPage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return OperationPage{}, err
	}
	all := c.Operations.List()
	if after != "" {
		// The place of the last one shown is its time and id, whether or not it is still there.
		i := slices.IndexFunc(all, func(op operation.Operation) bool { return operationPlace(&op) < after })
		if i < 0 {
			i = len(all)
		}
		all = all[i:]
	}
	size := cmp.Or(q.PageSize, relay.DefaultPageSize)
	var page OperationPage
	for _, one := range all {
		op := shownOperation(one)
		if !c.seesOperation(who, &op) || q.Tenant != "" && op.Tenant != q.Tenant || q.Kind != "" && op.Kind != q.Kind || q.State != "" && op.State != q.State {
			continue
		}
		if len(page.Operations) == size {
			page.NextPageToken = pageToken(operationPlace(&page.Operations[size-1].Operation))
			break
		}
		page.Operations = append(page.Operations, op)
	}
	return page, nil
}

// operationPlace orders as the list does, the other way round.
func operationPlace(op *operation.Operation) string {
	return fmt.Sprintf("%019d.%s", op.CreateTime.UnixNano(), op.ID)
}

// CancelOperation ends an operation that is not done: what it did stays done. It answers once it has ended, or, where its owner cannot be
// heard, once the owner is bound to end it.
func (c *Control) CancelOperation(ctx context.Context, who access.Caller, tenant, id string) (Operation, error) {
	act := audit.Act{Name: "operation.cancel", Object: clip(id)}
	if err := c.allow(ctx, who, access.DeliveriesSteer, &act); err != nil {
		return Operation{}, err
	}
	op, err := c.operation(ctx, who, tenant, id)
	if err != nil {
		return Operation{}, c.refuse(ctx, who, act, err)
	}
	act.Tenant, act.Detail = op.Tenant, map[string]string{"kind": string(op.Kind)}
	act.Before, act.After = audit.Changes(map[string]any{"state": op.State}, map[string]any{"state": operation.Cancelled})
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		now, err := c.Operations.Cancel(ctx, id)
		op = shownOperation(now)
		switch {
		case errors.Is(err, operation.ErrEnded):
			err = &StateError{Act: "cancel the operation", State: string(now.State), Reason: "it has ended"}
		case errors.Is(err, operation.ErrKept):
			err = &StateError{Act: "cancel the operation", State: string(now.State), Reason: "an operation of kind " + string(now.Kind) + " runs to its end"}
		}
		return nil, err
	})
	if err != nil {
		return Operation{}, err
	}
	return c.operationEnd(ctx, op)
}

// operationEnd waits for an operation that was cancelled.
func (c *Control) operationEnd(ctx context.Context, op Operation) (Operation, error) {
	for late := time.Now().Add(viewWithin); !op.State.Ended() && time.Now().Before(late); {
		select {
		case <-time.After(viewAgain):
		case <-ctx.Done():
			return op, nil
		}
		now, err := c.Operations.Get(ctx, op.ID)
		if err != nil {
			return op, nil // it is cancelled all the same
		}
		op = shownOperation(now)
	}
	return op, nil
}
