package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
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

// Options configure Open. Partition is required; the zero value of another field is its default.
type Options struct {
	// Partition is the partition that a tenant belongs to.
	Partition func(tenant string) int
	// Runners do the work. An operation of a kind that has none waits for a process with one.
	Runners map[Kind]Runner
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default discards
}

// Keeper keeps the operations; its methods may be called concurrently.
type Keeper struct {
	bucket  Bucket
	options Options
	log     *slog.Logger
	now     func() time.Time
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu   sync.Mutex            // guards what follows
	all  map[string]*Operation // by id; each immutable
	jobs map[string]*Job       // under way in this process
	wake map[int]chan struct{} // to Run, by partition: something of it changed
}

// Open loads the operations of a bucket and follows their changes until ctx ends or Close is called.
func Open(ctx context.Context, b Bucket, o Options) (*Keeper, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	run, cancel := context.WithCancel(ctx)
	k := &Keeper{
		bucket: b, options: o, log: o.Logger, now: func() time.Time { return o.Now().UTC() }, cancel: cancel,
		all: map[string]*Operation{}, jobs: map[string]*Job{}, wake: map[int]chan struct{}{},
	}
	first := make(chan error, 1)
	k.done.Go(func() { k.listen(run, first) })
	select {
	case err := <-first:
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("operations: %w", err)
		}
		return k, nil
	case <-ctx.Done():
		k.Close()
		return nil, fmt.Errorf("operations: %w", ctx.Err())
	}
}

// Close stops following changes and waits for it. Run must have returned.
func (k *Keeper) Close() {
	k.cancel()
	k.done.Wait()
}

// How long listen waits before it listens again.
const leastWait, mostWait = 100 * time.Millisecond, 5 * time.Second

