package app

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/tree"
)

// TestWatchSelf tells of a log that fills up and of a disk that is full when that begins, after an hour again, and not in between.
func TestWatchSelf(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var told []string
	a := &App{tree: &tree.Tree{}, alerts: alert.New(alert.Options{
		Publish: func(_ context.Context, e *relay.Event) error { told = append(told, e.Type); return nil },
		Room:    func(context.Context) bool { return true }, Clock: func() time.Time { return now }, Registerer: prometheus.NewRegistry(),
	})}
	w := &watcher{App: a, told: map[alert.Notice]time.Time{}, failing: map[int]time.Time{}}
	ended, end := context.WithCancel(context.Background())
	end()
	look := func(bytes int64, full error) []string {
		told = nil
		w.look(t.Context(), journal.Status{Streams: []journal.StreamStatus{{Name: "EVENTS_0", Bytes: bytes, MaxBytes: 100}}, Full: full}, now)
		a.alerts.Run(ended) // publishes what is gathered
		slices.Sort(told)
		return told
	}
	short, disk := string(alert.JournalShort), string(alert.DiskShort)
	for i, step := range []struct {
		bytes int64
		full  error
		after time.Duration
		want  []string
	}{
		{80, nil, 0, nil},
		{81, nil, time.Minute, []string{short}},
		{90, nil, time.Minute, nil},
		{90, errors.New("full"), time.Minute, []string{disk}},
		{90, errors.New("full"), time.Hour, []string{disk, short}},
		{10, nil, time.Minute, nil},
		{95, nil, time.Minute, []string{short}},
	} {
		now = now.Add(step.after)
		if got := look(step.bytes, step.full); !slices.Equal(got, step.want) {
			t.Errorf("step %d: told %v, want %v", i, got, step.want)
		}
	}
}
