package owner

import (
	"maps"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

// The index is a sorted map.
func TestIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x index
		model := map[uint64]entry{}
		base := rapid.SampledFrom([]uint64{1, 1<<32 - 1000}).Draw(t, "base") // the upper halves of sequences differ
		top := base + uint64(rapid.SampledFrom([]int{20, 3000}).Draw(t, "spread"))
		put := func(e entry) {
			old, replaced := x.put(e)
			if was, had := model[e.seq]; had != replaced || had && was != old {
				t.Fatalf("put %d: replaced %v %+v, want %v %+v", e.seq, replaced, old, had, was)
			}
			model[e.seq] = e
		}
		remove := func(seq uint64) {
			old, removed := x.remove(seq)
			if was, had := model[seq]; had != removed || had && was != old {
				t.Fatalf("remove %d: %v %+v, want %v %+v", seq, removed, old, had, was)
			}
			delete(model, seq)
		}
		seqs := rapid.Uint64Range(base, top)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if x.len() != len(model) {
					t.Fatalf("%d entries, want %d", x.len(), len(model))
				}
				from := seqs.Draw(t, "from")
				var got, want []uint64
				x.ascend(from, func(e *entry) bool { got = append(got, e.seq); return len(got) < 1200 })
				for _, seq := range slices.Sorted(maps.Keys(model)) {
					if seq >= from && len(want) < 1200 {
						want = append(want, seq)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("from %d: %v, want %v", from, got, want)
				}
				first, ok := x.first()
				if ok != (len(model) > 0) || ok && first.seq != slices.Min(slices.Collect(maps.Keys(model))) {
					t.Fatalf("first is %d, %v", first.seq, ok)
				}
				for _, b := range x.blocks {
					if b.len() == 0 || b.len() > blockSize {
						t.Fatalf("a block of %d", b.len())
					}
				}
				// What a deadline has ended is found, also after it was looked for before and something changed.
				now := rapid.Uint32Range(0, 12).Draw(t, "now")
				got, want = nil, nil
				x.overdue(now, func(e *entry) bool { got = append(got, e.seq); return true })
				for _, seq := range slices.Sorted(maps.Keys(model)) {
					if e := model[seq]; e.deadline < now && !e.busy() && e.waits() != Held {
						want = append(want, seq)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("overdue at %d: %v, want %v", now, got, want)
				}
			},
			"put": func(t *rapid.T) {
				put(entry{
					seq: seqs.Draw(t, "seq"), attempts: uint16(rapid.IntRange(0, 9).Draw(t, "attempts")),
					deadline: rapid.Uint32Range(0, 10).Draw(t, "deadline"),
					flags:    rapid.SampledFrom([]uint16{uint16(Ready), uint16(Waiting), uint16(Held), uint16(Ready) | flagBusy}).Draw(t, "flags"),
				})
			},
			"put a run": func(t *rapid.T) {
				first := seqs.Draw(t, "first")
				for i := range uint64(rapid.IntRange(1, 700).Draw(t, "n")) {
					put(entry{seq: first + i})
				}
			},
			"remove": func(t *rapid.T) { remove(seqs.Draw(t, "seq")) },
			"remove a run": func(t *rapid.T) {
				first, step := seqs.Draw(t, "first"), uint64(rapid.IntRange(1, 3).Draw(t, "step"))
				for i := range uint64(rapid.IntRange(1, 700).Draw(t, "n")) {
					remove(first + i*step)
				}
			},
			"get": func(t *rapid.T) {
				seq := seqs.Draw(t, "seq")
				got, ok := x.get(seq)
				if want, had := model[seq]; ok != had || got != want {
					t.Fatalf("get %d: %+v %v, want %+v %v", seq, got, ok, want, had)
				}
			},
		})
	})
}

