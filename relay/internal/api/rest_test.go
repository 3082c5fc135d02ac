package api

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// problem is google.rpc.Status in JSON.
type problem struct {
	Code    int
	Message string
	Details []struct {
		Type            string `json:"@type"`
		FieldViolations []struct{ Field, Description string }
		RetryDelay      string
	}
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("answer %d is no status: %v: %s", a.code, err, a.body)
	}
	return p
}

// compact takes out the space that protojson varies at random.
func compact(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, `, "`, `,"`), `": `, `":`)
}

func TestPublishOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	// Numbers of any size, key order, escapes and spaces arrive as they were sent.
	const data = `{ "z":1, "a":123456789012345678901234567890.10e+2,"s":"\u00e9\/ \"data\":","n":[ null , {}],"data":"" }`
	body := `{"tenant":"acme","id":"evt_1","type":"contact.updated","time":"2026-01-02T03:04:05Z","subject":"contact/42","data":` + data + `}`
	for i, want := range []string{`{"id":"evt_1","duplicate":false}`, `{"id":"evt_1","duplicate":true}`} {
		a := f.call(t, "POST", "/v1/events", body)
		if a.code != http.StatusOK || compact(a.body) != want {
			t.Errorf("publish %d: %d %s, want %s", i, a.code, a.body, want)
		}
	}
	kept := f.door.events["acme/evt_1"]
	if string(kept.Data) != data {
		t.Errorf("kept %s, sent %s", kept.Data, data)
	}
	if !kept.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || kept.Subject != "contact/42" || kept.Type != "contact.updated" {
		t.Errorf("kept %+v", kept)
	}
	a := f.call(t, "GET", "/v1/events/evt_1?tenant=acme", "")
	if a.code != http.StatusOK || !strings.Contains(a.body, data) || !json.Valid([]byte(a.body)) {
		t.Errorf("got %d %s, without %s", a.code, a.body, data)
	}
	if f.door.caller.Address.String() != "127.0.0.1" {
		t.Errorf("caller's address is %v", f.door.caller.Address)
	}
}

func TestBatchOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	a := f.call(t, "POST", "/v1/events:batch", `{"events":[
		{"tenant":"acme","id":"a","type":"x.y","data":[1, 2]},
		{"tenant":"acme","id":"b","type":"NOT A TYPE","data":1},
		{"tenant":"acme","id":"busy","type":"x.y","data":null},
		{"tenant":"acme","id":"c","type":"x.y","data":null}]}`)
	var got struct {
		Results []struct {
			ID        string
			Duplicate *bool
			Error     *problem
		}
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.code != http.StatusOK || len(got.Results) != 4 {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
	for i, r := range got.Results {
		if (r.Error == nil) != (r.Duplicate != nil) {
			t.Errorf("result %d has both or neither of error and duplicate: %s", i, a.body)
		}
	}
	if e := got.Results[1].Error; e == nil || e.Code != 3 || e.Details[0].FieldViolations[0].Field != "type" {
		t.Errorf("second result: %+v", e)
	}
	if e := got.Results[2].Error; e == nil || e.Code != 8 || e.Details[0].RetryDelay != "1.500s" {
		t.Errorf("third result: %+v", e)
	}
	if string(f.door.events["acme/a"].Data) != "[1, 2]" || string(f.door.events["acme/c"].Data) != "null" {
		t.Errorf("kept %v", f.door.events)
	}
}

func TestRefusedBodies(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, tt := range []struct {
		name, path, body string
		header           string
		code             int
		field, rule      string
	}{
		{"not JSON", "/v1/events", `{"tenant":`, "", 400, "tenant", "not valid JSON at byte 10"},
		{"not an object", "/v1/events", `[]`, "", 400, "body", "must be a JSON object"},
		{"trailing", "/v1/events", `{} {}`, "", 400, "body", "more at byte 3"},
		{"duplicate name", "/v1/events", `{"id":"a","id":"b"}`, "", 400, "id", "duplicate key at byte 10"},
		{"duplicate in data", "/v1/events", `{"data":{"card":{"a":1,"a":2}}}`, "", 400, "data", "duplicate key at byte 23 of the body"},
		{"duplicate in a batch", "/v1/events:batch", `{"events":[{},{"data":{"7":{"a":1,"a":2}}}]}`, "", 400, "events[1].data", "duplicate key at byte 34"},
		{"two names of one field", "/v1/endpoints", `{"eventTypes":[],"event_types":[]}`, "", 400, "eventTypes", ""},
		{"invalid UTF-8", "/v1/events", "{\"subject\":\"\xff\"}", "", 400, "subject", "invalid UTF-8 at byte 12"},
		{"lone surrogate", "/v1/events", `{"data":"\ud800"}`, "", 400, "data", "at byte"},
		{"deep data", "/v1/events", `{"tenant":"acme","id":"x","type":"a.b","data":` + deep + `}`, "", 400, "data", "nested deeper than 128"},
		{"deep unknown", "/v1/events", `{"x":` + deep + `}`, "", 400, "body", "nested deeper than 128"},
		{"unknown field", "/v1/events", `{"tennant":"acme"}`, "", 400, "tennant", "is not a field here; the nearest is tenant"},
		{"unknown inner field", "/v1/endpoints", `{"redaction":{"modes":"NONE"}}`, "", 400, "redaction.modes", "the nearest is mode"},
		{"unknown in list", "/v1/endpoints", `{"headers":[{},{"nam":"x"}]}`, "", 400, "headers[1].nam", "the nearest is name"},
		{"unknown in batch", "/v1/events:batch", `{"events":[{"sub":1}]}`, "", 400, "events[0].sub", "is not a field here"},
		{"wrong kind", "/v1/events", `{"tenant":7}`, "", 400, "tenant", "must be a string"},
		{"bad time", "/v1/events", `{"tenant":"acme","time":"yesterday"}`, "", 400, "time", "RFC 3339"},
		{"bad enum", "/v1/endpoints", `{"tls":{"clientCertificate":"SOMETIMES"}}`, "", 400, "tls.clientCertificate", "must be one of NONE, OFFERED, REQUIRED"},
		{"bad number", "/v1/endpoints", `{"chunkBytes":"many"}`, "", 400, "chunkBytes", "whole number"},
		{"fraction", "/v1/endpoints", `{"chunkBytes":1.5}`, "", 400, "chunkBytes", "whole number"},
		{"bad duration", "/v1/endpoints", `{"timeout":15}`, "", 400, "timeout", "must be a duration"},
		{"bad item", "/v1/endpoints", `{"eventTypes":["a",{}]}`, "", 400, "eventTypes", "must be an array"},
		{"string for list", "/v1/endpoints", `{"eventTypes":"a"}`, "", 400, "eventTypes", "must be an array"},
		{"event rules", "/v1/events", `{"tenant":"A","id":"a.b","type":"X","data":1}`, "", 400, "tenant", "must be 1 to 63"},
		{"no events", "/v1/events:batch", `{}`, "", 400, "events", "must be 1 to 1000 events"},
		{"too many events", "/v1/events:batch", `{"events":[` + strings.Repeat(`{},`, 1000) + `{}]}`, "", 400, "events", "must be 1 to 1000 events"},
		{"too large", "/v1/events", `{"data":"` + strings.Repeat("x", 1<<20+bodySlack) + `"}`, "", 413, "body", "must be at most"},
		{"plain too large", "/v1/endpoints", `{"purpose":"` + strings.Repeat("x", maxPlainBody) + `"}`, "", 413, "body", "must be at most 262144 bytes"},
		{"misspelt query", "/v1/events?validateonly=true", `{}`, "", 400, "validateonly", "is not a query parameter here; the nearest is validateOnly"},
		{"bad query value", "/v1/events?validateOnly=perhaps", `{}`, "", 400, "validateOnly", "of the form that the API documents"},
		{"body field in query", "/v1/endpoints/ep_1:pause?tenant=acme", `{}`, "", 400, "tenant", "must stand in the body"},
		{"media type", "/v1/events", `a=b`, "Content-Type: application/x-www-form-urlencoded", 415, "", ""},
		{"charset", "/v1/events", `{}`, "Content-Type: application/json; charset=utf-16", 415, "", ""},
		{"compressed", "/v1/events", `{}`, "Content-Encoding: gzip", 415, "", ""},
		{"cloud event elsewhere", "/v1/endpoints", `{}`, "Content-Type: application/cloudevents+json", 415, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var headers []string
			if tt.header != "" {
				headers = append(headers, tt.header)
			}
			a := f.call(t, "POST", tt.path, tt.body, headers...)
			p := a.problem(t)
			if a.code != tt.code || p.Code != 3 {
				t.Errorf("%d, code %d, want %d: %s", a.code, p.Code, tt.code, a.body)
			}
			if tt.field == "" {
				return
			}
			if len(p.Details) != 1 || p.Details[0].Type != "type.googleapis.com/google.rpc.BadRequest" {
				t.Fatalf("details of %s", a.body)
			}
			v := p.Details[0].FieldViolations[0]
			if v.Field != tt.field || !strings.Contains(v.Description, tt.rule) {
				t.Errorf("%q: %q, want %q: %q", v.Field, v.Description, tt.field, tt.rule)
			}
		})
	}
}

