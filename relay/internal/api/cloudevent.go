package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"mime"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/redact"
)

// cloudEventType is the media type of a structured CloudEvent in JSON.
const cloudEventType = "application/cloudevents+json"

// parseCloudEvent reads a CloudEvent 1.0 in structured JSON (CloudEvents JSON format 1.0.2, section 3) as an event:
//
//   - source names the tenant: it is the tenant, or a URI-reference whose last path segment is ("/tenants/acme",
//     "https://crm.example/tenants/acme");
//   - type is lower-cased, and what a type cannot hold becomes "_";
//   - an id that an event cannot have is replaced by "ce_" and a hash of it, the same for the same id;
//   - data is taken byte for byte; data_base64 must hold JSON; where there is neither, data is null;
//   - the extension attribute synthetic, true or "true", makes it a synthetic event;
//   - other extension attributes and dataschema are checked for their form and not kept.
//
// CloudEvents lets two sources use one id. Here ids are unique in a tenant: of two events with one id and other content,
// the second is refused, never taken for the first.
func parseCloudEvent(raw []byte) (*sealpostv1.Event, error) {
	a, err := readAttributes(raw)
	if err != nil {
		return nil, err
	}
	bad := a.bad
	if a.text["specversion"] != "1.0" {
		bad.Add("specversion", `must be "1.0"`)
	}
	event := &sealpostv1.Event{
		Tenant:  tenantOf(a.text["source"]),
		Id:      eventIDOf(a.text["id"]),
		Type:    eventTypeOf(a.text["type"]),
		Subject: a.text["subject"],
	}
	if a.text["id"] == "" {
		bad.Add("id", "is required")
	}
	if !relay.ValidTenant(event.GetTenant()) {
		bad.Add("source", "must be a tenant, or a URI-reference whose last path segment is one")
	}
	if !relay.ValidEventType(event.GetType()) {
		bad.Add("type", "must be 1 to %d segments joined by dots, at most %d bytes", relay.MaxTypeSegments, relay.MaxTypeLength)
	}
	if text, ok := a.text["time"]; ok {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			bad.Add("time", "must be a time as in RFC 3339, such as 2026-01-02T03:04:05Z")
		}
		event.Time = timestamppb.New(at)
	}
	switch a.text["synthetic"] {
	case "", "false":
	case "true":
		event.Synthetic = true
	default:
		bad.Add("synthetic", "must be true or false")
	}
	event.Data = a.content(&bad)
	return event, bad.Err()
}

// attributes are a CloudEvent's members as they stand.
type attributes struct {
	text map[string]string
	data []byte
	bad  relay.Invalid
}

// maxAttributes bounds the members of a CloudEvent, extensions too.
const maxAttributes = 64

func readAttributes(raw []byte) (attributes, error) {
	a := attributes{text: map[string]string{}}
	if err := redact.Validate(raw); err != nil {
		return a, malformed(nil, raw, err)
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if dec.PeekKind() != '{' {
		return a, relay.Invalid{{Field: "body", Rule: "must be a JSON object"}}
	}
	_, err := dec.ReadToken()
	for n := 0; err == nil && dec.PeekKind() != '}'; n++ {
		if n == maxAttributes {
			return a, relay.Invalid{{Field: "body", Rule: "must have at most 64 attributes"}}
		}
		var name, value = jsontext.Token{}, jsontext.Value(nil)
		if name, err = dec.ReadToken(); err != nil {
			break
		}
		key := name.String()
		if value, err = dec.ReadValue(); err == nil {
			end := dec.InputOffset()
			a.set(key, value, raw[end-int64(len(value)):end:end])
		}
	}
	if err != nil {
		return a, malformed(nil, raw, err)
	}
	return a, nil
}

// set takes one member. A null attribute is an absent one (JSON format, section 2.2); a null data is data.
func (a *attributes) set(name string, value jsontext.Value, raw []byte) {
	if name == "data" {
		a.data = raw
		return
	}
	if !attributeName(name) {
		if len(a.bad) < maxViolations {
			a.bad.Add(shown(name), "is not the name of an attribute: 1 to 20 of a-z and 0-9")
		}
		return
	}
	switch kind := value.Kind(); {
	case kind == '"':
		text, err := jsontext.AppendUnquote(nil, value)
		if err == nil {
			a.text[name] = string(text)
		}
	case kind == 'n':
	case name == "synthetic" && (kind == 't' || kind == 'f'):
		a.text[name] = string(value)
	case coreAttribute(name):
		a.bad.Add(name, "must be a string")
	case kind == '{' || kind == '[':
		a.bad.Add(name, "must be a string, a number, true or false")
	}
}

func coreAttribute(name string) bool {
	switch name {
	case "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data_base64":
		return true
	}
	return false
}

func attributeName(name string) bool {
	if coreAttribute(name) {
		return true
	}
	if name == "" || len(name) > 20 {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// content is the data, which must be JSON.
func (a *attributes) content(bad *relay.Invalid) []byte {
	if media, ok := a.text["datacontenttype"]; ok && !jsonMedia(media) {
		bad.Add("datacontenttype", "must be application/json or end in +json")
	}
	encoded, has := a.text["data_base64"]
	switch {
	case has && a.data != nil:
		bad.Add("data_base64", "must not stand beside data")
	case has:
		data, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			bad.Add("data_base64", "must be base64 (RFC 4648, section 4)")
		} else if err := redact.Validate(data); err != nil {
			bad.Add("data_base64", "must hold one JSON value")
		}
		return data
	case a.data == nil:
		return []byte("null")
	}
	return a.data
}

func jsonMedia(media string) bool {
	name, _, err := mime.ParseMediaType(media)
	return err == nil && (name == "application/json" || name == "text/json" || strings.HasSuffix(name, "+json"))
}

func tenantOf(source string) string {
	if at := strings.IndexAny(source, "?#"); at >= 0 {
		return "" // a URI-reference with a query names no tenant unmistakably
	}
	source = strings.TrimSuffix(source, "/")
	return source[strings.LastIndexByte(source, '/')+1:]
}

func eventTypeOf(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + ('a' - 'A')
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_':
			return r
		}
		return '_'
	}, text)
}

func eventIDOf(id string) string {
	if id == "" || relay.ValidEventID(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "ce_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}
