package erasure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// Owners reaches the owner of a tenant's partition; partition.Owners is one, and tells what each method promises.
type Owners interface {
	EndErased(ctx context.Context, operation, tenant string, revision uint64, events []relay.Event) error
	Retell(ctx context.Context, operation, tenant string, outcomes []relay.Outcome) error
	PassOutcomes(ctx context.Context, operation, tenant string, seq uint64) error
}

// View is the view's part in it; a relay.Ledger is one.
type View interface {
	Position(ctx context.Context, partition int) (uint64, error)
	Scrub(ctx context.Context, from, to time.Time) error
}

// Runner erases. Each step can be done again, and is where the process was killed before the cursor had passed it:
//
//  1. the tombstone, up to the end of EVENTS as it is then, and the owner that goes by it: nothing leaves from here on;
//  2. EVENTS from the cursor on, in rounds: some events of the subject; what is open of them is ended; what OUTCOMES has of them
//     that may be personal is told again without that, and the records that had it are erased (see strip); then the events are;
//  3. the tombstone says that it is done, and so does the audit log.
type Runner struct {
	Set     *Set
	Journal *journal.Journal
	Owners  Owners
	View    View
	// Record writes into the audit log what was done.
	Record func(ctx context.Context, op operation.Operation, subject Digest) error
	Now    func() time.Time
}

const (
	// round bounds the events that are dealt with at once, span those that are looked at for them.
	round = 256
	span  = 4096
	// atOnce bounds the events of one question to the owner, and of one syncing of the log.
	atOnce = 64
	// patience is how long the owner, or the view, may be silent before the operation rests.
	patience = time.Minute
)

// work is one run of an operation.
type work struct {
	*Runner
	job       *operation.Job
	id        string
	tenant    string
	partition int
	revision  uint64
	grave     Tombstone
	progress  operation.Progress
}

// Run is part of operation.Runner.
func (r *Runner) Run(ctx context.Context, job *operation.Job) error {
	op := job.Operation()
	subject, again, err := ParseBody(op.Request)
	if err != nil {
		return &operation.Failure{Reason: err.Error()}
	}
	at, err := decodeCursor(op.Cursor)
	if err != nil {
		return &operation.Failure{Reason: err.Error()}
	}
	w := &work{Runner: r, job: job, id: op.ID, tenant: op.Tenant, partition: r.Journal.Partition(op.Tenant), progress: op.Progress}
	if err := w.bury(ctx, subject, again); err != nil {
		return err
	}
	if err := w.endOpen(ctx, nil); err != nil {
		return err
	}
	if err := w.eraseEvents(ctx, uint64(at)); err != nil {
		return err
	}
	if err := w.close(ctx); err != nil {
		return err
	}
	if err := job.Save(ctx, w.progress, cursor(w.grave.Seq+1).encode()); err != nil {
		return err
	}
	return r.Record(ctx, job.Operation(), subject)
}

// bury sets the tombstone, unless an earlier run did. again leaves it where it is.
func (w *work) bury(ctx context.Context, subject Digest, again bool) error {
	was, err := w.Set.Get(ctx, w.tenant, subject)
	switch {
	case err == nil && was.Operation == w.id:
		w.grave, w.revision = was, was.revision
		return nil
	case err != nil && !errors.Is(err, journal.ErrNotFound) && !errors.Is(err, errRecord):
		return err
	}
	// What is not durable yet was not answered for either, and its sequence may yet become another event's.
	last := was.Seq
	if !again {
		if last, err = w.Journal.Events(w.partition).Synced(ctx); err != nil {
			return err
		}
	}
	w.grave = Tombstone{
		Tenant: w.tenant, Subject: subject, Seq: max(was.Seq, last), Time: w.Now().UTC(), Operation: w.id, revision: was.revision,
	}
	if w.revision, err = w.Set.Put(ctx, w.grave); err != nil {
		return fmt.Errorf("tombstone: %w", err)
	}
	w.grave.revision = w.revision
	return nil
}

// close notes that nothing is left, unless another operation has begun on the same subject.
func (w *work) close(ctx context.Context) error {
	if w.grave.Erased {
		return nil
	}
	w.grave.Erased = true
	if _, err := w.Set.Put(ctx, w.grave); err != nil && !errors.Is(err, journal.ErrRevision) {
		return fmt.Errorf("tombstone: %w", err)
	}
	return nil
}

// endOpen has the owner end what is open of some events.
func (w *work) endOpen(ctx context.Context, events []relay.Event) error {
	return w.persist(ctx, "the owner of the partition does not answer", func() error {
		return w.Owners.EndErased(ctx, w.id, w.tenant, w.revision, events)
	})
}

// persist asks until it is answered, or nobody has for patience. Callers are told what it waits for.
func (w *work) persist(ctx context.Context, why string, ask func() error) error {
	late := time.Now().Add(patience)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(late):
			return err
		}
		if wait > time.Second {
			if err := w.job.Waits(ctx, why); err != nil {
				return err
			}
		}
		if err := rest(ctx, wait); err != nil {
			return err
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// eraseEvents erases the subject's events from a sequence on.
func (w *work) eraseEvents(ctx context.Context, from uint64) error {
	st, err := w.Journal.Events(w.partition).State(ctx)
	if err != nil {
		return err
	}
	first := st.First
	for from = max(from, first, 1); from <= w.grave.Seq; {
		began := time.Now()
		found, next, err := w.search(ctx, from)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			if err := w.eraseFound(ctx, found); err != nil {
				return err
			}
		}
		from = next
		w.progress.Fraction = float64(from-first) / float64(w.grave.Seq-first+1)
		if err := w.job.Note(ctx, w.progress, cursor(from).encode()); err != nil {
			return err
		}
		if from <= w.grave.Seq {
			// Half of the time the log is left to those who deliver.
			if err := rest(ctx, min(time.Since(began), time.Second)); err != nil {
				return err
			}
		}
	}
	return nil
}

var errEnough = errors.New("enough")

// search returns the next events of the subject, without their data, and where to look for more.
func (w *work) search(ctx context.Context, from uint64) (found []relay.Event, next uint64, err error) {
	next = min(from+span-1, w.grave.Seq) + 1
	err = w.Journal.Events(w.partition).Range(ctx, from, next-1, func(m journal.Message) error {
		ev, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
		if err != nil {
			return err
		}
		w.progress.Examined++
		if ev.Tenant != w.tenant || w.Set.Digest(ev.Tenant, ev.Subject) != w.grave.Subject {
			return nil
		}
		ev.Data, ev.Subject = nil, ""
		if found = append(found, *ev); len(found) == round {
			next = m.Seq + 1
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, next, err
}

// eraseFound ends, strips and erases some events. Killed between two of these, the next run finds the events again that
// are left, and what is left to do of them.
func (w *work) eraseFound(ctx context.Context, events []relay.Event) error {
	for part := range chunks(events, atOnce) {
		if err := w.endOpen(ctx, part); err != nil {
			return err
		}
	}
	if err := w.strip(ctx, events); err != nil {
		return err
	}
	for part := range chunks(events, atOnce) {
		seqs := make([]uint64, len(part))
		for i := range part {
			seqs[i] = part[i].Seq
		}
		if err := w.Journal.Events(w.partition).SecureDelete(ctx, seqs...); err != nil {
			return err
		}
		w.progress.Done += int64(len(seqs))
	}
	return nil
}
