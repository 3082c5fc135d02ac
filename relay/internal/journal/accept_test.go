package journal

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func entry(id, content string) Entry {
	return Entry{ID: id, Digest: sha256.Sum256([]byte(content)), Payload: []byte(content)}
}

func mustAccept(t *testing.T, j *Journal, id, content string) Receipt {
	t.Helper()
	r, err := j.Events(0).Accept(t.Context(), entry(id, content))
	if err != nil {
		t.Fatalf("accept %s: %v", id, err)
	}
	return r
}

func TestAcceptRepeatGetsFirstAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	first := mustAccept(t, j, "acme.1", "one")
	if first.Duplicate || first.Seq != 1 || time.Since(first.Time) > time.Minute {
		t.Fatalf("first answer %+v", first)
	}
	check := func(j *Journal) {
		t.Helper()
		r := mustAccept(t, j, "acme.1", "one")
		if !r.Duplicate || r.Seq != first.Seq || !r.Time.Equal(first.Time) {
			t.Errorf("repeat got %+v, first was %+v", r, first)
		}
		if _, err := j.Events(0).Accept(t.Context(), entry("acme.1", "other")); !errors.Is(err, ErrConflict) {
			t.Errorf("other content: %v, want ErrConflict", err)
		}
	}
	check(j)
	if r := mustAccept(t, j, "globex.1", "one"); r.Duplicate || r.Seq != 2 {
		t.Errorf("other id with the same content: %+v", r)
	}
	shut(t, j)
	check(open(t, Options{Dir: dir}))
}

func TestAcceptRacingRepeats(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	const callers, ids = 32, 20
	var mu sync.Mutex
	fresh, seqs := map[string]int{}, map[string]uint64{}
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range ids {
				id := strconv.Itoa(i)
				r, err := j.Events(0).Accept(t.Context(), entry(id, "content of "+id))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if !r.Duplicate {
					fresh[id]++
				}
				if was, ok := seqs[id]; ok && was != r.Seq {
					t.Errorf("id %s at %d and %d", id, was, r.Seq)
				}
				seqs[id] = r.Seq
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for i := range ids {
		if n := fresh[strconv.Itoa(i)]; n != 1 {
			t.Errorf("id %d accepted as new %d times", i, n)
		}
	}
	if st, err := j.Events(0).State(t.Context()); err != nil || st.Messages != ids {
		t.Errorf("log holds %+v, %v; want %d records", st, err, ids)
	}
}

// Entries of one group, refused ones among them.
func TestAcceptNeighboursAreIsolated(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir(), MaxEventBytes: 1 << 10})
	mustAccept(t, j, "taken", "first")
	tests := []struct {
		entry Entry
		err   error
		dup   bool
	}{
		{entry: entry("a", "a")},
		{entry: entry("big", strings.Repeat("x", 1<<10+1)), err: ErrTooLarge},
		{entry: entry("b", "b")},
		{entry: entry("b", "b"), dup: true},
		{entry: entry("b", "not b"), err: ErrConflict},
		{entry: entry("taken", "second"), err: ErrConflict},
		{entry: entry("taken", "first"), dup: true},
		{entry: entry("full", strings.Repeat("x", 1<<10))},
		{entry: entry("empty", "")},
		{entry: entry("z", "z")},
	}
	var es []Entry
	for _, tt := range tests {
		es = append(es, tt.entry)
	}
	for i, r := range j.Events(0).AcceptAll(t.Context(), es) {
		if !errors.Is(r.Err, tests[i].err) || r.Receipt.Duplicate != tests[i].dup {
			t.Errorf("%d %s: %+v, want error %v, duplicate %v", i, es[i].ID, r, tests[i].err, tests[i].dup)
		}
	}
}

func TestAcceptRefusesIDs(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	for _, id := range []string{"", " ", "a b", "a\r\nNats-Rollup: all", "a\x00", "\x7f", "ä", strings.Repeat("x", maxID+1)} {
		if r, err := j.Events(0).Accept(t.Context(), entry(id, "x")); err == nil {
			t.Errorf("id %q accepted: %+v", id, r)
		}
	}
	if st, err := j.Events(0).State(t.Context()); err != nil || st.Last != 0 {
		t.Errorf("log holds %+v, %v", st, err)
	}
}

// gate is a disk whose syncs wait while it is shut and fail when it is broken.
type gate struct {
	mu      sync.Mutex // held while shut
	waiting chan string
	broken  atomic.Bool
	syncs   atomic.Int64
}

var errDisk = errors.New("input/output error")

