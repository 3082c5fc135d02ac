package chunk_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay/chunk"
)

func split(t testing.TB, doc string, opt chunk.Options) *chunk.Set {
	t.Helper()
	if opt.Set == "" {
		opt.Set = "dlv_1"
	}
	s, err := chunk.Split([]byte(doc), opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func chunks(s *chunk.Set) []chunk.Chunk {
	var cs []chunk.Chunk
	for i := 1; i <= s.Total(); i++ {
		cs = append(cs, chunk.Chunk{Header: s.Header(i), Body: s.Chunk(i)})
	}
	return cs
}

func TestPagesRepeatTheRestOfTheDocument(t *testing.T) {
	t.Parallel()
	doc := `{"type":"x","data":{"tags":[1,2],"contacts":[{"n":"aa"},{"n":"bb"},{"n":"cc"}],"z":0.10}}`
	s := split(t, doc, chunk.Options{MaxBytes: 78})
	if !s.Paged() || s.Total() != 2 || s.ContentType(1) != "application/json" {
		t.Fatalf("paged %v, total %d, type %s", s.Paged(), s.Total(), s.ContentType(1))
	}
	want := []string{
		`{"type":"x","data":{"tags":[1,2],"contacts":[{"n":"aa"},{"n":"bb"}],"z":0.10}}`,
		`{"type":"x","data":{"tags":[1,2],"contacts":[{"n":"cc"}],"z":0.10}}`,
	}
	for i, w := range want {
		if got := string(s.Chunk(i + 1)); got != w {
			t.Errorf("page %d:\n%s\nwant\n%s", i+1, got, w)
		}
	}
	digest := sha256.Sum256([]byte(doc))
	b64 := base64.StdEncoding.EncodeToString(digest[:])
	if got, w := s.Header(2).String(), `2/2; set="dlv_1"; digest=sha-256=:`+b64+`:; array="/data/contacts"`; got != w {
		t.Errorf("header %s, want %s", got, w)
	}
	if got, w := s.ID(2), fmt.Sprintf("dlv_1_2_2_%x", digest[:8]); got != w {
		t.Errorf("id %s, want %s", got, w)
	}
}

func TestEnvelopeHoldsTheFacts(t *testing.T) {
	t.Parallel()
	doc := `{"type":"x","data":[` + strings.Repeat(`{"name":"somebody"},`, 40) + `1]}`
	s := split(t, doc, chunk.Options{MaxBytes: 300, Envelope: true})
	digest := sha256.Sum256([]byte(doc))
	b64 := base64.StdEncoding.EncodeToString(digest[:])
	for i := 1; i <= s.Total(); i++ {
		body := string(s.Chunk(i))
		want := fmt.Sprintf(`,"chunk":{"set":"dlv_1","index":%d,"total":%d,"digest":"sha-256=:%s:","array":"/data"}}`, i, s.Total(), b64)
		if !strings.HasSuffix(body, want) {
			t.Fatalf("page %d ends %s, want %s", i, body[len(body)-len(want):], want)
		}
		if len(body) > 300 {
			t.Errorf("page %d has %d bytes", i, len(body))
		}
	}
	if whole, err := chunk.Join(chunks(s)); err != nil || string(whole) != doc {
		t.Fatalf("joined: %v", err)
	}
}

func TestWhatIsPagedOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, doc string
		opt       chunk.Options
		paged     bool
		array     string
	}{
		{"the largest", `{"a":[1,2],"b":{"c":[1,2,3]}}`, chunk.Options{MaxBytes: 28}, true, "/b/c"},
		{"the first of equals", `{"a":[1,2,3],"b":[1,2,3]}`, chunk.Options{MaxBytes: 24}, true, "/a"},
		{"the named, by pointer", `{"a":[1,2],"b":{"c":[1,2,3]}}`, chunk.Options{MaxBytes: 28, Array: "/a"}, true, "/a"},
		{"the named, by dots", `{"a":[1,2,3],"b":{"c":[1,2]}}`, chunk.Options{MaxBytes: 28, Array: "b.c"}, true, "/b/c"},
		{"the largest where the named is absent", `{"a":[1,2]}`, chunk.Options{MaxBytes: 10, Array: "/x"}, true, "/a"},
		{"the largest where the named is no array", `{"a":[1,2],"x":1}`, chunk.Options{MaxBytes: 16, Array: "/x"}, true, "/a"},
		{"the outer one of nested arrays", `{"a":[[1,2,3],[4,5]]}`, chunk.Options{MaxBytes: 20}, true, "/a"},
		{"the document", `[1,2,3]`, chunk.Options{MaxBytes: 5}, true, ""},
		{"a name with special characters", `{"a/b~c \"é":[1,2,3]}`, chunk.Options{MaxBytes: 20}, true, `/a~1b~0c "é`},
		{"no array", `{"a":"bcdefgh"}`, chunk.Options{MaxBytes: 6}, false, ""},
		{"one element", `{"a":["bcdefgh"]}`, chunk.Options{MaxBytes: 16}, false, ""},
		{"an element too large", `{"a":[1,"bcdefghijk"]}`, chunk.Options{MaxBytes: 16}, false, ""},
		{"whitespace between elements", `{"a":[1, 2]}`, chunk.Options{MaxBytes: 10}, false, ""},
		{"a key twice", `{"a":[1,2],"a":[1,2]}`, chunk.Options{MaxBytes: 20}, false, ""},
		{"two values", `[1,2,3] [1,2,3]`, chunk.Options{MaxBytes: 14}, false, ""},
		{"not JSON", `hello, world`, chunk.Options{MaxBytes: 5}, false, ""},
		{"an envelope that has a chunk already", `{"chunk":1,"a":[` + strings.Repeat("1,", 200) + `1]}`, chunk.Options{MaxBytes: 300, Envelope: true}, false, ""},
		{"an envelope that is no object", `[` + strings.Repeat("1,", 200) + `1]`, chunk.Options{MaxBytes: 300, Envelope: true}, false, ""},
		{"an envelope without room for its member", `{"a":[1,2,3]}`, chunk.Options{MaxBytes: 12, Envelope: true}, false, ""},
		{"an array whose name fits no header", `{"` + strings.Repeat("é", 400) + `":[1,2,3]}`, chunk.Options{MaxBytes: 810}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := split(t, c.doc, c.opt)
			if h := s.Header(1); s.Paged() != c.paged || h.Paged != c.paged || h.Array != c.array {
				t.Errorf("paged %v over %q, want %v over %q", s.Paged(), h.Array, c.paged, c.array)
			}
			if whole, err := chunk.Join(chunks(s)); err != nil || string(whole) != c.doc {
				t.Errorf("joined %q, %v", whole, err)
			}
		})
	}
}

func TestSplitRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		doc string
		opt chunk.Options
	}{
		"an empty body":   {"", chunk.Options{Set: "s", MaxBytes: 10}},
		"a tiny bound":    {"abc", chunk.Options{Set: "s", MaxBytes: 3}},
		"no set":          {"abc", chunk.Options{MaxBytes: 10}},
		"a dot in a set":  {"abc", chunk.Options{Set: "a.b", MaxBytes: 10}},
		"too many chunks": {strings.Repeat("x", 4*chunk.MaxTotal+1), chunk.Options{Set: "s", MaxBytes: 4}},
	} {
		if _, err := chunk.Split([]byte(c.doc), c.opt); !errors.Is(err, chunk.ErrSplit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// drawJSON draws compact JSON with strings of several alphabets.
func drawJSON(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		kinds := 5
		if depth == 0 {
			kinds = 3
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"null", "true", "0", "-0.10", "1e400", "18446744073709551616"}).Draw(t, "scalar")
		case 1, 2:
			return quote(rapid.StringN(0, 40, 80).Draw(t, "string"))
		case 3:
			n := rapid.IntRange(0, 12).Draw(t, "elements")
			var elems []string
			for range n {
				elems = append(elems, drawJSON(depth-1).Draw(t, "element"))
			}
			return "[" + strings.Join(elems, ",") + "]"
		}
		keys := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "chunk", "data", "x/y", "ü~", "set", ""}), 0, 5, rapid.ID).Draw(t, "keys")
		var members []string
		for _, k := range keys {
			members = append(members, quote(k)+":"+drawJSON(depth-1).Draw(t, "member"))
		}
		return "{" + strings.Join(members, ",") + "}"
	})
}

