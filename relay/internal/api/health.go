package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// GetEndpointHealth is how an endpoint does now.
func (s *endpointService) GetEndpointHealth(ctx context.Context, r *sealpostv1.GetEndpointHealthRequest) (*sealpostv1.EndpointHealth, error) {
	e, h, err := s.endpoints.EndpointHealth(ctx, callerOf(ctx), control.Ref{Tenant: r.GetTenant(), ID: r.GetId()})
	if err != nil {
		return nil, err
	}
	return healthOf(e, &h), nil
}

func healthOf(e *registry.Endpoint, h *relay.EndpointHealth) *sealpostv1.EndpointHealth {
	out := &sealpostv1.EndpointHealth{
		EndpointId: e.ID, Tenant: e.Tenant, State: enumValue[sealpostv1.Endpoint_State](string(e.State)),
		Breaker: enumValue[sealpostv1.EndpointHealth_Breaker](string(h.Breaker)), InFlight: int32(h.InFlight),
		OldestOpenTime: stamp(h.OldestOpen), LastDeliveryTime: stamp(h.LastDelivery), LastFailureTime: stamp(h.LastFailure),
		LastFailureReason: string(h.LastFailureReason), SinceTime: stamp(h.Since), Open: map[string]int64{},
	}
	for state, n := range h.Open {
		out.Open[string(state)] = int64(n)
	}
	for _, one := range h.Spans {
		span := &sealpostv1.EndpointHealth_Span{
			Length: durationpb.New(one.Length), Attempts: one.Attempts, Accepted: one.Accepted, Delivered: one.Delivered, Dead: one.Dead,
			P50: took(one.P50, one.Attempts), P99: took(one.P99, one.Attempts), Failures: map[string]int64{},
		}
		for reason, n := range one.Failures {
			span.Failures[string(reason)] = n
		}
		out.Spans = append(out.Spans, span)
	}
	return out
}

// took is absent where nothing was attempted.
func took(d time.Duration, attempts int64) *durationpb.Duration {
	if attempts == 0 {
		return nil
	}
	return durationpb.New(d)
}
