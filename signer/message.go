package signer

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// ErrMessage reports a Message that cannot be signed without doubt about what was
// signed: the error names the field and the rule.
var ErrMessage = errors.New("message cannot be signed")

// Message is one HTTP request to be signed.
type Message struct {
	// ID is the delivery's id, the same for each attempt: 1 to 255 visible ASCII
	// characters without a dot (Standard Webhooks signs "id.time.body").
	ID string
	// Time is that of the attempt. Schemes send it in seconds or milliseconds.
	Time time.Time
	// Method and URL are those of the request: an absolute http or https URL
	// without user information or fragment. Only schemes that cover the target
	// (Facts.CoversTarget) look at them.
	Method, URL string
	// Type is the event's, such as "contact.updated": up to 255 printable ASCII
	// characters, for the schemes whose receivers look for it in a header. None signs it.
	Type string
	// ContentType is set as content-type where it is not empty. No scheme covers it.
	ContentType string
	// Chunk is the value of the sealpost-chunk header, empty where the delivery is whole.
	Chunk string
	// Body holds the exact bytes to be sent. Sign does not keep or change them.
	Body []byte
}

// Request holds the facts of a received request that a Verifier needs beside the header.
type Request struct {
	// Method and URL as the sender saw them; only schemes that cover the target look
	// at them. VerifyRequest fills them in from an http.Request.
	Method, URL string
	// Body holds the exact bytes received, before any decoding.
	Body []byte
}

const (
	maxID          = 255
	maxChunk       = 512
	maxType        = 255
	maxContentType = 255
	maxMethod      = 32
	maxURL         = 8 << 10
	maxTime        = 1e11 // seconds: 11 digits, as milliseconds 14
)

func (m *Message) check() error {
	switch {
	case !validID(m.ID):
		return fmt.Errorf("%w: id has 1 to %d visible ASCII characters and no dot", ErrMessage, maxID)
	case m.Time.Unix() <= 0 || m.Time.Unix() >= maxTime:
		return fmt.Errorf("%w: time is before 1970 or after 5138", ErrMessage)
	case !validFieldValue(m.Chunk, maxChunk):
		return fmt.Errorf("%w: chunk has up to %d printable ASCII characters", ErrMessage, maxChunk)
	case !validFieldValue(m.Type, maxType):
		return fmt.Errorf("%w: type has up to %d printable ASCII characters", ErrMessage, maxType)
	case !validFieldValue(m.ContentType, maxContentType):
		return fmt.Errorf("%w: content type has up to %d printable ASCII characters", ErrMessage, maxContentType)
	}
	return nil
}

func validID(id string) bool {
	if len(id) == 0 || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' || id[i] == '.' {
			return false
		}
	}
	return true
}

// validFieldValue allows what every HTTP implementation passes on unchanged:
// printable ASCII without a space at either end (RFC 9110 section 5.5). A line
// break, with which a value could begin another header, is none of it.
func validFieldValue(value string, max int) bool {
	if value == "" {
		return true
	}
	if len(value) > max || value[0] == ' ' || value[len(value)-1] == ' ' {
		return false
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return true
}

func validMethod(method string) bool {
	if len(method) == 0 || len(method) > maxMethod {
		return false
	}
	for i := range len(method) {
		if c := method[i]; !('A' <= c && c <= 'Z' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// target returns the form of a URL that the format signs.
func (f *format) target(raw string) (string, error) {
	uri, err := targetURI(raw)
	if err != nil || !f.plainTarget {
		return uri, err
	}
	for i := range len(uri) {
		if uri[i] == '%' && strings.Contains(ambiguousEscapes, strings.ToUpper(uri[i:min(i+3, len(uri))])) {
			return "", fmt.Errorf("URL holds %s, which some verifiers of %s decode and others do not", uri[i:min(i+3, len(uri))], f.scheme)
		}
	}
	return uri, nil
}

// ambiguousEscapes are those that HubSpot's documentation tells receivers to decode before they check, and
// HubSpot's own libraries leave as they are. What both read alike is a URL without them.
const ambiguousEscapes = "%3A %2F %3F %40 %21 %24 %27 %28 %29 %2A %2C %3B"

// targetURI returns the form of an absolute URL in which sender and receiver agree
// (RFC 9421 sections 2.2.2 and 2.2.3): scheme and host in lower case, no default
// port, "/" for an empty path, path and query as net/http puts them on the wire.
func targetURI(raw string) (string, error) {
	if len(raw) > maxURL {
		return "", fmt.Errorf("URL is longer than %d bytes", maxURL)
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] > '~' {
			return "", errors.New("URL holds a character that is not visible ASCII")
		}
	}
	u, err := url.Parse(raw)
	// The parser's error is left out: it quotes the URL, which may hold a token.
	if err != nil || u.Opaque != "" || u.Host == "" || u.Hostname() == "" {
		return "", errors.New("URL is not absolute and well-formed")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("URL is neither https nor http")
	case u.User != nil:
		return "", errors.New("URL holds user information")
	case strings.Contains(raw, "#"):
		return "", errors.New("URL holds a fragment")
	}
	return u.Scheme + "://" + authority(u) + u.RequestURI(), nil
}

func authority(u *url.URL) string {
	host := strings.ToLower(u.Host)
	port := u.Port()
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		// Also takes off a colon with no port after it.
		return strings.TrimSuffix(strings.TrimSuffix(host, port), ":")
	}
	return host
}
