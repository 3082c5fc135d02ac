package e2e_test

import (
	"net/http"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestEndpointHealth counts what was sent and what failed; a partner sees its own endpoints' health and no other's; a restart begins
// the counts anew and keeps what is open.
func TestEndpointHealth(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		token := func(account string) *rig.Client {
			made := p.OK("POST", "/v1/tokens", rig.Object{"account": account, "role": "PARTNER", "tenant": "acme", "ttl": "3600s"})
			return p.As(made.S("secret"))
		}
		mine, other := token("ann"), token("bob")
		partner := rig.NewPartner(t, nil, nil)
		ep := mine.Register(partner.URL, nil)
		p.PublishMany("acme", "e", 40)
		p.AwaitCount("tenant=acme&state=DELIVERED", 40)
		partner.Answer(rig.Status(422))
		p.PublishMany("acme", "bad", 5)
		p.AwaitCount("tenant=acme&state=DEAD", 5)
		health := func(c *rig.Client) rig.Answer { return c.Do("GET", "/v1/endpoints/"+ep.ID+"/health?tenant=acme", nil) }
		for name, c := range map[string]*rig.Client{"the operator": p.Client, "the registrant": mine} {
			h := health(c)
			if h.Status != http.StatusOK || h.S("breaker") != "CLOSED" || h.S("state") != "ACTIVE" || h.S("lastFailureReason") != "REJECTED" || h.S("sinceTime") == "" {
				t.Fatalf("%s: %d %s", name, h.Status, h.Raw)
			}
			for _, s := range h.L("spans") {
				if s.N("attempts") != 45 || s.N("accepted") != 40 || s.N("delivered") != 40 || s.N("dead") != 5 || s.O("failures").N("REJECTED") != 5 || s.S("p50") == "" {
					t.Errorf("%s: %v", name, s)
				}
			}
		}
		if h := health(other); h.Status != http.StatusNotFound {
			t.Errorf("another partner: %d %s", h.Status, h.Raw)
		}
		p.MustAct(ep, "pause")
		p.PublishMany("acme", "later", 7)
		p.AwaitCount("tenant=acme&state=PARKED", 7)
		p.Kill()
		p.Restart(nil)
		h := health(p.Client)
		if h.Status != http.StatusOK || h.O("open").N("PARKED") != 7 || h.S("oldestOpenTime") == "" || h.L("spans")[2].N("attempts") != 0 {
			t.Errorf("after a restart: %d %s", h.Status, h.Raw)
		}
	})
}
