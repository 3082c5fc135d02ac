package proof_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/proof"
)

// log is a log with all of its hashes in memory, built by the library that the relay builds its own with.
type log struct {
	records [][]byte
	hashes  []tlog.Hash
	signer  note.Signer
	key     proof.Key
}

func newLog(t interface{ Fatal(...any) }, records ...[]byte) *log {
	private, public, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), "sealpost.audit/test")
	if err != nil {
		t.Fatal(err)
	}
	l := &log{}
	if l.signer, err = note.NewSigner(private); err != nil {
		t.Fatal(err)
	}
	if l.key, err = proof.ParseKey(public); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		more, err := tlog.StoredHashes(int64(len(l.records)), r, l)
		if err != nil {
			t.Fatal(err)
		}
		l.records, l.hashes = append(l.records, r), append(l.hashes, more...)
	}
	return l
}

func (l *log) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		out[i] = l.hashes[n]
	}
	return out, nil
}

func (l *log) at(t interface{ Fatal(...any) }, size int64) (proof.Checkpoint, []byte) {
	c := proof.Checkpoint{Origin: l.key.Name(), Size: size, Root: proof.EmptyRoot()}
	var err error
	if size > 0 {
		if c.Root, err = tlog.TreeHash(size, l); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := c.Sign(l.signer)
	if err != nil {
		t.Fatal(err)
	}
	return c, signed
}

func drawLog(t *rapid.T) *log {
	return newLog(t, rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 20), 1, 70).Draw(t, "records")...)
}

func TestEmptyRoot(t *testing.T) {
	t.Parallel()
	if want := sha256.Sum256(nil); proof.EmptyRoot() != want || new(proof.Range).Root() != want {
		t.Fatal("the root of no records is the hash of nothing")
	}
}

func TestRangeIsTheTree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t)
		r, from := new(proof.Range), rapid.IntRange(0, len(l.records)).Draw(t, "begun again at")
		for i, record := range l.records {
			if i == from {
				again, err := proof.NewRange(r.Size(), r.Tops())
				if err != nil {
					t.Fatal(err)
				}
				r = again
			}
			r.Add(proof.RecordHash(record))
			if c, _ := l.at(t, int64(i+1)); r.Root() != c.Root || r.Size() != c.Size {
				t.Fatalf("after %d records", i+1)
			}
		}
	})
}

func TestInclusion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t)
		size := rapid.Int64Range(1, int64(len(l.records))).Draw(t, "size")
		index := rapid.Int64Range(0, size-1).Draw(t, "index")
		want, signed := l.at(t, size)
		path, err := tlog.ProveRecord(size, index, l)
		if err != nil {
			t.Fatal(err)
		}
		made := proof.Inclusion{Index: index, Record: l.records[index], Path: path, Checkpoint: signed}
		p, err := proof.ParseInclusion(made.Format())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Verify(l.key); err != nil || got != want {
			t.Fatalf("%+v, %v", got, err)
		}
		// Whatever is changed, it is found.
		bad := p
		switch rapid.SampledFrom([]string{"record", "index", "path", "cut", "longer"}).Draw(t, "change") {
		case "record":
			bad.Record = append(slices.Clone(p.Record), 1)
		case "index":
			bad.Index = rapid.Int64Range(0, 80).Filter(func(n int64) bool { return n != index }).Draw(t, "other index")
			if bad.Index < size && bytes.Equal(l.records[bad.Index], l.records[index]) {
				return
			}
		case "path":
			if len(p.Path) == 0 {
				return
			}
			bad.Path = slices.Clone(p.Path)
			bad.Path[rapid.IntRange(0, len(p.Path)-1).Draw(t, "at")][3] ^= 1
		case "cut":
			if len(p.Path) == 0 {
				return
			}
			bad.Path = p.Path[1:]
		case "longer":
			bad.Path = append(slices.Clone(p.Path), proof.Hash{})
		}
		if _, err := bad.Verify(l.key); !errors.Is(err, proof.ErrMismatch) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestConsistency(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t)
		size := rapid.Int64Range(1, int64(len(l.records))).Draw(t, "size")
		old := rapid.Int64Range(0, size).Draw(t, "old")
		want, signed := l.at(t, size)
		before, _ := l.at(t, old)
		var path []proof.Hash
		if old > 0 && old < size {
			var err error
			if path, err = tlog.ProveTree(size, old, l); err != nil {
				t.Fatal(err)
			}
		}
		p, err := proof.ParseConsistency(proof.Consistency{Old: old, Path: path, Checkpoint: signed}.Format())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Verify(l.key, before); err != nil || got != want {
			t.Fatalf("%+v, %v", got, err)
		}
		// Of a log in which an earlier record was another, there is none.
		if old == 0 {
			before.Root[0] ^= 1
		} else {
			forged := slices.Clone(l.records)
			at := rapid.Int64Range(0, old-1).Draw(t, "forged")
			forged[at] = append(slices.Clone(forged[at]), 1)
			before, _ = newLog(t, forged...).at(t, old)
		}
		if _, err := p.Verify(l.key, before); !errors.Is(err, proof.ErrMismatch) {
			t.Fatalf("got %v", err)
		}
	})
}

