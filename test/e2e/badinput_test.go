package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/test/rig"
)

// violated tells whether an error names the field among its violations, with a rule.
func violated(a rig.Answer, field string) bool {
	for _, detail := range a.L("details") {
		for _, v := range detail.L("fieldViolations") {
			if v.S("field") == field && v.S("description") != "" {
				return true
			}
		}
	}
	return false
}

// TestBadEvents publishes what breaks a rule, over REST and over gRPC: each is refused with its field and its rule, and what was
// good around it arrives.
func TestBadEvents(t *testing.T) {
	t.Parallel()
	p := start(t, rig.Config{"journal": rig.Config{"minFreeDisk": -1, "maxEventBytes": 1 << 20}})
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, rig.Object{"eventTypes": []string{"*"}})
	events := sealpostv1.NewEventServiceClient(p.Conn())
	whole := func(member, value string) string {
		e := map[string]json.RawMessage{"tenant": []byte(`"acme"`), "id": []byte(`"bad"`), "type": []byte(`"contact.updated"`), "data": []byte(`{}`)}
		e[member] = []byte(value)
		out := "{"
		for k, v := range e {
			out += fmt.Sprintf("%q:%s,", k, v)
		}
		return strings.TrimSuffix(out, ",") + "}"
	}
	good := 0
	for _, c := range []struct {
		name   string
		rest   string
		grpc   *sealpostv1.Event // nil where it cannot be said over gRPC
		field  string
		status int // 0: 400
	}{
		{"oversize", whole("data", `"`+strings.Repeat("x", 1<<20)+`"`), event("bad", `"`+strings.Repeat("x", 1<<20)+`"`), "data", 0},
		{"far too large", whole("data", `"`+strings.Repeat("x", 3<<20)+`"`), nil, "body", 413},
		{"invalid JSON", whole("data", `{"a":}`), event("bad", `{"a":}`), "data", 0},
		{"cut JSON", `{"tenant":"acme","type":"contact.updated","data":{"a":1`, event("bad", `{"a":1`), "data", 0},
		{"two values", whole("data", `{}{}`), event("bad", `{} {}`), "data", 0},
		{"no value", `{"tenant":"acme","id":"bad","type":"contact.updated"}`, event("bad", ``), "data", 0},
		{"duplicate keys", whole("data", `{"a":{"b":1,"b":2}}`), event("bad", `{"a":{"b":1,"b":2}}`), "data", 0},
		{"duplicate keys, escaped", whole("data", `{"b":1,"\u0062":2}`), event("bad", `{"b":1,"\u0062":2}`), "data", 0},
		{"invalid UTF-8", whole("data", "\"\xff\xfe\""), event("bad", "\"\xff\xfe\""), "data", 0},
		{"half a surrogate", whole("data", `"\ud800"`), event("bad", `"\ud800"`), "data", 0},
		{"deep nesting", whole("data", strings.Repeat("[", 20000)+strings.Repeat("]", 20000)), event("bad", strings.Repeat("[", 20000)+strings.Repeat("]", 20000)), "data", 0},
		{"id with a dot", whole("id", `"a.b"`), event("a.b", `{}`), "id", 0},
		{"long id", whole("id", `"`+strings.Repeat("a", 65)+`"`), event(strings.Repeat("a", 65), `{}`), "id", 0},
		{"bad tenant", whole("tenant", `"Acme Inc"`), &sealpostv1.Event{Tenant: "Acme Inc", Id: "bad", Type: "a", Data: []byte(`{}`)}, "tenant", 0},
		{"no tenant", `{"type":"contact.updated","data":{}}`, &sealpostv1.Event{Type: "a", Data: []byte(`{}`)}, "tenant", 0},
		{"bad type", whole("type", `"Contact Updated"`), &sealpostv1.Event{Tenant: "acme", Id: "bad", Type: "Contact", Data: []byte(`{}`)}, "type", 0},
		{"no type", `{"tenant":"acme","data":{}}`, &sealpostv1.Event{Tenant: "acme", Data: []byte(`{}`)}, "type", 0},
		{"nine segments", whole("type", `"a.b.c.d.e.f.g.h.i"`), &sealpostv1.Event{Tenant: "acme", Id: "bad", Type: "a.b.c.d.e.f.g.h.i", Data: []byte(`{}`)}, "type", 0},
		{"control character in subject", whole("subject", `"a\u0000b"`), &sealpostv1.Event{Tenant: "acme", Id: "bad", Type: "a", Subject: "a\x00b", Data: []byte(`{}`)}, "subject", 0},
		{"long subject", whole("subject", `"`+strings.Repeat("s", 513)+`"`), &sealpostv1.Event{Tenant: "acme", Id: "bad", Type: "a", Subject: strings.Repeat("s", 513), Data: []byte(`{}`)}, "subject", 0},
		{"bad time", whole("time", `"yesterday"`), nil, "time", 0},
		{"unknown field", whole("colour", `"red"`), nil, "colour", 0},
		{"field twice", `{"tenant":"acme","tenant":"globex","type":"a","data":{}}`, nil, "tenant", 0},
		{"reserved type", whole("type", `"sealpost.test"`), &sealpostv1.Event{Tenant: "acme", Id: "bad", Type: "sealpost.test", Data: []byte(`{}`)}, "type", 0},
	} {
		a := p.Do("POST", "/v1/events", c.rest)
		want := c.status
		if want == 0 {
			want = http.StatusBadRequest
		}
		// What is not JSON as a whole is the body's fault, not a field's.
		named := violated(a, c.field) || c.field == "data" && violated(a, "body") && strings.Contains(a.S("message"), "at byte")
		if a.Status != want || a.N("code") != int(codes.InvalidArgument) || a.S("message") == "" || !named {
			t.Errorf("%s over REST: %d %.400s", c.name, a.Status, a.Raw)
		}
		if strings.Contains(string(a.Raw), "xxxxxxxxxxxx") {
			t.Errorf("%s: the answer repeats the content", c.name)
		}
		if c.grpc != nil {
			_, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: c.grpc})
			if status.Code(err) != codes.InvalidArgument || !hasViolation(err, c.field) {
				t.Errorf("%s over gRPC: %.400v", c.name, err)
			}
			batch, err := events.BatchPublishEvents(t.Context(), &sealpostv1.BatchPublishEventsRequest{Events: []*sealpostv1.Event{
				event(fmt.Sprintf("good-%d", good), `{}`), c.grpc, event(fmt.Sprintf("good-%d", good+1), `{}`)}})
			if err != nil || batch.Results[0].Error != nil || batch.Results[2].Error != nil || codes.Code(batch.Results[1].GetError().GetCode()) != codes.InvalidArgument {
				t.Errorf("%s in a batch: %.400v %v", c.name, batch, err)
			}
			good += 2
		}
	}
	for name, c := range map[string]struct {
		media, body string
		status      int
	}{
		"not JSON":          {"application/json", "hello", 400},
		"empty":             {"application/json", "", 400},
		"null":              {"application/json", "null", 400},
		"a list":            {"application/json", "[]", 400},
		"a form":            {"application/x-www-form-urlencoded", "a=b", 415},
		"another charset":   {"application/json; charset=utf-16", "{}", 415},
		"CloudEvent 0.3":    {"application/cloudevents+json", `{"specversion":"0.3","id":"x","source":"/acme","type":"a","data":{}}`, 400},
		"no source":         {"application/cloudevents+json", `{"specversion":"1.0","id":"x","type":"a","data":{}}`, 400},
		"data twice":        {"application/cloudevents+json", `{"specversion":"1.0","id":"x","source":"/acme","type":"a","data":{},"data_base64":"e30="}`, 400},
		"CloudEvent broken": {"application/cloudevents+json", `{"specversion":`, 400},
	} {
		a, err := p.Send("POST", "/v1/events", c.media, []byte(c.body))
		if err != nil || a.Status != c.status || a.N("code") == 0 || a.S("message") == "" {
			t.Errorf("%s: %v %d %s", name, err, a.Status, a.Raw)
		}
	}
	for name, c := range map[string]struct {
		method, path string
		status       int
	}{
		"no such path":       {"GET", "/v1/nothing", 404},
		"no such method":     {"PUT", "/v1/events", 405},
		"unknown query":      {"GET", "/v1/deliveries?tenant=acme&colour=red", 400},
		"page size":          {"GET", "/v1/deliveries?tenant=acme&pageSize=1001", 400},
		"page size negative": {"GET", "/v1/deliveries?tenant=acme&pageSize=-1", 400},
		"state":              {"GET", "/v1/deliveries?tenant=acme&state=LOST", 400},
		"event":              {"GET", "/v1/events/none?tenant=acme", 404},
		"delivery":           {"GET", "/v1/deliveries/none?tenant=acme", 404},
		"endpoint":           {"GET", "/v1/endpoints/ep_none?tenant=acme", 404},
	} {
		if a := p.Do(c.method, c.path, nil); a.Status != c.status || a.N("code") == 0 || a.S("message") == "" {
			t.Errorf("%s: %d %s", name, a.Status, a.Raw)
		}
	}
	large := &sealpostv1.BatchPublishEventsRequest{}
	for i := range 1001 {
		large.Events = append(large.Events, event(fmt.Sprintf("many-%d", i), `{}`))
	}
	if _, err := events.BatchPublishEvents(t.Context(), large); status.Code(err) != codes.InvalidArgument || !hasViolation(err, "events") {
		t.Errorf("1,001 events: %v", err)
	}
	// The same server, after all that.
	p.Publish(rig.Event("after", `{}`))
	p.AwaitCount("tenant=acme&state=DELIVERED", good+1)
	if n := partner.Count(); n != good+1 {
		t.Errorf("%d requests, %d events were good", n, good+1)
	}
}

