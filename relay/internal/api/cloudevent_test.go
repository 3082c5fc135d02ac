package api

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/redact"
)

func TestCloudEventOverREST(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	const data = `{ "n":1.50, "k":[] }`
	a := f.call(t, "POST", "/v1/events", `{"specversion":"1.0","id":"evt 1/a","source":"https://crm.example/tenants/acme","type":"Contact.Updated-V2",
		"subject":"contact/42","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json; charset=utf-8","traceparent":"00-a-b-01","data":`+data+`}`,
		"Content-Type: application/cloudevents+json; charset=UTF-8")
	if a.code != 200 || !strings.Contains(a.body, `"ce_`) {
		t.Fatalf("%d %s", a.code, a.body)
	}
	e := f.door.events["acme/"+f.door.order[0]]
	if e.Type != "contact.updated_v2" || e.Subject != "contact/42" || e.Time.Unix() != 1767323045 || string(e.Data) != data || !relay.ValidEventID(e.ID) {
		t.Errorf("kept %+v", e)
	}
	// The same event again is the same event.
	f.call(t, "POST", "/v1/events", `{"id":"evt 1/a","source":"acme","type":"x","specversion":"1.0","data":`+data+`}`, "Content-Type: "+cloudEventType)
	if f.door.order[0] != f.door.order[1] {
		t.Errorf("ids %v", f.door.order)
	}
	if a := f.call(t, "POST", "/v1/events?validateOnly=yes", `{}`, "Content-Type: "+cloudEventType); a.code != 400 {
		t.Errorf("validateOnly=yes: %d", a.code)
	}
	a = f.call(t, "POST", "/v1/events?validateOnly=true", `{"id":"e","source":"acme","type":"x.y","specversion":"1.0"}`, "Content-Type: "+cloudEventType)
	if a.code != 200 || f.door.calls[len(f.door.calls)-1] != "preview" {
		t.Errorf("validateOnly=true: %d %s", a.code, a.body)
	}
	if a := f.call(t, "POST", "/v1/events?nonsense=1", `{"id":"e","source":"acme","type":"x.y","specversion":"1.0"}`, "Content-Type: "+cloudEventType); a.code != 400 {
		t.Errorf("nonsense in the query: %d", a.code)
	}
	if a := f.call(t, "PUT", "/v1/events", `{}`, "Content-Type: "+cloudEventType); a.code != 405 {
		t.Errorf("PUT: %d", a.code)
	}
}

func TestCloudEventForms(t *testing.T) {
	t.Parallel()
	base := func(changes ...string) string {
		m := map[string]any{"specversion": "1.0", "id": "e1", "source": "acme", "type": "a.b"}
		for _, c := range changes {
			var one map[string]any
			if err := json.Unmarshal([]byte(c), &one); err != nil {
				t.Fatal(err)
			}
			for k, v := range one {
				m[k] = v
			}
		}
		out, _ := json.Marshal(m)
		return string(out)
	}
	for _, tt := range []struct{ in, tenant, id, eventType, data string }{
		{base(), "acme", "e1", "a.b", "null"},
		{base(`{"source":"/tenants/acme/"}`), "acme", "e1", "a.b", "null"},
		{base(`{"type":"COM.Example/x y"}`), "acme", "e1", "com.example_x_y", "null"},
		{base(`{"data_base64":"eyJhIjoxfQ=="}`), "acme", "e1", "a.b", `{"a":1}`},
		{base(`{"data":"text","datacontenttype":"application/vnd.x+json"}`), "acme", "e1", "a.b", `"text"`},
		{base(`{"ext":1,"ext2":true,"ext3":null,"subject":null}`), "acme", "e1", "a.b", "null"},
	} {
		e, err := parseCloudEvent([]byte(tt.in))
		if err != nil || e.GetTenant() != tt.tenant || e.GetId() != tt.id || e.GetType() != tt.eventType || string(e.GetData()) != tt.data {
			t.Errorf("%s: %v, %v", tt.in, e, err)
		}
	}
	for _, tt := range []struct{ in, field string }{
		{`[]`, "body"}, {`{`, "body"}, {``, "body"}, {base() + "x", "body"}, {`{"id":"a","id":"b"}`, "body"},
		{base(`{"specversion":"0.3"}`), "specversion"}, {base(`{"specversion":1}`), "specversion"},
		{base(`{"id":""}`), "id"}, {base(`{"id":7}`), "id"},
		{base(`{"source":""}`), "source"}, {base(`{"source":"/tenants/ACME"}`), "source"}, {base(`{"source":"/x?tenant=/acme"}`), "source"},
		{base(`{"type":""}`), "type"}, {base(`{"type":"a..b"}`), "type"},
		{base(`{"time":"now"}`), "time"},
		{base(`{"datacontenttype":"application/xml","data":"<a/>"}`), "datacontenttype"},
		{base(`{"data":1,"data_base64":"MQ=="}`), "data_base64"}, {base(`{"data_base64":"MQ"}`), "data_base64"}, {base(`{"data_base64":"ew=="}`), "data_base64"},
		{base(`{"Upper":"x"}`), "Upper"}, {base(`{"object":{}}`), "object"},
	} {
		e, err := parseCloudEvent([]byte(tt.in))
		bad, ok := err.(relay.Invalid)
		if !ok || bad[0].Field != tt.field {
			t.Errorf("%s: %v, %v; want %s", tt.in, e, err, tt.field)
		}
	}
}

