package readme_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// pages are what partners read about the schemes.
const pages = "../../deploy/schemes"

// exampleTime is when the examples were signed; "2026-01-02T03:04:05Z" in them.
var exampleTime = time.Unix(1767323045, 0)

var (
	fenced   = regexp.MustCompile("(?s)```([a-z-]+)\n(.*?)\n```\n")
	tableRow = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|")
)

// page is one scheme's, taken apart. It makes nothing: what is in it stands there as it is read.
type page struct {
	scheme signer.Scheme
	text   string
	blocks map[string]string
	header http.Header
	body   []byte
}

func readPage(t *testing.T, scheme signer.Scheme) page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(pages, string(scheme)+".md"))
	if err != nil {
		t.Fatal(err)
	}
	p := page{scheme: scheme, text: string(text), blocks: map[string]string{}, header: http.Header{}}
	for _, m := range fenced.FindAllStringSubmatch(p.text, -1) {
		if _, twice := p.blocks[m[1]]; twice {
			t.Fatalf("%s: two blocks %s", scheme, m[1])
		}
		p.blocks[m[1]] = m[2]
	}
	head, body, ok := strings.Cut(p.blocks["http"], "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || lines[0] != "POST /crm?tenant=acme HTTP/1.1" || lines[1] != "Host: hooks.partner.example" {
		t.Fatalf("%s: the request is %q", scheme, p.blocks["http"])
	}
	for _, line := range lines[2:] {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("%s: header line %q", scheme, line)
		}
		p.header.Add(name, value)
	}
	p.body = []byte(body)
	return p
}

const exampleURL = "https://hooks.partner.example/crm?tenant=acme"

// TestSchemePages holds what partners are told of each scheme against the scheme: the headers, what is signed and with which
// result, what a key has to look like, and the command that verifies it.
func TestSchemePages(t *testing.T) {
	t.Parallel()
	index, err := os.ReadFile(filepath.Join(pages, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(pages, "*.md"))
	if err != nil || len(files) != len(signer.Schemes())+1 {
		t.Errorf("%d pages for %d schemes and an index: %v", len(files), len(signer.Schemes()), err)
	}
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := readPage(t, scheme)
			if want := "| [" + string(scheme) + "](" + string(scheme) + ".md) |"; !strings.Contains(string(index), want) {
				t.Errorf("the index has no line %q", want)
			}
			p.checkFacts(t)
			p.checkKeys(t)
			p.checkSigned(t)
			p.checkCommand(t)
		})
	}
}

func (p *page) checkFacts(t *testing.T) {
	t.Helper()
	facts := p.scheme.Facts()
	told := map[string]bool{}
	for _, m := range tableRow.FindAllStringSubmatch(p.text, -1) {
		told[textproto.CanonicalMIMEHeaderKey(m[1])] = true
	}
	for _, name := range append(facts.Headers, signer.HeaderID) {
		if !told[name] || p.header.Get(name) == "" {
			t.Errorf("%s: told of in the table %v, in the example %q", name, told[name], p.header.Get(name))
		}
		delete(told, name)
	}
	if len(told) != 0 || len(p.header) != len(facts.Headers)+2 {
		t.Errorf("headers that the scheme does not have: %v, %v", told, p.header)
	}
	for text, want := range map[string]bool{
		"**Replayable.**":                            facts.Replayable,
		"carries the signatures of both keys":        facts.CarriesTwoSignatures,
		"the endpoint names the one that signs":      !facts.CarriesTwoSignatures,
		"not signed by this one":                     !facts.CoversID,
		"Their place is in the signed id":            facts.CoversID,
		"chunking is refused at registration":        !facts.CoversID && !facts.CoversChunk,
		"for the scheme signs the URL":               facts.CoversTarget,
		"43 or more characters of `A-Z a-z 0-9 - _`": facts.TextSecret,
		"more than five minutes from your clock":     !facts.Replayable,
	} {
		if strings.Contains(p.text, text) != want {
			t.Errorf("says %q: %v", text, !want)
		}
	}
}

