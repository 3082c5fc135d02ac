package cluster_test

import (
	"slices"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// cutWithin is how long after a node is cut off deliveries go on everywhere: five to six seconds until the processes whose server it is
// leave it, four to nine until the others have a leader for what it led, which run at the same time, and on top of the later of the two a
// relay that could not renew its lease begins again: a life, and a second or so.
const cutWithin = 20 * time.Second

// cutLeader cuts the node that leads a stream off from the other nodes, while its clients stay, and heals it.
func cutLeader(w *world) {
	for _, stream := range []string{"_EVENTS_0", "_OUTCOMES_1", "_LEASES"} {
		w.cut(w.leader(stream), "which led "+stream)
	}
}

// cutFollower cuts a node off that leads neither the streams of a partition nor the leases.
func cutFollower(w *world) {
	leads := []*rig.Node{w.leader("_EVENTS_0"), w.leader("_OUTCOMES_0"), w.leader("_LEASES")}
	at := slices.IndexFunc(w.nats.Nodes, func(n *rig.Node) bool { return !slices.Contains(leads, n) })
	if at < 0 {
		// Each leads one of the three: the one of the leases is a follower of the others.
		at = slices.Index(w.nats.Nodes, leads[2])
	}
	w.cut(w.nats.Nodes[at], "a follower")
}

func (w *world) cut(node *rig.Node, what string) {
	w.Helper()
	w.interrupted(func() {
		node.Isolate()
		defer node.Heal()
		took := w.flowing()
		w.Logf("%s, %s, was cut off: deliveries went on everywhere after %v", node.Name, what, took.Round(time.Millisecond))
		if took > cutWithin {
			w.Errorf("deliveries stood still for %v", took)
		}
		// They go on for as long as the cut lasts, past the moment at which the node itself gives up.
		for late := time.Now().Add(longCut); time.Now().Before(late); {
			w.grown("deliveries while it is cut off", w.partner.answered.Load, 20)
		}
		w.flowing()
		node.Heal()
		w.whole()
		w.Logf("healed: deliveries go on everywhere within %v", w.flowing().Round(time.Millisecond))
	})
	w.awaitOwners()
}

// longCut is longer than a leader without followers believes in itself (10 to 20 s), less what the first deliveries took.
const longCut = 15 * time.Second
