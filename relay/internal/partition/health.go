package partition

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/breaker"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/tally"
)

const kindHealth = "health"

// maxTallies bounds the endpoints of a partition that are counted for; what is over it is told of without counts.
const maxTallies = 20_000

// tallyOf is the endpoint's, nil above the bound.
func (l *loop) tallyOf(endpointID string) *tally.Tally {
	t := l.tallies[endpointID]
	if t == nil && len(l.tallies) < maxTallies {
		t = &tally.Tally{}
		l.tallies[endpointID] = t
	}
	return t
}

// countAttempt counts for the endpoint what an attempt came to.
func (l *loop) countAttempt(r *result, now time.Time) {
	if t := l.tallyOf(r.task.key.Endpoint); t != nil {
		t.Attempt(now, r.verdict.Kind == relay.VerdictDone, r.attempt.Reason, r.attempt.Durations.Total)
	}
}

// countOutcome counts for the endpoint what ended.
func (l *loop) countOutcome(o *relay.Outcome) {
	if o.State != relay.Delivered && o.State != relay.Dead {
		return
	}
	if t := l.tallyOf(o.EndpointID); t != nil {
		t.Settled(o.Time, o.State)
	}
}

// forgetTallies lets go of what nobody has been sent anything through for over a day.
func (l *loop) forgetTallies(now time.Time) {
	if now.Sub(l.forgot) < time.Hour {
		return
	}
	l.forgot = now
	for id, t := range l.tallies {
		if t.Idle(now) {
			delete(l.tallies, id)
		}
	}
}

// health is how an endpoint does, but for when its oldest delivery was accepted: that is in the log, at the sequence given.
func (l *loop) health(endpointID string, now time.Time) (h relay.EndpointHealth, oldest uint64) {
	h.Breaker = map[breaker.State]relay.BreakerState{
		breaker.Closed: relay.BreakerClosed, breaker.Open: relay.BreakerOpen, breaker.Probing: relay.BreakerProbing,
	}[l.lanes.Breaker(endpointID)]
	h.InFlight = l.lanes.InFlight(endpointID)
	h.Open = map[relay.DeliveryState]int{}
	for state, n := range map[relay.DeliveryState]int{
		// What is in the lane or in flight may be in the index too, as busy.
		relay.Pending:  l.lanes.Queued(endpointID) + h.InFlight,
		relay.Retrying: l.state.Count(endpointID, owner.Waiting),
		relay.Parked:   l.state.Count(endpointID, owner.Ready),
		relay.Held:     l.state.Count(endpointID, owner.Held),
	} {
		if n > 0 {
			h.Open[state] = n
		}
	}
	if t := l.tallies[endpointID]; t != nil {
		t.Tell(&h, now)
	} else {
		(&tally.Tally{}).Tell(&h, now)
	}
	oldest, _ = l.state.Oldest(endpointID)
	return h, oldest
}

// tellHealth answers a question for an endpoint's health, in JSON; what begins otherwise is an error.
func (l *loop) tellHealth(ctx context.Context, endpointID string) []byte {
	var h relay.EndpointHealth
	var oldest uint64
	err := l.await(ctx, func(l *loop, answer reply) {
		h, oldest = l.health(endpointID, l.o.Clock())
		answer(nil)
	})
	if err == nil && oldest > 0 {
		var m journal.Message
		if m, err = l.events.Get(ctx, oldest); err == nil {
			h.OldestOpen = m.Time
		} else if errors.Is(err, journal.ErrNotFound) {
			err = nil // erased
		}
	}
	if err != nil {
		return []byte(encodeAnswer(err))
	}
	text, err := json.Marshal(h)
	if err != nil {
		return []byte(encodeAnswer(err))
	}
	return text
}

// Health is how an endpoint of a tenant does now; the zero counts where its owner knows nothing of it.
func (o Owners) Health(ctx context.Context, tenant, endpointID string) (h relay.EndpointHealth, err error) {
	answer, err := o.send(ctx, o.Journal.Partition(tenant), request{Kind: kindHealth, Ref: Ref{EndpointID: endpointID}})
	if err != nil {
		return h, err
	}
	if len(answer) == 0 || answer[0] != '{' {
		return h, decodeAnswer(string(answer))
	}
	if err := json.Unmarshal(answer, &h); err != nil {
		return relay.EndpointHealth{}, fmt.Errorf("the owner's answer: %w", err)
	}
	return h, nil
}
