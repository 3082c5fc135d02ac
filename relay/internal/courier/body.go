package courier

import (
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/sealpost/sealpost/relay"
)

const (
	typeJSON        = "application/json"
	typeCloudEvents = "application/cloudevents+json"

	// The most that the framing of a body adds to its data: the bounds of an event's fields, each byte of the subject
	// escaped to six.
	maxFraming = 512 + relay.MaxTypeLength + relay.MaxEventIDLength + relay.MaxTenantLength + 6*relay.MaxSubjectLength
)

// render is the body that an endpoint receives for a delivery, and its content type. Data goes in byte for byte. It
// may be the delivery's own bytes, which nobody writes to.
func render(d *relay.Delivery) (body []byte, contentType string) {
	switch d.Endpoint.ContentMode {
	case relay.ContentData, relay.ContentCloudEventsBinary:
		return d.Data, typeJSON
	case relay.ContentCloudEvents:
		return cloudEvent(d), typeCloudEvents
	}
	return envelope(d), typeJSON
}

// Render is the body that an endpoint would receive for a delivery, before it is chunked, and its content type.
func Render(d *relay.Delivery) (body []byte, contentType string) { return render(d) }

// envelope is the payload that Standard Webhooks recommends, with what identifies the event beside it.
func envelope(d *relay.Delivery) []byte {
	b := make([]byte, 0, maxFraming/4+len(d.Data))
	b = append(b, `{"type":`...)
	b = appendString(b, d.EventType)
	b = append(b, `,"timestamp":"`...)
	b = appendTime(b, d.EventTime)
	b = append(b, `","id":`...)
	b = appendString(b, d.EventID)
	b = append(b, `,"tenant":`...)
	b = appendString(b, d.Endpoint.Tenant)
	if d.Subject != "" {
		b = append(b, `,"subject":`...)
		b = appendString(b, d.Subject)
	}
	if d.Synthetic {
		b = append(b, `,"synthetic":true`...)
	}
	b = append(b, `,"data":`...)
	b = append(b, d.Data...)
	return append(b, '}')
}

// cloudEvent is the structured mode of CloudEvents 1.0 in JSON. The source and id together are unique, as the
// specification asks: an event's id is unique in its tenant.
func cloudEvent(d *relay.Delivery) []byte {
	b := make([]byte, 0, maxFraming/4+len(d.Data))
	b = append(b, `{"specversion":"1.0","id":`...)
	b = appendString(b, d.EventID)
	b = append(b, `,"source":`...)
	b = appendString(b, source(d.Endpoint.Tenant))
	b = append(b, `,"type":`...)
	b = appendString(b, d.EventType)
	if d.Subject != "" {
		b = append(b, `,"subject":`...)
		b = appendString(b, d.Subject)
	}
	b = append(b, `,"time":"`...)
	b = appendTime(b, d.EventTime)
	b = append(b, '"')
	if d.Synthetic {
		b = append(b, `,"synthetic":true`...) // an extension attribute
	}
	b = append(b, `,"datacontenttype":"application/json","data":`...)
	b = append(b, d.Data...)
	return append(b, '}')
}

// source is the CloudEvents source of a tenant's events: a URI-reference.
func source(tenant string) string { return "/tenants/" + tenant }

// addCloudEvent sets the attributes as headers: the binary mode of the CloudEvents HTTP binding, section 3.1.
func addCloudEvent(h http.Header, d *relay.Delivery) {
	h["Ce-Specversion"] = []string{"1.0"}
	h["Ce-Id"] = []string{d.EventID}
	h["Ce-Source"] = []string{source(d.Endpoint.Tenant)}
	h["Ce-Type"] = []string{d.EventType}
	h["Ce-Time"] = []string{string(appendTime(nil, d.EventTime))}
	if d.Subject != "" {
		h["Ce-Subject"] = []string{percentEncode(d.Subject)}
	}
	if d.Synthetic {
		h["Ce-Synthetic"] = []string{"true"}
	}
}

// percentEncode writes a header value as the CloudEvents HTTP binding has it, section 3.1.3.2: space, double quote,
// percent and whatever is not printable ASCII are percent-encoded as UTF-8 bytes.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// appendTime writes RFC 3339 in UTC, with as many digits of a second as it needs.
func appendTime(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, time.RFC3339Nano) }

// appendString writes a JSON string (RFC 8259, section 7), escaping what must be and no more. Invalid UTF-8, which no
// field of an event holds, becomes U+FFFD, so that the body is valid JSON whatever happens.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
