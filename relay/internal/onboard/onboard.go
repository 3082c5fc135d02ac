// Package onboard finds out whether a host is a partner's, and shows what an approver decides about: who answers at an address, and what
// would become of an event's fields.
//
// It promises that a proof is the host's own word: a TXT record in its zone, a file that its server hands out, or a signature by the key of
// the certificate that its server shows; that what is fetched goes through the egress guard, follows no redirect and no address found in a
// certificate, and is bounded in bytes and time; and that what it tells of a failure names a class, never what was fetched or where a name
// leads inside our network. It trusts the resolver to say what the host's zone says. It keeps nothing.
package onboard

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
)

// Bounds of what is fetched.
const (
	fetchTime    = 10 * time.Second // each of DNS, file and handshake
	maxFile      = 1 << 10          // bytes of the file
	MaxSignature = 1 << 10          // bytes of a signature
	minRSABits   = 2048
)

// Names of the places where a challenge is answered.
const (
	dnsLabel = "_sealpost-challenge."
	filePath = "/.well-known/sealpost-challenge/"
)

// Challenge is what a host has to show for one endpoint: any of the three.
type Challenge struct {
	URL   *url.URL // the endpoint's
	Host  string   // its host and, where it names one, port
	Value string   // of the TXT record, and the file's content
	// Nonces are the bytes to sign with the key of the server's certificate: the present one, then the one before it.
	Nonces []string
}

// nonceLife is how long a nonce is the present one; it is good for twice that at most.
const nonceLife = 24 * time.Hour

// Digest is a keyed digest, one function for each purpose: nobody else can tell a challenge's value beforehand.
type Digest func(purpose string, data []byte) []byte

var values = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewChallenge is the challenge of a tenant's endpoint at a URL, the same whenever it is asked for, but for the nonces.
func NewChallenge(tenant, id string, u *url.URL, digest Digest, now time.Time) Challenge {
	host := strings.ToLower(u.Host)
	value := func(purpose, more string) string {
		sum := digest(purpose, []byte(tenant+"\x00"+id+"\x00"+host+"\x00"+more))
		return values.EncodeToString(sum[:20])
	}
	c := Challenge{URL: u, Host: host, Value: "sealpost-" + value("domain proof", id)}
	for _, at := range []time.Time{now, now.Add(-nonceLife)} {
		day := fmt.Sprint(at.Unix() / int64(nonceLife/time.Second))
		// The beginning keeps a signature from meaning anything where the same key signs something else.
		c.Nonces = append(c.Nonces, "sealpost-challenge-v1:"+id+":"+host+":"+value("certificate nonce", day))
	}
	return c
}

// DNSName is the name of the TXT record; empty where the host is an address.
func (c *Challenge) DNSName() string {
	if _, err := netip.ParseAddr(c.URL.Hostname()); err == nil {
		return ""
	}
	return dnsLabel + strings.ToLower(strings.TrimSuffix(c.URL.Hostname(), "."))
}

// FileURL is where the file has to be, for the endpoint of that id.
func (c *Challenge) FileURL(id string) *url.URL {
	return &url.URL{Scheme: "https", Host: c.URL.Host, Path: filePath + id}
}

// Method is a way of proving.
type Method string

// The methods, in the order in which they are tried.
const (
	DNS         Method = "DNS"
	HTTPS       Method = "HTTPS"
	Certificate Method = "CERTIFICATE"
)

// Check is what one method came to.
type Check struct {
	Method Method
	Passed bool
	Detail string
}

// Evidence is what a caller, or an earlier proof, brings along.
type Evidence struct {
	Signature []byte // over a nonce
	Key       []byte // SHA-256 of the public key that signed one before
}

// Result is what a proof came to.
type Result struct {
	Proven bool
	Method Method // that passed first
	Checks []Check
	// Key is SHA-256 of the public key that the server's certificate has, where the handshake told; CertificateExpireTime when that ends.
	Key                   []byte
	CertificateExpireTime time.Time
}

// Prover asks hosts.
type Prover struct {
	// Pool is the way out; required.
	Pool *egress.Pool
	// Trust is how an endpoint's server is recognised, and what we show it; required.
	Trust func(*relay.Endpoint) (egress.Trust, error)
}

// Prove looks for the answer to a challenge in each place where it could be.
func (p *Prover) Prove(ctx context.Context, ep *relay.Endpoint, c Challenge, e Evidence) Result {
	var r Result
	add := func(m Method, passed bool, format string, args ...any) {
		r.Checks = append(r.Checks, Check{m, passed, fmt.Sprintf(format, args...)})
		if passed && !r.Proven {
			r.Proven, r.Method = true, m
		}
	}
	passed, detail := p.dns(ctx, &c)
	add(DNS, passed, "%s", detail)
	to, err := p.prepare(ep)
	if err != nil {
		add(HTTPS, false, "how the server is to be trusted cannot be used")
		return r
	}
	passed, detail = p.file(ctx, &c, ep.ID, to)
	add(HTTPS, passed, "%s", detail)
	state, _, err := p.Pool.Shake(ctx, c.URL, egress.Fetch{Timeout: fetchTime}, to)
	if err != nil {
		add(Certificate, false, "%s", failure(err))
		return r
	}
	leaf := state.PeerCertificates[0]
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	r.Key, r.CertificateExpireTime = sum[:], leaf.NotAfter
	passed, detail = judge(leaf, sum, &c, e)
	add(Certificate, passed, "%s", detail)
	return r
}

