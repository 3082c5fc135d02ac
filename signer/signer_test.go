package signer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var at = time.Unix(1767323045, 0)

const partnerURL = "https://hooks.partner.example/crm?tenant=acme"

// testKeys makes one key for each way to sign: each scheme, and HMAC under RFC9421.
var testKeys = sync.OnceValue(func() []Key {
	var keys []Key
	for _, s := range Schemes() {
		k, err := GenerateKey(s)
		if err != nil {
			panic(err)
		}
		keys = append(keys, k)
	}
	k, err := GenerateKey(RFC9421, WithHMAC())
	if err != nil {
		panic(err)
	}
	return append(keys, k)
})

func way(k Key) string {
	if k.Scheme() == RFC9421 {
		return string(k.Scheme()) + "-" + k.Algorithm()
	}
	return string(k.Scheme())
}

func newSigner(t testing.TB, keys ...Key) *Signer {
	t.Helper()
	ring, err := NewKeyring(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(keys[0].Scheme(), ring)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newVerifier(t testing.TB, opts []VerifierOption, keys ...VerifyingKey) *Verifier {
	t.Helper()
	v, err := NewVerifier(keys[0].verifying().scheme, keys, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func message(body string) *Message {
	return &Message{ID: "evt_1", Time: at, Method: "POST", URL: partnerURL, Body: []byte(body)}
}

func TestSchemesAreClosed(t *testing.T) {
	t.Parallel()
	for _, s := range Schemes() {
		if got, err := ParseScheme(string(s)); err != nil || got != s {
			t.Errorf("%s: %q, %v", s, got, err)
		}
		if f := s.Facts(); f.Scheme != s || len(f.Headers) == 0 {
			t.Errorf("%s: facts %+v", s, f)
		}
	}
	for _, name := range []string{"", "Standard", "standard ", "hmac", strings.Repeat("x", 1000)} {
		if _, err := ParseScheme(name); !errors.Is(err, ErrScheme) || len(err.Error()) > 100 {
			t.Errorf("%.20q: %v", name, err)
		}
		if f := Scheme(name).Facts(); f.Headers != nil {
			t.Errorf("%.20q: facts %+v", name, f)
		}
	}
}

// What the facts promise is held against what the verifier does.
func TestFactsAreTrue(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		t.Run(way(k), func(t *testing.T) {
			t.Parallel()
			facts := k.Scheme().Facts()
			m := message("{}")
			m.Chunk, m.Type = `1/3; set="evt_1"; digest=sha-256=:AAAA:`, "contact.updated"
			h := http.Header{}
			if _, err := newSigner(t, k).Sign(h, m); err != nil {
				t.Fatal(err)
			}
			v := newVerifier(t, nil, k)
			changed := func(name, value, url string) bool {
				other := h.Clone()
				if name != "" {
					other.Set(name, value)
				}
				_, err := v.Verify(other, Request{Method: "POST", URL: url, Body: m.Body}, at)
				return errors.Is(err, ErrSignature)
			}
			if changed("", "", partnerURL) {
				t.Fatal("the delivery as it was is refused")
			}
			if got := changed(HeaderID, "evt_2", partnerURL); got != facts.CoversID {
				t.Errorf("covers id: %v, facts say %v", got, facts.CoversID)
			}
			if got := changed(HeaderChunk, "2/3", partnerURL); got != facts.CoversChunk {
				t.Errorf("covers chunk: %v, facts say %v", got, facts.CoversChunk)
			}
			if got := changed("", "", partnerURL+"x"); got != facts.CoversTarget {
				t.Errorf("covers target: %v, facts say %v", got, facts.CoversTarget)
			}
			_, err := v.Verify(h, Request{Method: "POST", URL: partnerURL, Body: m.Body}, at.AddDate(1, 0, 0))
			if facts.Replayable && err != nil || !facts.Replayable && !errors.Is(err, ErrStale) {
				t.Errorf("a year later: %v, facts say replayable %v", err, facts.Replayable)
			}
			for _, name := range []string{facts.TimeHeader, facts.SignatureHeader} {
				if name != "" && !slices.Contains(facts.Headers, name) {
					t.Errorf("%s is not among %v", name, facts.Headers)
				}
			}
			for _, name := range append(facts.Headers, HeaderID, HeaderChunk) {
				if len(h[name]) != 1 {
					t.Errorf("%s: %v", name, h[name])
				}
			}
			if len(h) != len(facts.Headers)+2 {
				t.Errorf("other headers than the facts name: %v", h)
			}
		})
	}
}

// Each format says in one place, or nowhere, when it was signed.
func TestFormatsHaveOneTime(t *testing.T) {
	t.Parallel()
	for _, f := range formats {
		places := 0
		for _, there := range []bool{f.timeHeader != "", f.timeLead != "", f.replayable, f.scheme == RFC9421} {
			if there {
				places++
			}
		}
		signed := f.scheme == RFC9421 || slices.ContainsFunc(f.layout, func(p part) bool { return p.kind == partTime || p.kind == partTimeUint64 })
		if places != 1 || signed == f.replayable {
			t.Errorf("%s: %d places, signed %v, replayable %v", f.scheme, places, signed, f.replayable)
		}
	}
}

func TestSignedIsVerifiedAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		s, v := newSigner(t, k), newVerifier(t, nil, k)
		t.Run(way(k), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				m := &Message{
					ID:     rapid.StringMatching(`[A-Za-z0-9_-]{1,80}`).Draw(t, "id"),
					Time:   time.UnixMilli(rapid.Int64Range(1000, 4e12).Draw(t, "ms")),
					Method: "POST", URL: partnerURL,
					Chunk: rapid.StringMatching(`([!-~]([ -~]{0,40}[!-~])?)?`).Draw(t, "chunk"),
					Body:  rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
				}
				h := http.Header{}
				if _, err := s.Sign(h, m); err != nil {
					t.Fatal(err)
				}
				r := Request{Method: m.Method, URL: m.URL, Body: m.Body}
				got, err := v.Verify(h, r, m.Time)
				if err != nil || got.ID != m.ID || got.Chunk != m.Chunk || got.KeyID != k.ID() {
					t.Fatalf("%+v, %v", got, err)
				}
				if d := m.Time.Sub(got.Time); !k.Scheme().Facts().Replayable && (d < 0 || d >= time.Second) {
					t.Fatalf("time %v became %v", m.Time, got.Time)
				}
				at := rapid.IntRange(0, len(m.Body)).Draw(t, "at")
				r.Body = append(append(append([]byte{}, m.Body[:at]...), byte(rapid.IntRange(0, 255).Draw(t, "byte"))), m.Body[at:]...)
				if _, err := v.Verify(h, r, m.Time); !errors.Is(err, ErrSignature) {
					t.Fatalf("a byte more: %v", err)
				}
			})
		})
	}
}

