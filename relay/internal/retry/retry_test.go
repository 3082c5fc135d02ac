package retry_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/retry"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func exact(interval time.Duration, _ float64) time.Duration { return interval }

func TestDefaultSchedule(t *testing.T) {
	t.Parallel()
	want := []time.Duration{
		5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour, 12 * time.Hour, 12 * time.Hour,
	}
	var s retry.Schedule
	for i, d := range want {
		if got := s.Next(i+1, exact); got != d {
			t.Errorf("after %d attempts: %s, want %s", i+1, got, d)
		}
	}
	if s.Interval(0) != 5*time.Second || s.Interval(-3) != 5*time.Second || s.Interval(math.MaxInt) != 12*time.Hour {
		t.Error("an attempt count outside the table must take its nearest row")
	}
}

func TestOwnSchedule(t *testing.T) {
	t.Parallel()
	s := retry.Schedule{Intervals: []time.Duration{time.Millisecond, time.Second}}
	var factor float64 = -1
	s.Next(1, func(d time.Duration, r float64) time.Duration { factor = r; return d })
	if factor != 0 {
		t.Errorf("own schedule without randomization drew with %v", factor)
	}
	if s.Next(1, exact) != time.Millisecond || s.Next(2, exact) != time.Second || s.Next(9, exact) != time.Second {
		t.Error("own schedule is not followed")
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s  retry.Schedule
		ok bool
	}{
		"zero":         {retry.Schedule{}, true},
		"bounds":       {retry.Schedule{Intervals: []time.Duration{time.Millisecond, retry.MaxInterval}, Randomization: 0.5}, true},
		"no wait":      {retry.Schedule{Intervals: []time.Duration{0}}, false},
		"too long":     {retry.Schedule{Intervals: []time.Duration{retry.MaxInterval + 1}}, false},
		"too many":     {retry.Schedule{Intervals: make([]time.Duration, retry.MaxIntervals+1)}, false},
		"negative":     {retry.Schedule{Randomization: -0.1}, false},
		"over a half":  {retry.Schedule{Randomization: 0.6}, false},
		"not a number": {retry.Schedule{Randomization: math.NaN()}, false},
	} {
		if err := c.s.Check(); (err == nil) != c.ok || err != nil && !errors.Is(err, retry.ErrSchedule) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The spread of the jitter is the library's: within the factor, and over most of it.
func TestBackoffSpreads(t *testing.T) {
	t.Parallel()
	low, high := time.Duration(math.MaxInt64), time.Duration(0)
	for range 2000 {
		d := retry.Backoff(time.Hour, 0.2)
		low, high = min(low, d), max(high, d)
	}
	if low < 48*time.Minute || high > 72*time.Minute+1 {
		t.Errorf("drawn from %s to %s, outside a fifth of an hour", low, high)
	}
	if low > 50*time.Minute || high < 70*time.Minute {
		t.Errorf("drawn from %s to %s only", low, high)
	}
	if retry.Backoff(time.Hour, 0) != time.Hour {
		t.Error("no randomization must mean none")
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	var s retry.Schedule
	for name, c := range map[string]struct {
		attempts        int
		deadline, after time.Duration // from now
		due             time.Duration
		dead            bool
	}{
		"first":                              {1, 72 * time.Hour, 0, 5 * time.Second, false},
		"asked for longer":                   {1, 72 * time.Hour, time.Hour, time.Hour, false},
		"asked for shorter":                  {3, 72 * time.Hour, time.Second, 2 * time.Minute, false},
		"asked for a week":                   {1, 72 * time.Hour, 168 * time.Hour, 24 * time.Hour, false},
		"asked for the past":                 {1, 72 * time.Hour, -time.Hour, 5 * time.Second, false},
		"exactly at the deadline":            {1, 5 * time.Second, 0, 5 * time.Second, false},
		"the last one is brought forward":    {12, 8 * time.Hour, 0, 8*time.Hour - time.Minute, false},
		"also where asked for less":          {12, 8 * time.Hour, time.Hour, 8*time.Hour - time.Minute, false},
		"but not before what was asked":      {12, 8 * time.Hour, 8 * time.Hour, 0, true},
		"in the last minute":                 {12, time.Minute, 0, 0, true},
		"in the last minute, if it fits":     {1, time.Minute, 0, 5 * time.Second, false},
		"past the deadline":                  {1, -time.Second, 0, 0, true},
		"at the deadline":                    {1, 0, 0, 0, true},
		"short deadline, next does not fit":  {2, 20 * time.Second, 0, 0, true},
		"a minute and a bit, does not fit":   {3, 90 * time.Second, 0, 30 * time.Second, false},
		"asked for more than the time there": {1, 10 * time.Hour, 11 * time.Hour, 0, true},
	} {
		due, dead := s.Decide(c.attempts, start.Add(c.deadline), c.after, start, exact)
		if dead != c.dead || !dead && !due.Equal(start.Add(c.due)) || dead && !due.IsZero() {
			t.Errorf("%s: due after %s, dead %v; want %s, %v", name, due.Sub(start), dead, c.due, c.dead)
		}
	}
	if due, dead := s.Decide(1000, time.Time{}, 0, start, exact); dead || due != start.Add(12*time.Hour) {
		t.Error("without a deadline nothing dies")
	}
}

// Whatever is asked: a delivery is never due before the receiver's wait, nor in the past, nor after its deadline, and
// a row of failures comes to an end.
func TestDecideHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s retry.Schedule
		now := start
		deadline := now.Add(time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "deadline")))
		for attempt := 1; ; attempt++ {
			after := time.Duration(rapid.Int64Range(0, int64(30*time.Hour)).Draw(t, "after"))
			if rapid.Bool().Draw(t, "asked") {
				after = 0
			}
			due, dead := s.Decide(attempt, deadline, after, now, retry.Backoff)
			if dead {
				return
			}
			if !due.After(now) || due.Before(now.Add(min(after, retry.MaxRetryAfter))) || due.After(deadline) {
				t.Fatalf("attempt %d: now %s, after %s, deadline %s: due %s", attempt, now, after, deadline, due)
			}
			if attempt > 40 {
				t.Fatal("retried for ever")
			}
			now = due
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"0":                               0,
		"1":                               time.Second,
		"120":                             2 * time.Minute,
		" 120\t":                          2 * time.Minute,
		"0000120":                         2 * time.Minute,
		"86400":                           24 * time.Hour,
		"86401":                           24 * time.Hour,
		"99999999999999999999999999999":   24 * time.Hour,
		"Fri, 02 Jan 2026 03:05:05 GMT":   time.Minute,
		"Friday, 02-Jan-26 03:05:05 GMT":  time.Minute,
		"Fri Jan  2 03:05:05 2026":        time.Minute,
		"Thu, 01 Jan 2026 03:05:05 GMT":   0,
		"Fri, 31 Dec 9999 23:59:59 GMT":   24 * time.Hour,
		"Mon, 01 Jan 0001 00:00:00 GMT":   0,
		"Friday, 02-Jan-26 03:04:05 GMT ": 0,
	} {
		if got, ok := retry.ParseRetryAfter(value, start); !ok || got != want {
			t.Errorf("%q: %s, %v; want %s", value, got, ok, want)
		}
	}
	for _, value := range []string{
		"", " ", "-1", "+1", "1.5", "1e3", "1s", "0x10", "1 2", "1,2", "tomorrow", "2026-01-02T03:05:05Z", "１２０",
		"000000000000000000000000000000000000000000000000000000000000000000000000000001",
	} {
		if got, ok := retry.ParseRetryAfter(value, start); ok {
			t.Errorf("%q: taken for %s", value, got)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, seed := range []string{"0", "120", "99999999999999999999", "Fri, 02 Jan 2026 03:05:05 GMT", "Friday, 02-Jan-26 03:05:05 GMT",
		"Fri Jan  2 03:05:05 2026", "-1", "", "\t1 "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := retry.ParseRetryAfter(value, start)
		if got < 0 || got > retry.MaxRetryAfter || !ok && got != 0 {
			t.Fatalf("%q: %s, %v", value, got, ok)
		}
		again, okAgain := retry.ParseRetryAfter(" "+value+"\t", start)
		if ok && len(value) < 60 && (again != got || !okAgain) {
			t.Fatalf("%q: %s, with blanks %s", value, got, again)
		}
	})
}
