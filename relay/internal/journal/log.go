package journal

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// requestTimeout bounds the wait for one answer of the server.
	requestTimeout = 10 * time.Second
	// ackTimeout is how long a written record may stay unacknowledged. An
	// embedded server that needs longer has a store that failed: it answers
	// nothing at all then.
	ackTimeout = 15 * time.Second
	// purgeStep is how many records one purge of an external stream takes; a
	// purge holds the stream's lock (500 thousand records: 124 ms).
	purgeStep = 50_000

	// idWindow is the deduplication window of logs whose records have ids only to
	// follow each other: as short as does no harm.
	idWindow = time.Second

	checkpointsMaxBytes = 2 << 30 // a former, a new and a half-written one
)

// Message is one record of a log. Its Payload is the reader's to keep, and nobody's to change.
type Message struct {
	Seq     uint64
	Time    time.Time // when it was accepted (EVENTS) or stored
	Payload []byte
}

// Log is the reading side of one stream. Readers see only what is durable: a
// record that is written but not yet synced is not there yet, because after a
// loss of power its sequence would belong to another.
type Log struct {
	j        *Journal
	name     string // of the stream
	subject  string // it listens to; the records' own, but for CHECKPOINTS and buckets
	maxBytes int64
	framed   bool // each record carries its digest and time (see frame)
	stream   jetstream.Stream
	disk     *disk // nil when external
	tail     *tail // nil when external, and where readers do not follow the writer

	mu     sync.Mutex
	synced uint64        // highest durable sequence; only where disk != nil
	moved  chan struct{} // closed when synced grows
}

// State is what a log holds.
type State struct {
	First, Last uint64 // First is Last+1 when the log is empty
	Messages    uint64
	Bytes       int64
}

// openLog creates the stream or brings an older one's bounds up to date, and
// makes what an earlier process left in it durable.
func (j *Journal) openLog(ctx context.Context, name, subject string, maxBytes int64, dedup time.Duration) (*Log, error) {
	cfg := jetstream.StreamConfig{
		Name:        j.opt.Name + "_" + name,
		Subjects:    []string{j.opt.Name + "." + subject},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    maxBytes,
		MaxMsgSize:  -1,
		Storage:     jetstream.FileStorage,
		Replicas:    j.opt.Replicas,
		Duplicates:  dedup,
		AllowDirect: true,
		Metadata:    map[string]string{"sealpost-partitions": strconv.Itoa(j.opt.Partitions)},
	}
	if err := j.checkPartitions(ctx, cfg); err != nil {
		return nil, err
	}
	s, err := j.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("journal: stream %s: %w", cfg.Name, reserved(err))
	}
	return j.newLog(s, cfg.Subjects[0], maxBytes)
}

// reserved says what to do where a server has not the storage for what streams may come to hold.
func reserved(err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == 10047 {
		return fmt.Errorf("the server has no storage left to reserve: lower journal.eventsMaxBytes and journal.outcomesMaxBytes, or raise its max_file_store: %w", err)
	}
	return err
}

func (j *Journal) newLog(s jetstream.Stream, subject string, maxBytes int64) (*Log, error) {
	info := s.CachedInfo()
	l := &Log{j: j, name: info.Config.Name, subject: subject, maxBytes: maxBytes, stream: s, moved: make(chan struct{})}
	if j.srv == nil {
		return l, nil
	}
	l.disk = newDisk(j.opt.Dir, l.name, j.opt.Fsync, j.fail)
	if err := l.disk.all(j.opt.Dir); err != nil {
		return nil, err
	}
	l.synced = info.State.LastSeq
	return l, nil
}

// checkPartitions refuses a journal made with another number of partitions: its
// tenants would move to logs that know nothing of them.
func (j *Journal) checkPartitions(ctx context.Context, cfg jetstream.StreamConfig) error {
	s, err := j.js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	} else if err != nil {
		return fmt.Errorf("journal: stream %s: %w", cfg.Name, err)
	}
	const key = "sealpost-partitions"
	if was := s.CachedInfo().Config.Metadata[key]; was != cfg.Metadata[key] {
		return fmt.Errorf("journal: stream %s was made for %q partitions, not %s: the number can't change", cfg.Name, was, cfg.Metadata[key])
	}
	return nil
}

