package trust_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

const partnerHost = "hooks.partner.example"

// world is a server that asks for proofs, a zone, and a partner whose host is in it.
type onboarding struct {
	*rig.Process
	zone     *rig.Zone
	ca       *rig.CA
	partner  *rig.Partner
	url      string
	approver *rig.Client
	config   rig.Config
}

func startOnboarding(t *testing.T, settings rig.Config) *onboarding {
	t.Helper()
	o := &onboarding{zone: rig.NewZone(t), ca: rig.NewCA(t)}
	conf := o.ca.Server()
	conf.Certificates = append(conf.Certificates[:0], o.ca.Issue(time.Now().Add(24*time.Hour), partnerHost, "new.partner.example"))
	o.partner = rig.NewPartner(t, conf, nil)
	o.url = strings.Replace(o.partner.URL, "127.0.0.1", partnerHost, 1)
	o.config = rig.Dev().With(rig.Config{
		"dev": false, "egress": rig.Config{"allow": []string{"127.0.0.0/8"}, "nameServer": o.zone.Address}, "onboarding": settings,
	})
	o.Process = rig.Start(t, binary, o.config)
	o.approver = o.As(o.OK("POST", "/v1/tokens", rig.Object{"account": "second", "role": "OPERATOR"}).S("secret"))
	return o
}

// register registers the partner's URL.
func (o *onboarding) register(more rig.Object) rig.Endpoint {
	e := rig.Object{"tls": rig.Object{"clientCertificate": "OFFERED", "caPem": o.ca.PEM()}}
	for k, v := range more {
		e[k] = v
	}
	return o.Register(o.url, e)
}

// inForce is a registered, proven and approved endpoint.
func (o *onboarding) inForce(more rig.Object) rig.Endpoint {
	ep := o.register(more)
	o.proveByDNS(ep)
	o.approver.MustAct(ep, "approve")
	return ep
}

func (o *onboarding) proveByDNS(ep rig.Endpoint) rig.Object {
	asked := o.OK("POST", "/v1/endpoints/"+ep.ID+":verify", rig.Object{"tenant": ep.Tenant, "instructionsOnly": true}).O("challenge")
	o.zone.TXT(asked.S("dnsName"), asked.S("dnsValue"))
	return o.MustAct(ep, "verify")
}

func state(c *rig.Client, ep rig.Endpoint) rig.Object { return c.OK("GET", ep.Path(), nil) }

