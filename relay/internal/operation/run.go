package operation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// saveEvery is how often what a runner notes is saved.
const saveEvery = 500 * time.Millisecond

// Why a job ends before its work is done.
var (
	errCancelled = errors.New("operation: cancelled")
	errLost      = errors.New("operation: another process runs it")
)

// Job is an operation in its runner's hands. It belongs to the goroutine of Run, but for hear.
type Job struct {
	keeper *Keeper
	op     Operation // as it was saved last, with what was noted since
	turn   uint64
	stop   context.CancelCauseFunc
	saved  time.Time // by this process's clock alone
}

// Operation is the operation, with its cursor, as it was saved last or noted since.
func (j *Job) Operation() Operation { return j.op }

// Save keeps how far the work has come, and returns when that is durable. An error is for Run to return.
func (j *Job) Save(ctx context.Context, p Progress, cursor []byte) error {
	j.op.Progress, j.op.Cursor, j.op.Error = p, cursor, ""
	return j.write(ctx)
}

// Note is Save, but for now and then: what was noted last is saved within half a second of the next note, or with the
// operation's end.
func (j *Job) Note(ctx context.Context, p Progress, cursor []byte) error {
	j.op.Progress, j.op.Cursor, j.op.Error = p, cursor, ""
	if time.Since(j.saved) < saveEvery {
		return context.Cause(ctx)
	}
	return j.write(ctx)
}

// Waits tells callers what keeps the work from going on now, until the next note. Saying the same again costs nothing.
func (j *Job) Waits(ctx context.Context, why string) error {
	if j.op.Error == why {
		return context.Cause(ctx)
	}
	j.op.Error = why
	return j.write(ctx)
}

// hear takes what the bucket tells of the operation. The keeper's mu is held.
func (j *Job) hear(op *Operation) {
	switch {
	case op.turn != j.turn:
		j.stop(errLost)
	case op.Cancel:
		j.stop(errCancelled)
	}
}

// write saves the operation if nobody else has changed it.
func (j *Job) write(ctx context.Context) error {
	j.op.UpdateTime = j.keeper.now()
	data, err := j.op.encode()
	if err != nil {
		return err
	}
	revision, err := j.keeper.bucket.Update(ctx, j.op.ID, data, j.op.revision)
	if errors.Is(err, journal.ErrRevision) {
		return j.overtaken(ctx)
	} else if err != nil {
		return fmt.Errorf("operation: save: %w", err)
	}
	j.op.revision, j.saved = revision, time.Now()
	known := j.op
	known.Cursor = bytes.Clone(known.Cursor)
	j.keeper.know(&known)
	return nil
}

// overtaken finds out who has changed the operation, and stops the work: a caller that cancelled it, or another runner.
func (j *Job) overtaken(ctx context.Context) error {
	now, err := j.keeper.Get(ctx, j.op.ID)
	switch {
	case errors.Is(err, ErrNotFound), err == nil && (now.turn != j.turn || now.State.Ended()):
		j.stop(errLost)
		return errLost
	case err != nil:
		return err
	}
	// What was noted is newer than what was saved.
	j.op.revision, j.op.Cancel = now.revision, now.Cancel
	if now.Cancel {
		j.stop(errCancelled)
		return errCancelled
	}
	return j.write(ctx)
}

// Run runs the operations of a partition, for as long as this process owns it: until ctx ends and all of them have stopped where
// they were. It returns nil.
func (k *Keeper) Run(ctx context.Context, partition int) error {
	r := &shift{keeper: k, partition: partition, ended: make(chan ending), running: map[string]Operation{}, again: map[string]pause{}}
	wake := k.subscribe(partition)
	defer k.unsubscribe(partition, wake)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(r.start(ctx))
		select {
		case <-wake:
		case <-timer.C:
		case e := <-r.ended:
			r.end(e)
		case <-ctx.Done():
			for len(r.running) > 0 {
				r.end(<-r.ended)
			}
			return nil
		}
	}
}

func (k *Keeper) subscribe(partition int) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	wake := make(chan struct{}, 1)
	k.wake[partition] = wake
	return wake
}

func (k *Keeper) unsubscribe(partition int, wake chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wake[partition] == wake {
		delete(k.wake, partition)
	}
}

// shift is one ownership of a partition: what of it runs here.
type shift struct {
	keeper    *Keeper
	partition int
	ended     chan ending
	running   map[string]Operation
	again     map[string]pause // what is not to be tried before a time
}

// ending is what came of one job.
type ending struct {
	id        string
	err       error // to be tried again
	far       bool  // it had got further
	lost      bool
	cancelled bool // it knew of its cancelling
}

// pause is how long an operation that could not go on rests. A cancelling that comes meanwhile ends it.
type pause struct {
	until     time.Time
	last      time.Duration
	cancelled bool
}

// How long an operation that could not go on rests, and one that another process has.
const (
	leastPause = time.Second
	mostPause  = time.Minute
	lostPause  = 5 * time.Second
	lookEvery  = 10 * time.Second
)

// start begins what may run and does not, and returns when to look again.
func (r *shift) start(ctx context.Context) time.Duration {
	k, now, look := r.keeper, time.Now(), lookEvery
	for _, op := range r.waiting() {
		if rest := r.again[op.ID]; rest.until.After(now) && op.Cancel == rest.cancelled {
			look = min(look, rest.until.Sub(now))
			continue
		}
		if !r.fits(op) && !op.Cancel {
			continue
		}
		r.running[op.ID] = op
		go func() { r.ended <- k.work(ctx, op) }()
	}
	return look
}

