package partition

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/breaker"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

func TestDelivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep_all", func(r *registry.Record) { r.Settings.EventTypes = []string{"*"} })
	w.endpoint("ep_contacts")
	w.endpoint("ep_deals", func(r *registry.Record) {
		r.Settings.EventTypes, r.Settings.Filter = []string{"deal.won"}, "event.data.n > 1"
	})
	w.endpoint("ep_pending", func(r *registry.Record) { r.State, r.ApproveTime = relay.EndpointPending, time.Time{} })
	w.start()
	contact := w.publish("contact.updated", `{"n":1,"ssn":"123-45-6789"}`)
	won := w.publish("deal.won", `{"n":2}`)
	small := w.publish("deal.won", `{"n":1}`)
	broken := w.publish("deal.won", `{"n":"two"}`)
	w.reachAll([]uint64{contact, won, small, broken}, "ep_all", relay.Delivered)
	w.state("ep_all", relay.EndpointDeleted)
	alone := w.publish("ticket.opened", `{}`)

	for _, want := range []struct {
		seq      uint64
		endpoint string
		state    relay.DeliveryState
		reason   relay.Reason
	}{
		{contact, "ep_all", relay.Delivered, relay.ReasonAccepted},
		{contact, "ep_contacts", relay.Delivered, relay.ReasonAccepted},
		{won, "ep_deals", relay.Delivered, relay.ReasonAccepted},
		{broken, "ep_deals", relay.Withheld, relay.ReasonFilterFailed},
		{alone, "", relay.Unmatched, relay.ReasonNoMatch},
	} {
		o := w.reaches(want.seq, want.endpoint, want.state, want.reason)
		if all := w.of(want.seq, want.endpoint); len(all) != 1 {
			t.Errorf("%d records of %v", len(all), o)
		}
		if want.state == relay.Delivered && (o.Attempts != 1 || o.Attempt == nil || o.Attempt.Number != 1) {
			t.Errorf("attempts of %+v", o)
		}
	}
	if w.count(small, "ep_deals")+w.count(broken, "ep_deals")+w.count(contact, "ep_pending") != 0 {
		t.Error("something was sent that should not have been")
	}
	for _, s := range w.received() {
		if strings.Contains(s.data, "123-45") {
			t.Errorf("a dropped field left: %s", s.data)
		}
	}
	w.finish()
	w.settled()
}

func TestRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.script(func(s sent) relay.Verdict {
		switch {
		case s.Seq == 2:
			return status(422)
		case s.number < 3:
			return status(500)
		}
		return status(200)
	})
	w.start()
	seqs := w.many(2)
	w.reaches(seqs[0], "ep", relay.Delivered, "")
	w.reaches(seqs[1], "ep", relay.Dead, relay.ReasonRejected)
	var states []string
	for _, o := range w.of(seqs[0], "ep") {
		states = append(states, fmt.Sprint(o.State, " ", o.Reason, " ", o.Attempts))
		if o.State == relay.Retrying && (o.Due.IsZero() || o.Due.Sub(o.Time) > time.Second) {
			t.Errorf("due %v after %v", o.Due, o.Time)
		}
	}
	if want := []string{"RETRYING SERVER_ERROR 1", "RETRYING SERVER_ERROR 2", "DELIVERED ACCEPTED 3"}; !slices.Equal(states, want) {
		t.Errorf("%q, want %q", states, want)
	}
	w.finish()
	w.settled()
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.endpoint("ep_down")
	w.script(func(sent) relay.Verdict { return status(500) })
	w.start()
	seqs := w.many(30)
	w.until("the breaker", func() bool { return w.count(seqs[29], "ep_down")+len(w.received()) >= 2*breaker.MaxConsecutive })
	w.reachAll(seqs[20:], "ep_down", relay.Parked)
	w.later(relay.DefaultRetryFor + time.Hour)
	w.reachAll(seqs, "ep", relay.Dead)
	w.reachAll(seqs, "ep_down", relay.Dead)
	w.finish()
	w.settled()
}

// An endpoint that is down costs few attempts, keeps its deliveries, and gets them in order when it is back; others do
// not notice.
func TestBreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, impatient)
	w.endpoint("ep_down", ordered)
	w.endpoint("ep_well")
	down := true
	w.script(func(s sent) relay.Verdict {
		if s.Endpoint == "ep_down" && down {
			return status(503)
		}
		return status(200)
	})
	w.start()
	seqs := w.many(60)
	w.reachAll(seqs, "ep_well", relay.Delivered)
	w.reachAll(seqs, "ep_down", relay.Parked)
	attempts := len(w.received()) - len(seqs)
	if attempts != breaker.MaxConsecutive {
		t.Errorf("%d attempts at an endpoint that is down", attempts)
	}
	w.later(breaker.FirstProbe)
	w.until("a probe", func() bool { return len(w.received()) == len(seqs)+attempts+1 })
	w.reachAll(seqs, "ep_down", relay.Parked)
	w.partner.mu.Lock()
	down = false
	w.partner.mu.Unlock()
	w.later(2 * breaker.FirstProbe)
	w.reachAll(seqs, "ep_down", relay.Delivered)
	var order []uint64
	for _, s := range w.received() {
		if s.Endpoint == "ep_down" {
			order = append(order, s.Seq)
		}
	}
	if order = slices.Compact(order); !slices.Equal(order, seqs) {
		t.Errorf("order %v", order)
	}
	w.finish()
	w.settled()
}