// sealpost runs the command line as the process's operator, or as who holds a token.
func (o *onboarding) sealpost(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(one string) bool { return strings.HasPrefix(one, "SEALPOST_") }),
		"SEALPOST_CLIENT_FILE="+filepath.Join(o.Data, "client.yaml"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (o *onboarding) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := o.sealpost(t, args...)
	if err != nil {
		t.Fatalf("sealpost %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestProof: unverified until the host is proven, pending until another account approves, and a new host is proven anew while the
// approved one stays in force.
func TestProof(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, nil)
	ep := o.register(nil)
	if ep.State != "UNVERIFIED" {
		t.Fatalf("a new endpoint is %s", ep.State)
	}
	if v := o.MustAct(ep, "verify"); v["proven"] != false || len(v.L("checks")) != 3 {
		t.Errorf("nothing was put anywhere: %v", v)
	}
	if a := o.approver.Act(ep, "approve"); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "not proven") {
		t.Errorf("approving it: %d %s", a.Status, a.Raw)
	}
	if a := o.Act(ep, "test"); a.Status != http.StatusBadRequest || o.partner.Count() > 0 {
		t.Errorf("testing it: %d %s", a.Status, a.Raw)
	}
	v := o.proveByDNS(ep)
	if v["proven"] != true || v.S("endpoint", "state") != "PENDING" || v.S("endpoint", "proof", "method") != "DNS" {
		t.Fatalf("proven: %v", v)
	}
	if a := o.Act(ep, "approve"); a.Status != http.StatusForbidden {
		t.Errorf("its registrant approves: %d %s", a.Status, a.Raw)
	}
	o.approver.MustAct(ep, "approve")
	o.Publish(rig.Event("first", `{}`))
	o.AwaitDelivery(ep, "first", "DELIVERED")

	// A new host is a proposal that needs a proof of its own; the approved one stays in force.
	other := strings.Replace(o.url, partnerHost, "new.partner.example", 1)
	o.OK("PATCH", "/v1/endpoints/"+ep.ID, rig.Object{"tenant": "acme", "url": other})
	if a := o.approver.Act(ep, "approve"); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "host is not proven") {
		t.Errorf("approving a host that is not proven: %d %s", a.Status, a.Raw)
	}
	o.Publish(rig.Event("second", `{}`))
	o.AwaitDelivery(ep, "second", "DELIVERED")
	v = o.proveByDNS(ep)
	if v["proven"] != true || !strings.HasPrefix(v.S("host"), "new.partner.example:") || state(o.Client, ep).S("url") != o.url {
		t.Fatalf("the new host: %v", v)
	}
	o.approver.MustAct(ep, "approve")
	if e := state(o.Client, ep); e.S("url") != other || !strings.HasPrefix(e.S("proof", "host"), "new.partner.example:") {
		t.Errorf("approved: %v", e)
	}
	// While an endpoint waits, a change of its host takes it back to where it began.
	waiting := o.register(nil)
	o.Prove(waiting, o.partner)
	if e := o.OK("PATCH", "/v1/endpoints/"+waiting.ID, rig.Object{"tenant": "acme", "url": other}); e.S("state") != "UNVERIFIED" {
		t.Errorf("a pending endpoint with another host: %v", e)
	}
	// The command line says what to put where, and with the server's key signs by itself.
	signed := o.register(rig.Object{"description": "signed"})
	out, err := o.sealpost(t, "endpoint", "verify", signed.ID, "--tenant", "acme")
	if err == nil || !strings.Contains(out, "_sealpost-challenge."+partnerHost) || !strings.Contains(out, "/.well-known/sealpost-challenge/"+signed.ID) {
		t.Errorf("sealpost endpoint verify: %v\n%s", err, out)
	}
	if a := o.Do("POST", "/v1/endpoints/"+signed.ID+":verify", rig.Object{"tenant": "acme", "signature": "AAAA"}); a.Status != http.StatusOK || a.Object["proven"] != false {
		t.Errorf("a made up signature: %d %s", a.Status, a.Raw)
	}
}

// TestProofExpires: a host is proven again by itself while the proof is in place; without it operators get notice, then the endpoint is
// suspended, and a new proof puts it back.
func TestProofExpires(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, rig.Config{"proofLife": "6s", "reviewEvery": "1h"})
	pager := rig.NewPartner(t, o.ca.Server(), nil)
	ops := o.Register(pager.URL, rig.Object{"tenant": "sealpost", "eventTypes": []string{"sealpost.*"},
		"tls": rig.Object{"clientCertificate": "OFFERED", "caPem": o.ca.PEM()}})
	o.Prove(ops, pager)
	o.approver.MustAct(ops, "approve")
	ep := o.inForce(nil)
	first := state(o.Client, ep).S("proof", "proveTime")
	rig.Eventually(t, "the host is proven again", func() bool { return state(o.Client, ep).S("proof", "proveTime") > first })
	asked := o.OK("POST", "/v1/endpoints/"+ep.ID+":verify", rig.Object{"tenant": "acme", "instructionsOnly": true}).O("challenge")
	o.zone.TXT(asked.S("dnsName"))
	rig.Eventually(t, "the endpoint is suspended", func() bool { return state(o.Client, ep).S("state") == "SUSPENDED" })
	if why := state(o.Client, ep).S("stateReason"); !strings.Contains(why, "PROOF_EXPIRED") {
		t.Errorf("why: %s", why)
	}
	told := func(kind string) int {
		for i, r := range pager.Receipts() {
			var e struct {
				Type string
				Data struct{ EndpointID, Reason string }
			}
			if json.Unmarshal(r.Body, &e) == nil && e.Type == kind && e.Data.EndpointID == ep.ID {
				return i + 1
			}
		}
		return 0
	}
	rig.Eventually(t, "operators are told of the suspension", func() bool { return told("sealpost.endpoint.suspended") > 0 })
	if before := told("sealpost.proof.failing"); before == 0 || before > told("sealpost.endpoint.suspended") {
		t.Errorf("notice came %d., the suspension %d.", before, told("sealpost.endpoint.suspended"))
	}
	o.Publish(rig.Event("meanwhile", `{}`))
	o.AwaitDelivery(ep, "meanwhile", "PARKED")
	if a := o.approver.Act(ep, "resume"); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "proven again") {
		t.Errorf("an operator goes past the proof: %d %s", a.Status, a.Raw)
	}
	if v := o.proveByDNS(ep); v.S("endpoint", "state") != "ACTIVE" {
		t.Errorf("proven again: %v", v)
	}
	o.AwaitDelivery(ep, "meanwhile", "DELIVERED")
}

