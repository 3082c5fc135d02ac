package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// probeEvery is how often a record that could not be read is tried again.
const probeEvery = 500 * time.Millisecond

// missing says what it means that the server has found none of the sequences from
// first to last. It says "not found" for a record that it could not read just as
// for one that is gone, and batches end before either; but it knows which
// sequences it has. It is nil where all of them are gone, or not there yet.
//
// A replica that is behind the others does not know what they have either: for
// that, too, it is ErrUnreadable, and the record will be there.
func (l *Log) missing(ctx context.Context, first, last uint64) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	info, err := l.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return unavailable(err)
	}
	st := info.State
	first, last = max(first, st.FirstSeq, 1), min(last, st.LastSeq)
	if st.Msgs == 0 || first > last {
		return nil
	}
	slices.Sort(st.Deleted)
	from, _ := slices.BinarySearch(st.Deleted, first)
	for _, gone := range st.Deleted[from:] {
		if gone != first {
			break
		}
		first++
	}
	if first > last {
		return nil
	}
	err = fmt.Errorf("%w: record %d of %s", ErrUnreadable, first, l.name)
	if l.disk != nil {
		l.j.unread.note(l, first, err)
	}
	return err
}

// unread is what the embedded server's disk did not give when it was last asked.
type unread struct {
	err atomic.Pointer[error] // of one of them; nil: all is well

	mu      sync.Mutex
	seqs    map[*Log]uint64
	probing bool
}

// note remembers a record that could not be read and has it tried until it can be.
func (u *unread) note(l *Log, seq uint64, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seqs == nil {
		u.seqs = map[*Log]uint64{}
	}
	if _, known := u.seqs[l]; !known {
		l.j.log.Error("the disk does not give what was written to it", "error", err)
		u.seqs[l] = seq
	}
	u.err.Store(&err)
	if !u.probing {
		u.probing = true
		go u.probe(l.j)
	}
}

// probe returns when everything can be read again, or the journal ends.
func (u *unread) probe(j *Journal) {
	for {
		select {
		case <-time.After(probeEvery):
		case <-j.closing:
			return
		case <-j.failed:
			return
		}
		u.mu.Lock()
		l, seq := (*Log)(nil), uint64(0)
		for l, seq = range u.seqs {
			break
		}
		u.mu.Unlock()
		if _, _, err := l.get(context.Background(), seq); err != nil && !errors.Is(err, ErrNotFound) {
			continue
		}
		u.mu.Lock()
		delete(u.seqs, l)
		if u.probing = len(u.seqs) > 0; !u.probing {
			u.err.Store(nil)
			j.log.Info("everything that was asked for can be read again")
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
	}
}

// readable is nil, or the ErrUnreadable of a record that the disk does not give now.
func (j *Journal) readable() error {
	if err := j.unread.err.Load(); err != nil {
		return *err
	}
	return nil
}

// errStalled: the server has a record for a reader, and does not send it.
var errStalled = errors.New("journal: the server has stopped sending")

// stallLook is how long a record may be there for a reader who waits before it is looked for.
const stallLook = 2 * time.Second

// progress is how far a reading is.
type progress struct {
	next atomic.Uint64 // the sequence that it wants
	busy atomic.Bool   // its caller has a record in hand
}

// watchStall ends a reading whose next record is durable and does not come: the
// embedded server tries one that it could not read again only when another is
// written. The reading ends with ErrUnreadable or, where the record can be read
// after all, with errStalled, and begins anew.
func (l *Log) watchStall(ctx context.Context, at *progress, end context.CancelCauseFunc) {
	ticker := time.NewTicker(stallLook)
	defer ticker.Stop()
	for before := uint64(0); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		next := at.next.Load()
		if at.busy.Load() || next != before {
			before = next
			continue
		}
		err := l.Range(ctx, next, ^uint64(0), func(Message) error { return errStalled })
		if (errors.Is(err, errStalled) || errors.Is(err, ErrUnreadable)) && at.next.Load() == next {
			end(err)
			return
		}
	}
}