// What a lane has no room for waits by its sequence alone; a record says so only if it takes long.
func TestLaneOverflow(t *testing.T) {
	t.Parallel()
	small := lane.Limits{InFlight: 4, Bytes: 1 << 20, LaneItems: 4, LaneBytes: 1 << 20, MaxWait: time.Hour}
	for name, wait := range map[string]time.Duration{"fast": 0, "slow": 2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, limits(small))
			w.endpoint("ep")
			open := w.hang("ep")
			w.start()
			seqs := w.many(50)
			w.until("a full lane", func() bool { return w.inFlight("ep") == 1 })
			if wait > 0 {
				w.until("records that they are parked", func() bool {
					w.later(wait)
					return len(w.latest()) == len(seqs)
				})
				w.reachAll(seqs[1:], "ep", relay.Parked)
			}
			open()
			w.reachAll(seqs, "ep", relay.Delivered)
			parked := 0
			for _, o := range w.outcomes() {
				if o.State == relay.Parked {
					parked++
				}
			}
			if want := wait > 0; (parked > 0) != want {
				t.Errorf("%d records say that a delivery was parked", parked)
			}
			w.finish()
			w.settled()
		})
	}
}

func TestPauseAndSettle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.endpoint("ep_other")
	open := w.hang("ep")
	w.start()
	first := w.many(1)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	revision := w.state("ep", relay.EndpointPaused)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := w.owners().Settle(ctx, "acme", revision); err == nil {
		t.Fatal("settled while something was in flight to a paused endpoint")
	}
	settled := make(chan error, 1)
	go func() { settled <- w.owners().Settle(t.Context(), "acme", revision) }()
	open()
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	later := w.many(20)
	w.reachAll(later, "ep_other", relay.Delivered)
	for _, seq := range later {
		w.reaches(seq, "ep", relay.Parked, relay.ReasonEndpointPaused)
	}
	if n := len(w.received()); n != 1+len(first)+len(later) {
		t.Errorf("%d POSTs: a paused endpoint was sent to", n)
	}
	w.state("ep", relay.EndpointActive)
	w.reachAll(append(first, later...), "ep", relay.Delivered)
	w.finish()
	w.settled()
}

// What does not end by itself is cut off, so that a pause is confirmed within seconds.
func TestSettleCutsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.hang("ep")
	w.start()
	seqs := w.many(3)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	revision := w.state("ep", relay.EndpointPaused)
	settled := make(chan error, 1)
	go func() { settled <- w.owners().Settle(t.Context(), "acme", revision) }()
	w.until("the command", func() bool {
		w.later(time.Second)
		return len(settled) == 1
	})
	if err := <-settled; err != nil || w.inFlight("ep") != 0 {
		t.Fatal(err)
	}
	w.release()
	w.state("ep", relay.EndpointActive)
	w.reachAll(seqs, "ep", relay.Delivered)
	// What is in flight for longer than a second is recorded as that first.
	if o := w.of(seqs[0], "ep"); (o[0].State != relay.Pending || o[0].Reason != relay.ReasonSlow) && (o[0].State != relay.Parked || o[0].Reason != relay.ReasonEndpointPaused) {
		t.Errorf("%+v", o[0])
	}
	w.finish()
	w.settled()
}

// Containing does not wait for what is in flight: no time passes here.
func TestContainingCutsOffAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.hang("ep")
	w.start()
	seqs := w.many(3)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	if err := w.owners().Settle(t.Context(), "acme", w.state("ep", relay.EndpointContained)); err != nil || w.inFlight("ep") != 0 {
		t.Fatal(err)
	}
	w.reachAll(seqs, "ep", relay.Parked)
	if o := w.of(seqs[0], "ep"); o[0].State != relay.Parked || o[0].Reason != relay.ReasonEndpointContained {
		t.Errorf("%+v", o[0])
	}
	w.release()
	w.state("ep", relay.EndpointActive)
	w.reachAll(seqs, "ep", relay.Delivered)
	w.finish()
	w.settled()
}

func TestDeletedEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t, impatient)
	w.endpoint("ep")
	w.script(func(s sent) relay.Verdict { return status(500) })
	open := w.hang("ep")
	w.start()
	seqs := w.many(600)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	w.state("ep", relay.EndpointPaused)
	w.reachAll(seqs[1:], "ep", relay.Parked)
	w.state("ep", relay.EndpointDeleted)
	w.reachAll(seqs[1:], "ep", relay.Cancelled)
	open() // what was in flight fails
	w.reaches(seqs[0], "ep", relay.Cancelled, relay.ReasonEndpointDeleted)
	if n := len(w.received()); n != 1 {
		t.Errorf("%d POSTs", n)
	}
	w.finish()
	w.settled()
}