// TestProofOff: where the configuration asks for none endpoints wait for approval at once; back at required they have a proof's life to
// get one, and so have those of a folder from before.
func TestProofOff(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, rig.Config{"proof": "off"})
	ep := o.register(nil)
	if ep.State != "PENDING" || ep.Object.S("proof", "method") != "OFF" {
		t.Fatalf("registered: %v", ep.Object)
	}
	o.approver.MustAct(ep, "approve")
	if a := o.Act(ep, "verify"); a.Status != http.StatusBadRequest {
		t.Errorf("verifying: %d %s", a.Status, a.Raw)
	}
	waiting := o.register(rig.Object{"description": "waits"})
	o.Stop()
	o.Restart(rig.Config{"onboarding": rig.Config{"proof": "required", "proofLife": "1h"}})
	if a := o.approver.Act(waiting, "approve"); a.Status != http.StatusBadRequest {
		t.Errorf("approved without a proof: %d %s", a.Status, a.Raw)
	}
	rig.Eventually(t, "it has a time to be proven by", func() bool {
		p := state(o.Client, ep).O("proof")
		return p.S("dueTime") != "" && p.S("failTime") != "" && p.S("proveTime") == ""
	})
	o.Publish(rig.Event("goes-on", `{}`))
	o.AwaitDelivery(ep, "goes-on", "DELIVERED")
	if v := o.proveByDNS(ep); v["proven"] != true || v.S("endpoint", "state") != "ACTIVE" {
		t.Errorf("proven: %v", v)
	}
}