func (g *gate) fsync(f *os.File) error {
	if g.waiting != nil {
		select {
		case g.waiting <- f.Name():
		default:
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken.Load() {
		return errDisk
	}
	g.syncs.Add(1)
	return f.Sync()
}

// The answer comes after the sync, the record before it.
func TestAcceptAnswersAfterSync(t *testing.T) {
	t.Parallel()
	g := &gate{}
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Fsync: g.fsync})
	g.waiting = make(chan string, 100)
	g.mu.Lock()
	answered := make(chan error, 1)
	j.Events(0).AcceptAsync(entry("1", "the record's bytes"), func(_ Receipt, err error) { answered <- err })
	var block string
	select {
	case block = <-g.waiting:
	case err := <-answered:
		t.Fatalf("answered before any sync: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("no sync")
	}
	// The server acknowledged after write(2): what is synced holds the record.
	if data, err := os.ReadFile(block); err != nil || !strings.Contains(string(data), "the record's bytes") {
		t.Errorf("%s, about to be synced, does not hold the record (%v)", filepath.Base(block), err)
	}
	if _, err := j.Events(0).Get(t.Context(), 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a reader saw a record that is not durable: %v", err)
	}
	select {
	case err := <-answered:
		t.Fatalf("answered during the sync: %v", err)
	default:
	}
	before := g.syncs.Load()
	g.mu.Unlock()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if g.syncs.Load() == before {
		t.Error("answered without a sync")
	}
	if m, err := j.Events(0).Get(t.Context(), 1); err != nil || string(m.Payload) != "the record's bytes" {
		t.Errorf("after the answer: %v, %v", m, err)
	}
}

func TestAcceptBackPressure(t *testing.T) {
	t.Parallel()
	g := &gate{}
	j := open(t, Options{Dir: t.TempDir(), Fsync: g.fsync, MaxUncommittedBytes: 10_000})
	g.waiting = make(chan string, 1)
	g.mu.Lock()
	kept := make(chan error, 100)
	accept := func(i int) { // refusals are answered before AcceptAsync returns
		j.Events(0).AcceptAsync(entry(strconv.Itoa(i), strings.Repeat("x", 900)), func(_ Receipt, err error) { kept <- err })
	}
	for i := range 10 {
		accept(i)
	}
	<-g.waiting
	select {
	case err := <-kept:
		t.Fatalf("within the bound: %v", err)
	default:
	}
	accept(10)
	var busy *BusyError
	if err := <-kept; !errors.As(err, &busy) || !errors.Is(err, ErrBusy) || busy.RetryAfter <= 0 {
		t.Errorf("beyond the bound: %v", err)
	}
	g.mu.Unlock()
	for range 10 {
		if err := <-kept; err != nil {
			t.Errorf("kept event: %v", err)
		}
	}
	mustAccept(t, j, "10", "later")
}

func TestAcceptWaitsForTheReader(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir(), MaxUnread: 5})
	e := j.Events(0)
	for i := range 20 { // nobody reads in this process: no bound
		mustAccept(t, j, strconv.Itoa(i), "x")
	}
	e.Consumed(15, 0)
	if _, err := e.Accept(t.Context(), entry("20", "x")); !errors.Is(err, ErrBusy) {
		t.Errorf("with 5 unread: %v, want ErrBusy", err)
	}
	e.Consumed(16, 0)
	mustAccept(t, j, "20", "x")
	if _, err := e.Accept(t.Context(), entry("21", "x")); !errors.Is(err, ErrBusy) {
		t.Errorf("with 5 unread again: %v, want ErrBusy", err)
	}
}

func TestFailedSyncStopsTheJournal(t *testing.T) {
	t.Parallel()
	g := &gate{}
	j := open(t, Options{Dir: t.TempDir(), Fsync: g.fsync})
	mustAccept(t, j, "1", "one")
	b, err := j.Bucket(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	a, err := j.Outcomes(0).NewAppender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	g.broken.Store(true)
	if _, err := j.Events(0).Accept(t.Context(), entry("2", "two")); !errors.Is(err, ErrFailed) || !errors.Is(err, errDisk) {
		t.Fatalf("accept on a broken disk: %v", err)
	}
	<-j.Failed()
	if err := j.Err(); !errors.Is(err, ErrFailed) {
		t.Errorf("Err: %v", err)
	}
	g.broken.Store(false) // a sync that would succeed now proves nothing
	if _, err := j.Events(0).Accept(t.Context(), entry("3", "three")); !errors.Is(err, ErrFailed) {
		t.Errorf("accept afterwards: %v", err)
	}
	if _, err := j.Events(0).Accept(t.Context(), entry("2", "two")); !errors.Is(err, ErrFailed) {
		t.Errorf("repeat afterwards: %v", err)
	}
	if _, err := b.Put(t.Context(), "k", nil); !errors.Is(err, ErrFailed) {
		t.Errorf("put afterwards: %v", err)
	}
	if _, err := j.Audit().Append(t.Context(), []byte("x")); !errors.Is(err, ErrFailed) {
		t.Errorf("audit afterwards: %v", err)
	}
	if _, err := a.Append(t.Context(), []byte("x")); err == nil {
		if _, err = a.Sync(t.Context()); !errors.Is(err, ErrFailed) {
			t.Errorf("outcomes afterwards: %v", err)
		}
	}
	if _, err := j.Events(0).Get(t.Context(), 2); !errors.Is(err, ErrNotFound) {
		t.Errorf("a reader saw a record whose sync failed: %v", err)
	}
}

func TestAcceptFull(t *testing.T) {
	t.Parallel()
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		j := open(t, Options{Dir: t.TempDir(), EventsMaxBytes: 100_000})
		var kept int
		for i := range 200 {
			_, err := j.Events(0).Accept(t.Context(), entry(strconv.Itoa(i), strings.Repeat("x", 1000)))
			if errors.Is(err, ErrFull) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			kept++
		}
		st, err := j.Events(0).State(t.Context())
		if err != nil || kept < 50 || kept > 100 || st.Messages != uint64(kept) || st.First != 1 {
			t.Errorf("kept %d, log holds %+v, %v", kept, st, err)
		}
	})
	t.Run("disk", func(t *testing.T) {
		t.Parallel()
		j := open(t, Options{Dir: t.TempDir(), MinFreeDisk: 1 << 60})
		if _, err := j.Events(0).Accept(t.Context(), entry("1", "x")); !errors.Is(err, ErrFull) {
			t.Errorf("accept on a full disk: %v", err)
		}
	})
}

