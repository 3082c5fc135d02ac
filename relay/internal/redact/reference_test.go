package redact

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"
)

// The reference redacts a tree, and decides for each value by trying every path of the
// policy on the value's whole address. It shares the parser of paths with the
// program, and nothing else.

type tree struct {
	kind    jsontext.Kind // of a scalar, '{' or '['
	raw     string        // a scalar as it was sent
	members []member
}

type member struct {
	rawKey string // as it was sent, of a member
	step   step
	value  *tree
}

// step is one part of a value's address.
type step struct {
	element bool
	index   int
	name    string
}

func parseTree(dec *jsontext.Decoder) *tree {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	kind := dec.PeekKind()
	if kind != '{' && kind != '[' {
		raw, err := dec.ReadValue()
		must(err)
		return &tree{kind: kind, raw: string(raw)}
	}
	_, err := dec.ReadToken()
	must(err)
	t := &tree{kind: kind}
	for i := 0; dec.PeekKind() != '}' && dec.PeekKind() != ']'; i++ {
		m := member{step: step{element: true, index: i}}
		if kind == '{' {
			raw, err := dec.ReadValue()
			must(err)
			name, err := jsontext.AppendUnquote(nil, raw)
			must(err)
			m.rawKey, m.step = string(raw), step{name: string(name)}
		}
		m.value = parseTree(dec)
		t.members = append(t.members, m)
	}
	_, err = dec.ReadToken()
	must(err)
	return t
}

// names tries a path on an address, by recursion over both.
func names(path []segment, at []step) bool {
	if len(path) == 0 {
		return len(at) == 0
	}
	if path[0].kind == segDeep {
		return names(path[1:], at) || len(at) > 0 && names(path, at[1:])
	}
	if len(at) == 0 {
		return false
	}
	ok := false
	switch s := path[0]; s.kind {
	case segAny:
		ok = true
	case segElem:
		ok = at[0].element
	case segIndex:
		ok = at[0].element && at[0].index == s.index
	case segName:
		ok = !at[0].element && at[0].name == s.name
	}
	return ok && names(path[1:], at[1:])
}

type reference struct {
	p     Policy
	stats Stats
}

func (r *reference) matches(paths []string, at []step) bool {
	for _, p := range paths {
		segs, bad := parsePath(p)
		if bad != nil {
			panic(bad.rule)
		}
		if names(segs, at) {
			return true
		}
	}
	return false
}

// ancestors tries the paths on all values that hold this one.
func (r *reference) ancestors(paths []string, at []step) bool {
	for i := range at {
		if r.matches(paths, at[:i]) {
			return true
		}
	}
	return false
}

func (r *reference) maskPaths() (paths []string) {
	for _, m := range r.p.Mask {
		paths = append(paths, m.Path)
	}
	return paths
}

func (r *reference) redact(t *tree, at []step) (string, bool) {
	allowed := r.p.Mode != AllowListed || r.matches(r.p.Allow, at) || r.ancestors(r.p.Allow, at)
	if r.matches(r.p.Drop, at) {
		r.stats.Dropped++
		return "", false
	}
	if t.kind != '{' && t.kind != '[' {
		if !allowed {
			r.stats.Dropped++
			return "", false
		}
		return r.scalar(t, at), true
	}
	before := r.stats
	var kept []string
	for _, m := range t.members {
		out, ok := r.redact(m.value, append(at[:len(at):len(at)], m.step))
		if ok && t.kind == '{' {
			out = m.rawKey + ":" + out
		}
		if ok {
			kept = append(kept, out)
		}
	}
	if len(kept) == 0 && !allowed {
		// How much of what was hidden is counted one by one depends on how far the
		// program had to look; the comparison of counts leaves this out.
		r.stats = before
		r.stats.Dropped++
		return "", false
	}
	closing := map[jsontext.Kind]string{'{': "}", '[': "]"}[t.kind]
	return string(rune(t.kind)) + strings.Join(kept, ",") + closing, true
}

func (r *reference) scalar(t *tree, at []step) string {
	text, kind := t.raw, "b"
	switch t.kind {
	case '"':
		decoded, err := jsontext.AppendUnquote(nil, t.raw)
		if err != nil {
			panic(err)
		}
		text, kind = string(decoded), "s"
	case '0':
		kind = "n"
	}
	if r.matches(r.p.Pseudonymize, at) || r.ancestors(r.p.Pseudonymize, at) {
		if t.kind == 'n' {
			return "null"
		}
		r.stats.Pseudonymized++
		return strconv.Quote(psn(kind, text))
	}
	keep := -1
	for _, m := range r.p.Mask {
		if r.matches([]string{m.Path}, at) && (keep < 0 || m.KeepLast < keep) {
			keep = m.KeepLast
		}
	}
	if r.ancestors(r.maskPaths(), at) {
		keep = 0
	}
	if keep < 0 {
		return t.raw
	}
	r.stats.Masked++
	if kind == "b" {
		return `"*****"`
	}
	runes := []rune(text)
	hide := len(runes) - min(keep, len(runes)/2)
	for i := range hide {
		runes[i] = '*'
	}
	quoted, err := jsontext.AppendQuote(nil, string(runes))
	if err != nil {
		panic(err)
	}
	return string(quoted)
}