// TestReview: an approver is shown what would leave, where to, and what would change; a review is renewed by an approval, and overdue
// ones are found.
func TestReview(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, rig.Config{"reviewEvery": "3s"})
	o.OK("POST", "/v1/eventTypes", rig.Object{"type": "contact.updated", "tenant": "acme", "sensitivity": "CONFIDENTIAL",
		"example": `{"contact":{"email":"eve@example.com","ssn":"000-00-0000","name":"Eve"}}`})
	ep := o.register(rig.Object{"redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"**.ssn"}, "pseudonymize": []string{"contact.email"}}})
	review := func() rig.Object { return o.approver.OK("GET", "/v1/endpoints/"+ep.ID+"/review?tenant=acme", nil) }
	if r := review(); r.S("action") != "" || !strings.Contains(r.S("blockedBy"), "not proven") {
		t.Errorf("before it is proven: %v", r)
	}
	o.proveByDNS(ep)
	r := review()
	server := r.O("server")
	if r.S("action") != "APPROVE" || server.S("error") != "" || fmt.Sprint(server["addresses"]) != "[127.0.0.1]" ||
		server.S("certificateSubject") != "CN=partner" || !strings.Contains(fmt.Sprint(server["certificateNames"]), partnerHost) || server.S("certificateExpireTime") == "" {
		t.Errorf("review: %v", r)
	}
	if s := r.L("samples"); len(s) != 1 || s[0].S("eventType") != "contact.updated" || s[0].S("entry", "sensitivity") != "CONFIDENTIAL" {
		t.Fatalf("samples: %v", s)
	} else {
		fates := map[string]string{}
		for _, f := range s[0].L("fields") {
			fates[f.S("path")] = f.S("fate")
		}
		if fates["contact.ssn"] != "REMOVED" || fates["contact.email"] != "REPLACED" || fates["contact.name"] != "KEPT" {
			t.Errorf("fates: %v", fates)
		}
		if body := s[0].S("body"); strings.Contains(body, "000-00-0000") || strings.Contains(body, "eve@example.com") || !strings.Contains(body, "Eve") {
			t.Errorf("body: %s", body)
		}
	}
	if !strings.Contains(fmt.Sprint(r["warnings"]), "no data scope") {
		t.Errorf("warnings: %v", r["warnings"])
	}
	if a := o.Do("GET", "/v1/endpoints/"+ep.ID+"/review?tenant=acme", nil); a.Object.S("action") != "" || !strings.Contains(a.Object.S("blockedBy"), "another account") {
		t.Errorf("its registrant looks: %s", a.Raw)
	}
	if a := o.As(o.OK("POST", "/v1/tokens", rig.Object{"account": "p", "role": "PARTNER", "tenant": "acme"}).S("secret")).Do("GET", "/v1/endpoints/"+ep.ID+"/review?tenant=acme", nil); a.Status != http.StatusForbidden {
		t.Errorf("a partner looks: %d %s", a.Status, a.Raw)
	}
	// What was looked at is what is approved.
	if a := o.approver.Do("POST", "/v1/endpoints/"+ep.ID+":approve", rig.Object{"tenant": "acme", "etag": "1"}); a.Status != http.StatusConflict {
		t.Errorf("approved what was not looked at: %d %s", a.Status, a.Raw)
	}
	o.approver.OK("POST", "/v1/endpoints/"+ep.ID+":approve", rig.Object{"tenant": "acme", "etag": r.S("endpoint", "etag")})
	o.OK("PATCH", "/v1/endpoints/"+ep.ID, rig.Object{"tenant": "acme", "eventTypes": []string{"contact.*", "deal.won"}, "bearerToken": "tell-nobody-4711"})
	r = review()
	if r.S("action") != "APPROVE_CHANGE" || !strings.Contains(fmt.Sprint(r["changes"]), "deal.won") || strings.Contains(fmt.Sprint(r), "4711") {
		t.Errorf("a change: %v", r)
	}
	o.approver.MustAct(ep, "approve")
	overdue := func() int {
		return len(o.OK("GET", "/v1/endpoints?tenant=acme&reviewOverdue=true", nil).L("endpoints"))
	}
	rig.Eventually(t, "the review is overdue", func() bool { return overdue() == 1 && o.Metric("sealpost_inventory_reviews_overdue", "") == 1 })
	if r = review(); r.S("action") != "RENEW" {
		t.Errorf("a review that is due: %v", r)
	}
	approved := state(o.Client, ep).S("approveTime")
	if a := o.Act(ep, "approve"); a.Status != http.StatusForbidden {
		t.Errorf("its registrant renews: %d %s", a.Status, a.Raw)
	}
	if e := o.approver.MustAct(ep, "approve"); e.S("reviewer") != "second" || e.S("approveTime") != approved || e.S("reviewTime") <= approved {
		t.Errorf("renewed: %v", e)
	}
	if n := overdue(); n != 0 {
		t.Errorf("%d are overdue after the renewal", n)
	}
}

// TestCatalogue: what the catalogue keeps inside is neither subscribed to nor sent, however patterns are written and whenever it was said.
func TestCatalogue(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, nil)
	wide := o.inForce(rig.Object{"eventTypes": []string{"*"}})
	publish := func(id, kind string) {
		e := rig.Event(id, `{}`)
		e["type"] = kind
		o.Publish(e)
	}
	publish("export-1", "export.contacts")
	o.AwaitDelivery(wide, "export-1", "DELIVERED")
	// One that waits while its type is shut in ends withheld.
	o.partner.Answer(rig.Status(http.StatusServiceUnavailable))
	publish("export-2", "export.contacts")
	o.AwaitDelivery(wide, "export-2", "RETRYING", "PARKED")
	o.must(t, "policy", "event-type", "set", "export.*", "--sensitivity", "restricted", "--leaving", "bulk-export")
	o.partner.Answer(nil)
	if d := o.AwaitDelivery(wide, "export-2", "WITHHELD"); d.S("reason") != "TYPE_FORBIDDEN" {
		t.Errorf("what waited: %v", d)
	}
	before := o.partner.Count()
	publish("export-3", "export.contacts")
	publish("contact", "contact.updated")
	o.AwaitDelivery(wide, "contact", "DELIVERED")
	rig.Eventually(t, "the export is unmatched", func() bool {
		a := o.Do("GET", "/v1/events/export-3?tenant=acme", nil)
		return a.Status == http.StatusOK && a.Object["matched"] == false
	})
	if n := o.partner.Count() - before; n != 1 {
		t.Errorf("%d requests after the type was shut in, not 1", n)
	}
	for _, pattern := range []string{"export.contacts", "export.*", "export.a.*"} {
		a := o.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": o.url, "owner": "o", "purpose": "p", "eventTypes": []string{"contact.*", pattern}, "redaction": rig.Object{"mode": "NONE"}})
		if a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "eventTypes[1]") {
			t.Errorf("subscribing to %s: %d %s", pattern, a.Status, a.Raw)
		}
	}
	// A tenant's own entry opens nothing that was shut for all, and its operator says nothing for all.
	operator := o.As(o.OK("POST", "/v1/tokens", rig.Object{"account": "acme-op", "role": "OPERATOR", "tenant": "acme"}).S("secret"))
	operator.OK("POST", "/v1/eventTypes", rig.Object{"type": "export.contacts", "sensitivity": "PUBLIC", "leaving": "ALLOWED"})
	publish("export-4", "export.contacts")
	rig.Eventually(t, "the export is unmatched", func() bool {
		a := o.Do("GET", "/v1/events/export-4?tenant=acme", nil)
		return a.Status == http.StatusOK && a.Object["matched"] == false
	})
	if list := operator.OK("GET", "/v1/eventTypes", nil).L("eventTypes"); len(list) != 2 {
		t.Errorf("the catalogue as a tenant sees it: %v", list)
	}
	if a := operator.Do("DELETE", "/v1/eventTypes/export.*", nil); a.Status != http.StatusNotFound {
		t.Errorf("a tenant's operator deletes what is for all: %d %s", a.Status, a.Raw)
	}
	for name, e := range map[string]rig.Object{
		"type":        {"type": "Export", "sensitivity": "PUBLIC"},
		"sensitivity": {"type": "a"},
		"example":     {"type": "a", "sensitivity": "PUBLIC", "example": "{"},
		"description": {"type": "a", "sensitivity": "PUBLIC", "description": strings.Repeat("a", 1<<10+1)},
	} {
		if a := o.Do("POST", "/v1/eventTypes", e); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), `"`+name+`"`) {
			t.Errorf("a bad %s: %d %s", name, a.Status, a.Raw)
		}
	}
	// It holds over a restart, and ends with the entries.
	o.Stop()
	o.Restart(nil)
	publish("export-5", "export.contacts")
	o.Publish(rig.Event("after", `{}`))
	o.AwaitDelivery(wide, "after", "DELIVERED")
	if list := o.Deliveries("tenant=acme&eventId=export-5"); len(list) != 0 {
		t.Errorf("after a restart: %v", list)
	}
	o.must(t, "policy", "event-type", "delete", "export.*")
	publish("export-6", "export.contacts")
	o.AwaitDelivery(wide, "export-6", "DELIVERED")
}

