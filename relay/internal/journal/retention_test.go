package journal

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestExpirePoint(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	log := j.Events(0)
	var times []time.Time
	for i := range 10 {
		r := mustAccept(t, j, strconv.Itoa(i), "x")
		times = append(times, r.Time)
		time.Sleep(2 * time.Millisecond) // so that no two are accepted at one time
	}
	if err := log.SecureDelete(t.Context(), 4, 5); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keep uint64
		old  int // events older than the cutoff
		want uint64
	}{
		{11, 0, 0}, {11, 10, 10}, {11, 3, 3}, {11, 6, 6}, {11, 9, 9}, {11, 1, 1},
		{1, 10, 0}, {2, 10, 1}, {8, 10, 7}, {8, 3, 3}, {5, 10, 4}, {6, 10, 5}, {1 << 62, 10, 10},
	} {
		cutoff := times[0].Add(-time.Second)
		if c.old > 0 {
			cutoff = times[c.old-1].Add(time.Millisecond)
		}
		got, err := log.expirePoint(t.Context(), c.keep, cutoff, 0.8)
		if err != nil {
			t.Fatal(err)
		}
		// Erased records may be counted to either side.
		if got != c.want && !(c.want == 3 && got == 5) && !(c.want == 4 && got == 3) && !(c.want == 5 && got == 3) {
			t.Errorf("keep %d, %d old: up to %d, want %d", c.keep, c.old, got, c.want)
		}
	}
}

// The audit log lets go of what is past its time, and of nothing else, however full it is: what is in it can be asked for.
func TestAuditExpires(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir(), AuditMaxBytes: 24 << 20})
	audit := j.Audit()
	fill := func() (n int) {
		for {
			if _, err := audit.Append(t.Context(), []byte(strings.Repeat("x", 256<<10))); err != nil {
				return n
			}
			n++
		}
	}
	n := fill()
	if n < 50 || n > 100 {
		t.Fatalf("%d records fit into a bound of 24 MiB", n)
	}
	expire := func(before time.Time) State {
		t.Helper()
		if err := audit.Expire(t.Context(), math.MaxUint64, before, 0); err != nil {
			t.Fatal(err)
		}
		st, err := audit.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := expire(time.Now().Add(-time.Hour)); int(st.Messages) != n {
		t.Fatalf("%d records are left of %d, none of which is old", st.Messages, n)
	}
	st := expire(time.Now().Add(time.Hour))
	if int(st.Messages) > n/2 {
		t.Fatalf("%d records are left of %d, all of which are old", st.Messages, n)
	}
	if again := fill(); again < n/2 {
		t.Errorf("there is room for %d", again)
	}
}
