package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/sealpost/sealpost/relay/internal/archive"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
)

// graves takes the tombstones of an archive, and nothing else.
type graves map[string][]byte

func (graves) Header(archive.Header) error { return nil }
func (graves) File(string, []byte) error   { return nil }
func (graves) Section(string) error        { return nil }
func (g graves) Record(section string, r archive.Record) error {
	switch {
	case section != sectionBucket+erasure.BucketName:
	case r.Deleted:
		delete(g, r.ID)
	default:
		g[r.ID] = r.Value
	}
	return nil
}

// carryErasures has what was erased since a backup erased in what is restored of it: by the tombstones of a later backup. They are in force
// before anything is sent, and the first start begins to erase.
func carryErasures(ctx context.Context, from io.Reader, j *journal.Journal, log *slog.Logger) (n int, err error) {
	found := graves{}
	if err := archive.Read(from, found); err != nil {
		return 0, err
	}
	tombstones, err := j.Bucket(ctx, erasure.BucketName)
	if err != nil {
		return 0, err
	}
	bucket, err := j.Bucket(ctx, operation.BucketName)
	if err != nil {
		return 0, err
	}
	operations, err := operation.Open(ctx, bucket, operation.Options{Partition: j.Partition, Logger: log})
	if err != nil {
		return 0, err
	}
	defer operations.Close()
	for key, value := range found {
		t, carried, err := erasure.Carry(ctx, tombstones, key, value, func(tenant string) (uint64, error) {
			return j.Events(j.Partition(tenant)).Synced(ctx)
		})
		if err != nil {
			return n, err
		}
		if !carried {
			continue
		}
		_, err = operations.Create(ctx, operation.Request{
			Tenant: t.Tenant, Kind: operation.Erasure, Author: "relay", Reason: "erased before the backup was restored", Body: t.Subject.Body(),
		})
		if err != nil {
			return n, fmt.Errorf("erasure of a subject of %s: %w", t.Tenant, err)
		}
		n++
	}
	return n, nil
}
