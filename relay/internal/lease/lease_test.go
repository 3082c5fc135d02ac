package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/journal"
)

// bucket is a linear map with revisions, for several processes.
type bucket struct {
	mu       sync.Mutex
	revision uint64
	items    map[string]journal.Item
	history  []journal.Item
	more     chan struct{} // closed with each write
}

func newBucket() *bucket { return &bucket{items: map[string]journal.Item{}, more: make(chan struct{})} }

// reach is one process's way to the bucket, which can be cut, and can lose answers.
type reach struct {
	*bucket
	mu     sync.Mutex
	down   bool
	silent bool // writes are made and not answered
}

var errDown = fmt.Errorf("%w: cut", journal.ErrUnavailable)

func (r *reach) set(down, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down, r.silent = down, silent
}

func (r *reach) is() (down, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down, r.silent
}

func (r *reach) write(ctx context.Context, key string, value []byte, deleted bool, fits func(journal.Item, bool) bool) (uint64, error) {
	time.Sleep(time.Millisecond)
	down, silent := r.is()
	if down {
		<-ctx.Done()
		return 0, errDown
	}
	b := r.bucket
	b.mu.Lock()
	defer b.mu.Unlock()
	item, ok := b.items[key]
	if !fits(item, ok && !item.Deleted) {
		return 0, journal.ErrRevision
	}
	b.revision++
	item = journal.Item{Key: key, Value: value, Revision: b.revision, Deleted: deleted}
	b.items[key] = item
	b.history = append(b.history, item)
	close(b.more)
	b.more = make(chan struct{})
	if silent {
		return 0, errDown
	}
	return b.revision, nil
}

func (r *reach) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return r.write(ctx, key, value, false, func(_ journal.Item, there bool) bool { return !there })
}

func (r *reach) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return r.write(ctx, key, value, false, func(i journal.Item, _ bool) bool { return i.Revision == revision })
}

func (r *reach) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := r.write(ctx, key, nil, true, func(i journal.Item, _ bool) bool { return i.Revision == revision })
	return err
}

func (r *reach) Get(ctx context.Context, key string) (journal.Item, error) {
	if down, _ := r.is(); down {
		<-ctx.Done()
		return journal.Item{}, errDown
	}
	r.bucket.mu.Lock()
	defer r.bucket.mu.Unlock()
	item, ok := r.items[key]
	if !ok || item.Deleted {
		return journal.Item{}, journal.ErrNotFound
	}
	return item, nil
}

func (r *reach) Forget(context.Context, time.Duration) error { return nil }

