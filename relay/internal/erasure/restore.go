package erasure

import (
	"context"
	"fmt"
	"strconv"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

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