// Documents and policies share a small alphabet so that they meet.
var (
	drawName = rapid.SampledFrom([]string{"a", "b", "c", "d.e", "é", ""})
	drawStep = rapid.SampledFrom([]string{".a", ".b", ".c", `."d.e"`, ".é", `.""`, ".*", ".**", "[*]", "[0]", "[1]", `."\u0061"`})
	drawPath = rapid.Custom(func(t *rapid.T) string {
		return strings.TrimPrefix(strings.Join(rapid.SliceOfN(drawStep, 1, 5).Draw(t, "steps"), ""), ".")
	})
	drawPolicy = rapid.Custom(func(t *rapid.T) Policy {
		p := Policy{Mode: rapid.SampledFrom([]Mode{AllowListed, DenyListed, DenyListed}).Draw(t, "mode")}
		if p.Mode == AllowListed {
			p.Allow = rapid.SliceOfN(drawPath, 0, 4).Draw(t, "allow")
		}
		p.Drop = rapid.SliceOfN(drawPath, 0, 2).Draw(t, "drop")
		p.Pseudonymize = rapid.SliceOfN(drawPath, 0, 2).Draw(t, "pseudonymize")
		for _, path := range rapid.SliceOfN(drawPath, 0, 3).Draw(t, "mask") {
			p.Mask = append(p.Mask, Mask{Path: path, KeepLast: rapid.IntRange(0, 5).Draw(t, "keep")})
		}
		return p
	})
)

// drawDoc draws a document with whitespace, in which each scalar is unlike all others.
func drawDoc(t *rapid.T) []byte {
	var b bytes.Buffer
	serial := 0
	space := func() {
		b.WriteString(rapid.SampledFrom([]string{"", "", "", " ", "\n\t"}).Draw(t, "space"))
	}
	var value func(depth int)
	value = func(depth int) {
		kind := rapid.IntRange(0, 6).Draw(t, "kind")
		if depth == 0 {
			kind %= 4
		}
		serial++
		space()
		switch kind {
		case 0:
			fmt.Fprintf(&b, `"s%04d%s"`, serial, rapid.SampledFrom([]string{"", `\u0041`, `\"\\`, "日本", `\ud83d\ude00`, " [{,:}] "}).Draw(t, "text"))
		case 1:
			fmt.Fprintf(&b, `%s7%04d%s`, rapid.SampledFrom([]string{"", "-"}).Draw(t, "sign"), serial, rapid.SampledFrom([]string{"", ".10", "e400", "00000000000000000000"}).Draw(t, "tail"))
		case 2:
			b.WriteString(rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "literal"))
		case 3:
			b.WriteString(`""`)
		case 4:
			b.WriteByte('[')
			for i := range rapid.IntRange(0, 4).Draw(t, "elements") {
				if i > 0 {
					b.WriteByte(',')
				}
				value(depth - 1)
			}
			space()
			b.WriteByte(']')
		default:
			b.WriteByte('{')
			for i, name := range rapid.SliceOfNDistinct(drawName, 0, 5, rapid.ID).Draw(t, "keys") {
				if i > 0 {
					b.WriteByte(',')
				}
				space()
				if name == "a" && rapid.Bool().Draw(t, "escaped") {
					name = `\u0061`
				}
				b.WriteString(`"` + name + `"`)
				space()
				b.WriteByte(':')
				value(depth - 1)
			}
			space()
			b.WriteByte('}')
		}
		space()
	}
	value(5)
	return b.Bytes()
}