// TestSandbox: a sandbox endpoint gets synthetic events alone, production ones none of them but a test's, and leaving the sandbox
// takes an approval.
func TestSandbox(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, nil)
	box := o.inForce(rig.Object{"environment": nil})
	production := o.inForce(nil)
	if e := state(o.Client, box).S("environment"); e != "SANDBOX" {
		t.Fatalf("by default it is in %s", e)
	}
	synthetic := rig.Event("made-up", `{}`)
	synthetic["synthetic"] = true
	o.Publish(synthetic)
	o.Publish(rig.Event("real", `{}`))
	o.AwaitDelivery(box, "made-up", "DELIVERED")
	o.AwaitDelivery(production, "real", "DELIVERED")
	if a := o.Do("POST", "/v1/events", rig.Event("made-up", `{}`)); a.Status != http.StatusConflict {
		t.Errorf("the same id, and not synthetic: %d %s", a.Status, a.Raw)
	}
	for _, r := range o.partner.Receipts() {
		isSynthetic := strings.Contains(string(r.Body), `"synthetic":true`)
		if strings.Contains(string(r.Body), "made-up") != isSynthetic || (r.Header.Get("Sealpost-Synthetic") == "true") != isSynthetic {
			t.Errorf("%v %s", r.Header, r.Body)
		}
	}
	if n := len(o.Deliveries("tenant=acme")); n != 2 {
		t.Errorf("%d deliveries, not 2", n)
	}
	for _, ep := range []rig.Endpoint{box, production} {
		test := o.MustAct(ep, "test")
		var phases []string
		for _, p := range test.L("phases") {
			phases = append(phases, p.S("name")+" "+p.S("outcome"))
		}
		want := "DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE PASSED, REQUEST PASSED, RESPONSE PASSED, VERDICT PASSED"
		if got := strings.Join(phases, ", "); got != want {
			t.Errorf("test: %s", got)
		}
		last := o.partner.Receipts()
		if r := last[len(last)-1]; r.Header.Get("Sealpost-Synthetic") != "true" || r.Header.Get("Webhook-Signature") == "" {
			t.Errorf("a test's request: %v", r.Header)
		}
	}
	if out := o.must(t, "endpoint", "test", production.ID, "--tenant", "acme"); !strings.Contains(out, "certificate") || !strings.Contains(out, "passed") {
		t.Errorf("sealpost endpoint test:\n%s", out)
	}
	o.OK("PATCH", "/v1/endpoints/"+box.ID, rig.Object{"tenant": "acme", "environment": "PRODUCTION"})
	if e := state(o.Client, box); e.S("environment") != "SANDBOX" || e.S("proposal", "endpoint", "environment") != "PRODUCTION" {
		t.Errorf("asked for production: %v", e)
	}
	o.approver.MustAct(box, "approve")
	o.Publish(rig.Event("real-2", `{}`))
	o.AwaitDelivery(box, "real-2", "DELIVERED")
	if e := o.OK("PATCH", "/v1/endpoints/"+box.ID, rig.Object{"tenant": "acme", "environment": "SANDBOX"}); e.S("environment") != "SANDBOX" {
		t.Errorf("back in the sandbox, at once: %v", e)
	}
}

