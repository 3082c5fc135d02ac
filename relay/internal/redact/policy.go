// Package redact takes out of an event's data what must not leave.
//
// It promises: what a policy drops, masks or pseudonymises is not in the output,
// whatever the document looks like; and everything else leaves as it came in,
// numbers digit by digit, strings with their escapes, keys in their order, less
// the insignificant whitespace. A document it cannot judge (not JSON, a key twice,
// invalid UTF-8, nested too deeply) yields an error and nothing to send.
//
// It trusts nobody's document. It trusts the policy's author to name the fields,
// not to be kind: a policy's size is bounded, and so is the work a document can
// make it do.
package redact

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Mode says what leaves when no rule speaks of a field.
type Mode string

const (
	// AllowListed lets only the fields of Policy.Allow leave, with the structure
	// that leads to them.
	AllowListed Mode = "ALLOW_LISTED"
	// DenyListed lets everything leave but what the other rules name.
	DenyListed Mode = "DENY_LISTED"
	// None lets everything leave. Rules beside it are refused.
	None Mode = "NONE"
)

// MaxKeepLast bounds Mask.KeepLast, in characters.
const MaxKeepLast = 64

// MinKeyBytes is the least length of a pseudonym key.
const MinKeyBytes = 16

// Policy names fields by paths relative to the data, matched on decoded keys:
//
//	contact.email        a member of a member
//	contacts[*].email    of every array element; contacts[0] of the first
//	contacts.*.email     * is any one member or array element
//	**.ssn               ** is any depth, none too
//	a."b.c"              a key with special characters, as a JSON string
//	$subject             the event's subject
//
// A name never steps into an array by itself: contacts.email names nothing where
// contacts is an array. Where several rules name a value, drop wins over
// pseudonymise, and that over mask; of several masks the one that keeps least.
type Policy struct {
	Mode Mode
	// Allow names what leaves in mode AllowListed: a scalar, or an object or array
	// whole. The other rules apply inside it.
	Allow []string
	// Drop names what is removed; a dropped array element makes the array shorter.
	Drop []string
	// Mask names what leaves as asterisks.
	Mask []Mask
	// Pseudonymize names what leaves as a keyed digest, the same for the same value.
	Pseudonymize []string
}

// Mask replaces each character of a string or number by an asterisk but the last
// KeepLast, of which never more than half the characters are kept. The result is
// a string. Booleans and null become "*****", so that they can't be told apart.
// Every scalar below a masked object or array is masked in full; keys stay.
type Mask struct {
	Path     string
	KeepLast int // 0 to MaxKeepLast
}

// PolicyError says which field of a policy breaks which rule, and where.
type PolicyError struct {
	Field  string // such as drop[2] or mask[0].path
	Column int    // the byte in the path, from 1; 0 where the whole field is meant
	Rule   string
}

func (e *PolicyError) Error() string {
	if e.Column == 0 {
		return fmt.Sprintf("%s: %s", e.Field, e.Rule)
	}
	return fmt.Sprintf("%s: column %d: %s", e.Field, e.Column, e.Rule)
}

// rules is a set of what the policy says of a value.
type rules uint8

const (
	ruleAllow rules = 1 << iota
	ruleDrop
	ruleMask
	rulePseudonym

	ruleChanges = ruleDrop | ruleMask | rulePseudonym
)

// verdict is what the rules that name one value say together.
type verdict struct {
	rules rules
	keep  int // of ruleMask: the least of all
}

func (v *verdict) add(o verdict) {
	if o.rules&ruleMask != 0 && (v.rules&ruleMask == 0 || o.keep < v.keep) {
		v.keep = o.keep
	}
	v.rules |= o.rules
}

// node is a state of the paths' automaton: all paths in one trie, walked with a
// set of states because wildcards let several hold at once.
type node struct {
	verdict verdict
	below   rules // what may still be said of values inside
	names   map[string]int32
	indexes map[int]int32
	any     int32 // child by *, 0 if none: the root is nobody's child
	elem    int32 // child by [*]
	deep    int32 // child by **, entered together with this node
	loops   bool  // is a **: stays for every value inside
}

// Program is a compiled policy. It is immutable and safe for concurrent use.
type Program struct {
	mode     Mode
	nodes    []node
	subject  verdict
	walkers  sync.Pool
	identity bool // no rule can change or remove anything
}

