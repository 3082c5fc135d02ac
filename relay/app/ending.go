package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrStuck is for a part of a process that did not end when it was told to. What was answered is kept all the same: a stop does nothing
// that a kill would lose, and this one ends as a kill does. Whoever gets it should end the process.
var ErrStuck = errors.New("did not stop in time")

// patience is how long each step of a stop may take beyond what StopGrace allows it: what became of what was in flight is recorded, the
// view is caught up with it, files are closed.
func (o *Options) patience() time.Duration { return max(5*time.Second, o.StopGrace) }

// crew is parts that run until they are told to stop, by name, so that it can be said which of them did not.
type crew struct {
	group *errgroup.Group

	mu      sync.Mutex
	running map[string]bool
}

// newCrew is errgroup.WithContext for named parts.
func newCrew(ctx context.Context) (*crew, context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	return &crew{group: group, running: map[string]bool{}}, ctx
}

// Go runs a part; its error ends the crew's context.
func (c *crew) Go(name string, run func() error) {
	ended := c.begin(name)
	c.group.Go(func() error {
		defer ended()
		return run()
	})
}

// begin notes that a part of a part runs, until ended is called.
func (c *crew) begin(name string) (ended func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[name] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.running, name)
	}
}

func (c *crew) still() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.running))
}

// wait returns the crew's first error when all of it has ended, or names those that have not after a time.
func (c *crew) wait(within time.Duration) error { return bounded(within, c.still, c.group.Wait) }

// bounded returns what do does, or, where that takes longer, ErrStuck with the names of what still runs.
func bounded(within time.Duration, still func() []string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("%s %w (%v)", strings.Join(still(), ", "), ErrStuck, within)
	}
}

// stopListeners lets them end what they serve for StopGrace, and then cuts it off.
func (a *App) stopListeners(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.o.StopGrace)
	defer cancel()
	stops, _ := newCrew(ctx)
	for _, l := range a.listeners {
		stops.Go("listener "+l.name, func() error { l.stop(ctx); return nil })
	}
	return stops.wait(a.o.StopGrace + a.o.patience())
}

// close undoes what was opened, the last first. What does not end in the time for all of it is named, and left.
func (a *App) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.o.patience())
	defer cancel()
	late, _ := ctx.Deadline()
	var errs []error
	for i := len(a.cleanups) - 1; i >= 0; i-- {
		one := a.cleanups[i]
		named := func() []string { return []string{one.name} }
		// The journal keeps the time itself, and says more of what it waits for: it gets a moment to.
		if err := bounded(max(time.Until(late), 0)+closeMoment, named, func() error { return one.run(ctx) }); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", one.name, err))
		}
	}
	a.cleanups = nil
	return errors.Join(errs...)
}

// closeMoment is what each thing that is closed may take when the time for all of them is up.
const closeMoment = 100 * time.Millisecond
