package quota

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func sizes(n, each int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = each
	}
	return out
}

// However it is asked, a tenant never gets more than its burst and its rate beyond, in events and in bytes; another's asking
// takes nothing from it; and who comes again when it was told gets something.
func TestQuotaHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := start
		limit := Limit{
			EventsPerSecond: rapid.SampledFrom([]int64{0, 1, 10, 500}).Draw(t, "events"),
			BytesPerSecond:  rapid.SampledFrom([]int64{0, 100, 5000}).Draw(t, "bytes"),
		}
		p, err := New(Options{Tenants: map[string]Limit{"a": limit, "b": {EventsPerSecond: 1}}, MaxEvent: 1000, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		events, bytes := 0.0, 0.0
		for range 100 {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			ask := sizes(rapid.IntRange(1, 50).Draw(t, "n"), rapid.IntRange(1, 1000).Draw(t, "size"))
			if rapid.Bool().Draw(t, "other") {
				p.Take(t.Context(), "b", ask)
			}
			may, again := p.Take(t.Context(), "a", ask)
			events += float64(may)
			for _, size := range ask[:may] {
				bytes += float64(size)
			}
			since := now.Sub(start).Seconds()
			if most := float64(max(1, limit.EventsPerSecond)) + float64(limit.EventsPerSecond)*since; limit.EventsPerSecond > 0 && events > most+1e-6 {
				t.Fatalf("%v events in %v s, at most %v", events, since, most)
			}
			if most := float64(max(1000, limit.BytesPerSecond)) + float64(limit.BytesPerSecond)*since; limit.BytesPerSecond > 0 && bytes > most+1e-6 {
				t.Fatalf("%v bytes in %v s, at most %v", bytes, since, most)
			}
			if may < len(ask) && (again < shortest || again > longest) {
				t.Fatalf("%d of %d, again in %v", may, len(ask), again)
			}
		}
		for range 20 { // it is never for ever
			may, again := p.Take(t.Context(), "a", []int{1000})
			if may == 1 {
				return
			}
			now = now.Add(again)
		}
		t.Fatal("who comes again when it was told to is refused")
	})
}

func TestTenantsWithoutQuota(t *testing.T) {
	t.Parallel()
	none, err := New(Options{})
	if none != nil || err != nil {
		t.Fatal(none, err)
	}
	if may, _ := none.Take(t.Context(), "a", sizes(5, 1)); may != 5 || none.Degraded() {
		t.Error(may)
	}
	p, err := New(Options{Default: Limit{EventsPerSecond: 2}, Tenants: map[string]Limit{"free": {}}})
	if err != nil {
		t.Fatal(err)
	}
	if may, _ := p.Take(t.Context(), "free", sizes(100, 1)); may != 100 {
		t.Errorf("a tenant of its own quota, which is none, got %d", may)
	}
	for _, bad := range []Options{{Burst: -1}, {Processes: -1}, {Default: Limit{EventsPerSecond: -1}}, {Tenants: map[string]Limit{"a": {BytesPerSecond: -1}}}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// counter is a shared counter that can be out of reach.
type counter struct {
	left  int64
	err   error
	asked int
}

func (c *counter) Spend(_ context.Context, _ string, _, _, n int64) (bool, time.Duration, error) {
	c.asked++
	if c.err != nil {
		return false, 0, c.err
	}
	if n > c.left {
		return false, 300 * time.Millisecond, nil
	}
	c.left -= n
	return true, 0, nil
}

// With a shared counter its word counts; without it, this process's part, and that is said once.
func TestSharedCounterAway(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now, shared := start, &counter{left: 3}
	p, err := New(Options{
		Default: Limit{EventsPerSecond: 100}, Processes: 4, Shared: shared, Now: func() time.Time { return now },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if may, again := p.Take(t.Context(), "a", sizes(4, 1)); may != 2 || again != 300*time.Millisecond || p.Degraded() {
		t.Fatalf("%d, %v", may, again)
	}
	shared.err = errors.New("no route")
	if may, _ := p.Take(t.Context(), "a", sizes(100, 1)); may != 100 || !p.Degraded() {
		t.Fatalf("the burst: %d", may)
	}
	asked := shared.asked
	if may, _ := p.Take(t.Context(), "a", sizes(1, 1)); may != 0 || shared.asked != asked {
		t.Fatalf("beyond the burst: %d; asked %d times", may, shared.asked-asked)
	}
	now = now.Add(500 * time.Millisecond)
	for i, want := range []int{12, 0} { // half a second of a quarter of 100 a second, and a power of two of what is asked
		if may, _ := p.Take(t.Context(), "a", sizes(12, 1)); may != want {
			t.Fatalf("%d: %d", i, may)
		}
	}
	now, shared.err, shared.left = now.Add(time.Second), nil, 7
	if may, _ := p.Take(t.Context(), "a", sizes(7, 1)); may != 7 || p.Degraded() {
		t.Fatalf("back again: %d", may)
	}
	if n := strings.Count(log.String(), "cannot be reached"); n != 1 || strings.Count(log.String(), "together again") != 1 {
		t.Fatalf("said %d times:\n%s", n, log.String())
	}
}
