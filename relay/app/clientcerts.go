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
// thirds of its life, or the one that was given for all.
type clientCerts struct {
	ca    *pki.CA
	clock func() time.Time
	given *tls.Certificate

	mu     sync.Mutex
	issued map[string]*tls.Certificate // by endpoint
	swept  time.Time
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

func newClientCerts(ca *pki.CA, given ClientCert, clock func() time.Time) (*clientCerts, error) {
	c := &clientCerts{ca: ca, clock: clock, issued: map[string]*tls.Certificate{}}
	if given.Cert == "" {
		return c, nil
	}
	pair, err := pki.LoadPair(given.Cert, given.Key)
	if err != nil {
		return nil, err
	}
	c.given = &pair
	return c, nil
}

// of is the certificate to present to an endpoint now.
func (c *clientCerts) of(ep *relay.Endpoint) (*tls.Certificate, error) {
	if c.given != nil {
		return c.given, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.issued[ep.ID]; cert != nil && c.clock().Before(pki.RenewAt(cert.Leaf)) {
		return cert, nil
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
	c.issued[ep.ID] = &cert
	return &cert, nil
}
