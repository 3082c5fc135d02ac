package journal

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var errEnough = errors.New("enough")

func TestReadFollowsTheTail(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	fill(t, j, 3000, 10)
	seen := make(chan Message)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- j.Events(0).Read(ctx, 2990, func(m Message) error {
			if m.Seq >= 3000 {
				seen <- m
			}
			return nil
		})
	}()
	if m := <-seen; m.Seq != 3000 {
		t.Errorf("read %d", m.Seq)
	}
	r := mustAccept(t, j, "tail", "at the tail")
	if m := <-seen; m.Seq != 3001 || string(m.Payload) != "at the tail" || !m.Time.Equal(r.Time) {
		t.Errorf("read %+v", m)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("read ended with %v", err)
	}
	if err := j.Events(0).Read(t.Context(), 0, func(m Message) error { return errEnough }); err != errEnough {
		t.Errorf("read ended with %v", err)
	}
}

func TestReadEndsWithTheJournal(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	mustAccept(t, j, "1", "x")
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- j.Events(0).Read(t.Context(), 1, func(Message) error { close(started); return nil })
	}()
	<-started
	shut(t, j)
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("read ended with %v", err)
	}
}

// A slow reader gets everything, and holds up nobody.
func TestReadSlowly(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	fill(t, j, 300, 300_000) // 90 MB: more than flow control lets ahead
	next := uint64(1)
	err := j.Events(0).Read(t.Context(), 1, func(m Message) error {
		if m.Seq != next || len(m.Payload) != 300_000 {
			t.Errorf("record %d at %d has %d bytes", next, m.Seq, len(m.Payload))
		}
		if next%100 == 50 {
			mustAccept(t, j, "during"+strconv.Itoa(int(next)), "x")
			if _, err := j.Events(0).Get(t.Context(), 1); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond) // the reader's slowness, nothing is waited for
		}
		if next++; next > 300 {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		t.Error(err)
	}
}

// Readers see nothing of OUTCOMES before its sync.
func TestReadersSeeWhatIsDurable(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	o, a := j.Outcomes(0), appender(t, j)
	if _, err := a.Append(t.Context(), []byte("1"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if err := a.await(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	seen := make(chan uint64, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- o.Read(ctx, 1, func(m Message) error { seen <- m.Seq; return nil })
	}()
	if _, err := o.Get(t.Context(), 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	none := func(m Message) error { t.Errorf("saw %d", m.Seq); return nil }
	if err := o.Range(t.Context(), 1, 2, none); err != nil {
		t.Error(err)
	}
	if err := o.Sweep(t.Context(), []uint64{1, 2}, none); err != nil {
		t.Error(err)
	}
	select {
	case seq := <-seen:
		t.Errorf("read %d", seq)
	default:
	}
	if _, err := a.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := <-seen, <-seen; a != 1 || b != 2 {
		t.Errorf("read %d, %d", a, b)
	}
	cancel()
	<-done
}

// Sweep and Range agree with a list, over gaps, in any density.
func TestSweepModel(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	const n = 1600
	fill(t, j, n, 100)
	e := j.Events(0)
	there := make(map[uint64]bool)
	for s := uint64(1); s <= n; s++ {
		there[s] = true
	}
	for _, s := range []uint64{2, 3, 4, 5, 6, 7, 500, 1500, 1501, n} {
		if err := e.SecureDelete(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		delete(there, s)
	}
	rapid.Check(t, func(rt *rapid.T) {
		var seqs, want []uint64
		for s := uint64(0); len(seqs) < 400; {
			gap := rapid.SampledFrom([]uint64{1, 2, 3, 30, 300}).Draw(rt, "gap")
			for range rapid.IntRange(1, 20).Draw(rt, "run") {
				if s += gap; s > n+50 {
					break
				}
				seqs = append(seqs, s)
				if there[s] {
					want = append(want, s)
				}
			}
			if s > n {
				break
			}
		}
		var got []uint64
		if err := e.Sweep(t.Context(), seqs, func(m Message) error { got = append(got, m.Seq); return nil }); err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("sweep of %v\ngot  %v\nwant %v", seqs, got, want)
		}
		first, last := seqs[0], seqs[len(seqs)-1]
		want = want[:0]
		for s := first; s <= last; s++ {
			if there[s] {
				want = append(want, s)
			}
		}
		got = got[:0]
		if err := e.Range(t.Context(), first, last, func(m Message) error { got = append(got, m.Seq); return nil }); err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("range %d to %d: got %d, want %d records", first, last, len(got), len(want))
		}
	})
	for _, bad := range [][]uint64{{2, 1}, {1, 1}, {1, 2, 3, 2}} {
		if err := e.Sweep(t.Context(), bad, func(Message) error { return nil }); err != errOrder {
			t.Errorf("sweep of %v: %v", bad, err)
		}
	}
	if err := e.Sweep(t.Context(), []uint64{10, 20}, func(Message) error { return errEnough }); err != errEnough {
		t.Errorf("sweep ended with %v", err)
	}
	if err := e.Sweep(t.Context(), nil, nil); err != nil {
		t.Errorf("empty sweep: %v", err)
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("$JS.ACK.SEALPOST_EVENTS_0.cons.1.42.7.1700000000000000000.3")
	f.Add("$JS.ACK.hub.acc.SEALPOST_EVENTS_0.cons.1.42.7.1700000000000000000.3.tok")
	f.Add("........")
	f.Fuzz(func(t *testing.T, reply string) {
		if seq, at, err := origin(reply); err != nil && (seq != 0 && !at.IsZero()) {
			t.Errorf("%q: an error and a result", reply)
		}
	})
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{
		"$JS.ACK.SEALPOST_EVENTS_0.cons.1.42.7.1700000000000000001.3",
		"$JS.ACK.hub.acc.SEALPOST_EVENTS_0.cons.1.42.7.1700000000000000001.3.tok",
	} {
		if seq, at, err := origin(reply); seq != 42 || at.UnixNano() != 1700000000000000001 || err != nil {
			t.Errorf("%s: %d, %v, %v", reply, seq, at, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frame{time: time.Unix(1, 2), digest: [32]byte{3}}, []byte("payload")))
	f.Add([]byte{frameVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, payload, err := unframe(b)
		if err == nil && !slices.Equal(appendFrame(nil, fr, payload), b) {
			t.Errorf("%x does not encode to itself", b)
		}
	})
}