// State asks for the log's bounds. Last may count records that are not durable
// yet; Synced does not.
func (l *Log) State(ctx context.Context) (State, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	info, err := l.stream.Info(ctx)
	if err != nil {
		return State{}, unavailable(err)
	}
	if err := inTouch(info.Cluster); err != nil {
		return State{}, fmt.Errorf("%s: %w", l.name, err)
	}
	s := info.State
	if s.Msgs == 0 {
		s.FirstSeq = s.LastSeq + 1
	}
	return State{First: s.FirstSeq, Last: s.LastSeq, Messages: s.Msgs, Bytes: int64(s.Bytes)}, nil
}

// MaxBytes is the log's bound; a full log refuses.
func (l *Log) MaxBytes() int64 { return l.maxBytes }

// Synced is the highest sequence known to be durable; a reader can go up to it
// without waiting. With an external server it is what the server has stored.
func (l *Log) Synced(ctx context.Context) (uint64, error) {
	if l.disk == nil {
		s, err := l.State(ctx)
		return s.Last, err
	}
	return l.reached(), nil
}

// reached is the highest durable sequence; only where disk != nil.
func (l *Log) reached() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced
}

// advance tells the readers that everything up to seq is durable.
func (l *Log) advance(seq uint64) {
	if l.disk == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq > l.synced {
		l.synced = seq
		close(l.moved)
		l.moved = make(chan struct{})
	}
}

// durable returns when seq is.
func (l *Log) durable(ctx context.Context, seq uint64) error {
	if l.disk == nil {
		return nil
	}
	for {
		l.mu.Lock()
		ok, moved := seq <= l.synced, l.moved
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.j.closing:
			return ErrClosed
		case <-l.j.failed:
			return l.j.Err()
		}
	}
}

// Get reads one record, in about 30 us. It returns ErrNotFound for one that was
// trimmed or erased, or is not there yet, and ErrUnreadable for one that is there
// and that the disk does not give.
func (l *Log) Get(ctx context.Context, seq uint64) (Message, error) {
	if l.disk != nil && seq > l.reached() {
		return Message{}, ErrNotFound
	}
	m, _, err := l.get(ctx, seq)
	return m, err
}

func (l *Log) get(ctx context.Context, seq uint64) (Message, frame, error) {
	m, err := l.getAny(ctx, seq)
	if err != nil {
		return Message{}, frame{}, err
	}
	msg, f, err := l.direct(m)
	if errors.Is(err, ErrNotFound) {
		err = cmp.Or(l.missing(ctx, seq, seq), err)
	}
	return msg, f, err
}

func getRequest(seq uint64) []byte {
	return append(strconv.AppendUint(append(make([]byte, 0, 32), `{"seq":`...), seq, 10), '}')
}