// keys are the signing key and what a partner holds of it.
func (p *page) keys(t *testing.T) (signer.Key, signer.VerifyingKey) {
	t.Helper()
	if text := p.blocks["key"]; text != "" {
		key, err := signer.ParseKey(p.scheme, text)
		if err != nil {
			t.Fatal(err)
		}
		return key, key
	}
	private, err := signer.ParseKey(p.scheme, p.blocks["private-key"])
	if err != nil {
		t.Fatal(err)
	}
	public, err := signer.ParsePublicKey(p.scheme, p.blocks["public-key"])
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

// checkKeys: the request verifies with the key, is what the signer makes, and with a byte changed is neither.
func (p *page) checkKeys(t *testing.T) {
	t.Helper()
	key, half := p.keys(t)
	v, err := signer.NewVerifier(p.scheme, []signer.VerifyingKey{half})
	if err != nil {
		t.Fatal(err)
	}
	r := signer.Request{Method: http.MethodPost, URL: exampleURL, Body: p.body}
	if _, err := v.Verify(p.header, r, exampleTime); err != nil {
		t.Errorf("the example: %v", err)
	}
	r.Body = append(slices.Clone(p.body), ' ')
	if _, err := v.Verify(p.header, r, exampleTime); !errors.Is(err, signer.ErrSignature) {
		t.Errorf("the example with a byte more: %v", err)
	}
	if p.scheme == signer.RFC9421 {
		return // a nonce makes each signature another
	}
	ring, err := signer.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.NewSigner(p.scheme, ring)
	if err != nil {
		t.Fatal(err)
	}
	made := http.Header{}
	m := signer.Message{
		ID: p.header.Get(signer.HeaderID), Time: exampleTime, Method: http.MethodPost, URL: exampleURL,
		Type: "contact.updated", ContentType: "application/json", Body: p.body,
	}
	if _, err := s.Sign(made, &m); err != nil {
		t.Fatal(err)
	}
	for name := range made {
		if made.Get(name) != p.header.Get(name) {
			t.Errorf("%s is %q on the page, and made %q", name, p.header.Get(name), made.Get(name))
		}
	}
}

// checkSigned makes the signature of the bytes that the page says are signed, without the signer.
func (p *page) checkSigned(t *testing.T) {
	t.Helper()
	signed := []byte(p.blocks["signed"])
	if text := p.blocks["signed-hex"]; text != "" {
		var err error
		if signed, err = hex.DecodeString(strings.ReplaceAll(text, "\n", "")); err != nil {
			t.Fatal(err)
		}
	}
	value := p.header.Get(p.scheme.Facts().SignatureHeader)
	if !p.scheme.Facts().Asymmetric {
		key := []byte(p.blocks["key"])
		if text, ok := strings.CutPrefix(p.blocks["key"], "whsec_"); ok {
			var err error
			if key, err = base64.StdEncoding.DecodeString(text); err != nil {
				t.Fatal(err)
			}
		}
		mac := hmac.New(sha256.New, key)
		mac.Write(signed)
		sum := mac.Sum(nil)
		if !strings.HasSuffix(value, hex.EncodeToString(sum)) && !strings.HasSuffix(value, base64.StdEncoding.EncodeToString(sum)) {
			t.Errorf("%q is not the HMAC of what the page says is signed", value)
		}
		return
	}
	value = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(value, "v1a,"), "sealpost=:"), ":")
	signature, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := strings.CutPrefix(p.blocks["public-key"], "whpk_"); ok {
		public, err := base64.StdEncoding.DecodeString(text)
		if err != nil || !ed25519.Verify(public, signed, signature) {
			t.Errorf("%q is not the signature of what the page says is signed (%v)", value, err)
		}
		return
	}
	block, _ := pem.Decode([]byte(p.blocks["public-key"] + "\n"))
	if block == nil {
		t.Fatalf("no PEM in %q", p.blocks["public-key"])
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(signed)
	if err := rsa.VerifyPKCS1v15(public.(*rsa.PublicKey), crypto.SHA256, digest[:], signature); err != nil {
		t.Errorf("%q is not the signature of what the page says is signed: %v", value, err)
	}
}

// checkCommand runs the page's command on the page's files.
func (p *page) checkCommand(t *testing.T) {
	t.Helper()
	room := t.TempDir()
	key := p.blocks["key"]
	if key == "" {
		key = p.blocks["public-key"]
	}
	for name, text := range map[string]string{"key.txt": key + "\n", "request.http": p.blocks["http"]} {
		if err := os.WriteFile(filepath.Join(room, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func() ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", p.blocks["sh"])
		cmd.Dir = room
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+string(os.PathListSeparator)+os.Getenv("PATH"))
		return cmd.CombinedOutput()
	}
	if out, err := run(); err != nil || !bytes.Contains(out, []byte("verified")) || bytes.Contains(out, []byte("not verified")) {
		t.Errorf("%s: %v\n%s", p.blocks["sh"], err, out)
	}
	if err := os.WriteFile(filepath.Join(room, "request.http"), []byte(p.blocks["http"]+" "), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil || !bytes.Contains(out, []byte("not verified")) {
		t.Errorf("with a byte more, %s: %v\n%s", p.blocks["sh"], err, out)
	}
}
