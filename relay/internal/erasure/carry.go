package erasure

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Carry puts a tombstone of a later time into a journal that was restored to an earlier one, as the later bucket holds it under
// a key. It is for the events that the restored journal has of the subject: last is the end of the tenant's EVENTS there, for
// what is accepted after it is new. Nothing of it counts as erased yet. It returns the tombstone, and false where the
// journal has one that says as much, or no event that it could speak of. The data must be of the same root of keys.
func Carry(ctx context.Context, b Bucket, key string, value []byte, last func(tenant string) (uint64, error)) (Tombstone, bool, error) {
	t, err := decode(key, value)
	if err != nil {
		return t, false, err
	}
	end, err := last(t.Tenant)
	if err != nil {
		return t, false, err
	}
	t.Seq, t.Erased, t.Operation = min(t.Seq, end), false, ""
	if t.Seq == 0 {
		return t, false, nil
	}
	set := &Set{bucket: b}
	had, err := set.Get(ctx, t.Tenant, t.Subject)
	switch {
	case errors.Is(err, journal.ErrNotFound):
	case err != nil:
		return t, false, err
	case had.Seq >= t.Seq:
		return had, false, nil
	}
	t.revision = had.revision
	if _, err := set.Put(ctx, t); err != nil {
		return t, false, fmt.Errorf("tombstone: %w", err)
	}
	return t, true, nil
}