func (r *reach) Watch(ctx context.Context, fn func(journal.Item) error) error {
	if down, _ := r.is(); down {
		return errDown
	}
	b := r.bucket
	b.mu.Lock()
	at := len(b.history)
	for _, item := range b.items {
		if err := fn(item); err != nil {
			b.mu.Unlock()
			return err
		}
	}
	b.mu.Unlock()
	if err := fn(journal.Item{}); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if down, _ := r.is(); down {
			return errDown
		}
		b.mu.Lock()
		news, more := b.history[at:], b.more
		at = len(b.history)
		b.mu.Unlock()
		for _, item := range news {
			if err := fn(item); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// world is some relays over one bucket. It fails the moment two of them hold one partition.
type world struct {
	t          testing.TB
	bucket     *bucket
	partitions int
	life       time.Duration

	mu     sync.Mutex
	held   map[int]map[string]Tenure // by partition and relay
	relays map[string]*process
	all    []*process // that were ever started
}

type process struct {
	reach *reach
	stop  context.CancelFunc
	done  chan struct{}
	board *Board
}

func newTestWorld(t testing.TB, partitions int) *world {
	w := &world{t: t, bucket: newBucket(), partitions: partitions, life: 5 * time.Second, held: map[int]map[string]Tenure{}, relays: map[string]*process{}}
	t.Cleanup(func() {
		for _, p := range w.all {
			p.stop()
		}
		for _, p := range w.all {
			<-p.done
		}
	})
	return w
}

func (w *world) start(name string) {
	ctx, stop := context.WithCancel(context.Background())
	p := &process{reach: &reach{bucket: w.bucket}, stop: stop, done: make(chan struct{})}
	w.relays[name] = p
	w.all = append(w.all, p)
	log := slog.New(slog.DiscardHandler)
	p.board = NewBoard(p.reach, w.partitions, nil, log)
	h := NewHolder(Options{Board: p.board, Name: name, Life: w.life, Logger: log, Routed: func(int) uint64 { return 7 },
		Own: func(ctx context.Context, part int, t Tenure) error {
			w.note(part, name, &t)
			select {
			case <-ctx.Done():
				time.Sleep(50 * time.Millisecond) // what is in flight ends
			case <-t.Lost:
			}
			w.note(part, name, nil)
			return nil
		}})
	following, unfollow := context.WithCancel(context.Background())
	followed := make(chan struct{})
	go func() { defer close(followed); p.board.Run(following) }()
	go func() {
		defer close(p.done)
		h.Run(ctx)
		unfollow()
		<-followed
	}()
}

func (w *world) note(part int, name string, t *Tenure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[part] == nil {
		w.held[part] = map[string]Tenure{}
	}
	if t == nil {
		delete(w.held[part], name)
	} else {
		w.held[part][name] = *t
	}
}

// look fails where two hold one partition.
func (w *world) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, by := range w.held {
		n := 0
		for _, t := range by {
			if t.Held() {
				n++
			}
		}
		if n > 1 {
			w.t.Fatalf("partition %d is held by %d relays at once", p, n)
		}
	}
}

// pass lets time pass, looking all the while.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		w.look()
	}
}

// shares are how many partitions each relay holds now, sorted.
func (w *world) shares() (out []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[string]int{}
	for name := range w.relays {
		n[name] = 0
	}
	for _, by := range w.held {
		for name, t := range by {
			if t.Held() {
				n[name]++
			}
		}
	}
	for _, k := range n {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (w *world) even() {
	w.t.Helper()
	shares, sum := w.shares(), 0
	for _, n := range shares {
		sum += n
	}
	if sum != w.partitions || len(shares) > 0 && shares[len(shares)-1]-shares[0] > 1 {
		w.t.Fatalf("%d partitions are spread as %v", w.partitions, shares)
	}
}

// crash is what kill -9 leaves: nothing is written any more, and what it ran is gone.
func (w *world) crash(name string) {
	p := w.relays[name]
	p.reach.set(true, false)
	p.stop()
	w.mu.Lock()
	for _, by := range w.held {
		delete(by, name)
	}
	w.mu.Unlock()
	delete(w.relays, name)
}

func (w *world) leave(name string) {
	p := w.relays[name]
	p.stop()
	<-p.done
	delete(w.relays, name)
}

func TestSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorld(t, 8)
		w.start("a")
		w.pass(time.Second)
		w.even()
		w.start("b")
		w.start("c")
		w.pass(3 * time.Second)
		w.even()
		owners := w.relays["a"].board.Owners()
		if len(owners) != 8 || slices.ContainsFunc(owners, func(o Owner) bool { return o.Owner == "" }) {
			t.Errorf("owners %v", owners)
		}
		// Who leaves is not waited for.
		w.leave("a")
		w.pass(200 * time.Millisecond)
		w.even()
		w.leave("c")
		w.pass(200 * time.Millisecond)
		w.even()
	})
}

// After a crash the others take over within a life and a second.
func TestCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorld(t, 6)
		for _, name := range []string{"a", "b", "c"} {
			w.start(name)
		}
		w.pass(3 * time.Second)
		w.even()
		w.crash("b")
		w.pass(w.life + time.Second)
		w.even()
	})
}

