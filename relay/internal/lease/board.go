package lease

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Bucket is the journal's, as far as it is used here.
type Bucket interface {
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Get(ctx context.Context, key string) (journal.Item, error)
	Watch(ctx context.Context, fn func(journal.Item) error) error
	Forget(ctx context.Context, olderThan time.Duration) error
}

// Board tells who holds what, in a process that holds nothing itself and in one that does.
type Board struct {
	bucket Bucket
	log    *slog.Logger
	routed func(p int, seq uint64)

	mu     sync.Mutex // guards the rest
	table  *table
	me     string // this process's session, if it has one
	change chan struct{}
}

// NewBoard makes a board of so many partitions; Run fills it. routed, where it is not nil, is called with how far
// a partition's owner has routed its events, as it says so.
func NewBoard(b Bucket, partitions int, routed func(p int, seq uint64), log *slog.Logger) *Board {
	return &Board{bucket: b, log: log, routed: routed, table: newTable(partitions, time.Now()), change: make(chan struct{}, 1)}
}

// Run follows the bucket until ctx ends.
func (b *Board) Run(ctx context.Context) {
	const least, most = 50 * time.Millisecond, time.Second
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		there, whole := map[string]bool{}, false
		err := b.bucket.Watch(ctx, func(item journal.Item) error {
			switch {
			case item.Key == "":
				whole, wait = true, least
				b.with(func(now time.Time) { b.table.keepOnly(there, now) })
				return nil
			case !whole && !item.Deleted:
				if id, ok := strings.CutPrefix(item.Key, relayKey); ok {
					there[id] = true
				}
			}
			b.take(item)
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		b.log.Warn("leases are not heard", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (b *Board) take(item journal.Item) {
	b.with(func(now time.Time) {
		if err := b.table.apply(item, now); err != nil {
			b.log.Error("a lease record cannot be read", "key", item.Key, "error", err)
		}
		id, ok := strings.CutPrefix(item.Key, relayKey)
		if s := b.table.sessions[id]; ok && s != nil && s.revision == item.Revision && b.routed != nil {
			for p, seq := range s.Routed {
				if p >= 0 && p < len(b.table.partitions) && b.table.partitions[p].holder == id {
					b.routed(p, seq)
				}
			}
		}
	})
}

// with does something to the table and wakes who waits for a change.
func (b *Board) with(do func(now time.Time)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do(time.Now())
	select {
	case b.change <- struct{}{}:
	default:
	}
}

// Owners are those of all partitions, as far as is known here.
func (b *Board) Owners() []Owner {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.table.owners(b.me, time.Now())
}
