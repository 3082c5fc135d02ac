package journal

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// appendWindow and saveWindow are how many records an appender may have
// unacknowledged, of outcomes and of checkpoints; a further one waits.
const (
	appendWindow = 4096
	saveWindow   = 64
)

// Outcomes is a partition's log of what became of its events. It has one writer
// at a time, the partition's owner.
type Outcomes struct{ *Log }

// Appender writes a log as its only writer: the log itself refuses it once
// another has written. Its first record names the sequence it must follow, each
// later one the record it must follow, by an id that no other writer has. (To
// name the sequence alone is no fence where records are sent without waiting:
// after the first is refused, a later one of them may name by chance the
// sequence that the other writer has just reached.) On an external server a
// record is sent when the one before it is acknowledged, and names its sequence:
// there each replica of a stream checks the id by what it remembers of the last
// record, which one that caught up from another does not know.
//
// Once an append failed, all later ones fail with the same error; start again
// with a new Appender and what the log then holds. An external server that does
// not answer, as while its cluster has no leader, is no failure yet: the same
// records are written again (see resume). Append and Sync may be called
// concurrently.
type Appender struct {
	l      *Log
	name   string // of this writer, unique
	window uint64 // how many records may be unacknowledged
	life   int    // of this writer in the log's tail

	turn     sync.Mutex // of one Append at a time: its records stand together
	resuming sync.Mutex // of one resume at a time

	wire  sync.Mutex // held while writing: records leave in order; guards what follows
	w     *writer
	first uint64   // this writer's first record
	sent  uint64   // up to here records were sent; only where they are kept
	kept  [][]byte // what is not acknowledged, to be sent in its turn or again; nil where it is the caller's to wait

	mu     sync.Mutex // guards what follows
	next   uint64     // sequence of the next record
	acked  uint64     // up to here all are acknowledged
	since  time.Time  // when acked moved last, or the first record after it was sent
	broken error      // why the records after acked have to be written again
	err    error
	moved  chan struct{} // closed when acked, broken or err changes
}

// NewAppender learns where the log ends and goes on from there. It does not push
// an earlier writer out: the first append does.
func (o *Outcomes) NewAppender(ctx context.Context) (*Appender, error) {
	a, err := o.appender(ctx)
	if err == nil && o.disk == nil {
		a.window, a.kept = appendWindow, make([][]byte, appendWindow)
	}
	return a, err
}

func (l *Log) appender(ctx context.Context) (*Appender, error) {
	return l.windowed(ctx, appendWindow)
}

// windowed is an appender that has at most so many records unacknowledged; on an external server, one.
func (l *Log) windowed(ctx context.Context, window uint64) (*Appender, error) {
	if l.disk == nil {
		window = 1
	}
	st, err := l.State(ctx)
	if err != nil {
		return nil, err
	}
	a := &Appender{l: l, name: rand.Text(), window: window, life: l.tail.restart(st.Last + 1), first: st.Last + 1, sent: st.Last, next: st.Last + 1, acked: st.Last, moved: make(chan struct{})}
	if a.w, err = newWriter(l.j.out, l.subject, int(window), a.onAck); err != nil {
		return nil, err
	}
	return a, nil
}

// Last is the sequence of the record appended last, durable or not.
func (a *Appender) Last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next - 1
}

// Waiting tells whether a record appended now would wait for one before it: on an external server there is one on its way at a time.
func (a *Appender) Waiting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept != nil && a.acked < a.next-1
}

// Append sends records and returns the sequence that the first of them gets if
// nothing fails; Sync tells. It waits only while too many are unacknowledged. The records may be reused when it returns.
func (a *Appender) Append(ctx context.Context, records ...[]byte) (first uint64, err error) {
	a.turn.Lock()
	defer a.turn.Unlock()
	first = a.Last() + 1
	for _, r := range records {
		if len(r) > a.l.j.limit {
			return 0, fmt.Errorf("%w: record of %d bytes, at most %d", ErrTooLarge, len(r), a.l.j.limit)
		}
	}
	for _, r := range records {
		seq := a.Last() + 1
		if seq > a.window {
			if err := a.await(ctx, seq-a.window); err != nil {
				return 0, err
			}
		}
		if err := a.put(seq, r); err != nil {
			return 0, err
		}
	}
	return first, nil
}

// put sends the next record, and keeps it where it may have to be sent again.
func (a *Appender) put(seq uint64, record []byte) error {
	a.wire.Lock()
	defer a.wire.Unlock()
	a.mu.Lock()
	if err := a.err; err != nil {
		a.mu.Unlock()
		return err
	}
	a.next++
	waits := a.kept != nil && (a.broken != nil || a.acked < seq-1)
	if a.kept != nil && a.acked == seq-1 {
		a.since = time.Now()
	}
	a.mu.Unlock()
	if a.kept != nil {
		slot := &a.kept[seq%a.window]
		if cap(*slot) > 4<<10 {
			*slot = nil // a burst's: it is not to stay as large for good
		}
		*slot = append((*slot)[:0], record...)
	}
	if waits {
		return nil // onAck sends it when its turn comes, or resume
	}
	if err := a.send(seq, record); err != nil {
		return a.lose(err)
	}
	if a.l.tail != nil {
		a.l.tail.add(a.life, Message{Seq: seq, Time: time.Now().UTC(), Payload: bytes.Clone(record)})
	}
	return nil
}

