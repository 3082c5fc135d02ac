package app

import (
	"crypto/x509"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// certificate is one of ours that somebody has to renew in time.
type certificate struct {
	name string // for operators: LISTENER, CLIENT, ROOT_CA, ISSUING_CA
	*x509.Certificate
}

// The longest times before its end at which a certificate is said to end soon.
const (
	soonCA   = 180 * 24 * time.Hour // partners have to take the next root, which takes them months
	soonLeaf = 21 * 24 * time.Hour
)

// soon tells whether less than a fifth of its life is left: one that is renewed at two thirds of it never comes there.
func (c certificate) soon(now time.Time) bool {
	most := soonLeaf
	if c.IsCA {
		most = soonCA
	}
	return c.NotAfter.Sub(now) < min(most, c.NotAfter.Sub(c.NotBefore)/5)
}

// certificates are those that this process does not renew by itself.
func (a *App) certificates() []certificate {
	var out []certificate
	if a.ca != nil {
		root, issuing := a.ca.Certificates()
		out = append(out, certificate{"ROOT_CA", root}, certificate{"ISSUING_CA", issuing})
	}
	if a.listenerCert != nil {
		out = append(out, certificate{"LISTENER", a.listenerCert.Current().Leaf})
	}
	if a.clientCert != nil {
		out = append(out, certificate{"CLIENT", a.clientCert.Current().Leaf})
	}
	return out
}

// rotations are counts of the endpoints' signing keys: how old the oldest that signs is, and how many rotations wait for somebody.
func (a *App) rotations(now time.Time) (oldest time.Duration, scheduled, unclaimed, overdue int) {
	for e := range a.registry.Snapshot().All() {
		if e.State == relay.EndpointDeleted || len(e.Record.Keys) == 0 {
			continue
		}
		oldest = max(oldest, now.Sub(e.Record.Current().CreateTime))
		if e.Rotation.Every > 0 {
			scheduled++
		}
		if next, ok := e.Record.Next(); ok && next.Unclaimed {
			unclaimed++
		}
		if e.Record.Overdue(now) {
			overdue++
		}
	}
	return oldest, scheduled, unclaimed, overdue
}
