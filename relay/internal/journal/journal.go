// Package journal keeps Sealpost's truth: the logs of events and outcomes, the
// audit log, the checkpoints and the registry's buckets, all in NATS JetStream,
// and it is the only package that knows so.
//
// It promises that what it answered with success stays: over kill -9, and over a
// loss of power as far as the disk keeps what fsync(2) confirmed. With the
// embedded server it makes that true itself, by syncing the block files a group
// of records was written to before it answers the group; with an external one it
// takes the server's word, and therefore wants that word declared (see
// [Options].Durability). A sync that failed is never tried again: the kernel may
// have dropped the pages it could not write, and a second fsync would call them
// safe. The journal then stops for good and [Journal.Failed] says so.
//
// It trusts the disk, the NATS server and whoever can write to the data folder.
// It takes bytes and gives bytes back, and looks into none of them.
//
// What it asks of the file system below the embedded server: fsync of a file
// keeps its data, fsync of a folder keeps its names, a file may have two names.
//
// What cannot be read is never taken for gone (see guard and Log.missing).
package journal

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What callers branch on. ErrBusy and ErrFull are refusals: nothing was kept.
// After ErrUnavailable and ErrFailed the outcome is unknown; repeating an event
// under the same id is safe.
var (
	ErrClosed      = errors.New("journal: closed")
	ErrConflict    = errors.New("journal: id is taken by other content")
	ErrFailed      = errors.New("journal: storage failed")
	ErrFenced      = errors.New("journal: another writer owns the log")
	ErrFull        = errors.New("journal: full")
	ErrNotFound    = errors.New("journal: not found")
	ErrTooLarge    = errors.New("journal: too large")
	ErrUnavailable = errors.New("journal: unavailable")
	ErrRevision    = errors.New("journal: revision is not the latest")
	ErrBusy        = errors.New("journal: busy")
	// ErrOutOfTouch is an ErrUnavailable: who answers for a stream may have been replaced.
	ErrOutOfTouch = errors.New("journal: the server is out of touch with its cluster")
	// ErrUnreadable: what is to be read is there, and cannot be read now. It may be
	// later, or after another start; it must not be taken for gone.
	ErrUnreadable = errors.New("journal: cannot be read")
)

// BusyError is the ErrBusy a caller gets, with the time after which a repeat is
// worth its while.
type BusyError struct{ RetryAfter time.Duration }

func (e *BusyError) Error() string        { return "journal: busy, retry after " + e.RetryAfter.String() }
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// Durability says what an acknowledgement of an external server means.
type Durability string

const (
	// Embedded: the server runs in this process and the journal syncs by itself.
	Embedded Durability = ""
	// Fsync: the external server runs with "sync_interval: always".
	Fsync Durability = "fsync"
	// Replicated: the external server is a cluster and each stream has at least
	// three replicas, which do not lose power together.
	Replicated Durability = "replicated"
)

// Options configure [Open]. The zero value of a field is its default.
type Options struct {
	Dir        string     // data folder of the embedded server; unused with URL
	URL        string     // external NATS, "nats://host:4222[,...]"; empty is embedded
	Durability Durability // of an external server; must be declared with URL
	Replicas   int        // of each stream, external only: default 1, with Replicated 3
	Partitions int        // default 1, at most 1024; fixed for the life of a journal
	Name       string     // prefix of stream and bucket names, [A-Z0-9_-]; default SEALPOST

	EventsMaxBytes   int64         // of each EVENTS log; default 32 GiB, external 8 GiB
	OutcomesMaxBytes int64         // of each OUTCOMES log; default 16 GiB, external 4 GiB
	AuditMaxBytes    int64         // of the AUDIT log; default 4 GiB
	DedupWindow      time.Duration // default 10 min, at most 24 h; about 230 bytes of memory an id
	MaxEventBytes    int           // default 8 MiB, at most 32 MiB

	// MaxUncommittedBytes bounds what waits for its sync, per partition; beyond
	// it Accept answers ErrBusy. Default 64 MiB. One share alone may take all of it;
	// a quarter more is kept for the others.
	MaxUncommittedBytes int64

	// MaxUnread and MaxUnreadBytes bound what a reader who calls Consumed may be
	// behind, in the same way. Defaults 262,144 events and 64 MiB.
	MaxUnread      int
	MaxUnreadBytes int64

	// MinFreeDisk is the number of bytes below which Accept answers ErrFull.
	// Default max(1 GiB, 5 % of the disk); negative is no check. Embedded only.
	MinFreeDisk int64

	Clock  func() time.Time // default time.Now
	Logger *slog.Logger     // default discards

	Credentials string      // file with the credentials for an external server
	TLS         *tls.Config // for an external server

	// Format is what the journal on an external server is marked with; one that is marked with a newer one is refused. Zero: no mark.
	Format Format

	// Fsync replaces (*os.File).Sync: tests give a slow or failing disk here.
	Fsync func(*os.File) error
}

