package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// row is a record as the bucket has it, or as a write of ours left it there. The value is never changed.
type row[T any] struct {
	value    *T
	revision uint64
}

// table is one kind of record by its key: a part of the bucket. Whoever holds it guards it.
type table[T any] struct {
	prefix string
	decode func(key string, data []byte) (*T, error)
	rows   map[string]row[T]
}

// fresh is an empty table of the same kind.
func (t *table[T]) fresh() table[T] { return table[T]{t.prefix, t.decode, map[string]row[T]{}} }

func (t *table[T]) get(key string) *T { return t.rows[key].value }

// take applies an item of the bucket. One that cannot be read is not known, so that what it is for is refused.
func (t *table[T]) take(item journal.Item, log *slog.Logger) {
	key, ok := strings.CutPrefix(item.Key, t.prefix)
	if !ok || t.rows[key].revision > item.Revision {
		return // another kind's, or older than a write of ours that the watch has yet to tell
	}
	delete(t.rows, key)
	if item.Deleted {
		return
	}
	value, err := t.decode(key, item.Value)
	if err != nil {
		log.Error("record of accounts cannot be used", "key", item.Key, "error", err)
		return
	}
	t.rows[key] = row[T]{value, item.Revision}
}

// keep takes over the writes of ours after a revision from the table that this one is to replace.
func (t *table[T]) keep(old *table[T], after uint64) {
	for key, r := range old.rows {
		if r.revision > after {
			t.rows[key] = r
		}
	}
}

// know takes a write of ours.
func (t *table[T]) know(key string, value *T, revision uint64) {
	if t.rows[key].revision < revision {
		t.rows[key] = row[T]{value, revision}
	}
}

// all are the values by their keys' order.
func (t *table[T]) all() []T {
	out := make([]T, 0, len(t.rows))
	for _, key := range slices.Sorted(maps.Keys(t.rows)) {
		out = append(out, *t.rows[key].value)
	}
	return out
}

// record is what a table's values are in the bucket.
type record[T any] interface {
	*T
	key() string
	encode() ([]byte, error)
}

// ErrNotFound is for an account, token or certificate that is not kept.
var ErrNotFound = errors.New("no such account or credential")

// ErrExists is for a name or a certificate that is taken.
var ErrExists = errors.New("is there already")

// create stores a new record and knows it at once.
func create[T any, P record[T]](ctx context.Context, k *Keeper, t *table[T], value P) error {
	data, err := value.encode()
	if err != nil {
		return err
	}
	revision, err := k.bucket.Create(ctx, t.prefix+value.key(), data)
	if errors.Is(err, journal.ErrRevision) {
		return ErrExists
	} else if err != nil {
		return fmt.Errorf("access: create %s%s: %w", t.prefix, value.key(), err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t.know(value.key(), value, revision)
	return nil
}

// change applies fn to a record as the bucket has it, until nobody else wrote meanwhile; where fn answers false it stays as it is.
func change[T any, P record[T]](ctx context.Context, k *Keeper, t *table[T], key string, fn func(P) bool) (T, error) {
	var none T
	for {
		item, err := k.bucket.Get(ctx, t.prefix+key)
		if errors.Is(err, journal.ErrNotFound) {
			return none, ErrNotFound
		} else if err != nil {
			return none, fmt.Errorf("access: change %s%s: %w", t.prefix, key, err)
		}
		value, err := t.decode(key, item.Value)
		if err != nil {
			return none, err
		}
		revision := item.Revision
		if fn(value) {
			data, err := P(value).encode()
			if err != nil {
				return none, err
			}
			revision, err = k.bucket.Update(ctx, t.prefix+key, data, item.Revision)
			if errors.Is(err, journal.ErrRevision) {
				continue
			} else if err != nil {
				return none, fmt.Errorf("access: change %s%s: %w", t.prefix, key, err)
			}
		}
		k.mu.Lock()
		t.know(key, value, revision)
		k.mu.Unlock()
		return *value, nil
	}
}
