package signer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const vectorFolder = "../test/vectors"

// vectorFile is one scheme's file of frozen deliveries.
type vectorFile struct {
	Scheme Scheme            `json:"scheme"`
	Keys   map[string]string `json:"keys"`
	Cases  []vectorCase      `json:"cases"`
}

type vectorCase struct {
	Name    string              `json:"name"`
	Class   string              `json:"class"`
	Keys    []string            `json:"keys"` // those the receiver trusts
	Now     int64               `json:"now"`
	Method  string              `json:"method"`
	URL     string              `json:"url"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
	// Sign is there where signing again must give the same headers.
	Sign *struct {
		ID    string   `json:"id"`
		Time  int64    `json:"time"`
		Keys  []string `json:"keys"` // the current one first
		Chunk string   `json:"chunk"`
		Type  string   `json:"type"`
	} `json:"sign"`
}

// classes are the answers a vector may name.
var classes = map[string]error{
	"good": nil, "unsigned": ErrMissing, "malformed": ErrMalformed, "stale": ErrStale, "signature": ErrSignature,
}

func readVectors(t testing.TB, name string, into any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(vectorFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (f *vectorFile) key(t testing.TB, name string) Key {
	t.Helper()
	k, err := ParseKey(f.Scheme, f.Keys[name])
	if err != nil {
		t.Fatalf("key %s: %v", name, err)
	}
	return k
}

// trusted gives the receiver's keys: where the key has a public half, only that.
func (f *vectorFile) trusted(t testing.TB, names []string) []VerifyingKey {
	var keys []VerifyingKey
	for _, name := range names {
		k := f.key(t, name)
		if public, ok := k.Public(); ok {
			parsed, err := ParsePublicKey(f.Scheme, public.Text())
			if err != nil {
				t.Fatalf("public half of %s: %v", name, err)
			}
			keys = append(keys, parsed)
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

func (c *vectorCase) header() http.Header {
	h := http.Header{}
	for name, values := range c.Headers {
		for _, value := range values {
			h.Add(name, value)
		}
	}
	return h
}

func TestFrozenDeliveries(t *testing.T) {
	t.Parallel()
	for _, scheme := range Schemes() {
		var file vectorFile
		readVectors(t, string(scheme)+".json", &file)
		if file.Scheme != scheme || len(file.Cases) < 20 {
			t.Fatalf("%s.json: scheme %q with %d cases", scheme, file.Scheme, len(file.Cases))
		}
		for _, c := range file.Cases {
			t.Run(string(scheme)+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				want, known := classes[c.Class]
				if !known {
					t.Fatalf("unknown class %q", c.Class)
				}
				v, err := NewVerifier(scheme, file.trusted(t, c.Keys))
				if err != nil {
					t.Fatal(err)
				}
				got, err := v.Verify(c.header(), Request{Method: c.Method, URL: c.URL, Body: []byte(c.Body)}, time.Unix(c.Now, 0))
				if want == nil && err != nil || !errors.Is(err, want) {
					t.Fatalf("got %v, want %v", err, want)
				}
				if err != nil {
					if got != (Verified{}) {
						t.Fatalf("a refused delivery still gave %+v", got)
					}
					return
				}
				if got.KeyID == "" || got.Time.IsZero() != scheme.Facts().Replayable || got.ReplayKey == "" {
					t.Fatalf("incomplete: %+v", got)
				}
				if c.Sign != nil {
					c.checkSigning(t, &file)
				}
			})
		}
	}
}

func (c *vectorCase) checkSigning(t *testing.T, file *vectorFile) {
	t.Helper()
	var others []Key
	for _, name := range c.Sign.Keys[1:] {
		others = append(others, file.key(t, name))
	}
	ring, err := NewKeyring(file.key(t, c.Sign.Keys[0]), others...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(file.Scheme, ring)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	keyID, err := s.Sign(h, &Message{
		ID: c.Sign.ID, Time: time.Unix(c.Sign.Time, 0), Method: c.Method, URL: c.URL, Type: c.Sign.Type, Chunk: c.Sign.Chunk, Body: []byte(c.Body),
	})
	if err != nil || keyID != ring.Current().ID() {
		t.Fatalf("Sign: key %q, %v", keyID, err)
	}
	want := c.header()
	if len(h) != len(want) {
		t.Fatalf("headers %v, want %v", h, want)
	}
	for name := range want {
		if h.Get(name) != want.Get(name) {
			t.Errorf("%s: %q, want %q", name, h.Get(name), want.Get(name))
		}
	}
}

// What vendors publish with a secret and a signature is what we make and accept of it. Their secrets are shorter than any
// that ParseKey takes, so the keys are made from within.
func TestVendorsVectors(t *testing.T) {
	t.Parallel()
	var file struct {
		Cases []struct {
			Scheme  Scheme            `json:"scheme"`
			Source  string            `json:"source"`
			Secret  string            `json:"secret"`
			Headers map[string]string `json:"headers"`
			Time    int64             `json:"time"`
			Method  string            `json:"method"`
			URL     string            `json:"url"`
			Body    string            `json:"body"`
		} `json:"cases"`
	}
	readVectors(t, "vendors.json", &file)
	if len(file.Cases) != 3 {
		t.Fatalf("%d cases, want GitHub's, Slack's and HubSpot's", len(file.Cases))
	}
	for _, c := range file.Cases {
		if c.Source == "" || len(c.Headers) == 0 {
			t.Errorf("%s: no source or no header", c.Scheme)
		}
		k, err := newHMACKey(c.Scheme, []byte(c.Secret), c.Secret)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(c.Time, 0)
		published, made := http.Header{}, http.Header{}
		for name, value := range c.Headers {
			published.Set(name, value)
		}
		m := Message{ID: "evt_1", Time: at, Method: c.Method, URL: c.URL, Body: []byte(c.Body)}
		if _, err := newSigner(t, k).Sign(made, &m); err != nil {
			t.Fatal(err)
		}
		for name := range published {
			if made.Get(name) != published.Get(name) {
				t.Errorf("%s: %s %q, published %q", c.Scheme, name, made.Get(name), published.Get(name))
			}
		}
		r := Request{Method: c.Method, URL: c.URL, Body: []byte(c.Body)}
		if _, err := newVerifier(t, nil, k).Verify(published, r, at); err != nil {
			t.Errorf("%s: what is published is refused: %v", c.Scheme, err)
		}
		r.Body = append(r.Body, '\n')
		if _, err := newVerifier(t, nil, k).Verify(published, r, at); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: a byte more: %v", c.Scheme, err)
		}
	}
}

func TestRFC9421AppendixB(t *testing.T) {
	t.Parallel()
	var file struct {
		Messages map[string]struct {
			Method  string            `json:"method"`
			URL     string            `json:"url"`
			Status  int               `json:"status"`
			Headers map[string]string `json:"headers"`
			Body    string            `json:"body"`
		} `json:"messages"`
		Cases []struct {
			Section        string `json:"section"`
			Label          string `json:"label"`
			Algorithm      string `json:"algorithm"`
			Message        string `json:"message"`
			SignatureInput string `json:"signatureInput"`
			Base           string `json:"base"`
			Signature      string `json:"signature"`
			Key            string `json:"key"`
		} `json:"cases"`
	}
	readVectors(t, "rfc9421-appendix-b.json", &file)
	if len(file.Cases) != 6 {
		t.Fatalf("%d cases, want B.2.1 to B.2.6", len(file.Cases))
	}
	for _, c := range file.Cases {
		t.Run(c.Section, func(t *testing.T) {
			t.Parallel()
			from := file.Messages[c.Message]
			m := httpMessage{header: http.Header{}, method: from.Method, status: from.Status}
			for name, value := range from.Headers {
				m.header.Set(name, value)
			}
			if from.URL != "" {
				var err error
				if m.uri, err = targetURI(from.URL); err != nil {
					t.Fatal(err)
				}
			}
			inputs, err := parseDictionary(c.SignatureInput)
			if err != nil || len(inputs) != 1 || inputs[0].name != c.Label {
				t.Fatalf("signature-input: %v, %v", inputs, err)
			}
			if again := string(appendMember(nil, inputs[0])); again != c.SignatureInput {
				t.Errorf("signature-input again: %s", again)
			}
			base, err := appendBase(nil, &m, inputs[0].list, inputs[0].params)
			if err != nil {
				t.Fatal(err)
			}
			if string(base) != c.Base {
				t.Fatalf("base:\n%s\nwant:\n%s", base, c.Base)
			}
			if checkDigest(m.header, []byte(from.Body)) != nil {
				t.Error("content-digest is not the body's")
			}
			signature, err := base64.StdEncoding.DecodeString(c.Signature)
			if err != nil {
				t.Fatal(err)
			}
			checkPublished(t, c.Algorithm, c.Key, base, signature)
		})
	}
}

// checkPublished makes the published signature again where the algorithm has one
// result for one content, and checks it where the RFC's key is at hand.
func checkPublished(t *testing.T, algorithm, keyText string, base, signature []byte) {
	t.Helper()
	k := key{algorithm: hmacSHA256}
	switch algorithm {
	case "rsa-pss-sha512": // B.2.1 to B.2.3: only the base is in question
		return
	case "hmac-sha256":
		k.secret, _ = base64.StdEncoding.DecodeString(keyText)
		mac := hmac.New(sha256.New, k.secret)
		mac.Write(base)
		if !hmac.Equal(mac.Sum(nil), signature) {
			t.Error("HMAC is not the published one")
		}
	case "ed25519":
		parsed, err := ParseKey(RFC9421, keyText)
		if err != nil {
			t.Fatal(err)
		}
		k = *parsed.open()
		if string(ed25519.Sign(k.private, base)) != string(signature) {
			t.Error("Ed25519 signature is not the published one")
		}
	case "ecdsa-p256-sha256":
		block, _ := pem.Decode([]byte(keyText))
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(base)
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if !ecdsa.Verify(public.(*ecdsa.PublicKey), digest[:], r, s) {
			t.Error("published ECDSA signature is not over this base")
		}
		return
	default:
		t.Fatalf("unknown algorithm %q", algorithm)
	}
	f, _ := formatOf(RFC9421)
	c := content{base: base}
	if !k.verify(f, &c, [][]byte{signature}) {
		t.Error("published signature is refused")
	}
	c.base = append([]byte("x"), base...)
	if k.verify(f, &c, [][]byte{signature}) {
		t.Error("published signature is accepted over another base")
	}
}
