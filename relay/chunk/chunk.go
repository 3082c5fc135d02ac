// Package chunk splits a body that is too large for one push and puts it together
// again. Senders and receivers share it.
//
// It promises that what Join or a Joiner returns is, byte for byte, what was
// split: the digest of the whole is checked before anything is returned. A JSON
// body is split into pages where it can be, each a valid JSON document with a run
// of one array's elements and all other fields repeated; other bodies into parts,
// slices cut between UTF-8 characters.
//
// It trusts no chunk it is given: headers are strict and bounded, and a Joiner
// holds no more than it was allowed. It doesn't authenticate: a receiver verifies
// each chunk's signature first.
package chunk

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of the framing.
const (
	MaxTotal       = 65536 // chunks of a set
	MaxHeaderBytes = 1024
	MaxSetBytes    = 128 // bytes of a set's id, each of A-Za-z0-9_-
	MinBytes       = utf8.UTFMax
)

// HeaderName is the field that carries a Header.
const HeaderName = "sealpost-chunk"

// Media types of chunks.
const (
	PageType = "application/json"
	PartType = "application/octet-stream"
)

// ErrHeader is the answer to a chunk header or id that isn't exactly as this
// package writes it.
var ErrHeader = errors.New("invalid chunk header")

// Header says which chunk of which set a body is:
//
//	1/5; set="dlv_1"; digest=sha-256=:<base64>:; array="/data/contacts"
//
// The digest is of the whole body before it was split (RFC 9530's form of it).
// array is there for pages only: the JSON Pointer (RFC 6901) of the array that was
// split, percent-encoded but for letters, digits and -._~/ as section 6 of
// that RFC encodes a fragment.
type Header struct {
	Index  int // from 1
	Total  int // to MaxTotal
	Set    string
	Digest [sha256.Size]byte
	Paged  bool   // a page, not a part
	Array  string // of a page: the pointer, decoded; "" is the whole document
}

// Check reports whether the header can be written.
func (h Header) Check() error {
	switch {
	case h.Total < 1 || h.Total > MaxTotal:
		return fmt.Errorf("%w: total must be 1 to %d", ErrHeader, MaxTotal)
	case h.Index < 1 || h.Index > h.Total:
		return fmt.Errorf("%w: index must be 1 to total", ErrHeader)
	case !validSet(h.Set):
		return fmt.Errorf("%w: set must be 1 to %d of A-Za-z0-9_-", ErrHeader, MaxSetBytes)
	case !h.Paged && h.Array != "":
		return fmt.Errorf("%w: a part has no array", ErrHeader)
	case !validPointer(h.Array):
		return fmt.Errorf("%w: array must be a JSON pointer", ErrHeader)
	case len(h.String()) > MaxHeaderBytes:
		return fmt.Errorf("%w: longer than %d bytes", ErrHeader, MaxHeaderBytes)
	}
	return nil
}

// String writes the header's value.
func (h Header) String() string {
	b := make([]byte, 0, 160)
	b = strconv.AppendInt(b, int64(h.Index), 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(h.Total), 10)
	b = append(b, `; set="`...)
	b = append(b, h.Set...)
	b = append(b, `"; digest=`...)
	b = appendDigest(b, h.Digest)
	if h.Paged {
		b = append(b, `; array="`...)
		b = appendFragment(b, h.Array)
		b = append(b, '"')
	}
	return string(b)
}

const digestPrefix = "sha-256=:"

func appendDigest(b []byte, digest [sha256.Size]byte) []byte {
	b = append(b, digestPrefix...)
	b = base64.StdEncoding.AppendEncode(b, digest[:])
	return append(b, ':')
}

// ParseHeader reads a header's value. It accepts exactly what String writes.
func ParseHeader(s string) (Header, error) {
	if len(s) > MaxHeaderBytes {
		return Header{}, fmt.Errorf("%w: longer than %d bytes", ErrHeader, MaxHeaderBytes)
	}
	h, ok := scanHeader(s)
	if !ok {
		return Header{}, fmt.Errorf(`%w: want <index>/<total>; set="..."; digest=sha-256=:...:`, ErrHeader)
	}
	if err := h.Check(); err != nil {
		return Header{}, err
	}
	// One set of facts has one spelling, so that no two readers of a header differ.
	if h.String() != s {
		return Header{}, fmt.Errorf("%w: not in its canonical form", ErrHeader)
	}
	return h, nil
}

