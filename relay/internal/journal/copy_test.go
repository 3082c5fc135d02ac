package journal

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// copied is everything that Copy gives of a log up to where it ends.
func copied(t *testing.T, l *Log) (all []Stored) {
	t.Helper()
	st, err := l.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Copy(t.Context(), st.Last, func(s Stored) error { all = append(all, s); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func bucketCopied(t *testing.T, b *Bucket) (all []Stored) {
	t.Helper()
	if err := b.Copy(t.Context(), func(s Stored) error { all = append(all, s); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCopyAndLoad: a log with its beginning trimmed, records erased in it and at its end, and a bucket with many revisions and deleted keys,
// are the same in another journal, through a restart of it, and go on where they ended.
func TestCopyAndLoad(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	for i := range 60 {
		mustAccept(t, j, fmt.Sprint(i), fmt.Sprint("data ", i))
	}
	events := j.Events(0).Log
	if err := events.purge(t.Context(), 11); err != nil { // as a trim of whole blocks does
		t.Fatal(err)
	}
	for _, seq := range []uint64{20, 21, 59, 60} {
		if err := events.SecureDelete(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	out := appender(t, j)
	for i := range 1500 {
		if _, err := out.Append(t.Context(), []byte(fmt.Sprint("outcome ", i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := out.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := j.Bucket(t.Context(), "THINGS")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := b.Put(t.Context(), fmt.Sprint("key/", i%7), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(t.Context(), "key/3", 0); err != nil {
		t.Fatal(err)
	}
	if names, err := j.BucketNames(t.Context()); err != nil || !reflect.DeepEqual(names, []string{"THINGS"}) {
		t.Errorf("%v %v", names, err)
	}

	dir := t.TempDir()
	other := open(t, Options{Dir: dir})
	load := func(to *Loader, err error, from []Stored) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range from {
			if err := to.Add(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if err := to.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l, err := other.Events(0).Load(t.Context())
	load(l, err, copied(t, events))
	l, err = other.Outcomes(0).Load(t.Context())
	load(l, err, copied(t, j.Outcomes(0).Log))
	b2, err := other.Bucket(t.Context(), "THINGS")
	if err != nil {
		t.Fatal(err)
	}
	l, err = b2.Load(t.Context())
	load(l, err, bucketCopied(t, b))
	if _, err := other.Events(0).Load(t.Context()); err == nil {
		t.Error("a log that holds records was loaded again")
	}

	for range 2 {
		for name, pair := range map[string][2]*Log{"events": {events, other.Events(0).Log}, "outcomes": {j.Outcomes(0).Log, other.Outcomes(0).Log}} {
			want, got := copied(t, pair[0]), copied(t, pair[1])
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: %d records, want %d", name, len(got), len(want))
			}
			a, _ := pair[0].State(t.Context())
			z, _ := pair[1].State(t.Context())
			if a.First != z.First || a.Last != z.Last || a.Messages != z.Messages {
				t.Errorf("%s: %+v, want %+v", name, z, a)
			}
		}
		if want, got := bucketCopied(t, b), bucketCopied(t, b2); !reflect.DeepEqual(got, want) {
			t.Fatalf("the bucket: %v, want %v", got, want)
		}
		if err := other.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		other = open(t, Options{Dir: dir})
		if b2, err = other.Bucket(t.Context(), "THINGS"); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := other.Events(0).Get(t.Context(), 30); err != nil || string(m.Payload) != "data 29" {
		t.Errorf("%s %v", m.Payload, err)
	}
	// 293 is the last of 0 to 299 that is 6 modulo 7, and was the 294th write.
	if it, err := b2.Get(t.Context(), "key/6"); err != nil || it.Revision != 294 || string(it.Value) != "293" {
		t.Errorf("%+v %v", it, err)
	}
	if _, err := b2.Get(t.Context(), "key/3"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted key: %v", err)
	}
	// It goes on: repeats are known, and what is new follows.
	if r := mustAccept(t, other, "40", "data 40"); !r.Duplicate || r.Seq != 41 {
		t.Errorf("a repeat: %+v", r)
	}
	if r := mustAccept(t, other, "new", "data"); r.Duplicate || r.Seq != 61 {
		t.Errorf("a new event: %+v", r)
	}
	again := appender(t, other)
	if first, err := again.Append(t.Context(), []byte("next")); err != nil || first != 1501 {
		t.Errorf("%d %v", first, err)
	}
	if _, err := again.Sync(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCopyBucketWhileItChanges: a key that is superseded before its turn comes is not missing. The server answers batchRecords at once.
func TestCopyBucketWhileItChanges(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	b, err := j.Bucket(t.Context(), "THINGS")
	if err != nil {
		t.Fatal(err)
	}
	put := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := b.Put(t.Context(), fmt.Sprint("key", i), fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		}
	}
	const keys = batchRecords + 50
	put(0, keys)
	seen := map[string]bool{}
	if err := b.Copy(t.Context(), func(s Stored) error {
		if len(seen) == 0 {
			put(batchRecords, keys)
		}
		seen[s.ID] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != keys {
		t.Errorf("%d keys of %d", len(seen), keys)
	}
}

// TestHoldTrims: a held log keeps everything; a released one lets go.
func TestHoldTrims(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir(), EventsMaxBytes: 64 << 20})
	big := bytes.Repeat([]byte("x"), 4<<20)
	for i := range 5 {
		mustAccept(t, j, fmt.Sprint(i), string(big))
	}
	l := j.Events(0).Log
	release := j.HoldTrims()
	if err := l.Trim(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if st, _ := l.State(t.Context()); st.First != 1 {
		t.Errorf("it was trimmed to %d while it was held", st.First)
	}
	if err := j.SaveCheckpoint(t.Context(), 0, []byte("one")); err != nil {
		t.Errorf("a checkpoint: %v", err)
	}
	release()
	if err := l.Trim(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if st, _ := l.State(t.Context()); st.First == 1 {
		t.Error("it was not trimmed")
	}
}
