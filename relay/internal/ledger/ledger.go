// Package ledger keeps the view after the OUTCOMES logs: one projector a partition reads what is durable there and applies it in
// groups. It promises that the view follows the log, from wherever the view says it stands, also when the view was
// stopped, emptied or replaced in between; that a view which fails slows nothing but itself; and that watchers see each
// change after the view has it. It trusts the log.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// The group of outcomes that is applied at once: so many, or what came in that time after the first.
const (
	groupSize = 500
	groupWait = 10 * time.Millisecond
)

// lookEvery is how often an idle projector makes sure that the view still stands where it left it.
const lookEvery = time.Second

// Projector applies one partition's outcomes to the view.
type Projector struct {
	partition int
	outcomes  *journal.Outcomes
	view      relay.Ledger
	hub       *Hub
	log       *slog.Logger
	metrics   *Metrics
	position  atomic.Uint64
	healthy   atomic.Bool
	failing   atomic.Bool
	lives     atomic.Uint64      // how often it began to follow the view, whose position may have been lost
	looks     chan chan struct{} // who wants the view looked at now
	told      uint64             // up to here watchers know; a view that is rebuilt tells them nothing again
}

// NewProjector makes a projector; Run starts it. hub may be nil.
func NewProjector(partition int, outcomes *journal.Outcomes, view relay.Ledger, hub *Hub, log *slog.Logger, m *Metrics) *Projector {
	return &Projector{partition: partition, outcomes: outcomes, view: view, hub: hub, log: log.With("partition", partition), metrics: m, looks: make(chan chan struct{})}
}

// Position is the OUTCOMES sequence up to which the view has the partition, as far as this process knows.
func (p *Projector) Position() uint64 { return p.position.Load() }

// Healthy tells whether the last thing the view was asked for succeeded.
func (p *Projector) Healthy() bool { return p.healthy.Load() }

// Failing tells whether the last thing the view was asked for failed. Before the first, it is neither healthy nor failing.
func (p *Projector) Failing() bool { return p.failing.Load() }

func (p *Projector) note(healthy bool) {
	p.healthy.Store(healthy)
	p.failing.Store(!healthy)
}

