package redact

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how deeply objects and arrays may nest in a document.
const MaxDepth = 128

// maxPointerBytes bounds the place named in an error: keys are the sender's.
const maxPointerBytes = 256

// The rules a document can break.
var (
	ErrSyntax       = errors.New("not valid JSON")
	ErrDuplicateKey = errors.New("duplicate key")
	ErrInvalidUTF8  = errors.New("invalid UTF-8")
	ErrTooDeep      = fmt.Errorf("nested deeper than %d", MaxDepth)
	ErrTrailing     = errors.New("more than one JSON value")
	// ErrTooComplex is the answer to a document and a policy that together would
	// take far more work than their size justifies.
	ErrTooComplex = errors.New("policy takes too much work on this document")
)

// DocumentError says which rule a document breaks and where. It holds no values
// of the document; its pointer holds keys, shortened.
type DocumentError struct {
	Rule    error            // one of the Err variables
	Offset  int64            // byte in the document, from 0: at or just before the fault
	Pointer jsontext.Pointer // RFC 6901, the innermost value that could be named
}

func (e *DocumentError) Error() string {
	return fmt.Sprintf("%v at byte %d, in %q", e.Rule, e.Offset, string(e.Pointer))
}

// Unwrap gives the rule, for errors.Is.
func (e *DocumentError) Unwrap() error { return e.Rule }

// reader is a decoder that reads a caller's bytes without copying them.
type reader struct {
	src bytes.Buffer
	dec *jsontext.Decoder
}

func (r *reader) open(doc []byte) {
	r.src = *bytes.NewBuffer(doc)
	r.dec.Reset(&r.src)
}

// close lets go of the caller's bytes.
func (r *reader) close() { r.open(nil) }

// Validator checks documents. Its zero value is ready; it keeps decoders for reuse
// and is safe for concurrent use.
type Validator struct{ readers sync.Pool }

// Validate checks that doc is exactly one JSON value (RFC 8259) in valid UTF-8, that
// no object has a key twice (compared decoded), that strings hold no lone surrogates,
// and that it nests no deeper than MaxDepth. The error is a *DocumentError.
func (v *Validator) Validate(doc []byte) error {
	r, _ := v.readers.Get().(*reader)
	if r == nil {
		r = new(reader)
		r.dec = jsontext.NewDecoder(&r.src)
	}
	defer func() { r.close(); v.readers.Put(r) }()
	r.open(doc)
	return validate(r.dec, doc)
}

// Validate is Validator.Validate for callers that check now and then.
func Validate(doc []byte) error { return new(Validator).Validate(doc) }

func validate(dec *jsontext.Decoder, doc []byte) error {
	raw, err := dec.ReadValue()
	if err != nil {
		return documentError(dec, doc, err)
	}
	if !shallow(raw, 0) {
		return tooDeep(doc)
	}
	return onlyValue(dec, doc)
}

// onlyValue checks that nothing but whitespace follows the value just read.
func onlyValue(dec *jsontext.Decoder, doc []byte) error {
	end := dec.InputOffset()
	rest := doc[end:]
	if space := len(rest) - len(bytes.TrimLeft(rest, " \t\r\n")); space < len(rest) {
		return &DocumentError{Rule: ErrTrailing, Offset: end + int64(space)}
	}
	return nil
}

// shallow reports whether a valid JSON value that stands inside `depth` objects
// and arrays keeps to MaxDepth.
func shallow(raw []byte, depth int) bool {
	if len(raw) < 2*(MaxDepth-depth) {
		return true // too short to open and close that many
	}
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = stringEnd(raw, i) - 1
		case '{', '[':
			if depth++; depth > MaxDepth {
				return false
			}
		case '}', ']':
			depth--
		}
	}
	return true
}

// stringEnd gives the index after the closing quote of the string that starts at
// i, in valid JSON.
func stringEnd(raw []byte, i int) int {
	for i++; ; i++ {
		n := bytes.IndexByte(raw[i:], '"')
		i += n
		slashes := 0
		for raw[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// tooDeep finds the place where a document that jsontext accepts passes MaxDepth.
func tooDeep(doc []byte) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(doc))
	for {
		if _, err := dec.ReadToken(); err != nil {
			return documentError(dec, doc, err)
		}
		if dec.StackDepth() > MaxDepth {
			return &DocumentError{Rule: ErrTooDeep, Offset: dec.InputOffset() - 1, Pointer: shorten(dec.StackPointer())}
		}
	}
}

// documentError turns the decoder's error into ours, which quotes nothing.
func documentError(dec *jsontext.Decoder, doc []byte, err error) error {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		// io.EOF: nothing there, or whitespace only.
		return &DocumentError{Rule: ErrSyntax, Offset: dec.InputOffset(), Pointer: shorten(dec.StackPointer())}
	}
	e := &DocumentError{Rule: ErrSyntax, Offset: syntax.ByteOffset, Pointer: shorten(syntax.JSONPointer)}
	switch {
	case errors.Is(syntax.Err, jsontext.ErrDuplicateName):
		e.Rule = ErrDuplicateKey
	case invalidAt(doc, syntax.ByteOffset):
		e.Rule = ErrInvalidUTF8
	}
	return e
}

func invalidAt(doc []byte, at int64) bool {
	if at < 0 || at >= int64(len(doc)) {
		return false
	}
	r, n := utf8.DecodeRune(doc[at:])
	return r == utf8.RuneError && n == 1
}

func shorten(p jsontext.Pointer) jsontext.Pointer {
	if len(p) <= maxPointerBytes {
		return p
	}
	cut := maxPointerBytes
	for !utf8.RuneStart(p[cut]) {
		cut--
	}
	return p[:cut] + "..."
}
