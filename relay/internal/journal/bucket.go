package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const bucketMaxBytes = 1 << 30

// Bucket is a small durable map whose values have revisions. A write returns
// when it is durable. Keys are 1 to 200 of A-Za-z0-9_-/=. and do not begin or
// end with a dot.
type Bucket struct {
	kv  jetstream.KeyValue
	log *Log
}

// Item is the value of a key at a revision; revisions grow over the whole bucket.
type Item struct {
	Key      string
	Value    []byte
	Revision uint64
	Time     time.Time
	Deleted  bool // only in Watch
}

// Bucket opens a bucket, creating it if it is missing. Names are 1 to 32 of
// A-Za-z0-9_-.
func (j *Journal) Bucket(ctx context.Context, name string) (*Bucket, error) {
	if err := checkSubject(name); err != nil || strings.Contains(name, ".") || len(name) > 32 {
		return nil, fmt.Errorf("journal: bucket %q: want 1 to 32 of A-Za-z0-9_-", name)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if b := j.buckets[name]; b != nil {
		return b, nil
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	kv, err := j.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: j.opt.Name + "_" + name, History: 1, MaxBytes: bucketMaxBytes,
		Storage: jetstream.FileStorage, Replicas: j.opt.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("journal: bucket %s: %w", name, unavailable(reserved(err)))
	}
	s, err := j.js.Stream(ctx, "KV_"+kv.Bucket())
	if err != nil {
		return nil, fmt.Errorf("journal: bucket %s: %w", name, unavailable(err))
	}
	l, err := j.newLog(s, "", bucketMaxBytes)
	if err != nil {
		return nil, err
	}
	// A watch would wait for ever for a value that cannot be read.
	if err := l.Range(ctx, 1, ^uint64(0), func(Message) error { return nil }); err != nil {
		return nil, fmt.Errorf("journal: bucket %s: %w", name, err)
	}
	b := &Bucket{kv: kv, log: l}
	j.buckets[name] = b
	return b, nil
}

// Get returns ErrNotFound for a key that is absent or deleted.
func (b *Bucket) Get(ctx context.Context, key string) (Item, error) {
	if b.log.disk == nil {
		return b.fromLeader(ctx, key)
	}
	ctx, cancel := b.log.bounded(ctx)
	defer cancel()
	e, err := b.kv.Get(ctx, key)
	if err != nil {
		return Item{}, bucketError(err)
	}
	return item(e), nil
}

// Put sets a key whatever it holds, and returns its revision.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, value, func(ctx context.Context) (uint64, error) { return b.kv.Put(ctx, key, value) })
}

// Create sets a key that is absent or deleted; otherwise ErrRevision.
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, value, func(ctx context.Context) (uint64, error) { return b.kv.Create(ctx, key, value) })
}

// Update sets a key whose latest revision is the one given; otherwise ErrRevision.
func (b *Bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(ctx, value, func(ctx context.Context) (uint64, error) { return b.kv.Update(ctx, key, value, revision) })
}

// Delete removes a key; with a revision other than 0 only if that is its latest,
// otherwise ErrRevision. The value leaves the disk with the next rewriting of its block.
func (b *Bucket) Delete(ctx context.Context, key string, revision uint64) error {
	var opts []jetstream.KVDeleteOpt
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	_, err := b.write(ctx, nil, func(ctx context.Context) (uint64, error) { return 0, b.kv.Delete(ctx, key, opts...) })
	return err
}