func quote(s string) string {
	b, _ := jsontext.AppendQuote(nil, strings.ToValidUTF8(s, "?"))
	return string(b)
}

func TestJoinRestoresWhatWasSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var doc []byte
		if rapid.IntRange(0, 9).Draw(t, "raw") == 0 {
			doc = rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "bytes")
		} else {
			doc = []byte(drawJSON(4).Draw(t, "json"))
		}
		opt := chunk.Options{
			Set:      rapid.StringMatching(`[A-Za-z0-9_-]{1,20}`).Draw(t, "set"),
			MaxBytes: rapid.IntRange(chunk.MinBytes, len(doc)+200).Draw(t, "max"),
			Array:    rapid.SampledFrom([]string{"", "/data", "data.a", "/x~1y", "/", "nothing", "a."}).Draw(t, "array"),
			Envelope: rapid.Bool().Draw(t, "envelope"),
		}
		s, err := chunk.Split(doc, opt)
		if err != nil {
			t.Fatal(err)
		}
		cs := chunks(s)
		for i, c := range cs {
			check(t, s, i+1, c, doc, opt)
		}
		shuffled := rapid.Permutation(cs).Draw(t, "order")
		whole, err := chunk.Join(shuffled)
		if err != nil || !bytes.Equal(whole, doc) {
			t.Fatalf("joined %q, %v; want %q", whole, err, doc)
		}
		if len(cs) > 1 {
			if _, err := chunk.Join(shuffled[1:]); !errors.Is(err, chunk.ErrMissing) {
				t.Fatalf("without one: %v", err)
			}
		}
		if _, err := chunk.Join(append(slices.Clone(shuffled), shuffled[0])); !errors.Is(err, chunk.ErrDuplicate) {
			t.Fatalf("with one twice: %v", err)
		}
	})
}

func check(t *rapid.T, s *chunk.Set, i int, c chunk.Chunk, doc []byte, opt chunk.Options) {
	if len(c.Body) > opt.MaxBytes || len(c.Body) == 0 {
		t.Fatalf("chunk %d has %d bytes of %d", i, len(c.Body), opt.MaxBytes)
	}
	if s.Paged() && !jsontext.Value(c.Body).IsValid() {
		t.Fatalf("page %d is not JSON: %q", i, c.Body)
	}
	if !s.Paged() && utf8.Valid(doc) && !utf8.Valid(c.Body) {
		t.Fatalf("part %d is not UTF-8: %q", i, c.Body)
	}
	h, err := chunk.ParseHeader(c.Header.String())
	if err != nil || h != c.Header {
		t.Fatalf("header %s: %+v, %v", c.Header, h, err)
	}
	id, err := chunk.ParseChunkID(s.ID(i))
	if err != nil || !id.Names(c.Header) {
		t.Fatalf("id %s: %+v, %v", s.ID(i), id, err)
	}
}

// One changed byte in any chunk must never give another whole.
func TestJoinRefusesWhatWasChanged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		doc := []byte(drawJSON(4).Draw(t, "json"))
		s, err := chunk.Split(doc, chunk.Options{Set: "s", MaxBytes: rapid.IntRange(chunk.MinBytes, len(doc)+200).Draw(t, "max"), Envelope: rapid.Bool().Draw(t, "envelope")})
		if err != nil {
			t.Fatal(err)
		}
		cs := chunks(s)
		victim := &cs[rapid.IntRange(0, len(cs)-1).Draw(t, "victim")]
		victim.Body = bytes.Clone(victim.Body)
		victim.Body[rapid.IntRange(0, len(victim.Body)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "xor"))
		if whole, err := chunk.Join(cs); err == nil {
			t.Fatalf("joined %q of %q", whole, doc)
		}
	})
}

