package relay

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of an event's fields, in bytes unless said.
const (
	MaxEventIDLength   = 64
	MaxTypeLength      = 256
	MaxTypeSegments    = 8
	MaxSubjectLength   = 512
	MaxTenantLength    = 63
	DefaultMaxDataSize = 8 << 20
)

// Event is a fact of the CRM, as it was accepted.
type Event struct {
	Tenant  string
	ID      string
	Type    string
	Time    time.Time // when it happened, by the publisher
	Subject string    // such as "contact/123"; may be empty
	Data    []byte    // one JSON value, byte for byte as it was published
	// Synthetic events tell of nothing that happened: sandbox endpoints get them, and production ones do not.
	Synthetic bool

	// Seq is the event's place in its partition's EVENTS log and AcceptTime the journal's time for it;
	// both are zero before the event is kept.
	Seq        uint64
	AcceptTime time.Time
}

// Check reports every field that breaks its rule. It does not read Data: whether that is one JSON
// value, within the configured size, is checked where it is parsed.
func (e *Event) Check() Invalid {
	var bad Invalid
	if !ValidTenant(e.Tenant) {
		bad.Add("tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit", MaxTenantLength)
	}
	if !ValidEventID(e.ID) {
		bad.Add("id", "must be 1 to %d of A-Z, a-z, 0-9, '_' and '-'", MaxEventIDLength)
	}
	if !ValidEventType(e.Type) {
		bad.Add("type", "must be 1 to %d segments of a-z, 0-9 and '_', joined by dots, at most %d bytes", MaxTypeSegments, MaxTypeLength)
	}
	if len(e.Subject) > MaxSubjectLength {
		bad.Add("subject", "must be at most %d bytes", MaxSubjectLength)
	} else if !printable(e.Subject) {
		bad.Add("subject", "must be valid UTF-8 without control characters")
	}
	if y := e.Time.Year(); e.Time.IsZero() || y < 1970 || y > 9999 {
		bad.Add("time", "must be a time between the years 1970 and 9999")
	}
	return bad
}

// ValidTenant tells whether s matches [a-z0-9][a-z0-9-]{0,62}.
func ValidTenant(s string) bool {
	if s == "" || len(s) > MaxTenantLength || s[0] == '-' {
		return false
	}
	return only(s, func(c byte) bool { return lowerAlnum(c) || c == '-' })
}

// ValidEventID tells whether s is 1 to 64 of A-Za-z0-9_-: no dot, for several schemes sign
// "id.timestamp.body".
func ValidEventID(s string) bool {
	return s != "" && len(s) <= MaxEventIDLength &&
		only(s, func(c byte) bool { return lowerAlnum(c) || c >= 'A' && c <= 'Z' || c == '_' || c == '-' })
}

// ValidEventType tells whether s is 1 to 8 segments of [a-z0-9_]+ joined by dots.
func ValidEventType(s string) bool {
	if s == "" || len(s) > MaxTypeLength || strings.Count(s, ".") >= MaxTypeSegments {
		return false
	}
	for segment := range strings.SplitSeq(s, ".") {
		if segment == "" || !only(segment, func(c byte) bool { return lowerAlnum(c) || c == '_' }) {
			return false
		}
	}
	return true
}

// ValidPattern tells whether s is an event type, an event type's beginning followed by ".*", or "*".
func ValidPattern(s string) bool {
	if s == "*" {
		return true
	}
	prefix, wild := strings.CutSuffix(s, ".*")
	if wild && strings.Count(prefix, ".") >= MaxTypeSegments-1 {
		return false
	}
	return ValidEventType(prefix)
}

// MatchPattern tells whether the event type is what pattern names: the same type, or, for
// "contact.*", any type that begins with "contact.". Both must be valid.
func MatchPattern(pattern, eventType string) bool {
	if pattern == "*" {
		return true
	}
	if prefix, wild := strings.CutSuffix(pattern, "*"); wild {
		return strings.HasPrefix(eventType, prefix)
	}
	return pattern == eventType
}

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return false
		}
	}
	return true
}
