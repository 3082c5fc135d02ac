package egress

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// A Target is where requests go: a URL that was checked and taken apart, for any number of them.
type Target struct {
	url     *url.URL
	secure  bool
	host    string // the Host field: in ASCII, without an IPv6 zone, which means nothing elsewhere (RFC 6874)
	path    string // and query: as in the request line
	address string // host and port to dial, a name in ASCII (RFC 5891)
}

// NewTarget checks the URL: http or https, with a host and without a user, and nothing in it that would end the request line.
// An error is ErrRequest. The URL is not to be changed afterwards.
func NewTarget(u *url.URL) (*Target, error) {
	t := &Target{url: u, secure: u.Scheme == "https"}
	switch {
	case u.Host == "":
		return nil, fmt.Errorf("%w: no host", ErrRequest)
	case u.User != nil:
		return nil, fmt.Errorf("%w: user in the URL", ErrRequest)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%w: scheme is neither http nor https", ErrRequest)
	}
	t.path = u.RequestURI()
	for _, c := range []byte(t.path) {
		if c <= ' ' || c == 0x7f {
			return nil, fmt.Errorf("%w: space or control character in the URL", ErrRequest)
		}
	}
	var err error
	if t.host, err = hostField(u.Host); err != nil {
		return nil, err
	}
	t.address = addressOf(u)
	return t, nil
}

func hostField(host string) (string, error) {
	if !isASCII(host) {
		var err error
		if host, err = httpguts.PunycodeHostPort(host); err != nil {
			return "", fmt.Errorf("%w: host: %w", ErrRequest, err)
		}
	}
	if strings.HasPrefix(host, "[") {
		if end := strings.LastIndexByte(host, ']'); end > 0 {
			if zone := strings.IndexByte(host[:end], '%'); zone > 0 {
				host = host[:zone] + host[end:]
			}
		}
	}
	if !httpguts.ValidHostHeader(host) {
		return "", fmt.Errorf("%w: host", ErrRequest)
	}
	return host, nil
}

func addressOf(u *url.URL) string {
	host, port := u.Hostname(), u.Port()
	if !isASCII(host) {
		if ascii, err := idna.Lookup.ToASCII(host); err == nil {
			host = ascii // else the dialer refuses it
		}
	}
	if port == "" {
		if port = "443"; u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(host, port)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// A Post is one POST request.
type Post struct {
	Target *Target
	// Header is only read. Fields of the connection and of the framing, and Expect, are not the caller's: they are passed over.
	Header http.Header
	Body   []byte // not to be changed before the response is closed

	Timeout  time.Duration // for all of it; 0, or more than the pool's attempt timeout: that
	BodyTime time.Duration // for reading the response's body, within Timeout; 0: no bound of its own
}

// check is whether the request can be written so that a server reads the same as we mean (RFC 9112, sections 3 and 5).
func (r *Post) check(trust *Trust) error {
	if !r.Target.secure && !trust.PlainHTTP {
		return fmt.Errorf("%w: scheme is not https", ErrRequest)
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("%w: header name %q", ErrRequest, name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("%w: value of header %s", ErrRequest, name)
			}
		}
	}
	return nil
}

// appendHead writes the request line and the header fields, without the empty line.
func (r *Post) appendHead(b []byte) []byte {
	b = append(b, "POST "...)
	b = append(b, r.Target.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Target.host...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.Body)), 10)
	b = append(b, "\r\n"...)
	for name, values := range r.Header {
		if isOurs(name) {
			continue
		}
		for _, value := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, value...)
			b = append(b, "\r\n"...)
		}
	}
	return b
}

// isOurs is whether a header field is the connection's or the framing's, and so not the caller's.
func isOurs(name string) bool {
	switch len(name) {
	case 2:
		return strings.EqualFold(name, "TE")
	case 4:
		return strings.EqualFold(name, "Host")
	case 6:
		return strings.EqualFold(name, "Expect")
	case 7:
		return strings.EqualFold(name, "Upgrade") || strings.EqualFold(name, "Trailer")
	case 10:
		return strings.EqualFold(name, "Connection") || strings.EqualFold(name, "Keep-Alive")
	case 14:
		return strings.EqualFold(name, "Content-Length")
	case 16:
		return strings.EqualFold(name, "Proxy-Connection")
	case 17:
		return strings.EqualFold(name, "Transfer-Encoding")
	}
	return false
}