// Keys are per endpoint: what is signed for one partner is worth nothing at another.
func TestAnotherPartnersKeyVerifiesNothing(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		if k.Algorithm() == string(rsaV15) {
			continue // in the frozen vectors, where no key has to be made
		}
		var opts []KeyOption
		if !k.Asymmetric() {
			opts = append(opts, WithHMAC())
		}
		foreign, err := GenerateKey(k.Scheme(), opts...)
		if err != nil {
			t.Fatal(err)
		}
		m, h := message("{}"), http.Header{}
		if _, err := newSigner(t, k).Sign(h, m); err != nil {
			t.Fatal(err)
		}
		r := Request{Method: m.Method, URL: m.URL, Body: m.Body}
		if _, err := newVerifier(t, nil, foreign).Verify(h, r, at); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", way(k), err)
		}
		if got, err := newVerifier(t, nil, foreign, k).Verify(h, r, at); err != nil || got.KeyID != k.ID() {
			t.Errorf("%s with both keys: %+v, %v", way(k), got, err)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	for _, scheme := range Schemes() {
		if scheme == RSASHA256 {
			continue // in the frozen vectors, where no key has to be made
		}
		current, _ := GenerateKey(scheme)
		other, _ := GenerateKey(scheme)
		h := http.Header{}
		if id, err := newSigner(t, current, other).Sign(h, message("{}")); err != nil || id != current.ID() {
			t.Fatalf("%s: %q, %v", scheme, id, err)
		}
		r := Request{Method: "POST", URL: partnerURL, Body: []byte("{}")}
		if _, err := newVerifier(t, nil, current).Verify(h, r, at); err != nil {
			t.Errorf("%s: the current key: %v", scheme, err)
		}
		_, err := newVerifier(t, nil, other).Verify(h, r, at)
		if two := scheme.Facts().CarriesTwoSignatures; two != (err == nil) {
			t.Errorf("%s: two signatures: %v, the other key: %v", scheme, two, err)
		}
	}
	// The current key's signature is the last of the list, after exactly one space.
	current, _ := GenerateKey(Standard)
	other, _ := GenerateKey(Standard)
	alone, both := http.Header{}, http.Header{}
	newSigner(t, current).Sign(alone, message("{}"))
	newSigner(t, current, other).Sign(both, message("{}"))
	list := both.Get("webhook-signature")
	if len(both) != 3 || strings.Count(list, " ") != 1 || !strings.HasSuffix(list, " "+alone.Get("webhook-signature")) {
		t.Errorf("list %q, current %q", list, alone.Get("webhook-signature"))
	}
}

