package api

import (
	"context"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/operation"
)

// Operations is the part of the door that operations go through. control has its contract.
type Operations interface {
	ReplayDeliveries(ctx context.Context, who access.Caller, r relay.Replay, reason, requestID string) (control.Operation, error)
	GetOperation(ctx context.Context, who access.Caller, tenant, id string) (control.Operation, error)
	ListOperations(ctx context.Context, who access.Caller, q control.OperationQuery) (control.OperationPage, error)
	CancelOperation(ctx context.Context, who access.Caller, tenant, id string) (control.Operation, error)
}

type operationService struct {
	sealpostv1.UnimplementedOperationServiceServer
	operations Operations
}

// ReplayDeliveries begins to send deliveries again.
func (s *deliveryService) ReplayDeliveries(ctx context.Context, r *sealpostv1.ReplayDeliveriesRequest) (*sealpostv1.Operation, error) {
	m := r.GetReplay()
	replay := relay.Replay{
		Tenant: m.GetTenant(), EndpointID: m.GetEndpointId(), EventTypes: m.GetEventTypes(), Missing: m.GetMissing(), Rate: m.GetDeliveriesPerSecond(),
	}
	if m.GetAfter() != nil {
		replay.After = m.GetAfter().AsTime()
	}
	if m.GetBefore() != nil {
		replay.Before = m.GetBefore().AsTime()
	}
	for _, state := range m.GetStates() {
		replay.States = append(replay.States, relay.DeliveryState(enumName(state)))
	}
	return shownOperation(s.operations.ReplayDeliveries(ctx, callerOf(ctx), replay, r.GetReason(), r.GetRequestId()))
}

// GetOperation is one operation.
func (s *operationService) GetOperation(ctx context.Context, r *sealpostv1.GetOperationRequest) (*sealpostv1.Operation, error) {
	return shownOperation(s.operations.GetOperation(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

// ListOperations is a page of them, newest first.
func (s *operationService) ListOperations(ctx context.Context, r *sealpostv1.ListOperationsRequest) (*sealpostv1.ListOperationsResponse, error) {
	page, err := s.operations.ListOperations(ctx, callerOf(ctx), control.OperationQuery{
		Tenant: r.GetTenant(), Kind: operation.Kind(enumName(r.GetKind())), State: operation.State(enumName(r.GetState())),
		PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListOperationsResponse{NextPageToken: page.NextPageToken}
	for i := range page.Operations {
		out.Operations = append(out.Operations, operationOf(&page.Operations[i]))
	}
	return out, nil
}

// CancelOperation ends an operation.
func (s *operationService) CancelOperation(ctx context.Context, r *sealpostv1.CancelOperationRequest) (*sealpostv1.Operation, error) {
	return shownOperation(s.operations.CancelOperation(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

func shownOperation(op control.Operation, err error) (*sealpostv1.Operation, error) {
	if err != nil {
		return nil, err
	}
	return operationOf(&op), nil
}

func operationOf(op *control.Operation) *sealpostv1.Operation {
	out := &sealpostv1.Operation{
		Id: op.ID, Tenant: op.Tenant, Kind: enumValue[sealpostv1.Operation_Kind](string(op.Kind)),
		State: enumValue[sealpostv1.Operation_State](string(op.State)), Author: op.Author, Reason: op.Reason,
		CreateTime: stamp(op.CreateTime), UpdateTime: stamp(op.UpdateTime), EndTime: stamp(op.EndTime), Error: op.Error,
		Progress: &sealpostv1.Progress{
			Examined: op.Progress.Examined, Done: op.Progress.Done, Skipped: op.Progress.Skipped, Fraction: op.Progress.Fraction,
		},
	}
	out.SubjectDigest = op.Erased
	if r := op.Replay; r != nil {
		out.Replay = &sealpostv1.Replay{
			Tenant: r.Tenant, EndpointId: r.EndpointID, EventTypes: r.EventTypes, After: stamp(r.After), Before: stamp(r.Before),
			Missing: r.Missing, DeliveriesPerSecond: r.Rate,
		}
		for _, state := range r.States {
			out.Replay.States = append(out.Replay.States, enumValue[sealpostv1.Delivery_State](string(state)))
		}
	}
	return out
}
