package tally

import (
	"fmt"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

var begin = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// TestModel compares with a list of everything that happened: each span has all of its length, and nothing older than a slot more.
func TestModel(t *testing.T) {
	t.Parallel()
	reasons := []relay.Reason{relay.ReasonServerError, relay.ReasonTimeout, relay.ReasonUnavailable}
	rapid.Check(t, func(t *rapid.T) {
		type one struct {
			at       time.Time
			accepted bool
			reason   relay.Reason
			settled  relay.DeliveryState
		}
		var all []one
		var tally Tally
		now := begin
		for range rapid.IntRange(0, 60).Draw(t, "n") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(t, "gap")) / time.Duration(rapid.SampledFrom([]int{1, 20, 1000}).Draw(t, "scale")))
			o := one{at: now, accepted: rapid.Bool().Draw(t, "accepted"), reason: rapid.SampledFrom(reasons).Draw(t, "reason")}
			if o.accepted {
				o.settled = relay.Delivered
			} else if rapid.Bool().Draw(t, "dead") {
				o.settled = relay.Dead
			}
			tally.Attempt(now, o.accepted, o.reason, time.Millisecond)
			tally.Settled(now, o.settled)
			all = append(all, o)
		}
		now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(t, "later")))
		var h relay.EndpointHealth
		tally.Tell(&h, now)
		for i, got := range h.Spans {
			// The counts of exactly the length, and of a slot more.
			count := func(since time.Time) (n, accepted, delivered, dead int64, failures map[relay.Reason]int64) {
				failures = map[relay.Reason]int64{}
				for _, o := range all {
					if o.at.Before(since) {
						continue
					}
					n++
					switch {
					case o.accepted:
						accepted++
					default:
						failures[o.reason]++
					}
					switch o.settled {
					case relay.Delivered:
						delivered++
					case relay.Dead:
						dead++
					}
				}
				return
			}
			n, a, d, x, f := count(now.Add(-got.Length))
			n2, a2, d2, x2, f2 := count(now.Add(-got.Length - spans[i].slot))
			within := func(what string, low, v, high int64) {
				if v < low || v > high {
					t.Fatalf("%s in %v: %d, want %d to %d", what, got.Length, v, low, high)
				}
			}
			within("attempts", n, got.Attempts, n2)
			within("accepted", a, got.Accepted, a2)
			within("delivered", d, got.Delivered, d2)
			within("dead", x, got.Dead, x2)
			failed := int64(0)
			for _, r := range reasons {
				within(string(r), f[r], got.Failures[r], f2[r])
				failed += got.Failures[r]
			}
			if failed+got.Accepted != got.Attempts {
				t.Fatalf("%d attempts, %d accepted and %d failed", got.Attempts, got.Accepted, failed)
			}
		}
	})
}

func TestQuantiles(t *testing.T) {
	t.Parallel()
	var tally Tally
	for i := range 1000 {
		took := 3 * time.Millisecond
		if i%50 == 0 { // 2 %
			took = 700 * time.Millisecond
		}
		tally.Attempt(begin, true, relay.ReasonAccepted, took)
	}
	var h relay.EndpointHealth
	tally.Tell(&h, begin)
	for _, s := range h.Spans {
		if s.P50 < 2*time.Millisecond || s.P50 > 4*time.Millisecond || s.P99 < 512*time.Millisecond || s.P99 > 1024*time.Millisecond {
			t.Errorf("%v: p50 %v, p99 %v", s.Length, s.P50, s.P99)
		}
	}
	for took, want := range map[time.Duration]int{0: 0, -time.Second: 0, 999 * time.Microsecond: 0, time.Millisecond: 1, 2 * time.Millisecond: 2,
		4095 * time.Millisecond: 12, time.Hour: buckets - 1} {
		if got := bucket(took); got != want {
			t.Errorf("%v is in bucket %d, want %d", took, got, want)
		}
	}
}

// TestBounded: whatever reasons and times come, a tally keeps to MaxBytes and allocates only for new slots.
func TestBounded(t *testing.T) { // not parallel: it counts allocations
	var tally Tally
	reasons := make([]relay.Reason, 40)
	for i := range reasons {
		reasons[i] = relay.Reason(fmt.Sprint("REASON_", i))
	}
	now := begin
	for i := range 5000 {
		tally.Attempt(now, false, reasons[i%len(reasons)], time.Second)
		now = now.Add(time.Minute)
	}
	size := int(unsafe.Sizeof(tally))
	for _, ring := range tally.slots {
		for _, s := range ring {
			if s != nil {
				size += int(unsafe.Sizeof(*s))
			}
		}
	}
	if size > MaxBytes {
		t.Errorf("it takes %d bytes", size)
	}
	var h relay.EndpointHealth
	tally.Tell(&h, now)
	for _, s := range h.Spans {
		n := int64(0)
		for _, one := range s.Failures {
			n += one
		}
		if n != s.Attempts {
			t.Errorf("%v: %d failures of %d attempts", s.Length, n, s.Attempts)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		tally.Attempt(now, true, relay.ReasonAccepted, time.Millisecond)
		tally.Settled(now, relay.Delivered)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestClockSetBack: what lies in the future is not told, and counts again when its time comes.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	var tally Tally
	tally.Attempt(begin, true, relay.ReasonAccepted, 0)
	var h relay.EndpointHealth
	tally.Tell(&h, begin.Add(-48*time.Hour))
	for _, s := range h.Spans {
		if s.Attempts != 0 {
			t.Errorf("%v: %d attempts of the future", s.Length, s.Attempts)
		}
	}
}

func BenchmarkAttempt(b *testing.B) {
	var tally Tally
	for b.Loop() {
		tally.Attempt(begin, true, relay.ReasonAccepted, time.Millisecond)
		tally.Settled(begin, relay.Delivered)
	}
}
