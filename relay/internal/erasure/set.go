package erasure

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Bucket is the journal's, as far as it is used here; *journal.Bucket is one, and tells what each method promises.
type Bucket interface {
	Get(ctx context.Context, key string) (journal.Item, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context, fn func(journal.Item) error) error
}

// Set is the tombstones as this process knows them. Its methods may be called concurrently.
type Set struct {
	bucket Bucket
	log    *slog.Logger
	digest func(tenant, subject string) Digest
	cancel context.CancelFunc
	done   sync.WaitGroup
	now    atomic.Pointer[Snapshot]
	lost   atomic.Pointer[error] // why changes are not heard at present

	mu      sync.Mutex
	changed chan struct{} // closed at the next snapshot
}

// Snapshot is the tombstones at one revision of their bucket; it never changes.
type Snapshot struct {
	digest   func(tenant, subject string) Digest
	revision uint64
	tenants  map[string]*graves
}

// graves are those of one tenant.
type graves struct {
	top      uint64 // the highest Seq of all
	subjects map[Digest]Tombstone
}

// Covers tells whether an event was erased: whether nothing of it may leave. For an event of a tenant of which nothing
// was erased, or that came after, it is one look into a map.
func (s *Snapshot) Covers(tenant, subject string, seq uint64) bool {
	g := s.tenants[tenant]
	if g == nil || seq > g.top {
		return false
	}
	t, ok := g.subjects[s.digest(tenant, subject)]
	return ok && seq <= t.Seq
}

// Revision is the bucket's, up to which the snapshot knows all changes.
func (s *Snapshot) Revision() uint64 { return s.revision }

// All are the tombstones, in no order.
func (s *Snapshot) All() iter.Seq[Tombstone] {
	return func(yield func(Tombstone) bool) {
		for _, g := range s.tenants {
			for _, t := range g.subjects {
				if !yield(t) {
					return
				}
			}
		}
	}
}

// with is the snapshot with a change of one tenant.
func (s *Snapshot) with(revision uint64, t Tombstone, gone bool) *Snapshot {
	next := &Snapshot{digest: s.digest, revision: max(s.revision, revision), tenants: maps.Clone(s.tenants)}
	g := &graves{subjects: map[Digest]Tombstone{}}
	if have := s.tenants[t.Tenant]; have != nil {
		g.subjects = maps.Clone(have.subjects)
	}
	if gone {
		delete(g.subjects, t.Subject)
	} else {
		g.subjects[t.Subject] = t
	}
	for _, one := range g.subjects {
		g.top = max(g.top, one.Seq)
	}
	next.tenants[t.Tenant] = g
	if len(g.subjects) == 0 {
		delete(next.tenants, t.Tenant)
	}
	return next
}

// Open loads the tombstones of a bucket and follows their changes until ctx ends or Close is called. It returns when all that was in
// the bucket is in the first snapshot.
func Open(ctx context.Context, b Bucket, k Keys, log *slog.Logger) (*Set, error) {
	s := &Set{bucket: b, log: log, digest: digester(k), changed: make(chan struct{})}
	s.now.Store(&Snapshot{digest: s.digest, tenants: map[string]*graves{}})
	first := s.changed
	run, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	failed := make(chan error, 1)
	s.done.Go(func() { s.listen(run, failed) })
	select {
	case <-first:
		return s, nil
	case err := <-failed:
		s.Close()
		return nil, fmt.Errorf("erasures: %w", err)
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("erasures: %w", ctx.Err())
	}
}

// Close stops following changes and waits for it.
func (s *Set) Close() {
	s.cancel()
	s.done.Wait()
}

// Digest stands for a subject of a tenant, in this data alone.
func (s *Set) Digest(tenant, subject string) Digest { return s.digest(tenant, subject) }

// Snapshot is the latest one; never nil.
func (s *Set) Snapshot() *Snapshot { return s.now.Load() }