// direct decodes the answer to a direct get. What ErrNotFound means, missing tells.
func (l *Log) direct(m *nats.Msg) (Message, frame, error) {
	switch status := m.Header.Get("Status"); status {
	case "":
	case "404":
		return Message{}, frame{}, ErrNotFound
	default:
		return Message{}, frame{}, fmt.Errorf("%w: %s %s", ErrUnavailable, status, m.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, frame{}, fmt.Errorf("%w: sequence of a record: %w", ErrUnavailable, err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return Message{}, frame{}, fmt.Errorf("%w: time of a record: %w", ErrUnavailable, err)
	}
	return l.decode(seq, at, m.Data)
}

func (l *Log) decode(seq uint64, at time.Time, data []byte) (Message, frame, error) {
	if !l.framed {
		return Message{Seq: seq, Time: at, Payload: data}, frame{}, nil
	}
	f, payload, err := unframe(data)
	if err != nil {
		return Message{}, frame{}, fmt.Errorf("journal: record %d of %s: %w", seq, l.name, err)
	}
	return Message{Seq: seq, Time: f.time, Payload: payload}, f, nil
}

// Read calls fn with each record from sequence from (0 and 1 are the first) in
// order, and at the end of the log waits for more, until fn or ctx returns an
// error, which Read then returns. Sequences that were trimmed or erased are
// passed over. Where the connection breaks it goes on when there is one again. It reads ahead of fn within the connection's flow control and leaves no trace
// on the server that would have to be acknowledged.
func (l *Log) Read(ctx context.Context, from uint64, fn func(Message) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-l.j.closing:
			cancel(ErrClosed)
		case <-l.j.failed:
			cancel(l.j.Err())
		case <-ctx.Done():
		}
	}()
	next := max(from, 1)
	var failing time.Time // since when nothing was read
	for {
		at, began := next, time.Now()
		if err := l.readTail(ctx, &next, fn); err != nil {
			return err
		}
		again, err := l.readOn(ctx, &next, fn)
		if again && err == nil {
			continue
		}
		if !again {
			return err
		}
		if next > at || time.Since(began) > reconnectWithin/2 || failing.IsZero() {
			failing = time.Now()
		}
		// The subscription would find out by itself, but only after ten seconds without a heartbeat.
		for {
			select {
			case <-time.After(reconnectLook):
			case <-ctx.Done():
				return l.closed(ctx, ctx.Err())
			}
			if time.Since(failing) > reconnectWithin {
				return unavailable(err)
			}
			if l.j.nc.IsConnected() {
				break
			}
		}
	}
}

const (
	// reconnectLook and reconnectWithin say how often and how long a reader tries to go on that was cut off.
	reconnectLook   = 100 * time.Millisecond
	reconnectWithin = 30 * time.Second
)

// tailRecords is how many records are taken from the tail at once.
const tailRecords = 64

// readTail is Read from memory, for as long as next is there.
func (l *Log) readTail(ctx context.Context, next *uint64, fn func(Message) error) error {
	var taken [tailRecords]Message
	for l.tail.covers(*next) {
		if err := l.durable(ctx, *next); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return err
		}
		records := l.tail.from(*next, l.reached(), taken[:0])
		if len(records) == 0 {
			return nil
		}
		for _, m := range records {
			if err := fn(m); err != nil {
				return err
			}
			*next = m.Seq + 1
		}
	}
	return nil
}

// readOn is Read over one connection, from next on, until the tail has next; again tells that it does (without
// an error), that the connection broke, or that nothing comes over it although there is something to read.
func (l *Log) readOn(ctx context.Context, next *uint64, fn func(Message) error) (again bool, err error) {
	broken := l.j.broken()
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-broken:
			stop(errBroken)
		case <-reading.Done():
		}
	}()
	var how progress
	how.next.Store(*next)
	if l.disk != nil {
		go l.watchStall(reading, &how, stop)
	} else {
		go l.watchHang(reading, &how, stop)
	}
	lost := func(err error) (bool, error) {
		switch cause := context.Cause(reading); {
		case cause == errBroken, errors.Is(cause, errStalled):
			return ctx.Err() == nil, l.closed(ctx, cause)
		case errors.Is(cause, ErrUnreadable):
			return false, cause
		}
		// A cluster may have no leader for a while.
		return l.disk == nil && ctx.Err() == nil, l.closed(ctx, err)
	}
	js, err := l.j.nc.JetStream()
	if err != nil {
		return false, unavailable(err)
	}
	sub, err := js.SubscribeSync(l.subject, nats.OrderedConsumer(), nats.StartSequence(*next),
		nats.BindStream(l.name), nats.Context(reading))
	if err != nil {
		return lost(err)
	}
	defer sub.Unsubscribe()
	// The server's flow control bounds what is on its way (32 MiB).
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return lost(err)
	}
	for {
		m, err := sub.NextMsgWithContext(reading)
		if err != nil {
			return lost(err)
		}
		seq, at, err := origin(m.Reply)
		if err != nil {
			return false, err
		}
		if seq < *next {
			continue
		}
		if err := l.durable(ctx, seq); err != nil {
			return false, err
		}
		msg, _, err := l.decode(seq, at, m.Data)
		if err != nil {
			return false, err
		}
		*next = seq + 1
		how.busy.Store(true)
		how.next.Store(*next)
		if err := fn(msg); err != nil {
			return false, err
		}
		how.busy.Store(false)
		if l.tail.covers(*next) {
			return true, nil
		}
	}
}

