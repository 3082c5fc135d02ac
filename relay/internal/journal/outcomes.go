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

// appendWindow is how many records an appender may have unacknowledged; a further
// one waits.
const appendWindow = 4096

// Outcomes is a partition's log of what became of its events. It has one writer
// at a time, the partition's owner.
type Outcomes struct{ *Log }

// Appender writes a log as its only writer: the log itself refuses it once
// another has written. Its first record names the sequence it must follow, each
// later one the record it must follow, by an id that no other writer has. (To
// name the sequence alone is no fence where records are sent without waiting:
// after the first is refused, a later one of them may name by chance the
// sequence that the other writer has just reached.)
//
// Once an append failed, all later ones fail with the same error; start again
// with a new Appender and what the log then holds. Append and Sync may be called
// concurrently.
type Appender struct {
	l    *Log
	name string // of this writer, unique
	life int    // of this writer in the log's tail

	turn sync.Mutex // held while writing: records leave in order; guards w, id and prev
	w    *writer
	id   []string // values of headers: the record's id
	prev []string // and the id of the one before

	mu    sync.Mutex // guards what follows
	next  uint64     // sequence of the next record
	acked uint64     // up to here all are acknowledged
	err   error
	moved chan struct{} // closed when acked or err changes
}

// NewAppender learns where the log ends and goes on from there. It does not push
// an earlier writer out: the first append does.
func (o *Outcomes) NewAppender(ctx context.Context) (*Appender, error) { return o.appender(ctx) }

func (l *Log) appender(ctx context.Context) (*Appender, error) {
	st, err := l.State(ctx)
	if err != nil {
		return nil, err
	}
	a := &Appender{l: l, name: rand.Text(), life: l.tail.restart(st.Last + 1), next: st.Last + 1, acked: st.Last, moved: make(chan struct{})}
	if a.w, err = newWriter(l.j.out, l.subject, appendWindow, a.onAck); err != nil {
		return nil, err
	}
	a.id = a.w.header(nats.MsgIdHdr)
	a.w.header(nats.ExpectedLastSeqHdr)[0] = strconv.FormatUint(st.Last, 10)
	return a, nil
}

// Last is the sequence of the record appended last, durable or not.
func (a *Appender) Last() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next - 1
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
		if seq > appendWindow {
			if err := a.await(ctx, seq-appendWindow); err != nil {
				return 0, err
			}
		}
		a.mu.Lock()
		if err := a.err; err != nil {
			a.mu.Unlock()
			return 0, err
		}
		a.next++
		a.mu.Unlock()
		if err := a.send(seq, r); err != nil {
			return 0, a.fail(err)
		}
	}
	return first, nil
}

// send publishes the record of seq; a.turn is held.
func (a *Appender) send(seq uint64, record []byte) error {
	last := a.id[0]
	a.id[0] = a.name + "." + strconv.FormatUint(seq, 36)
	if last != "" {
		if a.prev == nil {
			delete(a.w.msg.Header, nats.ExpectedLastSeqHdr)
			a.prev = a.w.header(nats.ExpectedLastMsgIdHdr)
		}
		a.prev[0] = last
	}
	if err := a.w.publish(int(seq%appendWindow), record); err != nil {
		return err
	}
	if a.l.tail != nil {
		a.l.tail.add(a.life, Message{Seq: seq, Time: time.Now().UTC(), Payload: bytes.Clone(record)})
	}
	return nil
}

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
	a.turn.Lock()
	defer a.turn.Unlock()
	a.w.close()
}

// await returns when all up to seq is acknowledged. An acknowledgement that does
// not come is a failure: what follows it would not be accepted either.
func (a *Appender) await(ctx context.Context, seq uint64) error {
	var late <-chan time.Time
	for {
		a.mu.Lock()
		acked, err, moved := a.acked, a.err, a.moved
		a.mu.Unlock()
		if acked >= seq {
			return nil
		} else if err != nil {
			return err
		}
		if late == nil {
			t := time.NewTimer(ackTimeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			err := fmt.Errorf("no acknowledgement of %s in %v", a.l.name, ackTimeout)
			if a.l.disk != nil {
				return a.fail(a.l.j.fail(err))
			}
			return a.fail(unavailable(err))
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
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	switch {
	case k.err != nil && a.l.disk != nil && slot != int((a.acked+1)%appendWindow):
		a.err = a.l.j.fail(fmt.Errorf("%s was not written: %w", a.l.name, k.err))
	case k.err != nil:
		a.err = k.err
	case k.seq <= a.acked:
		return
	default:
		a.acked = k.seq
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
