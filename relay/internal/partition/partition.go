// Package partition runs one partition of the journal as its owner: it reads EVENTS in order, has each event routed, gives
// each delivery its turn in its endpoint's lane, hands it to the courier, and appends what became of it to OUTCOMES.
//
// It promises that an event is above the saved cursor until an outcome of each of its deliveries is in OUTCOMES, so that
// kill -9 at any moment loses nothing; that a delivery which OUTCOMES knows to be settled is not sent again; that
// nothing is sent under a registry older than the one it confirmed with Settle; and that nothing is sent of an event of which it
// knows that it was erased. It decides nothing itself about
// policy (route), order and turns (owner, lane), retries (retry) or what an answer means (courier): it carries values
// between them. It trusts the journal to refuse its appends once another owner has written.
package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/retry"
	"github.com/sealpost/sealpost/relay/internal/tally"
)

// Courier makes attempts; see package courier.
type Courier interface {
	Pack(*relay.Delivery) (*courier.Parcel, relay.Verdict)
	Send(context.Context, *courier.Parcel, int) (relay.Attempt, relay.Verdict)
}

// Options are what a partition is run with. Journal, Registry, Erasures, Courier, Logger and Metrics are required.
type Options struct {
	Partition int
	Journal   *journal.Journal
	Registry  *registry.Registry
	Erasures  *erasure.Set
	Courier   Courier
	// Suspend is called, in a goroutine of its own, when a receiver said that it is gone for good.
	Suspend func(ctx context.Context, endpointID string, reason relay.Reason)
	// Alerts are told of dead deliveries and of breakers; nil: nobody is.
	Alerts *alert.Alerts
	// Projected is the OUTCOMES sequence up to which the view has the partition; what is above it is not trimmed. Nil: no view.
	Projected func() uint64

	// Tenure is under what lease the partition is run; zero: there is none, and this process is the only one.
	Tenure Tenure

	Schedule        retry.Schedule
	Limits          lane.Limits   // zero: lane.DefaultLimits
	SyncEvery       time.Duration // OUTCOMES' group; zero: 50 ms
	CheckpointEvery time.Duration // zero: 10 s
	TrimEvery       time.Duration // zero: 1 min
	Retention       time.Duration // of settled events and their outcomes; zero: 7 days
	StopGrace       time.Duration // for attempts in flight at Stop; zero: 20 s
	Clock           func() time.Time
	Logger          *slog.Logger
	Metrics         *Metrics
}

