package signer

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// fuzzKeys are fixed, so that a found input stays found.
func fuzzKey(t testing.TB, s Scheme) Key {
	var file vectorFile
	readVectors(t, string(s)+".json", &file)
	return file.key(t, "current")
}

// fuzzVerifier gives the scheme's verifier headers and bodies of all kinds. Whatever
// it accepts must be what the signer makes of the same message: no second form of a
// header passes, and no content that was not signed.
func fuzzVerifier(f *testing.F, scheme Scheme) {
	var file vectorFile
	readVectors(f, string(scheme)+".json", &file)
	facts := scheme.Facts()
	names := facts.Headers
	for _, c := range file.Cases {
		h := c.header()
		var values [3]string
		for i, name := range names {
			values[i] = h.Get(name)
		}
		f.Add(h.Get(HeaderID), h.Get(HeaderChunk), values[0], values[1], values[2], c.URL, []byte(c.Body), c.Now)
	}
	k := file.key(f, "current")
	v, s := newVerifier(f, nil, k), newSigner(f, k)
	f.Fuzz(func(t *testing.T, id, chunk, first, second, third, url string, body []byte, now int64) {
		h := http.Header{}
		for name, value := range map[string]string{HeaderID: id, HeaderChunk: chunk} {
			if value != "" {
				h[name] = []string{value}
			}
		}
		for i, value := range []string{first, second, third}[:len(names)] {
			if value != "" {
				h[names[i]] = []string{value}
			}
		}
		got, err := v.Verify(h, Request{Method: "POST", URL: url, Body: body}, time.Unix(now, 0))
		if err != nil {
			answers := 0
			for _, known := range []error{ErrMissing, ErrMalformed, ErrStale, ErrSignature} {
				if errors.Is(err, known) {
					answers++
				}
			}
			if answers != 1 || got != (Verified{}) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Fatalf("answer %q with %+v", err, got)
			}
			return
		}
		if d := got.Time.Sub(time.Unix(now, 0)).Abs(); d > DefaultTolerance && !facts.Replayable {
			t.Fatalf("accepted %v away", d)
		}
		if scheme == RFC9421 {
			return // its nonce makes each signature another; FuzzDictionary holds its forms
		}
		m := &Message{ID: got.ID, Time: got.Time, Method: "POST", URL: url, Body: body}
		if m.ID == "" {
			m.ID = "none"
		}
		if facts.Replayable {
			m.Time = at
		}
		again := http.Header{}
		if _, err := s.Sign(again, m); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{facts.TimeHeader, facts.SignatureHeader} {
			given := strings.FieldsFunc(h.Get(name), between)
			for _, item := range strings.FieldsFunc(again.Get(name), between) {
				if !slices.Contains(given, item) {
					t.Fatalf("accepted %s %q, signed %q", name, h.Get(name), again.Get(name))
				}
			}
		}
	})
}

// between separates a time and signatures in any format.
func between(r rune) bool { return r == ' ' || r == ',' }

func FuzzVerifyStandard(f *testing.F)         { fuzzVerifier(f, Standard) }
func FuzzVerifyStandardEd25519(f *testing.F)  { fuzzVerifier(f, StandardEd25519) }
func FuzzVerifyRFC9421(f *testing.F)          { fuzzVerifier(f, RFC9421) }
func FuzzVerifyTimestampHMAC(f *testing.F)    { fuzzVerifier(f, TimestampHMAC) }
func FuzzVerifyTimestampHMAC256(f *testing.F) { fuzzVerifier(f, TimestampHMAC256) }
func FuzzVerifyRSASHA256(f *testing.F)        { fuzzVerifier(f, RSASHA256) }
func FuzzVerifyHubSpotV3(f *testing.F)        { fuzzVerifier(f, HubSpotV3) }
func FuzzVerifyStripe(f *testing.F)           { fuzzVerifier(f, Stripe) }
func FuzzVerifyGitHub(f *testing.F)           { fuzzVerifier(f, GitHub) }
func FuzzVerifyShopify(f *testing.F)          { fuzzVerifier(f, Shopify) }
func FuzzVerifySlack(f *testing.F)            { fuzzVerifier(f, Slack) }

