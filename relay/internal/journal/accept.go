package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// groupMax and groupBytes bound one group; the server's inbound queue takes
	// 100 thousand records and 128 MiB before it drops.
	groupMax   = 2048
	groupBytes = 48 << 20
	// groupsAhead is how many groups may wait for the sync of the one before.
	groupsAhead = 8
	// maxID bounds the deduplication id: tenant, a separator and an event's id.
	maxID = 256
	// diskEvery is how often the free disk is looked at.
	diskEvery = 250 * time.Millisecond
	// inProcessTries bounds the repeats of an event whose id a cluster is just
	// writing for another.
	inProcessTries = 50
	inProcessWait  = 20 * time.Millisecond
	// externalAckTimeout is ackTimeout for a cluster, which drops what was on its way when its leader went: repeats are safe there, and
	// nothing else is accepted meanwhile.
	externalAckTimeout = 5 * time.Second
)

// Entry is an event to accept.
type Entry struct {
	// ID tells repeats, within the deduplication window and over restarts: 1 to 256 bytes
	// of printable ASCII without spaces, made unique over tenants by the caller.
	ID string
	// Share names who publishes it: events of one share wait for each other, and for those of another as little as can be. It is empty
	// for the relay's own, for whose sake nobody is held back.
	Share string
	// Digest of the content, by whatever the caller calls the same.
	Digest [32]byte
	// Payload is the journal's from here on, and its readers', and must not change any more.
	Payload []byte
}

// Receipt is the answer to an accepted event; a repeat gets the first answer,
// marked as a duplicate.
type Receipt struct {
	Seq       uint64
	Time      time.Time
	Duplicate bool
}

// Events is a partition's log of accepted events. It gathers the events of
// concurrent callers: while one group is being synced, the next is gathered and
// written, and each caller is answered after the sync that covers its event.
type Events struct {
	*Log
	w  *writer
	id []string // the deduplication header's value

	mu     sync.Mutex // guards the three below
	shares shares
	closed bool
	flying *group // being written and acknowledged

	accepted atomic.Uint64 // the highest sequence that was answered
	consumed atomic.Uint64 // the first sequence that was not routed; 0: unknown in this process
	above    atomic.Int64  // how many beyond it were

	wake    chan struct{} // one token: the queue is not empty
	synced  chan *group   // acknowledged groups on their way to the sync
	lost    chan struct{} // one token: the connection broke
	quit    chan struct{} // closed: give up what is not acknowledged
	stopped chan struct{}
	late    sync.WaitGroup // resolving duplicates, waiting to try again

	space struct { // of the publishing goroutine's callers, under mu
		checked time.Time
		err     error
	}
}

type pending struct {
	entry Entry
	time  time.Time
	ack   ack
	acked bool
	tries int
	done  func(Receipt, error)
}

// group is what is written, acknowledged and synced together.
type group struct {
	items []*pending
	left  int
	acked chan struct{}
	began time.Time
	of    whose
}

func newEvents(j *Journal, l *Log) (*Events, error) {
	e := &Events{
		Log:     l,
		wake:    make(chan struct{}, 1),
		synced:  make(chan *group, groupsAhead),
		lost:    make(chan struct{}, 1),
		quit:    make(chan struct{}),
		stopped: make(chan struct{}),
		shares:  newShares(j.opt),
	}
	w, err := newWriter(j.pub, l.subject, groupMax, e.onAck)
	if err != nil {
		return nil, err
	}
	e.w, e.id = w, w.header(nats.MsgIdHdr)
	go e.write()
	go e.sync()
	return e, nil
}

// Accept returns when the event is durable, or was refused: ErrBusy (with a
// [BusyError]), ErrFull, ErrTooLarge, ErrConflict; ErrUnreadable while the disk
// does not give what was written to it before. After any other error,
// ctx's included, the event may have been kept.
func (e *Events) Accept(ctx context.Context, entry Entry) (Receipt, error) {
	type answer struct {
		r   Receipt
		err error
	}
	c := make(chan answer, 1)
	e.AcceptAsync(entry, func(r Receipt, err error) { c <- answer{r, err} })
	select {
	case a := <-c:
		return a.r, a.err
	case <-ctx.Done():
		return Receipt{}, ctx.Err()
	}
}

