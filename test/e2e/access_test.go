package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sealpost/sealpost/test/rig"
)

func token(p *rig.Client, account, role, tenant string) *rig.Client {
	t := rig.Object{"account": account, "role": role}
	if tenant != "" {
		t["tenant"] = tenant
	}
	return p.As(p.OK("POST", "/v1/tokens", t).S("secret"))
}

// TestApproval: without --dev an endpoint waits, what comes for it is parked, and only another account can approve it.
func TestApproval(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, rig.Config{"dev": false, "egress": rig.Config{"allow": []string{"127.0.0.0/8"}}}, view)
		first, second := token(p.Client, "first", "OPERATOR", ""), token(p.Client, "second", "OPERATOR", "")
		p.Client = first // the bootstrap token has ended: there are two operators
		them := token(p.Client, "partner-1", "PARTNER", "acme")
		ca := rig.NewCA(t)
		partner := rig.NewPartner(t, ca.Server(), nil)
		trust := rig.Object{"tls": rig.Object{"clientCertificate": "OFFERED", "caPem": ca.PEM()}}

		ep := first.Register(partner.URL, trust)
		if ep.State != "UNVERIFIED" {
			t.Fatalf("a new endpoint is %s", ep.State)
		}
		if a := second.Act(ep, "approve"); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "not proven") {
			t.Errorf("approving an endpoint whose host is not proven: %d %s", a.Status, a.Raw)
		}
		if v := first.Prove(ep, partner); v.S("endpoint", "state") != "PENDING" {
			t.Fatalf("a proven endpoint: %v", v)
		}
		// An endpoint that nobody approved yet has no claim to what is published meanwhile.
		p.Publish(rig.Event("early", `{}`))
		rig.Eventually(t, "the early event is unmatched", func() bool {
			a := p.Do("GET", "/v1/events/early?tenant=acme", nil)
			return a.Status == http.StatusOK && a.Object["matched"] == false
		})
		for name, c := range map[string]*rig.Client{"its registrant": first, "a partner": them, "a publisher": token(p.Client, "crm", "PUBLISHER", "acme")} {
			if a := c.Act(ep, "approve"); a.Status != http.StatusForbidden && a.Status != http.StatusNotFound {
				t.Errorf("%s approves: %d %s", name, a.Status, a.Raw)
			}
		}
		if partner.Count() > 0 {
			t.Fatal("sent to a pending endpoint")
		}
		if e := second.MustAct(ep, "approve"); e.S("state") != "ACTIVE" || e.S("approver") != "second" || e.S("registrant") != "first" {
			t.Errorf("approved: %v", e)
		}
		p.PublishMany("acme", "e", 5)
		p.AwaitCount("tenant=acme&state=DELIVERED", 5)

		// A wider subscription waits for approval; a narrower one is in force at once.
		patch := func(c *rig.Client, e rig.Object) rig.Answer {
			return c.Do("PATCH", "/v1/endpoints/"+ep.ID, e)
		}
		if a := patch(first, rig.Object{"tenant": "acme", "eventTypes": []string{"contact.*", "deal.*"}}); a.Status != http.StatusOK {
			t.Fatalf("update: %d %s", a.Status, a.Raw)
		}
		deal := rig.Event("deal", `{}`)
		deal["type"] = "deal.won"
		p.Publish(deal)
		rig.Eventually(t, "the deal is unmatched", func() bool {
			a := p.Do("GET", "/v1/events/deal?tenant=acme", nil)
			return a.Status == http.StatusOK && a.Object["matched"] == false
		})
		if a := first.Act(ep, "approve"); a.Status != http.StatusForbidden {
			t.Errorf("the author of a change approves it: %d %s", a.Status, a.Raw)
		}
		second.MustAct(ep, "approve")
		deal["id"] = "deal-2"
		p.Publish(deal)
		p.AwaitDelivery(ep, "deal-2", "DELIVERED")
		etag := p.OK("GET", ep.Path(), nil).S("etag")
		if a := patch(first, rig.Object{"tenant": "acme", "eventTypes": []string{"deal.*"}, "etag": etag}); a.Status != http.StatusOK {
			t.Fatalf("update: %d %s", a.Status, a.Raw)
		}
		if a := patch(first, rig.Object{"tenant": "acme", "description": "x", "etag": etag}); a.Status != http.StatusConflict || a.N("code") != int(codes.Aborted) {
			t.Errorf("an update with an old etag: %d %s", a.Status, a.Raw)
		}
		p.Publish(rig.Event("narrowed", `{}`))
		rig.Eventually(t, "the contact is unmatched", func() bool {
			a := p.Do("GET", "/v1/events/narrowed?tenant=acme", nil)
			return a.Status == http.StatusOK && a.Object["matched"] == false
		})
		// A safe repeat of a creation.
		e := rig.Object{"tenant": "acme", "url": partner.URL, "owner": "o", "purpose": "p", "eventTypes": []string{"x"}, "redaction": rig.Object{"mode": "NONE"}}
		one, two := p.OK("POST", "/v1/endpoints?requestId=r1", e), p.OK("POST", "/v1/endpoints?requestId=r1", e)
		if one.S("endpoint", "id") != two.S("endpoint", "id") || one.S("secret") == "" || two.S("secret") != "" {
			t.Errorf("a repeated creation: %v, %v", one, two)
		}
	})
}

