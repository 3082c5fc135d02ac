package api

import (
	"context"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Incidents is the part of the door that incidents go through. control has its contract.
type Incidents interface {
	ContainEndpoint(ctx context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error)
	ReleaseEndpoint(ctx context.Context, who access.Caller, ref control.Ref, reason string) (*registry.Endpoint, error)
}

type incidentService struct {
	sealpostv1.UnimplementedIncidentServiceServer
	incidents Incidents
}

// ContainEndpoint stops sending to an endpoint at once.
func (s *incidentService) ContainEndpoint(ctx context.Context, r *sealpostv1.ContainEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref := control.Ref{Tenant: r.GetTenant(), ID: r.GetId()}
	return shownEndpoint(s.incidents.ContainEndpoint(ctx, callerOf(ctx), ref, r.GetReason()))
}

// ReleaseEndpoint ends that.
func (s *incidentService) ReleaseEndpoint(ctx context.Context, r *sealpostv1.ReleaseEndpointRequest) (*sealpostv1.Endpoint, error) {
	ref, err := refOf(r.GetId(), r.GetTenant(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return shownEndpoint(s.incidents.ReleaseEndpoint(ctx, callerOf(ctx), ref, r.GetReason()))
}
