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
	w.scenario("kill-leader", killLeader)
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
