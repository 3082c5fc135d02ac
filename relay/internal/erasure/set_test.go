package erasure

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func opened(t *testing.T) (*journal.Journal, *journal.Bucket) {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := j.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	b, err := j.Bucket(t.Context(), BucketName)
	if err != nil {
		t.Fatal(err)
	}
	return j, b
}

func root(t testing.TB) *keys.Root {
	t.Helper()
	r, err := keys.NewRoot(bytes.Repeat([]byte{1}, keys.Size))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func set(t *testing.T, b Bucket) *Set {
	t.Helper()
	s, err := Open(t.Context(), b, root(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// heardOf waits until a set knows a revision.
func heardOf(t *testing.T, s *Set, revision uint64) *Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for now := range s.Updates(ctx) {
		if now.Revision() >= revision {
			return now
		}
	}
	t.Fatalf("revision %d is not heard of", revision)
	return nil
}

// Covers is the model: the subject's tombstone, of that tenant, up to its sequence; also after changes, and for who opens it later.
func TestCovers(t *testing.T) {
	t.Parallel()
	_, b := opened(t)
	s := set(t, b)
	type subject struct{ tenant, name string }
	model := map[subject]uint64{}
	subjects := []subject{{"acme", "contact/1"}, {"acme", "contact/2"}, {"globex", "contact/1"}, {"initech", "contact/3"}}
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.SampledFrom(subjects).Draw(t, "subject")
		key := Tombstone{Tenant: one.tenant, Subject: s.Digest(one.tenant, one.name)}
		was, err := s.Get(context.Background(), key.Tenant, key.Subject)
		if err != nil && !errors.Is(err, journal.ErrNotFound) {
			t.Fatal(err)
		}
		key.revision, key.Seq, key.Time = was.revision, rapid.Uint64Range(0, 100).Draw(t, "seq"), time.Now()
		revision, err := s.Put(context.Background(), key)
		if err != nil {
			t.Fatal(err)
		}
		model[one] = key.Seq
		var now *Snapshot
		for now = range s.Updates(context.Background()) {
			if now.Revision() >= revision {
				break
			}
		}
		seq := rapid.Uint64Range(1, 101).Draw(t, "at")
		for _, one := range subjects {
			if got, want := now.Covers(one.tenant, one.name, seq), seq <= model[one]; got != want {
				t.Fatalf("%v at %d: %v, want %v", one, seq, got, want)
			}
		}
	})
	again := set(t, b).Snapshot()
	for one, seq := range model {
		if !again.Covers(one.tenant, one.name, seq) && seq > 0 || again.Covers(one.tenant, one.name, seq+1) {
			t.Errorf("%v opened again", one)
		}
	}
}

// What cannot be read counts for all of its subject; where not even the subject can be told, nothing is known of any.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	_, b := opened(t)
	s := set(t, b)
	good := Tombstone{Tenant: "acme", Subject: s.Digest("acme", "contact/1")}
	revision, err := b.Put(t.Context(), good.key(), []byte("nonsense"))
	if err != nil {
		t.Fatal(err)
	}
	if now := heardOf(t, s, revision); !now.Covers("acme", "contact/1", math.MaxUint64) || now.Covers("acme", "contact/2", 1) {
		t.Error("a tombstone that cannot be read does not count for its subject alone")
	}
	if _, err := b.Put(t.Context(), keyPrefix+"acme/nobody", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(patience); s.Err() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("a key without a subject is passed over")
		}
	}
}

// A journal that was restored from a copy goes by the tombstones of its later state, but for what is yet to come.
func TestRestored(t *testing.T) {
	t.Parallel()
	old, to := opened(t)
	s := set(t, to)
	for i := range 3 {
		if _, err := old.Events(0).Accept(t.Context(), journal.Entry{ID: string(rune('a' + i)), Payload: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	grave := Tombstone{Tenant: "acme", Subject: s.Digest("acme", "contact/1"), Seq: 50, Time: time.Now(), Erased: true, Operation: "op_1"}
	if revision, err := s.Put(t.Context(), grave); err != nil {
		t.Fatal(err)
	} else {
		heardOf(t, s, revision)
	}
	again, err := s.Reconcile(t.Context(), old)
	if err != nil || len(again) != 1 || again[0].Seq != 3 || again[0].Erased {
		t.Fatalf("%+v %v", again, err)
	}
	now := heardOf(t, s, again[0].revision)
	if !now.Covers("acme", "contact/1", 3) || now.Covers("acme", "contact/1", 4) {
		t.Error("it does not speak of what the restored log holds, and of that alone")
	}
	if d, same, err := ParseBody(again[0].Body()); err != nil || !same || d != grave.Subject {
		t.Errorf("%v %v %v", d, same, err)
	}
}

func FuzzTombstone(f *testing.F) {
	one := Tombstone{Tenant: "acme", Subject: Digest{1}, Seq: 7, Time: time.Unix(1, 2).UTC(), Operation: "op_1"}
	b, err := one.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one.key(), b)
	f.Add(keyPrefix, []byte{})
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		got, err := decode(key, b)
		if err != nil {
			return
		}
		text, err := got.encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decode(got.key(), text); err != nil || again != got {
			t.Fatalf("%+v read again is %+v, %v", got, again, err)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte{})
	f.Add(cursor(1 << 40).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCursor(b)
		if err == nil && len(b) > 0 && !bytes.Equal(c.encode(), b) {
			t.Fatalf("%x is read as %d", b, c)
		}
		if d, again, err := ParseBody(b); err == nil && !again && !bytes.Equal(d.Body(), b) {
			t.Fatalf("%x is read as %s", b, d)
		}
	})
}
