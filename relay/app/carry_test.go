package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/archive"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
)

func packed(t *testing.T, fill func(w *archive.Writer) error) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Header{WrittenBy: "1", Time: time.Now(), DataFormat: 1, Partitions: 1,
		EventsMaxBytes: 1 << 30, OutcomesMaxBytes: 1 << 30, DedupWindow: time.Minute})
	if err == nil {
		err = fill(w)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// TestRestoreWithErasures: the tombstones of a later backup are in what is made of an earlier one, for its own events alone, and each has
// an operation that erases.
func TestRestoreWithErasures(t *testing.T) {
	t.Parallel()
	grave := func(subject byte, seq uint64) (string, []byte) {
		digest := bytes.Repeat([]byte{subject}, 32)
		value, err := proto.Marshal(&sealpostv1.ErasureRecord{Version: 1, Tenant: "acme", SubjectDigest: digest, Time: 1, Seq: seq, Erased: true, OperationId: "op_old"})
		if err != nil {
			t.Fatal(err)
		}
		return "subject/acme/" + erasure.Digest(digest).String(), value
	}
	bury := func(w *archive.Writer, seq uint64, subject byte, at uint64) error {
		key, value := grave(subject, at)
		return w.Record(archive.Record{Seq: seq, ID: key, Value: value})
	}
	earlier := packed(t, func(w *archive.Writer) error {
		return errors.Join(w.Section("buckets/ERASURES"), bury(w, 1, 'a', 4), w.Section("logs/EVENTS_0"),
			w.Record(archive.Record{Seq: 10, Value: []byte("the last event")}))
	})
	later := packed(t, func(w *archive.Writer) error {
		return errors.Join(w.Section("buckets/ERASURES"), bury(w, 1, 'a', 4), bury(w, 2, 'b', 7), bury(w, 3, 'c', 5000))
	})
	dir := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), RestoreOptions{Data: dir, From: earlier, Erasures: later, Version: "1"})
	if err != nil || r.Erasures != 2 || r.Events[0] != 10 {
		t.Fatalf("%+v %v", r, err)
	}
	j, err := journal.Open(t.Context(), journal.Options{Dir: filepath.Join(dir, folderJournal), EventsMaxBytes: 1 << 30, OutcomesMaxBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close(t.Context())
	b, err := j.Bucket(t.Context(), erasure.BucketName)
	if err != nil {
		t.Fatal(err)
	}
	for subject, want := range map[byte]uint64{'a': 4, 'b': 7, 'c': 10} {
		key, _ := grave(subject, 0)
		it, err := b.Get(t.Context(), key)
		var got sealpostv1.ErasureRecord
		if err = errors.Join(err, proto.Unmarshal(it.Value, &got)); err != nil || got.Seq != want || got.Erased != (subject == 'a') {
			t.Errorf("%c: %v %v", subject, &got, err)
		}
	}
	ob, err := j.Bucket(t.Context(), operation.BucketName)
	if err != nil {
		t.Fatal(err)
	}
	ops, err := operation.Open(t.Context(), ob, operation.Options{Partition: j.Partition})
	if err != nil {
		t.Fatal(err)
	}
	defer ops.Close()
	bodies := map[byte]bool{}
	for _, op := range ops.List() {
		if op.Kind != operation.Erasure || op.State != operation.Pending || op.Tenant != "acme" {
			t.Errorf("%+v", op)
		}
		bodies[op.Request[0]] = true
	}
	if len(bodies) != 2 || !bodies['b'] || !bodies['c'] {
		t.Errorf("%v", bodies)
	}
}

// TestRestoreFails: where the second archive is damaged, or the disk fails, nothing is there, and nothing is left.
func TestRestoreFails(t *testing.T) {
	t.Parallel()
	good := func() *bytes.Reader {
		return packed(t, func(w *archive.Writer) error { return w.File("secrets.key", []byte("key")) })
	}
	broken := errors.New("the disk is broken")
	for name, c := range map[string]struct {
		o    RestoreOptions
		want error
	}{
		"damaged erasures": {RestoreOptions{From: good(), Erasures: bytes.NewReader([]byte("no archive"))}, archive.ErrDamaged},
		"a broken disk": {RestoreOptions{From: good(), Fsync: func(f *os.File) error {
			if filepath.Base(f.Name()) == "secrets.key" {
				return broken
			}
			return f.Sync()
		}}, broken},
		"a way into the journal": {RestoreOptions{From: packed(t, func(w *archive.Writer) error { return w.File("journal/x", nil) })}, archive.ErrDamaged},
		"over the version":       {RestoreOptions{From: packed(t, func(w *archive.Writer) error { return w.File("VERSION", nil) })}, archive.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := t.TempDir()
			c.o.Data, c.o.Version = filepath.Join(place, "data"), "1"
			if _, err := Restore(t.Context(), c.o); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
			if left, _ := os.ReadDir(place); len(left) != 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}
