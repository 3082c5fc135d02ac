package e2e_test

import (
	"fmt"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestPartitions spreads many tenants over several partitions, kills the process among their events and stops it once more:
// each tenant's events arrive, at its own endpoint and no other.
func TestPartitions(t *testing.T) {
	t.Parallel()
	config := rig.Config{"journal": rig.Config{"partitions": 3, "minFreeDisk": -1}}
	p := start(t, config)
	const tenants, events = 12, 20
	partners := make([]*rig.Partner, tenants)
	for i := range tenants {
		partners[i] = rig.NewPartner(t, nil, nil)
		p.Register(partners[i].URL, rig.Object{"tenant": tenant(i)})
	}
	for i := range tenants {
		p.PublishMany(tenant(i), "first", events)
	}
	p.Kill()
	p.Restart(nil)
	for i := range tenants {
		p.PublishMany(tenant(i), "second", events)
	}
	for i := range tenants {
		delivered := p.AwaitCount("tenant="+tenant(i)+"&state=DELIVERED", 2*events)
		received := map[string]bool{} // some may have come twice: before the kill, and after it
		for _, r := range partners[i].Receipts() {
			received[r.ID()] = true
		}
		for _, d := range delivered {
			if !received[d.S("id")] {
				t.Errorf("%s: %s is DELIVERED and was not received", tenant(i), d.S("id"))
			}
		}
		if len(received) != 2*events {
			t.Errorf("%s was sent %d deliveries, and %d are its own", tenant(i), len(received), 2*events)
		}
	}
	p.Stop()
	p.Restart(nil)
	p.PublishMany(tenant(0), "third", 1)
	p.AwaitCount("tenant="+tenant(0)+"&state=DELIVERED", 2*events+1)
}

func tenant(i int) string { return fmt.Sprintf("tenant-%d", i) }
