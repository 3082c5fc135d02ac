package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A copy of a journal is taken by reading its logs and buckets, and made a journal again by writing their records at their own
// sequences: checkpoints and outcomes name events by sequence. The server's own snapshots are not used: they read a stream's
// blocks one after another while it is trimmed, and its index last, and so are of no one moment.

// Stored is one record as a log or bucket holds it.
type Stored struct {
	Seq uint64
	// ID is an event's id for deduplication while it still counts, or a bucket's key.
	ID string
	// Deleted is of a bucket that the key was deleted, and of a log that nothing stands there any more.
	Deleted bool
	Data    []byte // as it is stored: an event with its frame
}

// HoldTrims keeps the logs of events and outcomes from being trimmed until release is called; Trim then does nothing. It returns
// when no trim is under way. Other processes of a journal on an external server do not know of it.
func (j *Journal) HoldTrims() (release func()) {
	j.trims.Lock()
	return j.trims.Unlock
}

// Copy calls fn with every record from the first to sequence upTo, in order; where nothing stands at upTo any more, the last is
// a deleted one of that sequence.
func (l *Log) Copy(ctx context.Context, upTo uint64, fn func(Stored) error) error {
	last := uint64(0)
	idsSince := l.j.opt.Clock().Add(-l.j.opt.DedupWindow)
	err := l.scan(ctx, 1, upTo, func(seq uint64, m *nats.Msg) error {
		s := Stored{Seq: seq, Data: m.Data}
		if at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp")); err == nil && l.framed && at.After(idsSince) {
			s.ID = m.Header.Get(nats.MsgIdHdr)
		}
		last = seq
		return fn(s)
	})
	if err != nil || last == upTo {
		return err
	}
	return fn(Stored{Seq: upTo, Deleted: true})
}

// Copy calls fn with the latest value of every key, or that it was deleted, in order of revisions. A key that changes
// meanwhile may come twice, the later one last: in the end every key stands as it does in the bucket at that moment.
func (b *Bucket) Copy(ctx context.Context, fn func(Stored) error) error {
	for from := uint64(1); ; {
		st, err := b.log.State(ctx)
		if err != nil {
			return err
		}
		if st.Last < from {
			return nil
		}
		prefix := len("$KV." + b.kv.Bucket() + ".")
		err = b.log.scan(ctx, from, st.Last, func(seq uint64, m *nats.Msg) error {
			subject := m.Header.Get("Nats-Subject")
			if len(subject) <= prefix {
				return fmt.Errorf("%w: record %d of %s has no key", ErrUnavailable, seq, b.log.name)
			}
			return fn(Stored{Seq: seq, ID: subject[prefix:], Deleted: m.Header.Get(kvOperation) != "", Data: m.Data})
		})
		if err != nil {
			return err
		}
		from = st.Last + 1
	}
}

const kvOperation = "KV-Operation"

// scan calls fn with the records from first to last as the server answers them.
func (l *Log) scan(ctx context.Context, first, last uint64, fn func(uint64, *nats.Msg) error) error {
	sub, err := l.inbox("")
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	for first <= last {
		if first, err = l.messages(ctx, sub, first, last, fn); err != nil {
			return err
		}
	}
	return nil
}

// BucketNames are the buckets that the journal has, opened or not, in order; without the mark of its format.
func (j *Journal) BucketNames(ctx context.Context) ([]string, error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	list := j.js.KeyValueStoreNames(ctx)
	var names []string
	for name := range list.Name() {
		if own, ok := strings.CutPrefix(name, j.opt.Name+"_"); ok && own != formatBucket {
			names = append(names, own)
		}
	}
	if err := list.Error(); err != nil {
		return nil, unavailable(err)
	}
	slices.Sort(names)
	return names, nil
}

// Logs are the logs that a copy consists of, by name, beside checkpoints and buckets.
func (j *Journal) Logs() map[string]*Log {
	all := map[string]*Log{"AUDIT": j.audit.Log}
	for p := range j.events {
		all["EVENTS_"+strconv.Itoa(p)], all["OUTCOMES_"+strconv.Itoa(p)] = j.events[p].Log, j.outcomes[p].Log
	}
	return all
}

// Loader writes a copy into an empty log or bucket. It is not safe for concurrent use.
type Loader struct {
	log     *Log
	subject func(Stored) string
	next    uint64 // the sequence of the next record
	fillers []uint64
	waiting []jetstream.PubAckFuture
}

// loadWindow is how many records may be unacknowledged.
const loadWindow = 1000

// Load begins to write a log that was never written to.
func (l *Log) Load(ctx context.Context) (*Loader, error) {
	return l.load(ctx, func(Stored) string { return l.subject })
}

// Load begins to write a bucket that was never written to.
func (b *Bucket) Load(ctx context.Context) (*Loader, error) {
	return b.log.load(ctx, func(s Stored) string { return "$KV." + b.kv.Bucket() + "." + s.ID })
}

