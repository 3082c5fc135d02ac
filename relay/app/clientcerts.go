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
	c.issued[ep.ID] = &cert
	return &cert, nil
}
