package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

// BucketName is the journal's bucket that a registry is opened on.
const BucketName = "ENDPOINTS"

// The keys of the bucket.
const (
	endpointKey = "endpoint/"
	typeKey     = "type/"
	devKey      = "mark/dev"
)

// What callers branch on.
var (
	ErrExists   = errors.New("endpoint exists")
	ErrNotFound = errors.New("no such endpoint")
	ErrStale    = errors.New("endpoint has changed")
	ErrClosed   = errors.New("registry is closed")
)

// changeTries bounds how often a change without an expected revision is made anew when others change the same record.
const changeTries = 8

// Bucket is the journal's, as far as it is used here; *journal.Bucket is one, and tells what each method promises.
type Bucket interface {
	Get(ctx context.Context, key string) (journal.Item, error)
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context, fn func(journal.Item) error) error
}

// Options configure Open. The zero value of a field is its default.
type Options struct {
	Insecure bool             // http:// URLs compile: with --dev only
	Now      func() time.Time // default time.Now
	Logger   *slog.Logger     // default discards
}

// Registry is an open registry; its methods may be called concurrently.
type Registry struct {
	bucket  Bucket
	log     *slog.Logger
	compile *compiler
	cancel  context.CancelFunc
	done    sync.WaitGroup
	now     atomic.Pointer[Snapshot]
	lost    atomic.Pointer[error] // why changes are not heard at present

	mu      sync.Mutex
	changed chan struct{} // closed at the next snapshot
	pending batch
	wake    chan struct{} // one token: pending has something
}

// batch is what was heard and is not in a snapshot yet.
type batch struct {
	items    map[string]journal.Item // by key, the latest
	revision uint64
	whole    bool // items are all that there is: what else is known is gone
	ready    bool // may become a snapshot
}

// Open loads the endpoints of a bucket and follows their changes until ctx ends or Close is called. It
// returns when all that was in the bucket is in the first snapshot.
func Open(ctx context.Context, b Bucket, s Sealer, o Options) (*Registry, error) {
	filters, err := filter.NewCompiler()
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		bucket: b, log: o.Logger,
		compile: &compiler{sealer: s, filters: filters, insecure: o.Insecure, now: o.Now},
		changed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	first := r.changed
	r.now.Store(&Snapshot{})
	run, cancel := context.WithCancel(ctx)
	r.cancel = cancel
	failed := make(chan error, 1)
	r.done.Go(func() { r.listen(run, failed) })
	r.done.Go(func() { r.build(run) })
	select {
	case <-first:
		return r, nil
	case err := <-failed:
		r.Close()
		return nil, fmt.Errorf("registry: %w", err)
	case <-ctx.Done():
		r.Close()
		return nil, fmt.Errorf("registry: %w", ctx.Err())
	}
}

// Close stops following changes and waits for it; snapshots stay usable.
func (r *Registry) Close() {
	r.cancel()
	r.done.Wait()
}

// Snapshot is the latest one; never nil.
func (r *Registry) Snapshot() *Snapshot { return r.now.Load() }

