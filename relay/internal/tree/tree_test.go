package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/highwayhash"
	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/proof"
)

// world is a journal with a tree over its audit log.
type world struct {
	t       *testing.T
	dir     string
	outside string
	journal *journal.Journal
	*Tree
}

func newWorld(t *testing.T, outside bool) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	if outside {
		w.outside = filepath.Join(t.TempDir(), "kept")
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.journal, err = journal.Open(w.t.Context(), journal.Options{Dir: w.dir, MinFreeDisk: -1}); err != nil {
		w.t.Fatal(err)
	}
	if w.Tree, err = w.another(); err != nil {
		w.t.Fatal(err)
	}
}

// another is a tree over the same journal, as another process has one.
func (w *world) another() (*Tree, error) {
	w.t.Helper()
	ctx := w.t.Context()
	root, err := keys.NewRoot(bytes.Repeat([]byte{7}, keys.Size))
	if err != nil {
		w.t.Fatal(err)
	}
	tiles, err := w.journal.Bucket(ctx, TilesBucket)
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := w.journal.Bucket(ctx, StateBucket)
	if err != nil {
		w.t.Fatal(err)
	}
	return Open(ctx, Options{Log: w.journal.Audit(), Tiles: tiles, State: state, Sealer: root, Outside: w.outside, Logger: slog.New(slog.DiscardHandler)})
}

func (w *world) close() {
	if w.journal == nil {
		return
	}
	w.Tree.Close()
	w.journal.Close(context.Background())
	w.journal = nil
}

func (w *world) reopen() {
	w.t.Helper()
	w.close()
	w.open()
}

func (w *world) append(records ...string) {
	w.t.Helper()
	for _, r := range records {
		if _, err := w.journal.Audit().Append(w.t.Context(), []byte(r)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// grown has the tree take all that is in the log, and the checkpoint written outside.
func (w *world) grown() {
	w.t.Helper()
	if err := w.step(w.t.Context(), true); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) whole() {
	w.t.Helper()
	if err := w.Halted(); err != nil {
		w.t.Fatalf("halted: %v", err)
	}
}

// broken expects a kind of break, and that it is still known after a start.
func (w *world) isBroken(kind string) {
	w.t.Helper()
	for range 2 {
		if b := w.Broken(); b == nil || b.Kind != kind || !errors.Is(w.Halted(), ErrBroken) {
			w.t.Fatalf("found %+v, halted by %v; want %s", b, w.Halted(), kind)
		}
		w.reopen()
	}
}

func (w *world) accept() {
	w.t.Helper()
	// A log that is cut or made anew is then found not to be what was kept outside, which is another thing to accept.
	for n := 0; n == 0 || w.Broken() != nil && n < 2; n++ {
		if b, err := w.Accept(w.t.Context()); err != nil || b == nil {
			w.t.Fatalf("accept: %+v, %v", b, err)
		}
	}
	w.whole()
	w.append("who accepted it")
	w.grown()
	w.whole()
	w.reopen()
	w.whole()
	w.grown()
}

func records(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("record %d", i+1))
	}
	return out
}

// verify verifies everything that the tree gives out, by the public key alone.
func (w *world) verify(want []string) {
	w.t.Helper()
	ctx := w.t.Context()
	c, signed := w.Checkpoint()
	if got, err := proof.ParseCheckpoint(signed, w.Key()); err != nil || got != c || c.Size != int64(len(want)) {
		w.t.Fatalf("checkpoint %+v, %v; want %d records", c, err, len(want))
	}
	r := new(proof.Range)
	for i, record := range want {
		old := proof.Checkpoint{Origin: c.Origin, Size: r.Size(), Root: r.Root()}
		tops, err := w.Tops(ctx, c, int64(i))
		if err != nil || !slices.Equal(tops, r.Tops()) {
			w.t.Fatalf("tops before %d: %v", i, err)
		}
		r.Add(proof.RecordHash([]byte(record)))
		p, err := w.Inclusion(ctx, uint64(i)+1)
		if err != nil || string(p.Record) != record {
			w.t.Fatalf("inclusion of %d: %q, %v", i+1, p.Record, err)
		}
		if _, err := p.Verify(w.Key()); err != nil {
			w.t.Fatal(err)
		}
		since, err := w.Consistency(ctx, old.Size)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := since.Verify(w.Key(), old); err != nil {
			w.t.Fatalf("since %d: %v", old.Size, err)
		}
	}
	if r.Root() != c.Root {
		w.t.Fatal("the root is not that of the records")
	}
}

func TestTreeFollowsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.whole()
	all := records(3)
	w.append(all...)
	w.grown()
	w.verify(all)
	w.reopen()
	w.whole()
	w.verify(all)
	more := records(600)[3:]
	w.append(more...)
	w.grown()
	all = append(all, more...)
	w.verify(all)
	if n, err := w.Scrub(t.Context()); err != nil || n != 600 {
		t.Errorf("scrubbed %d, %v", n, err)
	}
	w.reopen()
	w.whole()
	if _, err := w.Inclusion(t.Context(), 601); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("a record that is not there: %v", err)
	}
	in, err := os.Open(w.outside)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if kept, damaged, err := proof.ReadPublished(in, w.Key()); err != nil || damaged > 0 || len(kept) != 2 || kept[1].Size != 600 {
		t.Errorf("outside: %+v, %d damaged, %v", kept, damaged, err)
	}
}

