package egress

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"golang.org/x/net/http/httpguts"
)

// A head is what matters here of the head of a response (RFC 9112): all else in it is checked and passed over.
type head struct {
	status     int
	retryAfter string // the first field of that name
	length     int64  // of the body, in bytes; -1: it ends with the connection, or is chunked
	chunked    bool
	last       bool // nothing may follow on the connection
}

var (
	errHead  = errors.New("egress: malformed response head")
	errLarge = errors.New("egress: response head over 64 KiB")
)

// A headReader reads heads, and the trailer of a chunked body, which has their form. What it takes means to it what it means
// to net/http, which takes more: names with spaces for those of the framing, broken lines of these, other versions.
type headReader struct {
	in   *bufio.Reader
	left int // bytes that all heads and trailers of one request may still have
}

// read reads one head. An error is errHead, errLarge, or what reading gave; a head that ends early gives
// io.ErrUnexpectedEOF.
func (r *headReader) read() (head, error) {
	text, rest, err := r.line()
	if err != nil {
		return head{}, err
	}
	minor, status, ok := parseStatusLine(text)
	if err := r.discard(rest); err != nil {
		return head{}, err
	}
	if !ok {
		return head{}, errHead
	}
	h := head{status: status, length: -1, last: minor == 0}
	var encodings, digits int
	if err := r.fields(func(f field, value []byte) bool {
		switch f {
		case lengthField:
			n, ok := parseLength(value)
			if !ok || h.length >= 0 && (h.length != n || digits != len(value)) {
				return false
			}
			h.length, digits = n, len(value)
		case encodingField:
			encodings++
			if minor > 0 && (encodings > 1 || !equalFold(value, "chunked")) {
				return false
			}
			h.chunked = minor > 0
		case connectionField:
			h.last = h.last || hasToken(value, "close")
		case retryField:
			if h.retryAfter == "" {
				h.retryAfter = string(value)
			}
		}
		return true
	}); err != nil {
		return head{}, err
	}
	h.frame()
	return h, nil
}

// frame decides how long the body is (RFC 9112, section 6.3), and whether anything can come after it. A response whose
// framing contradicts itself is read as net/http does, but nothing after it is believed.
func (h *head) frame() {
	switch {
	case h.status < 200 || h.status == 204 || h.status == 304:
		h.last = h.last || h.status == 101 || h.chunked || h.length > 0 && h.status != 304
		h.length, h.chunked = 0, false
	case h.chunked:
		h.last = h.last || h.length >= 0
		h.length = -1
	case h.length < 0:
		h.last = true
	}
}

// trailer reads the fields after a chunked body, up to the empty line. They mean nothing here.
func (r *headReader) trailer() error {
	return r.fields(func(field, []byte) bool { return true })
}

// line reads the next line, without its end. Of one that is longer than the buffer it is the beginning, and rest is true: the
// rest has to be discarded. What it returns is good until the next read.
func (r *headReader) line() (text []byte, rest bool, err error) {
	text, err = r.in.ReadSlice('\n')
	r.left -= len(text)
	switch {
	case r.left < 0:
		return nil, false, errLarge
	case err == bufio.ErrBufferFull:
		if text[len(text)-1] == '\r' && r.in.UnreadByte() == nil { // it may be that of the end
			r.left++
			text = text[:len(text)-1]
		}
		return text, true, nil
	case err == io.EOF:
		return nil, false, io.ErrUnexpectedEOF
	case err != nil:
		return nil, false, err
	}
	return withoutEnd(text), false, nil
}

func withoutEnd(text []byte) []byte {
	text = text[:len(text)-1]
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	}
	return text
}

func (r *headReader) discard(rest bool) error {
	for rest {
		var err error
		if _, rest, err = r.line(); err != nil {
			return err
		}
	}
	return nil
}

// field is a header field that matters.
type field uint8

const (
	otherField field = iota
	lengthField
	encodingField
	connectionField
	retryField
)

func fieldOf(name []byte) field {
	switch {
	case len(name) == 14 && equalFold(name, "content-length"):
		return lengthField
	case len(name) == 17 && equalFold(name, "transfer-encoding"):
		return encodingField
	case len(name) == 10 && equalFold(name, "connection"):
		return connectionField
	case len(name) == 11 && equalFold(name, "retry-after"):
		return retryField
	}
	return otherField
}

// fields reads fields up to the empty line, and hands those that matter to take, which refuses with false.
func (r *headReader) fields(take func(field, []byte) bool) error {
	last := otherField
	for first := true; ; first = false {
		text, rest, err := r.line()
		if err != nil {
			return err
		}
		if len(text) == 0 {
			return nil
		}
		if text[0] == ' ' || text[0] == '\t' {
			// The line before goes on (RFC 9112, section 5.2), which nobody does any more to those that matter.
			if first || last != otherField || !validValue(text) {
				return errHead
			}
		} else if last, err = r.field(text, rest, take); err != nil {
			return err
		}
		for rest {
			if text, rest, err = r.line(); err != nil {
				return err
			}
			if !validValue(text) {
				return errHead
			}
		}
	}
}

func (r *headReader) field(text []byte, rest bool, take func(field, []byte) bool) (field, error) {
	name, value, found := bytes.Cut(text, []byte{':'})
	if !found || !validValue(value) {
		return otherField, errHead
	}
	spaced, ok := validName(name)
	f := fieldOf(name)
	if !ok || spaced && fieldOf(bytes.Trim(name, " ")) != otherField || rest && f != otherField {
		return otherField, errHead
	}
	if f != otherField && !take(f, bytes.Trim(value, " \t")) {
		return otherField, errHead
	}
	return f, nil
}

// parseStatusLine reads the line of RFC 9112, section 4, of HTTP/1.0 or 1.1.
func parseStatusLine(text []byte) (minor, status int, ok bool) {
	const version = "HTTP/1."
	if len(text) < len(version)+5 || string(text[:len(version)]) != version || text[len(version)+1] != ' ' {
		return 0, 0, false
	}
	switch text[len(version)] {
	case '0':
	case '1':
		minor = 1
	default:
		return 0, 0, false
	}
	code := bytes.TrimLeft(text[len(version)+2:], " ")
	if len(code) < 3 || len(code) > 3 && code[3] != ' ' {
		return 0, 0, false
	}
	for _, c := range code[:3] {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		status = 10*status + int(c-'0')
	}
	return minor, status, status >= 100
}

// parseLength takes decimal digits alone. Eighteen of them do not overflow.
func parseLength(value []byte) (n int64, ok bool) {
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, len(value) > 0 && len(value) <= 18
}

// hasToken looks for a token in a list (RFC 9110, section 5.6.1).
func hasToken(list []byte, token string) bool {
	for len(list) > 0 {
		var one []byte
		one, list, _ = bytes.Cut(list, []byte{','})
		if equalFold(bytes.Trim(one, " \t"), token) {
			return true
		}
	}
	return false
}

// equalFold compares with lower-case ASCII.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// validName is whether the name is a token (RFC 9110, section 5.6.2), save for spaces, which some servers put in.
func validName(name []byte) (spaced, ok bool) {
	for _, c := range name {
		switch {
		case httpguts.IsTokenRune(rune(c)):
		case c == ' ':
			spaced = true
		default:
			return false, false
		}
	}
	return spaced, len(name) > 0
}

// validValue is whether there is no control character but tabs.
func validValue(value []byte) bool {
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
