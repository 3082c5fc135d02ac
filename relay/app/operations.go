package app

import (
	"context"
	"sync"

	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/partition"
	"github.com/sealpost/sealpost/relay/internal/replay"
)

func (a *App) openOperations(ctx context.Context) error {
	bucket, err := a.journal.Bucket(ctx, operation.BucketName)
	if err != nil {
		return err
	}
	a.operations, err = operation.Open(ctx, bucket, operation.Options{
		Partition: a.journal.Partition, Now: a.o.Clock, Logger: a.log,
		Runners: map[operation.Kind]operation.Runner{
			operation.Erasure: a.eraser(),
			operation.Replay: replay.New(replay.Options{
				Journal: a.journal, Registry: a.registry, Ledger: a.view, Owner: partition.Owners{Journal: a.journal},
				Whole:     func(ctx context.Context, p int, upTo uint64) (uint64, error) { return a.projector[p].Whole(ctx, upTo) },
				Retention: a.o.Retention.Age, Now: a.o.Clock,
			}),
		},
	})
	if err != nil {
		return err
	}
	a.onClose("operations", func(context.Context) error { a.operations.Close(); return nil })
	return nil
}

// runPartition owns a partition, and runs its operations, until ctx ends or the partition does.
func (a *App) runPartition(ctx context.Context, o partition.Options) error {
	operating, end := context.WithCancel(ctx)
	var operations sync.WaitGroup
	defer operations.Wait()
	defer end()
	operations.Go(func() { a.operations.Run(operating, o.Partition) })
	return partition.Run(ctx, o)
}
