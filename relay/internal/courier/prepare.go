package courier

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/pki"
	"github.com/sealpost/sealpost/signer"
)

// prepared is what all deliveries to one version of an endpoint have in common. Of its fields only trust changes.
type prepared struct {
	endpoint *relay.Endpoint
	url      string
	to       *egress.Target
	fixed    []field
	mask     *mask
	base     egress.Trust // without our certificate
	trust    atomic.Pointer[trusted]
}

type field struct {
	name   string
	values []string // shared by all requests; egress only reads them
}

// trusted is an endpoint's trust with one certificate of ours.
type trusted struct {
	certificate *tls.Certificate
	ready       *egress.Prepared
}

// maxPrepared bounds the cache: past it everything is prepared anew, some microseconds for each endpoint.
const maxPrepared = 16 << 10

// cache holds what is prepared, by endpoint id. A read takes no lock.
type cache struct {
	byID sync.Map // string -> *prepared
	size atomic.Int64
}

func (c *cache) get(ep *relay.Endpoint) *prepared {
	found, ok := c.byID.Load(ep.ID)
	if !ok || found.(*prepared).endpoint != ep {
		return nil
	}
	return found.(*prepared)
}

func (c *cache) put(p *prepared) {
	if _, replaced := c.byID.Swap(p.endpoint.ID, p); !replaced && c.size.Add(1) > maxPrepared {
		c.byID.Clear()
		c.size.Store(0)
	}
}

// prepare finds or makes what the endpoint's deliveries have in common. It is nil, with the verdict, where the
// endpoint's settings do not hold: they were checked when they were registered, and are not trusted to stay so.
func (c *Courier) prepare(ep *relay.Endpoint) (*prepared, relay.Verdict) {
	if found := c.ready.get(ep); found != nil {
		return found, relay.Verdict{}
	}
	if !ep.URL.Secure() && !c.options.PlainHTTP {
		return nil, park(relay.ReasonForbidden)
	}
	p := &prepared{endpoint: ep, url: ep.URL.String(), mask: newMask(secretsOf(ep)...)}
	var err error
	if p.to, err = egress.NewTarget(ep.URL.URL()); err != nil {
		return nil, OfFailure(egress.TransportOther)
	}
	if p.fixed, err = fixedHeader(ep); err != nil {
		return nil, park(relay.ReasonCredentialFailed)
	}
	if p.base, err = trustOf(ep); err != nil {
		return nil, park(relay.ReasonCredentialFailed)
	}
	c.ready.put(p)
	return p, relay.Verdict{}
}

// trusted is the endpoint's trust with the certificate that is ours now. There is no lock: two callers who find a
// new certificate at once prepare it twice, to the same end.
func (p *prepared) trusted(certificates func(*relay.Endpoint) (*tls.Certificate, error), ep *relay.Endpoint) (*egress.Prepared, relay.Verdict) {
	var certificate *tls.Certificate
	if p.base.Mode != egress.None {
		if certificates == nil {
			return nil, park(relay.ReasonCredentialFailed)
		}
		var err error
		if certificate, err = certificates(ep); err != nil || certificate == nil {
			return nil, park(relay.ReasonCredentialFailed)
		}
	}
	if have := p.trust.Load(); have != nil && have.certificate == certificate {
		return have.ready, relay.Verdict{}
	}
	trust := p.base
	trust.Certificate = certificate
	ready, err := trust.Prepare()
	if err != nil {
		return nil, park(relay.ReasonCredentialFailed)
	}
	p.trust.Store(&trusted{certificate: certificate, ready: ready})
	return ready, relay.Verdict{}
}

// Trust is how an endpoint is trusted, without our certificate.
func Trust(ep *relay.Endpoint) (egress.Trust, error) { return trustOf(ep) }

