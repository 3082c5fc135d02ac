package redact

import (
	"bytes"
	"encoding/hex"
	"errors"
	"hash"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Stats counts what one Apply did.
type Stats struct {
	// Dropped counts values taken out, each once with all it held, whether Drop
	// named them or Allow did not.
	Dropped       int
	Masked        int // scalars
	Pseudonymized int // scalars
}

// pseudonymPrefix marks a pseudonym, and pseudonymDomain keeps the digests apart
// from anything else made with the tenant's key.
const (
	pseudonymPrefix = "psn_"
	pseudonymDomain = "sealpost pseudonym 1\x00"
	pseudonymBytes  = 16
)

// maxScratch is how much of a long string's buffers a walker keeps for reuse.
const maxScratch = 64 << 10

// hidden stands for a masked boolean or null.
const hidden = `"*****"`

// Visits of automaton states that a document may cost: far above what policies
// written by hand need (about one a key), far below what stops a relay.
const (
	freeVisits    = 1 << 16
	visitsPerByte = 16
)

// Apply appends the redacted document to dst, compact, and returns it; dst and
// doc must not overlap. On an error (a *DocumentError) it returns dst as it was:
// nothing of the document may leave.
//
// A document of which nothing leaves becomes {} or [], by what it was; a scalar becomes null.
func (g *Program) Apply(dst, doc []byte) ([]byte, Stats, error) {
	w := g.walkers.Get().(*walker)
	defer g.release(w)
	w.open(doc)
	w.nodes, w.doc, w.dst, w.stats = g.nodes, doc, dst, Stats{}
	w.visits = freeVisits + visitsPerByte*len(doc)
	w.set = w.set[:0]

	err := w.document(g.mode != AllowListed, g.identity)
	if err != nil {
		return dst, Stats{}, w.explain(err)
	}
	return w.dst, w.stats, nil
}

func (g *Program) release(w *walker) {
	w.close()
	w.doc, w.dst = nil, nil
	if cap(w.text)+cap(w.out) > maxScratch {
		w.text, w.out = nil, nil
	}
	g.walkers.Put(w)
}

// ApplySubject redacts the event's subject by the rules on $subject. In mode
// AllowListed it is kept only where Allow names it. Of an event without one there is nothing to redact.
func (g *Program) ApplySubject(subject string) (string, bool) {
	v := g.subject
	switch {
	case subject == "":
		return "", true
	case v.rules&ruleDrop != 0, g.mode == AllowListed && v.rules&ruleAllow == 0:
		return "", false
	case v.rules&rulePseudonym != 0:
		w := g.walkers.Get().(*walker)
		defer g.release(w)
		return string(w.pseudonym(nil, 's', []byte(subject))), true
	case v.rules&ruleMask != 0:
		return string(appendMasked(nil, []byte(subject), v.keep)), true
	}
	return subject, true
}

// walker is the state of one pass over one document.
type walker struct {
	reader
	nodes  []node
	doc    []byte
	dst    []byte
	stats  Stats
	mac    hash.Hash
	sum    []byte
	text   []byte // a decoded key or scalar
	out    []byte // a scalar's replacement
	visits int    // left

	// set is a stack of state sets; marks and round keep each free of doubles.
	set   []int32
	marks []uint32
	round uint32
}

// explain says what is wrong with the document. It judges the document anew, as
// Validate does, so that the answer doesn't depend on the policy.
func (w *walker) explain(err error) error {
	w.open(w.doc)
	if invalid := validate(w.dec, w.doc); invalid != nil {
		return invalid
	}
	var complex *DocumentError
	if errors.As(err, &complex) {
		return complex
	}
	return &DocumentError{Rule: ErrSyntax}
}

// states is one set of automaton states on walker.set, with what they say.
type states struct {
	lo, hi  int
	verdict verdict
	below   rules
}

// context is what the enclosing objects and arrays say of a value.
type context struct {
	allowed bool
	inherit rules // ruleMask (in full), rulePseudonym
	depth   int   // of enclosing objects and arrays
}

func (w *walker) document(open, identity bool) error {
	if identity {
		return w.copyDocument()
	}
	w.nextRound()
	w.enter(0)
	kind := w.dec.PeekKind()
	kept, err := w.value(w.sum1(0), context{allowed: open})
	if err != nil {
		return err
	}
	if !kept {
		w.dst = append(w.dst, empty(kind)...)
	}
	return onlyValue(w.dec, w.doc)
}

func (w *walker) copyDocument() error {
	if err := w.copyValue(0); err != nil {
		return err
	}
	return onlyValue(w.dec, w.doc)
}

func empty(k jsontext.Kind) string {
	switch k {
	case '{':
		return "{}"
	case '[':
		return "[]"
	}
	return "null"
}

// value redacts the next value of the document and reports whether it was kept.
func (w *walker) value(s states, c context) (bool, error) {
	c.allowed = c.allowed || s.verdict.rules&ruleAllow != 0
	if s.verdict.rules&ruleDrop != 0 || (!c.allowed && s.below&ruleAllow == 0) {
		return false, w.drop(c.depth)
	}
	changes := c.inherit | s.verdict.rules&ruleChanges
	switch w.dec.PeekKind() {
	case '{', '[':
		if c.allowed && changes == 0 && s.below&ruleChanges == 0 {
			return true, w.copyValue(c.depth)
		}
		c.inherit = changes
		return w.container(s, c)
	}
	if !c.allowed {
		return false, w.drop(c.depth)
	}
	if changes == 0 {
		return true, w.copyValue(c.depth)
	}
	v := s.verdict
	v.add(verdict{rules: c.inherit})
	return true, w.scalar(v)
}

// container redacts an object or array member by member. One that is only on the
// way to allowed fields and holds none leaves no trace.
func (w *walker) container(s states, c context) (bool, error) {
	open, err := w.dec.ReadToken()
	if err != nil {
		return false, err
	}
	if c.depth++; c.depth > MaxDepth {
		return false, ErrTooDeep
	}
	start, before := len(w.dst), w.stats.Dropped
	object := open.Kind() == '{'
	base := len(w.set)
	every, byName := w.defaults(s, object)
	w.dst = append(w.dst, byte(open.Kind()))
	kept := 0
	for i := 0; ; i++ {
		if k := w.dec.PeekKind(); k == '}' || k == ']' {
			break
		}
		mark := len(w.dst)
		if kept > 0 {
			w.dst = append(w.dst, ',')
		}
		child := every
		if object {
			child, err = w.key(s, every, byName)
		} else if byName {
			child = w.step(s, every, nil, i)
		}
		if err != nil {
			return false, err
		}
		if w.visits < 0 {
			return false, &DocumentError{Rule: ErrTooComplex, Offset: w.dec.InputOffset(), Pointer: shorten(w.dec.StackPointer())}
		}
		ok, err := w.value(child, c)
		if err != nil {
			return false, err
		}
		w.set = w.set[:every.hi]
		if ok {
			kept++
		} else {
			w.dst = w.dst[:mark]
		}
	}
	end, err := w.dec.ReadToken()
	if err != nil {
		return false, err
	}
	w.set = w.set[:base]
	if kept == 0 && !c.allowed {
		w.dst = w.dst[:start]
		if w.stats.Dropped == before {
			w.stats.Dropped++ // it was empty as it came
		}
		return false, nil
	}
	w.dst = append(w.dst, byte(end.Kind()))
	return true, nil
}

// key copies a member's name as it was sent and steps the states by what it means.
func (w *walker) key(s, every states, byName bool) (states, error) {
	raw, err := w.dec.ReadValue()
	if err != nil {
		return states{}, err
	}
	w.dst = append(append(w.dst, raw...), ':')
	if !byName {
		return every, nil
	}
	name := raw[1 : len(raw)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		if name, err = w.unquote(raw); err != nil {
			return states{}, err
		}
	}
	return w.step(s, every, name, 0), nil
}

func (w *walker) unquote(raw []byte) ([]byte, error) {
	var err error
	w.text, err = jsontext.AppendUnquote(w.text[:0], raw)
	return w.text, err
}

// nextRound begins a new set of states.
func (w *walker) nextRound() {
	if w.round++; w.round == 0 { // wrapped: marks of long ago would look new
		clear(w.marks)
		w.round = 1
	}
}

// enter adds a state, and the ** it leads to without a step.
func (w *walker) enter(n int32) {
	for {
		if w.marks[n] == w.round {
			return
		}
		w.marks[n] = w.round
		w.set = append(w.set, n)
		if n = w.nodes[n].deep; n == 0 {
			return
		}
	}
}

// sum1 sums up the set that begins at lo.
func (w *walker) sum1(lo int) states {
	s := states{lo: lo, hi: len(w.set)}
	for _, n := range w.set[lo:] {
		s.verdict.add(w.nodes[n].verdict)
		s.below |= w.nodes[n].below
	}
	w.visits -= s.hi - s.lo + 1
	return s
}

// defaults pushes the states of a member or element that no name and no index
// picks out, and reports whether any could be.
func (w *walker) defaults(s states, object bool) (every states, byName bool) {
	w.nextRound()
	lo := len(w.set)
	for i := s.lo; i < s.hi; i++ {
		id := w.set[i]
		n := &w.nodes[id]
		if n.loops {
			w.enter(id)
		}
		if n.any != 0 {
			w.enter(n.any)
		}
		if object {
			byName = byName || n.names != nil
			continue
		}
		if n.elem != 0 {
			w.enter(n.elem)
		}
		byName = byName || n.indexes != nil
	}
	return w.sum1(lo), byName
}

// step gives the states of the member called name, or of element i where name is nil.
func (w *walker) step(s, every states, name []byte, i int) states {
	lo := every.hi
	w.visits -= s.hi - s.lo
	for at := s.lo; at < s.hi; at++ {
		n := &w.nodes[w.set[at]]
		var next int32
		if name != nil {
			next = n.names[string(name)]
		} else {
			next = n.indexes[i]
		}
		if next == 0 {
			continue
		}
		if len(w.set) == lo {
			w.nextRound()
			for j := every.lo; j < every.hi; j++ {
				w.enter(w.set[j])
			}
		}
		w.enter(next)
	}
	if len(w.set) == lo {
		return every
	}
	return w.sum1(lo)
}

// drop reads the next value and lets it go.
func (w *walker) drop(depth int) error {
	raw, err := w.dec.ReadValue()
	if err != nil {
		return err
	}
	if !shallow(raw, depth) {
		return ErrTooDeep
	}
	w.stats.Dropped++
	return nil
}

// copyValue copies the next value, without its whitespace.
func (w *walker) copyValue(depth int) error {
	raw, err := w.dec.ReadValue()
	if err != nil {
		return err
	}
	if !shallow(raw, depth) {
		return ErrTooDeep
	}
	w.dst = appendCompact(w.dst, raw)
	return nil
}

// appendCompact appends valid JSON less its insignificant whitespace.
func appendCompact(dst, raw []byte) []byte {
	if c := raw[0]; c != '{' && c != '[' {
		return append(dst, raw...)
	}
	from := 0
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '"':
			i = stringEnd(raw, i)
		case ' ', '\t', '\r', '\n':
			dst = append(dst, raw[from:i]...)
			for raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\r' || raw[i] == '\n' {
				i++ // a closing bracket ends the run at the latest
			}
			from = i
		default:
			i++
		}
	}
	return append(dst, raw[from:]...)
}