func TestAcceptAfterClose(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	var answered atomic.Int64
	for i := range 500 {
		j.Events(0).AcceptAsync(entry(strconv.Itoa(i), "x"), func(_ Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			answered.Add(1)
		})
	}
	shut(t, j)
	if n := answered.Load(); n != 500 {
		t.Errorf("%d of 500 answered when Close returned", n)
	}
	if _, err := j.Events(0).Accept(t.Context(), entry("late", "x")); !errors.Is(err, ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
}

// Close takes no longer than it may, whatever the disk does.
func TestCloseWithHangingDisk(t *testing.T) {
	t.Parallel()
	g := &gate{}
	j, err := Open(t.Context(), Options{Dir: t.TempDir(), Fsync: g.fsync})
	if err != nil {
		t.Fatal(err)
	}
	g.waiting = make(chan string, 1)
	g.mu.Lock()
	answered := make(chan error, 1)
	j.Events(0).AcceptAsync(entry("1", "x"), func(_ Receipt, err error) { answered <- err })
	<-g.waiting
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- j.Close(ctx) }()
	select {
	case err := <-closed:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Close waits for the disk")
	}
	g.mu.Unlock()
	if err := <-answered; err != nil {
		t.Errorf("synced after all: %v", err)
	}
	<-j.Events(0).stopped
	j.srv.WaitForShutdown()
}

// Any sequence of groups of ids and contents agrees with a map, over restarts.
func TestAcceptModel(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	j, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { shut(t, j) }()
	var run int
	var last uint64
	rapid.Check(t, func(rt *rapid.T) {
		run++
		type kept struct {
			content string
			r       Receipt
		}
		model := map[string]kept{}
		for range rapid.IntRange(1, 6).Draw(rt, "groups") {
			var es []Entry
			for range rapid.IntRange(1, 20).Draw(rt, "size") {
				es = append(es, entry(
					fmt.Sprint("run", run, ".id", rapid.IntRange(0, 15).Draw(rt, "id")),
					fmt.Sprint("content", rapid.IntRange(0, 2).Draw(rt, "content"))))
			}
			for i, got := range j.Events(0).AcceptAll(t.Context(), es) {
				e := es[i]
				was, repeat := model[e.ID]
				switch {
				case !repeat:
					last++
					if got.Err != nil || got.Receipt.Duplicate || got.Receipt.Seq != last {
						rt.Fatalf("new %s: %+v", e.ID, got)
					}
					model[e.ID] = kept{string(e.Payload), got.Receipt}
				case was.content != string(e.Payload):
					if !errors.Is(got.Err, ErrConflict) {
						rt.Fatalf("conflicting %s: %+v", e.ID, got)
					}
				default:
					if got.Err != nil || !got.Receipt.Duplicate || got.Receipt.Seq != was.r.Seq || !got.Receipt.Time.Equal(was.r.Time) {
						rt.Fatalf("repeated %s: %+v, first %+v", e.ID, got, was.r)
					}
				}
			}
			if rapid.IntRange(0, 40).Draw(rt, "reopen") == 0 {
				shut(t, j)
				if j, err = Open(t.Context(), o); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for id, k := range model {
			if m, err := j.Events(0).Get(t.Context(), k.r.Seq); err != nil || string(m.Payload) != k.content || !m.Time.Equal(k.r.Time) {
				rt.Fatalf("%s at %d: %+v, %v", id, k.r.Seq, m, err)
			}
		}
	})
}
