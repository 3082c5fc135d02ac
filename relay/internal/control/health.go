package control

import (
	"context"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// EndpointHealth is how an endpoint that the caller may know of does now, as its partition's owner has it. Counts are the
// owner's own, and begin with it.
func (c *Control) EndpointHealth(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, relay.EndpointHealth, error) {
	if err := c.allow(ctx, who, access.EndpointsRead, &audit.Act{Name: "endpoint.health", Object: clip(ref.ID)}); err != nil {
		return nil, relay.EndpointHealth{}, err
	}
	e, err := c.find(who, ref)
	if err != nil {
		return nil, relay.EndpointHealth{}, err
	}
	h, err := c.Owners.Health(ctx, e.Tenant, e.ID)
	return e, h, err
}
