package partition

import (
	"errors"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/owner"
)

// Commands in every state that a delivery can be in.
func TestCommands(t *testing.T) {
	t.Parallel()
	const id = "evt_1"
	hold := relay.Verdict{Kind: relay.VerdictHold, Reason: relay.ReasonThrottled}
	type command func(*world, Ref) error
	retry := func(w *world, r Ref) error { return w.owners().Retry(w.Context(), 0, r) }
	cancel := func(w *world, r Ref) error { return w.owners().Cancel(w.Context(), 0, r) }
	// Each brings the delivery of event 1 to ep into a state.
	waiting := func(w *world) {
		w.script(func(sent) relay.Verdict {
			return relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonThrottled, After: time.Hour}
		})
		w.many(1)
		w.reaches(1, "ep", relay.Retrying, "")
	}
	parked := func(w *world) {
		w.state("ep", relay.EndpointPaused)
		w.many(1)
		w.reaches(1, "ep", relay.Parked, "")
	}
	held := func(w *world) {
		w.script(func(sent) relay.Verdict { return hold })
		w.many(1)
		w.reaches(1, "ep", relay.Held, "")
	}
	delivered := func(w *world) {
		w.many(1)
		w.reaches(1, "ep", relay.Delivered, "")
	}
	flying := func(w *world) {
		w.hang("ep")
		w.many(1)
		w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	}
	well := func(w *world) { w.script(nil) }
	for name, c := range map[string]struct {
		before  func(*world)
		command command
		wrong   bool // the command names another delivery
		want    error
		after   func(*world)
		state   relay.DeliveryState
	}{
		"retry waiting":          {waiting, retry, false, nil, well, relay.Delivered},
		"retry held":             {held, retry, false, nil, well, relay.Delivered},
		"retry delivered":        {delivered, retry, false, nil, nil, relay.Delivered},
		"retry in flight":        {flying, retry, false, ErrBusy, (*world).releaseAll, relay.Delivered},
		"retry parked, paused":   {parked, retry, false, nil, nil, relay.Parked},
		"retry waiting, wrong":   {waiting, retry, true, ErrGone, nil, relay.Retrying},
		"retry held, wrong":      {held, retry, true, ErrGone, nil, relay.Held},
		"retry delivered, wrong": {delivered, retry, true, ErrGone, nil, relay.Delivered},
		"cancel waiting":         {waiting, cancel, false, nil, nil, relay.Cancelled},
		"cancel held":            {held, cancel, false, nil, nil, relay.Cancelled},
		"cancel parked":          {parked, cancel, false, nil, nil, relay.Cancelled},
		"cancel in flight":       {flying, cancel, false, nil, nil, relay.Cancelled},
		"cancel delivered":       {delivered, cancel, false, ErrSettled, nil, relay.Delivered},
		"cancel waiting, wrong":  {waiting, cancel, true, ErrGone, nil, relay.Retrying},
		"cancel held, wrong":     {held, cancel, true, ErrGone, nil, relay.Held},
		"cancel parked, wrong":   {parked, cancel, true, ErrGone, nil, relay.Parked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.endpoint("ep")
			w.start()
			c.before(w)
			posts := len(w.received())
			if c.state == relay.Delivered && c.after != nil && c.want == nil {
				c.after(w)
			}
			r := ref(1, id, "ep")
			if c.wrong {
				r.DeliveryID = relay.DeliveryID("acme", "evt_2", "ep")
			}
			if err := c.command(w, r); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("answered %v, want %v", err, c.want)
			}
			if c.want == nil {
				// What was confirmed is durable.
				if all := w.of(1, "ep"); len(all) == 0 || all[len(all)-1].State != relay.Cancelled && !reopened(all) {
					t.Fatalf("confirmed, and the log says %+v", all)
				}
			}
			if c.want != nil && c.after != nil {
				c.after(w)
			}
			w.reaches(1, "ep", c.state, "")
			// Nothing comes after it: what was held or waits still does.
			w.marker()
			w.reaches(1, "ep", c.state, "")
			if c.want != nil && c.after == nil && len(w.received()) != posts {
				t.Errorf("a refused command sent something")
			}
			w.finish()
		})
	}
}

