package tree

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

// Build grows the tree behind the log, and compares every record with its leaf now and then, until ctx ends; then it writes the last
// checkpoint outside. Two that run at once, as where a lease has just moved, do no harm: one of them finds that the other was ahead.
func (t *Tree) Build(ctx context.Context) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	scrubbing := make(chan struct{}, 1)
	scrub := time.NewTimer(0)
	defer scrub.Stop()
	scrubs, stop := context.WithCancel(ctx)
	defer func() { stop(); scrubbing <- struct{}{} }() // one that runs is waited for
	for failing := false; ; {
		err := t.step(ctx, false)
		if err != nil && ctx.Err() == nil && !errors.Is(err, errRaced) && !failing {
			t.log.Error("the audit log's tree does not grow", "error", err)
		}
		failing = err != nil
		if errors.Is(err, errRaced) {
			err = t.reload(ctx)
		}
		again := false
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return ignoreClosed(t.step(last, true))
		case <-scrub.C:
			again = true
		case <-t.rescrub:
			again = true
		case <-ticker.C:
		}
		if !again {
			continue
		}
		scrub.Reset(scrubEvery)
		select {
		case scrubbing <- struct{}{}:
			go func() {
				defer func() { <-scrubbing }()
				if n, err := t.Scrub(scrubs); err != nil && scrubs.Err() == nil {
					t.log.Error("the audit log's records could not be compared with their hashes", "error", err)
				} else if err == nil {
					t.log.Info("the audit log's records were compared with their hashes", "records", n)
				}
			}()
		default: // one is under way
		}
	}
}

// ignoreClosed is for the last step, which may come when all is closed already.
func ignoreClosed(err error) error {
	if errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrUnavailable) || errors.Is(err, errRaced) {
		return nil
	}
	return err
}

// reload takes the head that is kept.
func (t *Tree) reload(ctx context.Context) error {
	t.tiles.forget()
	item, err := t.o.State.Get(ctx, keyCheckpoint)
	if err != nil {
		return err
	}
	t.take(item)
	return nil
}

// step adds what the log has more, and writes the checkpoint outside when that is due.
func (t *Tree) step(ctx context.Context, last bool) error {
	upTo, err := t.o.Log.Synced(ctx)
	if err != nil {
		return err
	}
	if int64(upTo) == t.now().Size && !t.unsure() { // as nearly always
		t.publish(last)
		return nil
	}
	if err := t.check(ctx); err != nil {
		return err
	}
	for !t.stuck() && t.now().Size < int64(upTo) && (last || ctx.Err() == nil) {
		if err := t.grow(ctx, min(int64(upTo), t.now().Size+growBy)); err != nil {
			return err
		}
	}
	if t.unsure() { // the tree may have been too short to compare
		if err := t.check(ctx); err != nil {
			return err
		}
	}
	t.publish(last)
	return nil
}

// gone is the leaf of a record that was trimmed before the tree had it. No record has it: none is empty.
func gone() proof.Hash { return proof.RecordHash(nil) }

// leaves are those of the records at sequences first to last. missing are those that are not there.
func (t *Tree) leaves(ctx context.Context, first, last uint64) (out []proof.Hash, missing []uint64, err error) {
	next := first
	skip := func(to uint64) {
		for ; next < to; next++ {
			out, missing = append(out, gone()), append(missing, next)
		}
	}
	err = t.o.Log.Range(ctx, first, last, func(m journal.Message) error {
		skip(m.Seq)
		out = append(out, proof.RecordHash(m.Payload))
		next++
		return nil
	})
	skip(last + 1)
	return out, missing, err
}

// grow adds the records up to a size and signs the tree that then is.
func (t *Tree) grow(ctx context.Context, size int64) error {
	h := t.now()
	more, missing, err := t.leaves(ctx, uint64(h.Size)+1, uint64(size))
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		st, err := t.o.Log.State(ctx)
		if err != nil {
			return err
		}
		if lastGone := missing[len(missing)-1]; lastGone >= st.First {
			return t.raise(ctx, Break{Kind: kindRemoved, Size: int64(lastGone), Have: int64(len(missing)),
				Text: fmt.Sprintf("record %d is not there, and %d in all", lastGone, len(missing))})
		}
		t.log.Warn("audit records were trimmed before the tree had them", "records", len(missing), "last", missing[len(missing)-1])
	}
	now, err := t.tiles.extend(ctx, h.tree(), more)
	if err != nil {
		return err
	}
	return t.sign(ctx, h, now)
}

// sign keeps a tree as the new head, after the old one.
func (t *Tree) sign(ctx context.Context, was head, now tlog.Tree) error {
	c := proof.Checkpoint{Origin: t.key.Name(), Size: now.N, Root: now.Hash}
	signed, err := c.Sign(t.signer)
	if err != nil {
		return err
	}
	var revision uint64
	if was.revision == 0 {
		revision, err = t.o.State.Create(ctx, keyCheckpoint, signed)
	} else {
		revision, err = t.o.State.Update(ctx, keyCheckpoint, signed, was.revision)
	}
	if errors.Is(err, journal.ErrRevision) {
		return errRaced
	} else if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if revision > t.head.revision {
		t.set(head{c, signed, revision})
	}
	return nil
}

// publish writes the head outside when that is due: not while the log is not what the last one outside says.
func (t *Tree) publish(now bool) {
	h, halted := t.now(), t.Halted()
	if t.outside == nil || h.Size == 0 || halted != nil || h.signed == nil {
		return
	}
	g, at := &t.growing, t.o.Clock()
	if h.Checkpoint == g.published || !now && at.Sub(g.tried) < t.o.PublishEvery && at.After(g.tried) {
		return
	}
	g.tried = at
	err := t.outside.append(h.signed, at)
	if err == nil {
		g.published = h.Checkpoint
		t.metrics.published.Set(float64(h.Size))
	} else {
		t.metrics.failures.Inc()
		t.log.Error("the audit log's checkpoint could not be written outside", "file", t.outside.path, "error", err)
	}
	t.mu.Lock()
	t.failing = err
	t.mu.Unlock()
}