// AcceptAsync is Accept for many events in flight from one goroutine. It calls
// done exactly once, possibly before it returns, mostly from a goroutine of the journal's,
// which done must not hold up.
func (e *Events) AcceptAsync(entry Entry, done func(Receipt, error)) {
	if err := e.enqueue(&pending{entry: entry, done: done}); err != nil {
		done(Receipt{}, err)
	}
}

// Result is the answer to one entry of AcceptAll.
type Result struct {
	Receipt Receipt
	Err     error
}

// AcceptAll accepts entries in their order and returns their answers in the same
// order; a refused one does not touch its neighbours. If ctx ends first, what
// was not answered has its error.
func (e *Events) AcceptAll(ctx context.Context, entries []Entry) []Result {
	type answer struct {
		i int
		Result
	}
	c := make(chan answer, len(entries))
	for i, entry := range entries {
		e.AcceptAsync(entry, func(r Receipt, err error) { c <- answer{i, Result{r, err}} })
	}
	out := make([]Result, len(entries))
	open := make(map[int]bool)
	for i := range entries {
		open[i] = true
	}
	for len(open) > 0 {
		select {
		case a := <-c:
			out[a.i] = a.Result
			delete(open, a.i)
		case <-ctx.Done():
			for i := range open {
				out[i].Err = ctx.Err()
			}
			return out
		}
	}
	return out
}

// Consumed tells the log that its reader has taken everything up to seq, and so many events above it. Once told, Accept answers
// ErrBusy to a share while too much waits to be read (see MaxUnread), so that what was accepted is not left further and further
// behind.
func (e *Events) Consumed(seq uint64, above int) {
	e.consumed.Store(seq + 1)
	e.above.Store(int64(above))
}

// ConsumedOf tells it of a share whose events the reader has taken up to seq, while those of others still wait.
func (e *Events) ConsumedOf(share string, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if one := e.shares.of[share]; one != nil {
		e.shares.read(one, seq)
		e.shares.forget(share, one)
	}
}

// Routed is what Consumed was told last; 0 where it was told nothing.
func (e *Events) Routed() uint64 { return max(e.consumed.Load(), 1) - 1 }

func (p *pending) size() int64 { return int64(len(p.entry.Payload) + len(p.entry.ID) + frameBytes) }

func (e *Events) enqueue(p *pending) error {
	if err := e.admissible(p.entry); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	if err := e.diskSpace(); err != nil {
		return err
	}
	read := e.consumed.Load()
	if err := e.shares.enter(p, read, int64(e.accepted.Load()+1-read)-e.above.Load(), time.Now()); err != nil {
		return err
	}
	e.push(p)
	return nil
}

// push hands p to the writing goroutine. e.mu is held.
func (e *Events) push(p *pending) {
	e.shares.push(p)
	e.rouse()
}

// rouse has the writing goroutine look at the queue.
func (e *Events) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *Events) admissible(entry Entry) error {
	if err := cmp.Or(e.j.Err(), e.j.readable()); err != nil {
		return err
	}
	if len(entry.Payload) > e.j.limit {
		return fmt.Errorf("%w: event of %d bytes, at most %d", ErrTooLarge, len(entry.Payload), e.j.limit)
	}
	if len(entry.ID) == 0 || len(entry.ID) > maxID {
		return fmt.Errorf("journal: event id of %d bytes: want 1 to %d", len(entry.ID), maxID)
	}
	for _, c := range []byte(entry.ID) {
		if c <= ' ' || c > '~' {
			return errors.New("journal: event id: want printable ASCII without spaces")
		}
	}
	return nil
}

// room is diskSpace for who holds no lock.
func (e *Events) room() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.diskSpace()
}