func scanHeader(s string) (h Header, ok bool) {
	place, s, ok1 := strings.Cut(s, `; set="`)
	set, s, ok2 := strings.Cut(s, `"; digest=`+digestPrefix)
	digest, s, ok3 := strings.Cut(s, ":")
	index, total, ok4 := strings.Cut(place, "/")
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return Header{}, false
	}
	h.Set = set
	if h.Index, ok = number(index); !ok {
		return Header{}, false
	}
	if h.Total, ok = number(total); !ok {
		return Header{}, false
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(digest)
	if err != nil || len(sum) != sha256.Size {
		return Header{}, false
	}
	h.Digest = [sha256.Size]byte(sum)
	if s == "" {
		return h, true
	}
	quoted, found := strings.CutPrefix(s, `; array="`)
	quoted, closed := strings.CutSuffix(quoted, `"`)
	if !found || !closed {
		return Header{}, false
	}
	h.Paged = true
	h.Array, ok = decodeFragment(quoted)
	return h, ok
}

func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

func validSet(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '-' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= MaxSetBytes
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// validPointer checks the syntax of RFC 6901 section 3.
func validPointer(p string) bool {
	if p == "" {
		return true
	}
	if p[0] != '/' || !utf8.ValidString(p) {
		return false
	}
	for i := range len(p) {
		if p[i] == '~' && (i+1 == len(p) || p[i+1] != '0' && p[i+1] != '1') {
			return false
		}
	}
	return true
}

const upperHex = "0123456789ABCDEF"

func appendFragment(b []byte, pointer string) []byte {
	for i := range len(pointer) {
		if c := pointer[i]; alphanumeric(c) || strings.IndexByte("-._~/", c) >= 0 {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

func decodeFragment(s string) (string, bool) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b = append(b, c[0])
		i += 2
	}
	return string(b), true
}

// idDigits is how many hexadecimal digits of the digest a chunk's id carries.
const idDigits = 16

// ChunkID names one chunk: <delivery>_<index>_<total>_<first 16 hex digits of the
// digest>, so that a signature over the id covers these facts. It holds no dot.
func ChunkID(deliveryID string, index, total int, digest [sha256.Size]byte) string {
	return deliveryID + "_" + strconv.Itoa(index) + "_" + strconv.Itoa(total) + "_" + hex.EncodeToString(digest[:idDigits/2])
}

// ID holds what a chunk's id says.
type ID struct {
	Delivery     string
	Index, Total int
	Digest       string // the first 16 hexadecimal digits, lower case
}

// ParseChunkID reads what ChunkID wrote, and nothing else.
func ParseChunkID(s string) (ID, error) {
	var fields [3]string
	rest := s
	for i := range fields {
		at := strings.LastIndexByte(rest, '_')
		if at < 0 {
			return ID{}, fmt.Errorf("%w: a chunk id is <delivery>_<index>_<total>_<digest>", ErrHeader)
		}
		fields[i], rest = rest[at+1:], rest[:at]
	}
	total, ok1 := number(fields[1])
	index, ok2 := number(fields[2])
	prefix, err := hex.DecodeString(fields[0])
	if !ok1 || !ok2 || err != nil || len(prefix) != idDigits/2 {
		return ID{}, fmt.Errorf("%w: a chunk id is <delivery>_<index>_<total>_<digest>", ErrHeader)
	}
	h := Header{Index: index, Total: total, Set: rest}
	copy(h.Digest[:], prefix)
	if err := h.Check(); err != nil {
		return ID{}, err
	}
	if ChunkID(rest, index, total, h.Digest) != s {
		return ID{}, fmt.Errorf("%w: not in its canonical form", ErrHeader)
	}
	return ID{Delivery: rest, Index: index, Total: total, Digest: fields[0]}, nil
}

// Names reports whether the id is that of the chunk the header describes. A
// receiver whose scheme signs the id but not the header must ask.
func (id ID) Names(h Header) bool {
	return id == ID{Delivery: h.Set, Index: h.Index, Total: h.Total, Digest: hex.EncodeToString(h.Digest[:idDigits/2])}
}
