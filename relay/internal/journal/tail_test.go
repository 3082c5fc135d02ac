package journal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is written, erased and asked for: what the tail gives is what was written there, nothing beyond what is durable
// or of a former writer, and nothing left out between.
func TestTailModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tail, life, next := newTail(1, rapid.Int64Range(0, 2000).Draw(t, "bound")), 0, uint64(1)
		log := map[uint64]string{} // by this life's writer
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if tail.bytes > tail.bound || tail.bytes < 0 {
					t.Fatalf("%d bytes of %d", tail.bytes, tail.bound)
				}
			},
			"add": func(t *rapid.T) {
				next += uint64(rapid.IntRange(0, 20).Draw(t, "gap") / 20)
				log[next] = strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "size")) + fmt.Sprint(life, next)
				tail.add(life, Message{Seq: next, Payload: []byte(log[next])})
				next++
			},
			"add of a former writer": func(t *rapid.T) {
				tail.add(life-1, Message{Seq: next, Payload: []byte("stale")})
			},
			"another writer": func(t *rapid.T) {
				clear(log)
				life = tail.restart(next)
			},
			"erase": func(t *rapid.T) {
				seq := rapid.Uint64Range(1, next).Draw(t, "seq")
				tail.erase(seq)
				for s := range log {
					if s <= seq {
						delete(log, s)
					}
				}
			},
			"read": func(t *rapid.T) {
				from := rapid.Uint64Range(1, next).Draw(t, "from")
				upTo := rapid.Uint64Range(0, next).Draw(t, "durable")
				covered := tail.covers(from)
				got := tail.from(from, upTo, make([]Message, 0, 4))
				if !covered && len(got) > 0 {
					t.Fatalf("%d records from %d on, which is not covered", len(got), from)
				}
				for i, m := range got {
					if m.Seq != from+uint64(i) || m.Seq > upTo || string(m.Payload) != log[m.Seq] {
						t.Fatalf("record %d from %d, durable up to %d: %d %q", i, from, upTo, m.Seq, m.Payload)
					}
				}
				if want := min(upTo+1, next); covered && from < want && len(got) == 0 {
					t.Fatalf("nothing from %d on, though it is covered and %d is durable", from, upTo)
				}
			},
			"pick": func(t *rapid.T) {
				seqs := rapid.SliceOfNDistinct(rapid.Uint64Range(1, next), 0, 8, rapid.ID).Draw(t, "seqs")
				slices.Sort(seqs)
				upTo := rapid.Uint64Range(0, next).Draw(t, "durable")
				before, found := tail.pick(seqs, upTo)
				for _, seq := range seqs[len(before):] {
					at, ok := slices.BinarySearchFunc(found, seq, func(m Message, seq uint64) int { return int(m.Seq) - int(seq) })
					if content, written := log[seq]; ok != (written && seq <= upTo) || ok && string(found[at].Payload) != content {
						t.Fatalf("%d: found %v, written %v, durable up to %d", seq, ok, written, upTo)
					}
				}
			},
		})
	})
}

// A reader that falls behind what memory holds, and one that keeps up, read the same, and what the server has.
func TestReadersBesideTheTail(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	log := j.Events(0)
	log.tail.bound = 8 << 10
	const n = 4000
	type reading struct {
		all []Message
		err error
	}
	read := func(pause time.Duration) chan reading {
		done := make(chan reading, 1)
		go func() {
			var r reading
			r.err = log.Read(t.Context(), 1, func(m Message) error {
				r.all = append(r.all, m)
				if pause > 0 && rand.IntN(200) == 0 {
					time.Sleep(pause) // a slow reader's own pace
				}
				if len(r.all) == n {
					return errEnough
				}
				return nil
			})
			done <- r
		}()
		return done
	}
	quick, slow := read(0), read(20*time.Millisecond)
	fill(t, j, n, 100)
	a, b := <-quick, <-slow
	if a.err != errEnough || b.err != errEnough {
		t.Fatal(a.err, b.err)
	}
	var served []Message
	if err := log.Range(t.Context(), 1, n, func(m Message) error { served = append(served, m); return nil }); err != nil {
		t.Fatal(err)
	}
	same := func(x, y Message) bool {
		return x.Seq == y.Seq && x.Time.Equal(y.Time) && string(x.Payload) == string(y.Payload)
	}
	if len(served) != n || !slices.EqualFunc(a.all, served, same) || !slices.EqualFunc(b.all, served, same) {
		t.Fatalf("read %d and %d, the server has %d, or they differ", len(a.all), len(b.all), len(served))
	}
}

// What was erased is in nobody's memory.
func TestErasedIsNotInTheTail(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	for i := range 9 {
		mustAccept(t, j, fmt.Sprint(i), "x")
	}
	if err := j.Events(0).SecureDelete(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	if err := j.Events(0).Sweep(t.Context(), []uint64{4, 5, 6}, func(m Message) error { seqs = append(seqs, m.Seq); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seqs, []uint64{4, 6}) {
		t.Errorf("found %v", seqs)
	}
	seqs = nil
	err := j.Events(0).Read(t.Context(), 1, func(m Message) error {
		if seqs = append(seqs, m.Seq); m.Seq == 9 {
			return errEnough
		}
		return nil
	})
	if err != errEnough || !slices.Equal(seqs, []uint64{1, 2, 3, 4, 6, 7, 8, 9}) {
		t.Errorf("read %v: %v", seqs, err)
	}
}