func TestKeyring(t *testing.T) {
	t.Parallel()
	a, _ := GenerateKey(Standard)
	b, _ := GenerateKey(Standard)
	c, _ := GenerateKey(TimestampHMAC)
	for name, keys := range map[string][]Key{
		"none": {{}}, "three": {a, b, a}, "the same twice": {a, a}, "two schemes": {a, c}, "an empty other": {a, {}},
	} {
		if _, err := NewKeyring(keys[0], keys[1:]...); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ring, err := NewKeyring(a, b)
	if err != nil {
		t.Fatal(err)
	}
	next := ring.Promote().Retire()
	if _, two := next.Other(); two || !next.Current().Equal(b) || !ring.Current().Equal(a) || len(ring.Keys()) != 2 {
		t.Errorf("promote and retire: %v of %v", next, ring)
	}
	if !next.Promote().Current().Equal(b) {
		t.Error("promoting without another key lost the current one")
	}
	if _, err := NewSigner(TimestampHMAC, ring); !errors.Is(err, ErrKey) {
		t.Errorf("keyring of another scheme: %v", err)
	}
	if _, err := NewSigner(Standard, Keyring{}); !errors.Is(err, ErrKey) {
		t.Errorf("empty keyring: %v", err)
	}
}

func TestKeysReadBack(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		again, err := ParseKey(k.Scheme(), k.Reveal())
		if err != nil || !again.Equal(k) || again.ID() != k.ID() || len(k.ID()) != 16 {
			t.Errorf("%s: %v, %v", way(k), again, err)
		}
		jwk, ok := k.JWK()
		if ok != k.Asymmetric() || ok != (k.PublicPEM() != "") || ok != (k.PublicText() != "") {
			t.Errorf("%s: asymmetric %v, JWK %v", way(k), k.Asymmetric(), ok)
		}
		if !ok {
			continue
		}
		for _, text := range []string{k.PublicText(), k.PublicPEM()} {
			public, err := ParsePublicKey(k.Scheme(), text)
			if err != nil || public.ID() != k.ID() || public.Text() != k.PublicText() || public.PEM() != k.PublicPEM() {
				t.Errorf("%s: public half: %v, %v", way(k), public, err)
			}
			if same, _ := public.JWK(); same != jwk || jwk.KeyID != k.ID() {
				t.Errorf("%s: JWK %+v, %+v", way(k), jwk, same)
			}
		}
	}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	ed, _ := GenerateKey(StandardEd25519)
	other, _ := GenerateKey(StandardEd25519)
	mixed, _ := decode64(ed.Reveal()[len(prefixPrivate):])
	stranger, _ := decode64(other.Reveal()[len(prefixPrivate):])
	mixed = append(mixed[:32:32], stranger[32:]...)
	rsaPEM := testKeys()[5].Reveal()
	secret := "c2VjcmV0" // shows in every text below, and must in no error
	for _, c := range []struct {
		name   string
		scheme Scheme
		text   string
	}{
		{"empty", Standard, ""},
		{"no prefix", Standard, strings.Repeat(secret, 4)},
		{"23 bytes", Standard, prefixSecret + strict64.EncodeToString(make([]byte, 23))},
		{"65 bytes", Standard, prefixSecret + strict64.EncodeToString(make([]byte, 65))},
		{"base64url", Standard, prefixSecret + strings.Repeat(secret, 4) + "-_=="},
		{"no padding", Standard, prefixSecret + strings.Repeat(secret, 4) + "AA"},
		{"line break", Standard, prefixSecret + strings.Repeat(secret, 4) + "\n"},
		{"Ed25519 for HMAC", Standard, ed.Reveal()},
		{"HMAC for Ed25519", StandardEd25519, prefixSecret + strings.Repeat(secret, 4)},
		{"seed alone", StandardEd25519, prefixPrivate + strict64.EncodeToString(make([]byte, 32))},
		{"public half of another", StandardEd25519, prefixPrivate + strict64.EncodeToString(mixed)},
		{"RSA for Ed25519", StandardEd25519, rsaPEM},
		{"RSA for RFC 9421", RFC9421, rsaPEM},
		{"Ed25519 for RSA", RSASHA256, ed.Reveal()},
		{"42 characters", TimestampHMAC, strings.Repeat("a", 42)},
		{"257 characters", TimestampHMAC, strings.Repeat("a", 257)},
		{"a plus sign", TimestampHMAC, strings.Repeat(secret, 6) + "+"},
		{"a newline", TimestampHMAC256, strings.Repeat(secret, 6) + "\n"},
		{"another scheme's form", TimestampHMAC256, prefixSecret + strings.Repeat(secret, 8)},
		{"another vendor's form", Slack, prefixSecret + strings.Repeat(secret, 8)},
		{"a private key for Stripe", Stripe, prefixPrivate + strings.Repeat(secret, 8)},
		{"Standard Webhooks' padding", Stripe, prefixSecret + strings.Repeat(secret, 5) + "AA=="},
		{"42 characters with a prefix", Stripe, prefixSecret + strings.Repeat("a", 36)},
		{"not PEM", RSASHA256, strings.Repeat(secret, 8)},
		{"public PEM", RSASHA256, testKeys()[5].PublicPEM()},
		{"two PEM blocks", RSASHA256, rsaPEM + rsaPEM},
		{"broken PEM", RSASHA256, strings.Replace(rsaPEM, "MII", "AAA", 1)},
		{"encrypted PEM", RSASHA256, strings.ReplaceAll(rsaPEM, "PRIVATE", "ENCRYPTED PRIVATE")},
		{"short RSA", RSASHA256, shortRSA},
		{"too long", RSASHA256, rsaPEM + strings.Repeat(" ", maxKeyTextBytes)},
	} {
		_, err := ParseKey(c.scheme, c.text)
		if !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if strings.Contains(err.Error(), secret) || len(err.Error()) > 160 {
			t.Errorf("%s: the error shows the key: %v", c.name, err)
		}
	}
	for _, text := range []string{"", "whpk_", "whpk_AAAA", ed.Reveal(), rsaPEM, testKeys()[5].PublicPEM()} {
		if _, err := ParsePublicKey(StandardEd25519, text); !errors.Is(err, ErrKey) {
			t.Errorf("public key %.12q: %v", text, err)
		}
	}
	if _, err := ParsePublicKey(Standard, ed.PublicText()); !errors.Is(err, ErrKey) {
		t.Errorf("public key for HMAC: %v", err)
	}
	if _, err := GenerateKey(RSASHA256, WithHMAC()); !errors.Is(err, ErrKey) {
		t.Errorf("HMAC for RSA: %v", err)
	}
}

