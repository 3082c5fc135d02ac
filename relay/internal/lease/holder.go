package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Tenure is the holding of a partition, for who runs it.
type Tenure struct {
	// Owner names the session that holds it: it is another one for each life of a relay.
	Owner string
	// Held tells whether the lease is confirmed now. While it is not, nothing new may be begun, and what is under way has to end.
	// It may come to be confirmed again.
	Held func() bool
	// Lost is closed when another may hold the partition: what is not recorded by then is the other's to do.
	Lost <-chan struct{}
}

// Options are what a Holder is made with; all are required.
type Options struct {
	Board *Board
	Name  string // for people: where this relay is
	Life  time.Duration
	// Own runs a partition until ctx ends or the tenure is lost, and returns when nothing of it goes on. An error ends the Holder.
	Own func(ctx context.Context, p int, t Tenure) error
	// Routed is how far the events of a partition were routed here.
	Routed func(p int) uint64
	Logger *slog.Logger
}

// Holder holds a relay's share of the partitions.
type Holder struct {
	Options
	fatal chan error

	mu   sync.Mutex
	runs map[int]*run // partitions that are run here
}

// run is one partition being run.
type run struct {
	life  *life
	end   context.CancelFunc
	ended bool // and its lease not given back yet
}

// life is one session of a relay.
type life struct {
	id       string
	begun    time.Time
	lost     chan struct{}
	held     atomic.Int64  // until when the session is confirmed, in nanoseconds after begun
	turn     chan struct{} // one token: its holder writes the session's key; guards the two below
	revision uint64
	leaving  bool
}

// NewHolder makes a holder; Run starts it.
func NewHolder(o Options) *Holder {
	return &Holder{Options: o, fatal: make(chan error, 1), runs: map[int]*run{}}
}

// confirmed counts the life from before the write that confirmed it.
func (l *life) confirmed(before time.Time, span time.Duration) {
	l.held.Store(int64(before.Sub(l.begun) + span - span/10))
}

func (l *life) isHeld() bool {
	select {
	case <-l.lost:
		return false
	default:
		return int64(time.Since(l.begun)) < l.held.Load()
	}
}

// Run holds partitions until ctx ends, and then gives all of them back and returns when their owners have ended. The
// board must run meanwhile.
func (h *Holder) Run(ctx context.Context) error {
	defer h.await()
	for ctx.Err() == nil {
		l, err := h.begin(ctx)
		if err != nil {
			h.Logger.Warn("no session of leases", "error", err)
			select {
			case <-time.After(h.Life / 10):
			case <-ctx.Done():
			}
			continue
		}
		if err := h.live(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// await returns when nothing is run here any more.
func (h *Holder) await() {
	h.endAll()
	for h.going() {
		<-h.Board.change
	}
}

func (h *Holder) going() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runs {
		if !r.ended {
			return true
		}
	}
	return false
}

// begin makes a session under a new id. One whose making was not answered is nobody's, and ends by its life.
func (h *Holder) begin(ctx context.Context) (*life, error) {
	l := &life{id: rand.Text()[:12], begun: time.Now(), lost: make(chan struct{}), turn: make(chan struct{}, 1)}
	before := time.Now()
	value := h.session(l)
	revision, err := h.write(ctx, func(ctx context.Context) (uint64, error) {
		return h.Board.bucket.Create(ctx, relayKey+l.id, value)
	})
	if err != nil {
		return nil, fmt.Errorf("lease: begin a session: %w", err)
	}
	l.revision = revision
	l.confirmed(before, h.Life)
	h.Board.with(func(now time.Time) { h.Board.me = l.id })
	h.Board.take(journal.Item{Key: relayKey + l.id, Value: value, Revision: revision})
	h.Logger.Info("session of leases begun", "session", l.id, "life", h.Life)
	return l, nil
}

// write bounds a write, so that a lease is not waited for longer than it is worth.
func (h *Holder) write(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, h.Life/3)
	defer cancel()
	return do(ctx)
}

func (h *Holder) session(l *life) []byte {
	s := session{Version: version, Name: h.Name, LifeMS: h.Life.Milliseconds(), Leaving: l.leaving, Routed: map[int]uint64{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	for p, r := range h.runs {
		if r.life == l {
			s.Routed[p] = h.Routed(p)
		}
	}
	return encode(s)
}

// live is one session: it is renewed, and steps are made, until it is lost or ctx ends.
func (h *Holder) live(ctx context.Context, l *life) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	var renewing sync.WaitGroup
	renewing.Go(func() { h.keepRenewed(working, l) })
	renewing.Go(func() { h.forget(working) })
	defer renewing.Wait()
	defer stop()
	tick := time.NewTicker(h.Life / 20)
	defer tick.Stop()
	var failed error
	leaving, fatal := ctx.Done(), h.fatal
	for {
		select {
		case <-leaving:
			leaving = nil
			h.leave(working, l)
		case failed = <-fatal:
			leaving, fatal = nil, nil
			h.leave(working, l)
		case <-l.lost:
			h.endAll()
			return failed
		case <-tick.C:
		case <-h.Board.change:
		}
		h.giveBack(working, l)
		if leaving == nil {
			switch {
			case h.running() == 0:
				h.finish(working, l)
				return failed
			case !h.going() && !l.isHeld():
				return failed // the bucket cannot be written: the session's life ends what it holds
			}
			continue
		}
		for _, s := range h.steps(l) {
			h.do(working, l, s)
		}
	}
}

// forget removes the marks of sessions that ended long ago. Where it fails, the next session's does it.
func (h *Holder) forget(ctx context.Context) {
	if err := h.Board.bucket.Forget(ctx, time.Hour); err != nil && ctx.Err() == nil {
		h.Logger.Warn("old sessions not forgotten", "error", err)
	}
}

// leave says that this relay takes no more, first, so that nobody counts on it for what it gives back; then it ends what it runs.
func (h *Holder) leave(ctx context.Context, l *life) {
	l.turn <- struct{}{}
	l.leaving = true
	<-l.turn
	if err := h.renew(ctx, l); err != nil {
		h.Logger.Warn("leaving was not said", "error", err)
	}
	h.endAll()
}

// finish ends the session. Where that fails it ends by its life.
func (h *Holder) finish(ctx context.Context, l *life) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	_, err := h.write(ctx, func(ctx context.Context) (uint64, error) {
		return 0, h.Board.bucket.Delete(ctx, relayKey+l.id, l.revision)
	})
	if err != nil {
		h.Logger.Warn("session of leases not ended, its life will", "error", err)
	}
}

func (h *Holder) steps(l *life) []step {
	ending := h.ending()
	h.Board.mu.Lock()
	defer h.Board.mu.Unlock()
	if !l.isHeld() {
		return nil
	}
	return h.Board.table.steps(l.id, h.Life, time.Now(), ending)
}

// ending are the partitions that are run here, and were asked to end.
func (h *Holder) ending() map[int]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[int]bool{}
	for p, r := range h.runs {
		out[p] = r.end == nil
	}
	return out
}

