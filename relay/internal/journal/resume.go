package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// What an appender does where an external server does not answer, or refuses a record that follows one which it lost. In
// a cluster without a leader records are dropped and answers are too, for as long as an election lasts (4 to 9 s), and what was
// not acknowledged may have been stored or not. The log tells: its last record is one of ours, or nobody but us wrote since we
// began; then all up to it are stored, since each names the one before, and those after it are written again, the first of
// them to follow the sequence of that record. Any other last record is another writer's: ErrFenced.
const (
	// resumeAfter is how long an acknowledgement is waited for before the log is asked.
	resumeAfter = 2 * time.Second
	// resumeWithin bounds all of it; then the records are given up, and what they stood for is done again by the next writer.
	resumeWithin = time.Minute
	// resumePause is between two questions.
	resumePause = 100 * time.Millisecond
	// stalledAfter is how long a record may be unacknowledged before it is better to do nothing that makes more of them.
	stalledAfter = time.Second
)

// Stalled tells whether the log takes nothing at present.
func (a *Appender) Stalled() bool {
	if a.kept == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken != nil || a.acked+1 < a.next && time.Since(a.since) > stalledAfter
}

func (a *Appender) patience() time.Duration {
	if a.kept != nil {
		return resumeAfter
	}
	return ackTimeout
}

// mayResume tells whether an error may be mended by writing again.
func (a *Appender) mayResume(err error) bool {
	return a.kept != nil && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFenced) || errors.Is(err, ErrBusy) || errors.Is(err, errInProcess))
}

// lose notes that the records after the last acknowledged one have to be written again, or fails.
func (a *Appender) lose(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.err != nil:
		return a.err
	case !a.mayResume(err):
		a.err = err
	case a.broken == nil:
		a.broken = err
	}
	close(a.moved)
	a.moved = make(chan struct{})
	return a.err
}

// resume writes again what was not stored. It returns when a whole round was acknowledged, or fails.
func (a *Appender) resume(ctx context.Context) error {
	a.resuming.Lock()
	defer a.resuming.Unlock()
	a.mu.Lock()
	why, first := a.broken, a.acked+1
	a.mu.Unlock()
	if why == nil {
		return nil // another caller did
	}
	began := time.Now()
	for round := 0; ; round++ {
		err := a.again(ctx)
		switch {
		case err == nil:
			a.l.j.log.Info("journal: records were written again", "log", a.l.name, "from", first, "after", time.Since(began), "reason", why)
			return nil
		case errors.Is(err, ErrFenced):
			return a.fail(err)
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(began) > resumeWithin:
			return a.fail(fmt.Errorf("not written again within %v: %w", resumeWithin, err))
		}
		if round%20 == 19 {
			a.l.j.log.Warn("journal: records cannot be written again yet", "log", a.l.name, "from", first, "reason", why, "error", err)
		}
		select {
		case <-time.After(resumePause):
		case <-ctx.Done():
			return ctx.Err()
		case <-a.l.j.closing:
			return a.fail(ErrClosed)
		}
	}
}

// again is one round of resume. What is appended meanwhile is kept, or follows.
func (a *Appender) again(ctx context.Context) error {
	stored, err := a.stored(ctx)
	if err != nil {
		return err
	}
	last, err := a.rewrite(stored)
	if err != nil {
		return err
	}
	return a.round(ctx, last)
}

// rewrite sends the record after the last stored one, which the others follow, and returns the sequence of the last of them.
func (a *Appender) rewrite(stored uint64) (last uint64, err error) {
	a.wire.Lock()
	defer a.wire.Unlock()
	// Late answers to the former round are not taken for answers to this one.
	if err := a.w.reset(); err != nil {
		return 0, err
	}
	a.mu.Lock()
	a.acked, a.broken, a.since = stored, nil, time.Now()
	close(a.moved)
	a.moved = make(chan struct{})
	next, failed := a.next, a.err
	a.mu.Unlock()
	if failed != nil {
		return 0, failed
	}
	// A leader counts refused records of others among the sequences for a while: then this round is refused too.
	if seq := stored + 1; seq < next {
		if err := a.send(seq, a.kept[seq%a.window]); err != nil {
			a.lose(err)
		}
	}
	return next - 1, nil
}

// round returns when all up to seq is acknowledged, or will not be without another round.
func (a *Appender) round(ctx context.Context, seq uint64) error {
	late := time.NewTimer(resumeAfter)
	defer late.Stop()
	for {
		a.mu.Lock()
		acked, err, broken, moved := a.acked, a.err, a.broken, a.moved
		a.mu.Unlock()
		switch {
		case err != nil:
			return err
		case acked >= seq:
			return nil
		case broken != nil:
			if errors.Is(broken, ErrFenced) {
				// It may be a record that was lost again; the log tells in the next round.
				return fmt.Errorf("%w: refused in between: %s", ErrUnavailable, broken)
			}
			return broken
		}
		select {
		case <-moved:
			late.Reset(resumeAfter)
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			err := fmt.Errorf("%w: no acknowledgement of %s in %v", ErrUnavailable, a.l.name, resumeAfter)
			if failed := a.lose(err); failed != nil {
				return failed
			}
			return err
		}
	}
}

// stored is the sequence of the last record that the log has, which must be this writer's or the one that it began behind.
func (a *Appender) stored(ctx context.Context) (uint64, error) {
	st, err := a.l.State(ctx)
	if err != nil {
		return 0, err
	}
	a.mu.Lock()
	acked, next := a.acked, a.next
	a.mu.Unlock()
	switch {
	case st.Last < acked:
		// The one who answers lags behind what was acknowledged.
		return 0, fmt.Errorf("%w: %s ends at %d, and %d was acknowledged", ErrUnavailable, a.l.name, st.Last, acked)
	case st.Last == acked:
		return acked, nil
	}
	id, err := a.l.idAt(ctx, st.Last)
	if err != nil {
		return 0, err
	}
	if st.Last < next && id == a.id(st.Last) {
		return st.Last, nil
	}
	return 0, fmt.Errorf("%w: %s ends at %d with a record of another", ErrFenced, a.l.name, st.Last)
}

// idAt is the id of a record that the stream's leader says is there. Any replica may tell it: what stands at a sequence is the same on
// all. (The leader is not asked for it by the other way, for there a server answers too that believes, for a while, that there is none.)
func (l *Log) idAt(ctx context.Context, seq uint64) (string, error) {
	m, err := l.getAny(ctx, seq)
	if err != nil {
		return "", err
	}
	if status := m.Header.Get("Status"); status != "" {
		return "", fmt.Errorf("%w: id of record %d: %s %s", ErrUnavailable, seq, status, m.Header.Get("Description"))
	}
	return m.Header.Get(nats.MsgIdHdr), nil
}

// holds asks the stream's leader whether it has a record; a server that answers a direct get may lag behind. ErrNotFound: it does not.
func (l *Log) holds(ctx context.Context, seq uint64) error {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	m, err := l.j.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+l.name, getRequest(seq))
	if err != nil {
		return unavailable(err)
	}
	var r struct {
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return fmt.Errorf("%w: record: %w", ErrUnavailable, err)
	}
	if len(r.Error) > 0 {
		return refusal(m.Data)
	}
	return nil
}