// parked is a state with n parked deliveries of one endpoint.
func parked(n int) *State {
	s := New(0)
	o := relay.Outcome{EndpointID: "ep", State: relay.Parked, Deadline: start, Attempts: 3}
	for i := range uint64(n) {
		o.Seq = i + 1
		s.Route(o.Seq, 1)
		s.Apply(o.Seq, &o, true, false)
	}
	return s
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A parked delivery costs 12 bytes, and what is left of a drained backlog does not keep the backlog's memory.
func TestParkedMemory(t *testing.T) {
	if size := unsafe.Sizeof(packed{}); size != 12 {
		t.Fatalf("an entry has %d bytes", size)
	}
	const n = 1_000_000
	before := inUse()
	s := parked(n)
	each := float64(inUse()-before) / n
	if said := float64(s.Bytes()) / n; said < 12 || said > each {
		t.Errorf("the state says that they take %.2f bytes each, of %.2f", said, each)
	}
	t.Logf("%.2f bytes a parked delivery", each)
	if each > 14 {
		t.Errorf("%.2f bytes a parked delivery, want 12 and little more", each)
	}
	for seq := uint64(1); seq <= n; seq++ {
		if seq%1000 != 0 {
			s.Apply(n+seq, &relay.Outcome{Seq: seq, EndpointID: "ep", State: relay.Delivered}, false, false)
		}
	}
	if left := float64(inUse() - before); left > 200<<10 {
		t.Errorf("%.0f bytes are kept of %d deliveries", left, n/1000)
	}
	runtime.KeepAlive(s)
}

func BenchmarkPark(b *testing.B) {
	b.ReportAllocs()
	runtime.KeepAlive(parked(b.N))
}

func BenchmarkCheckpointMillion(b *testing.B) {
	s := parked(1_000_000)
	var data []byte
	for b.Loop() {
		data = s.Checkpoint()
	}
	b.ReportMetric(float64(len(data)), "bytes")
}

func BenchmarkRestoreMillion(b *testing.B) {
	data := parked(1_000_000).Checkpoint()
	for b.Loop() {
		if _, _, err := Restore(data); err != nil {
			b.Fatal(err)
		}
	}
}

// To look for those whose time ran out, among a million that have time left, costs next to nothing.
func TestOverdueIsCheap(t *testing.T) {
	const n = 1_000_000
	s := parked(n)
	best := func(f func()) time.Duration {
		best := time.Hour
		for range 5 {
			began := time.Now()
			f()
			best = min(best, time.Since(began))
		}
		return best
	}
	all := best(func() {
		left := 0
		s.Each("ep", func(e Entry) bool { left++; return e.Deadline.After(start.Add(-time.Hour)) })
		if left != n {
			t.Fatalf("%d entries", left)
		}
	})
	late := best(func() {
		if late := s.Overdue("ep", start, 512); late != nil {
			t.Fatalf("%d are overdue", len(late))
		}
	})
	t.Logf("looking at each: %v; for the overdue: %v", all, late)
	if late*100 > all {
		t.Errorf("it takes %v, more than a hundredth of %v", late, all)
	}
	if got := s.Overdue("ep", start.Add(time.Second), 512); len(got) != 512 || got[0].Seq != 1 {
		t.Errorf("%d are overdue at last", len(got))
	}
}

// What a look for the overdue costs with a million parked deliveries that have time left.
func BenchmarkOverdue(b *testing.B) {
	s := parked(1_000_000)
	for b.Loop() {
		s.Overdue("ep", start, 512)
	}
}

// What a sweep costs with a million parked deliveries at a hundred endpoints.
func BenchmarkSweep(b *testing.B) {
	s := New(0)
	var wants []Want
	for i := range uint64(1_000_000) {
		s.Route(i+1, 1)
		o := relay.Outcome{Seq: i + 1, EndpointID: string(rune('A' + i%100)), State: relay.Parked, Deadline: start}
		s.Apply(i+1, &o, true, false)
	}
	for i := range 100 {
		wants = append(wants, Want{Endpoint: string(rune('A' + i)), Room: 16})
	}
	for b.Loop() {
		for _, e := range s.Sweep(wants, 512) {
			s.SetBusy(e.Key, false)
		}
	}
}
