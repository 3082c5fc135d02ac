package store

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
	"strings"

	"github.com/sealpost/sealpost/relay"
)

// maxScanned bounds how many index entries one page may cost. A query that the indexes do not narrow enough
// answers with the part of a page that it found and a token that goes on behind the last entry looked at.
const maxScanned = 100_000

// query is a checked DeliveryQuery.
type query struct {
	relay.DeliveryQuery
	state       byte   // code; 0: any
	lower       uint64 // accept time at or after, as sortable
	upper       uint64 // accept time before, as sortable
	unbounded   bool   // no upper
	cursor      place  // where the page goes on: strictly below it, or above where the oldest come first
	resumed     bool
	fingerprint [8]byte
}

// place is a delivery's place in every list: by accept time, then id.
type place struct {
	accept uint64
	id     string
}

func (p place) compare(o place) int {
	if p.accept != o.accept {
		if p.accept < o.accept {
			return -1
		}
		return 1
	}
	return strings.Compare(p.id, o.id)
}

func checkQuery(q relay.DeliveryQuery) (*query, error) {
	var bad relay.Invalid
	out := &query{DeliveryQuery: q, upper: math.MaxUint64, unbounded: q.Before.IsZero()}
	switch {
	case q.Tenant == "" && !q.AllTenants:
		bad.Add("tenant", "is required")
	case q.Tenant != "" && !relay.ValidTenant(q.Tenant):
		bad.Add("tenant", "is not a tenant's name")
	}
	if q.PageSize < 0 || q.PageSize > relay.MaxPageSize {
		bad.Add("pageSize", "must be at most %d", relay.MaxPageSize)
	} else if q.PageSize == 0 {
		out.PageSize = relay.DefaultPageSize
	}
	if q.State != "" {
		code, ok := stateCode(q.State)
		if !ok || code == codeUnmatched {
			bad.Add("state", "is not a delivery's state")
		}
		out.state = code
	}
	if q.EventType != "" && !relay.ValidPattern(q.EventType) {
		bad.Add("eventType", "must be an event type or a pattern such as contact.*")
	}
	if len(q.EndpointID) > maxKeyText {
		bad.Add("endpointId", "is too long")
	}
	if len(q.EventID) > maxKeyText {
		bad.Add("eventId", "is too long")
	}
	if err := bad.Err(); err != nil {
		return nil, err
	}
	if out.EventType == "*" {
		out.EventType = ""
	}
	if !q.After.IsZero() {
		out.lower = sortable(q.After)
	}
	if !out.unbounded {
		out.upper = sortable(q.Before)
	}
	out.fingerprint = out.hash()
	if q.PageToken == "" {
		return out, nil
	}
	var ok bool
	if out.cursor, ok = parseToken(q.PageToken, out.fingerprint); !ok {
		return nil, relay.ErrPageToken
	}
	out.resumed = true
	return out, nil
}

// exactType is the event type that the query names, or "" where it names none or a pattern.
func (q *query) exactType() string {
	if strings.HasSuffix(q.EventType, "*") {
		return ""
	}
	return q.EventType
}

// passes tells whether a delivery in this state and of this type can be among the answers: what an index entry
// can tell without the record.
func (q *query) passes(code byte, eventType string) bool {
	return (q.state == 0 || q.state == code) && (q.EventType == "" || relay.MatchPattern(q.EventType, eventType))
}

// wants tells whether the record is among the answers.
func (q *query) wants(r *record) bool {
	at := sortable(r.AcceptTime)
	return r.State != relay.Unmatched &&
		(q.Tenant == "" || q.Tenant == r.Tenant) &&
		(q.EndpointID == "" || q.EndpointID == r.EndpointID) &&
		(q.EventID == "" || q.EventID == r.EventID) &&
		q.passes(r.code(), r.EventType) &&
		at >= q.lower && (q.unbounded || at < q.upper)
}

// hash is over what the query asks for, not over its page: a token is only good for the same question.
func (q *query) hash() (out [8]byte) {
	b := []byte{0, q.state}
	if q.AllTenants {
		b[0] = 1
	}
	if q.Oldest {
		b[0] |= 2
	}
	for _, s := range [...]string{q.Tenant, q.EndpointID, q.EventID, q.EventType} {
		b = appendText(b, s)
	}
	b = binary.BigEndian.AppendUint64(b, q.lower)
	if !q.unbounded {
		b = binary.BigEndian.AppendUint64(b, q.upper)
	}
	sum := sha256.Sum256(b)
	return [8]byte(sum[:8])
}

// A token is base64url of: version, the query's fingerprint, the place (accept time, id), CRC-32C of all that. It
// carries nothing that its holder has not seen and grants nothing: the query is checked as if there were none.
const (
	tokenVersion   = 1
	maxTokenLength = 1 << 10
)

var (
	tokenEncoding = base64.RawURLEncoding.Strict()
	tokenTable    = crc32.MakeTable(crc32.Castagnoli)
)

func (q *query) token(at place) string {
	b := append([]byte{tokenVersion}, q.fingerprint[:]...)
	b = binary.BigEndian.AppendUint64(b, at.accept)
	b = append(b, at.id...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, tokenTable))
	return tokenEncoding.EncodeToString(b)
}

func parseToken(token string, fingerprint [8]byte) (place, bool) {
	if len(token) > maxTokenLength || strings.ContainsAny(token, "\r\n") { // which base64 would pass over
		return place{}, false
	}
	b, err := tokenEncoding.DecodeString(token)
	if err != nil || len(b) < 1+8+8+1+4 || b[0] != tokenVersion || [8]byte(b[1:9]) != fingerprint {
		return place{}, false
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, tokenTable) != sum {
		return place{}, false
	}
	return place{binary.BigEndian.Uint64(body[9:]), string(body[17:])}, true
}

// page collects answers until there is one more than was asked for, which only tells that another page follows.
type page struct {
	query   *query
	found   []relay.DeliveryStatus
	scanned int
	last    place // the last entry that was looked at
}

// full tells whether to stop.
func (p *page) full() bool { return len(p.found) > p.query.PageSize || p.scanned >= maxScanned }

// look notes that the entry at a place was looked at.
func (p *page) look(at place) { p.scanned++; p.last = at }

func (p *page) add(r *record) { p.found = append(p.found, r.DeliveryStatus) }

// result is the page; ended tells that there was nothing more to look at.
func (p *page) result(ended bool) relay.DeliveryPage {
	out := relay.DeliveryPage{Deliveries: p.found}
	switch size := p.query.PageSize; {
	case len(p.found) > size:
		out.Deliveries = slices.Clip(p.found[:size])
		end := &out.Deliveries[size-1]
		out.NextPageToken = p.query.token(place{sortable(end.AcceptTime), end.ID})
	case !ended:
		out.NextPageToken = p.query.token(p.last)
	}
	return out
}
