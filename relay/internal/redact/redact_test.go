package redact

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func compile(t testing.TB, p Policy) *Program {
	t.Helper()
	g, err := Compile(p, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func psn(kind, text string) string {
	m := hmac.New(sha256.New, testKey)
	m.Write([]byte("sealpost pseudonym 1\x00" + kind + text))
	return "psn_" + hex.EncodeToString(m.Sum(nil)[:16])
}

func deny(paths ...string) Policy  { return Policy{Mode: DenyListed, Drop: paths} }
func allow(paths ...string) Policy { return Policy{Mode: AllowListed, Allow: paths} }
func mask(keep int, paths ...string) Policy {
	p := Policy{Mode: DenyListed}
	for _, path := range paths {
		p.Mask = append(p.Mask, Mask{Path: path, KeepLast: keep})
	}
	return p
}
func pseudo(paths ...string) Policy { return Policy{Mode: DenyListed, Pseudonymize: paths} }

func TestApply(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		policy Policy
		doc    string
		want   string
		stats  Stats
	}{
		{"nothing changed but whitespace", Policy{Mode: None}, " { \"b\" : [ 1e400 , 0.10, 123456789012345678901234567890 ] ,\n\t\"a\" : \"\\u0041 \\/ \\\" x\" } ", `{"b":[1e400,0.10,123456789012345678901234567890],"a":"\u0041 \/ \" x"}`, Stats{}},
		{"empty object and array", Policy{Mode: None}, `[ { } , [ ] ]`, `[{},[]]`, Stats{}},
		{"scalar", Policy{Mode: None}, ` "x" `, `"x"`, Stats{}},

		{"drop a member", deny("a.b"), `{"a":{"b":1,"c":2},"b":3}`, `{"a":{"c":2},"b":3}`, Stats{Dropped: 1}},
		{"drop the last member", deny("a.c"), `{"a":{"b":1,"c":2}}`, `{"a":{"b":1}}`, Stats{Dropped: 1}},
		{"drop the only member", deny("a.b"), `{"a":{"b":1}}`, `{"a":{}}`, Stats{Dropped: 1}},
		{"drop at any depth", deny("**.ssn"), `{"ssn":1,"a":[{"ssn":{"x":1},"y":2}]}`, `{"a":[{"y":2}]}`, Stats{Dropped: 2}},
		{"drop below a name at any depth", deny("**.card.**.no"), `{"card":{"no":1,"x":{"no":2,"y":3}},"no":4}`, `{"card":{"x":{"y":3}},"no":4}`, Stats{Dropped: 2}},
		{"drop by an escaped key", deny("ssn"), `{"\u0073sn":1,"b":2}`, `{"b":2}`, Stats{Dropped: 1}},
		{"drop by a quoted name", deny(`a."b.c"`), `{"a":{"b.c":1,"b":{"c":2}}}`, `{"a":{"b":{"c":2}}}`, Stats{Dropped: 1}},
		{"drop by an escape in a quoted name", deny(`"\u00e9\""`), `{"é\"":1,"b":2}`, `{"b":2}`, Stats{Dropped: 1}},
		{"drop the empty name", deny(`""`), `{"":1,"b":2}`, `{"b":2}`, Stats{Dropped: 1}},
		{"star is any member", deny("a.*.x"), `{"a":{"p":{"x":1},"q":{"x":2,"y":3}}}`, `{"a":{"p":{},"q":{"y":3}}}`, Stats{Dropped: 2}},
		{"star is any element", deny("a.*.x"), `{"a":[{"x":1},{"x":2,"y":3}]}`, `{"a":[{},{"y":3}]}`, Stats{Dropped: 2}},
		{"[*] is any element", deny("a[*].x"), `{"a":[{"x":1},{"x":2,"y":3}]}`, `{"a":[{},{"y":3}]}`, Stats{Dropped: 2}},
		{"[*] is no member", deny("a[*]"), `{"a":{"x":1}}`, `{"a":{"x":1}}`, Stats{}},
		{"an index", deny("a[1]", "a[3].x"), `{"a":[1,2,3,{"x":4}]}`, `{"a":[1,3,{}]}`, Stats{Dropped: 2}},
		{"an index is no member", deny("a[1]"), `{"a":{"1":2}}`, `{"a":{"1":2}}`, Stats{}},
		{"a name is no element", deny("a.b"), `{"a":[{"b":1}]}`, `{"a":[{"b":1}]}`, Stats{}},
		{"elements of the document", deny("[0]"), `[1,2]`, `[2]`, Stats{Dropped: 1}},
		{"index after a double star", deny("**[0]"), `{"a":[1,[2,3]]}`, `{"a":[[3]]}`, Stats{Dropped: 2}},
		{"drop all", deny("**"), `{"a":1}`, `{}`, Stats{Dropped: 1}},
		{"drop all of an array", deny("**"), `[1]`, `[]`, Stats{Dropped: 1}},
		{"drop all of a scalar", deny("**"), `1`, `null`, Stats{Dropped: 1}},
		{"trailing double star is the field itself", deny("a.**"), `{"a":{"b":1},"c":2}`, `{"c":2}`, Stats{Dropped: 1}},

		{"allow a member", allow("a.b"), `{"a":{"b":1,"c":2},"d":3}`, `{"a":{"b":1}}`, Stats{Dropped: 2}},
		{"allow an object whole", allow("a"), `{"a":{"b":1,"c":[2]},"d":3}`, `{"a":{"b":1,"c":[2]}}`, Stats{Dropped: 1}},
		{"allow at any depth", allow("**.email"), `{"x":{"email":1,"n":2},"y":{"n":3},"z":[{"email":4},{"n":5}]}`, `{"x":{"email":1},"z":[{"email":4}]}`, Stats{Dropped: 3}},
		{"allow nothing", allow(), `{"a":1}`, `{}`, Stats{Dropped: 1}},
		{"allow nothing of an array", allow("a"), `[{"a":1}]`, `[]`, Stats{Dropped: 1}},
		{"allow nothing of a scalar", allow("a"), `"x"`, `null`, Stats{Dropped: 1}},
		{"allow all", allow("**"), `{"a":[1,{"b":2}]}`, `{"a":[1,{"b":2}]}`, Stats{}},
		{"keys on the way hide with their values", allow("**.email"), `{"by":{"bob@x.org":{"n":1}}}`, `{}`, Stats{Dropped: 1}},
		{"an empty object on the way", allow("a.b"), `{"a":{},"c":[]}`, `{}`, Stats{Dropped: 2}},
		{"an allowed empty object", allow("a"), `{"a":{}}`, `{"a":{}}`, Stats{}},
		{"a scalar on the way", allow("a.b"), `{"a":"secret"}`, `{}`, Stats{Dropped: 1}},
		{"allow by index", allow("a[1].x"), `{"a":[{"x":1},{"x":2,"y":3},{"x":4}]}`, `{"a":[{"x":2}]}`, Stats{Dropped: 3}},
		{"drop inside allowed", Policy{Mode: AllowListed, Allow: []string{"a"}, Drop: []string{"**.ssn"}}, `{"a":{"ssn":1,"b":2},"c":3}`, `{"a":{"b":2}}`, Stats{Dropped: 2}},
		{"drop over allow", Policy{Mode: AllowListed, Allow: []string{"a.b"}, Drop: []string{"a"}}, `{"a":{"b":1}}`, `{}`, Stats{Dropped: 1}},
		{"mask inside allowed", Policy{Mode: AllowListed, Allow: []string{"a"}, Mask: []Mask{{Path: "a.b"}}}, `{"a":{"b":"xy"},"c":3}`, `{"a":{"b":"**"}}`, Stats{Dropped: 1, Masked: 1}},
		{"mask outside allowed", Policy{Mode: AllowListed, Allow: []string{"a"}, Mask: []Mask{{Path: "c"}}}, `{"a":1,"c":"x"}`, `{"a":1}`, Stats{Dropped: 1}},

		{"mask keeps the last", mask(4, "no"), `{"no":"4111111111111111"}`, `{"no":"************1111"}`, Stats{Masked: 1}},
		{"mask keeps half at most", mask(4, "**"), `["abcd","abc","a",""]`, `["****","***","*",""]`, Stats{Masked: 4}},
		{"mask keeps of elements half at most", mask(4, "*"), `["abcdef","abcd","abc","a",""]`, `["***def","**cd","**c","*",""]`, Stats{Masked: 5}},
		{"mask counts characters", mask(2, "*"), `["\u00e9é日本\ud83d\ude00x"]`, `["****😀x"]`, Stats{Masked: 1}},
		{"mask escapes what it keeps", mask(1, "*"), `["a\""]`, `["*\""]`, Stats{Masked: 1}},
		{"mask a number", mask(2, "*"), `[123456,-1.5e3]`, `["****56","****e3"]`, Stats{Masked: 2}},
		{"mask true, false and null alike", mask(9, "*"), `[true,false,null]`, `["*****","*****","*****"]`, Stats{Masked: 3}},
		{"mask below in full", mask(4, "a"), `{"a":{"b":["12345678",1],"c":true}}`, `{"a":{"b":["********","*"],"c":"*****"}}`, Stats{Masked: 3}},
		{"mask keeps the least of several", Policy{Mode: DenyListed, Mask: []Mask{{"a", 4}, {"*", 1}, {"**.a", 2}}}, `{"a":"12345678"}`, `{"a":"*******8"}`, Stats{Masked: 1}},
		{"mask in full from above wins over one below", mask(4, "a", "a.b"), `{"a":{"b":"12345678"}}`, `{"a":{"b":"********"}}`, Stats{Masked: 1}},

		{"pseudonymize a string", pseudo("a"), `{"a":"x"}`, `{"a":"` + psn("s", "x") + `"}`, Stats{Pseudonymized: 1}},
		{"pseudonymize by decoded value", pseudo("a"), `{"a":"\u0078"}`, `{"a":"` + psn("s", "x") + `"}`, Stats{Pseudonymized: 1}},
		{"pseudonymize by kind", pseudo("*"), `["1",1,1.0,true,null]`, `["` + psn("s", "1") + `","` + psn("n", "1") + `","` + psn("n", "1.0") + `","` + psn("b", "true") + `",null]`, Stats{Pseudonymized: 4}},
		{"pseudonymize below", pseudo("a"), `{"a":{"b":["x"]},"c":"x"}`, `{"a":{"b":["` + psn("s", "x") + `"]},"c":"x"}`, Stats{Pseudonymized: 1}},
		{"pseudonymize over mask", Policy{Mode: DenyListed, Pseudonymize: []string{"a"}, Mask: []Mask{{"a", 2}}}, `{"a":"x"}`, `{"a":"` + psn("s", "x") + `"}`, Stats{Pseudonymized: 1}},
		{"pseudonymize above over mask below", Policy{Mode: DenyListed, Pseudonymize: []string{"a"}, Mask: []Mask{{"a.b", 2}}}, `{"a":{"b":"x"}}`, `{"a":{"b":"` + psn("s", "x") + `"}}`, Stats{Pseudonymized: 1}},
		{"drop over pseudonymize and mask", Policy{Mode: DenyListed, Drop: []string{"a"}, Pseudonymize: []string{"a"}, Mask: []Mask{{"a", 2}}}, `{"a":"x"}`, `{}`, Stats{Dropped: 1}},
		{"drop below mask", Policy{Mode: DenyListed, Drop: []string{"a.b"}, Mask: []Mask{{"a", 2}}}, `{"a":{"b":"x","c":"y"}}`, `{"a":{"c":"*"}}`, Stats{Dropped: 1, Masked: 1}},
		{"untouched beside touched keeps its spelling", deny("z.**"), `{ "a\u0062" : [ 1.50 , "\u0041" ] , "z" : 1 }`, `{"a\u0062":[1.50,"\u0041"]}`, Stats{Dropped: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := compile(t, c.policy)
			for range 2 { // the second time with a used walker
				out, stats, err := g.Apply([]byte("before"), []byte(c.doc))
				if err != nil {
					t.Fatal(err)
				}
				if string(out) != "before"+c.want {
					t.Errorf("got  %s\nwant before%s", out, c.want)
				}
				if stats != c.stats {
					t.Errorf("stats %+v, want %+v", stats, c.stats)
				}
			}
		})
	}
}

func TestApplySubject(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy Policy
		want   string
		kept   bool
	}{
		{Policy{Mode: None}, "contact/4242", true},
		{deny("subject"), "contact/4242", true},
		{deny("**"), "contact/4242", true},
		{deny("$subject"), "", false},
		{allow("a"), "", false},
		{allow("$subject"), "contact/4242", true},
		{mask(4, "$subject"), "********4242", true},
		{pseudo("$subject"), psn("s", "contact/4242"), true},
		{Policy{Mode: AllowListed, Allow: []string{"$subject"}, Drop: []string{"$subject"}}, "", false},
		{Policy{Mode: AllowListed, Pseudonymize: []string{"$subject"}}, "", false},
		{Policy{Mode: DenyListed, Pseudonymize: []string{"$subject"}, Mask: []Mask{{"$subject", 2}}}, psn("s", "contact/4242"), true},
	} {
		if got, kept := compile(t, c.policy).ApplySubject("contact/4242"); got != c.want || kept != c.kept {
			t.Errorf("%+v: %q, %v; want %q, %v", c.policy, got, kept, c.want, c.kept)
		}
	}
	out, _, err := compile(t, deny("$subject")).Apply(nil, []byte(`{"$subject":1}`))
	if err != nil || string(out) != `{"$subject":1}` {
		t.Errorf("the rule on the subject touched the data: %s, %v", out, err)
	}
}

