package erasure

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Copy takes the tombstones of one journal over into another, of which the first is a later state: the other was restored
// from a copy that was made before. Both must have the same root key. It returns how many there were. At its next start, a process on
// the second journal erases their subjects once more (see Reconcile); nothing of them leaves before.
func Copy(ctx context.Context, from, to *journal.Bucket) (int, error) {
	keys, err := from.Keys(ctx)
	if err != nil {
		return 0, fmt.Errorf("erasures: %w", err)
	}
	n := 0
	for _, key := range keys {
		item, err := from.Get(ctx, key)
		if err != nil {
			return n, fmt.Errorf("erasures: %w", err)
		}
		t, err := decode(key, item.Value)
		if err != nil {
			return n, err
		}
		t.Erased = false
		was, err := to.Get(ctx, key)
		switch {
		case err == nil:
			old, err := decode(key, was.Value)
			if err != nil {
				return n, err
			}
			t.Seq = max(t.Seq, old.Seq)
		case !errors.Is(err, journal.ErrNotFound):
			return n, fmt.Errorf("erasures: %w", err)
		}
		data, err := t.encode()
		if err != nil {
			return n, err
		}
		if _, err := to.Put(ctx, key, data); err != nil {
			return n, fmt.Errorf("erasures: %w", err)
		}
		n++
	}
	return n, nil
}

// Logs are the journal's, as far as it is asked for them here.
type Logs interface {
	Partition(tenant string) int
	Events(partition int) *journal.Events
}

// Reconcile holds the tombstones against the logs, before anything is accepted: one that speaks of sequences that its log has not reached is of a
// later state of it, and must not speak of what will come there. It returns those whose events are not known to be gone.
func (s *Set) Reconcile(ctx context.Context, logs Logs) (again []Tombstone, err error) {
	for t := range s.Snapshot().All() {
		st, err := logs.Events(logs.Partition(t.Tenant)).State(ctx)
		if err != nil {
			return nil, fmt.Errorf("erasures: %w", err)
		}
		if t.Seq > st.Last {
			t.Seq, t.Erased = st.Last, false
			if t.revision, err = s.Put(ctx, t); err != nil {
				return nil, fmt.Errorf("erasures: %w", err)
			}
		}
		if !t.Erased {
			again = append(again, t)
		}
	}
	return again, nil
}

// Again is the request id of the operation that erases once more what a tombstone speaks of, as it is now.
func (t *Tombstone) Again() string {
	return "again-" + t.Subject.String()[:32] + "-" + strconv.FormatUint(t.revision, 10)
}