const (
	defaultName       = "SEALPOST"
	defaultEventBytes = 8 << 20
	maxEventBytes     = 32 << 20
	maxPartitions     = 1024
	payloadMargin     = 64 << 10 // headers and framing beside an event's bytes
	minServer         = "2.15.0" // the version whose storage behaviour was verified
)

func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, defaultName)
	o.Partitions = cmp.Or(o.Partitions, 1)
	if o.URL != "" { // which reserves them, out of three quarters of its free disk
		o.EventsMaxBytes = cmp.Or(o.EventsMaxBytes, 8<<30)
		o.OutcomesMaxBytes = cmp.Or(o.OutcomesMaxBytes, 4<<30)
	}
	o.EventsMaxBytes = cmp.Or(o.EventsMaxBytes, 32<<30)
	o.OutcomesMaxBytes = cmp.Or(o.OutcomesMaxBytes, 16<<30)
	o.AuditMaxBytes = cmp.Or(o.AuditMaxBytes, 4<<30)
	o.DedupWindow = cmp.Or(o.DedupWindow, 10*time.Minute)
	o.MaxEventBytes = cmp.Or(o.MaxEventBytes, defaultEventBytes)
	o.MaxUncommittedBytes = cmp.Or(o.MaxUncommittedBytes, 64<<20)
	o.MaxUnread = cmp.Or(o.MaxUnread, 1<<18)
	o.MaxUnreadBytes = cmp.Or(o.MaxUnreadBytes, 64<<20)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fsync == nil {
		o.Fsync = (*os.File).Sync
	}
	if o.Replicas == 0 {
		o.Replicas = 1
		if o.Durability == Replicated {
			o.Replicas = 3
		}
	}
	switch {
	case strings.Trim(o.Name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" || len(o.Name) > 32:
		return o, fmt.Errorf("journal: name %q: want 1 to 32 of A-Z, 0-9, _ and -", o.Name)
	case o.Partitions < 1 || o.Partitions > maxPartitions:
		return o, fmt.Errorf("journal: %d partitions: want 1 to %d", o.Partitions, maxPartitions)
	case o.DedupWindow < time.Second || o.DedupWindow > 24*time.Hour:
		return o, fmt.Errorf("journal: deduplication window %v: want 1s to 24h", o.DedupWindow)
	case o.MaxEventBytes < 1 || o.MaxEventBytes > maxEventBytes:
		return o, fmt.Errorf("journal: event bound %d: want 1 to %d bytes", o.MaxEventBytes, maxEventBytes)
	case o.EventsMaxBytes < 1 || o.OutcomesMaxBytes < 1 || o.AuditMaxBytes < 1 || o.MaxUncommittedBytes < 1 || o.MaxUnread < 1 || o.MaxUnreadBytes < 1:
		return o, errors.New("journal: bounds must be positive")
	case o.URL == "" && o.Dir == "":
		return o, errors.New("journal: neither a data folder nor a server is given")
	case o.URL == "" && o.Durability != Embedded:
		return o, fmt.Errorf("journal: durability %q is for an external server", o.Durability)
	case o.URL == "" && o.Replicas != 1:
		return o, errors.New("journal: the embedded server keeps one replica")
	case o.URL != "" && o.Durability != Fsync && o.Durability != Replicated:
		return o, fmt.Errorf("journal: durability of the external server must be declared: %q or %q, not %q", Fsync, Replicated, o.Durability)
	case o.Durability == Replicated && o.Replicas < 3:
		return o, fmt.Errorf("journal: replicated wants 3 replicas or more, not %d", o.Replicas)
	case o.Replicas > 5:
		return o, fmt.Errorf("journal: %d replicas: at most 5", o.Replicas)
	}
	return o, nil
}

