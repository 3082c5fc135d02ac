package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// EventTypes is the part of the door that the event type catalogue goes through. control has its contract.
type EventTypes interface {
	SetEventType(ctx context.Context, who access.Caller, t relay.EventType) (*relay.EventType, error)
	GetEventType(ctx context.Context, who access.Caller, tenant, pattern string) (*relay.EventType, error)
	ListEventTypes(ctx context.Context, who access.Caller, tenant string, size int, token string) (control.EventTypePage, error)
	DeleteEventType(ctx context.Context, who access.Caller, tenant, pattern string) error
}

type policyService struct {
	sealpostv1.UnimplementedPolicyServiceServer
	types EventTypes
}

// SetEventType puts an entry in force.
func (s *policyService) SetEventType(ctx context.Context, r *sealpostv1.SetEventTypeRequest) (*sealpostv1.EventType, error) {
	t := r.GetEventType()
	set, err := s.types.SetEventType(ctx, callerOf(ctx), relay.EventType{
		Tenant: t.GetTenant(), Pattern: t.GetType(), Sensitivity: relay.Sensitivity(enumName(t.GetSensitivity())),
		Leaving: relay.Leaving(enumName(t.GetLeaving())), Description: t.GetDescription(), Example: t.GetExample(),
	})
	if err != nil {
		return nil, err
	}
	return eventTypeEntry(set), nil
}

// GetEventType is one entry.
func (s *policyService) GetEventType(ctx context.Context, r *sealpostv1.GetEventTypeRequest) (*sealpostv1.EventType, error) {
	t, err := s.types.GetEventType(ctx, callerOf(ctx), r.GetTenant(), r.GetType())
	if err != nil {
		return nil, err
	}
	return eventTypeEntry(t), nil
}

// ListEventTypes is a page of them.
func (s *policyService) ListEventTypes(ctx context.Context, r *sealpostv1.ListEventTypesRequest) (*sealpostv1.ListEventTypesResponse, error) {
	page, err := s.types.ListEventTypes(ctx, callerOf(ctx), r.GetTenant(), int(r.GetPageSize()), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListEventTypesResponse{NextPageToken: page.NextPageToken}
	for _, t := range page.EventTypes {
		out.EventTypes = append(out.EventTypes, eventTypeEntry(t))
	}
	return out, nil
}

// DeleteEventType takes one out.
func (s *policyService) DeleteEventType(ctx context.Context, r *sealpostv1.DeleteEventTypeRequest) (*emptypb.Empty, error) {
	if err := s.types.DeleteEventType(ctx, callerOf(ctx), r.GetTenant(), r.GetType()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func eventTypeEntry(t *relay.EventType) *sealpostv1.EventType {
	if t == nil {
		return nil
	}
	return &sealpostv1.EventType{
		Tenant: t.Tenant, Type: t.Pattern, Sensitivity: enumValue[sealpostv1.EventType_Sensitivity](string(t.Sensitivity)),
		Leaving: enumValue[sealpostv1.EventType_Leaving](string(t.Leaving)), Description: t.Description, Example: t.Example,
		UpdateTime: stamp(t.UpdateTime), Author: t.Author,
	}
}