// TestDataScope: nothing leaves that the scope does not name, and widening it waits.
func TestDataScope(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, nil)
	ep := o.inForce(rig.Object{"dataScope": []string{"contact.email", "contact.name"}, "redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"**.name"}}})
	o.Publish(rig.Event("one", `{"contact":{"email":"a@example.com","name":"n","ssn":"000"},"other":1}`))
	o.AwaitDelivery(ep, "one", "DELIVERED")
	if body := string(o.partner.Receipts()[0].Body); !strings.Contains(body, `"data":{"contact":{"email":"a@example.com"}}`) || !strings.Contains(body, "contact/42") {
		t.Errorf("%s", body)
	}
	e := o.OK("PATCH", "/v1/endpoints/"+ep.ID, rig.Object{"tenant": "acme", "dataScope": []string{"contact"}})
	if fmt.Sprint(e["dataScope"]) != "[contact.email contact.name]" || fmt.Sprint(e.O("proposal", "endpoint")["dataScope"]) != "[contact]" {
		t.Errorf("a wider scope: %v", e)
	}
	for field, more := range map[string]rig.Object{
		"redaction.allow[1]": {"dataScope": []string{"contact.email"}, "redaction": rig.Object{"mode": "ALLOW_LISTED", "allow": []string{"contact.email", "contact.emailed"}}},
		"dataScope[0]":       {"dataScope": []string{"a..b"}},
		"environment":        {"environment": "ELSEWHERE"},
	} {
		bad := rig.Object{"tenant": "acme", "url": o.url, "owner": "o", "purpose": "p", "eventTypes": []string{"a"}, "redaction": rig.Object{"mode": "NONE"}}
		for k, v := range more {
			bad[k] = v
		}
		if a := o.Do("POST", "/v1/endpoints", bad); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), field) {
			t.Errorf("%s: %d %s", field, a.Status, a.Raw)
		}
	}
}

