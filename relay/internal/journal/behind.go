package journal

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// What makes reading from a cluster right although the server that answers may lag behind what was acknowledged: a direct get and
// a consumer are served by any replica, questions about the stream by its leader.

var errBroken = errors.New("connection lost")

const (
	// hearLook is how often a stream's leader is asked whether there is more than was heard.
	hearLook = 500 * time.Millisecond
	// hearAfter is for how long a process may not have heard what there is, or nobody may answer.
	hearAfter = 1500 * time.Millisecond
)

// watchHang ends a reading with errStalled that has waited for a record which is there for longer than hearAfter: its consumer
// died with a server, which the client library finds out after ten seconds.
func (l *Log) watchHang(ctx context.Context, at *progress, end context.CancelCauseFunc) {
	tick := time.NewTicker(hearLook)
	defer tick.Stop()
	var since time.Time
	for before := uint64(0); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		next := at.next.Load()
		if at.busy.Load() || next != before {
			before, since = next, time.Time{}
			continue
		}
		st, err := l.quickState(ctx)
		switch {
		case err != nil:
		case st.Last < next:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > hearAfter:
			end(errStalled)
			return
		}
	}
}

// reaches tells whether a cluster's leader has the last of the sequences. They were there before: one that was just elected, and has
// not applied everything yet, would say of those above its end that they are gone.
func (l *Log) reaches(ctx context.Context, seqs []uint64) error {
	if l.disk != nil || len(seqs) == 0 {
		return nil
	}
	st, err := l.State(ctx)
	if err == nil && st.Last < seqs[len(seqs)-1] {
		err = fmt.Errorf("%w: %s ends at %d, and %d is asked for", ErrUnavailable, l.name, st.Last, seqs[len(seqs)-1])
	}
	return err
}

// quickState is State, not waited for for long.
func (l *Log) quickState(ctx context.Context) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, hearAfter)
	defer cancel()
	return l.State(ctx)
}

// listening makes sure that a watch of a bucket hears: the stream's leader is asked how far the stream goes.
type listening struct {
	log   *Log
	heard atomic.Uint64
	whole atomic.Bool // what was there at first was heard
}

// run returns why the watch cannot be relied on, when that is so.
func (w *listening) run(ctx context.Context) error {
	tick := time.NewTicker(hearLook)
	defer tick.Stop()
	answered := time.Now()
	var since time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		asked := time.Now()
		st, err := w.log.quickState(ctx)
		switch {
		case err != nil:
			if time.Since(answered) > hearAfter {
				return fmt.Errorf("%w: %s does not answer: %w", ErrUnavailable, w.log.name, err)
			}
			continue
		case w.heard.Load() >= st.Last, w.whole.Load() && w.gone(ctx, st.Last):
			since = time.Time{}
		case since.IsZero():
			since = asked
		case time.Since(since) > hearAfter:
			return fmt.Errorf("%w: %s goes to %d, and only what is up to %d was heard", ErrUnavailable, w.log.name, st.Last, w.heard.Load())
		}
		answered = asked
	}
}

// gone tells whether the last record was removed, so that nobody will hear it: it is not asked for again.
func (w *listening) gone(ctx context.Context, seq uint64) bool {
	if err := w.log.holds(ctx, seq); !errors.Is(err, ErrNotFound) {
		return false
	}
	w.hear(seq)
	return true
}

func (w *listening) hear(seq uint64) {
	for {
		was := w.heard.Load()
		if seq <= was || w.heard.CompareAndSwap(was, seq) {
			return
		}
	}
}