func (o Options) withDefaults() Options {
	if o.Limits == (lane.Limits{}) {
		o.Limits = lane.DefaultLimits()
	}
	for field, fallback := range map[*time.Duration]time.Duration{
		&o.SyncEvery: 50 * time.Millisecond, &o.CheckpointEvery: 10 * time.Second, &o.TrimEvery: time.Minute,
		&o.Retention: 7 * 24 * time.Hour, &o.StopGrace: 20 * time.Second,
	} {
		if *field == 0 {
			*field = fallback
		}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Tenure.Held == nil {
		o.Tenure.Held = func() bool { return true }
	}
	return o
}

// Tenure is a lease on the partition, as far as it is of use here.
type Tenure struct {
	// Owner names who holds it, and is in the log's first record of this run.
	Owner string
	// Held tells whether the lease is confirmed now. While it is not, no attempt is begun, those under way are ended, and no command is
	// answered. Nil: always.
	Held func() bool
	// Lost is closed when another may hold the partition; Run ends then, with ErrLost, and records nothing more.
	Lost <-chan struct{}
}

// ErrLost ends a run whose lease another may have.
var ErrLost = errors.New("the partition's lease is lost")

// Run owns the partition until ctx ends, and then stops in order: no new attempt, those in flight have StopGrace to end,
// and what became of them is durable when Run returns nil. Any other end is an error: the caller may run it
// again, unless the journal failed.
func Run(ctx context.Context, o Options) error {
	l, err := start(ctx, o)
	if err == nil {
		err = l.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("partition %d: %w", o.Partition, err)
	}
	return nil
}

// start takes the partition over: from here on an earlier owner's appends are refused once this one has appended.
func start(ctx context.Context, o Options) (*loop, error) {
	o = o.withDefaults()
	began := time.Now()
	appender, err := o.Journal.Outcomes(o.Partition).NewAppender(ctx)
	if err != nil {
		return nil, err
	}
	if err := fence(ctx, o, appender); err != nil {
		appender.Close()
		return nil, err
	}
	state, err := catchUp(ctx, o, appender)
	if err != nil {
		appender.Close()
		return nil, err
	}
	o.Logger.Info("partition owned", "partition", o.Partition, "cursor", state.Cursor(), "open_endpoints", len(state.Endpoints()),
		"took", time.Since(began))
	checkpoints, err := o.Journal.Checkpoints(ctx, o.Partition)
	if err != nil {
		appender.Close()
		return nil, err
	}
	l := newLoop(o, state, appender)
	l.checkpoint.to = checkpoints
	return l, nil
}

// fence appends the first record of a new owner before anything is read: what a former one, that was suspended and wakes,
// appends after it is refused, and what it appended before is read. Killed after it, the record stands for nothing.
func fence(ctx context.Context, o Options, appender *journal.Appender) error {
	if o.Tenure.Owner == "" {
		return nil
	}
	b, err := record.AppendOutcome(nil, &relay.Outcome{State: relay.Owned, Reason: relay.Reason(o.Tenure.Owner), Partition: o.Partition, Time: o.Clock()})
	if err == nil {
		_, err = appender.Append(ctx, b)
	}
	return err
}

// catchUp is the state at the end of OUTCOMES.
func catchUp(ctx context.Context, o Options, appender *journal.Appender) (*owner.State, error) {
	// What an earlier run in this process appended may not be durable yet, and only durable records can be read.
	if _, err := appender.Sync(ctx); err != nil {
		return nil, err
	}
	state, err := restore(ctx, o)
	if err != nil {
		return nil, err
	}
	if appender.Last() != state.Folded() {
		return nil, fmt.Errorf("%w: outcomes end at %d and the state at %d", journal.ErrFenced, appender.Last(), state.Folded())
	}
	return state, nil
}

// restore folds the state from the newest checkpoint and the outcomes after it.
func restore(ctx context.Context, o Options) (*owner.State, error) {
	events, err := o.Journal.Events(o.Partition).State(ctx)
	if err != nil {
		return nil, err
	}
	outcomes := o.Journal.Outcomes(o.Partition)
	log, err := outcomes.State(ctx)
	if err != nil {
		return nil, err
	}
	var state *owner.State
	from := log.First
	switch saved, ok, err := o.Journal.LoadCheckpoint(ctx, o.Partition); {
	case err != nil:
		return nil, fmt.Errorf("checkpoint: %w", err)
	case ok:
		var foldFrom uint64
		if state, foldFrom, err = owner.Restore(saved); err != nil {
			return nil, err
		}
		from = foldFrom + 1
		if from < log.First {
			return nil, fmt.Errorf("checkpoint needs outcomes from %d on, and the log begins at %d", from, log.First)
		}
		if state.Cursor() > events.Last {
			// What comes next would be taken for routed.
			return nil, fmt.Errorf("checkpoint stands at event %d, and the log ends at %d: it is another journal's", state.Cursor(), events.Last)
		}
	default:
		// Before the first checkpoint nothing was trimmed.
		state = owner.New(max(events.First, 1) - 1)
	}
	if from > log.Last {
		return state, nil
	}
	err = outcomes.Range(ctx, from, log.Last, func(m journal.Message) error {
		outcomes, err := record.DecodeOutcomes(m.Payload)
		if err != nil {
			return fmt.Errorf("outcomes record %d: %w", m.Seq, err)
		}
		for i := range outcomes {
			state.Fold(m.Seq, &outcomes[i])
		}
		state.Whole()
		return nil
	})
	return state, err
}

// run starts what works beside the loop, and the loop; it returns when all of it has ended.
func (l *loop) run(ctx context.Context) error {
	defer l.appender.Close()
	defer l.checkpoint.close()
	// What is stopping goes on under work; beside is cancelled when the loop is done with it.
	work, endWork := context.WithCancel(context.WithoutCancel(ctx))
	reading, endReading := context.WithCancel(ctx)
	l.work, l.endReading = work, endReading

	if err := l.makeRoom(); err != nil {
		endWork()
		endReading()
		return err
	}
	stopServing, err := l.serve(work)
	if err != nil {
		endWork()
		endReading()
		return err
	}
	var beside sync.WaitGroup
	from := l.state.Cursor() + 1
	l.events.Consumed(from-1, 0)
	beside.Go(func() { l.read(reading, from) })
	beside.Go(func() { l.route(reading) })
	beside.Go(func() { l.fetch(work) })
	beside.Go(func() { l.keepSynced(work) })
	beside.Go(func() { l.watchRegistry(work) })
	beside.Go(func() { l.watchErasures(work) })
	beside.Go(func() {
		select {
		case <-l.o.Tenure.Lost:
			endWork() // whatever the loop may be waiting for
		case <-work.Done():
		}
	})

	err = l.loop(ctx)

	endReading()
	if err == nil {
		err = l.settleUp()
	}
	endWork()
	stopServing()
	close(l.courierC)
	l.discard(&beside)
	return err
}

// settleUp makes durable what the loop recorded, so that the next start has nothing to do again.
func (l *loop) settleUp() error {
	ctx, cancel := context.WithTimeout(l.work, 30*time.Second)
	defer cancel()
	for l.checkpoint.saving { // two at once would fence each other
		select {
		case s := <-l.savedC:
			l.saved(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := l.append(); err != nil {
		return err
	}
	if _, err := l.appender.Sync(ctx); err != nil {
		return err
	}
	return l.checkpoint.keep(ctx, l, l.state.Checkpoint())
}

// discard lets everything beside the loop end, taking what it still says.
func (l *loop) discard(beside *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		beside.Wait()
		l.couriers.Wait()
		close(done)
	}()
	for {
		select {
		case <-done:
			return
		case <-l.routedC:
		case <-l.fetchedC:
		case <-l.resultC:
		case <-l.syncedC:
		case <-l.snapshotC:
		case <-l.erasedC:
		case <-l.savedC:
		case command := <-l.commandC:
			command.answer(ErrUnavailable)
		}
	}
}

func newLoop(o Options, state *owner.State, appender *journal.Appender) *loop {
	return &loop{
		o: o, log: o.Logger.With("partition", o.Partition), metrics: o.Metrics,
		state: state, lanes: lane.New[*task](o.Limits), appender: appender,
		events: o.Journal.Events(o.Partition),
		live:   map[owner.Key]*task{}, reopening: map[owner.Key]struct{}{}, purging: map[string]struct{}{}, told: map[[2]string]time.Time{}, configured: map[string]registry.Version{},
		tallies: map[string]*tally.Tally{},
		routedC: make(chan routed, 256), fetchC: make(chan []fetchItem, 1), fetchedC: make(chan fetched, 16),
		courierC: make(chan *task, o.Limits.AtOnce()), resultC: make(chan result, 1024),
		commandC: make(chan command, 16), syncedC: make(chan synced, 1), snapshotC: make(chan *registry.Snapshot, 1),
		erasedC: make(chan *erasure.Snapshot, 1), wishes: map[string]wish{},
		savedC: make(chan saved, 1), dirtyC: make(chan struct{}, 1), hurryC: make(chan struct{}, 1),
		ahead: semaphore.NewWeighted(routedAhead), intake: newIntake(), draining: newDrain(),
	}
}
