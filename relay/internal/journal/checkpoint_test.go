package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"
)

func checkpoint(size int, seed byte) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func wantCheckpoint(t *testing.T, j *Journal, p int, want []byte) {
	t.Helper()
	got, ok, err := j.LoadCheckpoint(t.Context(), p)
	if err != nil || ok != (want != nil) || !bytes.Equal(got, want) {
		t.Errorf("checkpoint of %d bytes, %v, %v; want %d bytes, the same: %v", len(got), ok, err, len(want), bytes.Equal(got, want))
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir(), Partitions: 2}
	j := open(t, o)
	wantCheckpoint(t, j, 0, nil)
	for i, size := range []int{0, 1, checkpointChunk, checkpointChunk + 1, 20 << 20, 30 << 20, 10 << 20, 100} {
		data := checkpoint(size, byte(i))
		if err := j.SaveCheckpoint(t.Context(), 0, data); err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			wantCheckpoint(t, j, 0, data)
		}
	}
	wantCheckpoint(t, j, 1, nil)
	if st, err := j.saves[0].State(t.Context()); err != nil || st.Bytes > 30<<20 {
		t.Errorf("the former ones are still there: %+v, %v", st, err)
	}
	shut(t, j)
	wantCheckpoint(t, open(t, o), 0, checkpoint(100, 7))
}

// Wherever a save is cut, the former checkpoint stays in force, and the next save works.
func TestCheckpointCutAnywhere(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	// What a whole save appends.
	src := open(t, Options{Dir: filepath.Join(root, "src")})
	next := checkpoint(3*checkpointChunk+5, 2)
	if err := src.SaveCheckpoint(t.Context(), 0, next); err != nil {
		t.Fatal(err)
	}
	var records [][]byte
	if err := src.saves[0].Range(t.Context(), 1, 100, func(m Message) error { records = append(records, m.Payload); return nil }); err != nil || len(records) != 5 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	former := checkpoint(2*checkpointChunk, 1)
	for cut := range len(records) + 1 {
		o := Options{Dir: filepath.Join(root, strconv.Itoa(cut))}
		j := open(t, o)
		if err := j.SaveCheckpoint(t.Context(), 0, former); err != nil {
			t.Fatal(err)
		}
		a, err := j.saves[0].appender(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Append(t.Context(), records[:cut]...); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.Close()
		shut(t, j)
		j = open(t, o)
		if cut < len(records) {
			wantCheckpoint(t, j, 0, former)
		} else {
			wantCheckpoint(t, j, 0, next) // sealed, the former not yet given up
		}
		last := checkpoint(10, 3)
		if err := j.SaveCheckpoint(t.Context(), 0, last); err != nil {
			t.Fatal(err)
		}
		wantCheckpoint(t, j, 0, last)
	}
}

// A seal that does not fit its parts counts for nothing.
func TestCheckpointDamaged(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	former := checkpoint(100, 1)
	if err := j.SaveCheckpoint(t.Context(), 0, former); err != nil {
		t.Fatal(err)
	}
	gen := "12345678"
	for _, bad := range [][]string{
		{"S" + gen},
		{"S" + gen + "\x00\x00\x00\x00" + string(make([]byte, 32))},
		{"P" + gen + "data", "S" + gen + "\x00\x00\x00\x01" + string(make([]byte, 32))},
		{"P"}, {""}, {"X" + gen},
	} {
		a, err := j.saves[0].appender(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range bad {
			if _, err := a.Append(t.Context(), []byte(r)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.Close()
		wantCheckpoint(t, j, 0, former)
	}
}

func TestCheckpointSavedTwiceAtOnce(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	errs := make(chan error)
	saves := map[string]bool{}
	for i := range byte(4) {
		data := checkpoint(3*checkpointChunk, i)
		saves[fmt.Sprintf("%x", data[:8])] = true
		go func() { errs <- j.SaveCheckpoint(t.Context(), 0, data) }()
	}
	saved := 0
	for range 4 {
		switch err := <-errs; {
		case err == nil:
			saved++
		case !errors.Is(err, ErrFenced):
			t.Error(err)
		}
	}
	got, ok, err := j.LoadCheckpoint(t.Context(), 0)
	if err != nil || ok != (saved > 0) {
		t.Fatalf("%d saved; loaded: %v, %v", saved, ok, err)
	}
	if ok && (len(got) != 3*checkpointChunk || !saves[fmt.Sprintf("%x", got[:8])]) {
		t.Errorf("loaded %d bytes that nobody saved", len(got))
	}
}
