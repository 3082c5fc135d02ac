package partition

import (
	"errors"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
)

func (w *world) health(id string) relay.EndpointHealth {
	w.Helper()
	h, err := w.owners().Health(w.Context(), "acme", id)
	if err != nil {
		w.Fatal(err)
	}
	return h
}

// TestHealth asks for an endpoint that delivers, one that is dead to some, one that hangs, one that fails and one that is paused.
func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.owners().Health(t.Context(), "acme", "well"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without an owner: %v", err)
	}
	for _, id := range []string{"well", "picky", "failing", "hanging", "paused"} {
		w.endpoint(id)
	}
	w.state("paused", relay.EndpointPaused)
	w.script(func(s sent) relay.Verdict {
		switch {
		case s.Endpoint == "picky":
			return status(400)
		case s.Endpoint == "failing":
			return status(503)
		}
		return status(200)
	})
	w.hang("hanging")
	began := w.now()
	w.start()
	seqs := w.many(12)
	w.reachAll(seqs, "well", relay.Delivered)
	w.reachAll(seqs, "picky", relay.Dead)
	w.reachAll(seqs, "paused", relay.Parked)
	w.until("the breaker", func() bool { return w.health("failing").Breaker == relay.BreakerOpen })
	w.until("an attempt", func() bool { return w.inFlight("hanging") == 1 })
	check := func(id string, h relay.EndpointHealth, open map[relay.DeliveryState]int, accepted, delivered, dead int64) {
		t.Helper()
		for state, n := range open {
			if h.Open[state] != n {
				t.Errorf("%s: open %v, want %v", id, h.Open, open)
			}
		}
		if len(h.Spans) != 3 || h.Since.Before(began.Add(-time.Second)) && len(open) == 0 {
			t.Errorf("%s: %+v", id, h)
		}
		for _, s := range h.Spans {
			if s.Accepted != accepted || s.Delivered != delivered || s.Dead != dead {
				t.Errorf("%s: %+v", id, s)
			}
		}
	}
	h := w.health("well")
	check("well", h, nil, 12, 12, 0)
	if h.Breaker != relay.BreakerClosed || len(h.Open) != 0 || !h.OldestOpen.IsZero() || h.LastDelivery.IsZero() || !h.LastFailure.IsZero() {
		t.Errorf("well: %+v", h)
	}
	h = w.health("picky")
	check("picky", h, nil, 0, 0, 12)
	if h.LastFailureReason != relay.ReasonRejected || h.Spans[0].Failures[relay.ReasonRejected] != 12 {
		t.Errorf("picky: %+v", h)
	}
	h = w.health("failing")
	check("failing", h, nil, 0, 0, 0)
	if n := h.Open[relay.Retrying] + h.Open[relay.Parked]; n != 12 || h.OldestOpen.Before(began.Add(-time.Second)) || h.Spans[0].Failures[relay.ReasonUnavailable] < 10 {
		t.Errorf("failing: %+v", h)
	}
	h = w.health("hanging")
	check("hanging", h, map[relay.DeliveryState]int{relay.Pending: 12}, 0, 0, 0)
	if h.InFlight != 1 {
		t.Errorf("hanging: %+v", h)
	}
	h = w.health("paused")
	check("paused", h, map[relay.DeliveryState]int{relay.Parked: 12}, 0, 0, 0)
	if h := w.health("unknown"); h.Breaker != relay.BreakerClosed || len(h.Open) != 0 || h.Spans[2].Attempts != 0 {
		t.Errorf("unknown: %+v", h)
	}
	// After an hour and more only the last span has it.
	w.later(2 * time.Hour)
	if s := w.health("well").Spans; s[0].Attempts != 0 || s[1].Attempts != 0 || s[2].Attempts != 12 {
		t.Errorf("two hours later: %+v", s)
	}
	w.later(30 * time.Hour)
	w.until("the tally is let go of", func() (gone bool) {
		w.do(func(l *loop) { gone = l.tallies["well"] == nil })
		return gone
	})
	w.release()
	w.finish()
}
