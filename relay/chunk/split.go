package chunk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrSplit is the answer to a body that can't be split as asked.
var ErrSplit = errors.New("cannot split")

// Options say how a body is split.
type Options struct {
	// Set is the id of the set: the delivery's.
	Set string
	// MaxBytes bounds each chunk's body; at least MinBytes.
	MaxBytes int
	// Array names the array to page over, as a JSON Pointer (/data/contacts) or by
	// dotted names (data.contacts). Where it is empty, or the body has no such
	// array, the largest array that is reached through objects alone is taken.
	Array string
	// Envelope says that the body is an object of which the sender owns the members:
	// each page then ends in a member "chunk" that holds the header's facts.
	Envelope bool
}

// Set is a body that was split. It refers to the body, which must not change
// while the set is used; chunks are made when asked for.
type Set struct {
	doc      []byte
	header   Header // of the first chunk
	envelope bool
	// cuts are where chunks begin and, last, where the last one ends. A page's cut
	// is at its first element; the comma before the next cut belongs to neither.
	cuts       []int
	open, last int // of pages: before the first element, after the last
}

// Split splits a body. doc is sent as it is where it is no longer than MaxBytes:
// then there is no call for Split.
//
// It is paged where it is valid JSON with an array (see Options.Array) of two elements
// or more, no whitespace around them, and where each element fits on a page with
// everything outside the array; elements keep their order. Otherwise it is cut into
// parts. In an envelope that has a member "chunk" already, there is no place for the
// facts: it is cut into parts too.
func Split(doc []byte, opt Options) (*Set, error) {
	switch {
	case len(doc) == 0:
		return nil, fmt.Errorf("%w: the body is empty", ErrSplit)
	case opt.MaxBytes < MinBytes:
		return nil, fmt.Errorf("%w: chunks of less than %d bytes", ErrSplit, MinBytes)
	case !validSet(opt.Set):
		return nil, fmt.Errorf("%w: the set's id must be 1 to %d of A-Za-z0-9_-", ErrSplit, MaxSetBytes)
	}
	s := &Set{doc: doc, envelope: opt.Envelope}
	s.header = Header{Index: 1, Set: opt.Set, Digest: sha256.Sum256(doc)}
	if s.page(opt) {
		return s, nil
	}
	if err := s.part(opt.MaxBytes); err != nil {
		return nil, err
	}
	return s, nil
}

// part cuts the body between characters.
func (s *Set) part(limit int) error {
	if (len(s.doc)-1)/limit >= MaxTotal {
		return fmt.Errorf("%w: more than %d chunks of %d bytes", ErrSplit, MaxTotal, limit)
	}
	for at := 0; at < len(s.doc); {
		s.cuts = append(s.cuts, at)
		at = partEnd(s.doc, at, limit)
	}
	s.cuts = append(s.cuts, len(s.doc))
	s.header.Total = len(s.cuts) - 1
	if s.header.Total > MaxTotal {
		return fmt.Errorf("%w: more than %d chunks of %d bytes", ErrSplit, MaxTotal, limit)
	}
	return nil
}

func partEnd(doc []byte, at, limit int) int {
	end := at + limit
	if end >= len(doc) {
		return len(doc)
	}
	for back := 0; back < utf8.UTFMax && end-back > at; back++ {
		if utf8.RuneStart(doc[end-back]) {
			return end - back
		}
	}
	return end // not UTF-8; any cut will do
}

// page tries to page the body over an array, and reports whether it could.
func (s *Set) page(opt Options) bool {
	a, ok := choose(s.doc, opt.Array)
	if !ok {
		return false
	}
	s.header.Paged, s.header.Array = true, a.pointer
	s.open, s.last = a.start+1, a.end-1
	longest := s.header
	longest.Index, longest.Total = MaxTotal, MaxTotal
	room := opt.MaxBytes - s.open - (len(s.doc) - s.last)
	if opt.Envelope {
		if hasChunkMember(s.doc) {
			room = -1
		}
		// The member is written with the numbers of the page; leave room for the longest.
		room -= len(appendMember(nil, longest))
	}
	if longest.Check() == nil && room > 0 && s.fill(room) {
		s.header.Total = len(s.cuts) - 1
		return true
	}
	s.header.Paged, s.header.Array, s.cuts = false, "", nil
	return false
}

// fill puts as many elements on each page as there is room for.
func (s *Set) fill(room int) bool {
	dec := jsontext.NewDecoder(bytes.NewBuffer(s.doc[s.open-1 : s.last+1]))
	if _, err := dec.ReadToken(); err != nil {
		return false
	}
	first, end, elements := s.open, s.open-1, 0
	s.cuts = append(s.cuts, first)
	for dec.PeekKind() != ']' {
		raw, err := dec.ReadValue()
		if err != nil {
			return false
		}
		stop := s.open - 1 + int(dec.InputOffset())
		start := stop - len(raw)
		// Elements must touch their comma, else joining them would not restore the whitespace.
		if start != end+1 || len(raw) > room {
			return false
		}
		if stop-first > room {
			if len(s.cuts) == MaxTotal {
				return false
			}
			first = start
			s.cuts = append(s.cuts, first)
		}
		end = stop
		elements++
	}
	// The last page's cut is where a comma would end.
	s.cuts = append(s.cuts, s.last+1)
	return end == s.last && elements > 1
}

// Total is the number of chunks.
func (s *Set) Total() int { return s.header.Total }

// Digest is the SHA-256 of the whole body.
func (s *Set) Digest() [sha256.Size]byte { return s.header.Digest }

// Paged reports whether the chunks are pages. Parts hold no facts in their body,
// also in an envelope: only the header and the chunk's id say them.
func (s *Set) Paged() bool { return s.header.Paged }

