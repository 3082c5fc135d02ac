package app

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/partition"
)

func (a *App) openErasures(ctx context.Context) error {
	bucket, err := a.journal.Bucket(ctx, erasure.BucketName)
	if err != nil {
		return err
	}
	if a.erasures, err = erasure.Open(ctx, bucket, a.keys, a.log); err != nil {
		return err
	}
	a.onClose("erasures", func(context.Context) error { a.erasures.Close(); return nil })
	return nil
}

// eraser is what runs erasures.
func (a *App) eraser() *erasure.Runner {
	return &erasure.Runner{
		Set: a.erasures, Journal: a.journal, Owners: partition.Owners{Journal: a.journal}, View: a.view, Now: a.o.Clock,
		Record: func(ctx context.Context, op operation.Operation, subject erasure.Digest) error {
			return a.audit.Append(ctx, audit.Record{
				Account: access.RelayAccount, Act: "event.erased", Object: subject.String(), Tenant: op.Tenant, Outcome: audit.Done,
				Detail: map[string]string{"operation": op.ID, "events": strconv.FormatInt(op.Progress.Done, 10)},
			})
		},
	}
}

// resumeErasures has the erasures begun again of which a journal holds events again, or may: it was restored from a copy.
func (a *App) resumeErasures(ctx context.Context) error {
	again, err := a.erasures.Reconcile(ctx, a.journal)
	if err != nil {
		return err
	}
	for _, t := range again {
		if op, err := a.operations.Get(ctx, t.Operation); err == nil && !op.State.Ended() {
			continue // under way
		} else if err != nil && !errors.Is(err, operation.ErrNotFound) {
			return err
		}
		_, err := a.operations.Create(ctx, operation.Request{
			Tenant: t.Tenant, Kind: operation.Erasure, Author: access.RelayAccount, Reason: "the journal was restored from a copy",
			Body: t.Body(), RequestID: t.Again(),
		})
		if err != nil && !errors.Is(err, operation.ErrTooMany) {
			return err
		}
		a.log.Info("the journal was restored: a subject is erased once more", "tenant", t.Tenant, "digest", t.Subject)
	}
	return nil
}

// forgetErasures takes away tombstones that nothing can be left of: neither in the logs nor in a copy of them.
func (a *App) forgetErasures(ctx context.Context) error {
	before := a.o.Clock().Add(-2*a.o.Retention.Age - a.o.Retention.Backups - 24*time.Hour)
	first := map[int]uint64{}
	for p := range a.journal.Partitions() {
		st, err := a.journal.Events(p).State(ctx)
		if err != nil {
			return err
		}
		first[p] = st.First
	}
	oldest := before
	_, err := a.erasures.Remove(ctx, func(t erasure.Tombstone) bool {
		if t.Time.Before(before) && t.Seq < first[a.journal.Partition(t.Tenant)] {
			return true
		}
		if t.Time.Before(oldest) {
			oldest = t.Time
		}
		return false
	})
	if err != nil {
		return err
	}
	// The operation is the record of what was done, and stays as long.
	_, err = a.operations.Purge(ctx, operation.Erasure, oldest)
	return err
}