// A tree that was grown in any steps, by several processes, is the one that the library makes at once.
func TestStepsDoNotMatter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	other, err := w.another()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		if n > 3000 {
			return
		}
		for _, more := range rapid.SliceOfN(rapid.IntRange(1, 40), 1, 3).Draw(rt, "steps") {
			for range more {
				n++
				w.append(fmt.Sprintf("record %d", n))
			}
			who := w.Tree
			if rapid.Bool().Draw(rt, "by the other") {
				who = other
			}
			for err := who.step(t.Context(), false); err != nil; err = who.step(t.Context(), false) {
				if !errors.Is(err, errRaced) {
					rt.Fatal(err)
				}
				if err := who.reload(t.Context()); err != nil {
					rt.Fatal(err)
				}
			}
			r := new(proof.Range)
			for i := range n {
				r.Add(proof.RecordHash(fmt.Appendf(nil, "record %d", i+1)))
			}
			if c, _ := who.Checkpoint(); c.Size != int64(n) || c.Root != r.Root() {
				rt.Fatalf("%d records, root %v; want %d, %v", c.Size, c.Root, n, r.Root())
			}
		}
	})
}

// kill -9 between any two writes of a step: whatever was written, the next start makes the same tree.
func TestKilledBetweenWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.append(records(300)...)
	w.grown()
	before := w.now()
	w.append(records(700)[300:]...)
	for writes := 0; ; writes++ {
		w.reopen()
		left := writes
		w.tiles.bucket = failing{w.tiles.bucket, &left}
		w.o.State = failing{w.o.State, &left}
		err := w.step(t.Context(), false)
		if err == nil {
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if h := w.now(); h.Checkpoint != before.Checkpoint {
			t.Fatalf("after %d writes the head moved to %d", writes, h.Size)
		}
		if root, err := w.tiles.rootAt(t.Context(), before.tree(), 300); err != nil || root != before.Root {
			t.Fatalf("after %d writes the old tree cannot be read: %v", writes, err)
		}
	}
	w.reopen()
	w.whole()
	w.verify(records(700))
}

var errKilled = errors.New("killed")

// failing lets so many writes pass.
type failing struct {
	Bucket
	left *int
}

func (f failing) spend() error {
	if *f.left--; *f.left < 0 {
		return errKilled
	}
	return nil
}

func (f failing) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := f.spend(); err != nil {
		return 0, err
	}
	return f.Bucket.Create(ctx, key, value)
}

func (f failing) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := f.spend(); err != nil {
		return 0, err
	}
	return f.Bucket.Update(ctx, key, value, revision)
}