// ContentType is the media type of chunk i.
func (s *Set) ContentType(int) string {
	if s.Paged() {
		return PageType
	}
	return PartType
}

// Header is that of chunk i, from 1 to Total.
func (s *Set) Header(i int) Header {
	h := s.header
	h.Index = i
	return h
}

// ID is the id of chunk i, from 1 to Total.
func (s *Set) ID(i int) string { return ChunkID(s.header.Set, i, s.header.Total, s.header.Digest) }

// Chunk is the body of chunk i, from 1 to Total. It may be a slice of the whole
// body: it is for reading only.
func (s *Set) Chunk(i int) []byte {
	if !s.Paged() {
		return s.doc[s.cuts[i-1]:s.cuts[i]:s.cuts[i]]
	}
	from, to := s.cuts[i-1], s.cuts[i]-1
	size := s.open + to - from + len(s.doc) - s.last
	var member []byte
	if s.envelope {
		member = appendMember(nil, s.Header(i))
	}
	b := make([]byte, 0, size+len(member))
	b = append(b, s.doc[:s.open]...)
	b = append(b, s.doc[from:to]...)
	if !s.envelope {
		return append(b, s.doc[s.last:]...)
	}
	b = append(b, s.doc[s.last:len(s.doc)-1]...)
	b = append(b, member...)
	return append(b, '}')
}

// appendMember writes the header's facts as the last member of an envelope.
func appendMember(b []byte, h Header) []byte {
	b = append(b, `,"chunk":{"set":"`...)
	b = append(b, h.Set...)
	b = append(b, `","index":`...)
	b = strconv.AppendInt(b, int64(h.Index), 10)
	b = append(b, `,"total":`...)
	b = strconv.AppendInt(b, int64(h.Total), 10)
	b = append(b, `,"digest":"`...)
	b = appendDigest(b, h.Digest)
	b = append(b, `","array":`...)
	b, _ = jsontext.AppendQuote(b, h.Array) // fails for invalid UTF-8 only, which Check refuses
	return append(b, '}')
}

// array is where one stands in a body: doc[start] is [ and doc[end-1] is ].
type array struct {
	start, end int
	pointer    string
}

// choose finds the array to page over. The body must be valid JSON to its end.
func choose(doc []byte, named string) (array, bool) {
	best, ok := largest(doc)
	if !ok {
		return array{}, false
	}
	if named != "" {
		if pointer, valid := asPointer(named); valid {
			if a, found := find(doc, pointer); found {
				return a, true
			}
		}
	}
	best.pointer, ok = pointerTo(doc, best.end)
	return best, ok
}

// asPointer reads a JSON Pointer, or dotted names as one.
func asPointer(s string) (string, bool) {
	if s[0] == '/' {
		return s, validPointer(s)
	}
	var b strings.Builder
	for name := range strings.SplitSeq(s, ".") {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return b.String(), utf8.ValidString(s)
}

// largest finds the array with the most bytes among those that no other array
// holds. No two of them nest, so outermost and largest don't compete.
func largest(doc []byte) (best array, found bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(doc))
	err := outside(dec, func(start, end int) bool {
		if end-start > best.end-best.start {
			best, found = array{start: start, end: end}, true
		}
		return true
	})
	return best, found && err == io.EOF
}

// pointerTo names the array that ends at end.
func pointerTo(doc []byte, end int) (pointer string, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(doc))
	_ = outside(dec, func(_, e int) bool {
		if e == end {
			pointer, ok = string(dec.StackPointer()), true
		}
		return e != end
	})
	return pointer, ok
}

// outside reads on and calls visit after each array that stands in no other one,
// until it says stop. The error is never nil: io.EOF at the end of valid JSON.
func outside(dec *jsontext.Decoder, visit func(start, end int) bool) error {
	values := 0
	for {
		if dec.StackDepth() == 0 {
			if values++; values > 2 {
				return errors.New("more than one value")
			}
		}
		switch dec.PeekKind() {
		case '{', '}':
			if _, err := dec.ReadToken(); err != nil {
				return err
			}
		case '[':
			raw, err := dec.ReadValue()
			if err != nil {
				return err
			}
			end := int(dec.InputOffset())
			if !visit(end-len(raw), end) {
				return errStopped
			}
		default:
			if _, err := dec.ReadValue(); err != nil {
				return err
			}
		}
	}
}

var errStopped = errors.New("stopped")

// find locates the array at a pointer that leads through objects alone, in a body
// that may be anything.
func find(doc []byte, pointer string) (array, bool) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(doc))
	if pointer != "" {
		for token := range strings.SplitSeq(pointer[1:], "/") {
			if !enter(dec, strings.NewReplacer("~1", "/", "~0", "~").Replace(token)) {
				return array{}, false
			}
		}
	}
	if dec.PeekKind() != '[' {
		return array{}, false
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return array{}, false
	}
	end := int(dec.InputOffset())
	return array{start: end - len(raw), end: end, pointer: pointer}, true
}

// enter steps into an object up to the member's value.
func enter(dec *jsontext.Decoder, name string) bool {
	if dec.PeekKind() != '{' {
		return false
	}
	if _, err := dec.ReadToken(); err != nil {
		return false
	}
	for dec.PeekKind() == '"' {
		key, err := dec.ReadToken()
		if err != nil {
			return false
		}
		if key.String() == name {
			return true
		}
		if _, err := dec.ReadValue(); err != nil {
			return false
		}
	}
	return false
}

// hasChunkMember reports whether an envelope can't take another member "chunk", or
// is no object that closes in its last byte.
func hasChunkMember(doc []byte) bool {
	if doc[0] != '{' || doc[len(doc)-1] != '}' {
		return true
	}
	return enter(jsontext.NewDecoder(bytes.NewBuffer(doc)), "chunk")
}
