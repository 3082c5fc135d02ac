package e2e_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// clientRoots are the roots by which a partner trusts us: those that serve leaves for partners.
func clientRoots(t *testing.T, p *rig.Process) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(p.Data, "client-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("client-ca.pem holds no certificate")
	}
	return roots
}

// attempt publishes one event to an endpoint and returns its first attempt.
func attempt(t *testing.T, p *rig.Client, ep rig.Endpoint) rig.Object {
	t.Helper()
	e := rig.Event("evt_1", `{"secret":"BODY-OF-THE-EVENT"}`)
	e["tenant"] = ep.Tenant
	p.Publish(e)
	d := p.AwaitDelivery(ep, "evt_1", "DELIVERED", "RETRYING", "PARKED", "DEAD", "WITHHELD")
	if len(d.L("attempts")) == 0 {
		t.Fatalf("no attempt: %v", d)
	}
	return d.L("attempts")[0]
}

// TestMutualTLS delivers to a partner who asks for our certificate and checks it, and reads the record of the attempt.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	p := start(t)
	ca := rig.NewCA(t)
	conf := ca.Server()
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, clientRoots(t, p)
	long := strings.Repeat("thanks ", 1000)
	partner := rig.NewPartner(t, conf, func(rig.Receipt) rig.Reply { return rig.Reply{Status: 201, Body: long} })
	ep := p.Register(partner.URL, rig.Object{"tls": rig.Object{"clientCertificate": "REQUIRED", "caPem": ca.PEM()}})
	a := attempt(t, p.In(t), ep)
	got := partner.Await(t, 1)[0]
	ours := got.TLS.PeerCertificates[0]
	if len(ours.URIs) != 1 || ours.URIs[0].String() != "spiffe://sealpost/tenant/acme/endpoint/"+ep.ID {
		t.Errorf("our certificate names %v", ours.URIs)
	}
	server := conf.Certificates[0].Leaf
	body := sha256.Sum256(got.Body)
	for field, want := range map[string]string{
		"verdict": "DONE", "reason": "ACCEPTED", "tlsVersion": "TLS 1.3",
		"remoteAddress":            strings.TrimSuffix(strings.TrimPrefix(partner.URL, "https://"), "/hook"),
		"serverCertificateSubject": "CN=partner",
		"serverCertificateSha256":  fingerprint(server), "clientCertificateSha256": fingerprint(ours),
		"bodySha256": hex.EncodeToString(body[:]), "responseBody": long[:4096],
	} {
		if a.S(field) != want {
			t.Errorf("%s: %.80q, want %.80q", field, a.S(field), want)
		}
	}
	if a.N("number") != 1 || a.N("statusCode") != 201 || a.N("responseSize") != len(long) || a.S("startTime") == "" || a.S("keyId") == "" {
		t.Errorf("attempt: %v", a)
	}
	for _, phase := range []string{"connect", "tls", "firstByte", "total"} {
		if a.S("durations", phase) == "" {
			t.Errorf("phase %s is missing: %v", phase, a.O("durations"))
		}
	}
	if got.TLS.DidResume {
		t.Error("the session was resumed")
	}
	test := p.MustAct(ep, "test")
	if test.S("attempt", "verdict") != "DONE" || test.N("attempt", "statusCode") != 201 {
		t.Errorf("test of the endpoint: %v", test)
	}
	// Another endpoint, another certificate.
	second := p.Register(partner.URL, rig.Object{"tenant": "globex", "tls": rig.Object{"clientCertificate": "REQUIRED", "caPem": ca.PEM()}})
	if other := attempt(t, p.In(t), second).S("clientCertificateSha256"); other == fingerprint(ours) || other == "" {
		t.Errorf("two tenants' endpoints are shown the same certificate")
	}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// TestRequiredCertificateNotAsked shows that a server which does not ask for our certificate gets no byte.
func TestRequiredCertificateNotAsked(t *testing.T) {
	t.Parallel()
	p := start(t)
	ca := rig.NewCA(t)
	for name, change := range map[string]func(*tls.Config){
		"tls13": func(*tls.Config) {},
		"tls12": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"h2":    func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			conf := ca.Server()
			change(conf)
			raw := rig.NewRaw(t, conf)
			ep := p.Register(raw.URL, rig.Object{"tenant": "t-" + name, "http2": name == "h2", "tls": rig.Object{
				"clientCertificate": "REQUIRED", "caPem": ca.PEM(), "allowTls12": name == "tls12"}})
			if a := attempt(t, p.In(t), ep); a.S("reason") != "CLIENT_CERTIFICATE_NOT_REQUESTED" || a.S("verdict") != "LATER" {
				t.Errorf("attempt: %v", a)
			}
			if shaken, sent := raw.Got(); strings.Contains(sent, "POST") || strings.Contains(sent, "BODY-OF-THE-EVENT") {
				t.Errorf("%d handshakes, and it was sent %q", shaken, sent)
			}
		})
	}
}