// TestDevMark: what was active by --dev alone is pending without it.
func TestDevMark(t *testing.T) {
	t.Parallel()
	p := start(t)
	ca := rig.NewCA(t)
	partner := rig.NewPartner(t, ca.Server(), nil)
	ep := p.Register(partner.URL, rig.Object{"tls": rig.Object{"clientCertificate": "OFFERED", "caPem": ca.PEM()}})
	p.Publish(rig.Event("dev", `{}`))
	p.AwaitDelivery(ep, "dev", "DELIVERED")
	partner.Answer(rig.Status(503))
	p.Publish(rig.Event("open", `{}`))
	p.AwaitDelivery(ep, "open", "RETRYING")
	p.Stop()
	before := partner.Count()
	partner.Answer(nil)
	p.Restart(rig.Config{"dev": false, "egress": rig.Config{"allow": []string{"127.0.0.0/8"}}})
	if e := p.OK("GET", ep.Path(), nil); e.S("state") != "PENDING" {
		t.Errorf("after --dev: %v", e)
	}
	if d := p.AwaitDelivery(ep, "open", "PARKED"); d.S("reason") != "ENDPOINT_INACTIVE" {
		t.Errorf("what was open: %v", d)
	}
	if n := partner.Count(); n != before {
		t.Errorf("%d requests to a pending endpoint", n-before)
	}
	second := token(p.Client, "second", "OPERATOR", "")
	if a := second.Act(ep, "approve"); a.Status != http.StatusBadRequest {
		t.Errorf("approving an endpoint of --dev whose host is not proven: %d %s", a.Status, a.Raw)
	}
	p.Prove(ep, partner)
	second.MustAct(ep, "approve")
	p.AwaitDelivery(ep, "open", "DELIVERED")
}