func (p *Prover) prepare(ep *relay.Endpoint) (*egress.Prepared, error) {
	trust, err := p.Trust(ep)
	if err != nil {
		return nil, err
	}
	trust.HTTP2, trust.PlainHTTP = false, false
	if trust.Mode == egress.Required {
		trust.Mode = egress.Offered // nothing that is confidential is sent
	}
	return trust.Prepare()
}

func (p *Prover) dns(ctx context.Context, c *Challenge) (bool, string) {
	name := c.DNSName()
	if name == "" {
		return false, "the host is an address, and has no zone"
	}
	records, err := p.Pool.LookupTXT(ctx, name, egress.Fetch{Timeout: fetchTime})
	switch {
	case err != nil:
		return false, failure(err)
	case len(records) == 0:
		return false, "no TXT record at " + name
	}
	for _, record := range records {
		if strings.TrimSpace(record) == c.Value {
			return true, "the TXT record is there"
		}
	}
	return false, fmt.Sprintf("%d TXT records at %s, none with this value", len(records), name)
}

func (p *Prover) file(ctx context.Context, c *Challenge, id string, to *egress.Prepared) (bool, string) {
	status, body, err := p.Pool.Get(ctx, c.FileURL(id), egress.Fetch{Timeout: fetchTime, Body: maxFile + 1}, to)
	switch {
	case err != nil:
		return false, failure(err)
	case status >= 300 && status < 400:
		return false, fmt.Sprintf("the file's URL answers %d; redirects are not followed", status)
	case status != 200:
		return false, fmt.Sprintf("the file's URL answers %d", status)
	case len(body) > maxFile:
		return false, fmt.Sprintf("the file is larger than %d bytes", maxFile)
	case string(bytes.TrimSpace(body)) != c.Value:
		return false, "the file's content is another"
	}
	return true, "the file is there"
}

// judge is whether the key of the certificate that the server shows signed a nonce, or is the one that did before. That the server holds the
// key is what the handshake has shown, by a signature over our random value.
func judge(leaf *x509.Certificate, key [sha256.Size]byte, c *Challenge, e Evidence) (bool, string) {
	switch {
	case len(e.Signature) > MaxSignature:
		return false, fmt.Sprintf("the signature is larger than %d bytes", MaxSignature)
	case len(e.Signature) > 0:
		for _, nonce := range c.Nonces {
			if Verify(leaf.PublicKey, []byte(nonce), e.Signature) {
				return true, "the key of the server's certificate signed the nonce"
			}
		}
		return false, "the signature is not one over the nonce by the key of the certificate that the server shows"
	case len(e.Key) > 0 && bytes.Equal(e.Key, key[:]):
		return true, "the server holds the key that signed the nonce before"
	case len(e.Key) > 0:
		return false, "the server's certificate has another key than the one that signed the nonce: sign it again"
	}
	return false, "no signature was given"
}

// Verify tells whether a signature over a message is by a certificate's key: RSA of 2048 bits and more (PKCS #1 v1.5 or PSS) or ECDSA,
// with SHA-256, or Ed25519.
func Verify(public any, message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch key := public.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSABits && (rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil ||
			rsa.VerifyPSS(key, crypto.SHA256, sum[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, sum[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	}
	return false
}

// failure says what an error of egress means, and nothing of where a name leads.
func failure(err error) string { return "could not be fetched: " + string(egress.Classify(err)) }

// Server is who answers at an endpoint's address.
type Server struct {
	Addresses       []string
	Subject, Issuer string
	Names           []string
	SHA256          string // of the certificate, in hex
	Start, Expire   time.Time
	TLSVersion      string
	AsksForOurs     bool   // it asked for a client certificate
	Error           string // why there is no more than this; empty: there is
}

// maxNames bounds the names of a certificate that are told.
const maxNames = 32

// Look resolves an endpoint's host and shakes hands with its server, as a delivery would.
func (p *Prover) Look(ctx context.Context, ep *relay.Endpoint) Server {
	var s Server
	u := ep.URL.URL()
	addresses, err := p.Pool.Addresses(ctx, u, egress.Fetch{Timeout: fetchTime})
	if err != nil {
		s.Error = failure(err)
		return s
	}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, a.Addr().String())
	}
	if !ep.URL.Secure() {
		s.Error = "plain HTTP: there is no certificate"
		return s
	}
	to, err := p.prepare(ep)
	if err != nil {
		s.Error = "how the server is to be trusted cannot be used"
		return s
	}
	state, asks, err := p.Pool.Shake(ctx, u, egress.Fetch{Timeout: fetchTime}, to)
	if err != nil {
		s.Error = failure(err)
		return s
	}
	leaf := state.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	s.Subject, s.Issuer, s.SHA256 = leaf.Subject.String(), leaf.Issuer.String(), hex.EncodeToString(sum[:])
	s.Start, s.Expire, s.TLSVersion, s.AsksForOurs = leaf.NotBefore, leaf.NotAfter, tls.VersionName(state.Version), asks
	for _, name := range leaf.DNSNames {
		s.Names = append(s.Names, name)
	}
	for _, ip := range leaf.IPAddresses {
		s.Names = append(s.Names, ip.String())
	}
	s.Names = s.Names[:min(len(s.Names), maxNames)]
	return s
}