func TestJoinerRefuses(t *testing.T) {
	t.Parallel()
	doc := `{"type":"x","data":[` + strings.Repeat(`{"name":"somebody"},`, 40) + `1]}`
	enveloped := chunks(split(t, doc, chunk.Options{MaxBytes: 300, Envelope: true}))
	plain := chunks(split(t, doc, chunk.Options{MaxBytes: 300}))
	parts := chunks(split(t, strings.Repeat("x", 700), chunk.Options{MaxBytes: 300}))
	other := chunks(split(t, strings.Repeat("y", 700), chunk.Options{MaxBytes: 300}))
	roomy := chunk.JoinOptions{MaxBytes: 1 << 20, MaxTotal: 100}

	changed := func(c chunk.Chunk, old, new string) chunk.Chunk {
		c.Body = bytes.Replace(c.Body, []byte(old), []byte(new), 1)
		return c
	}
	header := func(c chunk.Chunk, edit func(*chunk.Header)) chunk.Chunk {
		edit(&c.Header)
		return c
	}
	for _, c := range []struct {
		name  string
		opt   chunk.JoinOptions
		give  []chunk.Chunk
		wrong error
	}{
		{"another digest", roomy, []chunk.Chunk{parts[0], other[1]}, chunk.ErrMixed},
		{"another set", roomy, []chunk.Chunk{parts[0], header(parts[1], func(h *chunk.Header) { h.Set = "dlv_2" })}, chunk.ErrMixed},
		{"another total", roomy, []chunk.Chunk{parts[0], header(parts[1], func(h *chunk.Header) { h.Total++ })}, chunk.ErrMixed},
		{"the same twice", roomy, []chunk.Chunk{parts[0], parts[0]}, chunk.ErrDuplicate},
		{"the same index with other bytes", roomy, []chunk.Chunk{parts[0], changed(parts[0], "x", "y")}, chunk.ErrConflict},
		{"the same page with other elements", roomy, []chunk.Chunk{plain[0], changed(plain[0], "somebody", "nobody!!")}, chunk.ErrConflict},
		{"other fields around the array", roomy, []chunk.Chunk{plain[0], changed(plain[1], `"x"`, `"y"`)}, chunk.ErrConflict},
		{"a member that disagrees", roomy, []chunk.Chunk{enveloped[0], changed(enveloped[1], `"index":2`, `"index":3`)}, chunk.ErrConflict},
		{"a page without its member", roomy, []chunk.Chunk{enveloped[0], plain[1]}, chunk.ErrMixed},
		{"a page that is not JSON", roomy, []chunk.Chunk{changed(plain[0], "{", "[")}, chunk.ErrPage},
		{"a page with a key twice", roomy, []chunk.Chunk{changed(plain[0], "{", `{"type":"z",`)}, chunk.ErrPage},
		{"a page without the array", roomy, []chunk.Chunk{changed(plain[0], `"data"`, `"date"`)}, chunk.ErrPage},
		{"a page with nothing in its array", roomy, []chunk.Chunk{{Header: plain[0].Header, Body: []byte(`{"data":[]}`)}}, chunk.ErrPage},
		{"an empty part", roomy, []chunk.Chunk{{Header: parts[0].Header}}, chunk.ErrPage},
		{"more bytes than allowed", chunk.JoinOptions{MaxBytes: 500, MaxTotal: 100}, []chunk.Chunk{parts[0], parts[1]}, chunk.ErrTooLarge},
		{"more chunks than allowed", chunk.JoinOptions{MaxBytes: 1 << 20, MaxTotal: 2}, parts, chunk.ErrTooLarge},
		{"a header out of bounds", roomy, []chunk.Chunk{header(parts[0], func(h *chunk.Header) { h.Index = 0 })}, chunk.ErrHeader},
		{"no member where it is required", chunk.JoinOptions{MaxBytes: 1 << 20, MaxTotal: 100, RequireMember: true}, plain, chunk.ErrMember},
		{"parts where the member is required", chunk.JoinOptions{MaxBytes: 1 << 20, MaxTotal: 100, RequireMember: true}, parts, chunk.ErrMember},
		{"bytes that were changed", roomy, []chunk.Chunk{changed(parts[0], "x", "y"), parts[1], parts[2]}, chunk.ErrDigest},
		{"more after the last", roomy, append(slices.Clone(parts), parts[0]), chunk.ErrComplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j := chunk.NewJoiner(c.opt)
			for i, ch := range c.give {
				_, _, err := j.Add(ch.Header, ch.Body)
				if err != nil {
					if !errors.Is(err, c.wrong) {
						t.Fatalf("chunk %d: %v, want %v", i, err, c.wrong)
					}
					return
				}
			}
			t.Fatalf("nothing refused, want %v", c.wrong)
		})
	}
}

