package onboard

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/test/rig"
)

const host = "hooks.partner.example"

// site is a real TLS server with a certificate for host, and what it hands out.
type site struct {
	*httptest.Server
	key   crypto.Signer
	leaf  *x509.Certificate
	roots []*x509.Certificate
	serve func(w http.ResponseWriter, r *http.Request)
	hits  atomic.Int64
}

func newSite(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) *site {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	make := func(template, parent *x509.Certificate, public any) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root = make(root, root, &rootKey.PublicKey)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: root.NotBefore,
		NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(leaf)
	}
	s := &site{key: key, roots: []*x509.Certificate{root}, leaf: make(leaf, root, key.Public())}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		if s.serve == nil {
			http.NotFound(w, r)
			return
		}
		s.serve(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{s.leaf.Raw}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// world is a prover, a zone and a site.
type world struct {
	zone *rig.Zone
	*site
	prover    *Prover
	ep        *relay.Endpoint
	challenge Challenge
}

func digest(purpose string, data []byte) []byte {
	sum := sha256.Sum256(append([]byte(purpose+"\x00key"), data...))
	return sum[:]
}

func newWorld(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) *world {
	t.Helper()
	w := &world{zone: rig.NewZone(t), site: newSite(t, key, change)}
	at, err := relay.ParseEndpointURL("https://"+host+":"+w.port()+"/crm?secret=1", false)
	if err != nil {
		t.Fatal(err)
	}
	w.ep = &relay.Endpoint{ID: "ep_1", Tenant: "acme", URL: at}
	w.prover = w.proverWith(netip.MustParsePrefix("127.0.0.0/8"))
	w.challenge = NewChallenge("acme", "ep_1", at.URL(), digest, time.Now())
	return w
}

func (w *world) port() string { return w.URL[strings.LastIndexByte(w.URL, ':')+1:] }

func (w *world) proverWith(allow ...netip.Prefix) *Prover {
	pool := egress.NewPool(egress.Options{Guard: egress.Guard{Allow: allow}, Resolver: egress.NameServer(w.zone.Address)})
	return &Prover{Pool: pool, Trust: func(*relay.Endpoint) (egress.Trust, error) { return egress.Trust{Roots: w.roots}, nil }}
}

func (w *world) prove(t *testing.T, e Evidence) (Result, map[Method]Check) {
	t.Helper()
	r := w.prover.Prove(t.Context(), w.ep, w.challenge, e)
	by := map[Method]Check{}
	for _, c := range r.Checks {
		by[c.Method] = c
	}
	if len(by) != 3 {
		t.Fatalf("checks: %+v", r.Checks)
	}
	return r, by
}

func (w *world) handOut(body string) {
	w.serve = func(out http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/sealpost-challenge/ep_1" || r.URL.RawQuery != "" || r.Method != http.MethodGet {
			http.NotFound(out, r)
			return
		}
		io.WriteString(out, body)
	}
}