// diskSpace is ErrFull while the disk has too little room. e.mu is held.
func (e *Events) diskSpace() error {
	min := e.j.opt.MinFreeDisk
	if e.disk == nil || min < 0 || time.Since(e.space.checked) < diskEvery {
		return e.space.err
	}
	e.space.checked = time.Now()
	free, total, err := diskFree(e.j.opt.Dir)
	if min == 0 {
		min = max(1<<30, total/20)
	}
	switch {
	case err != nil:
		e.space.err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	case free < min:
		e.space.err = fmt.Errorf("%w: %d MiB of disk free, %d MiB are kept", ErrFull, free>>20, min>>20)
	default:
		e.space.err = nil
	}
	return e.space.err
}

// write takes what is queued as one group, publishes it and waits for its
// acknowledgements, then hands it on; meanwhile the next group queues up and the
// former is synced.
func (e *Events) write() {
	defer close(e.synced)
	var buf []byte
	for {
		g, wait, ok := e.next()
		if !ok {
			return
		}
		if g == nil {
			e.rest(wait)
			continue
		}
		failed := e.publish(g, &buf)
		if failed == nil {
			failed = e.await(g)
		}
		e.mu.Lock()
		e.flying = nil
		e.mu.Unlock()
		if failed != nil {
			for _, p := range g.items {
				if !p.acked {
					p.ack.err = failed
				}
			}
			if err := e.w.reset(); err != nil {
				e.j.log.Warn("journal: new inbox", "error", err)
			}
		}
		e.synced <- g
	}
}

// rest returns when the queue is to be looked at again: after a while at the latest, unless that is 0.
func (e *Events) rest(wait time.Duration) {
	if wait == 0 {
		<-e.wake
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-e.wake:
	case <-timer.C:
	}
}

// next takes the next group off the queue: nil if there is none now, with the time after which there may be one, false if
// there never will be.
func (e *Events) next() (*group, time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	items, of, wait := e.shares.group(now, e.closed)
	if len(items) == 0 {
		return nil, wait, !e.closed
	}
	g := &group{items: items, left: len(items), acked: make(chan struct{}), began: now, of: of}
	e.flying = g
	select {
	case <-e.lost: // broke before this group
	default:
	}
	return g, 0, true
}

// publish writes the group to the connection. What it could not hand over stays
// unacknowledged.
func (e *Events) publish(g *group, buf *[]byte) error {
	now := e.j.opt.Clock().UTC().Round(0) // as it is read back
	for i, p := range g.items {
		if p.time.IsZero() {
			p.time = now
		}
		*buf = appendFrame((*buf)[:0], frame{p.time, p.entry.Digest}, p.entry.Payload)
		e.id[0] = p.entry.ID
		if err := e.w.publish(i, *buf); err != nil {
			return err
		}
	}
	if cap(*buf) > 1<<20 {
		*buf = nil
	}
	return nil
}

// await returns when all of the group is acknowledged, or won't be.
func (e *Events) await(g *group) error {
	patience := ackTimeout
	if e.disk == nil {
		patience = externalAckTimeout
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-g.acked:
		return nil
	case <-e.lost:
		return fmt.Errorf("%w: connection lost", ErrUnavailable)
	case <-late.C:
		err := fmt.Errorf("no acknowledgement of %s in %v", e.name, patience)
		if e.disk != nil {
			return e.j.fail(err)
		}
		return unavailable(err)
	case <-e.j.failed:
		return e.j.Err()
	case <-e.quit:
		return ErrClosed
	}
}

func (e *Events) onAck(slot int, a ack) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.flying
	if g == nil || slot >= len(g.items) || g.items[slot].acked {
		return
	}
	g.items[slot].ack, g.items[slot].acked = a, true
	if g.left--; g.left == 0 {
		close(g.acked)
	}
}

func (e *Events) disconnected() {
	select {
	case e.lost <- struct{}{}:
	default:
	}
}

// sync makes acknowledged groups durable, as many at once as have come, and
// answers them.
func (e *Events) sync() {
	defer close(e.stopped)
	for g := range e.synced {
		gs := []*group{g}
	more:
		for {
			select {
			case g, ok := <-e.synced:
				if !ok {
					break more
				}
				gs = append(gs, g)
			default:
				break more
			}
		}
		err := e.disk.sync()
		if err == nil {
			e.waitForReader(gs) // before a reader can have them
			top := highest(gs)
			e.remember(gs)
			e.advance(top)
			e.accepted.Store(max(e.accepted.Load(), top)) // only here
		}
		for _, g := range gs {
			e.answer(g, err)
		}
	}
	e.late.Wait()
}

