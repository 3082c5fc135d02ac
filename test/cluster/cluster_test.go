package cluster_test

import (
	"testing"
	"time"

	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// takeoverWithin is how long after a relay's death deliveries go on everywhere: the life of its lease, and a second or so, on a
// machine that does other things too.
const takeoverWithin = leaseLife + 3*time.Second

func TestCluster(t *testing.T) {
	w := newWorld(t, redistest.Start(t).URL("cluster"), relays)
	w.scenario("kill-relay", killRelay)
	w.scenario("suspend-relay", suspendRelay)
	w.scenario("restart-relay", restartRelay)
	w.scenario("pause", pause)
	w.scenario("kill-leader", killLeader)
	w.scenario("roll", roll)
}

// killRelay kills one relay after the other in the middle of its work; the last time, the one that has just taken over.
func killRelay(w *world) {
	kills := 0
	for i := range 2 {
		victim := w.busiest()
		w.interrupted(func() {
			victim.Kill()
			kills++
			took := w.flowing()
			w.Logf("kill %d: deliveries went on everywhere after %v", i+1, took.Round(time.Millisecond))
			if took > takeoverWithin {
				w.Errorf("taking over took %v", took)
			}
		})
		victim.Restart(nil)
		w.awaitOwners()
	}
	// Taking over: the moment after the first records of a new owner.
	for range 2 {
		victim := w.busiest()
		w.interrupted(func() {
			begun := w.takeovers()
			victim.Kill()
			kills++
			rig.Eventually(w, "a partition is taken over", func() bool { return w.takeovers() > begun })
			second := w.busiest()
			second.Kill()
			kills++
			w.flowing()
			second.Restart(nil)
		})
		victim.Restart(nil)
		w.awaitOwners()
	}
	w.Logf("%d kills", kills)
	if kills < 6 {
		w.Errorf("%d kills", kills)
	}
}

// suspendRelay stops a relay past its lease and wakes it, after others have taken over.
func suspendRelay(w *world) {
	victim := w.busiest()
	mark := len(victim.Output())
	w.interrupted(func() {
		victim.Suspend()
		took := w.flowing()
		w.Logf("deliveries went on everywhere after %v", took.Round(time.Millisecond))
		victim.Resume()
	})
	rig.Eventually(w, "the relay that was suspended learns it", func() bool { return said(victim, mark, "ended by another relay") })
	w.awaitOwners()
}

// restartRelay stops each relay as an operator does: nothing is lost and nothing comes twice.
func restartRelay(w *world) {
	for _, p := range w.relays {
		p.Stop()
		w.grown("deliveries", w.partner.answered.Load, 50)
		p.Restart(nil)
		w.awaitOwners()
	}
}

// killLeader kills the node that leads a stream of events, one of outcomes, and the leases.
func killLeader(w *world) {
	for _, stream := range []string{"_EVENTS_0", "_OUTCOMES_1", "_LEASES"} {
		node := w.leader(stream)
		w.interrupted(func() {
			node.Kill()
			w.Logf("%s, which led %s, was killed: deliveries went on everywhere after %v", node.Name, stream, w.flowing().Round(time.Millisecond))
		})
		node.Start()
		w.whole()
	}
}

// roll restarts all nodes of NATS, one after the other, as an operator does.
func roll(w *world) {
	for _, node := range w.nats.Nodes {
		w.interrupted(func() {
			node.Stop()
			node.Start()
			w.whole()
			w.flowing()
		})
	}
}

// pause pauses and resumes endpoints by one api process while another publishes, and relays that know nothing of either send:
// once it is answered nothing comes any more until it is resumed.
func pause(w *world) {
	for i, tenant := range tenants[:4] {
		ep := w.endpoints[tenant]["plain"]
		by := w.apis[i%len(w.apis)].In(w)
		began := time.Now()
		by.MustAct(ep, "pause")
		took, mark := time.Since(began), time.Now()
		w.grown("deliveries to others", w.partner.answered.Load, 100)
		if late := w.partner.arrivedSince(mark, tenant, "/plain"); late > 0 {
			w.Errorf("%d requests came to %s's endpoint after pausing it was answered", late, tenant)
		}
		w.Logf("%s's endpoint was paused everywhere within %v", tenant, took.Round(time.Millisecond))
		by.MustAct(ep, "resume")
	}
}
