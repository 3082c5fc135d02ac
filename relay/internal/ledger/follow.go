package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// Follower tells watchers what comes to the logs, in a process that need not own any of them: it reads all of them itself, while
// somebody watches. The view may have a change some milliseconds later. It is safe for concurrent use.
type Follower struct {
	outcomes []*journal.Outcomes
	log      *slog.Logger
	hub      Hub

	mu       sync.Mutex // guards the rest
	watching int
	stop     context.CancelFunc
	reading  *sync.WaitGroup
}

// NewFollower makes a follower of the partitions' logs.
func NewFollower(outcomes []*journal.Outcomes, log *slog.Logger) *Follower {
	return &Follower{outcomes: outcomes, log: log}
}

// Watch yields the outcomes that are recorded after the call, as Hub.Watch does. Where the logs cannot be read any more it ends with
// ErrLagged: what is missed meanwhile has to be listed.
func (f *Follower) Watch(ctx context.Context) iter.Seq2[relay.Outcome, error] {
	changes := f.hub.Watch(ctx)
	err := f.enter(ctx)
	return func(yield func(relay.Outcome, error) bool) {
		defer f.leave()
		if err != nil {
			yield(relay.Outcome{}, err)
			return
		}
		changes(yield)
	}
}

// enter begins to read for the first watcher, from where the logs end now.
func (f *Follower) enter(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watching++
	if f.stop != nil {
		return nil
	}
	ends := make([]uint64, len(f.outcomes))
	asking, within := errgroup.WithContext(ctx)
	asking.SetLimit(16)
	for p, log := range f.outcomes {
		asking.Go(func() (err error) { ends[p], err = log.Synced(within); return err })
	}
	if err := asking.Wait(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop, f.reading = stop, &sync.WaitGroup{}
	for p, log := range f.outcomes {
		f.reading.Go(func() { f.follow(reading, p, log, ends[p]+1) })
	}
	return nil
}

// leave ends the reading with the last watcher.
func (f *Follower) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watching--; f.watching == 0 && f.stop != nil {
		f.stop()
		f.reading.Wait()
		f.stop = nil
	}
}

func (f *Follower) follow(ctx context.Context, p int, log *journal.Outcomes, from uint64) {
	for ctx.Err() == nil {
		err := log.Read(ctx, from, func(m journal.Message) error {
			outcomes, err := record.DecodeOutcomes(m.Payload)
			if err != nil {
				return err
			}
			f.hub.tell(change{m.Seq, outcomes}.addTo(nil))
			from = m.Seq + 1
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		f.log.Warn("outcomes cannot be followed", "partition", p, "error", err)
		f.hub.lose()
		if !errors.Is(err, journal.ErrUnavailable) {
			return
		}
	}
}