// Where a vendor's secrets have a prefix, it is part of the key, as it is for the vendor's libraries.
func TestAVendorsPrefixIsPartOfTheKey(t *testing.T) {
	t.Parallel()
	rest := strings.Repeat("a", 43)
	with, err := ParseKey(Stripe, prefixSecret+rest)
	if err != nil {
		t.Fatal(err)
	}
	without, err := ParseKey(Stripe, rest)
	if err != nil {
		t.Fatal(err)
	}
	if with.Equal(without) || string(with.open().secret) != prefixSecret+rest || with.Reveal() != prefixSecret+rest {
		t.Error("the prefix is not part of the key")
	}
}

// A URL is refused where HubSpot's documentation and HubSpot's libraries read it differently.
func TestCheckURL(t *testing.T) {
	t.Parallel()
	const base = "https://hooks.partner.example/a"
	for _, s := range Schemes() {
		if err := s.CheckURL(partnerURL + "&x=%20%2B%C3%A9"); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		for _, escape := range strings.Fields(ambiguousEscapes) {
			for _, url := range []string{base + escape, base + strings.ToLower(escape) + "b?c", base + "?x=" + escape} {
				if err := s.CheckURL(url); (err != nil) != (s == HubSpotV3) {
					t.Errorf("%s, %s: %v", s, url, err)
				}
			}
		}
		if err := s.CheckURL("https://u:p@a.example/"); (err != nil) != s.Facts().CoversTarget {
			t.Errorf("%s: user information: %v", s, err)
		}
	}
	if err := Scheme("none").CheckURL(base); !errors.Is(err, ErrScheme) {
		t.Error(err)
	}
}

