package journal

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// TestFormatExternal marks an external journal once, takes an older one up, and refuses a newer one before it changes anything.
func TestFormatExternal(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	o := Options{URL: s.ClientURL(), Durability: Fsync}
	format := func(n int, by string) Options {
		with := o
		with.Format = Format{Number: n, WrittenBy: by}
		return with
	}
	// Several processes mark it at once.
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			j, err := Open(t.Context(), format(1, "1.0.0"))
			if err != nil {
				t.Error(err)
				return
			}
			j.Close(t.Context())
		})
	}
	all.Wait()
	for range 2 {
		open(t, format(2, "2.0.0"))
	}
	// A partition more would be refused by its own rule, later.
	older := format(1, "1.5.0")
	older.Partitions = 2
	_, err := Open(t.Context(), older)
	if !errors.Is(err, ErrNewer) {
		t.Fatalf("an older process: %v", err)
	}
	for _, want := range []string{"2.0.0", "1.5.0", "formats up to 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	open(t, format(3, "3.0.0"))
	if _, err := Open(t.Context(), format(2, "2.0.0")); !errors.Is(err, ErrNewer) {
		t.Errorf("after the upgrade: %v", err)
	}
}

// TestShared refuses a process whose secrets are not those of the processes that it would share a journal with, and says which.
func TestShared(t *testing.T) {
	t.Parallel()
	s := natsServer(t, server.Options{JetStream: true})
	with := func(shared map[string]string) Options {
		return Options{URL: s.ClientURL(), Durability: Fsync, Format: Format{Number: 1, WrittenBy: "1.0.0", Shared: shared}}
	}
	open(t, with(nil)) // an older one's
	// Of two who come at once with different ones, one stays out.
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, key := range []string{"aaa", "bbb"} {
		all.Go(func() {
			j, err := Open(t.Context(), with(map[string]string{"secrets.key": key, "ca": "ccc"}))
			if err == nil {
				j.Close(t.Context())
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), ErrForeign) {
		t.Fatalf("%v", errs)
	}
	ours, theirs := "aaa", "bbb"
	if strings.Contains(errors.Join(errs...).Error(), "bbb there") {
		ours, theirs = theirs, ours
	}
	open(t, with(map[string]string{"secrets.key": ours, "ca": "ccc"}))
	open(t, with(map[string]string{"secrets.key": ours, "ca": "ccc", "more": "m"})) // a later version's
	open(t, with(map[string]string{"secrets.key": ours, "ca": "ccc"}))
	for _, c := range []struct {
		shared map[string]string
		says   []string
		not    string
	}{
		{map[string]string{"secrets.key": theirs, "ca": "ccc"}, []string{"secrets.key (fingerprint " + ours + " there, " + theirs + " here)"}, "ca ("},
		{map[string]string{"secrets.key": ours, "ca": "ddd"}, []string{"ca (fingerprint ccc there, ddd here)"}, "secrets.key"},
		{map[string]string{"secrets.key": theirs, "ca": "ddd"}, []string{"secrets.key", "ca ("}, "more"},
		{map[string]string{"secrets.key": ours, "more": "n"}, []string{"more"}, "secrets.key"},
	} {
		_, err := Open(t.Context(), with(c.shared))
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%v: %v", c.shared, err)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %q does not say %q", c.shared, err, want)
			}
		}
		if strings.Contains(err.Error(), c.not) {
			t.Errorf("%v: %q says %q", c.shared, err, c.not)
		}
	}
}

// FuzzFormat: whatever a server holds, it is read as a format from 1 on or refused.
func FuzzFormat(f *testing.F) {
	f.Add([]byte(`{"format":1,"writtenBy":"1.2.3"}`))
	f.Add([]byte(`{"format":0}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if v, err := parseFormat(text); err == nil && v.Number < 1 {
			t.Errorf("%+v", v)
		}
	})
}