func TestApplyAgreesWithTheReference(t *testing.T) { // not in parallel: rapid notes the name of a generator that tests share where it is used
	rapid.Check(t, func(t *rapid.T) {
		doc, policy := drawDoc(t), drawPolicy.Draw(t, "policy")
		g, err := Compile(policy, testKey)
		if err != nil {
			t.Fatal(err)
		}
		got, stats, err := g.Apply(nil, doc)
		if err != nil {
			t.Fatal(err)
		}
		root := parseTree(jsontext.NewDecoder(bytes.NewReader(doc)))
		ref := &reference{p: policy}
		want, kept := ref.redact(root, nil)
		if !kept {
			want = empty(root.kind)
		}
		if string(got) != want {
			t.Fatalf("%s\nby %+v\ngot  %s\nwant %s", doc, policy, got, want)
		}
		if kept && (stats.Masked != ref.stats.Masked || stats.Pseudonymized != ref.stats.Pseudonymized) {
			t.Fatalf("%s\nby %+v\nstats %+v, want %+v", doc, policy, stats, ref.stats)
		}
		if policy.Mode == DenyListed && stats.Dropped != ref.stats.Dropped {
			t.Fatalf("%s\nby %+v\ndropped %d, want %d", doc, policy, stats.Dropped, ref.stats.Dropped)
		}
		if (stats.Dropped > 0) != (ref.stats.Dropped > 0) {
			t.Fatalf("%s\nby %+v\ndropped %d, want %d", doc, policy, stats.Dropped, ref.stats.Dropped)
		}
		if err := Validate(got); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
	})
}

// A dropped value's text, found nowhere else in the document, is nowhere in the output.
func TestDroppedValuesAreGone(t *testing.T) { // not in parallel: rapid notes the name of a generator that tests share where it is used
	rapid.Check(t, func(t *rapid.T) {
		doc := drawDoc(t)
		path := drawPath.Draw(t, "path")
		g, err := Compile(deny(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := g.Apply(nil, doc)
		if err != nil {
			t.Fatal(err)
		}
		segs, _ := parsePath(path)
		var visit func(n *tree, at []step, gone bool)
		visit = func(n *tree, at []step, gone bool) {
			gone = gone || names(segs, at)
			serial := strings.Trim(n.raw, `"-`)
			if len(serial) >= 5 && (serial[0] == 's' || serial[0] == '7') && bytes.Contains(out, []byte(serial[:5])) == gone {
				t.Fatalf("%s\nby %s\n%q, dropped %v, in %s", doc, path, serial[:5], gone, out)
			}
			for _, m := range n.members {
				visit(m.value, append(at[:len(at):len(at)], m.step), gone)
			}
		}
		visit(parseTree(jsontext.NewDecoder(bytes.NewReader(doc))), nil, false)
	})
}

func TestModeNoneIsIdempotentAndCompact(t *testing.T) { // not in parallel: rapid notes the name of a generator that tests share where it is used
	rapid.Check(t, func(t *rapid.T) {
		doc := drawDoc(t)
		g, err := Compile(Policy{Mode: None}, nil)
		if err != nil {
			t.Fatal(err)
		}
		once, _, err := g.Apply(nil, doc)
		if err != nil {
			t.Fatal(err)
		}
		want := jsontext.Value(bytes.Clone(doc))
		if err := want.Compact(jsontext.PreserveRawStrings(true)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once, want) {
			t.Fatalf("%s\ngot  %s\nwant %s", doc, once, want)
		}
		twice, _, err := g.Apply(nil, once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
	})
}

// Any document under any path: what Apply lets out is valid, and agrees with the reference.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"x"}],"c":null}`), "a[*].b", "a", uint8(0))
	f.Add([]byte(`{"\u0061":1}`), "a", "**", uint8(1))
	f.Add([]byte(`[[[1]],{}]`), "**[0]", "*.*", uint8(2))
	f.Add([]byte(` "x" `), "**", "**.x", uint8(3))
	f.Fuzz(func(t *testing.T, doc []byte, path, allowed string, how uint8) {
		p := Policy{Mode: DenyListed}
		if how&4 != 0 {
			p.Mode, p.Allow = AllowListed, []string{allowed}
		}
		switch how & 3 {
		case 0:
			p.Drop = []string{path}
		case 1:
			p.Mask = []Mask{{Path: path, KeepLast: int(how >> 3)}}
		case 2:
			p.Pseudonymize = []string{path}
		}
		g, err := Compile(p, testKey)
		if err != nil || len(doc) > 4096 || strings.Contains(path+allowed, subjectPath) {
			return
		}
		out, _, err := g.Apply(nil, doc)
		if invalid := Validate(doc); (err != nil) != (invalid != nil) {
			t.Fatalf("%q: Apply says %v, Validate %v", doc, err, invalid)
		}
		if err != nil {
			return
		}
		root := parseTree(jsontext.NewDecoder(bytes.NewReader(doc)))
		want, kept := (&reference{p: p}).redact(root, nil)
		if !kept {
			want = empty(root.kind)
		}
		if string(out) != want {
			t.Fatalf("%q by %+v\ngot  %s\nwant %s", doc, p, out, want)
		}
	})
}