// Each error of the door, over HTTP: the status, the code and the headers.
func TestErrorsOverREST(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		err     error
		http    int
		code    int
		message string
		header  string
	}{
		{"invalid", relay.Invalid{{Field: "url", Rule: "must be https"}}, 400, 3, "url: must be https", ""},
		{"not found", control.ErrNotFound, 404, 5, "not found", ""},
		{"foreign", fmt.Errorf("tenant other: %w", control.ErrNotFound), 404, 5, "not found", ""},
		{"exists", control.ErrExists, 409, 6, "already exists with other content", ""},
		{"forbidden", &control.ForbiddenError{Scope: access.TokensWrite, Reason: "no such scope"}, 403, 7, "not permitted: no such scope (scope tokens.write)", ""},
		{"busy", &control.BusyError{RetryAfter: 1200 * time.Millisecond}, 429, 8, "busy", "Retry-After: 2"},
		{"full", fmt.Errorf("%w: 3 bytes left", control.ErrFull), 429, 8, "storage is full", "Retry-After: 1"},
		{"state", &control.StateError{Act: "pause", State: "DELETED", Reason: "it must be active"}, 400, 9, "cannot pause in state DELETED: it must be active", ""},
		{"stale", control.ErrStale, 409, 10, "has changed since: the etag is not the latest", ""},
		{"unavailable", fmt.Errorf("%w: dial 10.0.0.1", control.ErrUnavailable), 503, 14, "unavailable", "Retry-After: 1"},
		{"revoked while calling", access.ErrRevoked, 401, 16, "the token was revoked", `WWW-Authenticate: Bearer realm="sealpost"`},
		{"unknown", errors.New("disk sda1 with secrets"), 500, 13, "internal error", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, newDoor(), nil)
			f.door.failing(tt.err)
			for _, path := range []string{"/v1/endpoints/ep_1", "/v1/deliveries", "/v1/deliveries:watch", "/v1/tokens"} {
				a := f.call(t, "GET", path, "")
				var p problem
				if strings.HasSuffix(path, "watch") { // a stream tells its error in a member of its own
					var chunk struct{ Error problem }
					if err := json.Unmarshal([]byte(a.body), &chunk); err != nil {
						t.Fatal(err)
					}
					p = chunk.Error
				} else {
					p = a.problem(t)
				}
				if a.code != tt.http || p.Code != tt.code || p.Message != tt.message {
					t.Errorf("%s: %d, code %d, %q; want %d, %d, %q", path, a.code, p.Code, p.Message, tt.http, tt.code, tt.message)
				}
				name, value, _ := strings.Cut(tt.header, ": ")
				if !strings.HasSuffix(path, "watch") && tt.header != "" && a.header.Get(name) != value {
					t.Errorf("%s: %s is %q, want %q", path, name, a.header.Get(name), value)
				}
			}
		})
	}
}

func TestAuthenticationOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	for _, tt := range []struct{ header, message string }{
		{"Authorization: ", "no token was given"},
		{"Authorization: Bearer expired", "the token has expired"},
		{"Authorization: Bearer revoked", "the token was revoked"},
		{"Authorization: Bearer wrong", "the token is not valid"},
		{"Authorization: Basic Z29vZA==", "the token is not valid"},
		{"Authorization: good", "the token is not valid"},
	} {
		for _, path := range []string{"/v1/deliveries", "/v1/events/x", "/v1/nothing"} {
			a := f.call(t, "GET", path, "", tt.header)
			if p := a.problem(t); a.code != 401 || p.Code != 16 || p.Message != tt.message {
				t.Errorf("%s of %s: %d %s", path, tt.header, a.code, a.body)
			}
			if a.header.Get("WWW-Authenticate") != `Bearer realm="sealpost"` {
				t.Errorf("%s of %s: no challenge", path, tt.header)
			}
		}
	}
	// The body of a caller that nobody knows is not read: an announced size beyond every bound changes nothing.
	if a := f.call(t, "POST", "/v1/events", strings.Repeat("x", 4<<20), "Authorization: "); a.code != 401 {
		t.Errorf("large body: %d", a.code)
	}
	if len(f.door.calls) != 0 {
		t.Errorf("the door was reached: %v", f.door.calls)
	}
}

func TestRoutesOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	for _, tt := range []struct{ method, path, body, call, contains string }{
		{"POST", "/v1/endpoints?requestId=r1", `{"tenant":"acme"}`, "create", `"secret":"whsec_once"`},
		{"GET", "/v1/endpoints/ep_9", "", "get", `"id":"ep_9"`},
		{"GET", "/v1/endpoints/ep_9", "", "get", `"author":"partner"`},
		{"GET", "/v1/endpoints/ep_9", "", "get", `"url":"https://new.example/"`},
		{"GET", "/v1/endpoints?tenant=acme&state=PAUSED", "", "list acme PAUSED", `"nextPageToken":"more"`},
		{"PATCH", "/v1/endpoints/ep_9", `{"url":"https://x.example"}`, "update", `"etag":"1f"`},
		{"DELETE", "/v1/endpoints/ep_9?etag=1f", "", "delete", "{}"},
		{"POST", "/v1/endpoints/ep_9:approve", "", "approve", `"state":"ACTIVE"`},
		{"POST", "/v1/endpoints/ep_9:reject", `{"reason":"no"}`, "reject no", `"ep_9"`},
		{"POST", "/v1/endpoints/ep_9:pause", `{"reason":"later"}`, "pause later", `"ep_9"`},
		{"POST", "/v1/endpoints/ep_9:contain", `{"reason":"INC-42"}`, "contain INC-42", `"ep_9"`},
		{"POST", "/v1/endpoints/ep_9:release", `{"reason":"done","etag":"1f"}`, "release done", `"ep_9"`},
		{"POST", "/v1/endpoints/ep_9:resume", `{}`, "resume", `"ep_9"`},
		{"POST", "/v1/endpoints/ep_9:test", `{}`, "test", `"verdict":"DONE"`},
		{"GET", "/v1/deliveries/dlv_1", "", "delivery", `"durations":{"tls":"0.003s","total":"1.500s"}`},
		{"POST", "/v1/deliveries/dlv_1:retry", `{"tenant":"acme"}`, "retry acme", `"state":"RETRYING"`},
		{"POST", "/v1/deliveries/dlv_1:cancel", "", "cancel", `"attemptCount":2`},
		{"POST", "/v1/deliveries:replay", `{"replay":{"tenant":"acme","endpointId":"ep_1","states":["DEAD","WITHHELD"],"eventTypes":["a.*"],"missing":true,"deliveriesPerSecond":2.5,
			"after":"2026-01-01T00:00:00Z","before":"2026-01-02T00:00:00Z"},"reason":"down","requestId":"r1"}`, "replay down r1",
			`"replay":{"tenant":"acme","endpointId":"ep_1","eventTypes":["a.*"],"after":"2026-01-01T00:00:00Z","before":"2026-01-02T00:00:00Z","states":["DEAD","WITHHELD"],"missing":true,"deliveriesPerSecond":2.5}`},
		{"GET", "/v1/operations/op_1?tenant=acme", "", "operation acme", `"progress":{"examined":"3","done":"2","skipped":"1","fraction":0.5}`},
		{"GET", "/v1/operations?tenant=acme&kind=REPLAY&state=FAILED&pageSize=3", "", "operations acmeREPLAYFAILED3", `"nextPageToken":"more"`},
		{"POST", "/v1/operations/op_1:cancel", `{"tenant":"acme"}`, "end acme", `"state":"RUNNING"`},
		{"POST", "/v1/tokens", `{"account":"crm","role":"PUBLISHER","tenant":"acme","ttl":"3600s"}`, "token", `"secret":"spt_once"`},
		{"GET", "/v1/tokens", "", "tokens", `"role":"OPERATOR"`},
		{"POST", "/v1/tokens/abc:revoke", "", "revoke", `"revokeTime":"1970-01-01T00:00:05Z"`},
		{"POST", "/v1/events?validateOnly=true", `{"tenant":"acme","id":"e","data":1}`, "preview", `"data":{"big":123456789012345678901234567890,`},
	} {
		a := f.call(t, tt.method, tt.path, tt.body)
		if a.code != 200 || !strings.Contains(compact(a.body), tt.contains) || !json.Valid([]byte(a.body)) {
			t.Errorf("%s %s: %d %s; want %s", tt.method, tt.path, a.code, a.body, tt.contains)
		}
		if last := f.door.calls[len(f.door.calls)-1]; last != tt.call {
			t.Errorf("%s %s: called %q", tt.method, tt.path, last)
		}
		if strings.Contains(a.body, "hush") {
			t.Errorf("%s %s shows a secret: %s", tt.method, tt.path, a.body)
		}
	}
	if f.door.grant.Role != access.Publisher || f.door.grant.Lifetime != time.Hour || f.door.requestID != "r1" {
		t.Errorf("grant %+v, request id %q", f.door.grant, f.door.requestID)
	}
	for _, tt := range []struct {
		method, path string
		code         int
	}{{"GET", "/v1/nothing", 404}, {"GET", "/", 404}, {"PUT", "/v1/endpoints/ep_1", 405}, {"DELETE", "/v1/events", 405}} {
		if a := f.call(t, tt.method, tt.path, ""); a.code != tt.code || a.problem(t).Message == "" {
			t.Errorf("%s %s: %d", tt.method, tt.path, a.code)
		}
	}
}

func TestEndpointFieldsOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	a := f.call(t, "POST", "/v1/endpoints", `{"tenant":"acme","url":"https://hooks.partner.example/crm","owner":"ops@partner.example","purpose":"sync",
		"eventTypes":["contact.*"],"filter":"event.data.country == 'DE'","scheme":"standard","contentMode":"envelope",
		"redaction":{"mode":"DENY_LISTED","drop":["**.ssn"],"mask":[{"path":"**.card_number","keepLast":4}],"pseudonymize":["contact.email"]},
		"chunkBytes":262144,"concurrency":8,"ordered":false,"rateLimit":{"requestsPerSecond":50},
		"tls":{"clientCertificate":"REQUIRED","caPem":"pem","spkiPins":[]},"timeout":"20s","headers":[{"name":"X-A","value":"v"}],
		"basicAuth":{"username":"u","password":"p"},"secret":"whsec_own","state":"ACTIVE"}`)
	if a.code != 200 {
		t.Fatal(a.code, a.body)
	}
	want := control.Spec{
		Tenant: "acme", URL: "https://hooks.partner.example/crm", Owner: "ops@partner.example", Purpose: "sync",
		EventTypes: []string{"contact.*"}, Filter: "event.data.country == 'DE'", Scheme: "standard", ContentMode: "envelope",
		Redaction: relay.Redaction{
			Mode: relay.RedactionDenyListed, Drop: []string{"**.ssn"}, Mask: []relay.Mask{{Path: "**.card_number", KeepLast: 4}},
			Pseudonymize: []string{"contact.email"},
		},
		ChunkBytes: 262144, Concurrency: 8, RateLimit: 50, Timeout: 20 * time.Second,
		TLS:     relay.TLS{ClientCertificate: relay.ClientCertificateRequired, CAPEM: "pem"},
		Headers: []relay.Header{{Name: "X-A", Value: relay.NewSecret("v")}}, BasicUser: "u", BasicPass: relay.NewSecret("p"),
		Bearer: relay.NewSecret(""), Secret: relay.NewSecret("whsec_own"),
	}
	if !reflect.DeepEqual(f.door.spec, want) {
		t.Errorf("asked for %+v\nwant %+v", f.door.spec, want)
	}
	for _, tt := range []struct {
		path, body string
		mask       []string
	}{
		{"/v1/endpoints/ep_1", `{"url":"u","redaction":{"drop":["a"],"mode":"NONE"},"eventTypes":[],"rateLimit":null,"etag":"1f","id":"ep_7"}`,
			[]string{"url", "redaction.drop", "redaction.mode", "eventTypes", "rateLimit"}},
		{"/v1/endpoints/ep_1?updateMask=event_types,tls.caPem", `{"etag":"1f"}`, []string{"eventTypes", "tls.caPem"}},
		{"/v1/endpoints/ep_1", `{"headers":[{"name":"a"},{"name":"b"}],"etag":"\"1f\""}`, []string{"headers"}},
	} {
		a := f.call(t, "PATCH", tt.path, tt.body)
		if a.code != 200 || !reflect.DeepEqual(f.door.mask, tt.mask) || f.door.ref != (control.Ref{ID: "ep_1", ETag: 0x1f}) {
			t.Errorf("%s: %d %s; mask %v, ref %+v", tt.body, a.code, a.body, f.door.mask, f.door.ref)
		}
	}
	for body, field := range map[string]string{`{}`: "updateMask", `{"state":"PAUSED"}`: "updateMask", `{"etag":"zz","url":"x"}`: "etag"} {
		a := f.call(t, "PATCH", "/v1/endpoints/ep_1", body)
		if p := a.problem(t); a.code != 400 || p.Details[0].FieldViolations[0].Field != field {
			t.Errorf("%s: %d %s", body, a.code, a.body)
		}
	}
}

func TestDeliveryQueryOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	a := f.call(t, "GET", "/v1/deliveries?tenant=acme&endpointId=ep_1&eventId=e&state=DELIVERED&pageSize=50&pageToken=p&after=2026-01-02T03:04:05Z&eventType=contact.*", "")
	want := relay.DeliveryQuery{
		Tenant: "acme", EndpointID: "ep_1", EventID: "e", EventType: "contact.*", State: relay.Delivered, PageSize: 50, PageToken: "p",
		After: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if a.code != 200 || f.door.query != want {
		t.Errorf("%d %s: asked %+v", a.code, a.body, f.door.query)
	}
	var got struct {
		Deliveries []map[string]any
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"id", "eventId", "endpointId", "eventType", "state", "attemptCount", "nextAttemptTime"} {
		if got.Deliveries[0][name] == nil {
			t.Errorf("no %s in %s", name, a.body)
		}
	}
	for _, path := range []string{"/v1/deliveries?state=LOST", "/v1/deliveries?state=", "/v1/deliveries?pageSize=x", "/v1/deliveries?endpointID=x"} {
		if a := f.call(t, "GET", path, ""); a.code != 400 {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
}

func TestWatchOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	attempt := someAttempt()
	f.door.outcomes = []relay.Outcome{
		{DeliveryID: "dlv_1", State: relay.Retrying, Attempts: 1, Attempt: &attempt}, {DeliveryID: "dlv_1", State: relay.Delivered},
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", f.url+"/v1/deliveries:watch?tenant=acme", nil)
	req.Header.Set("Authorization", "Bearer good")
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for _, want := range []string{"RETRYING", "DELIVERED"} {
		if !lines.Scan() || !strings.Contains(lines.Text(), want) || !strings.HasPrefix(lines.Text(), `{"result":{`) {
			t.Fatalf("line %q, want %s", lines.Text(), want)
		}
	}
	f.api.Stop(t.Context()) // ends the watch, and says why
	if !lines.Scan() || !strings.Contains(compact(lines.Text()), `"error":{"code":14`) {
		t.Errorf("last line %q", lines.Text())
	}
}

func TestOverTLS(t *testing.T) {
	t.Parallel()
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	defer web.Close()
	f := serve(t, newDoor(), &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS13})
	if a := f.call(t, "GET", "/v1/deliveries", ""); a.code != 200 || a.header.Get("Strict-Transport-Security") != "max-age=31536000" {
		t.Errorf("%d, %q", a.code, a.header.Get("Strict-Transport-Security"))
	}
	_, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvent(as(t.Context(), "good"), &sealpostv1.PublishEventRequest{Event: someEvent("a")})
	if err != nil {
		t.Error(err)
	}
}

// A body that stays away ends the call, and holds nothing up.
func TestBodyThatBreaksOff(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"tenant\":")
	conn.(*net.TCPConn).CloseWrite()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 400 {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestHardening(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	a := f.call(t, "GET", "/openapi.json", "", "Authorization: ")
	if a.code != 200 || !json.Valid([]byte(a.body)) || !strings.Contains(a.body, `"/v1/events:batch"`) {
		t.Errorf("openapi.json: %d", a.code)
	}
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Strict-Transport-Security": "",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	// A panic is an answer without what it panicked with, and the server goes on.
	a = f.call(t, "POST", "/v1/events", `{"tenant":"acme","id":"panic","type":"a.b","data":1}`)
	if p := a.problem(t); a.code != 500 || p.Message != "internal error" || strings.Contains(a.body, "boom") {
		t.Errorf("panic: %d %s", a.code, a.body)
	}
}