// send publishes the record of seq; a.wire is held.
func (a *Appender) send(seq uint64, record []byte) error {
	h := a.w.msg.Header
	if seq == a.first || a.l.disk == nil {
		h[nats.ExpectedLastSeqHdr] = []string{strconv.FormatUint(seq-1, 10)}
	} else {
		delete(h, nats.ExpectedLastSeqHdr)
		h[nats.ExpectedLastMsgIdHdr] = h[nats.MsgIdHdr]
	}
	h[nats.MsgIdHdr] = []string{a.id(seq)}
	a.sent = seq
	return a.w.publish(int(seq%uint64(len(a.w.replies))), record)
}

// sendNext sends the record after the last acknowledged one, if it waits for that.
func (a *Appender) sendNext() {
	a.wire.Lock()
	defer a.wire.Unlock()
	a.mu.Lock()
	seq := a.acked + 1
	waits := seq < a.next && a.sent < seq && a.broken == nil && a.err == nil
	a.mu.Unlock()
	if !waits {
		return
	}
	if err := a.send(seq, a.kept[seq%a.window]); err != nil {
		a.lose(err)
	}
}

// id is that of this writer's record at seq.
func (a *Appender) id(seq uint64) string { return a.name + "." + strconv.FormatUint(seq, 36) }

// Sync returns when all that was appended before it was called is durable, with
// the sequence up to which that is so; or with the error of the first append that failed.
func (a *Appender) Sync(ctx context.Context) (uint64, error) {
	seq := a.Last()
	if err := a.await(ctx, seq); err != nil {
		return 0, err
	}
	if err := a.l.disk.sync(); err != nil {
		return 0, a.fail(err)
	}
	a.l.advance(seq)
	return seq, nil
}

// Close gives up the appender's inbox. It does not wait: Sync does.
func (a *Appender) Close() {
	a.fail(ErrClosed)
	a.wire.Lock()
	defer a.wire.Unlock()
	a.w.close()
}

// await returns when all up to seq is acknowledged. An acknowledgement that does
// not come is a failure: what follows it would not be accepted either.
func (a *Appender) await(ctx context.Context, seq uint64) error {
	var late <-chan time.Time
	for {
		a.mu.Lock()
		acked, err, broken, moved := a.acked, a.err, a.broken, a.moved
		a.mu.Unlock()
		switch {
		case acked >= seq:
			return nil
		case err != nil:
			return err
		case broken != nil:
			if err := a.resume(ctx); err != nil {
				return err
			}
			late = nil
			continue
		}
		if late == nil {
			t := time.NewTimer(a.patience())
			defer t.Stop()
			late = t.C
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			err := fmt.Errorf("no acknowledgement of %s in %v", a.l.name, a.patience())
			if a.l.disk != nil {
				return a.fail(a.l.j.fail(err))
			}
			if err := a.lose(unavailable(err)); err != nil {
				return err
			}
		case <-a.l.j.failed:
			return a.fail(a.l.j.Err())
		case <-a.l.j.closing:
			return a.fail(ErrClosed)
		}
	}
}

// onAck takes acknowledgements, which come in the order of the records: the
// stream handles them one by one. A refusal is that of the first record refused,
// since all after it don't follow what they expect. Where the record before the
// refused one got no answer the embedded server could not write it, and does not
// write to the stream any more, whatever room there is later.
func (a *Appender) onAck(slot int, k ack) {
	a.take(slot, k)
	if a.kept != nil {
		a.sendNext()
	}
}

func (a *Appender) take(slot int, k ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	switch {
	case k.err != nil && a.l.disk != nil && slot != int((a.acked+1)%a.window):
		a.err = a.l.j.fail(fmt.Errorf("%s was not written: %w", a.l.name, k.err))
	case k.err != nil && a.mayResume(k.err):
		if a.broken != nil {
			return
		}
		a.broken = k.err
	case k.err != nil:
		a.err = k.err
	case k.seq <= a.acked:
		return
	default:
		a.acked = k.seq
		if a.kept != nil {
			a.since = time.Now()
		}
	}
	close(a.moved)
	a.moved = make(chan struct{})
}

func (a *Appender) fail(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
		close(a.moved)
		a.moved = make(chan struct{})
	}
	return a.err
}

// Audit is the log of privileged acts: few, and each durable before it is confirmed.
type Audit struct{ *Log }

// Append returns when the record is durable, with its sequence.
func (a *Audit) Append(ctx context.Context, record []byte) (uint64, error) {
	if len(record) > a.j.limit {
		return 0, fmt.Errorf("%w: audit record of %d bytes, at most %d", ErrTooLarge, len(record), a.j.limit)
	}
	return a.append(ctx, &nats.Msg{Subject: a.subject, Data: record})
}
