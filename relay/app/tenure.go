package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/relay/internal/lease"
	"github.com/sealpost/sealpost/relay/internal/partition"
)

// openLeases makes what spreads the partitions over the relays of an external server. An embedded one has one process, which owns
// them all without a lease.
func (a *App) openLeases(ctx context.Context) error {
	if a.o.NATS.URL == "" {
		return nil
	}
	bucket, err := a.journal.Bucket(ctx, lease.BucketName)
	if err != nil {
		return err
	}
	// What owners elsewhere have routed bounds what is accepted here.
	routed := func(p int, seq uint64) {
		if !a.owned[p].Load() {
			a.journal.Events(p).Consumed(seq, 0)
		}
	}
	a.board = lease.NewBoard(bucket, a.journal.Partitions(), routed, a.log)
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.board.Run(following)
	}()
	a.onClose("leases", func(context.Context) error { stop(); <-done; return nil })
	return nil
}

// relay owns partitions until ctx ends: all of them, or this relay's share.
func (a *App) relay(ctx context.Context) error {
	metrics := partition.NewMetrics(a.metrics)
	if a.board == nil {
		group, ctx := errgroup.WithContext(ctx)
		for p := range a.journal.Partitions() {
			group.Go(func() error { return a.hold(ctx, p, partition.Tenure{}, metrics) })
		}
		return group.Wait()
	}
	return lease.NewHolder(lease.Options{
		Board: a.board, Name: a.name(), Life: a.o.LeaseLife, Logger: a.log,
		Own: func(ctx context.Context, p int, t lease.Tenure) error {
			return a.hold(ctx, p, partition.Tenure{Owner: t.Owner, Held: t.Held, Lost: t.Lost}, metrics)
		},
		Routed: func(p int) uint64 { return a.journal.Events(p).Routed() },
	}).Run(ctx)
}

// owners are those of all partitions, as far as this process knows.
func (a *App) owners() []lease.Owner {
	if a.board != nil {
		return a.board.Owners()
	}
	out := make([]lease.Owner, a.journal.Partitions())
	for p := range out {
		out[p].Partition = p
		if a.owned[p].Load() {
			out[p].Owner, out[p].Here = a.name(), true
		}
	}
	return out
}

// name tells people which process this is.
func (a *App) name() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + " " + a.o.GRPC
}

// hold owns a partition and keeps the view after it until ctx ends or the tenure is lost. Who owns it next finds the view left alone.
func (a *App) hold(ctx context.Context, p int, t partition.Tenure, metrics *partition.Metrics) error {
	projecting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var projector errgroup.Group
	projector.Go(func() error { return a.projector[p].Run(projecting) })
	if p == treePartition {
		projector.Go(func() error { return a.tree.Build(projecting) })
	}
	defer a.relays.begin(fmt.Sprintf("partition %d", p))()
	a.owned[p].Store(true)
	defer a.owned[p].Store(false)
	err := a.own(ctx, p, t, metrics)
	if lost(t) {
		err = nil
	} else {
		a.catchUp(projecting, p)
	}
	stop()
	return errors.Join(err, projector.Wait())
}

// treePartition is the one whose owner grows the audit log's tree: one process at a time.
const treePartition = 0

// catchUpWithin bounds how long the view is waited for before a partition is given up: what it lacks it gets from the next owner.
const catchUpWithin = 5 * time.Second

// catchUp waits until the view has all outcomes of a partition, or cannot be written.
func (a *App) catchUp(ctx context.Context, p int) {
	ctx, cancel := context.WithTimeout(ctx, min(catchUpWithin, a.o.StopGrace))
	defer cancel()
	upTo, err := a.journal.Outcomes(p).Synced(ctx)
	for projector := a.projector[p]; err == nil && projector.Position() < upTo && !projector.Failing() && ctx.Err() == nil; {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
