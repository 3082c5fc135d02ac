package app

import (
	"context"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

const (
	// shortAt is the share of a log's bound from which on operators are told, and fullAt that from which on alerts are no longer kept:
	// what is left is for the tenants' events.
	shortAt = 0.8
	fullAt  = 0.95
	// watchEvery is how often the relay looks at itself.
	watchEvery = 5 * time.Second
	// behindFor is how long the view may fail to be written, and behindBy how many outcomes it may be behind, until operators are told.
	behindFor = 30 * time.Second
	behindBy  = 100_000
	// remindEvery is how often operators are told again of what goes on.
	remindEvery = time.Hour
)

func (a *App) openAlerts(context.Context) error {
	a.alerts = alert.New(alert.Options{
		Publish: a.control.PublishOperational, Room: a.roomForAlerts, Clock: a.o.Clock, Registerer: a.metrics, Logger: a.log,
	})
	return nil
}

// roomForAlerts tells whether the log that alerts go to is not nearly full.
func (a *App) roomForAlerts(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, readinessWithin)
	defer cancel()
	log := a.journal.Events(a.journal.Partition(relay.ReservedTenant)).Log
	st, err := log.State(ctx)
	return err == nil && (log.MaxBytes() <= 0 || float64(st.Bytes) < fullAt*float64(log.MaxBytes()))
}

// watcher tells operators what is wrong with the relay itself: when it begins, and again while it lasts.
type watcher struct {
	*App
	told    map[alert.Notice]time.Time // without time and fact
	failing map[int]time.Time          // since when a partition's view cannot be written
}

func (a *App) watchSelf(ctx context.Context) error {
	w := &watcher{App: a, told: map[alert.Notice]time.Time{}, failing: map[int]time.Time{}}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		look, cancel := context.WithTimeout(ctx, readinessWithin)
		w.look(look, a.journal.Status(look), a.o.Clock())
		cancel()
	}
}

func (w *watcher) look(ctx context.Context, st journal.Status, now time.Time) {
	for _, s := range st.Streams {
		w.tell(alert.Notice{Kind: alert.JournalShort, Reason: s.Name}, s.MaxBytes > 0 && float64(s.Bytes) > shortAt*float64(s.MaxBytes), now)
	}
	w.tell(alert.Notice{Kind: alert.DiskShort}, st.Full != nil, now)
	w.tell(alert.Notice{Kind: alert.AuditBroken}, w.tree.Halted() != nil, now)
	w.tell(alert.Notice{Kind: alert.AuditUnpublished}, w.tree.Unpublished() != nil, now)
	for _, c := range w.certificates() {
		w.tell(alert.Notice{Kind: alert.CertificateExpiring, Reason: c.name}, c.soon(now), now)
	}
	for p, projector := range w.projector {
		if !w.owned[p].Load() {
			continue // its owner's to tell
		}
		upTo, err := w.journal.Outcomes(p).Synced(ctx)
		behind := err == nil && upTo > projector.Position()+behindBy
		if !projector.Failing() {
			delete(w.failing, p)
		} else if w.failing[p].IsZero() {
			w.failing[p] = now
		}
		failing := projector.Failing() && now.Sub(w.failing[p]) > behindFor
		w.tell(alert.Notice{Kind: alert.ViewBehind, Reason: fmt.Sprintf("PARTITION_%d", p)}, behind || failing, now)
	}
}

// tell raises a notice where something holds, when it begins to and every hour.
func (w *watcher) tell(n alert.Notice, holds bool, now time.Time) {
	last, was := w.told[n]
	switch {
	case !holds:
		delete(w.told, n)
		return
	case was && now.Sub(last) < remindEvery:
		return
	}
	w.told[n] = now
	n.Time, n.Fact = now, now.UTC().Format(time.RFC3339)
	w.alerts.Raise(n)
}