// remember gives what was kept to the log's tail, before readers are told of it.
func (e *Events) remember(gs []*group) {
	if e.tail == nil {
		return
	}
	for p := range fresh(gs) {
		e.tail.add(0, Message{Seq: p.ack.seq, Time: p.time, Payload: p.entry.Payload})
	}
}

// waitForReader counts what was kept as waiting for the reader, where there is one.
func (e *Events) waitForReader(gs []*group) {
	if e.consumed.Load() == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range fresh(gs) {
		e.shares.await(p)
	}
}

// fresh are the events that were kept, and were not before.
func fresh(gs []*group) iter.Seq[*pending] {
	return func(yield func(*pending) bool) {
		for _, g := range gs {
			for _, p := range g.items {
				if p.ack.err == nil && !p.ack.duplicate && !yield(p) {
					return
				}
			}
		}
	}
}

func highest(gs []*group) (seq uint64) {
	for _, g := range gs {
		for _, p := range g.items {
			seq = max(seq, p.ack.seq)
		}
	}
	return seq
}

func (e *Events) answer(g *group, failed error) {
	defer e.over(g)
	var repeats []*pending
	answered := g.items[:0]
	for _, p := range g.items {
		switch {
		case failed != nil && p.ack.err == nil:
			p.done(Receipt{}, failed)
		case p.ack.err == errInProcess:
			e.again(p)
			continue // its bytes still count
		case p.ack.err != nil:
			p.done(Receipt{}, p.ack.err)
		case p.ack.duplicate:
			repeats = append(repeats, p)
			continue
		default:
			p.done(Receipt{Seq: p.ack.seq, Time: p.time}, nil)
		}
		answered = append(answered, p)
	}
	e.release(answered)
	if len(repeats) > 0 {
		// A flood of repeats, each a read, must not hold up fresh events.
		e.late.Add(1)
		go func() {
			defer e.late.Done()
			for _, p := range repeats {
				p.done(e.first(p))
				e.release([]*pending{p})
			}
		}()
	}
}

// over has the next group of those who flood come in time.
func (e *Events) over(g *group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.shares.hold.over(g.of, g.began, time.Now()); g.of == flood {
		e.rouse()
	}
}

func (e *Events) release(ps []*pending) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range ps {
		e.shares.answered(p)
	}
}

// first is the answer that the first event of p's id got. An event that was
// trimmed or erased since can't be compared and is taken for the same.
func (e *Events) first(p *pending) (Receipt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	m, f, err := e.get(ctx, p.ack.seq)
	switch {
	case errors.Is(err, ErrNotFound):
		return Receipt{Seq: p.ack.seq, Time: p.time, Duplicate: true}, nil
	case err != nil:
		return Receipt{}, err
	case f.digest != p.entry.Digest:
		return Receipt{}, ErrConflict
	}
	return Receipt{Seq: m.Seq, Time: m.Time, Duplicate: true}, nil
}

// again writes p once more, a little later: a cluster was just writing another of its id.
func (e *Events) again(p *pending) {
	p.tries++
	p.ack, p.acked = ack{}, false
	e.late.Add(1)
	time.AfterFunc(inProcessWait, func() {
		defer e.late.Done()
		e.mu.Lock()
		if !e.closed && p.tries < inProcessTries {
			e.push(p)
			e.mu.Unlock()
			return
		}
		e.mu.Unlock()
		p.done(Receipt{}, fmt.Errorf("%w: %w", ErrUnavailable, errInProcess))
		e.release([]*pending{p})
	})
}

// stop refuses what comes from now on and waits for the answers to what came, as
// long as ctx allows.
func (e *Events) stop(ctx context.Context) {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.rouse()
	select {
	case <-e.stopped:
		e.w.close()
	case <-ctx.Done():
		// What still runs ends with the connection, or hangs in a sync.
		close(e.quit)
	}
}
