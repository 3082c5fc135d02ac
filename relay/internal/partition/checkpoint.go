package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// checkpointing is what the loop knows of its checkpoints.
type checkpointing struct {
	to       *journal.Checkpoints // of whoever saves: one at a time; nil: to be had anew
	saving   bool
	at       time.Time // when the last one was begun
	trimmed  time.Time // when the logs were last trimmed
	cursor   uint64    // of the last one begun
	folded   uint64
	foldFrom uint64
	lowest   uint64 // the lowest open sequence in it
	safe     bounds // of the last one saved
}

// bounds are the sequences from which on the logs are needed to start again.
type bounds struct{ events, outcomes uint64 }

// saved is the end of saving a checkpoint.
type saved struct {
	took time.Duration
	size int
	err  error
}

// startCheckpoint begins to save the state, if it is time and something changed. A crash before it is saved leaves the
// former one, from which the outcomes lead here again.
func (l *loop) startCheckpoint(now time.Time) error {
	c := &l.checkpoint
	if c.saving || now.Sub(c.at) < l.o.CheckpointEvery {
		return nil
	}
	// A checkpoint must not know more than the log.
	if err := l.append(); err != nil {
		return err
	}
	if l.state.Folded() != c.folded || l.state.Cursor() != c.cursor {
		c.saving = true
		c.cursor, c.folded, c.foldFrom, c.lowest = l.state.Cursor(), l.state.Folded(), l.state.FoldFrom(), l.state.LowestOpen()
		data := l.state.Checkpoint()
		l.couriers.Go(func() { l.save(data) })
	}
	c.at = now
	if now.Sub(c.trimmed) >= l.o.TrimEvery && c.safe != (bounds{}) {
		c.trimmed = now
		keep := c.safe
		keep.events = min(keep.events, l.state.LowestOpen())
		l.couriers.Go(func() { l.trim(keep, now) })
	}
	return nil
}

func (l *loop) save(data []byte) {
	began := time.Now()
	// The outcomes that it rests on first.
	_, err := l.appender.Sync(l.work)
	if err == nil {
		err = l.checkpoint.keep(l.work, l, data)
	}
	select {
	case l.savedC <- saved{time.Since(began), len(data), err}:
	case <-l.work.Done():
	}
}

// keep saves a checkpoint behind the last one of this owner: one that was suspended and wakes finds that another has saved, and
// does not put its own, which the logs may no longer go back to, in the place of the other's. After an error it is not known
// what the log holds, and where it ends is learned anew, by who holds the lease.
func (c *checkpointing) keep(ctx context.Context, l *loop, data []byte) error {
	err := c.try(ctx, l, data)
	if errors.Is(err, journal.ErrFenced) {
		// A former owner saved one after this one had begun. It is the last that it saved.
		err = c.try(ctx, l, data)
	}
	return err
}

func (c *checkpointing) try(ctx context.Context, l *loop, data []byte) (err error) {
	if c.to == nil {
		if c.to, err = l.o.Journal.Checkpoints(ctx, l.o.Partition); err != nil {
			return err
		}
	}
	if !l.o.Tenure.Held() {
		return ErrLost
	}
	if err = c.to.Save(ctx, data); err != nil {
		c.close()
	}
	return err
}

func (c *checkpointing) close() {
	if c.to != nil {
		c.to.Close()
		c.to = nil
	}
}

func (l *loop) saved(s saved) {
	c := &l.checkpoint
	c.saving = false
	if s.err != nil {
		// Nothing is lost by it: the former one stands, and the next try comes.
		l.log.Error("checkpoint not saved", "error", s.err)
		l.metrics.checkpointFailures.Inc()
		return
	}
	c.safe = bounds{events: min(c.cursor+1, c.lowest), outcomes: c.foldFrom + 1}
	l.metrics.checkpoint(s)
}

// makeRoom saves the state and trims before anything is appended, where OUTCOMES is nearly full: an owner that could not append
// ends, and the next would end the same way before its first checkpoint is due, however much could go. It is ErrFull while there
// is no room: nothing is sent of which the outcome could not be kept.
func (l *loop) makeRoom() error {
	outcomes := l.o.Journal.Outcomes(l.o.Partition)
	used := func() (float64, error) {
		st, err := outcomes.State(l.work)
		return float64(st.Bytes) / float64(max(1, outcomes.MaxBytes())), err
	}
	if share, err := used(); err != nil || share < trimAbove || outcomes.MaxBytes() <= 0 {
		return err
	}
	if err := l.o.Journal.SaveCheckpoint(l.work, l.o.Partition, l.state.Checkpoint()); err != nil {
		return err
	}
	l.trim(bounds{events: min(l.state.Cursor()+1, l.state.LowestOpen()), outcomes: l.state.FoldFrom() + 1}, l.o.Clock())
	if share, err := used(); err != nil || share < fullAbove {
		return err
	}
	return fmt.Errorf("%w: OUTCOMES, and what is in it is needed still, or the view does not have it", journal.ErrFull)
}

// fullAbove is the share of OUTCOMES' byte bound above which nothing is begun.
const fullAbove = 0.95

// trimAbove is the share of a log's byte bound above which settled records go before their time.
const trimAbove = 0.8

// trim removes from both logs what is settled and older than Retention, and more where a log is nearly full. Nothing
// from keep on is touched.
func (l *loop) trim(keep bounds, now time.Time) {
	if l.o.Projected != nil {
		keep.outcomes = min(keep.outcomes, l.o.Projected()+1)
	}
	l.trimLog(l.events.Log, keep.events, now)
	l.trimLog(l.o.Journal.Outcomes(l.o.Partition).Log, keep.outcomes, now)
}

func (l *loop) trimLog(log *journal.Log, keep uint64, now time.Time) {
	if err := log.Expire(l.work, keep, now.Add(-l.o.Retention), trimAbove); err != nil && l.work.Err() == nil {
		l.log.Warn("log not trimmed", "error", err)
	}
}