// A refused chunk must not spoil the set: what is right still joins.
func TestJoinerGoesOnAfterARefusal(t *testing.T) {
	t.Parallel()
	doc := strings.Repeat("x", 700)
	parts := chunks(split(t, doc, chunk.Options{MaxBytes: 300}))
	j := chunk.NewJoiner(chunk.JoinOptions{MaxBytes: 700, MaxTotal: 3})
	mustAdd := func(c chunk.Chunk) (bool, []byte) {
		done, whole, err := j.Add(c.Header, c.Body)
		if err != nil {
			t.Fatal(err)
		}
		return done, whole
	}
	mustAdd(parts[2])
	if _, _, err := j.Add(parts[2].Header, parts[1].Body); !errors.Is(err, chunk.ErrConflict) {
		t.Fatal(err)
	}
	mustAdd(parts[0])
	if done, whole := mustAdd(parts[1]); !done || string(whole) != doc {
		t.Fatal("not joined")
	}
}

func TestRequiredMemberLetsEnvelopesPass(t *testing.T) {
	t.Parallel()
	doc := `{"type":"x","data":[` + strings.Repeat(`{"name":"somebody"},`, 40) + `1]}`
	j := chunk.NewJoiner(chunk.JoinOptions{MaxBytes: len(doc), MaxTotal: 100, RequireMember: true})
	cs := chunks(split(t, doc, chunk.Options{MaxBytes: 300, Envelope: true}))
	for i, c := range cs {
		done, whole, err := j.Add(c.Header, c.Body)
		if err != nil || done != (i == len(cs)-1) || done && string(whole) != doc {
			t.Fatalf("chunk %d: done %v, %v", i, done, err)
		}
	}
}

func TestParseHeaderRefuses(t *testing.T) {
	t.Parallel()
	sum := "digest=sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
	good := `1/2; set="a"; ` + sum
	if _, err := chunk.ParseHeader(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", " " + good, good + " ", good + ";", "01/2" + good[3:], "0/2" + good[3:], "3/2" + good[3:], "+1/2" + good[3:], "1/65537" + good[3:],
		`1/2; set=""; ` + sum, `1/2; set="a.b"; ` + sum, `1/2; set="a"b"; ` + sum, `1/2;set="a"; ` + sum, `1/2; set="a"; ` + strings.ToUpper(sum),
		`1/2; set="` + strings.Repeat("a", 129) + `"; ` + sum,
		`1/2; set="a"; digest=sha-256=:AAAA:`,
		`1/2; set="a"; digest=sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=:`,
		good + `; array="x"`, good + `; array="/~2"`, good + `; array="/%41"`, good + `; array="/%c3%a9"`, good + `; array="/%C3"`, good + `; array="/%4"`, good + `; array="/é"`,
		good + `; array="/` + strings.Repeat("a", 1024) + `"`,
	} {
		if h, err := chunk.ParseHeader(bad); !errors.Is(err, chunk.ErrHeader) {
			t.Errorf("%q: %+v, %v", bad, h, err)
		}
	}
}

