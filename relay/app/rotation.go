package app

import (
	"context"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// turnEvery is how often rotations are looked through for steps that are due. A step is a write of the registry, so that every
// process goes by it, and one that this process dies before is taken by the partition's next owner.
const turnEvery = time.Second

// turnKeys takes the due steps of the endpoints whose partitions this process owns.
func (a *App) turnKeys(ctx context.Context) error {
	mine := func(e *registry.Endpoint) bool { return a.owned[a.journal.Partition(e.Tenant)].Load() }
	told := map[string]time.Time{} // by endpoint: when it was last said that its key waits to be claimed
	ticker := time.NewTicker(turnEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		turned, err := a.control.TurnKeys(ctx, mine)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("keys not rotated; tried again", "error", err)
		}
		for _, t := range turned {
			a.tellTurned(t, told)
		}
	}
}

// remindClaim is how often operators are told again of a key that waits.
const remindClaim = 24 * time.Hour

func (a *App) tellTurned(t control.Turned, told map[string]time.Time) {
	now := a.o.Clock()
	n := alert.Notice{Tenant: t.Endpoint.Tenant, EndpointID: t.Endpoint.ID, Time: now, Fact: t.Step}
	step, key, _ := strings.Cut(t.Step, " ")
	switch step {
	case "made":
		n.Kind = alert.KeyMade
	case "activated":
		n.Kind = alert.KeyActivated
		delete(told, t.Endpoint.ID)
	case "":
		next, _ := t.Endpoint.Record.Next()
		if last, was := told[t.Endpoint.ID]; was && now.Sub(last) < remindClaim {
			return
		}
		told[t.Endpoint.ID] = now
		n.Kind, n.Fact = alert.KeyUnclaimed, next.ID+" "+now.UTC().Format(time.DateOnly)
	default:
		a.log.Info("an endpoint's old signing key was dropped", "endpoint", t.Endpoint.ID, "key", key)
		return
	}
	a.log.Info("an endpoint's signing keys were turned", "endpoint", t.Endpoint.ID, "what", n.Kind, "key", key)
	a.alerts.Raise(n)
}
