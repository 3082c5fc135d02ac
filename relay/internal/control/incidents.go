package control

import (
	"context"
	"strings"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// ContainEndpoint stops sending to an endpoint in whatever state, with who and why; what comes is parked, and what is in flight is cut
// off. It answers when nothing more is being sent. A contained one stays as it is, and why it was contained stays too.
func (c *Control) ContainEndpoint(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.contain", Reason: reason, Anyway: true}
	if _, err := c.enter(ctx, who, access.IncidentsContain, ref, &act); err != nil {
		return nil, err
	}
	if err := checkGiven(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		facts := map[string]string{"from": string(r.State)}
		switch r.State {
		case relay.EndpointDeleted:
			return effect{}, stateError("contain", r, "nothing is sent to it any more")
		case relay.EndpointContained:
		default:
			c.move(r, relay.EndpointContained, says(who, reason))
		}
		return effect{settle: true, facts: facts}, nil
	})
}

// ReleaseEndpoint ends a containment. The endpoint is paused: somebody has to resume it. One that waited for its approval waits for it
// again, so that containing is no way round it; the same goes for one that lost its approval meanwhile.
func (c *Control) ReleaseEndpoint(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.release", Reason: reason}
	if _, err := c.enter(ctx, who, access.IncidentsContain, ref, &act); err != nil {
		return nil, err
	}
	if err := checkGiven(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if r.State != relay.EndpointContained {
			return effect{}, stateError("release", r, "it must be contained")
		}
		c.move(r, releasedTo(r), says(who, reason))
		return effect{}, nil
	})
}

func releasedTo(r *registry.Record) relay.EndpointState {
	switch from := r.ContainedFrom; {
	case from == relay.EndpointUnverified || from == relay.EndpointPending:
		return from
	case r.ApproveTime.IsZero():
		return relay.EndpointPending
	}
	return relay.EndpointPaused
}

// checkGiven is checkReason for an act that must have one.
func checkGiven(reason string) error {
	if strings.TrimSpace(reason) == "" {
		var bad relay.Invalid
		bad.Add("reason", "is required: it stays in the audit log")
		return bad.Err()
	}
	return checkReason(reason)
}
