package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// TestOperationalEvents: a dead delivery, a suspension and a breaker arrive, signed, at an operator's endpoint; nothing of a
// tenant's data is in them, what happens to them leads to none, and nobody but an operator has to do with their tenant.
func TestOperationalEvents(t *testing.T) {
	t.Parallel()
	p := start(t)
	pager := rig.NewPartner(t, nil, nil)
	ops := p.Register(pager.URL, rig.Object{"tenant": "sealpost", "eventTypes": []string{"sealpost.*"}})
	// One that refuses every alert: its dead deliveries and its suspension must not become alerts.
	deaf := rig.NewPartner(t, nil, rig.Status(http.StatusGone))
	p.Register(deaf.URL, rig.Object{"tenant": "sealpost", "eventTypes": []string{"sealpost.*"}})

	const mark = "Ada-Lovelace-4711"
	endpoint := func(code int) rig.Endpoint { return p.Register(rig.NewPartner(t, nil, rig.Status(code)).URL, nil) }
	picky, gone, failing := endpoint(422), endpoint(410), endpoint(503)
	for i := range 12 {
		e := rig.Event("evt_"+mark[:3]+string(rune('a'+i)), `{"name":"`+mark+`"}`)
		e["subject"] = "contact/" + mark
		p.Publish(e)
	}
	type alert struct {
		Type string `json:"type"`
		Data struct {
			Tenant, EndpointID, Reason string
			Count                      int
			IDs                        []string `json:"ids"`
		} `json:"data"`
	}
	v := verifier(t, signer.Standard, keyOf(t, signer.Standard, ops))
	var seen map[string]map[string]alert // by type and endpoint
	read := func() {
		seen = map[string]map[string]alert{}
		for _, r := range pager.Receipts() {
			if _, err := v.Verify(r.Header, signer.Request{Method: "POST", URL: pager.URL, Body: r.Body}, r.At); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(r.Body), mark) || strings.Contains(string(r.Body), "contact") {
				t.Fatalf("a tenant's data is in it: %s", r.Body)
			}
			var one alert
			if err := json.Unmarshal(r.Body, &one); err != nil {
				t.Fatal(err)
			}
			if one.Data.Tenant == "sealpost" {
				t.Fatalf("an alert of alerts: %s", r.Body)
			}
			if seen[one.Type] == nil {
				seen[one.Type] = map[string]alert{}
			}
			seen[one.Type][one.Data.EndpointID] = one
		}
	}
	rig.Eventually(t, "all three arrive", func() bool {
		read()
		return seen["sealpost.delivery.dead"][picky.ID].Data.Count > 0 && seen["sealpost.endpoint.suspended"][gone.ID].Data.Count == 1 &&
			seen["sealpost.breaker.opened"][failing.ID].Data.Count > 0
	}, func() string {
		return fmt.Sprintf("picky %s, gone %s, failing %s: %v", picky.ID, gone.ID, failing.ID, seen)
	})
	one := seen["sealpost.delivery.dead"][picky.ID]
	if d := one.Data; d.Tenant != "acme" || d.Reason != "REJECTED" || d.Count > 12 || len(d.IDs) == 0 || !strings.HasPrefix(d.IDs[0], "dlv_") {
		t.Errorf("%+v", one)
	}
	if n := p.Metric("sealpost_alerts_published_total", `type="sealpost.delivery.dead"`); n < 1 || n > 4 {
		t.Errorf("%v events tell of dead deliveries", n)
	}

	// The tenant is nobody's.
	e := rig.Event("evt_1", `{}`)
	e["tenant"] = "sealpost"
	if a := p.Do("POST", "/v1/events", e); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "relay's own") {
		t.Errorf("publishing to it: %d %s", a.Status, a.Raw)
	}
	for _, role := range []string{"PUBLISHER", "PARTNER", "OPERATOR"} {
		if a := p.Do("POST", "/v1/tokens", rig.Object{"account": "x", "role": role, "tenant": "sealpost", "ttl": "3600s"}); a.Status != http.StatusBadRequest {
			t.Errorf("a token of it for a %s: %d %s", role, a.Status, a.Raw)
		}
	}
	partner := p.As(p.OK("POST", "/v1/tokens", rig.Object{"account": "ann", "role": "PARTNER", "tenant": "acme", "ttl": "3600s"}).S("secret"))
	if a := partner.Do("POST", "/v1/endpoints", rig.Object{"tenant": "sealpost", "url": pager.URL, "owner": "o", "eventTypes": []string{"sealpost.*"}, "redaction": rig.Object{"mode": "NONE"}}); a.Status != http.StatusForbidden {
		t.Errorf("an endpoint in it for a partner: %d %s", a.Status, a.Raw)
	}
}