func TestKeysNeverShow(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		public, _ := k.Public()
		holder := struct {
			Key    Key
			hidden Key
			List   []Key
			Ring   Keyring
			Public PublicKey
		}{k, k, []Key{k}, Keyring{current: k}, public}
		s, v := newSigner(t, k), newVerifier(t, nil, k)
		var shown bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08b"} {
			fmt.Fprintf(&shown, strings.Repeat(verb, 7), k, &k, holder, holder.Ring, s, v, struct{ s *Signer }{s})
		}
		for _, value := range []any{k, &k, holder, map[string]Key{"k": k}} {
			raw, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			shown.Write(raw)
		}
		log := slog.New(slog.NewJSONHandler(&shown, nil))
		log.Info("key", "key", k, "holder", holder)
		slog.New(slog.NewTextHandler(&shown, nil)).Info("key", "key", k, "holder", holder)
		text := strings.NewReplacer("\n", "", `\n`, "").Replace(shown.String())
		secret := strings.NewReplacer("\n", "", "-----BEGIN PRIVATE KEY-----", "").Replace(k.Reveal())
		for _, form := range []string{secret[6:30], fmt.Sprintf("%x", secret[6:20]), fmt.Sprintf("%x", k.open().secret), fmt.Sprint(k.open().secret)} {
			if form != "" && form != "[]" && strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("%s: the secret shows", way(k))
			}
		}
		if !strings.Contains(text, k.ID()) {
			t.Errorf("%s: the id does not show", way(k))
		}
	}
}