// waiting are the operations of the partition that have not ended and do not run here, oldest first.
func (r *shift) waiting() []Operation {
	k := r.keeper
	var out []Operation
	k.mu.Lock()
	maps.DeleteFunc(r.again, func(id string, _ pause) bool { return k.all[id] == nil || k.all[id].State.Ended() })
	for _, op := range k.all {
		if _, runs := r.running[op.ID]; !runs && !op.State.Ended() && k.options.Partition(op.Tenant) == r.partition && k.options.Runners[op.Kind] != nil {
			out = append(out, *op)
		}
	}
	k.mu.Unlock()
	slices.SortFunc(out, func(a, b Operation) int { return a.CreateTime.Compare(b.CreateTime) })
	return out
}

// fits tells whether one more of its kind may run.
func (r *shift) fits(op Operation) bool {
	limit, all, tenants := limitOf(op.Kind), 0, 0
	for _, o := range r.running {
		if o.Kind == op.Kind {
			all++
			if o.Tenant == op.Tenant {
				tenants++
			}
		}
	}
	return all < limit.atOnce && tenants < limit.perTenant
}

func (r *shift) end(e ending) {
	delete(r.running, e.id)
	switch last := r.again[e.id].last; {
	case e.lost:
		r.again[e.id] = pause{until: time.Now().Add(lostPause), cancelled: e.cancelled}
	case e.err == nil:
		delete(r.again, e.id)
	default:
		if e.far {
			last = 0
		}
		next := min(max(leastPause, 2*last), mostPause)
		r.again[e.id] = pause{until: time.Now().Add(next), last: next, cancelled: e.cancelled}
	}
}

// endWithin bounds the writing of an end, which does not stop with the partition.
const endWithin = 5 * time.Second

// work takes an operation up, has it run, and writes down what came of it.
func (k *Keeper) work(ctx context.Context, op Operation) ending {
	jctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	job := &Job{keeper: k, op: op, stop: stop}
	out := ending{id: op.ID}
	err := job.begin(jctx)
	if err == nil && !job.op.Cancel {
		k.attach(job)
		err = k.run(jctx, job)
		k.detach(job)
	}
	out.cancelled = job.op.Cancel
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
	defer cancel()
	cause := context.Cause(jctx)
	var failure *Failure
	switch {
	case errors.Is(err, errLost), errors.Is(cause, errLost):
		out.lost = true
		return out
	case err == nil && !job.op.Cancel:
		err = job.end(late, Succeeded, "")
	case job.op.Cancel, errors.Is(cause, errCancelled):
		err = job.end(late, Cancelled, "")
	case errors.As(err, &failure):
		k.log.Warn("operation failed", "operation", op.ID, "kind", op.Kind, "tenant", op.Tenant, "reason", failure.Reason)
		err = job.end(late, Failed, failure.Reason)
	case ctx.Err() != nil:
		job.write(late) // at best: the next owner goes on from what was saved
		return out
	default:
		k.log.Warn("operation cannot go on, will try again", "operation", op.ID, "kind", op.Kind, "tenant", op.Tenant, "error", err)
		out.far = !bytes.Equal(op.Cursor, job.op.Cursor)
		job.op.Error = "it cannot go on for a fault of ours, and is tried again"
		job.write(late)
		out.err = err
		return out
	}
	if err != nil && !errors.Is(err, errLost) {
		k.log.Warn("the end of an operation is not saved, will try again", "operation", op.ID, "error", err)
		out.err = err
	}
	return out
}

// begin takes the operation up: from here on the savings of whoever ran it before fail.
func (j *Job) begin(ctx context.Context) error {
	for {
		now, err := j.keeper.Get(ctx, j.op.ID)
		if errors.Is(err, ErrNotFound) || err == nil && now.State.Ended() {
			return errLost
		} else if err != nil {
			return err
		}
		j.op, j.turn = now, now.turn+1
		j.op.turn, j.op.State = j.turn, Running
		data, err := j.op.encode()
		if err != nil {
			return err
		}
		j.op.revision, err = j.keeper.bucket.Update(ctx, j.op.ID, data, now.revision)
		if errors.Is(err, journal.ErrRevision) {
			continue // cancelled meanwhile, or taken up by another process
		} else if err != nil {
			return fmt.Errorf("operation: begin: %w", err)
		}
		known := j.op
		j.keeper.know(&known)
		return nil
	}
}

// end writes the operation's end, whatever else was asked for meanwhile: what is done is done.
func (j *Job) end(ctx context.Context, state State, reason string) error {
	for {
		j.op.State, j.op.Error, j.op.EndTime, j.op.Cursor = state, reason, j.keeper.now(), nil
		if state == Succeeded {
			j.op.Progress.Fraction = 1
		}
		err := j.write(ctx)
		if !errors.Is(err, errCancelled) {
			return err
		}
	}
}

func (k *Keeper) attach(j *Job) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.jobs[j.op.ID] = j
	if have := k.all[j.op.ID]; have != nil {
		j.hear(have)
	}
}

func (k *Keeper) detach(j *Job) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.jobs[j.op.ID] == j {
		delete(k.jobs, j.op.ID)
	}
}

// run is the runner's turn. A panic in it ends the operation and nothing else.
func (k *Keeper) run(ctx context.Context, j *Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("an operation panicked", "operation", j.op.ID, "kind", j.op.Kind, "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = &Failure{"a step of it failed in a way nobody foresaw: see the log"}
		}
	}()
	return k.options.Runners[j.op.Kind].Run(ctx, j)
}
