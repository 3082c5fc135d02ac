package operation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

func openBucket(t *testing.T) *journal.Bucket {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	b, err := j.Bucket(t.Context(), BucketName)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// runner is a Runner made of a function.
type runner func(context.Context, *Job) error

func (r runner) Run(ctx context.Context, j *Job) error { return r(ctx, j) }

func openKeeper(t *testing.T, b Bucket, run runner) *Keeper {
	t.Helper()
	o := Options{Partition: func(tenant string) int { return len(tenant) % 2 }, Runners: map[Kind]Runner{}}
	if run != nil {
		o.Runners[Replay], o.Runners[Erasure] = run, run
	}
	k, err := Open(t.Context(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// start runs a partition until the returned function is called, or the test ends.
func start(t *testing.T, k *Keeper, partition int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := k.Run(ctx, partition); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func create(t *testing.T, k *Keeper, r Request) Operation {
	t.Helper()
	op, err := k.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// await returns the operation once it is as wanted.
func await(t *testing.T, k *Keeper, id string, want func(Operation) bool) Operation {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		op, err := k.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if want(op) {
			return op
		}
		if time.Now().After(late) {
			t.Fatalf("still %s, %+v, %q", op.State, op.Progress, op.Error)
		}
	}
}

func ended(op Operation) bool { return op.State.Ended() }

var asked = Request{Tenant: "acme", Kind: Replay, Author: "ops", Reason: "partner was down", Body: []byte("what")}

func TestCreateIsRepeatable(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	k, other := openKeeper(t, b, nil), openKeeper(t, b, nil)
	r := asked
	r.RequestID = "req-1"
	ids := make(chan string, 8)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			op, err := []*Keeper{k, other}[i%2].Create(t.Context(), r)
			if err != nil {
				t.Error(err)
			}
			ids <- op.ID
		})
	}
	group.Wait()
	first := <-ids
	for range 7 {
		if id := <-ids; id != first {
			t.Errorf("one request id made %s and %s", first, id)
		}
	}
	if n := len(k.List()); n != 1 || !ValidID(first) {
		t.Errorf("%d operations, %q", n, first)
	}
	for name, change := range map[string]func(*Request){
		"body":   func(r *Request) { r.Body = []byte("other") },
		"reason": func(r *Request) { r.Reason = "other" },
		"digest": func(r *Request) { r.Digest = sha256.Sum256([]byte("x")) },
	} {
		again := r
		change(&again)
		if _, err := other.Create(t.Context(), again); !errors.Is(err, ErrExists) {
			t.Errorf("the same id with another %s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Request){
		"tenant":     func(r *Request) { r.Tenant = "globex" },
		"author":     func(r *Request) { r.Author = "other" },
		"kind":       func(r *Request) { r.Kind = Erasure },
		"request id": func(r *Request) { r.RequestID = "" },
	} {
		again := r
		change(&again)
		if op := create(t, k, again); op.ID == first {
			t.Errorf("another %s got the first one's operation", name)
		}
	}
	for name, change := range map[string]func(*Request){
		"no tenant":      func(r *Request) { r.Tenant = "" },
		"no author":      func(r *Request) { r.Author = "" },
		"no kind":        func(r *Request) { r.Kind = "" },
		"long reason":    func(r *Request) { r.Reason = strings.Repeat("x", MaxReason+1) },
		"long body":      func(r *Request) { r.Body = make([]byte, MaxBody+1) },
		"long requestId": func(r *Request) { r.RequestID = strings.Repeat("x", MaxRequestID+1) },
	} {
		wrong := asked
		change(&wrong)
		if _, err := k.Create(t.Context(), wrong); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := k.Get(t.Context(), "op_"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of no id: %v", err)
	}
}

func TestRunsToItsEnd(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	tries := 0
	k := openKeeper(t, b, func(ctx context.Context, j *Job) error {
		switch string(j.Operation().Request) {
		case "fail":
			return fmt.Errorf("so: %w", &Failure{"the endpoint is gone"})
		case "panic":
			panic("poison")
		case "again":
			if tries++; tries == 1 {
				return errors.New("not now")
			}
		}
		if err := j.Waits(ctx, "for the view"); err != nil {
			return err
		}
		if got, _ := j.keeper.Get(ctx, j.op.ID); got.Error != "for the view" || got.State != Running {
			return &Failure{"what it waits for is not shown"}
		}
		if err := j.Save(ctx, Progress{Examined: 3, Done: 1, Skipped: 2, Fraction: .5}, []byte("half")); err != nil {
			return err
		}
		if got, _ := j.keeper.Get(ctx, j.op.ID); got.Error != "" || string(got.Cursor) != "half" || got.Progress.Examined != 3 {
			return &Failure{"what was saved is not shown"}
		}
		return j.Note(ctx, Progress{Examined: 5, Done: 3, Skipped: 2, Fraction: .9}, []byte("most"))
	})
	start(t, k, 0)
	for _, c := range []struct {
		body  string
		state State
		error string
	}{
		{"", Succeeded, ""}, {"again", Succeeded, ""}, {"fail", Failed, "the endpoint is gone"},
		{"panic", Failed, "a step of it failed in a way nobody foresaw: see the log"},
	} {
		r := asked
		r.Body = []byte(c.body)
		made := create(t, k, r)
		op := await(t, k, made.ID, ended)
		if op.State != c.state || op.Error != c.error || op.EndTime.Before(op.CreateTime) || op.Author != "ops" || op.Reason != asked.Reason {
			t.Errorf("%q: %+v", c.body, op)
		}
		if want := (Progress{5, 3, 2, 1}); c.state == Succeeded && op.Progress != want {
			t.Errorf("%q: progress %+v", c.body, op.Progress)
		}
	}
	// Another partition's is not run here.
	r := asked
	r.Tenant = "globe"
	away := create(t, k, r)
	create(t, k, asked)
	for _, op := range k.List() {
		if op.Tenant == "acme" {
			await(t, k, op.ID, ended)
		}
	}
	if op, err := k.Get(t.Context(), away.ID); err != nil || op.State != Pending {
		t.Errorf("the other partition's: %+v, %v", op, err)
	}
}

// TestGoesOn: what runs stops with its partition, and goes on from its cursor with the next owner, in another process too.
func TestGoesOn(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	reached := make(chan struct{})
	first := openKeeper(t, b, func(ctx context.Context, j *Job) error {
		if err := j.Save(ctx, Progress{Done: 1}, []byte("one")); err != nil {
			return err
		}
		if err := j.Note(ctx, Progress{Done: 2}, []byte("two")); err != nil {
			return err
		}
		close(reached)
		<-ctx.Done()
		return ctx.Err()
	})
	stop := start(t, first, 0)
	op := create(t, first, asked)
	<-reached
	stop()
	if got, err := first.Get(t.Context(), op.ID); err != nil || got.State != Running || string(got.Cursor) != "two" {
		t.Fatalf("after the stop: %+v, %v", got, err)
	}
	second := openKeeper(t, b, func(ctx context.Context, j *Job) error {
		if got := j.Operation(); string(got.Cursor) != "two" || got.Progress.Done != 2 {
			return &Failure{"it began anew"}
		}
		return nil
	})
	start(t, second, 0)
	if got := await(t, second, op.ID, ended); got.State != Succeeded || got.Progress.Done != 2 {
		t.Errorf("%+v", got)
	}
}

// TestOvertaken: of two that take themselves for the owner, the one that took it up first stops at its next saving.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	type end struct{ saved, cause error }
	stalled, over, ended1 := make(chan struct{}), make(chan struct{}), make(chan end, 1)
	first := openKeeper(t, deaf{b}, func(ctx context.Context, j *Job) error {
		close(stalled)
		<-over
		err := j.Save(ctx, Progress{Done: 1}, []byte("stale"))
		ended1 <- end{err, context.Cause(ctx)}
		return err
	})
	start(t, first, 0)
	op := create(t, first, asked)
	<-stalled
	second := openKeeper(t, b, func(ctx context.Context, j *Job) error {
		if err := j.Save(ctx, Progress{Done: 7}, []byte("new")); err != nil {
			return err
		}
		close(over)
		if e := <-ended1; e.saved != errLost || e.cause != errLost {
			return &Failure{fmt.Sprintf("the one that was overtaken went on: %v, %v", e.saved, e.cause)}
		}
		return j.Save(ctx, Progress{Done: 8}, []byte("newer"))
	})
	start(t, second, 0)
	if got := await(t, second, op.ID, ended); got.State != Succeeded || got.Progress.Done != 8 {
		t.Errorf("%+v", got)
	}
}

// deaf is a bucket whose changes are heard once, at the start.
type deaf struct{ *journal.Bucket }

func (d deaf) Watch(ctx context.Context, fn func(journal.Item) error) error {
	heard := false
	return d.Bucket.Watch(ctx, func(item journal.Item) error {
		if heard {
			return nil
		}
		heard = item.Key == ""
		return fn(item)
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	running := make(chan struct{}, 2)
	work := func(ctx context.Context, j *Job) error {
		if err := j.Save(ctx, Progress{Done: 1}, []byte("one")); err != nil {
			return err
		}
		if err := j.Note(ctx, Progress{Done: 2}, []byte("two")); err != nil {
			return err
		}
		running <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	k, other := openKeeper(t, b, work), openKeeper(t, b, work)

	pending := create(t, k, asked)
	for range 2 {
		if op, err := other.Cancel(t.Context(), pending.ID); err != nil || op.State != Cancelled || op.EndTime.IsZero() {
			t.Errorf("cancel of one that was not begun: %+v, %v", op, err)
		}
	}
	start(t, k, 0)
	op := create(t, k, asked)
	<-running
	began := time.Now()
	if _, err := other.Cancel(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	got := await(t, other, op.ID, ended)
	if took := time.Since(began); got.State != Cancelled || got.Progress.Done != 2 || took > 5*time.Second {
		t.Errorf("after %v: %+v", took, got)
	}

	// One that hears of nothing finds out by its next saving.
	saving := make(chan error, 1)
	step := make(chan struct{})
	dumb := openKeeper(t, deaf{b}, func(ctx context.Context, j *Job) error {
		running <- struct{}{}
		<-step
		err := j.Save(ctx, Progress{Done: 3}, nil)
		saving <- err
		return err
	})
	r := asked
	r.Tenant = "globe"
	start(t, dumb, 1)
	op = create(t, dumb, r)
	<-running
	if _, err := other.Cancel(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	close(step)
	if err := <-saving; err != errCancelled {
		t.Errorf("saved after the cancelling: %v", err)
	}
	if got := await(t, other, op.ID, ended); got.State != Cancelled || got.Progress.Done != 3 {
		t.Errorf("%+v", got)
	}

	if _, err := k.Cancel(t.Context(), newID(&asked)); !errors.Is(err, ErrNotFound) {
		t.Errorf("cancel of none: %v", err)
	}
	r.Kind = Erasure
	if _, err := k.Cancel(t.Context(), create(t, k, r).ID); !errors.Is(err, ErrKept) {
		t.Errorf("cancel of an erasure: %v", err)
	}
}

func TestCancelAfterTheEnd(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), func(context.Context, *Job) error { return nil })
	start(t, k, 0)
	op := create(t, k, asked)
	await(t, k, op.ID, ended)
	if got, err := k.Cancel(t.Context(), op.ID); !errors.Is(err, ErrEnded) || got.State != Succeeded {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	entered, leave := make(chan string), make(chan struct{})
	k := openKeeper(t, b, func(ctx context.Context, j *Job) error {
		select {
		case entered <- j.Operation().Tenant:
		case <-leave:
		}
		select {
		case <-leave:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	limit := limitOf(Replay)
	for range limit.open {
		create(t, k, asked)
	}
	if _, err := k.Create(t.Context(), asked); !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
	r := asked
	r.Tenant = "globex" // of the same partition
	create(t, k, r)
	start(t, k, 0)
	tenants := map[string]int{}
	for range limit.perTenant + 1 {
		tenants[<-entered]++
	}
	if tenants["acme"] != limit.perTenant || tenants["globex"] != 1 {
		t.Errorf("at once: %v", tenants)
	}
	close(leave)
	for _, op := range k.List() {
		await(t, k, op.ID, ended)
	}
	// Ended ones make room, the oldest first.
	oldest := k.List()
	for range limit.kept {
		await(t, k, create(t, k, asked).ID, ended)
	}
	kept := 0
	for _, op := range k.List() {
		if op.Tenant == "acme" {
			kept++
		}
	}
	if _, err := k.Get(t.Context(), oldest[len(oldest)-1].ID); kept != limit.kept || !errors.Is(err, ErrNotFound) {
		t.Errorf("%d kept; the oldest: %v", kept, err)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	k, other := openKeeper(t, b, func(context.Context, *Job) error { return nil }), openKeeper(t, b, nil)
	r := asked
	r.Kind = Erasure
	erasure := create(t, k, r)
	r.Kind, r.Tenant = Replay, "globe" // of a partition that nobody owns
	open := create(t, k, r)
	start(t, k, 0)
	old := await(t, k, create(t, k, asked).ID, ended)
	await(t, k, erasure.ID, ended)
	if n, err := k.Purge(t.Context(), Replay, old.EndTime); n != 0 || err != nil {
		t.Errorf("purged %d, %v: none ended before", n, err)
	}
	if n, err := k.Purge(t.Context(), Replay, old.EndTime.Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	for id, want := range map[string]error{old.ID: ErrNotFound, erasure.ID: nil, open.ID: nil} {
		if _, err := k.Get(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("%s after the purge: %v", id, err)
		}
	}
	for late := time.Now().Add(10 * time.Second); len(other.List()) != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("another process still knows %d", len(other.List()))
		}
	}
}

// TestOneLine: however often an operation is taken up, by whichever of three owners that do not know of each other, what was saved
// is one line of steps: none is saved twice, none is left out.
func TestOneLine(t *testing.T) {
	t.Parallel()
	b := openBucket(t)
	rapid.Check(t, func(rt *rapid.T) {
		ctx := t.Context()
		k := &Keeper{bucket: b, options: Options{Partition: func(string) int { return 0 }}, now: time.Now, all: map[string]*Operation{}, jobs: map[string]*Job{}}
		op, err := k.Create(ctx, Request{Tenant: "acme", Kind: Erasure, Author: "x"})
		if err != nil {
			rt.Fatal(err)
		}
		type owner struct {
			job *Job
			at  uint64
		}
		var owners [3]*owner
		kept := uint64(0)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			i := rapid.IntRange(0, 2).Draw(rt, "owner")
			if o := owners[i]; o == nil || rapid.IntRange(0, 4).Draw(rt, "crash") == 0 {
				job := &Job{keeper: k, op: op, stop: func(error) {}}
				if err := job.begin(ctx); err != nil {
					rt.Fatal(err)
				}
				owners[i] = &owner{job: job}
				if c := job.Operation().Cursor; c != nil {
					owners[i].at = binary.BigEndian.Uint64(c)
				}
				if owners[i].at != kept {
					rt.Fatalf("taken up at %d, and saved was %d", owners[i].at, kept)
				}
				continue
			}
			o := owners[i]
			err := o.job.Save(ctx, Progress{Done: int64(o.at + 1)}, binary.BigEndian.AppendUint64(nil, o.at+1))
			switch {
			case err == nil && o.at != kept:
				rt.Fatalf("saved %d after %d", o.at+1, kept)
			case err == nil:
				o.at++
				kept++
			case err == errLost:
				owners[i] = nil
			default:
				rt.Fatal(err)
			}
		}
	})
}

// FuzzDecode: what is read is written and read again as the same value.
func FuzzDecode(f *testing.F) {
	op := Operation{ID: newID(&asked), Tenant: "acme", Kind: Replay, State: Running, CreateTime: time.Unix(1, 0), Progress: Progress{1, 2, 3, .5}, Cursor: []byte("c"), turn: 2}
	b, err := op.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Repeat([]byte{0x08, 0x01}, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := decode(b)
		if err != nil {
			return
		}
		again, err := first.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if second, err := decode(again); err != nil || !reflect.DeepEqual(first, second) {
			t.Fatalf("read %+v, then %+v, %v", first, second, err)
		}
	})
}
