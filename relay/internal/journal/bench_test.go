package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
)

func BenchmarkAccept(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			j := open(b, Options{Dir: b.TempDir()})
			payload := make([]byte, 1024)
			var n atomic.Uint64
			b.SetBytes(int64(len(payload)))
			b.SetParallelism(max(1, callers/2)) // times GOMAXPROCS, 2 where this was measured
			b.ReportAllocs()
			if callers == 1 {
				for b.Loop() {
					acceptOne(b, j, n.Add(1), payload)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					acceptOne(b, j, n.Add(1), payload)
				}
			})
		})
	}
}

func acceptOne(b *testing.B, j *Journal, n uint64, payload []byte) {
	var d [32]byte
	binary.BigEndian.PutUint64(d[:], n)
	if _, err := j.Events(0).Accept(b.Context(), Entry{ID: "acme.evt_" + strconv.FormatUint(n, 10), Digest: d, Payload: payload}); err != nil {
		b.Error(err)
	}
}

func BenchmarkOutcomesAppend(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir()})
	a, err := j.Outcomes(0).NewAppender(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	record := make([]byte, 300)
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := a.Append(b.Context(), record); err != nil {
			b.Fatal(err)
		}
		if i%5000 == 4999 {
			if _, err := a.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if _, err := a.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkRead(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir()})
	const records = 100_000
	fill(b, j, records, 1024)
	stop := errors.New("stop")
	b.SetBytes(1024)
	b.ResetTimer()
	for left := b.N; left > 0; {
		err := j.Events(0).Read(b.Context(), 1, func(m Message) error {
			if left--; left == 0 || m.Seq == records {
				return stop
			}
			return nil
		})
		if err != stop {
			b.Fatal(err)
		}
	}
}

func BenchmarkSweep(b *testing.B) {
	j := open(b, Options{Dir: b.TempDir()})
	const records = 100_000
	fill(b, j, records, 1024)
	for _, gap := range []uint64{1, 10, 50, 100, 1000} {
		b.Run(fmt.Sprintf("every=%d", gap), func(b *testing.B) {
			var seqs []uint64
			for s := uint64(1); s <= records; s += gap {
				seqs = append(seqs, s)
			}
			for left := b.N; left > 0; {
				n := min(left, len(seqs))
				if err := j.Events(0).Sweep(b.Context(), seqs[:n], func(Message) error { left--; return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fill accepts n events of the given size.
func fill(tb testing.TB, j *Journal, n, size int) {
	tb.Helper()
	payload := make([]byte, size)
	for done := 0; done < n; {
		es := make([]Entry, min(2000, 32<<20/size, n-done)) // within MaxUncommittedBytes
		for i := range es {
			es[i] = Entry{ID: "fill" + strconv.Itoa(done+i), Payload: payload}
		}
		for _, r := range j.Events(0).AcceptAll(tb.Context(), es) {
			if r.Err != nil {
				tb.Fatal(r.Err)
			}
		}
		done += len(es)
	}
}