func hasViolation(err error, field string) bool {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				if v.Field == field && v.Description != "" {
					return true
				}
			}
		}
	}
	return false
}

// TestBadEndpoints registers what breaks a rule: each is refused with its field.
func TestBadEndpoints(t *testing.T) {
	t.Parallel()
	p := start(t, rig.Config{"dev": false, "egress": rig.Config{}})
	sample := func() rig.Object {
		return rig.Object{"tenant": "acme", "url": "https://hooks.partner.example/crm", "owner": "o@example.com", "purpose": "p", "eventTypes": []string{"contact.*"}, "redaction": rig.Object{"mode": "NONE"}}
	}
	if a := p.Do("POST", "/v1/endpoints", sample()); a.Status != http.StatusOK {
		t.Fatalf("the good one: %d %s", a.Status, a.Raw)
	}
	for _, c := range []struct {
		name, member string
		value        any
		field        string
	}{
		{"unknown field", "colour", "red", "colour"},
		{"unknown nested field", "tls", rig.Object{"colour": "red"}, "tls.colour"},
		{"http", "url", "http://hooks.partner.example/", "url"},
		{"no scheme", "url", "hooks.partner.example", "url"},
		{"ftp", "url", "ftp://hooks.partner.example/", "url"},
		{"userinfo", "url", "https://user:pass@hooks.partner.example/", "url"},
		{"fragment", "url", "https://hooks.partner.example/#x", "url"},
		{"private address", "url", "https://10.0.0.8/", "url"},
		{"loopback", "url", "https://127.0.0.1/", "url"},
		{"localhost", "url", "https://localhost/", "url"},
		{"metadata address", "url", "https://169.254.169.254/latest", "url"},
		{"mapped address", "url", "https://[::ffff:127.0.0.1]/", "url"},
		{"zone", "url", "https://[fe80::1%25eth0]/", "url"},
		{"port", "url", "https://hooks.partner.example:99999/", "url"},
		{"no owner", "owner", "", "owner"},
		{"no purpose", "purpose", "", "purpose"},
		{"no types", "eventTypes", []string{}, "eventTypes"},
		{"bad type", "eventTypes", []string{"contact.*", "Contact"}, "eventTypes[1]"},
		{"star inside", "eventTypes", []string{"contact.*.x"}, "eventTypes[0]"},
		{"no mode", "redaction", rig.Object{}, "redaction.mode"},
		{"no such mode", "redaction", rig.Object{"mode": "SOME"}, "redaction.mode"},
		{"bad path", "redaction", rig.Object{"mode": "DENY_LISTED", "drop": []string{"a..b"}}, "redaction.drop[0]"},
		{"allow with deny", "redaction", rig.Object{"mode": "DENY_LISTED", "allow": []string{"a"}}, "redaction.allow"},
		{"filter", "filter", "event.data.country ==", "filter"},
		{"filter of no bool", "filter", "event.data.country", "filter"},
		{"filter, unknown name", "filter", "request.path == 'x'", "filter"},
		{"long filter", "filter", "'" + strings.Repeat("x", 2048) + "' == 'y'", "filter"},
		{"scheme", "scheme", "md5", "scheme"},
		{"content mode", "contentMode", "xml", "contentMode"},
		{"chunk", "chunkBytes", 100, "chunkBytes"},
		{"chunk too large", "chunkBytes", 9 << 20, "chunkBytes"},
		{"concurrency", "concurrency", 1000, "concurrency"},
		{"timeout", "timeout", "0.5s", "timeout"},
		{"timeout text", "timeout", "soon", "timeout"},
		{"rate", "rateLimit", rig.Object{"requestsPerSecond": -1}, "rateLimit.requestsPerSecond"},
		{"key of the wrong length", "secret", "whsec_AAAA", "secret"},
		{"key that is none", "secret", "hello", "secret"},
		{"broken certificate", "tls", rig.Object{"caPem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "tls.caPem"},
		{"no certificate", "tls", rig.Object{"caPem": "hello"}, "tls.caPem"},
		{"pin", "tls", rig.Object{"spkiPins": []string{"sha256/AAAA"}}, "tls.spkiPins[0]"},
		{"client certificate", "tls", rig.Object{"clientCertificate": "MAYBE"}, "tls.clientCertificate"},
		{"header of ours", "headers", []rig.Object{{"name": "webhook-signature", "value": "x"}}, "headers[0].name"},
		{"header injection", "headers", []rig.Object{{"name": "X-A", "value": "x\r\nX-B: y"}}, "headers[0].value"},
		{"header name", "headers", []rig.Object{{"name": "X A", "value": "x"}}, "headers[0].name"},
		{"bad tenant", "tenant", "ACME", "tenant"},
	} {
		e := sample()
		e[c.member] = c.value
		a := p.Do("POST", "/v1/endpoints", e)
		if a.Status != http.StatusBadRequest || a.N("code") != int(codes.InvalidArgument) || a.S("message") == "" || !violated(a, c.field) {
			t.Errorf("%s: %d %s", c.name, a.Status, a.Raw)
		}
		for _, secret := range []string{"whsec_AAAA", "pass@"} {
			if strings.Contains(string(a.Raw), secret) {
				t.Errorf("%s: the answer repeats a secret: %s", c.name, a.Raw)
			}
		}
	}
	if list := p.OK("GET", "/v1/endpoints?tenant=acme", nil).L("endpoints"); len(list) != 1 {
		t.Errorf("%d endpoints were made", len(list))
	}
	_, err := sealpostv1.NewEndpointServiceClient(p.Conn()).CreateEndpoint(t.Context(), &sealpostv1.CreateEndpointRequest{Endpoint: &sealpostv1.Endpoint{Tenant: "acme", Url: "https://u:p@10.0.0.1/"}})
	if status.Code(err) != codes.InvalidArgument || !hasViolation(err, "url") || !hasViolation(err, "owner") || !hasViolation(err, "eventTypes") && !hasViolation(err, "event_types") {
		t.Errorf("over gRPC: %v", err)
	}
}