func (b *Bucket) write(ctx context.Context, value []byte, put func(context.Context) (uint64, error)) (uint64, error) {
	if err := b.log.j.Err(); err != nil {
		return 0, err
	}
	if len(value) > b.log.j.limit {
		return 0, fmt.Errorf("%w: value of %d bytes, at most %d", ErrTooLarge, len(value), b.log.j.limit)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	rev, err := put(ctx)
	if err != nil {
		return 0, bucketError(err)
	}
	return rev, b.log.disk.rewritten()
}

// Forget removes what deletions left behind, of keys that were deleted that long ago and are never set again.
func (b *Bucket) Forget(ctx context.Context, olderThan time.Duration) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	var gone []string
	before := time.Now().Add(-olderThan)
	err := b.Watch(ctx, func(it Item) error {
		if it.Key == "" {
			return errWhole
		}
		if it.Deleted && it.Time.Before(before) {
			gone = append(gone, it.Key)
		}
		return nil
	})
	if err != errWhole {
		return err
	}
	for _, key := range gone {
		if err := b.log.stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+b.kv.Bucket()+"."+key)); err != nil {
			return bucketError(err)
		}
	}
	return nil
}

// errWhole ends a watch that has told everything that was there.
var errWhole = errors.New("journal: that is all")

// Keys lists the keys that are set, in no order.
func (b *Bucket) Keys(ctx context.Context) ([]string, error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	l, err := b.kv.ListKeys(ctx)
	if err != nil {
		return nil, bucketError(err)
	}
	defer l.Stop()
	var keys []string
	for k := range l.Keys() {
		keys = append(keys, k)
	}
	return keys, bucketError(ctx.Err())
}

// Watch calls fn with every key's present item, then once with the zero Item to
// say that these were all, then with each change as it comes, deletions
// included, until fn or ctx returns an error, which Watch then returns, or the connection breaks, or an external
// server has not let it hear everything for a second or two. A change may be seen before the write that made it returned.
func (b *Bucket) Watch(ctx context.Context, fn func(Item) error) error {
	// What changes while the connection is down would be heard only when the subscription finds that out, after seconds.
	broken := b.log.j.broken()
	watching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w, err := b.watchAll(watching, stop)
	if err != nil {
		return err
	}
	defer w.Stop()
	// A watch of a cluster may also hang without an end.
	listen := &listening{log: b.log}
	hangs := make(chan error, 1)
	if b.log.disk == nil {
		looking, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		defer done.Wait()
		defer stop()
		done.Go(func() { hangs <- listen.run(looking) })
	}
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return fmt.Errorf("%w: watch ended", ErrUnavailable)
			}
			var it Item
			if e != nil {
				it = item(e)
				listen.hear(it.Revision)
			} else {
				listen.whole.Store(true)
			}
			if err := fn(it); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-b.log.j.closing:
			return ErrClosed
		case err := <-hangs:
			return err
		case <-broken:
			return fmt.Errorf("%w: connection lost", ErrUnavailable)
		}
	}
}

// watchAll begins a watch, in a cluster within the time after which a question is asked again: the client library waits for longer.
func (b *Bucket) watchAll(ctx context.Context, giveUp context.CancelCauseFunc) (jetstream.KeyWatcher, error) {
	if b.log.disk == nil {
		late := time.AfterFunc(externalTimeout, func() { giveUp(context.DeadlineExceeded) })
		defer late.Stop()
	}
	w, err := b.kv.WatchAll(ctx)
	if err == nil && ctx.Err() != nil { // just as it began
		w.Stop()
		err = context.Cause(ctx)
	}
	return w, bucketError(err)
}

func item(e jetstream.KeyValueEntry) Item {
	return Item{Key: e.Key(), Value: e.Value(), Revision: e.Revision(), Time: e.Created(), Deleted: e.Operation() != jetstream.KeyValuePut}
}

func bucketError(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted):
		return ErrNotFound
	case errors.Is(err, jetstream.ErrKeyExists):
		return ErrRevision
	case errors.Is(err, jetstream.ErrInvalidKey):
		return fmt.Errorf("journal: %w", err)
	case errors.As(err, &api) && (api.ErrorCode == 10071 || api.ErrorCode == 10164):
		return ErrRevision
	case errors.As(err, &api) && (api.ErrorCode == 10077 || api.ErrorCode == 10023 || api.ErrorCode == 10002):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return ErrTooLarge
	}
	return unavailable(err)
}
