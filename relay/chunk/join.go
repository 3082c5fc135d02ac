package chunk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"github.com/go-json-experiment/json/jsontext"
)

// Why chunks don't make a whole; match with errors.Is.
var (
	ErrMixed     = errors.New("chunk of another set")
	ErrDuplicate = errors.New("chunk already there")
	ErrConflict  = errors.New("chunk contradicts another of its set")
	ErrMissing   = errors.New("chunk missing")
	ErrPage      = errors.New("not a page of the array its header names")
	ErrMember    = errors.New("page without the envelope's chunk member")
	ErrDigest    = errors.New("the whole doesn't have the set's digest")
	ErrTooLarge  = errors.New("set larger than allowed")
	ErrComplete  = errors.New("set already put together")
)

// Chunk is one chunk as it was received.
type Chunk struct {
	Header Header
	Body   []byte
}

// Join puts a set together: all its chunks, each once, in any order.
func Join(chunks []Chunk) ([]byte, error) {
	// The caller holds the bodies already: they are bound enough.
	j := NewJoiner(JoinOptions{MaxBytes: math.MaxInt, MaxTotal: MaxTotal})
	for _, c := range chunks {
		done, whole, err := j.Add(c.Header, c.Body)
		if err != nil {
			return nil, err
		}
		if done {
			if len(chunks) > c.Header.Total {
				return nil, ErrDuplicate
			}
			return whole, nil
		}
	}
	return nil, ErrMissing
}

// JoinOptions bound a Joiner.
type JoinOptions struct {
	MaxBytes int // of the whole, and of what the Joiner holds
	MaxTotal int // chunks of a set, to MaxTotal; each costs some 50 bytes beside its body
	// RequireMember refuses a set unless each chunk is a page whose body says the
	// header's facts: for schemes that sign the body but neither header nor id.
	RequireMember bool
}

// Joiner takes the chunks of one set in any order. It is for one goroutine.
type Joiner struct {
	opt    JoinOptions
	first  Header         // of the chunk that came first
	pieces map[int][]byte // elements of pages, parts as they are
	held   int
	// of pages: what stands before and after the elements, and whether the envelope
	// had its member, all as in the chunk that came first.
	before, after []byte
	member        bool
	failed        error
}

// NewJoiner makes a Joiner for one set.
func NewJoiner(opt JoinOptions) *Joiner {
	return &Joiner{opt: opt, pieces: make(map[int][]byte)}
}

// Add takes a chunk, and copies what it keeps of it. With the last one it returns
// done and the whole body, verified.
//
// ErrDuplicate means that the same chunk with the same bytes is there: a receiver
// that gets one twice may answer as it did the first time. After ErrDigest the set
// is lost. Other errors leave the Joiner as it was.
func (j *Joiner) Add(h Header, body []byte) (done bool, whole []byte, err error) {
	if j.failed != nil {
		return false, nil, j.failed
	}
	if err := j.admit(h); err != nil {
		return false, nil, err
	}
	piece, err := j.take(h, body)
	if err != nil {
		return false, nil, err
	}
	if len(j.pieces) == 0 {
		j.start(h, piece)
	}
	if have, ok := j.pieces[h.Index]; ok {
		if !bytes.Equal(have, piece.content) {
			return false, nil, ErrConflict
		}
		return false, nil, ErrDuplicate
	}
	j.pieces[h.Index] = bytes.Clone(piece.content)
	j.held += len(piece.content)
	if len(j.pieces) < h.Total {
		return false, nil, nil
	}
	whole, err = j.whole()
	j.pieces, j.before, j.after = nil, nil, nil
	j.failed = ErrComplete
	if err != nil {
		j.failed = err
		return false, nil, err
	}
	return true, whole, nil
}

// admit checks the header by itself and against the set.
func (j *Joiner) admit(h Header) error {
	if err := h.Check(); err != nil {
		return err
	}
	if h.Total > j.opt.MaxTotal {
		return fmt.Errorf("%w: %d chunks", ErrTooLarge, h.Total)
	}
	if len(j.pieces) == 0 {
		return nil
	}
	same := h
	same.Index = j.first.Index
	if same != j.first {
		return ErrMixed
	}
	return nil
}

// piece is what one chunk adds to the whole.
type piece struct {
	before, content, after []byte
	member                 bool
}

// take takes a chunk's body apart, and checks it against what is there.
func (j *Joiner) take(h Header, body []byte) (piece, error) {
	p := piece{content: body}
	if h.Paged {
		var err error
		if p, err = open(h, body); err != nil {
			return piece{}, err
		}
	}
	if len(p.content) == 0 {
		return piece{}, fmt.Errorf("%w: it is empty", ErrPage)
	}
	if j.opt.RequireMember && !p.member {
		return piece{}, ErrMember
	}
	frame := len(p.before) + len(p.after)
	if len(j.pieces) > 0 && (p.member != j.member || !bytes.Equal(p.before, j.before) || !bytes.Equal(p.after, j.after)) {
		return piece{}, ErrConflict
	}
	commas := 0
	if h.Paged {
		commas = h.Total - 1
	}
	if _, again := j.pieces[h.Index]; !again && frame+j.held+len(p.content)+commas > j.opt.MaxBytes {
		return piece{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, j.opt.MaxBytes)
	}
	return p, nil
}

func (j *Joiner) start(h Header, p piece) {
	j.first = h
	j.before, j.after, j.member = bytes.Clone(p.before), bytes.Clone(p.after), p.member
}

// open finds the elements of a page. The member of an envelope is known by its exact
// bytes: a member "chunk" that says anything else than the header is taken for the
// body's own. It then differs from page to page or spoils the digest, and the set is
// refused, unless it was the body's own.
func open(h Header, body []byte) (piece, error) {
	if !jsontext.Value(body).IsValid() {
		return piece{}, fmt.Errorf("%w: not valid JSON", ErrPage)
	}
	var p piece
	if rest, ok := bytes.CutSuffix(body, append(appendMember(nil, h), '}')); ok {
		p.member = true
		body = append(rest[:len(rest):len(rest)], '}')
	}
	a, ok := find(body, h.Array)
	if !ok {
		return piece{}, ErrPage
	}
	p.before, p.content, p.after = body[:a.start+1], body[a.start+1:a.end-1], body[a.end-1:]
	return p, nil
}

func (j *Joiner) whole() ([]byte, error) {
	size := len(j.before) + j.held + len(j.after)
	if j.first.Paged {
		size += j.first.Total - 1
	}
	b := make([]byte, 0, size)
	b = append(b, j.before...)
	for i := 1; i <= j.first.Total; i++ {
		if j.first.Paged && i > 1 {
			b = append(b, ',')
		}
		b = append(b, j.pieces[i]...)
	}
	b = append(b, j.after...)
	if sha256.Sum256(b) != j.first.Digest {
		return nil, ErrDigest
	}
	return b, nil
}
