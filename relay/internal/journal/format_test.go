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
		with.Format = Format{n, by}
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
