package breaker_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/breaker"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func fail(t *testing.T, b *breaker.Breaker, n int, last breaker.Change) {
	t.Helper()
	for i := range n {
		want := breaker.Unchanged
		if i == n-1 {
			want = last
		}
		if got := b.Record(start, false, false); got != want {
			t.Fatalf("failure %d: change %d, want %d", i+1, got, want)
		}
	}
}

func TestOpensOnConsecutiveFailures(t *testing.T) {
	t.Parallel()
	var b breaker.Breaker
	fail(t, &b, 9, breaker.Unchanged)
	if send, probe := b.Allow(start); !send || probe || b.State() != breaker.Closed {
		t.Fatal("nine failures are not ten")
	}
	b.Record(start, true, false)
	fail(t, &b, 10, breaker.Opened)
	if send, _ := b.Allow(start); send || b.State() != breaker.Open {
		t.Fatal("ten failures must open it")
	}
	if !b.NextProbe().Equal(start.Add(10 * time.Second)) {
		t.Fatalf("first probe at %s", b.NextProbe())
	}
}

func TestOpensOnHalfOfTwenty(t *testing.T) {
	t.Parallel()
	var b breaker.Breaker
	for i := range 19 {
		if b.Record(start, i%2 == 0, false) != breaker.Unchanged {
			t.Fatalf("opened after %d results", i+1)
		}
	}
	if b.Record(start, false, false) != breaker.Opened {
		t.Fatal("ten failures of twenty must open it")
	}

	var under breaker.Breaker
	for i := range 200 { // nine of any twenty
		if under.Record(start, i%20 >= 9, false) != breaker.Unchanged {
			t.Fatalf("opened by nine of twenty, at result %d", i+1)
		}
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	var b breaker.Breaker
	fail(t, &b, 10, breaker.Opened)
	now := start
	want := []time.Duration{10, 20, 40, 80, 160, 320, 640, 900, 900, 900}
	for i, seconds := range want {
		wait := seconds * time.Second
		if send, _ := b.Allow(now.Add(wait - 1)); send {
			t.Fatalf("probe %d came before %s", i+1, wait)
		}
		now = now.Add(wait)
		if send, probe := b.Allow(now); !send || !probe || b.State() != breaker.Probing {
			t.Fatalf("probe %d was not allowed after %s", i+1, wait)
		}
		if send, _ := b.Allow(now); send {
			t.Fatal("a second probe beside the first")
		}
		if b.Record(now, false, true) != breaker.FailedAgain {
			t.Fatal("a failed probe must keep it open")
		}
	}
	now = b.NextProbe()
	b.Allow(now)
	if b.Record(now, true, true) != breaker.Recovered || b.State() != breaker.Closed || !b.NextProbe().IsZero() {
		t.Fatal("a good probe must close it")
	}
	fail(t, &b, 10, breaker.Opened) // it has forgotten the failures before
	if !b.NextProbe().Equal(start.Add(10 * time.Second)) {
		t.Fatal("after a recovery the probes begin anew")
	}
}

// Attempts begun before it opened come back while it is open or probing.
func TestStragglers(t *testing.T) {
	t.Parallel()
	var b breaker.Breaker
	fail(t, &b, 10, breaker.Opened)
	fail(t, &b, 30, breaker.Unchanged)
	if !b.NextProbe().Equal(start.Add(10 * time.Second)) {
		t.Fatal("late failures must not push the probe away")
	}
	if b.Record(start, true, false) != breaker.Unchanged || b.State() != breaker.Open {
		t.Fatal("a late success must not close it")
	}
	if send, probe := b.Allow(start); !send || !probe {
		t.Fatal("a late success must bring the probe forward")
	}
	if b.Record(start, true, false) != breaker.Unchanged || b.State() != breaker.Probing {
		t.Fatal("a late success is not the probe's")
	}
}

func TestReleasedAndLostProbes(t *testing.T) {
	t.Parallel()
	var b breaker.Breaker
	fail(t, &b, 10, breaker.Opened)
	now := start.Add(10 * time.Second)
	b.Allow(now)
	b.Release(now)
	if send, probe := b.Allow(now); !send || !probe {
		t.Fatal("a probe given back must be there again")
	}
	if send, _ := b.Allow(now.Add(time.Minute)); send {
		t.Fatal("the longest attempt lasts a minute")
	}
	if send, probe := b.Allow(now.Add(2 * time.Minute)); !send || !probe {
		t.Fatal("a lost probe must not keep it open for ever")
	}
	var closed breaker.Breaker
	closed.Release(now)
	if closed != (breaker.Breaker{}) {
		t.Fatal("nothing to give back")
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	for n, left := range map[int]int{-1: 10, 0: 10, 1: 9, 9: 1, 10: 1, 1000: 1} {
		b := breaker.Seed(n)
		if b.State() != breaker.Closed {
			t.Fatalf("seeded with %d it is %s", n, b.State())
		}
		fail(t, &b, left, breaker.Opened)
	}
	b := breaker.Seed(9)
	b.Record(start, true, false)
	fail(t, &b, 10, breaker.Opened)
	b.Reset()
	if b != (breaker.Breaker{}) {
		t.Fatal("reset must forget everything")
	}
}

// Against a plain reading of the rule with a list of results.
func TestMatchesTheRule(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b breaker.Breaker
		var results []bool
		for _, healthy := range rapid.SliceOfN(rapid.Bool(), 1, 300).Draw(t, "results") {
			results = append(results, healthy)
			opened := b.Record(start, healthy, false) == breaker.Opened
			if want := !healthy && (tail(results, 10, 10) || tail(results, 20, 10)); opened != want {
				t.Fatalf("after %d results opened is %v", len(results), opened)
			}
			if opened {
				b.Allow(b.NextProbe())
				b.Record(start, true, true)
				results = nil
			}
		}
	})
}

// tail tells whether there are n results of which at least that many of the last n failed.
func tail(results []bool, n, failures int) bool {
	if len(results) < n {
		return false
	}
	for _, healthy := range results[len(results)-n:] {
		if !healthy {
			failures--
		}
	}
	return failures <= 0
}
