package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// recorder remembers which files were synced, with what they held at the time.
type recorder struct {
	mu     sync.Mutex
	synced map[string][]byte
	order  []string
}

func (r *recorder) fsync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.synced == nil {
		r.synced = make(map[string][]byte)
	}
	data, _ := os.ReadFile(f.Name()) // nothing, for a folder
	r.synced[f.Name()] = data
	r.order = append(r.order, f.Name())
	return nil
}

func (r *recorder) take() (map[string][]byte, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, o := r.synced, r.order
	r.synced, r.order = nil, nil
	return s, o
}

// TestFileLayout fails if an upgrade of the server puts its records elsewhere
// than where disk syncs, or writes them after it acknowledged them. Nothing else
// here would notice.
func TestFileLayout(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	dir := t.TempDir()
	j := open(t, Options{Dir: dir, Fsync: rec.fsync, EventsMaxBytes: 1 << 30})
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	blocks := filepath.Join(dir, "jetstream", "$G", "streams", "SEALPOST_EVENTS_0", "msgs")
	rec.take()
	var newest []string
	// Enough for three blocks of 8 MiB, group by group.
	for i := range 40 {
		var es []Entry
		for k := range 3 {
			p := make([]byte, 200_000+rng.IntN(50_000))
			for n := range p {
				p[n] = byte(rng.Uint32())
			}
			es = append(es, Entry{ID: fmt.Sprint(i, "-", k), Payload: p})
		}
		for _, r := range j.Events(0).AcceptAll(t.Context(), es) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		synced, order := rec.take()
		for _, e := range es {
			if !slices.ContainsFunc(order, func(name string) bool {
				return filepath.Dir(name) == blocks && strings.HasSuffix(name, ".blk") && bytes.Contains(synced[name], e.Payload)
			}) {
				t.Fatalf("event %s is in none of the files synced before its answer: %q", e.ID, order)
			}
		}
		for _, name := range order {
			if strings.HasSuffix(name, ".blk") && !slices.Contains(newest, name) {
				newest = append(newest, name)
				if len(newest) > 1 && !slices.Contains(order, blocks) {
					t.Errorf("%s is new, and its folder was not synced: %q", filepath.Base(name), order)
				}
			}
		}
	}
	onDisk, err := filepath.Glob(filepath.Join(blocks, "*.blk"))
	if err != nil || len(onDisk) < 3 || len(newest) != len(onDisk) {
		t.Errorf("synced %d blocks of %d, %v; want all of 3 or more", len(newest), len(onDisk), err)
	}
	// Boundaries come from the heads of those files.
	firsts, err := j.Events(0).disk.boundaries()
	if err != nil || len(firsts) != len(onDisk) || firsts[0] != 1 || !slices.IsSorted(firsts) {
		t.Errorf("first sequences of the blocks %v, %v", firsts, err)
	}
}

func TestOpenSyncsWhatWasLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	mustAccept(t, j, "1", "left behind")
	shut(t, j)
	rec := &recorder{}
	open(t, Options{Dir: dir, Fsync: rec.fsync})
	synced, order := rec.take()
	stream := filepath.Join(dir, "jetstream", "$G", "streams", "SEALPOST_EVENTS_0")
	if !bytes.Contains(synced[filepath.Join(stream, "msgs", "1.blk")], []byte("left behind")) {
		t.Error("the record's block was not synced")
	}
	for _, want := range []string{filepath.Join(stream, "meta.inf"), filepath.Join(stream, "msgs"), stream, filepath.Dir(stream), dir} {
		if !slices.Contains(order, want) {
			t.Errorf("%s was not synced", want)
		}
	}
}

func TestOneProcessPerFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	if _, err := Open(t.Context(), Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second Open: %v", err)
	}
	mustAccept(t, j, "1", "x")
	shut(t, j)
	open(t, Options{Dir: dir})
}