// listen follows the bucket; first gets the end of the first loading. While it hears nothing, what runs here goes on: its
// next saving finds out whether it was cancelled.
func (k *Keeper) listen(ctx context.Context, first chan<- error) {
	for wait := leastWait; ctx.Err() == nil; wait = min(2*wait, mostWait) {
		gone, whole := k.known(), false
		err := k.bucket.Watch(ctx, func(item journal.Item) error {
			if item.Key == "" {
				for id, revision := range gone { // deleted while nobody listened
					k.forget(id, revision)
				}
				whole, wait = true, leastWait
				select {
				case first <- nil:
				default:
				}
				return nil
			}
			if !whole {
				delete(gone, item.Key)
			}
			k.hear(item)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		select {
		case first <- err:
		default:
		}
		k.log.Error("changes of operations are not heard", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// known are the revisions of all that is kept.
func (k *Keeper) known() map[string]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]uint64, len(k.all))
	for id, op := range k.all {
		out[id] = op.revision
	}
	return out
}

// hear takes what the bucket tells.
func (k *Keeper) hear(item journal.Item) {
	if item.Deleted {
		k.forget(item.Key, item.Revision)
		return
	}
	op, err := read(item)
	if err != nil {
		k.log.Error("an operation cannot be read, and is not run", "operation", item.Key, "error", err)
		return
	}
	k.know(op)
}

func read(item journal.Item) (*Operation, error) {
	op, err := decode(item.Value)
	if err == nil && op.ID != item.Key {
		err = fmt.Errorf("%w: it is another operation's", errRecord)
	}
	if err != nil {
		return nil, err
	}
	op.revision = item.Revision
	return op, nil
}

// know takes a revision that is newer than the one it has, and tells whom it concerns.
func (k *Keeper) know(op *Operation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have := k.all[op.ID]; have != nil && have.revision >= op.revision {
		return
	}
	k.all[op.ID] = op
	if job := k.jobs[op.ID]; job != nil {
		job.hear(op)
	}
	k.nudge(op.Tenant)
}

func (k *Keeper) forget(id string, revision uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have := k.all[id]; have != nil && have.revision <= revision {
		delete(k.all, id)
	}
}

// nudge has the tenant's partition looked at, if it is run here. mu is held.
func (k *Keeper) nudge(tenant string) {
	select {
	case k.wake[k.options.Partition(tenant)] <- struct{}{}:
	default:
	}
}

// Create keeps a new operation, which is run as soon as the owner of its partition can, and returns when it is durable. A
// repeat of a request with an id returns the first one's operation as it is now, or ErrExists if it asked for something else.
// ErrTooMany: the tenant has too many that are not done.
func (k *Keeper) Create(ctx context.Context, r Request) (Operation, error) {
	if err := r.check(); err != nil {
		return Operation{}, err
	}
	now := k.now()
	op := &Operation{
		ID: newID(&r), Tenant: r.Tenant, Kind: r.Kind, State: Pending, Author: r.Author, Reason: r.Reason,
		CreateTime: now, UpdateTime: now, Request: r.Body, requestID: r.RequestID, digest: r.digest(),
	}
	if r.RequestID != "" {
		first, err := k.Get(ctx, op.ID)
		if !errors.Is(err, ErrNotFound) {
			return repeated(first, op, err)
		}
	}
	if err := k.makeRoom(ctx, op); err != nil {
		return Operation{}, err
	}
	data, err := op.encode()
	if err != nil {
		return Operation{}, fmt.Errorf("operation: %w", err)
	}
	op.revision, err = k.bucket.Create(ctx, op.ID, data)
	if errors.Is(err, journal.ErrRevision) { // by another process, meanwhile
		first, err := k.Get(ctx, op.ID)
		return repeated(first, op, err)
	} else if err != nil {
		return Operation{}, fmt.Errorf("operation: create: %w", err)
	}
	k.know(op)
	return *op, nil
}

func repeated(first Operation, asked *Operation, err error) (Operation, error) {
	if err != nil {
		return Operation{}, err
	}
	if first.digest != asked.digest {
		return Operation{}, ErrExists
	}
	return first, nil
}

// makeRoom keeps the tenant's operations within their bounds; those are about right where several processes create at once.
func (k *Keeper) makeRoom(ctx context.Context, op *Operation) error {
	limit, open := limitOf(op.Kind), 0
	var ended []*Operation
	k.mu.Lock()
	for _, o := range k.all {
		switch {
		case o.Tenant != op.Tenant || o.Kind != op.Kind:
		case o.State.Ended():
			ended = append(ended, o)
		default:
			open++
		}
	}
	k.mu.Unlock()
	if open >= limit.open || !limit.trims && len(ended) >= limit.kept {
		return ErrTooMany
	}
	if len(ended) < limit.kept {
		return nil
	}
	slices.SortFunc(ended, func(a, b *Operation) int { return a.EndTime.Compare(b.EndTime) })
	for _, old := range ended[:len(ended)-limit.kept+1] {
		if err := k.remove(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) remove(ctx context.Context, op *Operation) error {
	err := k.bucket.Delete(ctx, op.ID, op.revision)
	if errors.Is(err, journal.ErrRevision) {
		return nil // gone, by another process
	} else if err != nil {
		return fmt.Errorf("operation: remove: %w", err)
	}
	k.forget(op.ID, op.revision)
	return nil
}

// Get is an operation as it is now, or ErrNotFound.
func (k *Keeper) Get(ctx context.Context, id string) (Operation, error) {
	if !ValidID(id) {
		return Operation{}, ErrNotFound
	}
	item, err := k.bucket.Get(ctx, id)
	if errors.Is(err, journal.ErrNotFound) {
		return Operation{}, ErrNotFound
	} else if err != nil {
		return Operation{}, fmt.Errorf("operation: read: %w", err)
	}
	op, err := read(item)
	if err != nil {
		return Operation{}, fmt.Errorf("operation %s: %w", id, err)
	}
	k.know(op)
	return *op, nil
}

// List is all of them, newest first.
func (k *Keeper) List() []Operation {
	k.mu.Lock()
	out := make([]Operation, 0, len(k.all))
	for _, op := range k.all {
		out = append(out, *op)
	}
	k.mu.Unlock()
	slices.SortFunc(out, func(a, b Operation) int {
		return cmp.Or(b.CreateTime.Compare(a.CreateTime), strings.Compare(b.ID, a.ID))
	})
	return out
}

// Cancel asks for the end of an operation that has not ended, and returns when that is durable: what runs it, wherever that
// is, is told at once, and one that was not begun has ended. To cancel again changes nothing. ErrEnded where it succeeded or failed;
// ErrKept where its kind cannot be cancelled.
func (k *Keeper) Cancel(ctx context.Context, id string) (Operation, error) {
	for {
		op, err := k.Get(ctx, id)
		switch {
		case err != nil:
			return Operation{}, err
		case !limitOf(op.Kind).cancels:
			return op, ErrKept
		case op.State == Cancelled, op.Cancel && !op.State.Ended():
			return op, nil
		case op.State.Ended():
			return op, ErrEnded
		}
		op.Cancel, op.UpdateTime = true, k.now()
		if op.State == Pending {
			op.State, op.EndTime = Cancelled, op.UpdateTime
		}
		data, err := op.encode()
		if err != nil {
			return Operation{}, fmt.Errorf("operation: %w", err)
		}
		revision, err := k.bucket.Update(ctx, id, data, op.revision)
		if errors.Is(err, journal.ErrRevision) {
			continue // its runner saved meanwhile
		} else if err != nil {
			return Operation{}, fmt.Errorf("operation: cancel: %w", err)
		}
		op.revision = revision
		k.know(&op)
		return op, nil
	}
}

// Purge forgets the operations of a kind that ended before a time, and returns how many.
func (k *Keeper) Purge(ctx context.Context, kind Kind, before time.Time) (int, error) {
	n := 0
	for _, op := range k.List() {
		if op.Kind != kind || !op.State.Ended() || !op.EndTime.Before(before) {
			continue
		}
		if err := k.remove(ctx, &op); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