// closed says why a read ended: by the journal's end, the caller's, or the connection's.
func (l *Log) closed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-l.j.closing:
		return ErrClosed
	default:
		return unavailable(err)
	}
}

// origin reads sequence and time out of a delivery's reply subject:
// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>,
// with domain and account before the stream and a token at the end in its longer form.
func origin(reply string) (seq uint64, at time.Time, err error) {
	t := strings.Split(reply, ".")
	i := 5
	if len(t) >= 11 {
		i = 7
	} else if len(t) != 9 {
		return 0, at, fmt.Errorf("journal: reply subject with %d tokens", len(t))
	}
	if seq, err = strconv.ParseUint(t[i], 10, 64); err != nil {
		return 0, at, fmt.Errorf("journal: reply subject: %w", err)
	}
	ns, err := strconv.ParseInt(t[i+2], 10, 64)
	if err != nil {
		return 0, at, fmt.Errorf("journal: reply subject: %w", err)
	}
	return seq, time.Unix(0, ns).UTC(), nil
}

const (
	// denseBelow is the distance below which the records between two wanted ones
	// are read along; measured, a single get costs what reading four to five does.
	denseBelow = 5
	// denseRun is how many close ones make a run worth a batch.
	denseRun = 8
	// getsAhead is how many single gets are on their way at once.
	getsAhead = 8
)

var errOrder = errors.New("journal: sweep wants ascending sequences")