func TestBadMessages(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Message){
		"no id":                  func(m *Message) { m.ID = "" },
		"dot in id":              func(m *Message) { m.ID = "evt.1" },
		"line break in id":       func(m *Message) { m.ID = "evt\r\nx: y" },
		"space in id":            func(m *Message) { m.ID = "evt 1" },
		"long id":                func(m *Message) { m.ID = strings.Repeat("a", maxID+1) },
		"no time":                func(m *Message) { m.Time = time.Time{} },
		"time too late":          func(m *Message) { m.Time = time.Unix(1e11, 0) },
		"line break in chunk":    func(m *Message) { m.Chunk = "1/2\nx: y" },
		"space after chunk":      func(m *Message) { m.Chunk = "1/2 " },
		"long chunk":             func(m *Message) { m.Chunk = strings.Repeat("a", maxChunk+1) },
		"line break in media":    func(m *Message) { m.ContentType = "a/b\n" },
		"line break in type":     func(m *Message) { m.Type = "contact.updated\nx: y" },
		"long type":              func(m *Message) { m.Type = strings.Repeat("a", maxType+1) },
		"relative URL":           func(m *Message) { m.URL = "/crm" },
		"other URL scheme":       func(m *Message) { m.URL = "ftp://hooks.partner.example/" },
		"userinfo in URL":        func(m *Message) { m.URL = "https://u:p@hooks.partner.example/" },
		"fragment in URL":        func(m *Message) { m.URL = partnerURL + "#" },
		"line break in URL":      func(m *Message) { m.URL = partnerURL + "\n\"@method\": GET" },
		"no host in URL":         func(m *Message) { m.URL = "https://:443/" },
		"long URL":               func(m *Message) { m.URL = partnerURL + strings.Repeat("a", maxURL) },
		"no method":              func(m *Message) { m.Method = "" },
		"line break in method":   func(m *Message) { m.Method = "POST\n" },
		"method in lower case":   func(m *Message) { m.Method = "post" },
		"method with much in it": func(m *Message) { m.Method = strings.Repeat("A", maxMethod+1) },
	} {
		m := message("{}")
		change(m)
		for _, k := range testKeys() {
			targetOnly := strings.Contains(name, "URL") || strings.Contains(name, "method")
			if targetOnly && !k.Scheme().Facts().CoversTarget {
				continue
			}
			h := http.Header{}
			if _, err := newSigner(t, k).Sign(h, m); !errors.Is(err, ErrMessage) || len(h) > 0 {
				t.Errorf("%s, %s: %v, header %v", way(k), name, err, h)
			}
		}
	}
}

func TestTargetURI(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://a.example":            "https://a.example/",
		"HTTPS://A.Example:443/x?":     "https://a.example/x?",
		"http://a.example:80/x":        "http://a.example/x",
		"https://a.example:8443/x":     "https://a.example:8443/x",
		"https://a.example:/x":         "https://a.example/x",
		"https://[2001:DB8::1]:443/":   "https://[2001:db8::1]/",
		"https://a.example?x=1":        "https://a.example/?x=1",
		"https://a.example/a%2Fb/../c": "https://a.example/a%2Fb/../c",
		"https://a.example//b":         "https://a.example//b",
	} {
		got, err := targetURI(raw)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
		if again, err := targetURI(got); again != got || err != nil {
			t.Errorf("%s: not stable: %q, %v", raw, again, err)
		}
	}
}