// TestInventory: the inventory tells of each integration what an audit asks, in JSON and CSV, filtered; its figures are metrics.
func TestInventory(t *testing.T) {
	t.Parallel()
	o := startOnboarding(t, nil)
	used := o.inForce(rig.Object{"owner": "=cmd()@partner.example", "dataScope": []string{"contact.email"}, "eventTypes": []string{"contact.*", "deal.won"}})
	waiting := o.register(rig.Object{"bearerToken": "static-4711", "owner": "else@partner.example"})
	o.Publish(rig.Event("one", `{}`))
	o.AwaitDelivery(used, "one", "DELIVERED")
	list := o.OK("GET", "/v1/inventory?tenant=acme", nil).L("entries")
	by := map[string]rig.Object{}
	for _, e := range list {
		by[e.S("endpointId")] = e
	}
	e := by[used.ID]
	if len(list) != 2 || e.S("owner") != "=cmd()@partner.example" || fmt.Sprint(e["objects"], e["fields"], e["authMethods"]) != "[contact deal] [contact.email] [standard mtls]" ||
		e["shortLived"] != true || e.S("keyId") == "" || e.S("keyCreateTime") == "" || e.S("clientCertificateExpireTime") == "" || e.S("serverCertificateExpireTime") == "" ||
		e.S("approver") != "second" || e.S("registrant") != "operator" || e.S("reviewDueTime") == "" || e.S("lastUseTime") == "" || e.S("proof", "method") != "DNS" {
		t.Errorf("used: %v", e)
	}
	if e := by[waiting.ID]; e["shortLived"] != false || e["approvalPending"] != true || fmt.Sprint(e["authMethods"]) != "[standard mtls bearer]" || e.S("lastUseTime") != "" {
		t.Errorf("waiting: %v", e)
	}
	for query, want := range map[string]string{
		"approvalPending=true": waiting.ID, "staticCredentials=true": waiting.ID, "owner=else@partner.example": waiting.ID, "state=ACTIVE": used.ID,
		"unusedSince=" + time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05Z"): waiting.ID, "environment=SANDBOX": "", "reviewOverdue=true": "",
	} {
		var got []string
		for _, e := range o.OK("GET", "/v1/inventory?tenant=acme&"+query, nil).L("entries") {
			got = append(got, e.S("endpointId"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, not %s", query, got, want)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+o.HTTP+"/v1/inventory?tenant=acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+o.Token)
	request.Header.Set("Accept", "text/csv")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	rows, err := csv.NewReader(answer.Body).ReadAll()
	if err != nil || len(rows) != 3 || rows[0][0] != "endpointId" || !strings.HasPrefix(answer.Header.Get("Content-Type"), "text/csv") {
		t.Fatalf("%v: %s %v", err, answer.Header.Get("Content-Type"), rows)
	}
	for _, row := range rows[1:] {
		if row[0] == used.ID && row[3] != "'=cmd()@partner.example" {
			t.Errorf("an owner that is a formula: %q", row[3])
		}
	}
	if out := o.must(t, "endpoint", "inventory", "--tenant", "acme", "--csv"); strings.Count(out, "\r\n") != 3 || strings.Contains(out, "4711") {
		t.Errorf("sealpost endpoint inventory --csv:\n%s", out)
	}
	for name, want := range map[string]float64{
		"sealpost_inventory_endpoints": 2, "sealpost_inventory_endpoints_with_owner": 2, "sealpost_inventory_endpoints_with_data_scope": 1,
		"sealpost_inventory_endpoints_short_lived": 1, "sealpost_inventory_short_lived_share": 0.5, "sealpost_inventory_reviews_overdue": 0,
	} {
		if got := o.Metric(name, ""); got != want {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
	if n := o.Metric("sealpost_inventory_approvals_pending", `kind="new"`); n != 1 {
		t.Errorf("%v new ones pending", n)
	}
	them := o.As(o.OK("POST", "/v1/tokens", rig.Object{"account": "p", "role": "PARTNER", "tenant": "acme"}).S("secret"))
	if list := them.OK("GET", "/v1/inventory", nil).L("entries"); len(list) != 0 {
		t.Errorf("a partner sees others' integrations: %v", list)
	}
}