func TestDNS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ecKey(t), nil)
	name := "_sealpost-challenge." + host
	if r, by := w.prove(t, Evidence{}); r.Proven || !strings.Contains(by[DNS].Detail, "no TXT record") {
		t.Errorf("nothing there: %+v", r)
	}
	w.zone.TXT(name, "v=spf1 -all", w.challenge.Value+"x")
	if r, by := w.prove(t, Evidence{}); r.Proven || !strings.Contains(by[DNS].Detail, "2 TXT records") {
		t.Errorf("other values: %+v", r)
	}
	w.zone.TXT(host, w.challenge.Value)
	if r, _ := w.prove(t, Evidence{}); r.Proven {
		t.Errorf("a record at the host itself: %+v", r)
	}
	w.zone.TXT(name, "v=spf1 -all", w.challenge.Value)
	r, _ := w.prove(t, Evidence{})
	if !r.Proven || r.Method != DNS || r.CertificateExpireTime.IsZero() {
		t.Errorf("the record is there: %+v", r)
	}
	// Another endpoint's and another tenant's record proves nothing here.
	for _, other := range []Challenge{NewChallenge("acme", "ep_2", w.challenge.URL, digest, time.Now()), NewChallenge("globex", "ep_1", w.challenge.URL, digest, time.Now())} {
		w.zone.TXT(name, other.Value)
		if r, _ := w.prove(t, Evidence{}); r.Proven {
			t.Errorf("another's record: %+v", r)
		}
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ecKey(t), nil)
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request){
		"another content":                func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, w.challenge.Value+"x") },
		"a page that holds it":           func(out http.ResponseWriter, _ *http.Request) { io.WriteString(out, "<p>"+w.challenge.Value+"</p>") },
		"what was asked for, said again": func(out http.ResponseWriter, r *http.Request) { io.WriteString(out, r.URL.String()) },
		"an error with it": func(out http.ResponseWriter, _ *http.Request) {
			out.WriteHeader(http.StatusNotFound)
			io.WriteString(out, w.challenge.Value)
		},
		"a redirect to it": func(out http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/other" {
				io.WriteString(out, w.challenge.Value)
				return
			}
			http.Redirect(out, r, "/other", http.StatusFound)
		},
		"one without end": func(out http.ResponseWriter, _ *http.Request) {
			for range 1 << 16 {
				if _, err := io.WriteString(out, strings.Repeat("a", 1<<10)); err != nil {
					return
				}
			}
		},
		"a header without end": func(out http.ResponseWriter, _ *http.Request) {
			out.Header().Set("X", strings.Repeat("a", 1<<20))
			io.WriteString(out, w.challenge.Value)
		},
	} {
		w.serve = serve
		if r, by := w.prove(t, Evidence{}); r.Proven || by[HTTPS].Detail == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	w.handOut("  " + w.challenge.Value + "\n")
	if r, _ := w.prove(t, Evidence{}); !r.Proven || r.Method != HTTPS {
		t.Errorf("the file is there: %+v", r)
	}
}

// TestCertificate: the key of the certificate that the server shows signs the nonce, and no other does.
func TestCertificate(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "ECDSA": ecKey(t), "Ed25519": edKey} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, key, nil)
			sign := func(key crypto.Signer, text string, o crypto.SignerOpts) []byte {
				message := []byte(text)
				if _, ok := key.(ed25519.PrivateKey); ok {
					o = crypto.Hash(0)
				} else {
					sum := sha256.Sum256(message)
					message = sum[:]
				}
				out, err := key.Sign(rand.Reader, message, o)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			good := sign(key, w.challenge.Nonces[0], crypto.SHA256)
			for what, signature := range map[string][]byte{
				"another key's":                 sign(ecKey(t), w.challenge.Nonces[0], crypto.SHA256),
				"over another endpoint's nonce": sign(key, NewChallenge("acme", "ep_2", w.challenge.URL, digest, time.Now()).Nonces[0], crypto.SHA256),
				"over a nonce of two days ago":  sign(key, NewChallenge("acme", "ep_1", w.challenge.URL, digest, time.Now().Add(-48*time.Hour)).Nonces[0], crypto.SHA256),
				"a changed one":                 append([]byte{good[0] ^ 1}, good[1:]...), "a long one": make([]byte, MaxSignature+1),
			} {
				if r, _ := w.prove(t, Evidence{Signature: signature}); r.Proven {
					t.Errorf("%s: %+v", what, r)
				}
			}
			signatures := [][]byte{good, sign(key, w.challenge.Nonces[1], crypto.SHA256)}
			if name == "RSA" {
				signatures = append(signatures, sign(key, w.challenge.Nonces[0], &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}))
			}
			var proven Result
			for i, signature := range signatures {
				if proven, _ = w.prove(t, Evidence{Signature: signature}); !proven.Proven || proven.Method != Certificate {
					t.Errorf("signature %d: %+v", i, proven)
				}
			}
			// Proven again by the handshake alone, while the server holds the same key; another key has to sign.
			if r, _ := w.prove(t, Evidence{Key: proven.Key}); !r.Proven {
				t.Errorf("the same key: %+v", r)
			}
			if r, by := w.prove(t, Evidence{Key: make([]byte, sha256.Size)}); r.Proven || !strings.Contains(by[Certificate].Detail, "another key") {
				t.Errorf("another key: %+v", r)
			}
		})
	}
}