// do makes a step. One that fails for a revision was another's to make: the board will tell.
func (h *Holder) do(ctx context.Context, l *life, s step) {
	var err error
	switch {
	case s.yield:
		h.Logger.Info("partition is given to another relay", "partition", s.partition)
		h.end(s.partition)
		return
	case s.take:
		err = h.take(ctx, l, s)
	default:
		_, err = h.write(ctx, func(ctx context.Context) (uint64, error) {
			return 0, h.Board.bucket.Delete(ctx, relayKey+s.fence, s.revision)
		})
		if err == nil {
			h.Logger.Warn("a relay's session was ended for its silence", "session", s.fence)
			h.Board.with(func(now time.Time) {
				if known := h.Board.table.sessions[s.fence]; known != nil && known.revision == s.revision {
					h.Board.table.end(s.fence, now)
				}
			})
		}
	}
	if err != nil && !errors.Is(err, journal.ErrRevision) {
		h.Logger.Warn("lease not written", "partition", s.partition, "session", s.fence, "error", err)
	}
}

// take takes a free partition and runs it. What is killed between the two holds it for its session's life.
func (h *Holder) take(ctx context.Context, l *life, s step) error {
	h.mu.Lock()
	_, still := h.runs[s.partition] // of a former session, not ended yet
	h.mu.Unlock()
	if still {
		return nil
	}
	value := encode(holding{version, l.id})
	revision, err := h.write(ctx, func(ctx context.Context) (uint64, error) {
		if s.revision == 0 {
			return h.Board.bucket.Create(ctx, keyOf(s.partition), value)
		}
		return h.Board.bucket.Update(ctx, keyOf(s.partition), value, s.revision)
	})
	if err != nil {
		// Where it was written and not answered, the board will show it as ours; see adopt.
		return err
	}
	h.Board.take(journal.Item{Key: keyOf(s.partition), Value: value, Revision: revision})
	h.run(ctx, l, s.partition)
	return nil
}

func (h *Holder) run(ctx context.Context, l *life, p int) {
	running, end := context.WithCancel(ctx)
	r := &run{life: l, end: end}
	h.mu.Lock()
	h.runs[p] = r
	h.mu.Unlock()
	go func() {
		err := h.Own(running, p, Tenure{Owner: l.id, Held: l.isHeld, Lost: l.lost})
		end()
		h.mu.Lock()
		r.ended = true
		h.mu.Unlock()
		if err != nil {
			select {
			case h.fatal <- err:
			default:
			}
		}
		h.Board.with(func(time.Time) {}) // wakes live
	}()
}