func reopened(all []relay.Outcome) bool {
	for _, o := range all {
		if o.Reason == relay.ReasonRetried {
			return true
		}
	}
	return false
}

func (w *world) releaseAll() { w.release() }

// marker returns when the owner has looked at everything at least once since.
func (w *world) marker() {
	w.Helper()
	seq := w.publish("ticket.opened", `{}`)
	w.reaches(seq, "", relay.Unmatched, "")
	for range 2 {
		w.do(func(l *loop) { l.hungry = true })
	}
}

func TestCommandsOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.owners().Retry(t.Context(), 0, ref(1, "evt_1", "ep")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without an owner: %v", err)
	}
	w.endpoint("ep")
	w.start()
	w.many(1)
	w.reaches(1, "ep", relay.Delivered, "")
	for name, c := range map[string]struct{ got, want error }{
		"retry of an event to come":   {w.owners().Retry(t.Context(), 0, ref(9, "evt_9", "ep")), ErrGone},
		"retry to no endpoint":        {w.owners().Retry(t.Context(), 0, ref(1, "evt_1", "ep_none")), ErrGone},
		"retry of sequence 0":         {w.owners().Retry(t.Context(), 0, ref(0, "evt_1", "ep")), ErrGone},
		"cancel of an event to come":  {w.owners().Cancel(t.Context(), 0, ref(9, "evt_9", "ep")), ErrSettled},
		"a command that there is not": {w.owners().ask(t.Context(), 0, request{Kind: "erase"}), errors.New(`unknown command "erase"`)},
	} {
		if c.got == nil || !errors.Is(c.got, c.want) && c.got.Error() != c.want.Error() {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if answer, err := w.journal.Request(t.Context(), subject(0), []byte("{")); err != nil || string(answer) != "not a command" {
		t.Errorf("%s, %v", answer, err)
	}
	w.finish()
	w.settled()
}

// A delivery in its lane is cancelled when its turn comes, and not sent.
func TestCancelInLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep", ordered)
	open := w.hang("ep")
	w.start()
	seqs := w.many(3)
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	inLane := func() (n int) {
		w.do(func(l *loop) { n = len(l.live) })
		return n
	}
	w.until("all in the lane", func() bool { return inLane() == 3 })
	cancelled := make(chan error, 1)
	go func() { cancelled <- w.owners().Cancel(t.Context(), 0, ref(seqs[1], "evt_2", "ep")) }()
	w.until("the command", func() (arrived bool) {
		w.do(func(l *loop) { arrived = l.live[owner.Key{Seq: seqs[1], Endpoint: "ep"}].cancelled != "" })
		return arrived
	})
	open()
	if err := <-cancelled; err != nil {
		t.Fatal(err)
	}
	w.reaches(seqs[1], "ep", relay.Cancelled, relay.ReasonCancelled)
	w.reaches(seqs[2], "ep", relay.Delivered, "")
	if w.count(seqs[1], "ep") != 0 {
		t.Error("a cancelled delivery was sent")
	}
	w.finish()
	w.settled()
}

// Retries of one delivery at the same time send it once.
func TestRetriesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limits(lane.DefaultLimits()))
	w.endpoint("ep")
	w.start()
	w.many(1)
	w.reaches(1, "ep", relay.Delivered, "")
	w.hang("ep")
	answers := make(chan error, 20)
	for range cap(answers) {
		go func() { answers <- w.owners().Retry(t.Context(), 0, ref(1, "evt_1", "ep")) }()
	}
	granted := 0
	for range cap(answers) {
		switch err := <-answers; {
		case err == nil:
			granted++
		case !errors.Is(err, ErrBusy):
			t.Errorf("answered %v", err)
		}
	}
	w.until("an attempt", func() bool { return w.inFlight("ep") == 1 })
	w.release()
	w.until("a second delivery", func() bool {
		all := w.of(1, "ep")
		return all[len(all)-1].State == relay.Delivered && len(all) > 1
	})
	if granted == 0 || w.partner.highest["ep"] > 1 || w.count(1, "ep") > 1+granted {
		t.Errorf("%d granted, %d at once, %d POSTs", granted, w.partner.highest["ep"], w.count(1, "ep"))
	}
	w.finish()
	w.settled()
}