// TestNotTheName: a certificate that is not for the name, or of roots that are not trusted, proves nothing, though its key signs.
func TestNotTheName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ecKey(t), func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} })
	sum := sha256.Sum256([]byte(w.challenge.Nonces[0]))
	signature, err := w.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	w.handOut(w.challenge.Value)
	if r, by := w.prove(t, Evidence{Signature: signature}); r.Proven || !strings.Contains(by[Certificate].Detail, "TLS_HOSTNAME") {
		t.Errorf("%+v", r)
	}
	w.roots = newSite(t, ecKey(t), nil).roots
	if r, _ := w.prove(t, Evidence{Signature: signature}); r.Proven {
		t.Errorf("roots that are not its own: %+v", r)
	}
}

// TestGuarded: what the guard refuses is not gone to, by no method, and where a name leads is not told; addresses found in a certificate are not followed.
func TestGuarded(t *testing.T) {
	t.Parallel()
	var followed atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	t.Cleanup(trap.Close)
	w := newWorld(t, ecKey(t), func(c *x509.Certificate) {
		c.OCSPServer, c.IssuingCertificateURL, c.CRLDistributionPoints = []string{trap.URL}, []string{trap.URL}, []string{trap.URL}
		c.URIs = []*url.URL{{Scheme: "http", Host: strings.TrimPrefix(trap.URL, "http://")}}
	})
	w.handOut(w.challenge.Value)
	if r, _ := w.prove(t, Evidence{}); !r.Proven {
		t.Fatalf("%+v", r)
	}
	if s := w.prover.Look(t.Context(), w.ep); s.Error != "" || s.Names[0] != host || len(s.Addresses) != 1 || s.Expire.IsZero() || s.SHA256 == "" {
		t.Errorf("look: %+v", s)
	}
	if n := followed.Load(); n > 0 {
		t.Errorf("addresses in a certificate were followed %d times", n)
	}
	before := w.hits.Load()
	w.prover = w.proverWith()
	r, by := w.prove(t, Evidence{})
	if r.Proven || !strings.Contains(by[HTTPS].Detail, "ADDRESS_FORBIDDEN") || !strings.Contains(by[Certificate].Detail, "ADDRESS_FORBIDDEN") {
		t.Errorf("a forbidden address: %+v", r)
	}
	s := w.prover.Look(t.Context(), w.ep)
	if said := fmt.Sprintf("%+v %+v", r, s); strings.Contains(said, "127.0.0.1") || s.Error == "" {
		t.Errorf("it tells where the name leads: %s", said)
	}
	if w.hits.Load() != before {
		t.Error("a forbidden address was asked")
	}
}

// TestAddress: a host that is an address has no zone to be asked.
func TestAddress(t *testing.T) {
	t.Parallel()
	for raw, name := range map[string]string{
		"https://192.0.2.1/": "", "https://[2001:db8::1]:8443/": "", "https://Hooks.Partner.Example:8443/": "_sealpost-challenge.hooks.partner.example",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		c := NewChallenge("acme", "ep_1", u, digest, time.Now())
		if c.DNSName() != name {
			t.Errorf("%s: %q", raw, c.DNSName())
		}
	}
}