// TestTokens: each may do what its role may, in its tenant, until it ends.
func TestTokens(t *testing.T) {
	t.Parallel()
	p := start(t)
	receiver := rig.NewPartner(t, nil, nil)
	ep := p.Register(receiver.URL, nil)
	p.Publish(rig.Event("e1", `{}`))
	d := p.AwaitDelivery(ep, "e1", "DELIVERED")

	info, err := os.Stat(filepath.Join(p.Data, "operator.token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("operator.token: %v %v", info.Mode(), err)
	}
	for _, name := range []string{"secrets.key"} {
		if info, err := os.Stat(filepath.Join(p.Data, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}

	publisher, other := token(p.Client, "crm", "PUBLISHER", "acme"), token(p.Client, "crm2", "PUBLISHER", "globex")
	owner, stranger := token(p.Client, "partner-1", "PARTNER", "acme"), token(p.Client, "partner-2", "PARTNER", "globex")
	globexOperator := token(p.Client, "gop", "OPERATOR", "globex")
	mine := owner.Register(receiver.URL, rig.Object{"eventTypes": []string{"deal.*"}})
	body := rig.Event("e2", `{}`)
	for _, c := range []struct {
		name, method, path string
		who                *rig.Client
		body               any
		want               []int
	}{
		{"a publisher publishes", "POST", "/v1/events", publisher, body, []int{200}},
		{"a publisher of another tenant publishes", "POST", "/v1/events", other, body, []int{403, 404}},
		{"a partner publishes", "POST", "/v1/events", owner, body, []int{403}},
		{"a publisher registers", "POST", "/v1/endpoints", publisher, rig.Object{"tenant": "acme", "url": receiver.URL}, []int{403}},
		{"a partner registers elsewhere", "POST", "/v1/endpoints", owner, rig.Object{"tenant": "globex", "url": receiver.URL, "owner": "o", "eventTypes": []string{"*"}}, []int{403, 404}},
		{"a publisher makes a token", "POST", "/v1/tokens", publisher, rig.Object{"account": "x", "role": "PUBLISHER", "tenant": "acme"}, []int{403}},
		{"a partner makes a token", "POST", "/v1/tokens", owner, rig.Object{"account": "x", "role": "PARTNER", "tenant": "acme"}, []int{403}},
		{"an operator of a tenant makes one for another", "POST", "/v1/tokens", globexOperator, rig.Object{"account": "x", "role": "OPERATOR", "tenant": "acme"}, []int{403, 404}},
		{"a token for too long", "POST", "/v1/tokens", p.Client, rig.Object{"account": "x", "role": "PUBLISHER", "tenant": "acme", "ttl": "7776001s"}, []int{400}},
		{"the registrant reads", "GET", mine.Path(), owner, nil, []int{200}},
		{"a partner reads another's in its tenant", "GET", ep.Path(), owner, nil, []int{404}},
		{"a stranger reads", "GET", ep.Path(), stranger, nil, []int{404}},
		{"a stranger reads without naming the tenant", "GET", "/v1/endpoints/" + ep.ID, stranger, nil, []int{404}},
		{"a stranger deletes", "DELETE", ep.Path(), stranger, nil, []int{404}},
		{"a stranger pauses", "POST", "/v1/endpoints/" + ep.ID + ":pause", stranger, rig.Object{}, []int{404}},
		{"an operator of another tenant pauses", "POST", "/v1/endpoints/" + ep.ID + ":pause", globexOperator, rig.Object{"tenant": "acme"}, []int{404}},
		{"a stranger updates", "PATCH", "/v1/endpoints/" + ep.ID, stranger, rig.Object{"description": "x"}, []int{404}},
		{"a stranger reads a delivery", "GET", "/v1/deliveries/" + d.S("id"), stranger, nil, []int{404}},
		{"a stranger reads a delivery by its tenant", "GET", "/v1/deliveries/" + d.S("id") + "?tenant=acme", stranger, nil, []int{404}},
		{"a partner reads another's delivery", "GET", "/v1/deliveries/" + d.S("id") + "?tenant=acme", owner, nil, []int{404}},
		{"an operator of another tenant reads an event", "GET", "/v1/events/e1?tenant=acme", globexOperator, nil, []int{404}},
		{"a partner reads an event", "GET", "/v1/events/e1?tenant=acme", owner, nil, []int{403, 404}},
		{"an operator of another tenant retries", "POST", "/v1/deliveries/" + d.S("id") + ":retry", globexOperator, rig.Object{"tenant": "acme"}, []int{404}},
		{"nobody", "GET", "/v1/endpoints", p.As(""), nil, []int{401}},
		{"garbage", "GET", "/v1/endpoints", p.As("garbage"), nil, []int{401}},
		{"a token with a changed end", "GET", "/v1/endpoints", p.As(p.Token[:len(p.Token)-2] + "AA"), nil, []int{401}},
	} {
		a := c.who.Do(c.method, c.path, c.body)
		ok := false
		for _, want := range c.want {
			ok = ok || a.Status == want
		}
		if !ok {
			t.Errorf("%s: %d %s, want %v", c.name, a.Status, a.Raw, c.want)
		}
		if a.Status == 401 && (a.Header.Get("Www-Authenticate") == "" || a.N("code") != int(codes.Unauthenticated)) {
			t.Errorf("%s: %v %s", c.name, a.Header, a.Raw)
		}
		if a.Status == 404 && strings.Contains(string(a.Raw), ep.ID) {
			t.Errorf("%s: not found, but named: %s", c.name, a.Raw)
		}
	}
	if list := stranger.OK("GET", "/v1/endpoints", nil).L("endpoints"); len(list) != 0 {
		t.Errorf("a stranger lists %v", list)
	}
	if list := owner.OK("GET", "/v1/endpoints", nil).L("endpoints"); len(list) != 1 || list[0].S("id") != mine.ID {
		t.Errorf("a partner lists %v", list)
	}
	if list := owner.OK("GET", "/v1/deliveries", nil).L("deliveries"); len(list) != 0 {
		t.Errorf("a partner lists deliveries of others: %v", list)
	}

	gone := p.OK("POST", "/v1/tokens", rig.Object{"account": "gone", "role": "PUBLISHER", "tenant": "acme"})
	p.As(gone.S("secret")).Publish(rig.Event("e4", `{}`))
	p.OK("POST", "/v1/tokens/"+gone.S("token", "id")+":revoke", rig.Object{"tenant": "acme"})
	if a := p.As(gone.S("secret")).Do("POST", "/v1/events", rig.Event("e5", `{}`)); a.Status != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d %s", a.Status, a.Raw)
	}
	for _, one := range p.OK("GET", "/v1/tokens?pageSize=1000", nil).L("tokens") {
		if one["secret"] != nil {
			t.Errorf("a token's secret is listed: %v", one)
		}
	}
	// Tokens outlive a restart.
	p.Kill()
	p.Restart(nil)
	e := rig.Event("e6", `{}`)
	if a := p.As(publisher.Token).Do("POST", "/v1/events", e); a.Status != http.StatusOK {
		t.Errorf("a token after a kill: %d %s", a.Status, a.Raw)
	}
	if a := p.As(gone.S("secret")).Do("POST", "/v1/events", e); a.Status != http.StatusUnauthorized {
		t.Errorf("a revoked token after a kill: %d %s", a.Status, a.Raw)
	}
}