// TestTrust has one row for each way in which a partner's TLS can be right or wrong.
func TestTrust(t *testing.T) {
	t.Parallel()
	p := start(t)
	ca, other := rig.NewCA(t), rig.NewCA(t)
	day := time.Now().Add(24 * time.Hour)
	plain := func(c tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}
	}
	good := ca.Issue(day)
	old := plain(good)
	old.MaxVersion = tls.VersionTLS12
	asking := ca.Server()
	asking.ClientAuth = tls.RequestClientCert
	refusing := ca.Server()
	refusing.ClientAuth, refusing.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	for i, c := range []struct {
		name   string
		server *tls.Config
		tls    rig.Object
		reason string // ACCEPTED where it is delivered
		sees   bool   // our certificate
	}{
		{"good", plain(good), rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}, "ACCEPTED", false},
		{"two roots", plain(good), rig.Object{"clientCertificate": "NONE", "caPem": other.PEM() + ca.PEM()}, "ACCEPTED", false},
		{"offered, asked", asking, rig.Object{"clientCertificate": "OFFERED", "caPem": ca.PEM()}, "ACCEPTED", true},
		{"offered, not asked", plain(good), rig.Object{"clientCertificate": "OFFERED", "caPem": ca.PEM()}, "ACCEPTED", false},
		{"none, asked", asking, rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}, "ACCEPTED", false},
		{"required, refused", refusing, rig.Object{"clientCertificate": "REQUIRED", "caPem": ca.PEM()}, "CLIENT_CERTIFICATE_REFUSED", false},
		{"another CA", plain(good), rig.Object{"clientCertificate": "NONE", "caPem": other.PEM()}, "TLS_CERTIFICATE", false},
		{"the system's CAs", plain(good), rig.Object{"clientCertificate": "NONE"}, "TLS_CERTIFICATE", false},
		{"expired", plain(ca.Issue(time.Now().Add(-time.Minute))), rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}, "TLS_EXPIRED", false},
		{"another name", plain(ca.Issue(day, "elsewhere.example")), rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}, "TLS_HOSTNAME", false},
		{"pinned", plain(good), rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM(), "spkiPins": []string{rig.Pin(good.Leaf)}}, "ACCEPTED", false},
		{"pin of another key", plain(ca.Issue(day)), rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM(), "spkiPins": []string{rig.Pin(good.Leaf)}}, "TLS_PIN_MISMATCH", false},
		{"TLS 1.2", old, rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}, "TLS_HANDSHAKE", false},
		{"TLS 1.2, allowed", old, rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM(), "allowTls12": true}, "ACCEPTED", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			partner := rig.NewPartner(t, c.server, nil)
			ep := p.Register(partner.URL, rig.Object{"tenant": fmt.Sprintf("trust-%d", i), "tls": c.tls})
			a := attempt(t, p.In(t), ep)
			if a.S("reason") != c.reason {
				t.Errorf("reason %s, want %s: %v", a.S("reason"), c.reason, a)
			}
			got := partner.Receipts()
			if c.reason != "ACCEPTED" {
				if len(got) > 0 {
					t.Errorf("it was sent %d requests", len(got))
				}
				if a.S("remoteAddress") == "" {
					t.Errorf("without the address: %v", a)
				}
				return
			}
			if sees := len(got[0].TLS.PeerCertificates) > 0; sees != c.sees || (a.S("clientCertificateSha256") != "") != c.sees {
				t.Errorf("the partner saw our certificate: %v; the record: %q", sees, a.S("clientCertificateSha256"))
			}
		})
	}
}

// TestGuard holds back what may not be dialled: at registration where the URL shows it, else when it is dialled.
func TestGuard(t *testing.T) {
	t.Parallel()
	open := rig.Config{"dev": false, "egress": rig.Config{"allow": []string{"127.0.0.0/8"}}}
	p := start(t, open)
	approver := p.As(p.OK("POST", "/v1/tokens", rig.Object{"account": "second", "role": "OPERATOR"}).S("secret"))
	for _, host := range []string{
		"10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fc00::1]",
		"[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[2002:a00:1::1]", "127.1", "0x7f000001", "2130706433", "017700000001", "metadata",
	} {
		a := p.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": "https://" + host + "/", "owner": "o", "purpose": "p", "eventTypes": []string{"*"}, "redaction": rig.Object{"mode": "NONE"}})
		if a.Status != http.StatusBadRequest || !violated(a, "url") {
			t.Errorf("%s: %d %s", host, a.Status, a.Raw)
		}
	}
	ca := rig.NewCA(t)
	partner := rig.NewPartner(t, ca.Server(), nil)
	ep := p.Register(partner.URL, rig.Object{"tls": rig.Object{"clientCertificate": "OFFERED", "caPem": ca.PEM()}})
	p.Prove(ep, partner)
	approver.MustAct(ep, "approve")
	p.Publish(rig.Event("allowed", `{}`))
	p.AwaitDelivery(ep, "allowed", "DELIVERED")
	// What was allowed then is not now: the guard is asked for each connection, not for each registration.
	p.Stop()
	p.Restart(rig.Config{"egress": rig.Config{}})
	p.Publish(rig.Event("forbidden", `{}`))
	d := p.AwaitDelivery(ep, "forbidden", "RETRYING", "PARKED", "DEAD")
	if a := d.L("attempts")[0]; a.S("reason") != "ADDRESS_FORBIDDEN" {
		t.Errorf("attempt: %v", a)
	}
	if n := partner.Count(); n != 1 {
		t.Errorf("%d requests", n)
	}
	if a := p.Act(ep, "test"); a.Status != http.StatusOK || a.S("attempt", "reason") != "ADDRESS_FORBIDDEN" {
		t.Errorf("test of the endpoint: %d %s", a.Status, a.Raw)
	}
}

// TestRedirect is not followed.
func TestRedirect(t *testing.T) {
	t.Parallel()
	p := start(t)
	elsewhere := rig.NewPartner(t, nil, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		partner := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply {
			return rig.Reply{Status: status, Header: map[string]string{"Location": elsewhere.URL}}
		})
		ep := p.Register(partner.URL, rig.Object{"tenant": fmt.Sprintf("r-%d", status)})
		if a := attempt(t, p.In(t), ep); a.S("verdict") != "DEAD" || a.S("reason") != "REDIRECTED" || a.N("statusCode") != status {
			t.Errorf("%d: %v", status, a)
		}
		p.AwaitDelivery(ep, "evt_1", "DEAD")
	}
	if elsewhere.Count() != 0 {
		t.Error("a redirect was followed")
	}
}