func trustOf(ep *relay.Endpoint) (egress.Trust, error) {
	trust := egress.Trust{Mode: egress.Required, HTTP2: ep.HTTP2, PlainHTTP: !ep.URL.Secure()}
	switch ep.TLS.ClientCertificate {
	case relay.ClientCertificateNone:
		trust.Mode = egress.None
	case relay.ClientCertificateOffered:
		trust.Mode = egress.Offered
	}
	if ep.TLS.AllowTLS12 {
		trust.MinVersion = tls.VersionTLS12
	}
	for _, text := range ep.TLS.SPKIPins {
		pin, err := pki.ParsePin(text)
		if err != nil {
			return egress.Trust{}, err
		}
		trust.Pins = append(trust.Pins, pin)
	}
	var err error
	trust.Roots, err = roots(ep.TLS.CAPEM)
	return trust, err
}

// roots reads the endpoint's own roots. Whether they are CAs was checked when they were registered; here one of several
// that has expired since must not take the others with it, so expiry is left to the verification of a chain.
func roots(text string) ([]*x509.Certificate, error) {
	if text == "" {
		return nil, nil
	}
	var out []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, root)
	}
	if len(out) == 0 {
		// Falling back to the system's roots would trust more than the endpoint does.
		return nil, errors.New("courier: no root in the endpoint's PEM")
	}
	return out, nil
}

// fixedHeader is what all requests to the endpoint carry: its static headers and its credentials. A static header
// never takes the place of one that the request itself needs.
func fixedHeader(ep *relay.Endpoint) ([]field, error) {
	reserved := reservedNames(ep)
	var fields []field
	for _, h := range ep.Headers {
		if !validName(h.Name) || !validValue(h.Value.Reveal()) {
			return nil, errors.New("courier: static header cannot be sent")
		}
		name := textproto.CanonicalMIMEHeaderKey(h.Name)
		if reserved[name] || strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Ce-") {
			continue
		}
		fields = add(fields, name, h.Value.Reveal())
	}
	if authorization, ok := authorization(ep); ok {
		if !validValue(authorization) {
			return nil, errors.New("courier: credentials cannot be sent")
		}
		fields = append(fields, field{"Authorization", []string{authorization}})
	}
	return fields, nil
}

func add(fields []field, name, value string) []field {
	for i := range fields {
		if fields[i].name == name {
			fields[i].values = append(fields[i].values, value)
			return fields
		}
	}
	return append(fields, field{name, []string{value}})
}

func authorization(ep *relay.Endpoint) (string, bool) {
	switch {
	case !ep.Bearer.Empty():
		return "Bearer " + ep.Bearer.Reveal(), true
	case ep.BasicUser != "" || !ep.BasicPass.Empty():
		return "Basic " + basicToken(ep), true
	}
	return "", false
}

// reservedNames are the fields that are ours to set: those of the framing (RFC 9110, section 7.6.1; RFC 9112, section
// 6), of the content, of the signature, and of the credentials where the endpoint has some.
func reservedNames(ep *relay.Endpoint) map[string]bool {
	names := map[string]bool{}
	for _, name := range []string{
		"Host", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "Expect", "Content-Length", "Content-Type", "Content-Encoding", "Content-Digest", "User-Agent",
		"Accept-Encoding", signer.HeaderID, signer.HeaderChunk,
	} {
		names[name] = true
	}
	for _, scheme := range signer.Schemes() {
		for _, name := range scheme.Facts().Headers {
			names[name] = true
		}
	}
	if _, ok := authorization(ep); ok {
		names["Authorization"] = true
	}
	return names
}

// header is a new header with what does not depend on the delivery.
func (p *prepared) header(userAgent []string) http.Header {
	h := make(http.Header, len(p.fixed)+8)
	for _, f := range p.fixed {
		h[f.name] = f.values
	}
	h["User-Agent"] = userAgent
	return h
}

// validName is the token of RFC 9110, section 5.6.2.
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return name != ""
}

// validValue is the field value of RFC 9110, section 5.5, in ASCII: no line break can begin another header.
func validValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c > '~' {
			return false
		}
	}
	return value == strings.Trim(value, " \t")
}