// The URL that a server puts together again is the one that the client's request had.
func TestVerifyRequestOverHTTP(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		t.Run(way(k), func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, nil, k)
			answer := make(chan error, 1)
			server := httptest.NewTLSServer(http.StripPrefix("/hooks", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body bytes.Buffer
				body.ReadFrom(r.Body)
				_, err := v.VerifyRequest(r, body.Bytes())
				answer <- err
			})))
			defer server.Close()
			m := message(`{"a":1}`)
			m.URL, m.Time, m.ContentType = server.URL+"/hooks/a%2Fb?x=%20y&z", time.Now(), "application/json"
			if k.Scheme().CheckURL(m.URL) != nil {
				m.URL = server.URL + "/hooks/a%20b?x=%20y&z"
			}
			r, err := http.NewRequest(m.Method, m.URL, bytes.NewReader(m.Body))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := newSigner(t, k).Sign(r.Header, m); err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if err := <-answer; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVerifierOptions(t *testing.T) {
	t.Parallel()
	k := testKeys()[2]
	if k.Scheme() != RFC9421 {
		t.Fatal("not the RFC 9421 key")
	}
	m := message("{}")
	m.Time = time.Now()
	r := httptest.NewRequest("POST", "http://10.0.0.7/crm?tenant=acme", nil)
	if _, err := newSigner(t, k).Sign(r.Header, m); err != nil {
		t.Fatal(err)
	}
	if _, err := newVerifier(t, nil, k).VerifyRequest(r, m.Body); !errors.Is(err, ErrSignature) {
		t.Errorf("behind a proxy, without the option: %v", err)
	}
	behind := []VerifierOption{WithExternalURL("https://hooks.partner.example")}
	if _, err := newVerifier(t, behind, k).VerifyRequest(r, m.Body); err != nil {
		t.Errorf("behind a proxy: %v", err)
	}
	narrow := newVerifier(t, []VerifierOption{WithTolerance(time.Second), behind[0]}, k)
	request := Request{Method: "POST", URL: partnerURL, Body: m.Body}
	if _, err := narrow.Verify(r.Header, request, m.Time.Add(3*time.Second)); !errors.Is(err, ErrStale) {
		t.Errorf("past a tolerance of a second: %v", err)
	}
	for name, bad := range map[string]VerifierOption{
		"no tolerance": WithTolerance(0), "a long one": WithTolerance(25 * time.Hour),
		"path": WithExternalURL("https://a.example/b"), "no scheme": WithExternalURL("a.example"), "query": WithExternalURL("https://a.example?x"),
	} {
		if _, err := NewVerifier(RFC9421, []VerifyingKey{k}, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, keys := range map[string][]VerifyingKey{
		"none": nil, "nil": {nil}, "empty": {Key{}}, "empty public": {PublicKey{}}, "of another scheme": {testKeys()[0]}, "nine": {k, k, k, k, k, k, k, k, k},
	} {
		if _, err := NewVerifier(RFC9421, keys); !errors.Is(err, ErrKey) {
			t.Errorf("keys %s: %v", name, err)
		}
	}
}

// One Signer serves an endpoint's concurrent deliveries.
func TestConcurrentSigning(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		s, v := newSigner(t, k), newVerifier(t, nil, k)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				m, h := message(fmt.Sprintf(`{"n":%d}`, i)), http.Header{}
				if _, err := s.Sign(h, m); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(h, Request{Method: m.Method, URL: m.URL, Body: m.Body}, at); err != nil {
					t.Errorf("%s: %v", way(k), err)
				}
			})
		}
		wg.Wait()
	}
}

func TestReplayKey(t *testing.T) {
	t.Parallel()
	for _, k := range testKeys() {
		s, v := newSigner(t, k), newVerifier(t, nil, k)
		replay := func(body string, later time.Duration) string {
			m, h := message(body), http.Header{}
			m.Time = at.Add(later)
			if _, err := s.Sign(h, m); err != nil {
				t.Fatal(err)
			}
			got, err := v.Verify(h, Request{Method: m.Method, URL: m.URL, Body: m.Body}, at)
			if err != nil || len(got.ReplayKey) > 300 {
				t.Fatalf("%s: %v, %d bytes", way(k), err, len(got.ReplayKey))
			}
			return got.ReplayKey
		}
		if replay("a", 0) != replay("a", 0) {
			t.Errorf("%s: one attempt, two replay keys", way(k))
		}
		if same := replay("a", 0) == replay("a", time.Second); same != k.Scheme().Facts().Replayable {
			t.Errorf("%s: the same replay key a second later: %v", way(k), same)
		}
		if !k.Scheme().Facts().CoversID && replay("a", 0) == replay("b", 0) {
			t.Errorf("%s: two bodies, one replay key", way(k))
		}
	}
}