// export writes one of a log from first on.
func (l *log) export(t interface{ Fatal(...any) }, first, size int64, records [][]byte) []byte {
	r := new(proof.Range)
	for _, record := range l.records[:first] {
		r.Add(proof.RecordHash(record))
	}
	_, signed := l.at(t, size)
	var b bytes.Buffer
	w, err := proof.NewExportWriter(&b, signed, first, r.Tops())
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		if err := w.Add(record); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExport(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t)
		size := int64(len(l.records))
		first := rapid.Int64Range(0, size).Draw(t, "first")
		var known []proof.Checkpoint
		for _, n := range rapid.SliceOfN(rapid.Int64Range(first, size), 0, 4).Draw(t, "known") {
			c, _ := l.at(t, n)
			known = append(known, c)
		}
		n := int64(0)
		out, err := proof.VerifyExport(bytes.NewReader(l.export(t, first, size, l.records[first:])), l.key, known, func(index int64, record []byte) error {
			if index != first+n || !bytes.Equal(record, l.records[index]) {
				t.Errorf("record %d is given as %d", first+n, index)
			}
			n++
			return nil
		})
		if err != nil || out.Known != len(known) || out.Unknown != 0 || n != size-first {
			t.Fatalf("%+v, %d records, %v", out, n, err)
		}
		if first == size {
			return
		}
		records := slices.Clone(l.records[first:])
		i := rapid.IntRange(0, len(records)-1).Draw(t, "at")
		switch rapid.SampledFrom([]string{"changed", "removed", "repeated", "moved", "truncated"}).Draw(t, "how") {
		case "changed":
			records[i] = append(slices.Clone(records[i]), 0)
		case "removed":
			records = slices.Delete(records, i, i+1)
		case "repeated":
			records = slices.Insert(records, i, records[i])
		case "moved":
			j := rapid.IntRange(0, len(records)-1).Draw(t, "with")
			if bytes.Equal(records[i], records[j]) {
				return
			}
			records[i], records[j] = records[j], records[i]
		case "truncated":
			records = records[:i]
		}
		if _, err := proof.VerifyExport(bytes.NewReader(l.export(t, first, size, records)), l.key, nil, nil); !errors.Is(err, proof.ErrMismatch) {
			t.Fatalf("got %v", err)
		}
	})
}

// A tree that was built anew over changed records, and signed with the right key, is found by an earlier checkpoint.
func TestRebuiltTreeIsFound(t *testing.T) {
	t.Parallel()
	l := newLog(t, []byte("a"), []byte("b"), []byte("c"))
	kept, _ := l.at(t, 2)
	forged := newLog(t, []byte("a"), []byte("B"), []byte("c"), []byte("d"))
	text := forged.export(t, 0, 4, forged.records)
	if _, err := proof.VerifyExport(bytes.NewReader(text), l.key, nil, nil); err != nil {
		t.Fatalf("by itself it is whole: %v", err)
	}
	if _, err := proof.VerifyExport(bytes.NewReader(text), l.key, []proof.Checkpoint{kept}, nil); !errors.Is(err, proof.ErrMismatch) {
		t.Fatalf("got %v", err)
	}
	longer, _ := l.at(t, 3)
	short := newLog(t, []byte("a"), []byte("b"))
	if _, err := proof.VerifyExport(bytes.NewReader(short.export(t, 0, 2, short.records)), l.key, []proof.Checkpoint{longer}, nil); !errors.Is(err, proof.ErrMismatch) {
		t.Fatalf("a log that became shorter: %v", err)
	}
}

func TestPublished(t *testing.T) {
	t.Parallel()
	l := newLog(t, []byte("a"), []byte("b"), []byte("c"))
	line := func(l *log, size int64) string {
		_, signed := l.at(t, size)
		text, err := proof.FormatPublished(proof.Published{Time: time.Unix(1, 0).UTC(), Checkpoint: string(signed)})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := line(l, 1) + line(l, 2)[:30] + "\n" + line(l, 2) + line(l, 2) + line(l, 3)
	all, damaged, err := proof.ReadPublished(strings.NewReader(good), l.key)
	if err != nil || damaged != 1 || len(all) != 3 || all[2].Size != 3 {
		t.Fatalf("%v, %d damaged, %v", all, damaged, err)
	}
	if _, _, err := proof.ReadPublished(strings.NewReader(line(l, 3)+line(l, 2)), l.key); !errors.Is(err, proof.ErrMismatch) {
		t.Errorf("shorter: %v", err)
	}
	if _, _, err := proof.ReadPublished(strings.NewReader(line(l, 1)+line(newLog(t, []byte("A")), 1)), l.key); !errors.Is(err, proof.ErrMismatch) {
		t.Errorf("two roots: %v", err)
	}
	_, public, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{8}, 64)), l.key.Name())
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := proof.ParseKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := proof.ReadPublished(strings.NewReader(line(l, 1)), stranger); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

