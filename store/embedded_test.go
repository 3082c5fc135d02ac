package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/store/redistest"
)

func embeddedAt(t testing.TB, dir string) *embedded {
	t.Helper()
	s, err := openEmbedded(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestEmbeddedNewerSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := embeddedAt(t, dir)
	if err := s.db.Set([]byte(schemaKey), []byte("2"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), `schema "2"`) {
		t.Fatalf("a newer schema: %v", err)
	}
}

func TestEmbeddedForeignStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := pebble.Open(dir, &pebble.Options{Logger: pebbleLogger{slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte("theirs"), nil, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "not a view") {
		t.Fatalf("somebody else's store: %v", err)
	}
}

func TestEmbeddedInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	embeddedAt(t, dir)
	if _, err := Open(context.Background(), dir, Options{}); err == nil {
		t.Fatal("opened twice")
	}
}

// TestEmbeddedDamaged: a store that cannot be read says that it may be deleted, and opens after that.
func TestEmbeddedDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := embeddedAt(t, dir)
	for n := range 50 {
		applyBench(t, s, benchLog(n*100, 100))
	}
	if err := s.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 0x5a
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(context.Background(), dir, Options{}); err == nil || !strings.Contains(err.Error(), "delete the folder") {
		t.Fatalf("a damaged store: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if at, err := embeddedAt(t, dir).Position(context.Background(), 0); at != 0 || err != nil {
		t.Fatalf("position %d, %v", at, err)
	}
}

// TestEmbeddedTally: the count of bytes comes to nothing when all is gone, and survives reopening.
func TestEmbeddedTally(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := embeddedAt(t, dir)
	applyBench(t, s, benchLog(0, 400))
	total := s.bytes.total
	if total < 400*300 || total > 400*2000 {
		t.Fatalf("%d bytes for 400 deliveries", total)
	}
	again := benchLog(0, 400) // the same deliveries once more: written over, unread
	for i := range again {
		again[i].Sequence += 400
	}
	applyBench(t, s, again)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = embeddedAt(t, dir)
	if s.bytes.total < total {
		t.Fatalf("%d bytes after reopening, want at least %d", s.bytes.total, total)
	}
	if n, err := s.Trim(context.Background(), noon.AddDate(1, 0, 0), 0); n != 400 || err != nil {
		t.Fatalf("%d removed, %v", n, err)
	}
	if s.bytes.total != 0 || len(s.bytes.by) != 0 {
		t.Fatalf("%d bytes of nothing", s.bytes.total)
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if it.Key()[0] != 'm' {
			t.Fatalf("key %q is left", it.Key())
		}
	}
}

// benchLog is n outcomes from sequence from+1 on: deliveries delivered at the first attempt, as most are, to 1,000
// endpoints of 100 tenants.
func benchLog(from, n int) []relay.SequencedOutcome {
	out := make([]relay.SequencedOutcome, n)
	for i := range out {
		k := from + i
		tenant, event, endpoint := fmt.Sprintf("tenant-%d", k%100), fmt.Sprintf("evt-%020d", k), fmt.Sprintf("ep_%022d", k%1000)
		out[i] = relay.SequencedOutcome{Sequence: uint64(k) + 1, Outcome: relay.Outcome{
			DeliveryID: relay.DeliveryID(tenant, event, endpoint), Tenant: tenant, EndpointID: endpoint, EventID: event,
			EventType: "contact.updated", EventTime: noon, AcceptTime: noon.Add(time.Duration(k) * time.Millisecond), Seq: uint64(k),
			State: relay.Delivered, Reason: relay.ReasonAccepted, Time: noon, Attempts: 1, Deadline: noon, Attempt: sampleAttempt(),
		}}
	}
	return out
}

func applyBench(t testing.TB, l relay.Ledger, log []relay.SequencedOutcome) {
	t.Helper()
	if err := l.Apply(context.Background(), 0, log[len(log)-1].Sequence, log); err != nil {
		t.Fatal(err)
	}
}

const benchGroup = 500

// benchLedgers are both stores, empty.
func benchLedgers(b *testing.B, f func(*testing.B, relay.Ledger)) {
	b.Run("pebble", func(b *testing.B) { f(b, embeddedAt(b, b.TempDir())) })
	b.Run("redis", func(b *testing.B) {
		l, err := Open(context.Background(), redistest.Start(b).URL("b:"), Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		f(b, l)
	})
}

// BenchmarkApply is per outcome, in groups of 500, each synced: delivered at the first attempt; the same in the state in which
// nothing can be left unread (parked); and a parked one that is delivered.
func BenchmarkApply(b *testing.B) {
	benchLedgers(b, func(b *testing.B, l relay.Ledger) {
		next := 0
		run := func(name string, change func(*relay.SequencedOutcome)) {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				groups := make([][]relay.SequencedOutcome, (b.N+benchGroup-1)/benchGroup)
				for g := range groups {
					groups[g] = benchLog(next, benchGroup)
					for i := range groups[g] {
						change(&groups[g][i])
					}
					next += benchGroup
				}
				b.ResetTimer()
				for _, group := range groups {
					applyBench(b, l, group)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "outcomes/s")
			})
		}
		run("delivered", func(*relay.SequencedOutcome) {})
		park := func(o *relay.SequencedOutcome) { o.State, o.Attempts, o.Attempt = relay.Parked, 0, nil }
		run("parked", park)
		b.Run("drained", func(b *testing.B) {
			b.ReportAllocs()
			groups := (b.N + benchGroup - 1) / benchGroup
			first, sequence := next, 2*next+groups*benchGroup // of what was never parked
			for g := range groups {
				log := benchLog(first+g*benchGroup, benchGroup)
				for i := range log {
					park(&log[i])
				}
				applyBench(b, l, log)
			}
			drained := make([][]relay.SequencedOutcome, groups)
			for g := range drained {
				drained[g] = benchLog(first+g*benchGroup, benchGroup)
				for i := range drained[g] {
					sequence++
					drained[g][i].Sequence = uint64(sequence)
				}
			}
			next = sequence
			b.ResetTimer()
			for _, group := range drained {
				applyBench(b, l, group)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "outcomes/s")
		})
	})
}

// BenchmarkList is the last 50 deliveries of one endpoint among 100,000, or as many as SEALPOST_BENCH_DELIVERIES says.
func BenchmarkList(b *testing.B) {
	benchLedgers(b, func(b *testing.B, l relay.Ledger) {
		total := 100_000
		if n, err := strconv.Atoi(os.Getenv("SEALPOST_BENCH_DELIVERIES")); err == nil {
			total = n
		}
		for from := 0; from < total; from += 5000 {
			log := benchLog(from, 5000)
			for i := range log {
				if i/1000 == 0 { // one of five deliveries of each endpoint
					log[i].State = relay.Dead
				}
			}
			applyBench(b, l, log)
		}
		for name, q := range map[string]relay.DeliveryQuery{
			"endpoint": {}, "endpoint-dead": {State: relay.Dead}, "endpoint-delivered": {State: relay.Delivered},
		} {
			q.Tenant, q.EndpointID = "tenant-7", fmt.Sprintf("ep_%022d", 7)
			b.Run(name, func(b *testing.B) {
				for b.Loop() {
					p, err := l.Deliveries(context.Background(), q)
					if err != nil || len(p.Deliveries) < 20 {
						b.Fatalf("%d, %v", len(p.Deliveries), err)
					}
				}
			})
		}
	})
}