// end asks a partition's owner to stop.
func (h *Holder) end(p int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.runs[p]; r != nil && r.end != nil {
		r.end()
		r.end = nil
	}
}

func (h *Holder) endAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runs {
		if r.end != nil {
			r.end()
			r.end = nil
		}
	}
}

func (h *Holder) running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.runs)
}

// giveBack writes of the leases that the bucket says are ours, and that nobody runs here any more, that they are free: their
// owners have ended, or the write that took one was not answered.
func (h *Holder) giveBack(ctx context.Context, l *life) {
	for p, revision := range h.held(l) {
		if h.keeps(p) {
			continue
		}
		value := encode(holding{Version: version})
		given, err := h.write(ctx, func(ctx context.Context) (uint64, error) {
			return h.Board.bucket.Update(ctx, keyOf(p), value, revision)
		})
		switch {
		case err == nil:
			h.Board.take(journal.Item{Key: keyOf(p), Value: value, Revision: given})
		case !errors.Is(err, journal.ErrRevision):
			h.Logger.Warn("partition not given back yet", "partition", p, "error", err)
		}
	}
	held := h.held(l)
	h.mu.Lock()
	defer h.mu.Unlock()
	for p, r := range h.runs {
		if _, still := held[p]; r.ended && !(still && r.life == l) {
			delete(h.runs, p)
		}
	}
}

// held are the revisions of the leases of a session, as far as is known.
func (h *Holder) held(l *life) map[int]uint64 {
	h.Board.mu.Lock()
	defer h.Board.mu.Unlock()
	out := map[int]uint64{}
	for p, lease := range h.Board.table.partitions {
		if lease.holder == l.id {
			out[p] = lease.revision
		}
	}
	return out
}

// keeps tells whether something of a partition goes on here.
func (h *Holder) keeps(p int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.runs[p]
	return r != nil && !r.ended
}

// keepRenewed renews a session at a third of its life, sooner where a renewal failed, until it is lost.
func (h *Holder) keepRenewed(ctx context.Context, l *life) {
	for {
		wait := h.Life / 3
		if err := h.renew(ctx, l); err != nil && ctx.Err() == nil {
			h.Logger.Warn("lease not renewed", "session", l.id, "held", l.isHeld(), "error", err)
			wait = h.Life / 20
		}
		select {
		case <-time.After(wait):
		case <-l.lost:
			return
		case <-ctx.Done():
			return
		}
	}
}

// renew writes the session once. A write that was not answered may have been made: then the key stands at a revision that is
// not known here, and is ours as long as its value names this life.
func (h *Holder) renew(ctx context.Context, l *life) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	before, value := time.Now(), h.session(l)
	update := func(ctx context.Context) (uint64, error) {
		return h.Board.bucket.Update(ctx, relayKey+l.id, value, l.revision)
	}
	revision, err := h.write(ctx, update)
	if errors.Is(err, journal.ErrRevision) {
		if err = h.overtaken(ctx, l); err != nil {
			return err
		}
		before = time.Now()
		revision, err = h.write(ctx, update)
	}
	if err != nil {
		return err
	}
	l.revision = revision
	if !l.isHeld() {
		// Nobody else could write either, perhaps.
		h.Board.with(func(now time.Time) { h.Board.table.hearAgain(now) })
	}
	l.confirmed(before, h.Life)
	h.Board.take(journal.Item{Key: relayKey + l.id, Value: value, Revision: revision})
	return nil
}

// overtaken finds out why the session's key is not where it was left: it was ended, or a write of ours was made after all.
// l.turn is held.
func (h *Holder) overtaken(ctx context.Context, l *life) error {
	var item journal.Item
	_, err := h.write(ctx, func(ctx context.Context) (uint64, error) {
		var err error
		item, err = h.Board.bucket.Get(ctx, relayKey+l.id)
		return item.Revision, err
	})
	switch {
	case errors.Is(err, journal.ErrNotFound):
		select {
		case <-l.lost:
		default:
			h.Logger.Error("session of leases was ended by another relay: what it held is given up", "session", l.id)
			close(l.lost)
		}
		return errLost
	case err != nil:
		return err
	case item.Revision <= l.revision:
		return fmt.Errorf("%w: the key stands at an older revision than was written", journal.ErrUnavailable)
	}
	l.revision = item.Revision
	return nil
}

var errLost = errors.New("lease: the session was ended by another")
