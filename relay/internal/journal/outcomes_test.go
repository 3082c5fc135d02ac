package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func appender(t *testing.T, j *Journal) *Appender {
	t.Helper()
	a, err := j.Outcomes(0).NewAppender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestAppender(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	a := appender(t, j)
	const n = 3 * appendWindow
	for i := range n / 2 {
		first, err := a.Append(t.Context(), fmt.Append(nil, 2*i+1), fmt.Append(nil, 2*i+2))
		if err != nil || first != uint64(2*i+1) {
			t.Fatalf("append %d: first %d, %v", i, first, err)
		}
	}
	if seq, err := a.Sync(t.Context()); err != nil || seq != n {
		t.Fatalf("sync: %d, %v", seq, err)
	}
	check := func(j *Journal) {
		t.Helper()
		next := uint64(1)
		err := j.Outcomes(0).Range(t.Context(), 0, n+10, func(m Message) error {
			if m.Seq != next || string(m.Payload) != fmt.Sprint(next) {
				return fmt.Errorf("record %d at %d holds %q", next, m.Seq, m.Payload)
			}
			next++
			return nil
		})
		if err != nil || next != n+1 {
			t.Errorf("read up to %d, %v", next-1, err)
		}
	}
	check(j)
	shut(t, j)
	j = open(t, Options{Dir: dir})
	check(j)
	if first, err := appender(t, j).Append(t.Context(), []byte("x")); err != nil || first != n+1 {
		t.Errorf("append after reopening: %d, %v", first, err)
	}
}

func TestAppenderIsFenced(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	old, next := appender(t, j), appender(t, j)
	if _, err := old.Append(t.Context(), []byte("1"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	// next has learned the end before old wrote: it is the one refused.
	if _, err := next.Append(t.Context(), []byte("lost")); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Sync(t.Context()); !errors.Is(err, ErrFenced) {
		t.Errorf("sync of a late writer: %v", err)
	}
	owner := appender(t, j)
	if first, err := owner.Append(t.Context(), []byte("3")); err != nil || first != 3 {
		t.Fatalf("new owner: %d, %v", first, err)
	}
	if seq, err := owner.Sync(t.Context()); err != nil || seq != 3 {
		t.Fatalf("new owner: %d, %v", seq, err)
	}
	for range 100 { // nothing of what the former owner goes on writing is kept
		if _, err := old.Append(t.Context(), []byte("stale"), []byte("stale")); err != nil && !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := old.Sync(t.Context()); !errors.Is(err, ErrFenced) {
			t.Errorf("sync of the former owner: %v", err)
		}
	}
	if _, err := old.Append(t.Context(), []byte("stale")); !errors.Is(err, ErrFenced) {
		t.Errorf("append of the former owner: %v", err)
	}
	if _, err := owner.Append(t.Context(), []byte("4")); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Sync(t.Context()); err != nil {
		t.Errorf("new owner after the former's attempts: %v", err)
	}
	var got []string
	if err := j.Outcomes(0).Range(t.Context(), 1, 100, func(m Message) error { got = append(got, string(m.Payload)); return nil }); err != nil || strings.Join(got, " ") != "1 2 3 4" {
		t.Errorf("log holds %q, %v", got, err)
	}
}

func TestAppenderRefusals(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir(), MaxEventBytes: 1000, OutcomesMaxBytes: 40_000})
	a := appender(t, j)
	if _, err := a.Append(t.Context(), []byte("fits"), make([]byte, 1001)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if a.Last() != 0 {
		t.Errorf("%d records sent of a refused call", a.Last())
	}
	for range 100 { // into the bound
		if _, err := a.Append(t.Context(), make([]byte, 900)); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if _, err := a.Sync(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("full: %v", err)
	}
	if _, err := a.Sync(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("the first failure stays: %v", err)
	}
	b := appender(t, j)
	b.Close()
	if _, err := b.Append(t.Context(), []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestAppenderStopsWithTheDisk(t *testing.T) {
	t.Parallel()
	g := &gate{}
	j := open(t, Options{Dir: t.TempDir(), Fsync: g.fsync})
	a := appender(t, j)
	g.broken.Store(true)
	if _, err := a.Append(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sync(t.Context()); !errors.Is(err, ErrFailed) {
		t.Errorf("sync: %v", err)
	}
	if _, err := a.Append(t.Context(), []byte("x")); !errors.Is(err, ErrFailed) {
		t.Errorf("append: %v", err)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	for i := range uint64(3) {
		if seq, err := j.Audit().Append(t.Context(), fmt.Append(nil, i)); err != nil || seq != i+1 {
			t.Fatalf("append: %d, %v", seq, err)
		}
	}
	shut(t, j)
	j = open(t, Options{Dir: dir})
	if m, err := j.Audit().Get(t.Context(), 3); err != nil || string(m.Payload) != "2" {
		t.Errorf("get: %v, %v", m, err)
	}
}