// Compile checks a policy and builds its program. pseudonymKey is the tenant's;
// at least MinKeyBytes where the policy pseudonymises, else it may be nil.
// The error is a *PolicyError.
func Compile(p Policy, pseudonymKey []byte) (*Program, error) {
	if err := p.check(pseudonymKey); err != nil {
		return nil, err
	}
	g := &Program{mode: p.Mode, nodes: make([]node, 1)}
	for i, path := range p.Allow {
		if err := g.add(fmt.Sprintf("allow[%d]", i), path, verdict{rules: ruleAllow}); err != nil {
			return nil, err
		}
	}
	for i, path := range p.Drop {
		if err := g.add(fmt.Sprintf("drop[%d]", i), path, verdict{rules: ruleDrop}); err != nil {
			return nil, err
		}
	}
	for i, m := range p.Mask {
		if err := g.add(fmt.Sprintf("mask[%d].path", i), m.Path, verdict{rules: ruleMask, keep: m.KeepLast}); err != nil {
			return nil, err
		}
	}
	for i, path := range p.Pseudonymize {
		if err := g.add(fmt.Sprintf("pseudonymize[%d]", i), path, verdict{rules: rulePseudonym}); err != nil {
			return nil, err
		}
	}
	g.reach(0)
	g.identity = p.Mode != AllowListed && len(g.nodes) == 1
	key := append([]byte(nil), pseudonymKey...)
	states := len(g.nodes)
	g.walkers.New = func() any {
		w := &walker{marks: make([]uint32, states)}
		w.dec = jsontext.NewDecoder(&w.src)
		w.mac = hmac.New(sha256.New, key)
		return w
	}
	return g, nil
}

func (p *Policy) check(key []byte) error {
	switch p.Mode {
	case AllowListed, DenyListed, None:
	default:
		return &PolicyError{Field: "mode", Rule: "must be ALLOW_LISTED, DENY_LISTED or NONE"}
	}
	if p.Mode != AllowListed && len(p.Allow) > 0 {
		return &PolicyError{Field: "allow", Rule: "needs mode ALLOW_LISTED"}
	}
	if p.Mode == None {
		// Rules beside NONE contradict it; guessing which was meant could leak.
		switch {
		case len(p.Drop) > 0:
			return &PolicyError{Field: "drop", Rule: "contradicts mode NONE"}
		case len(p.Mask) > 0:
			return &PolicyError{Field: "mask", Rule: "contradicts mode NONE"}
		case len(p.Pseudonymize) > 0:
			return &PolicyError{Field: "pseudonymize", Rule: "contradicts mode NONE"}
		}
	}
	if len(p.Allow)+len(p.Drop)+len(p.Mask)+len(p.Pseudonymize) > MaxPaths {
		return &PolicyError{Field: "policy", Rule: fmt.Sprintf("has more than %d paths", MaxPaths)}
	}
	for i, m := range p.Mask {
		if m.KeepLast < 0 || m.KeepLast > MaxKeepLast {
			return &PolicyError{Field: fmt.Sprintf("mask[%d].keepLast", i), Rule: fmt.Sprintf("must be 0 to %d", MaxKeepLast)}
		}
	}
	if len(p.Pseudonymize) > 0 && len(key) < MinKeyBytes {
		return &PolicyError{Field: "pseudonymize", Rule: fmt.Sprintf("needs a key of at least %d bytes", MinKeyBytes)}
	}
	return nil
}

func (g *Program) add(field, path string, v verdict) error {
	if path == subjectPath {
		g.subject.add(v)
		return nil
	}
	segs, bad := parsePath(path)
	if bad != nil {
		return &PolicyError{Field: field, Column: bad.column, Rule: bad.rule}
	}
	at := int32(0)
	for _, s := range segs {
		at = g.child(at, s)
	}
	g.nodes[at].verdict.add(v)
	return nil
}

// child finds or makes the node that a segment leads to.
func (g *Program) child(at int32, s segment) int32 {
	n := &g.nodes[at]
	next := int32(len(g.nodes))
	var have int32
	switch s.kind {
	case segName:
		if have = n.names[s.name]; have == 0 {
			if n.names == nil {
				n.names = make(map[string]int32)
			}
			n.names[s.name] = next
		}
	case segIndex:
		if have = n.indexes[s.index]; have == 0 {
			if n.indexes == nil {
				n.indexes = make(map[int]int32)
			}
			n.indexes[s.index] = next
		}
	case segAny:
		have = setIfZero(&n.any, next)
	case segElem:
		have = setIfZero(&n.elem, next)
	case segDeep:
		have = setIfZero(&n.deep, next)
	}
	if have != 0 {
		return have
	}
	g.nodes = append(g.nodes, node{loops: s.kind == segDeep})
	return next
}

func setIfZero(at *int32, next int32) int32 {
	have := *at
	if have == 0 {
		*at = next
	}
	return have
}

// reach computes, bottom up, what can still be said below each node.
func (g *Program) reach(at int32) {
	n := &g.nodes[at]
	var below rules
	follow := func(c int32) {
		if c != 0 {
			g.reach(c)
			below |= g.nodes[c].verdict.rules | g.nodes[c].below
		}
	}
	follow(n.any)
	follow(n.elem)
	follow(n.deep)
	for _, c := range n.names {
		follow(c)
	}
	for _, c := range n.indexes {
		follow(c)
	}
	if n.loops {
		below |= n.verdict.rules
	}
	n.below = below
}
