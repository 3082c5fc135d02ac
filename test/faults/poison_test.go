package faults_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestPoison has steps panic over certain events, in a Sealpost that was built so: each such delivery is withheld with its reason,
// and everything else goes on, over a restart too.
func TestPoison(t *testing.T) {
	t.Parallel()
	panics := func(id, of string) string {
		return fmt.Sprintf("if %s == %q {\n\t\tpanic(\"secret of \" + %s)\n\t}\n\t", of, id, of)
	}
	const redacting, packing = "body, err := shared.redact(ev, ep)", "p.body, p.contentType = render(d)"
	bin := broken(t,
		defect{"relay/internal/route/route.go", redacting, panics("poison-0", "ev.ID") + redacting},
		defect{"relay/internal/courier/parcel.go", packing, panics("poison-1", "d.EventID") + packing},
	)
	partner := newCounter()
	server := rig.Serve(t, partner)
	p := rig.Start(t, bin, rig.Dev())
	endpoints := []rig.Endpoint{p.Register(server+"/any", nil), p.Register(server+"/ordered", rig.Object{"ordered": true})}
	p.PublishMany("acme", "before", 20)
	p.PublishMany("acme", "poison", 3) // 2 is as good as any
	p.PublishMany("acme", "after", 20)
	check := func() {
		t.Helper()
		for _, ep := range endpoints {
			p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, 41)
			for _, id := range []string{"poison-0", "poison-1"} {
				if d := p.AwaitDelivery(ep, id, "WITHHELD"); d.S("reason") != "PANICKED" {
					t.Errorf("%s: %s %s", id, d.S("state"), d.S("reason"))
				}
			}
		}
	}
	check()
	p.Kill()
	p.Restart(nil)
	p.PublishMany("acme", "poison", 3) // known: the first answer
	check()
	if strings.Contains(p.Output(), "secret of") {
		t.Error("what was panicked with is in the log")
	}
	taken, twice, _ := partner.tally()
	t.Logf("43 events accepted, %d deliveries received, %d of them more than once, 4 withheld", taken, twice)
	if taken != 82 {
		t.Errorf("%d deliveries received of 82", taken)
	}
}