func TestPseudonymsDifferByKey(t *testing.T) {
	t.Parallel()
	other, err := Compile(pseudo("$subject"), []byte("another key of enough bytes"))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := compile(t, pseudo("$subject")).ApplySubject("x")
	b, _ := other.ApplySubject("x")
	if a == b {
		t.Error("two tenants' keys give the same pseudonym")
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxPathBytes+1)
	for _, c := range []struct {
		policy Policy
		key    []byte
		field  string
		column int
	}{
		{Policy{}, testKey, "mode", 0},
		{Policy{Mode: "none"}, testKey, "mode", 0},
		{Policy{Mode: DenyListed, Allow: []string{"a"}}, testKey, "allow", 0},
		{Policy{Mode: None, Drop: []string{"a"}}, testKey, "drop", 0},
		{Policy{Mode: None, Mask: []Mask{{"a", 0}}}, testKey, "mask", 0},
		{Policy{Mode: None, Pseudonymize: []string{"a"}}, testKey, "pseudonymize", 0},
		{pseudo("a"), testKey[:15], "pseudonymize", 0},
		{pseudo("a"), nil, "pseudonymize", 0},
		{mask(-1, "a"), nil, "mask[0].keepLast", 0},
		{mask(MaxKeepLast+1, "a"), nil, "mask[0].keepLast", 0},
		{Policy{Mode: DenyListed, Drop: make([]string, MaxPaths+1)}, nil, "policy", 0},
		{deny("a", ""), nil, "drop[1]", 1},
		{allow("a", "b."), nil, "allow[1]", 3},
		{pseudo("a..b"), testKey, "pseudonymize[0]", 3},
		{mask(1, "a b"), nil, "mask[0].path", 2},
		{deny(".a"), nil, "drop[0]", 1},
		{deny("a."), nil, "drop[0]", 3},
		{deny("a*"), nil, "drop[0]", 2},
		{deny("*a"), nil, "drop[0]", 2},
		{deny("***"), nil, "drop[0]", 3},
		{deny("a.$b"), nil, "drop[0]", 3},
		{deny("$subjects"), nil, "drop[0]", 1},
		{deny("$subject.x"), nil, "drop[0]", 1},
		{deny(`a."b`), nil, "drop[0]", 3},
		{deny(`a."b\`), nil, "drop[0]", 3},
		{deny(`a."\q"`), nil, "drop[0]", 3},
		{deny(`a."b"c`), nil, "drop[0]", 6},
		{deny(`a"b"`), nil, "drop[0]", 2},
		{deny("a[1"), nil, "drop[0]", 2},
		{deny("a[01]"), nil, "drop[0]", 3},
		{deny("a[-1]"), nil, "drop[0]", 3},
		{deny("a[]"), nil, "drop[0]", 3},
		{deny("a[9999999999]"), nil, "drop[0]", 3},
		{deny("a[1]b"), nil, "drop[0]", 5},
		{deny("a]"), nil, "drop[0]", 2},
		{deny("a\x00"), nil, "drop[0]", 2},
		{deny("a\xff"), nil, "drop[0]", 1},
		{deny(long), nil, "drop[0]", MaxPathBytes + 1},
		{deny(strings.Repeat("[1]", MaxSegments+1)), nil, "drop[0]", 3*MaxSegments + 1},
	} {
		_, err := Compile(c.policy, c.key)
		var bad *PolicyError
		if !errors.As(err, &bad) {
			t.Errorf("%+v: %v", c.policy, err)
			continue
		}
		if bad.Field != c.field || bad.Column != c.column || bad.Rule == "" {
			t.Errorf("%+v: %v; want %s, column %d", c.policy, err, c.field, c.column)
		}
	}
	most := make([]string, MaxPaths)
	for i := range most {
		most[i] = fmt.Sprintf("**.f%d", i)
	}
	compile(t, deny(most...))
	compile(t, deny(strings.Repeat("[1]", MaxSegments)))
	compile(t, deny(long[:MaxPathBytes]))
}

// The rules on documents, for Validate and for Apply under every kind of policy,
// so that a fault is found wherever it stands: in what is copied, walked or dropped.
func TestDocumentErrors(t *testing.T) {
	t.Parallel()
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name, doc string
		rule      error
		offset    int64
		pointer   string
	}{
		{"nothing", "", ErrSyntax, 0, ""},
		{"whitespace", " \n", ErrSyntax, 0, ""},
		{"cut", `{"a":1`, ErrSyntax, 6, ""},
		{"a comma too many", `{"a":[1,]}`, ErrSyntax, 8, "/a/1"},
		{"a bad number", `{"a":01}`, ErrSyntax, 6, ""},
		{"a byte order mark", "\ufeff{}", ErrSyntax, 0, ""},
		{"a lone surrogate", `{"a":"\ud800"}`, ErrSyntax, 6, "/a"},
		{"brackets that don't match", `{"a":[}`, ErrSyntax, 6, "/a/0"},
		{"NaN", `{"a":NaN}`, ErrSyntax, 5, "/a"},
		{"a key that is no string", `{"a":{1:2}}`, ErrSyntax, 6, "/a"},
		{"a key twice", `{"a":{"b":1,"c":2,"b":3}}`, ErrDuplicateKey, 18, "/a/b"},
		{"a key twice, escaped", `{"a":{"b":1,"\u0062":3}}`, ErrDuplicateKey, 12, "/a/b"},
		{"a key twice in an element", `{"a":[{},{"b":1,"b":3}]}`, ErrDuplicateKey, 16, "/a/1/b"},
		{"invalid UTF-8", "{\"a\":\"x\xff\"}", ErrInvalidUTF8, 7, "/a"},
		{"invalid UTF-8 in a key", "{\"a\":{\"\xc3\":1}}", ErrInvalidUTF8, 7, "/a"},
		{"a surrogate as UTF-8", "{\"a\":\"\xed\xa0\x80\"}", ErrInvalidUTF8, 6, "/a"},
		{"too deep", `{"a":` + nest(MaxDepth) + `}`, ErrTooDeep, 5 + MaxDepth - 1, "/a" + strings.Repeat("/0", MaxDepth-1)},
		{"far too deep", `{"a":` + nest(9000) + `}`, ErrTooDeep, 5 + MaxDepth - 1, "/a" + strings.Repeat("/0", MaxDepth-1)},
		{"past the decoder's own depth", `{"a":` + nest(20000) + `}`, nil, 0, ""},
		{"two values", `{"a":1} {}`, ErrTrailing, 8, ""},
		{"a word after", `{"a":1}x`, ErrTrailing, 7, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			check := func(who string, err error) {
				t.Helper()
				var bad *DocumentError
				if !errors.As(err, &bad) {
					t.Fatalf("%s: %v", who, err)
				}
				if c.rule == nil {
					return
				}
				if !errors.Is(err, c.rule) || bad.Offset != c.offset || strings.TrimSuffix(string(bad.Pointer), "...") != c.pointer[:min(len(c.pointer), maxPointerBytes)] {
					t.Errorf("%s: %v; want %v at %d in %s", who, err, c.rule, c.offset, c.pointer)
				}
			}
			check("Validate", Validate([]byte(c.doc)))
			for _, p := range []Policy{{Mode: None}, deny("**.x"), deny("a"), deny("b"), allow("a"), allow("b"), allow("**.x"), mask(1, "a"), pseudo("**")} {
				out, stats, err := compile(t, p).Apply([]byte("before"), []byte(c.doc))
				check(fmt.Sprintf("%+v", p), err)
				if string(out) != "before" || stats != (Stats{}) {
					t.Errorf("%+v: left %q, %+v", p, out, stats)
				}
			}
		})
	}
	for _, doc := range []string{nest(MaxDepth), ` {"a" : "\ud83d\ude00 \u0000" } `, `1`, strings.Repeat(`{"a":`, MaxDepth) + "1" + strings.Repeat("}", MaxDepth)} {
		if err := Validate([]byte(doc)); err != nil {
			t.Errorf("%.40s: %v", doc, err)
		}
		if _, _, err := compile(t, deny("**.x")).Apply(nil, []byte(doc)); err != nil {
			t.Errorf("%.40s: %v", doc, err)
		}
	}
}

func TestDocumentErrorsQuoteNoValue(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{`{"a":"hush` + "\xff" + `"}`, `{"a":hush}`, `{"a":"hush"} "hush"`, `{"a":"hush\q"}`, `{"a":["hush","hush"}`, `{"a":1hush}`} {
		err := Validate([]byte(doc))
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%v", err)
		}
	}
	err := Validate([]byte(`{"` + strings.Repeat("k", 5000) + `":x}`))
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// A policy and a document made for each other must not hold a relay for long:
// the one is refused with the other, and each passes with a plain partner.
func TestWorkIsBounded(t *testing.T) {
	t.Parallel()
	// Paths that share nothing but all match everywhere, over an array that is deep
	// and then wide: each of its objects is in thousands of states.
	var cruel, plain []string
	for i := range MaxPaths {
		path := "**"
		for bit := range 8 {
			path += []string{".*", "[*]"}[i>>bit&1]
		}
		cruel = append(cruel, path+strings.Repeat(".*", 12)+".n")
		plain = append(plain, fmt.Sprintf("**.f%d", i))
	}
	deep := strings.Repeat("[", 60) + strings.Repeat(`{"a":1},`, 50_000) + "1" + strings.Repeat("]", 60)
	for _, c := range []struct {
		paths []string
		doc   string
		want  error
	}{
		{cruel, deep, ErrTooComplex},
		{cruel, string(crm(1 << 20)), nil},
		{plain, deep, nil},
	} {
		out, _, err := compile(t, deny(c.paths...)).Apply(nil, []byte(c.doc))
		if !errors.Is(err, c.want) || err != nil && out != nil {
			t.Errorf("%s on %.20s: %v, want %v", c.paths[0], c.doc, err, c.want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	g := compile(t, Policy{Mode: DenyListed, Drop: []string{"**.ssn"}, Pseudonymize: []string{"email"}, Mask: []Mask{{"phone", 2}}})
	var v Validator
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			doc := fmt.Appendf(nil, `{"ssn":%d,"email":"e%d","phone":"12345%d"}`, i, i, i)
			want := fmt.Sprintf(`{"email":"%s","phone":"****5%d"}`, psn("s", fmt.Sprintf("e%d", i)), i)
			for range 200 {
				out, _, err := g.Apply(nil, doc)
				if err != nil || string(out) != want || v.Validate(out) != nil {
					t.Errorf("%s, %v; want %s", out, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// crm writes an export of contacts of about n bytes.
func crm(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"export_id":"exp_1","account":{"name":"Acme GmbH","country":"DE"},"contacts":[`)
	for i := 0; b.Len() < n-200; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"first_name":"Ann","last_name":"Lee %d","email":"ann.lee%d@example.com","phone":"+49 30 1234%d","ssn":"078-05-%04d","address":{"street":"Hauptstr. %d","city":"Berlin","zip":"10115"},"score":0.10,"vip":true,"tags":["a","b"]}`, i, i, i, i, i%10000, i)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func BenchmarkApply(b *testing.B) {
	policies := []struct {
		name string
		p    Policy
	}{
		{"none", Policy{Mode: None}},
		{"deny", Policy{Mode: DenyListed, Drop: []string{"**.ssn"}, Mask: []Mask{{"**.phone", 4}}, Pseudonymize: []string{"contacts[*].email"}}},
		{"allow", allow("export_id", "contacts[*].id", "contacts[*].last_name", "contacts[*].address.city")},
	}
	for _, size := range []int{1 << 10, 256 << 10} {
		doc := crm(size)
		for _, p := range policies {
			b.Run(fmt.Sprintf("%s/%dKiB", p.name, size>>10), func(b *testing.B) {
				g := compile(b, p.p)
				var out []byte
				b.SetBytes(int64(len(doc)))
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if out, _, err = g.Apply(out[:0], doc); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	doc := crm(256 << 10)
	var v Validator
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Validate(doc); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzValidate(f *testing.F) {
	for _, s := range []string{``, `{"a":[1,"\u0041",{}]}`, `{"a":1,"\u0061":2}`, "\"\xff\"", `[[[[]]]]`, `"\ud800"`, ` 1 2`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		err := Validate(doc)
		valid := jsontext.Value(doc).IsValid() // the same rules but for the depth
		if err == nil && !valid || err != nil && valid && !errors.Is(err, ErrTooDeep) {
			t.Fatalf("%q: %v, valid %v", doc, err, valid)
		}
		var bad *DocumentError
		if err != nil && (!errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > int64(len(doc)) || len(err.Error()) > 2000) {
			t.Fatalf("%q: %v", doc, err)
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"a.b", "**.ssn", "contacts[*].email", "a[0][1]", `a."b.c"`, "$subject", "*", `"\u0073sn"`, "a..b", "[*]", "**.**"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		g, err := Compile(deny(path), nil)
		if err != nil {
			var bad *PolicyError
			if !errors.As(err, &bad) || bad.Column > len(path)+1 {
				t.Fatalf("%q: %v", path, err)
			}
			return
		}
		if _, _, err := g.Apply(nil, []byte(`{"a":{"b":[1,{"c":2}]},"ssn":3}`)); err != nil {
			t.Fatalf("%q: %v", path, err)
		}
	})
}