// Err is nil while changes are heard, and else why not: what the snapshot says may then be old, and nothing new
// should be sent on its word.
func (r *Registry) Err() error {
	if err := r.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// Updates yields the latest snapshot and then each newer one until ctx ends. A consumer that is slow misses those
// between, never the latest.
func (r *Registry) Updates(ctx context.Context) iter.Seq[*Snapshot] {
	return func(yield func(*Snapshot) bool) {
		for {
			snapshot, changed := r.current()
			if !yield(snapshot) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Await returns when the snapshot is at least of a revision.
func (r *Registry) Await(ctx context.Context, revision uint64) error {
	for {
		snapshot, changed := r.current()
		if snapshot.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("registry: await revision %d: %w", revision, ctx.Err())
		}
	}
}

func (r *Registry) current() (*Snapshot, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now.Load(), r.changed
}

// listen gathers changes. A watch that ends is begun again; it then tells everything anew. failed
// gets the first error.
func (r *Registry) listen(ctx context.Context, failed chan<- error) {
	const least, most = 100 * time.Millisecond, time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		all := batch{items: map[string]journal.Item{}}
		err := r.bucket.Watch(ctx, func(item journal.Item) error {
			if item.Key == "" {
				all.whole, all.ready = true, true
				r.lost.Store(nil)
				r.hand(all)
				wait = least
				return nil
			}
			if all.ready {
				r.hand(batch{items: itemsOf(item), revision: item.Revision, ready: true})
				return nil
			}
			all.revision = max(all.revision, item.Revision)
			maps.Copy(all.items, itemsOf(item))
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("registry: changes are not heard: %w", err)
		r.lost.Store(&err)
		select {
		case failed <- err:
		default:
		}
		r.log.Error("registry lost its watch", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func itemsOf(item journal.Item) map[string]journal.Item {
	if strings.HasPrefix(item.Key, endpointKey) || strings.HasPrefix(item.Key, typeKey) {
		return map[string]journal.Item{item.Key: item}
	}
	return nil
}

// hand gives what was heard to build, joined with what waits there.
func (r *Registry) hand(b batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.whole || r.pending.items == nil {
		b.revision = max(b.revision, r.pending.revision)
		if b.items == nil {
			b.items = map[string]journal.Item{}
		}
		r.pending = b
	} else {
		maps.Copy(r.pending.items, b.items)
		r.pending.revision = max(r.pending.revision, b.revision)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// build makes snapshots of what was heard, all of it at once.
func (r *Registry) build(ctx context.Context) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		b := r.pending
		r.pending = batch{}
		r.mu.Unlock()
		if !b.ready {
			continue
		}
		types, retyped := r.types(b)
		changes := r.changes(b)
		types.hold(r.Snapshot(), changes, retyped)
		next := r.Snapshot().with(changes, types, b.revision)
		r.mu.Lock()
		r.now.Store(next)
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

// changes compiles what differs from the snapshot; nil stands for an endpoint that is gone.
func (r *Registry) changes(b batch) map[string]*Endpoint {
	have, out := r.Snapshot(), make(map[string]*Endpoint, len(b.items))
	for key, item := range b.items {
		id, ok := strings.CutPrefix(key, endpointKey)
		if !ok {
			continue
		}
		known := have.Endpoint(id)
		switch {
		case item.Deleted && known != nil:
			out[id] = nil
		case item.Deleted || known != nil && known.Revision == item.Revision:
		default:
			out[id] = r.read(id, item)
		}
	}
	if b.whole {
		for id := range have.endpoints {
			if _, still := b.items[endpointKey+id]; !still {
				out[id] = nil
			}
		}
	}
	return out
}

func (r *Registry) read(id string, item journal.Item) *Endpoint {
	e, err := (*Endpoint)(nil), error(nil)
	record, err := decode(item.Value)
	if err == nil && record.ID != id {
		err = fmt.Errorf("%w: it is another endpoint's", errRecord)
	}
	if err != nil {
		e = broken(id, item.Revision, err)
	} else {
		record.Revision = item.Revision
		e = r.compile.compile(record)
	}
	if e.Err != nil {
		r.log.Error("endpoint cannot be used; nothing is sent to it", "endpoint", id, "tenant", e.Tenant, "error", e.Err)
	}
	return e
}

// Compile is what a record would be as an endpoint, such as one whose proposal was approved; nothing is kept.
func (r *Registry) Compile(record *Record) *Endpoint {
	e := r.compile.compile(record)
	e.types = r.Snapshot().Types(record.Tenant)
	return e
}

// Create keeps a new endpoint. It returns when that is durable and in the snapshot. The error is ErrExists where the id
// is taken.
func (r *Registry) Create(ctx context.Context, record *Record) (*Endpoint, error) {
	data, err := encode(record)
	if err != nil {
		return nil, err
	}
	revision, err := r.bucket.Create(ctx, endpointKey+record.ID, data)
	if errors.Is(err, journal.ErrRevision) {
		return nil, ErrExists
	} else if err != nil {
		return nil, fmt.Errorf("registry: create: %w", err)
	}
	return r.written(ctx, record.ID, revision)
}

// Change reads the latest record of an endpoint, lets fn change it, and keeps it if nobody else changed it meanwhile;
// without an expected revision (0) it then begins anew, with one it answers ErrStale. It returns when the
// change is durable and in the snapshot. An error of fn ends it, with nothing changed. The record that fn gets is its own.
func (r *Registry) Change(ctx context.Context, id string, revision uint64, fn func(*Record) error) (*Endpoint, error) {
	for range changeTries {
		record, err := r.Load(ctx, id)
		if err != nil {
			return nil, err
		}
		if revision != 0 && record.Revision != revision {
			return nil, ErrStale
		}
		if err := fn(record); err != nil {
			return nil, err
		}
		data, err := encode(record)
		if err != nil {
			return nil, err
		}
		now, err := r.bucket.Update(ctx, endpointKey+id, data, record.Revision)
		if errors.Is(err, journal.ErrRevision) && revision == 0 {
			continue
		} else if errors.Is(err, journal.ErrRevision) {
			return nil, ErrStale
		} else if err != nil {
			return nil, fmt.Errorf("registry: change: %w", err)
		}
		return r.written(ctx, id, now)
	}
	return nil, ErrStale
}

// Load reads the latest record of an endpoint from the bucket, past the snapshot.
func (r *Registry) Load(ctx context.Context, id string) (*Record, error) {
	item, err := r.bucket.Get(ctx, endpointKey+id)
	if errors.Is(err, journal.ErrNotFound) {
		return nil, ErrNotFound
	} else if err != nil {
		return nil, fmt.Errorf("registry: load: %w", err)
	}
	record, err := decode(item.Value)
	if err != nil {
		return nil, err
	}
	record.Revision = item.Revision
	return record, nil
}

func (r *Registry) written(ctx context.Context, id string, revision uint64) (*Endpoint, error) {
	if err := r.Await(ctx, revision); err != nil {
		return nil, err
	}
	if e := r.Snapshot().Endpoint(id); e != nil {
		return e, nil
	}
	return nil, ErrNotFound // purged meanwhile
}

// Purge removes tombstones of endpoints that were deleted before a time and returns how many. The caller answers for no
// delivery of theirs being open.
func (r *Registry) Purge(ctx context.Context, before time.Time) (int, error) {
	n := 0
	for e := range r.Snapshot().All() {
		if e.State != relay.EndpointDeleted || !e.UpdateTime.Before(before) {
			continue
		}
		err := r.bucket.Delete(ctx, endpointKey+e.ID, e.Revision)
		if errors.Is(err, journal.ErrRevision) {
			continue
		} else if err != nil {
			return n, fmt.Errorf("registry: purge: %w", err)
		}
		n++
	}
	return n, nil
}

// MarkDev notes in the bucket that endpoints may become active without approval from now on. It must return before the
// first one does.
func (r *Registry) MarkDev(ctx context.Context) error {
	if _, err := r.bucket.Put(ctx, devKey, []byte("dev")); err != nil {
		return fmt.Errorf("registry: mark: %w", err)
	}
	return nil
}

// Dev tells whether the bucket is marked.
func (r *Registry) Dev(ctx context.Context) (bool, error) {
	_, err := r.bucket.Get(ctx, devKey)
	if errors.Is(err, journal.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// LeaveDev puts every endpoint of a marked bucket back to pending, as if nobody ever approved it, and then takes the mark
// away; killed in between, it goes on at the next start. It returns how many it changed. Contained ones stay so
// and lose their approval too; deleted ones stay. A record that cannot be read is an error: it may be that of an active one.
func (r *Registry) LeaveDev(ctx context.Context, now time.Time) (int, error) {
	marked, err := r.Dev(ctx)
	if err != nil || !marked {
		return 0, err
	}
	n := 0
	for e := range r.Snapshot().All() {
		if e.State == relay.EndpointDeleted || e.State == relay.EndpointPending && e.ApproveTime.IsZero() {
			continue
		}
		_, err := r.Change(ctx, e.ID, 0, func(rec *Record) error {
			if rec.State != relay.EndpointContained {
				rec.MoveTo(relay.EndpointPending, "was registered with --dev", now)
			}
			rec.Proposed = nil
			rec.Approver, rec.ApproveTime, rec.UpdateTime = "", time.Time{}, now
			return nil
		})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return n, err
		}
		n++
	}
	if err := r.bucket.Delete(ctx, devKey, 0); err != nil {
		return n, fmt.Errorf("registry: mark: %w", err)
	}
	return n, nil
}
