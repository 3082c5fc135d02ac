package egress

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/idna"
)

// sendable is whether the request can be written so that a server reads the same as we mean (RFC 9112, sections 3 and 5).
func sendable(req *http.Request) error {
	if !httpguts.ValidHeaderFieldName(req.Method) { // a token too
		return fmt.Errorf("%w: method", ErrRequest)
	}
	for name, values := range req.Header {
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
func appendHead(b []byte, req *http.Request) ([]byte, error) {
	host, err := hostOf(req)
	if err != nil {
		return nil, err
	}
	target := req.URL.RequestURI()
	for _, c := range []byte(target) {
		if c <= ' ' || c == 0x7f {
			return nil, fmt.Errorf("%w: space or control character in the URL", ErrRequest)
		}
	}
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nContent-Length: "...)
	if hasBody(req) {
		b = strconv.AppendInt(b, req.ContentLength, 10)
	} else {
		b = append(b, '0')
	}
	b = append(b, "\r\n"...)
	for name, values := range req.Header {
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
	return b, nil
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

// hostOf is the value of the Host field: in ASCII, and without an IPv6 zone, which means nothing elsewhere (RFC 6874).
func hostOf(req *http.Request) (string, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
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

// addressOf is what is dialled for a URL: host and port, a name in ASCII (RFC 5891).
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