func TestTrim(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	dir := t.TempDir()
	o := Options{Dir: dir, Fsync: rec.fsync, EventsMaxBytes: 1 << 30}
	j := open(t, o)
	fill(t, j, 120, 200_000) // three blocks
	e := j.Events(0)
	if err := e.Trim(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	if st, err := e.State(t.Context()); err != nil || st.First != 1 {
		t.Errorf("trimmed within a block: %+v, %v", st, err)
	}
	before, err := e.disk.blocks()
	if err != nil {
		t.Fatal(err)
	}
	rec.take()
	if err := e.Trim(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	st, err := e.State(t.Context())
	if err != nil || st.First <= 5 || st.First > 101 || st.Last != 120 {
		t.Fatalf("trimmed to 100: %+v, %v", st, err)
	}
	after, err := e.disk.blocks()
	if err != nil || len(after) >= len(before) {
		t.Errorf("blocks %v, before %v, %v", after, before, err)
	}
	if _, order := rec.take(); !slices.Contains(order, e.disk.msgs) {
		t.Errorf("folder not synced: %q", order)
	}
	if _, err := e.Get(t.Context(), st.First-1); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of a trimmed record: %v", err)
	}
	var got []uint64
	if err := e.Range(t.Context(), 1, 200, func(m Message) error { got = append(got, m.Seq); return nil }); err != nil {
		t.Fatal(err)
	}
	if uint64(len(got)) != 120-st.First+1 || got[0] != st.First {
		t.Errorf("range after trim: %d from %d", len(got), got[0])
	}
	mustAccept(t, j, "after", "x")
	if err := e.Trim(t.Context(), 1<<40); err != nil {
		t.Fatal(err)
	}
	mustAccept(t, j, "after-all", "x")
	shut(t, j)
	j = open(t, o)
	if m, err := j.Events(0).Get(t.Context(), 122); err != nil || string(m.Payload) != "x" {
		t.Errorf("after reopening: %v, %v", m, err)
	}
	if r := mustAccept(t, j, "more", "x"); r.Seq != 123 {
		t.Errorf("sequence %d after reopening, want 123", r.Seq)
	}
}

func TestSecureDelete(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	dir := t.TempDir()
	o := Options{Dir: dir, Fsync: rec.fsync}
	j := open(t, o)
	for i := range 10 {
		mustAccept(t, j, strconv.Itoa(i), "the secret of "+strconv.Itoa(i)+".")
	}
	e := j.Events(0)
	rec.take()
	for range 2 { // the second finds nothing to do
		if err := e.SecureDelete(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
	}
	if _, order := rec.take(); !slices.Contains(order, e.disk.msgs) {
		t.Errorf("folder not synced: %q", order)
	}
	if _, err := e.Get(t.Context(), 5); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of an erased record: %v", err)
	}
	mustAccept(t, j, "after", "the secret of nobody.")
	synced, _ := rec.take()
	if !bytes.Contains(synced[e.disk.block(1)], []byte("the secret of nobody.")) {
		t.Error("after the server replaced a block, its successor was not the one synced")
	}
	shut(t, j)
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if bytes.Contains(data, []byte("the secret of 4.")) {
			t.Errorf("%s still holds the record", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	j = open(t, o)
	for i := range 10 {
		m, err := j.Events(0).Get(t.Context(), uint64(i+1))
		if i == 4 && !errors.Is(err, ErrNotFound) || i != 4 && (err != nil || string(m.Payload) != "the secret of "+strconv.Itoa(i)+".") {
			t.Errorf("record %d after reopening: %q, %v", i+1, m.Payload, err)
		}
	}
}

// A block that erasures leave half empty is written anew by the server, which does not sync it: we do, before its name.
func TestSecureDeleteSyncsWhatTheServerCompacts(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	j := open(t, Options{Dir: t.TempDir(), Fsync: rec.fsync})
	big := strings.Repeat("x", 900<<10)
	for i := range 12 {
		mustAccept(t, j, strconv.Itoa(i), "event "+strconv.Itoa(i)+"."+big)
	}
	e := j.Events(0)
	size := func() int64 {
		st, err := os.Stat(e.disk.block(1))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	full := size()
	rec.take()
	if err := e.SecureDelete(t.Context(), 2, 3, 4, 5, 6); err != nil {
		t.Fatal(err)
	}
	if size() > full/2 {
		t.Fatalf("the server left a block of %d bytes of %d: this test is of no use any more", size(), full)
	}
	synced, order := rec.take()
	if got := synced[e.disk.block(1)]; !bytes.Contains(got, []byte("event 0.")) || bytes.Contains(got, []byte("event 3.")) {
		t.Errorf("the block that took the old one's place was not synced: %q", order)
	}
	if i, k := slices.Index(order, e.disk.block(1)), slices.Index(order, e.disk.msgs); i < 0 || k < i {
		t.Errorf("synced in the order %q", order)
	}
}
