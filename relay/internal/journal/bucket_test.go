package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func bucket(t *testing.T, j *Journal, name string) *Bucket {
	t.Helper()
	b, err := j.Bucket(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBucket(t *testing.T) {
	t.Parallel()
	rec := &recorder{}
	o := Options{Dir: t.TempDir(), Fsync: rec.fsync, MaxEventBytes: 1000}
	j := open(t, o)
	b, ctx := bucket(t, j, "endpoints"), t.Context()
	if bucket(t, j, "endpoints") != b {
		t.Error("the same bucket opened twice")
	}
	if _, err := b.Get(ctx, "ep_1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	r1, err := b.Create(ctx, "ep_1", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(ctx, "ep_1", []byte("again")); !errors.Is(err, ErrRevision) {
		t.Errorf("create twice: %v", err)
	}
	rec.take()
	r2, err := b.Update(ctx, "ep_1", []byte("two"), r1)
	if err != nil || r2 <= r1 {
		t.Fatalf("update: %d after %d, %v", r2, r1, err)
	}
	if _, order := rec.take(); !slices.ContainsFunc(order, func(s string) bool {
		return strings.Contains(s, "KV_SEALPOST_endpoints") && strings.HasSuffix(s, ".blk")
	}) {
		t.Errorf("update returned without a sync: %q", order)
	}
	if _, err := b.Update(ctx, "ep_1", []byte("stale"), r1); !errors.Is(err, ErrRevision) {
		t.Errorf("update of a former revision: %v", err)
	}
	if err := b.Delete(ctx, "ep_1", r1); !errors.Is(err, ErrRevision) {
		t.Errorf("delete of a former revision: %v", err)
	}
	if it, err := b.Get(ctx, "ep_1"); err != nil || string(it.Value) != "two" || it.Revision != r2 || it.Key != "ep_1" || it.Time.IsZero() {
		t.Errorf("get: %+v, %v", it, err)
	}
	if _, err := b.Put(ctx, "tenant/acme.x", []byte("three")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, "gone", nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "gone", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "gone"); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of a deleted key: %v", err)
	}
	for _, key := range []string{"", "a b", ".a", "a*", "a>", "ä"} {
		if _, err := b.Put(ctx, key, nil); err == nil {
			t.Errorf("key %q taken", key)
		}
	}
	if _, err := b.Put(ctx, "big", make([]byte, 1001)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	shut(t, j)
	b = bucket(t, open(t, o), "endpoints")
	keys, err := b.Keys(ctx)
	if slices.Sort(keys); err != nil || !slices.Equal(keys, []string{"ep_1", "tenant/acme.x"}) {
		t.Errorf("keys after reopening: %q, %v", keys, err)
	}
	if _, err := b.Create(ctx, "gone", []byte("back")); err != nil {
		t.Errorf("create of a deleted key: %v", err)
	}
}

func TestBucketNames(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	for _, name := range []string{"", "a.b", "a b", "*", "../x", strings.Repeat("x", 33)} {
		if _, err := j.Bucket(t.Context(), name); err == nil {
			t.Errorf("bucket %q opened", name)
		}
	}
	b := bucket(t, j, "empty")
	if keys, err := b.Keys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys of an empty bucket: %q, %v", keys, err)
	}
}

func TestBucketWatch(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	b := bucket(t, j, "b")
	for i := range 3 {
		if _, err := b.Put(t.Context(), fmt.Sprint("k", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(chan Item, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Watch(ctx, func(it Item) error { seen <- it; return nil }) }()
	var keys []string
	for it := range seen {
		if it.Key == "" {
			break
		}
		keys = append(keys, it.Key)
	}
	if slices.Sort(keys); !slices.Equal(keys, []string{"k0", "k1", "k2"}) {
		t.Errorf("present keys: %q", keys)
	}
	rev, err := b.Put(t.Context(), "k1", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	if it := <-seen; it.Key != "k1" || string(it.Value) != "new" || it.Revision != rev || it.Deleted {
		t.Errorf("change: %+v", it)
	}
	if err := b.Delete(t.Context(), "k1", rev); err != nil {
		t.Fatal(err)
	}
	if it := <-seen; it.Key != "k1" || !it.Deleted {
		t.Errorf("deletion: %+v", it)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
	if err := b.Watch(t.Context(), func(Item) error { return errEnough }); err != errEnough {
		t.Errorf("watch ended with %v", err)
	}
	go func() { done <- b.Watch(t.Context(), func(it Item) error { seen <- it; return nil }) }()
	<-seen
	shut(t, j)
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("watch ended with %v", err)
	}
}