// scalar masks or pseudonymises the next value.
func (w *walker) scalar(v verdict) error {
	raw, err := w.dec.ReadValue()
	if err != nil {
		return err
	}
	kind, text := raw.Kind(), []byte(raw)
	if kind == '"' {
		if text, err = w.unquote(raw); err != nil {
			return err
		}
	}
	if v.rules&rulePseudonym != 0 {
		if kind == 'n' {
			w.dst = append(w.dst, "null"...) // nothing there to tell apart
			return nil
		}
		w.stats.Pseudonymized++
		w.dst = append(w.dst, '"')
		w.dst = append(w.pseudonym(w.dst, tag(kind), text), '"')
		return nil
	}
	w.stats.Masked++
	if kind != '"' && kind != '0' {
		w.dst = append(w.dst, hidden...)
		return nil
	}
	w.out = appendMasked(w.out[:0], text, v.keep)
	w.dst, err = jsontext.AppendQuote(w.dst, w.out)
	return err
}

// tag keeps the pseudonyms of "1", 1 and true apart.
func tag(k jsontext.Kind) byte {
	switch k {
	case '"':
		return 's'
	case '0':
		return 'n'
	}
	return 'b'
}

// pseudonym appends psn_ and the first 128 bits of HMAC-SHA-256 over the kind and
// the decoded value, in hexadecimal.
func (w *walker) pseudonym(dst []byte, tag byte, text []byte) []byte {
	w.mac.Reset()
	w.sum = append(append(w.sum[:0], pseudonymDomain...), tag)
	w.mac.Write(w.sum)
	w.mac.Write(text)
	w.sum = w.mac.Sum(w.sum[:0])
	dst = append(dst, pseudonymPrefix...)
	return hex.AppendEncode(dst, w.sum[:pseudonymBytes])
}

// appendMasked appends text with all but its last characters starred.
func appendMasked(dst, text []byte, keep int) []byte {
	n := utf8.RuneCount(text)
	keep = min(keep, n/2)
	for range n - keep {
		dst = append(dst, '*')
	}
	tail := len(text)
	for range keep {
		_, size := utf8.DecodeLastRune(text[:tail])
		tail -= size
	}
	return append(dst, text[tail:]...)
}