// TestHangs: a server that says nothing holds nobody for longer than its bound.
func TestHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ecKey(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	defer close(release)
	w.serve = func(http.ResponseWriter, *http.Request) { cancel(); <-release }
	if r := w.prover.Prove(ctx, w.ep, w.challenge, Evidence{}); r.Proven {
		t.Errorf("%+v", r)
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	got := func(a relay.Attempt) string {
		var out []string
		for _, p := range Phases(&a) {
			out = append(out, p.Name+" "+p.Outcome)
		}
		return strings.Join(out, ", ")
	}
	tcp := relay.Durations{DNS: 1, Connect: 1}
	for name, c := range map[string]struct {
		attempt relay.Attempt
		want    string
	}{
		"all well": {relay.Attempt{StatusCode: 200, Verdict: relay.VerdictDone, Reason: relay.ReasonAccepted, TLSVersion: "TLS 1.3"},
			"DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE PASSED, REQUEST PASSED, RESPONSE PASSED, VERDICT PASSED"},
		"plain": {relay.Attempt{StatusCode: 204, Verdict: relay.VerdictDone},
			"DNS PASSED, CONNECT PASSED, TLS SKIPPED, CERTIFICATE SKIPPED, REQUEST PASSED, RESPONSE PASSED, VERDICT PASSED"},
		"refused": {relay.Attempt{StatusCode: 503, Verdict: relay.VerdictLater, Reason: relay.ReasonServerError, TLSVersion: "TLS 1.3"},
			"DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE PASSED, REQUEST PASSED, RESPONSE PASSED, VERDICT FAILED"},
		"no name": {relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonDNSNotFound},
			"DNS FAILED, CONNECT SKIPPED, TLS SKIPPED, CERTIFICATE SKIPPED, REQUEST SKIPPED, RESPONSE SKIPPED, VERDICT SKIPPED"},
		"nobody listens": {relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonConnectRefused},
			"DNS PASSED, CONNECT FAILED, TLS SKIPPED, CERTIFICATE SKIPPED, REQUEST SKIPPED, RESPONSE SKIPPED, VERDICT SKIPPED"},
		"handshake hangs": {relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonConnectTimeout, Durations: relay.Durations{DNS: 1, Connect: 1, TLS: 1}},
			"DNS PASSED, CONNECT PASSED, TLS FAILED, CERTIFICATE SKIPPED, REQUEST SKIPPED, RESPONSE SKIPPED, VERDICT SKIPPED"},
		"expired": {relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonTLSExpired, Durations: tcp},
			"DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE FAILED, REQUEST SKIPPED, RESPONSE SKIPPED, VERDICT SKIPPED"},
		"no answer": {relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonResponseTimeout, TLSVersion: "TLS 1.3"},
			"DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE PASSED, REQUEST PASSED, RESPONSE FAILED, VERDICT SKIPPED"},
		"no certificate of ours": {relay.Attempt{Verdict: relay.VerdictPark, Reason: relay.ReasonCredentialFailed},
			"DNS PASSED, CONNECT PASSED, TLS PASSED, CERTIFICATE PASSED, REQUEST FAILED, RESPONSE SKIPPED, VERDICT SKIPPED"},
	} {
		if is := got(c.attempt); is != c.want {
			t.Errorf("%s:\n%s, not\n%s", name, is, c.want)
		}
	}
}

func TestFates(t *testing.T) {
	t.Parallel()
	fields, err := Fates([]byte(`{"a":1,"b":{"c":"x","d":null},"e":[{"f":1,"g":2},{"f":3}],"h":[]}`), []byte(`{"a":1,"b":{"c":"*"},"e":[{"f":1},{"f":3}],"h":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "[{a KEPT} {b.c REPLACED} {b.d REMOVED} {e[*].f KEPT} {e[*].g REMOVED} {h KEPT}]"
	if got := fmt.Sprint(fields); got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

// FuzzSample: whatever the paths, a sample is one JSON object, and has a leaf for each path of plain members.
func FuzzSample(f *testing.F) {
	for _, path := range []string{"contact.email", "**.ssn", "a[*].b", "a[0]", `a."b.c"`, "*", "**", "a.*.b", `"`, "[", "a..b", "$subject"} {
		f.Add(path, "contact.name")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		out := Sample([]string{one, two})
		var root map[string]any
		if err := json.Unmarshal(out, &root); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if _, err := Fates(out, out); err != nil {
			t.Fatal(err)
		}
		plain := strings.Trim(one, "abcdefghijklmnopqrstuvwxyz.") == "" && one != "" && !strings.Contains("."+one+".", "..") && strings.Count(one, ".") < maxSampleDepth
		if !plain || strings.HasPrefix(two, one) || strings.HasPrefix(one, two) {
			return
		}
		at := any(root)
		for name := range strings.SplitSeq(one, ".") {
			inner, ok := at.(map[string]any)
			if !ok || inner[name] == nil {
				t.Fatalf("%s has no %s", out, one)
			}
			at = inner[name]
		}
	})
}