// What the parser takes is an event whose every field keeps its rule, the same at every reading.
func FuzzCloudEvent(f *testing.F) {
	for _, seed := range []string{
		`{"specversion":"1.0","id":"e","source":"acme","type":"a.b","data":{"a":[1]}}`,
		`{"specversion":"1.0","id":"é","source":"/t/acme","type":"A.B","time":"2026-01-02T03:04:05.5+01:00","data_base64":"MQ==","ext":1}`,
		`{"specversion":"1.0","id":"e","source":"acme","type":"a.b","subject":"\u0000"}`,
		`{"data":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseCloudEvent(raw)
		if err != nil {
			if _, ok := err.(relay.Invalid); !ok {
				t.Fatalf("error is %T", err)
			}
			return
		}
		if !relay.ValidTenant(e.GetTenant()) || !relay.ValidEventID(e.GetId()) || !relay.ValidEventType(e.GetType()) {
			t.Fatalf("took %v", e)
		}
		if err := redact.Validate(e.GetData()); err != nil {
			t.Fatalf("data: %v", err)
		}
		again, err := parseCloudEvent(raw)
		if err != nil || !proto.Equal(again, e) {
			t.Fatalf("second reading: %v, %v", again, err)
		}
	})
}

// What the body parser takes, protobuf's own parser takes too, with the same meaning; the data comes through as it
// was; and what is written of it is read again as the same.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		`{"tenant":"acme","id":"e","type":"a.b","time":"2026-01-02T03:04:05Z","subject":"s","data":{"a":1e999}}`,
		`{"data":null}`, `{"data":"\"data\":","id":"\"data\":\"\""}`, `{"accept_time":"x"}`, ` `, `{"tenant":null,"matched":true}`,
		"{\n\"subject\":\"é\",\r\n \"type\":7}", `{"data":"MA==","id":"a"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e sealpostv1.Event
		if _, err := decodeJSON(raw, &e); err != nil {
			if bad, ok := err.(relay.Invalid); !ok || len(bad) == 0 {
				t.Fatalf("error is %T", err)
			}
			return
		}
		data := e.Data
		out, err := encodeJSON(&e)
		if err != nil {
			return // a string that protobuf cannot write
		}
		if data != nil && !json.Valid(out) {
			t.Fatalf("wrote %s", out)
		}
		var back sealpostv1.Event
		if _, err := decodeJSON(out, &back); err != nil {
			t.Fatalf("wrote %s: %v", out, err)
		}
		if data == nil {
			back.Data = nil // written as null
		}
		if !proto.Equal(&e, &back) {
			t.Fatalf("%v became %v", &e, &back)
		}
		e.Data = nil
		if plain, err := protojson.Marshal(&e); err != nil || protojson.Unmarshal(plain, &back) != nil {
			t.Fatalf("protobuf's own: %v", err)
		}
	})
}

// The endpoint's schema is the deepest: lists of messages, enums, durations.
func FuzzEndpointBody(f *testing.F) {
	for _, seed := range []string{
		`{"url":"https://x","redaction":{"mode":"NONE","mask":[{"path":"a","keepLast":4}]},"tls":{"clientCertificate":2},"timeout":"1.5s"}`,
		`{"headers":[{"name":"a"},null]}`, `{"rateLimit":[]}`, `{"eventTypes":[[]]}`, `{"basicAuth":{"x":{}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e sealpostv1.Endpoint
		paths, err := decodeJSON(raw, &e)
		if err != nil {
			if bad, ok := err.(relay.Invalid); !ok || len(bad) == 0 {
				t.Fatalf("error is %T", err)
			}
			return
		}
		for _, p := range paths {
			if name, ok := jsonPath(e.ProtoReflect().Descriptor(), p); !ok || name != p {
				t.Fatalf("path %q", p)
			}
		}
		var want sealpostv1.Endpoint
		if len(strings.TrimSpace(string(raw))) > 0 {
			if err := protojson.Unmarshal(raw, &want); err != nil || !proto.Equal(&e, &want) {
				t.Fatalf("%v, protobuf reads %v: %v", &e, &want, err)
			}
		}
	})
}