// Hashes outlive the records that retention takes, and the proofs of what is left hold.
func TestTrimmedRecords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	big := strings.Repeat("x", 64<<10)
	var all []string
	for i := range 400 { // some blocks of 8 MiB
		all = append(all, fmt.Sprint(i, big))
	}
	w.append(all...)
	w.grown()
	kept, _ := w.Checkpoint()
	if err := w.journal.Audit().Trim(t.Context(), 300); err != nil {
		t.Fatal(err)
	}
	st, err := w.journal.Audit().State(t.Context())
	if err != nil || st.First < 100 {
		t.Fatalf("trimmed to %d, %v", st.First, err)
	}
	w.reopen()
	w.whole()
	w.append("one more")
	w.grown()
	if n, err := w.Scrub(t.Context()); err != nil || n != int64(401-st.First+1) {
		t.Errorf("scrubbed %d from %d on, %v", n, st.First, err)
	}
	w.whole()
	if p, err := w.Inclusion(t.Context(), st.First); err != nil {
		t.Error(err)
	} else if _, err := p.Verify(w.Key()); err != nil {
		t.Error(err)
	}
	if p, err := w.Consistency(t.Context(), kept.Size); err != nil {
		t.Error(err)
	} else if _, err := p.Verify(w.Key(), kept); err != nil {
		t.Error(err)
	}
	if _, err := w.Inclusion(t.Context(), 1); !errors.Is(err, journal.ErrNotFound) {
		t.Errorf("a record that is gone: %v", err)
	}
	// Tiles that were lost are made anew where the records are there, and of nothing else.
	tiles := w.tiles
	root, err := tiles.rootAt(t.Context(), w.now().tree(), 401)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tiles.bucket.Put(t.Context(), place{1, 0}.key(), []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	w.whole()
	if again, err := w.tiles.rootAt(t.Context(), w.now().tree(), 401); err != nil || again != root {
		t.Errorf("made anew: %v", err)
	}
	for _, p := range []place{{0, 0}, {1, 0}} {
		if _, err := w.tiles.bucket.Put(t.Context(), p.key(), []byte("damaged")); err != nil {
			t.Fatal(err)
		}
	}
	w.reopen()
	w.isBroken(kindTree)
	w.accept()
}