// Run projects until ctx ends. Whatever fails is tried again, from where the view then says it stands.
func (p *Projector) Run(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(0))
	for {
		err := p.follow(ctx, wait.Reset)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, journal.ErrClosed) {
			return err
		}
		p.note(false)
		p.metrics.failures.Inc()
		p.log.Warn("view not written, will try again", "error", err)
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow reads on from the view's position until something fails.
func (p *Projector) follow(ctx context.Context, well func()) error {
	at, err := p.view.Position(ctx, p.partition)
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	st, err := p.outcomes.State(ctx)
	if err != nil {
		return err
	}
	if at > st.Last {
		// The view is of another journal, or of one that was restored to an earlier time: what it says cannot be trusted.
		return fmt.Errorf("the view stands at %d and the log ends at %d: point it at an empty view, which is rebuilt", at, st.Last)
	}
	p.lives.Add(1)
	p.position.Store(at)
	p.note(true)
	p.told = max(p.told, at)
	group, ctx := errgroup.WithContext(ctx)
	read := make(chan change, groupSize)
	group.Go(func() error {
		return p.outcomes.Read(ctx, at+1, func(m journal.Message) error {
			outcomes, err := record.DecodeOutcomes(m.Payload)
			if err != nil {
				return fmt.Errorf("outcomes at %d: %w", m.Seq, err)
			}
			select {
			case read <- change{m.Seq, outcomes}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	group.Go(func() error { return p.applyGroups(ctx, read, well) })
	return group.Wait()
}

func (p *Projector) applyGroups(ctx context.Context, read <-chan change, well func()) error {
	group := make([]relay.SequencedOutcome, 0, groupSize)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		group = group[:0]
		select {
		case c := <-read:
			group = c.addTo(group)
		case <-look.C:
			if err := p.look(ctx); err != nil {
				return err
			}
			continue
		case looked := <-p.looks:
			if err := p.look(ctx); err != nil {
				return err
			}
			close(looked)
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		group = gather(read, group)
		upTo := group[len(group)-1].Sequence
		began := time.Now()
		if err := p.view.Apply(ctx, p.partition, upTo, p.ofDeliveries(group)); err != nil {
			return err
		}
		p.position.Store(upTo)
		p.note(true)
		p.metrics.applied(len(group), time.Since(began))
		well()
		p.tell(group, upTo)
	}
}

// ofDeliveries leaves out what no view can have: an outcome whose event was gone before its delivery could be told.
func (p *Projector) ofDeliveries(group []relay.SequencedOutcome) []relay.SequencedOutcome {
	nameless := func(o relay.SequencedOutcome) bool { return o.DeliveryID == "" && o.State != relay.Unmatched }
	if !slices.ContainsFunc(group, nameless) {
		return group
	}
	kept := make([]relay.SequencedOutcome, 0, len(group))
	for _, o := range group {
		switch {
		case o.State == relay.Owned:
			continue
		case nameless(o):
			p.log.Error("an outcome of an unknown delivery is not in the view", "outcome", o.Sequence, "event", o.Seq,
				"endpoint", o.EndpointID, "state", o.State, "reason", o.Reason)
			continue
		}
		kept = append(kept, o)
	}
	return kept
}

// tell tells watchers what they were not told before.
func (p *Projector) tell(group []relay.SequencedOutcome, upTo uint64) {
	if p.hub != nil {
		at, _ := slices.BinarySearchFunc(group, p.told+1, func(o relay.SequencedOutcome, seq uint64) int { return cmp.Compare(o.Sequence, seq) })
		p.hub.tell(group[at:])
	}
	p.told = max(p.told, upTo)
}

// look finds out that the view was emptied although nothing is being written to it.
func (p *Projector) look(ctx context.Context) error {
	at, err := p.view.Position(ctx, p.partition)
	if err != nil {
		return fmt.Errorf("position: %w", err)
	}
	if at != p.position.Load() {
		return relay.ErrPositionLost
	}
	p.note(true)
	return nil
}

// wholeAgain is how often Whole looks at a view that is behind.
const wholeAgain = 5 * time.Millisecond

// Whole returns once the view, looked at now, has the partition's outcomes up to a sequence, with the life of the view in which that is
// so. What was read of the view between two calls that return the same life was of a view that had all of them: one that was emptied
// meanwhile, and filled again, has another life. It waits until ctx ends, and needs Run.
func (p *Projector) Whole(ctx context.Context, upTo uint64) (life uint64, err error) {
	for {
		before := p.lives.Load()
		looked := make(chan struct{})
		select {
		case p.looks <- looked:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		again := time.After(wholeAgain)
		select {
		case <-looked:
			if p.position.Load() >= upTo && p.lives.Load() == before {
				return before, nil
			}
		case <-time.After(lookEvery): // the look failed, and with it that life
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		select {
		case <-again:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// change is one record of OUTCOMES. Its outcomes are applied together: the view stands at a record's end.
type change struct {
	seq      uint64
	outcomes []relay.Outcome
}

func (c change) addTo(group []relay.SequencedOutcome) []relay.SequencedOutcome {
	for _, o := range c.outcomes {
		group = append(group, relay.SequencedOutcome{Sequence: c.seq, Outcome: o})
	}
	return group
}

// gather adds what comes within groupWait, up to a full group.
func gather(read <-chan change, group []relay.SequencedOutcome) []relay.SequencedOutcome {
	timer := time.NewTimer(groupWait)
	defer timer.Stop()
	for len(group) < groupSize {
		select {
		case c := <-read:
			group = c.addTo(group)
		case <-timer.C:
			return group
		}
	}
	return group
}