// Err is nil while changes are heard, and else why not: then nothing may be sent, for it may have been erased.
func (s *Set) Err() error {
	if err := s.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// Updates yields the latest snapshot and then each newer one until ctx ends. A consumer that is slow misses those between,
// never the latest.
func (s *Set) Updates(ctx context.Context) iter.Seq[*Snapshot] {
	return func(yield func(*Snapshot) bool) {
		for {
			s.mu.Lock()
			now, changed := s.now.Load(), s.changed
			s.mu.Unlock()
			if !yield(now) {
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

func (s *Set) publish(next *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Store(next)
	close(s.changed)
	s.changed = make(chan struct{})
}

// listen follows the bucket. A watch that ends is begun again; it then tells everything anew. failed gets the first error.
func (s *Set) listen(ctx context.Context, failed chan<- error) {
	const least, most = 100 * time.Millisecond, 5 * time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		all, whole := &Snapshot{digest: s.digest, tenants: map[string]*graves{}}, false
		err := s.bucket.Watch(ctx, func(item journal.Item) error {
			if item.Key == "" {
				whole, wait = true, least
				all.revision = max(all.revision, s.Snapshot().revision)
				s.publish(all)
				s.lost.Store(nil)
				return nil
			}
			if !whole {
				return all.load(s.log, item)
			}
			next, err := s.Snapshot().changed(s.log, item)
			if err == nil {
				s.publish(next)
			}
			return err
		})
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("erasures: changes are not heard: %w", err)
		s.lost.Store(&err)
		select {
		case failed <- err:
		default:
		}
		s.log.Error("erasures are not heard; nothing is sent until they are", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// load adds an item to a snapshot that nobody has seen yet.
func (s *Snapshot) load(log *slog.Logger, item journal.Item) error {
	s.revision = max(s.revision, item.Revision)
	t, err := heard(log, item)
	if err != nil || t == nil || item.Deleted {
		return err
	}
	g := s.tenants[t.Tenant]
	if g == nil {
		g = &graves{subjects: map[Digest]Tombstone{}}
		s.tenants[t.Tenant] = g
	}
	g.subjects[t.Subject], g.top = *t, max(g.top, t.Seq)
	return nil
}

func (s *Snapshot) changed(log *slog.Logger, item journal.Item) (*Snapshot, error) {
	t, err := heard(log, item)
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return &Snapshot{digest: s.digest, revision: max(s.revision, item.Revision), tenants: s.tenants}, nil
	}
	return s.with(item.Revision, *t, item.Deleted), nil
}

// heard is the tombstone of an item; nil for a key of another kind. One that cannot be read counts for every event of its subject:
// what it says may be just that. A key that says no subject is an error: nobody knows what may be sent.
func heard(log *slog.Logger, item journal.Item) (*Tombstone, error) {
	if !strings.HasPrefix(item.Key, keyPrefix) {
		return nil, nil
	}
	if item.Deleted {
		t, err := parseKey(item.Key)
		return &t, err
	}
	t, err := decode(item.Key, item.Value)
	t.revision = item.Revision
	if err != nil && t.Tenant != "" {
		log.Error("an erasure's record cannot be read: nothing of its subject is sent", "key", item.Key, "error", err)
		t.Seq, err = math.MaxUint64, nil
	}
	return &t, err
}

// Get is the tombstone of a subject as the bucket has it now, or journal.ErrNotFound.
func (s *Set) Get(ctx context.Context, tenant string, subject Digest) (Tombstone, error) {
	key := (&Tombstone{Tenant: tenant, Subject: subject}).key()
	item, err := s.bucket.Get(ctx, key)
	if err != nil {
		return Tombstone{}, err
	}
	t, err := decode(key, item.Value)
	t.revision = item.Revision
	return t, err
}

// Put keeps a tombstone over what Get answered, a new one where that was nothing, and returns the bucket's revision when it is durable. The error
// is journal.ErrRevision where it was changed meanwhile.
func (s *Set) Put(ctx context.Context, t Tombstone) (uint64, error) {
	data, err := t.encode()
	if err != nil {
		return 0, err
	}
	if t.revision == 0 {
		return s.bucket.Create(ctx, t.key(), data)
	}
	return s.bucket.Update(ctx, t.key(), data, t.revision)
}

// Remove takes tombstones away that settled says nothing is left of, and returns how many.
func (s *Set) Remove(ctx context.Context, settled func(Tombstone) bool) (n int, err error) {
	for t := range s.Snapshot().All() {
		if !t.Erased || !settled(t) {
			continue
		}
		switch err := s.bucket.Delete(ctx, t.key(), t.revision); {
		case errors.Is(err, journal.ErrRevision): // erased once more
		case err != nil:
			return n, fmt.Errorf("erasures: remove: %w", err)
		default:
			n++
		}
	}
	return n, nil
}