// Journal is an open journal; its methods may be called concurrently.
type Journal struct {
	opt Options
	log *slog.Logger

	srv  *server.Server // nil when external
	lock *os.File       // of the data folder, nil when external

	pub *nats.Conn // writes to EVENTS and their acknowledgements
	out *nats.Conn // writes to OUTCOMES and their acknowledgements: apart, so that neither waits for the other's bytes
	nc  *nats.Conn // everything else, so that a busy reader delays no answer
	js  jetstream.JetStream

	events   []*Events
	outcomes []*Outcomes
	audit    *Audit
	saves    []*Log // checkpoints

	reach reach // of an external server

	mu      sync.Mutex // guards the two below
	buckets map[string]*Bucket
	broke   chan struct{} // closed when nc's present connection breaks

	unread unread
	trims  sync.RWMutex // held for reading by each trim, for writing while none may be

	shunned   atomic.Int64 // until when leaders are asked in place of any replica; ns since 1970
	limit     int          // bytes of an event
	failOnce  sync.Once
	failure   atomic.Pointer[error]
	failed    chan struct{}
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Open starts the embedded server, or connects to the external one, and creates
// the streams that are missing. It fails if another process holds the data
// folder, if the server is too old or has no JetStream, or if the number of
// partitions is not the one that the journal was made with.
func Open(ctx context.Context, o Options) (_ *Journal, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	j := &Journal{
		opt: o, log: o.Logger,
		failed: make(chan struct{}), closing: make(chan struct{}),
		buckets: make(map[string]*Bucket), broke: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			j.shutdown(ctx)
		}
	}()
	var kept guard
	if o.URL == "" {
		if err := j.embed(ctx, &kept); err != nil {
			return nil, err
		}
	}
	if err := j.connect(ctx); err != nil {
		return nil, err
	}
	if o.URL == "" {
		if err := kept.end(ctx, j.js); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	if err := j.checkFormat(ctx); err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := j.openStreams(opening); err != nil {
		return nil, err
	}
	if j.srv == nil {
		j.reach.begin(j)
	}
	return j, nil
}

func (j *Journal) openStreams(ctx context.Context) (err error) {
	for p := range j.opt.Partitions {
		n := strconv.Itoa(p)
		l, err := j.openLog(ctx, "EVENTS_"+n, "events."+n, j.opt.EventsMaxBytes, j.opt.DedupWindow)
		if err != nil {
			return err
		}
		l.framed = true
		j.follow(l, eventsTail)
		e, err := newEvents(j, l)
		if err != nil {
			return err
		}
		j.events = append(j.events, e)
		if l, err = j.openLog(ctx, "OUTCOMES_"+n, "outcomes."+n, j.opt.OutcomesMaxBytes, idWindow); err != nil {
			return err
		}
		j.follow(l, outcomesTail)
		j.outcomes = append(j.outcomes, &Outcomes{Log: l})
		if l, err = j.openLog(ctx, "CHECKPOINTS_"+n, "checkpoints."+n, checkpointsMaxBytes, idWindow); err != nil {
			return err
		}
		j.saves = append(j.saves, l)
	}
	l, err := j.openLog(ctx, "AUDIT", "audit", j.opt.AuditMaxBytes, idWindow)
	if err != nil {
		return err
	}
	j.audit = &Audit{Log: l}
	return nil
}

// eventsTail and outcomesTail bound, over all partitions, what is kept in memory for those who read right behind the
// writers: a second or so at full speed.
const (
	eventsTail   = 48 << 20
	outcomesTail = 16 << 20
)

// follow has the records that this process writes to a log read from memory.
func (j *Journal) follow(l *Log, bound int64) {
	if j.srv != nil {
		l.tail = newTail(l.synced+1, bound/int64(j.opt.Partitions))
	}
}

// Events is the log of accepted events of partition p.
func (j *Journal) Events(p int) *Events { return j.events[p] }

// Outcomes is the log of what became of the events of partition p.
func (j *Journal) Outcomes(p int) *Outcomes { return j.outcomes[p] }

// Audit is the log of privileged acts.
func (j *Journal) Audit() *Audit { return j.audit }

// Partitions is the number of partitions, numbered from 0.
func (j *Journal) Partitions() int { return j.opt.Partitions }

// MaxEventBytes is the bound of one event: the configured one, or less where an
// external server takes less.
func (j *Journal) MaxEventBytes() int { return j.limit }

// Partition is the partition a tenant belongs to: FNV-1a of its name modulo the
// number of partitions, the same in every process and release.
func (j *Journal) Partition(tenant string) int {
	h := fnv.New64a()
	h.Write([]byte(tenant))
	return int(h.Sum64() % uint64(j.opt.Partitions))
}

// Failed is closed when the storage failed and the journal stopped for good; the
// process should say so and exit. Err tells why.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err is nil, or the failure that stopped the journal; it is an ErrFailed.
func (j *Journal) Err() error {
	if p := j.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops the journal for good and returns the first failure.
func (j *Journal) fail(err error) error {
	j.failOnce.Do(func() {
		err := fmt.Errorf("%w: %w", ErrFailed, err)
		j.failure.Store(&err)
		close(j.failed)
		j.log.Error("journal stopped: storage failed", "error", err)
	})
	return j.Err()
}

// Status is the journal's health at one moment.
type Status struct {
	Connected     bool
	JetStream     bool  // answers, and all streams are there
	Unavailable   error // why not, of one stream
	Failure       error
	Full          error // ErrFull with what there is too little of, while Accept refuses for want of disk
	Unreadable    error // ErrUnreadable, while the disk does not give what was asked for, and Accept refuses
	ServerVersion string
	Streams       []StreamStatus
}

// StreamStatus is how full one stream is.
type StreamStatus struct {
	Name            string
	First, Last     uint64
	Bytes, MaxBytes int64
}

// Status asks the server; it takes no longer than ctx allows.
func (j *Journal) Status(ctx context.Context) Status {
	s := Status{Connected: j.nc.IsConnected() && j.pub.IsConnected() && j.out.IsConnected(), Failure: j.Err(), ServerVersion: j.nc.ConnectedServerVersion()}
	s.JetStream, s.Unreadable = true, j.readable()
	for _, l := range j.logs() {
		st, err := l.State(ctx)
		if err != nil {
			s.JetStream, s.Unavailable = false, err
			continue
		}
		s.Streams = append(s.Streams, StreamStatus{l.name, st.First, st.Last, st.Bytes, l.maxBytes})
	}
	for _, e := range j.events {
		if err := e.room(); errors.Is(err, ErrFull) {
			s.Full = err
		}
	}
	return s
}

// Close stops accepting, answers what is under way, and stops the server. It
// takes no longer than ctx allows; what was not answered by then is not lost if
// it was written, and its callers get ErrClosed. Later calls return the first's result.
func (j *Journal) Close(ctx context.Context) error {
	j.closeOnce.Do(func() {
		close(j.closing)
		for _, e := range j.events {
			e.stop(ctx)
		}
		j.closeErr = j.shutdown(ctx)
	})
	return j.closeErr
}
