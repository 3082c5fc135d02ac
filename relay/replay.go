package relay

import (
	"slices"
	"time"
)

// Bounds of a replay.
const (
	DefaultReplayRate = 50     // deliveries a second
	MaxReplayRate     = 10_000 // deliveries a second
	MaxReplayTypes    = 50
)

// Replay says which deliveries of one tenant are sent again.
type Replay struct {
	Tenant     string
	EndpointID string   // empty: every endpoint of the tenant
	EventTypes []string // exact, or patterns as in MatchPattern; none: every type
	After      time.Time
	Before     time.Time // accepted before
	// States are those that a delivery is sent again from; terminal ones.
	States []DeliveryState
	// Missing asks also for events of which the endpoint has no delivery at all, as those from before it was registered.
	Missing bool
	Rate    float64 // deliveries a second, at most
}

// WithDefaults fills in what was left open: DEAD deliveries, those accepted until now, 50 a second.
func (r Replay) WithDefaults(now time.Time) Replay {
	if len(r.States) == 0 && !r.Missing {
		r.States = []DeliveryState{Dead}
	}
	if r.Before.IsZero() || r.Before.After(now) {
		r.Before = now
	}
	if r.Rate == 0 {
		r.Rate = DefaultReplayRate
	}
	return r
}

// Check reports every field that breaks its rule.
func (r *Replay) Check() Invalid {
	var bad Invalid
	if !ValidTenant(r.Tenant) {
		bad.Add("replay.tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit", MaxTenantLength)
	}
	if len(r.EventTypes) > MaxReplayTypes {
		bad.Add("replay.eventTypes", "must be at most %d", MaxReplayTypes)
	} else if slices.ContainsFunc(r.EventTypes, func(p string) bool { return !ValidPattern(p) }) {
		bad.Add("replay.eventTypes", "must be event types, or the beginning of some with '.*'")
	}
	if !r.Before.IsZero() && !r.After.Before(r.Before) {
		bad.Add("replay.before", "must be later than after")
	}
	for i, s := range r.States {
		if s == Unmatched || !s.Terminal() || slices.Contains(r.States[:i], s) {
			bad.Add("replay.states", "must be among DELIVERED, DEAD, WITHHELD and CANCELLED, each once")
			break
		}
	}
	if r.Missing && r.EndpointID == "" {
		bad.Add("replay.endpointId", "is required with missing")
	}
	if !(r.Rate >= 0 && r.Rate <= MaxReplayRate) {
		bad.Add("replay.deliveriesPerSecond", "must be at most %d", MaxReplayRate)
	}
	return bad
}

// WantsType tells whether events of a type are asked for.
func (r *Replay) WantsType(eventType string) bool {
	return len(r.EventTypes) == 0 || slices.ContainsFunc(r.EventTypes, func(p string) bool { return MatchPattern(p, eventType) })
}

// WantsTime tells whether events accepted at a time are asked for.
func (r *Replay) WantsTime(accepted time.Time) bool {
	return !accepted.Before(r.After) && (r.Before.IsZero() || accepted.Before(r.Before))
}

// WantsState tells whether deliveries that ended in a state are asked for.
func (r *Replay) WantsState(s DeliveryState) bool { return slices.Contains(r.States, s) }
