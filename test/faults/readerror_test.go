package faults_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/disk"
	"github.com/sealpost/sealpost/test/rig"
)

// TestReadErrors has the disk fail to give what was written to it, while events are routed, parked ones are drained, and at the
// start: nothing is taken for gone. Events are refused with the reason, readiness says so, and everything is delivered once the
// disk gives it again, or after another start.
func TestReadErrors(t *testing.T) { onPowered(t, readErrors) }

func readErrors(t *testing.T) {
	t.Run("draining", draining)
	t.Run("routing", routing)
	for _, stream := range []string{"SEALPOST_EVENTS_0", "SEALPOST_OUTCOMES_0", "SEALPOST_CHECKPOINTS_0", "KV_"} {
		for _, end := range []string{"stopped", "killed"} {
			t.Run("starting, "+stream+", "+end, func(t *testing.T) { startingUnread(t, stream, end == "stopped") })
		}
	}
}

// many is how many events there are, of 400 KB each: enough for several blocks of a log.
const many = 60

// parked is a Sealpost with so many events that wait for an endpoint.
func parked(t *testing.T, more rig.Config) (*powered, *counter, rig.Endpoint) {
	t.Helper()
	partner := newCounter()
	w := newPowered(t, binary, more)
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	ep := w.p.Register(rig.Serve(t, partner)+"/hook", rig.Object{"chunkBytes": 1 << 20})
	w.p.MustAct(ep, "pause")
	for i := range many {
		w.publish(fmt.Sprint("e", i))
	}
	return w, partner, ep
}

func (w *powered) publish(id string) {
	w.t.Helper()
	w.p.Publish(rig.Event(id, fmt.Sprintf(`{"pad":"%0*d"}`, 400_000, 0)))
}

// unreadable has reads fail of the blocks of streams, while it is true.
func (w *powered) unreadable(stream string, when func() bool) (reads *atomic.Int64) {
	reads = &atomic.Int64{}
	w.disk.Fail(func(a disk.Act, path string) error {
		if a != disk.Read || !strings.Contains(path, "/streams/"+stream) || !strings.HasSuffix(path, ".blk") || !when() {
			return nil
		}
		reads.Add(1)
		return syscall.EIO
	})
	return reads
}

// red waits until events are refused and readiness says that the journal cannot be read, and returns how it was refused.
func (w *powered) red() string {
	w.t.Helper()
	var said rig.Object
	rig.Eventually(w.t, "readiness is red", func() bool {
		var status int
		status, said = readiness(w.t, w.p)
		return status == http.StatusServiceUnavailable && strings.HasPrefix(said.S("journal"), "not readable")
	}, func() string { return fmt.Sprint(said) })
	a := w.p.Do("POST", "/v1/events", rig.Event("refused", `{}`))
	if a.Status != http.StatusServiceUnavailable || !strings.Contains(a.S("message"), "cannot be read") {
		w.t.Errorf("an event was answered with %d %s", a.Status, a.Raw)
	}
	return a.S("message")
}

// green waits until events are accepted again.
func (w *powered) green() {
	w.t.Helper()
	rig.Eventually(w.t, "readiness is green", func() bool { status, _ := readiness(w.t, w.p); return status == http.StatusOK })
	w.publish("again")
}

// allDelivered checks that every event was delivered, once.
func (w *powered) allDelivered(partner *counter, ep rig.Endpoint, n int) {
	w.t.Helper()
	w.p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, n)
	states := map[string]int{}
	for _, d := range w.p.Deliveries("tenant=acme&endpointId=" + ep.ID) {
		states[d.S("state")]++
	}
	taken, twice, _ := partner.tally()
	w.t.Logf("%d events accepted, %d deliveries received, %d of them more than once; %v", n, taken, twice, states)
	if states["DELIVERED"] != n || len(states) != 1 || taken != n || twice > 0 {
		w.t.Errorf("of %d events: %v, %d received, %d more than once", n, states, taken, twice)
	}
}

func draining(t *testing.T) {
	w, partner, ep := parked(t, nil)
	w.p.Stop()
	w.p.Restart(nil)
	var broken atomic.Bool
	broken.Store(true)
	reads := w.unreadable("SEALPOST_EVENTS_0", broken.Load)
	w.p.MustAct(ep, "resume")
	said := w.red()
	time.Sleep(3 * time.Second) // it stays so, however often it is tried
	for _, d := range w.p.Deliveries("tenant=acme&endpointId=" + ep.ID) {
		if s := d.S("state"); s == "CANCELLED" || s == "DEAD" {
			t.Fatalf("%s became %s, %s", d.S("eventId"), s, d.S("reason"))
		}
	}
	w.red()
	t.Logf("%d reads failed; refused with %q", reads.Load(), said)
	broken.Store(false)
	w.green()
	w.allDelivered(partner, ep, many+1)
}

// routing loses the power when no outcome was synced yet, so that all events are to be routed again, and has their log fail as soon
// as the next process listens: that is after the journal was opened.
func routing(t *testing.T) {
	partner := newCounter()
	w := newPowered(t, binary, rig.Config{"delivery": rig.Config{"syncEvery": "1h", "checkpointEvery": "1h", "retryIntervals": []string{"1h"}}})
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	ep := w.p.Register(rig.Serve(t, partner)+"/hook", rig.Object{"chunkBytes": 1 << 20})
	w.p.MustAct(ep, "pause")
	for i := range many {
		w.publish(fmt.Sprint("e", i))
	}
	w.loseAfter(0, nil, func() {})
	var broken atomic.Bool
	broken.Store(true)
	reads := w.unreadable("SEALPOST_EVENTS_0", func() bool { return broken.Load() && listening(w.p.HTTP) })
	w.p.Restart(rig.Config{"delivery": rig.Dev()["delivery"]})
	w.p.MustAct(ep, "resume")
	said := w.red()
	t.Logf("%d of %d events were read from what the start had read; %d reads failed; refused with %q", int(w.p.Metric("sealpost_events_routed_total", "")), many, reads.Load(), said)
	if n := int(w.p.Metric("sealpost_events_routed_total", "")); n >= many {
		t.Fatal("everything was routed: this test shows nothing")
	}
	broken.Store(false)
	w.green()
	w.allDelivered(partner, ep, many+1)
}

// startingUnread starts while a log cannot be read: either that is refused, with the reason, or it is red; and nothing is lost by it.
func startingUnread(t *testing.T, stream string, stopped bool) {
	w, partner, ep := parked(t, nil)
	if stopped {
		w.p.Stop()
	} else {
		w.p.Kill()
	}
	var broken atomic.Bool
	broken.Store(true)
	reads := w.unreadable(stream, broken.Load)
	err := w.p.Begin()
	if err == nil {
		w.red()
	}
	t.Logf("%d reads failed; the start: %v", reads.Load(), err)
	if reads.Load() == 0 {
		t.Fatal("nothing was read: this test shows nothing")
	}
	if err != nil {
		tail := w.p.Tail()
		if !strings.Contains(tail[max(0, len(tail)-2000):], "input/output error") && !strings.Contains(tail, "cannot be read") {
			t.Errorf("it does not say why:\n%s", tail)
		}
		broken.Store(false)
		if err := w.start(); err != nil {
			t.Fatalf("%v\n%s", err, w.p.Tail())
		}
	} else {
		w.p.Kill()
		broken.Store(false)
		w.p.Restart(nil)
	}
	w.p.Act(ep, "resume")
	w.green()
	w.allDelivered(partner, ep, many+1)
}

// listening tells whether somebody listens at an address.
func listening(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