func TestParseChunkIDRefuses(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "a", "a_1_2", "_1_2_0000000000000000", "a_1_2_000000000000000", "a_1_2_000000000000000G", "a_1_2_000000000000000A", "a_01_2_0000000000000000", "a_3_2_0000000000000000", "a.b_1_2_0000000000000000"} {
		if id, err := chunk.ParseChunkID(bad); !errors.Is(err, chunk.ErrHeader) {
			t.Errorf("%q: %+v, %v", bad, id, err)
		}
	}
	id, err := chunk.ParseChunkID("dlv_a_b_1_2_00000000000000ff")
	if want := (chunk.ID{Delivery: "dlv_a_b", Index: 1, Total: 2, Digest: "00000000000000ff"}); err != nil || id != want {
		t.Errorf("%+v, %v", id, err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(`1/2; set="a"; digest=sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:`)
	f.Add(`65536/65536; set="dlv_1"; digest=sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:; array="/data/x~1y%20%C3%A9"`)
	f.Add(`1/1; set="a"; digest=sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:; array=""`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := chunk.ParseHeader(s)
		if err == nil && h.String() != s {
			t.Errorf("%q came back as %q", s, h)
		}
		id, err := chunk.ParseChunkID(s)
		if err == nil && fmt.Sprintf("%s_%d_%d_%s", id.Delivery, id.Index, id.Total, id.Digest) != s {
			t.Errorf("%q came back as %+v", s, id)
		}
	})
}

// Whatever bodies arrive under a set's headers, what is joined has its digest.
func FuzzJoin(f *testing.F) {
	f.Add([]byte(`{"a":[1,2,3],"b":0}`), []byte(`{"a":[1],"b":0}`), 16, "", false)
	f.Add([]byte(`{"a":[`+strings.Repeat("1,", 200)+`1]}`), []byte(`{"a":[1]}`), 300, "/a", true)
	f.Add([]byte(`[[1],[2]]`), []byte(`x`), 6, "/", false)
	f.Fuzz(func(t *testing.T, doc, alien []byte, limit int, array string, envelope bool) {
		if len(doc) > 1<<16 {
			return
		}
		s, err := chunk.Split(doc, chunk.Options{Set: "s", MaxBytes: limit, Array: array, Envelope: envelope})
		if err != nil {
			return
		}
		cs := chunks(s)
		whole, err := chunk.Join(cs)
		if err != nil || !bytes.Equal(whole, doc) {
			t.Fatalf("joined %q, %v", whole, err)
		}
		cs[len(cs)/2].Body = alien
		if whole, err := chunk.Join(cs); err == nil && !bytes.Equal(whole, doc) {
			t.Fatalf("joined %q of %q", whole, doc)
		}
	})
}

func BenchmarkSplitAndRender(b *testing.B) {
	var doc bytes.Buffer
	doc.WriteString(`{"type":"contact.exported","data":{"contacts":[`)
	for i := 0; doc.Len() < 1<<20; i++ {
		if i > 0 {
			doc.WriteByte(',')
		}
		fmt.Fprintf(&doc, `{"id":%d,"name":"Ann Lee %d","email":"ann%d@example.com","address":{"city":"Berlin","zip":"10115"}}`, i, i, i)
	}
	doc.WriteString(`]}}`)
	b.SetBytes(int64(doc.Len()))
	b.ReportAllocs()
	for b.Loop() {
		s, err := chunk.Split(doc.Bytes(), chunk.Options{Set: "s", MaxBytes: 256 << 10, Envelope: true})
		if err != nil || !s.Paged() {
			b.Fatal(err)
		}
		for i := 1; i <= s.Total(); i++ {
			s.Chunk(i)
		}
	}
}

func ExampleJoin() {
	doc := []byte(`{"data":{"contacts":[{"id":1},{"id":2},{"id":3}]}}`)
	set, err := chunk.Split(doc, chunk.Options{Set: "dlv_1", MaxBytes: 41})
	if err != nil {
		fmt.Println(err)
		return
	}
	var received []chunk.Chunk
	for i := 1; i <= set.Total(); i++ {
		fmt.Printf("%s\n", set.Chunk(i))
		header, err := chunk.ParseHeader(set.Header(i).String())
		if err != nil {
			fmt.Println(err)
			return
		}
		received = append(received, chunk.Chunk{Header: header, Body: set.Chunk(i)})
	}
	whole, err := chunk.Join(received)
	fmt.Println(string(whole), err)
	// Output:
	// {"data":{"contacts":[{"id":1},{"id":2}]}}
	// {"data":{"contacts":[{"id":3}]}}
	// {"data":{"contacts":[{"id":1},{"id":2},{"id":3}]}} <nil>
}