func (l *Log) load(ctx context.Context, subject func(Stored) string) (*Loader, error) {
	st, err := l.State(ctx)
	if err != nil {
		return nil, err
	}
	if st.Last != 0 {
		return nil, fmt.Errorf("journal: %s holds records already", l.name)
	}
	return &Loader{log: l, subject: subject, next: 1}, nil
}

// Add writes a record at its sequence. Records come in order; sequences that are left out stay empty.
func (d *Loader) Add(ctx context.Context, s Stored) error {
	if s.Seq < d.next {
		return fmt.Errorf("journal: record %d of %s comes after %d", s.Seq, d.log.name, d.next-1)
	}
	inLog := d.log.subject != ""
	empty := s.Seq
	if inLog && s.Deleted {
		empty++
	}
	if err := d.skip(ctx, empty); err != nil || inLog && s.Deleted {
		return err
	}
	m := &nats.Msg{Subject: d.subject(s), Data: s.Data, Header: nats.Header{}}
	if !inLog && (s.ID == "" || strings.ContainsAny(s.ID, " \t\r\n*>") || s.ID[0] == '.' || s.ID[len(s.ID)-1] == '.') {
		return fmt.Errorf("journal: record %d of %s has no key", s.Seq, d.log.name)
	}
	switch {
	case !inLog && s.Deleted:
		m.Header.Set(kvOperation, "DEL")
	case inLog && s.ID != "":
		m.Header.Set(nats.MsgIdHdr, s.ID)
	}
	return d.publish(ctx, m)
}

// skip makes seq the next sequence. A log whose beginning is left out begins there; elsewhere records are written that are
// taken out again at the end.
func (d *Loader) skip(ctx context.Context, seq uint64) error {
	if d.next == 1 && seq > 1 && d.log.subject != "" {
		d.next = seq
		return d.log.purge(ctx, seq)
	}
	for d.next < seq {
		d.fillers = append(d.fillers, d.next)
		if d.log.subject == "" {
			d.fillers = d.fillers[:1] // a bucket holds one record a key, so that there is one of these at most
		}
		if err := d.publish(ctx, &nats.Msg{Subject: d.subject(Stored{ID: fillerKey})}); err != nil {
			return err
		}
	}
	return nil
}

func (d *Loader) publish(ctx context.Context, m *nats.Msg) error {
	f, err := d.log.j.js.PublishMsgAsync(m)
	if err != nil {
		return unavailable(err)
	}
	d.waiting = append(d.waiting, f)
	d.next++
	if len(d.waiting) < loadWindow {
		return nil
	}
	return d.await(ctx)
}

// await returns when what was written is acknowledged, each at its sequence.
func (d *Loader) await(ctx context.Context) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	want := d.next - uint64(len(d.waiting))
	for _, f := range d.waiting {
		select {
		case a := <-f.Ok():
			if a.Sequence != want || a.Duplicate {
				return fmt.Errorf("journal: record %d of %s was written as %d", want, d.log.name, a.Sequence)
			}
		case err := <-f.Err():
			return fmt.Errorf("journal: record %d of %s: %w", want, d.log.name, unavailable(err))
		case <-ctx.Done():
			return unavailable(ctx.Err())
		}
		want++
	}
	d.waiting = d.waiting[:0]
	return nil
}

// Close ends the loading, and answers when everything is durable.
func (d *Loader) Close(ctx context.Context) error {
	if err := d.await(ctx); err != nil {
		return err
	}
	if err := d.unfill(ctx); err != nil {
		return err
	}
	if err := d.log.disk.rewritten(); err != nil {
		return err
	}
	d.log.advance(d.next - 1)
	return nil
}

// fillerKey is in no bucket but while it is loaded.
const fillerKey = "left-out"

// unfill takes out what stands where nothing is to be.
func (d *Loader) unfill(ctx context.Context) error {
	if len(d.fillers) == 0 {
		return nil
	}
	if d.log.subject == "" {
		ctx, cancel := bound(ctx)
		defer cancel()
		return unavailable(d.log.stream.Purge(ctx, jetstream.WithPurgeSubject(d.subject(Stored{ID: fillerKey}))))
	}
	for _, seq := range d.fillers {
		if err := d.log.remove(ctx, seq); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a record out, without overwriting it.
func (l *Log) remove(ctx context.Context, seq uint64) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	req, err := json.Marshal(struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{seq, true})
	if err != nil {
		return err
	}
	m, err := l.j.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.DELETE."+l.name, req)
	if err != nil {
		return unavailable(err)
	}
	var r struct {
		Success bool `json:"success"`
	}
	if json.Unmarshal(m.Data, &r) != nil || !r.Success {
		if err := refusal(m.Data); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}