func BenchmarkSign(b *testing.B) {
	body := strings.Repeat("x", 1024)
	for _, k := range testKeys() {
		b.Run(way(k), func(b *testing.B) {
			s, m, h := newSigner(b, k), message(body), http.Header{}
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := s.Sign(h, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	body := strings.Repeat("x", 1024)
	for _, k := range testKeys() {
		b.Run(way(k), func(b *testing.B) {
			v, m, h := newVerifier(b, nil, k), message(body), http.Header{}
			if _, err := newSigner(b, k).Sign(h, m); err != nil {
				b.Fatal(err)
			}
			r := Request{Method: m.Method, URL: m.URL, Body: m.Body}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(h, r, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// shortRSA is a key of 1024 bits, which protects nothing.
const shortRSA = `-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBAKNCbElYRt/tOBym
k/ofKt4dlioEqTkmIGUU34W/p3W/vVLu2BwTI64VgpSZWd1Cyz29f4cnGY8e4kwW
my6ZaTnjnKuscgB48bZAPEW39FbLnZLcI1BxOQK6yse14180W2G3qIVKn8gLy6jQ
ezghcjPuub3l7RyQ8yVHxbkZPOsPAgMBAAECgYBAuAgtWy1df7CKyw5GTSy1OI1a
wtZCrXaSG6AwaTV9XDE1OzG4j23JiQVm2xPgvqXLJ9/yN/HN5rRW7W8/Hdm0Uwj4
R05IOrmIi5usx2ssgvmehxN8dM/CwlgksCuGsbf4VJ09iHj62sVw/vTnP21Th+3G
v74CUadQpzeHTuLEIQJBAM8ZrPjdlykkLS+Fkh5KHt4Z4oN8aL8cJUAit63TBVtd
gCQtTcAablmwHoIXqJYoJU7IGn0B+zP2BraMTbD94E0CQQDJzsHXlGp7+DqeSjpU
VaJ8Dqauyw2cKBAvdq9sIuMeGWl5GOUbiwhimtA5cNx6klq4/7j0cJu/+6No+tfa
c0bLAkA3URNbkcyLZ6dOFy5VOtUN2/odxsAvs7Pbcqp/GmtG4S2V/CfVVPn+qMUt
WGZmXSjB5z7z/vB7C471eXpS+SzNAkA8hTrwsdu1Td4WdmBDxmKyHZqzNMXiHMmt
0kQNg/Dkp+5PmL2soudi2tazQzt7rsRyUo5fEB5FVuvMod1177g9AkEAh22unCCz
kTbGdewnqTTNbM5+hHDyB3PfJKDsgZNH3ShkEJqD/X77jzWA1veBcu0LoVKaD0kz
nMFAEJ2ky6zdPA==
-----END PRIVATE KEY-----`

func TestKeyEqual(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a", 43)
	one, _ := ParseKey(TimestampHMAC, text)
	same, _ := ParseKey(TimestampHMAC, text)
	elsewhere, _ := ParseKey(TimestampHMAC256, text)
	if !one.Equal(same) || one.Equal(elsewhere) || one.Equal(Key{}) || (Key{}).Equal(one) || !(Key{}).Equal(Key{}) {
		t.Error("equal means the same secret for the same scheme")
	}
}

func TestDictionaryBounds(t *testing.T) {
	t.Parallel()
	list := func(n int, one, between string) string {
		return strings.TrimSuffix(strings.Repeat(one+between, n), between)
	}
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d=1, ", i)
		}
		return strings.TrimSuffix(b.String(), ", ")
	}
	parameters := func(n int) string { return "a=1;" + strings.ReplaceAll(members(n), ", ", ";") }
	for text, good := range map[string]bool{
		members(maxMembers): true, members(maxMembers + 1): false,
		"a=(" + list(maxItems, "1", " ") + ")": true, "a=(" + list(maxItems+1, "1", " ") + ")": false,
		parameters(maxParams): true, parameters(maxParams + 1): false,
		strings.Repeat("a", maxKeyBytes): true, strings.Repeat("a", maxKeyBytes+1): false,
		`a="` + strings.Repeat("a", maxFieldBytes-4) + `"`: true, `a="` + strings.Repeat("a", maxFieldBytes-3) + `"`: false,
		"a=999999999999999": true, "a=1000000000000000": false, "a=1.5": false, "a=-": false, "a=@1": false,
		"a=\"\x1f\"": false, "a=\"\x7f\"": false, "a=\"\xc3\xa9\"": false, `a="\n"`: false, `a="`: false,
		"a=?1": true, "a=?2": false, "a=?": false, "a=:AA==:": true, "a=:AB==:": false, "a=:AA:": false, "a=:": false,
		"": false, ",": false, "a,": false, "a, ,b": false, "a b": false, "A": false, "a=": false, "a=()": true, "a=(": false, "a=(1": false,
		"a,a": false, "a;b;b": false, "a=(1\t2)": false,
	} {
		if _, err := parseDictionary(text); (err == nil) != good {
			t.Errorf("%.60q: %v", text, err)
		}
	}
}