// forge makes the journal's audit log anew, with all that its buckets hold.
func (w *world) forge(change func([]journal.Stored) []journal.Stored) {
	w.t.Helper()
	ctx := w.t.Context()
	fresh := w.t.TempDir()
	to, err := journal.Open(ctx, journal.Options{Dir: fresh, MinFreeDisk: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []journal.Stored
	upTo, err := w.journal.Audit().Synced(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.journal.Audit().Copy(ctx, upTo, func(s journal.Stored) error { all = append(all, s); return nil }); err != nil {
		w.t.Fatal(err)
	}
	log, err := to.Logs()["AUDIT"].Load(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, s := range change(all) {
		s.Seq = uint64(i) + 1
		if err := log.Add(ctx, s); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := log.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{TilesBucket, StateBucket} {
		from, err := w.journal.Bucket(ctx, name)
		if err != nil {
			w.t.Fatal(err)
		}
		bucket, err := to.Bucket(ctx, name)
		if err != nil {
			w.t.Fatal(err)
		}
		loader, err := bucket.Load(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := from.Copy(ctx, func(s journal.Stored) error { return loader.Add(ctx, s) }); err != nil {
			w.t.Fatal(err)
		}
		if err := loader.Close(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := to.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.close()
	w.dir = fresh
	w.open()
}

func TestTamperingIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func([]journal.Stored) []journal.Stored
		kind   string
	}{
		"changed":   {func(s []journal.Stored) []journal.Stored { s[4].Data = []byte("forged"); return s }, kindRecord},
		"removed":   {func(s []journal.Stored) []journal.Stored { return slices.Delete(s, 4, 5) }, kindTruncated},
		"swapped":   {func(s []journal.Stored) []journal.Stored { s[3].Data, s[4].Data = s[4].Data, s[3].Data; return s }, kindRecord},
		"truncated": {func(s []journal.Stored) []journal.Stored { return s[:7] }, kindTruncated},
		"inserted": {func(s []journal.Stored) []journal.Stored {
			return slices.Insert(s, 4, journal.Stored{Data: []byte("forged")})
		}, kindRecord},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, false)
			w.append(records(10)...)
			w.grown()
			w.forge(c.change)
			if c.kind == kindRecord {
				w.grown()
				w.whole() // nobody has looked yet
				if _, err := w.Scrub(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.isBroken(c.kind)
			if _, err := w.Inclusion(t.Context(), 5); err == nil && name != "truncated" {
				t.Error("a record that was tampered with is proven")
			}
			w.accept()
			// What was found stays to be seen: a second scrub raises nothing new.
			if _, err := w.Scrub(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.kind == kindRecord {
				w.whole()
			}
		})
	}
}

// A log and tree that were made anew, with the key itself, are found by the checkpoint outside alone.
func TestRebuiltTreeIsFound(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]bool{"with its key": true, "with all new": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, true)
			w.append(records(10)...)
			w.grown()
			var key journal.Item
			state, err := w.journal.Bucket(t.Context(), StateBucket)
			if err != nil {
				t.Fatal(err)
			}
			if key, err = state.Get(t.Context(), keySigner); err != nil {
				t.Fatal(err)
			}
			w.close()
			w.dir = t.TempDir()
			forged, err := journal.Open(t.Context(), journal.Options{Dir: w.dir, MinFreeDisk: -1})
			if err != nil {
				t.Fatal(err)
			}
			if keep {
				if state, err = forged.Bucket(t.Context(), StateBucket); err != nil {
					t.Fatal(err)
				}
				if _, err := state.Put(t.Context(), keySigner, key.Value); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 12 {
				if _, err := forged.Audit().Append(t.Context(), fmt.Appendf(nil, "forged %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := forged.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.open()
			if !errors.Is(w.Halted(), ErrBroken) {
				t.Fatal("acts are done before the log is compared with the checkpoint outside")
			}
			w.grown()
			w.isBroken(map[bool]string{true: kindOutside, false: kindStranger}[keep])
			w.accept()
			in, err := os.ReadFile(w.outside)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := proof.ReadPublished(bytes.NewReader(in), w.Key()); err == nil && !keep {
				t.Error("who reads the file outside does not see that the log is another")
			}
			if !keep {
				return
			}
			// Of a log of another size only the records tell that it is another.
			known, _, err := proof.ReadPublished(bytes.NewReader(in), w.Key())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.export(known); !errors.Is(err, proof.ErrMismatch) {
				t.Errorf("an export is compared with what was kept outside: %v", err)
			}
		})
	}
}

// export verifies all records against known checkpoints.
func (w *world) export(known []proof.Checkpoint) error {
	w.t.Helper()
	_, signed := w.Checkpoint()
	var b bytes.Buffer
	e, err := proof.NewExportWriter(&b, signed, 0, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	err = w.journal.Audit().Range(w.t.Context(), 1, ^uint64(0), func(m journal.Message) error { return e.Add(m.Payload) })
	if err = errors.Join(err, e.Close()); err != nil {
		w.t.Fatal(err)
	}
	_, err = proof.VerifyExport(&b, w.Key(), known, nil)
	return err
}

// A copy that is older than the last checkpoint outside, as after a restore, is found before anything is done.
func TestOlderCopyIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.append(records(10)...)
	w.grown()
	copied := t.TempDir()
	w.close()
	if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.append("lost")
	w.grown()
	w.close()
	w.dir = copied
	w.open()
	w.isBroken(kindOutside)
	w.accept()
}

func TestCheckpointOfNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.append(records(3)...)
	w.grown()
	_, signed := w.Checkpoint()
	if _, err := w.o.State.Put(t.Context(), keyCheckpoint, bytes.Replace(signed, []byte("\n3\n"), []byte("\n2\n"), 1)); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	w.isBroken(kindSignature)
	w.accept()
	w.verify(append(records(3), "who accepted it"))
}

// A byte that was changed in the file of the log, with a right checksum, is found.
func TestChangedByteOnDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.append(records(10)...)
	w.grown()
	w.close()
	name := filepath.Join(w.dir, "jetstream", "$G", "streams", "SEALPOST_AUDIT", "msgs", "1.blk")
	block, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, block, []byte("record 5"), []byte("RECORD 5"))
	if err := os.WriteFile(name, block, 0o600); err != nil {
		t.Fatal(err)
	}
	// Its index would tell that the block changed; it is made anew without.
	if err := os.Remove(filepath.Join(filepath.Dir(name), "index.db")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	w.open()
	if m, err := w.journal.Audit().Get(t.Context(), 5); err != nil || string(m.Payload) != "RECORD 5" {
		t.Fatalf("the server does not take the forged record: %q, %v", m.Payload, err)
	}
	w.whole()
	if _, err := w.Inclusion(t.Context(), 5); !errors.Is(err, ErrBroken) {
		t.Errorf("proven: %v", err)
	}
	if _, err := w.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.isBroken(kindRecord)
}

// rewrite changes the text of a record in a block of the server's and sets its checksum: length (4 bytes), sequence (8), time (8), length of the
// subject (2), subject, message, HighwayHash-64 of sequence, time, subject and message.
func rewrite(t *testing.T, block, old, fresh []byte) {
	t.Helper()
	const head, sum = 22, 8
	for at := 0; at+head < len(block); {
		length := int(binary.LittleEndian.Uint32(block[at:]) & 0x7fffffff)
		record := block[at : at+length]
		if i := bytes.Index(record, old); i >= 0 {
			key := sha256.Sum256([]byte("SEALPOST_AUDIT-1"))
			h, err := highwayhash.NewDigest64(key[:])
			if err != nil {
				t.Fatal(err)
			}
			subject := int(binary.LittleEndian.Uint16(record[20:]))
			hash := func() []byte {
				h.Reset()
				h.Write(record[4:20])
				h.Write(record[head : head+subject])
				h.Write(record[head+subject : length-sum])
				return h.Sum(nil)
			}
			if !bytes.Equal(hash(), record[length-sum:]) {
				t.Fatal("the server's checksum is another: its file format has changed")
			}
			copy(record[i:], fresh)
			copy(record[length-sum:], hash())
			return
		}
		at += length
	}
	t.Fatalf("%q is not in the block", old)
}

func TestOutsideFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.append("a")
	w.grown()
	// A line that a process was killed in the middle of.
	f, err := os.OpenFile(w.outside, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-01-02T03:04`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.reopen()
	w.whole()
	w.append("b")
	w.grown()
	text, err := os.ReadFile(w.outside)
	if err != nil {
		t.Fatal(err)
	}
	if all, damaged, err := proof.ReadPublished(bytes.NewReader(text), w.Key()); err != nil || damaged != 1 || len(all) != 2 {
		t.Fatalf("%+v, %d, %v in\n%s", all, damaged, err, text)
	}
	// A file that holds something else is not one to go by.
	if err := os.WriteFile(w.outside, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	if b := w.Broken(); b == nil || b.Kind != kindStranger {
		t.Errorf("found %+v", b)
	}
	// A place that is gone is told, and nothing else is lost by it.
	v := newWorld(t, true)
	if err := os.RemoveAll(filepath.Dir(v.outside)); err != nil {
		t.Fatal(err)
	}
	v.append("a")
	v.grown()
	if v.Unpublished() == nil {
		t.Error("nobody is told that nothing is written outside")
	}
	v.whole()
}

// Build does by itself what the other tests do by hand, and writes the last checkpoint outside when it ends.
func TestBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Build(ctx) }()
	w.append(records(5)...)
	wait, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if c, _ := w.Await(wait, 5); c.Size < 5 {
		t.Fatalf("grown to %d", c.Size)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.verify(records(5))
	text, err := os.ReadFile(w.outside)
	if err != nil {
		t.Fatal(err)
	}
	if all, _, err := proof.ReadPublished(bytes.NewReader(text), w.Key()); err != nil || all[len(all)-1].Size != 5 {
		t.Errorf("outside: %+v, %v", all, err)
	}
}