// Sweep calls fn with the records of the sequences given in ascending order, in
// that order. Sequences without a record are passed over: the caller knows by
// fn not having been called. Where they lie close together it reads everything
// between them, where they are sparse it gets each, some ahead of fn.
func (l *Log) Sweep(ctx context.Context, seqs []uint64, fn func(Message) error) error {
	for i := range seqs[min(1, len(seqs)):] {
		if seqs[i] >= seqs[i+1] {
			return errOrder
		}
	}
	if err := l.reaches(ctx, seqs); err != nil {
		return err
	}
	var newest []Message
	if l.tail != nil {
		seqs, newest = l.tail.pick(seqs, l.reached())
	}
	for len(seqs) > 0 {
		n, read := 1, l.sparse
		if run := denseLen(seqs); run >= denseRun {
			n, read = run, l.dense
		} else {
			for n < len(seqs) && denseLen(seqs[n:]) < denseRun {
				n++
			}
		}
		if err := read(ctx, seqs[:n], fn); err != nil {
			return err
		}
		seqs = seqs[n:]
	}
	for _, m := range newest {
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

// denseLen is how many of seqs, from the first on, lie close together.
func denseLen(seqs []uint64) int {
	n := 1
	for n < len(seqs) && seqs[n]-seqs[n-1] < denseBelow {
		n++
	}
	return n
}

// sparse gets each of seqs. The answers of several servers may overtake each other.
func (l *Log) sparse(ctx context.Context, seqs []uint64, fn func(Message) error) error {
	synced, err := l.Synced(ctx)
	if err != nil {
		return err
	}
	sub, err := l.inbox(".*")
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	inbox := strings.TrimSuffix(sub.Subject, "*")
	early := make(map[string]*nats.Msg, getsAhead)
	sent := 0
	for i := range seqs {
		for ; sent < len(seqs) && sent < i+getsAhead && seqs[sent] <= synced; sent++ {
			if err := l.j.nc.PublishRequest("$JS.API.DIRECT.GET."+l.name, inbox+strconv.Itoa(sent), getRequest(seqs[sent])); err != nil {
				return unavailable(err)
			}
		}
		if i == sent {
			return nil // the rest is not durable yet
		}
		m, err := l.awaitDirect(ctx, sub, inbox+strconv.Itoa(i), early, seqs[i])
		if err != nil {
			return err
		}
		msg, _, err := l.direct(m)
		if errors.Is(err, ErrNotFound) {
			if err := l.missing(ctx, seqs[i], seqs[i]); err != nil {
				return err
			}
			continue
		} else if err != nil {
			return err
		}
		if err := fn(msg); err != nil {
			return err
		}
	}
	return nil
}

// awaitDirect is await for the answer to a direct get, or what the leader has where that is lost.
func (l *Log) awaitDirect(ctx context.Context, sub *nats.Subscription, subject string, early map[string]*nats.Msg, seq uint64) (*nats.Msg, error) {
	if l.disk != nil {
		return l.await(ctx, sub, subject, early)
	}
	if !l.j.shuns() || early[subject] != nil {
		m, lost, err := l.brief(ctx, func(ctx context.Context) (*nats.Msg, error) { return l.await(ctx, sub, subject, early) })
		if !lost {
			return m, err
		}
	}
	return l.leaderGet(ctx, messageGet{Seq: seq})
}

// await returns the message of a subject, and keeps others that come before it.
func (l *Log) await(ctx context.Context, sub *nats.Subscription, subject string, early map[string]*nats.Msg) (*nats.Msg, error) {
	for {
		if m := early[subject]; m != nil {
			delete(early, subject)
			return m, nil
		}
		m, err := l.answer(ctx, sub)
		if err != nil {
			return nil, err
		}
		early[m.Subject] = m
	}
}

func (l *Log) answer(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := l.bounded(ctx)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	return m, unavailable(err)
}

// inbox subscribes to a new subject that the server answers on.
func (l *Log) inbox(suffix string) (*nats.Subscription, error) {
	sub, err := l.j.nc.SubscribeSync(l.j.nc.NewInbox() + suffix)
	if err != nil {
		return nil, unavailable(err)
	}
	return sub, unavailable(sub.SetPendingLimits(-1, -1))
}

// dense reads from the first of seqs to the last, and passes on those asked for.
func (l *Log) dense(ctx context.Context, seqs []uint64, fn func(Message) error) error {
	return l.Range(ctx, seqs[0], seqs[len(seqs)-1], func(m Message) error {
		for seqs[0] < m.Seq {
			seqs = seqs[1:]
		}
		if seqs[0] > m.Seq {
			return nil
		}
		return fn(m)
	})
}

// Range calls fn with the records from first to last that are there, in order,
// read in batches of bounded size. It does not wait for more.
func (l *Log) Range(ctx context.Context, first, last uint64, fn func(Message) error) error {
	synced, err := l.Synced(ctx)
	if err != nil {
		return err
	}
	return l.scan(ctx, max(first, 1), min(last, synced), func(_ uint64, m *nats.Msg) error {
		msg, _, err := l.direct(m)
		if err != nil {
			return err
		}
		return fn(msg)
	})
}

// batchGet is a direct get of several records in sequence (NATS ADR-31).
type batchGet struct {
	Seq      uint64 `json:"seq"`
	Batch    uint64 `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

const (
	batchRecords = 512
	batchBytes   = 4 << 20
)

// batchTries is how often a batch is asked for in a cluster, of which one replica may be cut off, before the leader is asked for one
// record after the other.
const batchTries = 4

// messages asks for some records from first on, and returns where to go on.
func (l *Log) messages(ctx context.Context, sub *nats.Subscription, first, last uint64, fn func(uint64, *nats.Msg) error) (next uint64, err error) {
	for range batchTries {
		next, lost, err := l.batch(ctx, sub, first, last, fn)
		if !lost {
			return next, err
		}
		// What was only late is not taken for an answer to what is asked next.
		if sub, err = l.inbox(""); err != nil {
			return 0, err
		}
		defer sub.Unsubscribe()
	}
	return l.leaderMessages(ctx, first, last, fn)
}

// batch is messages once. It is lost where nothing was answered.
func (l *Log) batch(ctx context.Context, sub *nats.Subscription, first, last uint64, fn func(uint64, *nats.Msg) error) (next uint64, lost bool, err error) {
	req, err := json.Marshal(batchGet{Seq: first, Batch: min(batchRecords, last-first+1), MaxBytes: batchBytes})
	if err != nil {
		return 0, false, err
	}
	if err := l.j.nc.PublishRequest("$JS.API.DIRECT.GET."+l.name, sub.Subject, req); err != nil {
		return 0, false, unavailable(err)
	}
	next = last + 1 // unless records come: there is none from first on
	for begun := false; ; begun = true {
		var m *nats.Msg
		if l.disk == nil && !begun {
			if m, lost, err = l.brief(ctx, func(ctx context.Context) (*nats.Msg, error) { return l.answer(ctx, sub) }); lost {
				return 0, true, nil
			}
		} else {
			m, err = l.answer(ctx, sub)
		}
		if err != nil {
			return 0, false, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // end of batch
			return next, false, nil
		case "404":
			return next, false, l.missing(ctx, first, last)
		default:
			return 0, false, fmt.Errorf("%w: %s %s", ErrUnavailable, status, m.Header.Get("Description"))
		}
		seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return 0, false, fmt.Errorf("%w: sequence of a record: %w", ErrUnavailable, err)
		}
		next = seq + 1
		if seq <= last {
			if err := fn(seq, m); err != nil {
				return 0, false, err
			}
		}
	}
}

// Trim gives up records up to and with sequence upTo. The embedded store gives
// up whole blocks (at most 8 MiB), so that some records at or below upTo may stay
// a while; an external one is purged in steps, each short under the stream's lock.
// While trims are held (see HoldTrims) it does nothing.
func (l *Log) Trim(ctx context.Context, upTo uint64) error {
	if !l.j.trims.TryRLock() {
		return nil
	}
	defer l.j.trims.RUnlock()
	return l.trim(ctx, upTo)
}

func (l *Log) trim(ctx context.Context, upTo uint64) error {
	st, err := l.State(ctx)
	if err != nil {
		return err
	}
	steps, err := l.trimSteps(st.First, min(upTo, st.Last)+1)
	if err != nil {
		return fmt.Errorf("journal: trim %s: %w", l.name, err)
	}
	for _, keep := range steps {
		if err := l.purge(ctx, keep); err != nil {
			return err
		}
		l.tail.erase(keep - 1)
	}
	return l.disk.folder()
}

// trimSteps are the sequences to purge up to, one after the other.
func (l *Log) trimSteps(first, keep uint64) (steps []uint64, err error) {
	if l.disk == nil {
		for from := first; from < keep; {
			from = min(from+purgeStep, keep)
			steps = append(steps, from)
		}
		return steps, nil
	}
	bs, err := l.disk.boundaries()
	for _, b := range bs {
		if first < b && b <= keep {
			steps = append(steps, b)
		}
	}
	return steps, err
}

// purge removes the records below keep.
func (l *Log) purge(ctx context.Context, keep uint64) error {
	if keep < 2 {
		return nil
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	return unavailable(l.stream.Purge(ctx, jetstream.WithPurgeSequence(keep)))
}

// append stores one record and returns when it is durable: for the logs of few
// records. Options add headers.
func (l *Log) append(ctx context.Context, m *nats.Msg) (uint64, error) {
	if err := l.j.Err(); err != nil {
		return 0, err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	r, err := l.j.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, unavailable(err)
	}
	a := parseAck(r)
	if a.err != nil {
		return 0, a.err
	}
	if err := l.disk.sync(); err != nil {
		return 0, err
	}
	l.advance(a.seq)
	return a.seq, nil
}

// externalTimeout is requestTimeout for what is asked of a cluster and can be asked again: what is on its way to a leader that goes is
// never answered.
const externalTimeout = 2 * time.Second

// bounded is bound for what can be asked again.
func (l *Log) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.disk == nil {
		return context.WithTimeout(ctx, externalTimeout)
	}
	return bound(ctx)
}

// bound ends a request that is not answered, however long its caller may go on.
func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// unavailable marks what the server or the way to it got in the way of.
func unavailable(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