// FuzzDictionary: what the parser accepts has one canonical text, which reads back
// as itself.
func FuzzDictionary(f *testing.F) {
	for _, name := range []string{"rfc9421.json"} {
		var file vectorFile
		readVectors(f, name, &file)
		for _, c := range file.Cases {
			for _, field := range []string{"Signature-Input", "Signature", "Content-Digest"} {
				f.Add(c.header().Get(field))
			}
		}
	}
	for _, s := range []string{`a`, `a;b;c=?0`, `a=?1, b=-7,c=*t/o:k`, `a=("x\"\\" 1 :AA==:;p);q="", b`, `a=(  "x"   "y" )`, "a=1,\t b=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		members, err := parseDictionary(s)
		if err != nil {
			return
		}
		write := func(members []member) string {
			var dst []byte
			for i, m := range members {
				if i > 0 {
					dst = append(dst, ", "...)
				}
				dst = appendMember(dst, m)
			}
			return string(dst)
		}
		text := write(members)
		again, err := parseDictionary(text)
		if err != nil || write(again) != text {
			t.Fatalf("%q became %q, then %q, %v", s, text, write(again), err)
		}
		if len(text) <= len(s) {
			return // nothing was added
		}
		if len(text) > 3*len(s)+16 {
			t.Fatalf("%d bytes became %d", len(s), len(text))
		}
	})
}

// FuzzSignHeaders: no message, whatever its fields hold, can put a line of its own
// into the header or into the signature base, and what was signed verifies.
func FuzzSignHeaders(f *testing.F) {
	f.Add("evt_1", partnerURL, "POST", "application/json", "1/2", "contact.updated", []byte("{}"), int64(1767323045000))
	f.Add("evt_1\r\nx-evil: 1", partnerURL, "POST", "", "", "", []byte(""), int64(1))
	f.Add("evt.1", "https://a.example/\n\"@method\": GET", "POST\n", "a/b\r\n", "1/2\n", "a\nb: c", []byte("a.b"), int64(-1))
	f.Add("é", "https://é.example/ü?ö", "GET", "\x00", "\x7f", "\x00", []byte("\xff"), int64(1<<62))
	f.Add("a", "https://u:p@[::1%25eth0]:443/%zz", "POST", "", "", " ", []byte(nil), int64(99999999999999))
	var signers []*Signer
	var verifiers []*Verifier
	for _, scheme := range Schemes() {
		k := fuzzKey(f, scheme)
		signers, verifiers = append(signers, newSigner(f, k)), append(verifiers, newVerifier(f, nil, k))
	}
	f.Fuzz(func(t *testing.T, id, url, method, contentType, chunk, kind string, body []byte, ms int64) {
		m := &Message{ID: id, Time: time.UnixMilli(ms), Method: method, URL: url, Type: kind, ContentType: contentType, Chunk: chunk, Body: body}
		for i, s := range signers {
			h := http.Header{}
			if _, err := s.Sign(h, m); err != nil {
				if !errors.Is(err, ErrMessage) || len(h) > 0 {
					t.Fatalf("%s: %v, header %q", s.Scheme(), err, h)
				}
				continue
			}
			var wire bytes.Buffer
			h.Write(&wire)
			if lines := strings.Count(wire.String(), "\n"); lines != len(h) || !printable(wire.String()) {
				t.Fatalf("%s: %d headers, %d lines: %q", s.Scheme(), len(h), lines, wire.String())
			}
			got, err := verifiers[i].Verify(h, Request{Method: method, URL: url, Body: body}, m.Time)
			if err != nil || got.ID != id || got.Chunk != chunk {
				t.Fatalf("%s: %+v, %v", s.Scheme(), got, err)
			}
		}
	})
}

func printable(s string) bool {
	for i := range len(s) {
		if (s[i] < ' ' || s[i] > '~') && s[i] != '\r' && s[i] != '\n' {
			return false
		}
	}
	return true
}

// FuzzParseKey: a key that is accepted reads back as itself, and an error never
// holds the text.
func FuzzParseKey(f *testing.F) {
	for i, scheme := range Schemes() {
		k := fuzzKey(f, scheme)
		f.Add(i, k.Reveal())
		f.Add(i, k.PublicText())
	}
	f.Fuzz(func(t *testing.T, n int, text string) {
		scheme := Schemes()[uint(n)%uint(len(formats))]
		if k, err := ParseKey(scheme, text); err == nil {
			again, err := ParseKey(scheme, k.Reveal())
			if err != nil || !again.Equal(k) {
				t.Fatalf("%s: an accepted key does not read back: %v", scheme, err)
			}
		} else if !errors.Is(err, ErrKey) || len(text) > 24 && strings.Contains(err.Error(), text) {
			t.Fatalf("%s: %v", scheme, err)
		}
		if p, err := ParsePublicKey(scheme, text); err == nil {
			if again, err := ParsePublicKey(scheme, p.Text()); err != nil || again.ID() != p.ID() {
				t.Fatalf("%s: an accepted public key does not read back: %v", scheme, err)
			}
		}
	})
}
