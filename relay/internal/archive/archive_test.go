package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// kept takes everything.
type kept struct {
	header  Header
	files   map[string]string
	names   []string
	records map[string][]Record
}

func (k *kept) Header(h Header) error { k.header = h; return nil }
func (k *kept) File(name string, content []byte) error {
	if k.files == nil {
		k.files = map[string]string{}
	}
	k.files[name] = string(content)
	return nil
}
func (k *kept) Section(name string) error { k.names = append(k.names, name); return nil }
func (k *kept) Record(section string, r Record) error {
	if k.records == nil {
		k.records = map[string][]Record{}
	}
	k.records[section] = append(k.records[section], r)
	return nil
}

func header() Header {
	return Header{Format: Format, WrittenBy: "1.2.3", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), DataFormat: 1, Partitions: 2, DedupWindow: time.Minute}
}

func write(t interface{ Fatal(...any) }, do func(w *Writer)) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, header())
	if err != nil {
		t.Fatal(err)
	}
	do(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func small(t interface{ Fatal(...any) }) []byte {
	return write(t, func(w *Writer) {
		w.File("secrets.key", []byte("key"))
		w.File("ca/ca.pem", nil)
		w.Section("logs/EVENTS_0")
		w.Record(Record{Seq: 3, ID: "acme/e", Value: []byte("data")})
		w.Record(Record{Seq: 9, Value: []byte{}})
		w.Section("logs/EVENTS_1")
		w.Section("buckets/ENDPOINTS")
		w.Record(Record{Seq: 1, ID: "endpoint/ep_1", Deleted: true, Value: []byte{}})
	})
}

// TestRoundTrip: what was written is read, whatever it is, over any number of segments.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := kept{header: header(), files: map[string]string{}, records: map[string][]Record{}}
		data := write(t, func(w *Writer) {
			for i := range rapid.IntRange(0, 3).Draw(t, "files") {
				name, content := fmt.Sprintf("f/%d", i), rapid.String().Draw(t, "content")
				want.files[name] = content
				if err := w.File(name, []byte(content)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range rapid.IntRange(0, 3).Draw(t, "sections") {
				name, seq := fmt.Sprintf("logs/L_%d", i), uint64(0)
				want.names = append(want.names, name)
				if err := w.Section(name); err != nil {
					t.Fatal(err)
				}
				for range rapid.IntRange(0, 5).Draw(t, "records") {
					seq += rapid.Uint64Range(1, 1<<40).Draw(t, "gap")
					r := Record{Seq: seq, ID: rapid.StringN(0, 10, 100).Draw(t, "id"), Deleted: rapid.Bool().Draw(t, "deleted"),
						Value: make([]byte, rapid.SampledFrom([]int{0, 1, 100, 3 << 20}).Draw(t, "size"))}
					want.records[name] = append(want.records[name], r)
					if err := w.Record(r); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
		var got kept
		if err := Read(bytes.NewReader(data), &got); err != nil {
			t.Fatal(err)
		}
		if got.files == nil {
			got.files = map[string]string{}
		}
		if got.records == nil {
			got.records = map[string][]Record{}
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read %+v\nwrote %+v", got.names, want.names)
		}
	})
}

// TestTruncated: no beginning of an archive is an archive, but where nothing is missing but zeros at its end.
func TestTruncated(t *testing.T) {
	t.Parallel()
	data := small(t)
	var want kept
	if err := Read(bytes.NewReader(data), &want); err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		var got kept
		err := Read(bytes.NewReader(data[:n]), &got)
		if err == nil && len(bytes.TrimRight(data[n:], "\x00")) == 0 && reflect.DeepEqual(got, want) {
			continue
		}
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
}

// TestAltered: no bit of what an archive says can be changed. What tar itself keeps beside names and contents says nothing.
func TestAltered(t *testing.T) {
	t.Parallel()
	data := small(t)
	var want kept
	if err := Read(bytes.NewReader(data), &want); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for _, bit := range []byte{0x01} {
			changed := bytes.Clone(data)
			changed[i] ^= bit
			var got kept
			if err := Read(bytes.NewReader(changed), &got); err == nil && !reflect.DeepEqual(got, want) {
				t.Fatalf("with byte %d changed it says %+v", i, got)
			}
		}
	}
}

// TestForeign: what follows the sums, names that lead out, entries of other kinds and a foreign order are refused.
func TestForeign(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]tar.Header{
		"nothing":         {},
		"no header":       {{Name: "files/a"}},
		"a way out":       {{Name: headerName}, {Name: "files/../../etc/passwd"}},
		"a root":          {{Name: headerName}, {Name: "/etc/passwd"}},
		"a hidden file":   {{Name: headerName}, {Name: "files/.ssh"}},
		"a link":          {{Name: headerName}, {Name: "files/a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}},
		"a folder":        {{Name: headerName}, {Name: "files/a", Typeflag: tar.TypeDir}},
		"another kind":    {{Name: headerName}, {Name: "views/a/00000000"}},
		"a part too late": {{Name: headerName}, {Name: "logs/a/00000001"}},
		"deeper":          {{Name: headerName}, {Name: "logs/a/b/00000000"}},
		"shallower":       {{Name: headerName}, {Name: "logs/00000000"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range entries {
				content := []byte(`{"format":1}`)
				if h.Name != headerName {
					content = nil
				}
				if h.Typeflag == 0 {
					h.Typeflag = tar.TypeReg
				}
				h.Size, h.Mode = int64(len(content)), 0o600
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
				w.Write(content)
			}
			w.Close()
			if err := Read(&b, &kept{}); !errors.Is(err, ErrDamaged) {
				t.Errorf("%v", err)
			}
		})
	}
	var b bytes.Buffer
	w, err := NewWriter(&b, header())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "..", "../x", "a/../../b", ".hidden", "a//b", "ü", "a b", string(make([]byte, 300))} {
		if w.File(bad, nil) == nil || w.Section("logs/"+bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if w.Section("files/x") == nil || w.Section("logs") == nil {
		t.Error("what is no section was taken")
	}
}

func TestNewerFormat(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := []byte(`{"format":2,"writtenBy":"9.9.9"}`)
	w.WriteHeader(&tar.Header{Name: headerName, Size: int64(len(text)), Typeflag: tar.TypeReg})
	w.Write(text)
	w.Close()
	if err := Read(&b, &kept{}); err == nil || !bytes.Contains([]byte(err.Error()), []byte("9.9.9")) {
		t.Errorf("%v", err)
	}
}

// TestSourceFails: what the source says is passed on, and is no damage.
func TestSourceFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is broken")
	r := io.MultiReader(bytes.NewReader(small(t)[:3000]), &failing{broken})
	if err := Read(r, &kept{}); !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

// FuzzRead: whatever is read ends in an error or in what can be written again and read as the same.
func FuzzRead(f *testing.F) {
	f.Add(small(f))
	f.Add(small(f)[:2000])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got kept
		if err := Read(bytes.NewReader(data), &got); err != nil {
			return
		}
		for name := range got.files {
			if !validName(name) {
				t.Errorf("file %q", name)
			}
		}
	})
}

// FuzzRecord: what is read as a record is written as the same bytes.
func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, Record{Seq: 7, ID: "id", Value: []byte("value")}))
	f.Add(appendRecord(nil, Record{Seq: 1 << 40, Deleted: true}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, rest, ok := parseRecord(data)
		if ok && !bytes.Equal(append(appendRecord(nil, r), rest...), data) {
			t.Errorf("%+v", r)
		}
	})
}
