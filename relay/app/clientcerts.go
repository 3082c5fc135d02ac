package app

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/pki"
)

// clientCerts has the certificate that is presented to each endpoint: one of the built-in CA with the endpoint's name, renewed at two
// thirds of its life, or the one that was given for all. Connections made with one that was replaced are used no more, and end when
// they have been idle for a while; what is in flight on them ends as it would.
type clientCerts struct {
	ca    *pki.CA
	clock func() time.Time
	given *pki.Pair // nil: none

	mu     sync.Mutex
	issued map[string]issued // by endpoint
	swept  time.Time
}

// issued is a certificate with the endpoint's CertificateTime that it was issued for.
type issued struct {
	*tls.Certificate
	asked time.Time
}

// sweepEvery is how often certificates are looked for that nobody asked to renew: of endpoints that are gone, or get nothing.
const sweepEvery = time.Hour

// forget lets go of what would have to be issued anew. mu is held.
func (c *clientCerts) forget() {
	now := c.clock()
	if since := now.Sub(c.swept); since >= 0 && since < sweepEvery {
		return
	}
	c.swept = now
	for id, cert := range c.issued {
		if !now.Before(pki.RenewAt(cert.Leaf)) {
			delete(c.issued, id)
		}
	}
}

// newClientCerts issues certificates of ca; given, where it is not nil, is presented in their place.
func newClientCerts(ca *pki.CA, given *pki.Pair, clock func() time.Time) *clientCerts {
	return &clientCerts{ca: ca, clock: clock, given: given, issued: map[string]issued{}}
}

// peek is the certificate that was presented to an endpoint last, nil where none was yet, and whether it is one that was given for all.
func (c *clientCerts) peek(endpointID string) (cert *tls.Certificate, given bool) {
	if c.given != nil {
		return c.given.Current(), true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.issued[endpointID].Certificate, false
}

// of is the certificate to present to an endpoint now.
func (c *clientCerts) of(ep *relay.Endpoint) (*tls.Certificate, error) {
	if c.given != nil {
		return c.given.Current(), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A delivery that goes by the endpoint as it was before may come later than one that goes by the latest.
	if have, ok := c.issued[ep.ID]; ok && !have.asked.Before(ep.CertificateTime) && c.clock().Before(pki.RenewAt(have.Leaf)) {
		return have.Certificate, nil
	}
	name, err := pki.EndpointName(ep.Tenant, ep.ID)
	if err != nil {
		return nil, err
	}
	cert, err := c.ca.IssueClient(name, pki.DefaultTTL)
	if err != nil {
		return nil, err
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, err
		}
	}
	c.forget()
	c.issued[ep.ID] = issued{&cert, ep.CertificateTime}
	return &cert, nil
}

// soonest is when the first of the certificates that were issued, and not let go of, ends; the zero time where there is none.
func (c *clientCerts) soonest() (end time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cert := range c.issued {
		if end.IsZero() || cert.Leaf.NotAfter.Before(end) {
			end = cert.Leaf.NotAfter
		}
	}
	return end
}