// A relay that cannot reach the bucket stops before its life ends, and takes part again when it can.
func TestCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorld(t, 6)
		w.start("a")
		w.start("b")
		w.pass(2 * time.Second)
		w.even()
		w.relays["a"].reach.set(true, false)
		w.pass(w.life)
		if shares := w.shares(); shares[0] != 0 {
			t.Errorf("a relay that is cut off for its life holds %v", shares)
		}
		w.pass(time.Second)
		if shares := w.shares(); shares[1] != 6 {
			t.Errorf("the other has not taken over: %v", shares)
		}
		w.relays["a"].reach.set(false, false)
		w.pass(4 * time.Second)
		w.even()
	})
}

// Where nobody can write, as while the cluster elects a leader, nobody loses what it has.
func TestOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newTestWorld(t, 6)
		w.start("a")
		w.start("b")
		w.pass(2 * time.Second)
		owners := fmt.Sprint(w.relays["a"].board.Owners())
		for _, p := range w.relays {
			p.reach.set(true, false)
		}
		w.pass(3 * w.life)
		// The first who can write again cannot tell the others from the dead, and gives them a life.
		w.relays["a"].reach.set(false, false)
		w.pass(time.Second)
		w.relays["b"].reach.set(false, false)
		w.pass(2 * time.Second)
		w.even()
		if now := fmt.Sprint(w.relays["a"].board.Owners()); now != owners {
			t.Errorf("owners were %v and are %v", owners, now)
		}
	})
}

// Whatever happens to relays and to their way to the bucket, no two of them hold a partition, and all is spread again soon after.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newTestWorld(t, rapid.IntRange(1, 9).Draw(rt, "partitions"))
			n := 0
			for range rapid.IntRange(3, 25).Draw(rt, "acts") {
				var names []string
				for name := range w.relays {
					names = append(names, name)
				}
				slices.Sort(names)
				act := rapid.SampledFrom([]string{"start", "leave", "crash", "cut", "silent", "heal", "pass"}).Draw(rt, "act")
				switch {
				case act == "start" && len(names) < 4:
					n++
					w.start(fmt.Sprint("r", n))
				case act == "pass" || len(names) == 0:
					w.pass(time.Duration(rapid.IntRange(1, 8000).Draw(rt, "ms")) * time.Millisecond)
				default:
					name := rapid.SampledFrom(names).Draw(rt, "relay")
					switch act {
					case "leave":
						w.relays[name].reach.set(false, false)
						w.leave(name)
					case "crash":
						w.crash(name)
					case "cut":
						w.relays[name].reach.set(true, false)
					case "silent":
						w.relays[name].reach.set(false, true)
					case "heal":
						w.relays[name].reach.set(false, false)
					}
				}
				w.look()
			}
			for _, p := range w.relays {
				p.reach.set(false, false)
			}
			if len(w.relays) == 0 {
				w.start("last")
			}
			w.pass(3*w.life + 5*time.Second)
			w.even()
		})
	})
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "{", "null", `{"version":2,"lifeMs":5000}`, `{"version":1,"lifeMs":1}`, `{"version":1,"lifeMs":5000} {}`, `{"version":1,"lifeMs":1e9}`} {
		if _, err := decodeSession([]byte(bad)); !errors.Is(err, ErrRecord) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for key, want := range map[string]int{"partition/0": 0, "partition/7": 7, "partition/8": -1, "partition/-1": -1, "partition/07": -1, "relay/1": -1, "partition/": -1} {
		p, ok := partitionOf(key, 8)
		if ok != (want >= 0) || ok && p != want {
			t.Errorf("%q: %d, %v", key, p, ok)
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"a","lifeMs":5000,"routed":{"0":12}}`))
	f.Add([]byte(`{"version":1,"holder":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeSession(b); err == nil {
			if again, err := decodeSession(encode(s)); err != nil || fmt.Sprint(again) != fmt.Sprint(s) {
				t.Errorf("%v became %v, %v", s, again, err)
			}
		}
		if h, err := decodeHolding(b); err == nil && !strings.ContainsRune(h.Holder, 0xFFFD) {
			if again, err := decodeHolding(encode(h)); err != nil || again != h {
				t.Errorf("%v became %v, %v", h, again, err)
			}
		}
	})
}