func TestCheckpointOfAnother(t *testing.T) {
	t.Parallel()
	l := newLog(t, []byte("a"))
	c, _ := l.at(t, 1)
	c.Origin = "elsewhere"
	signed, err := c.Sign(l.signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proof.ParseCheckpoint(signed, l.key); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("another origin under the same key: %v", err)
	}
	_, signed = l.at(t, 1)
	if _, err := proof.ParseCheckpoint(signed, proof.Key{}); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	if _, err := proof.ParseCheckpoint(bytes.Replace(signed, []byte("\n1\n"), []byte("\n2\n"), 1), l.key); !errors.Is(err, proof.ErrSignature) {
		t.Errorf("a changed size: %v", err)
	}
}

// fuzzed signs what the fuzzer makes, so that it gets behind the signature.
func FuzzCheckpoint(f *testing.F) {
	l := newLog(f, []byte("a"), []byte("b"))
	c, signed := l.at(f, 2)
	f.Add(signed, false)
	f.Add([]byte(c.Text()), true)
	f.Add([]byte(l.key.Name()+"\n02\n\n"), true)
	f.Fuzz(func(t *testing.T, text []byte, sign bool) {
		if sign {
			var err error
			if text, err = note.Sign(&note.Note{Text: string(text)}, l.signer); err != nil {
				return
			}
		}
		c, err := proof.ParseCheckpoint(text, l.key)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.HasPrefix(text, []byte(c.Text()+"\n")) {
			t.Fatalf("%q is written again as %q", text, c.Text())
		}
	})
}

func FuzzInclusion(f *testing.F) {
	l := newLog(f, []byte("a"), []byte("b"), []byte("c"))
	_, signed := l.at(f, 3)
	path, err := tlog.ProveRecord(3, 1, l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proof.Inclusion{Index: 1, Record: []byte("b"), Path: path, Checkpoint: signed}.Format())
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := proof.ParseInclusion(text)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Format(), text) {
			t.Fatalf("%q is written again as %q", text, p.Format())
		}
		if _, err := p.Verify(l.key); err == nil && (p.Index != 1 || string(p.Record) != "b") {
			t.Fatalf("verified what was not proven: %q", text)
		}
	})
}

func FuzzConsistency(f *testing.F) {
	l := newLog(f, []byte("a"), []byte("b"), []byte("c"))
	old, _ := l.at(f, 2)
	_, signed := l.at(f, 3)
	path, err := tlog.ProveTree(3, 2, l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proof.Consistency{Old: 2, Path: path, Checkpoint: signed}.Format())
	f.Add([]byte("old 0\n\nx"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := proof.ParseConsistency(text)
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Format(), text) {
			t.Fatalf("%q is written again as %q", text, p.Format())
		}
		if c, err := p.Verify(l.key, old); err == nil && c.Size != 3 {
			t.Fatalf("verified what was not proven: %q", text)
		}
	})
}

func FuzzExport(f *testing.F) {
	l := newLog(f, []byte("a"), []byte("b"), []byte("c"))
	f.Add(l.export(f, 0, 3, l.records))
	f.Add(l.export(f, 2, 3, l.records[2:]))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got [][]byte
		out, err := proof.VerifyExport(bytes.NewReader(text), l.key, nil, func(_ int64, record []byte) error {
			got = append(got, bytes.Clone(record))
			return nil
		})
		if err != nil {
			if !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrMismatch) {
				t.Fatal(err)
			}
			return
		}
		if !slices.EqualFunc(got, l.records[out.First:out.Checkpoint.Size], bytes.Equal) {
			t.Fatalf("verified records that are not the log's: %q", got)
		}
	})
}

func FuzzPublished(f *testing.F) {
	l := newLog(f, []byte("a"))
	_, signed := l.at(f, 1)
	text, err := proof.FormatPublished(proof.Published{Time: time.Unix(1, 0).UTC(), Checkpoint: string(signed)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(binary.BigEndian.AppendUint64(nil, 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, _, err := proof.ReadPublished(bytes.NewReader(text), l.key)
		if err != nil && !errors.Is(err, proof.ErrFormat) && !errors.Is(err, proof.ErrSignature) && !errors.Is(err, proof.ErrMismatch) {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Size != 1 {
				t.Fatalf("read a checkpoint that nobody signed: %+v", c)
			}
		}
	})
}
