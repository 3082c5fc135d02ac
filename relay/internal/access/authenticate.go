package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Presented is what a call comes with.
type Presented struct {
	Token   string // "": none
	Address netip.Addr
	// Chain is the client certificate, whose key TLS found to be there, and what was sent with it; empty: none.
	Chain []*x509.Certificate
}

// Authenticate says who calls. It does no I/O. A token goes before a certificate; one that is bound to a certificate is taken over
// that one alone. The error is one of those that match ErrUnauthenticated, ErrUnheard, or a *LimitError.
func (k *Keeper) Authenticate(_ context.Context, p Presented) (Caller, error) {
	p.Address = p.Address.Unmap()
	c, err := k.authenticate(&p)
	if err != nil {
		k.metrics.refused(err)
		return Caller{}, err
	}
	if len(p.Chain) > 0 {
		c.CertificateSubject, c.CertificateSHA256 = p.Chain[0].Subject.String(), Fingerprint(p.Chain[0])
	}
	k.usage.note(c.CredentialID, k.now(), c.Address)
	return c, nil
}

func (k *Keeper) authenticate(p *Presented) (Caller, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.lost != nil && time.Since(k.lostSince) > unheardGrace {
		return Caller{}, ErrUnheard
	}
	switch {
	case p.Token != "":
		return k.byToken(p)
	case len(p.Chain) > 0:
		return k.byCertificate(p)
	}
	return Caller{}, ErrNoToken
}

// byToken: the caller holds mu.
func (k *Keeper) byToken(p *Presented) (Caller, error) {
	id, ok := parseToken(p.Token)
	if !ok {
		return Caller{}, ErrToken
	}
	t := k.tokens.get(id)
	hash := sha256.Sum256([]byte(p.Token))
	if t == nil || subtle.ConstantTimeCompare(hash[:], t.hash[:]) != 1 {
		return Caller{}, ErrToken
	}
	account, err := k.tokenHolds(t)
	if err != nil {
		return Caller{}, err
	}
	loopbackOnly := t.Kind == KindBootstrap || t.Kind == KindRecovery
	if !within(t.Prefixes, p.Address) || loopbackOnly && !p.Address.IsLoopback() {
		return Caller{}, ErrAddress
	}
	if t.Bound != "" {
		if err := k.overItsOwn(t, p.Chain); err != nil {
			return Caller{}, err
		}
	}
	if err := k.usage.limit(t.ID, t.RateLimit, k.now()); err != nil {
		return Caller{}, err
	}
	c := callerOf(account)
	c.CredentialKind, c.CredentialID, c.Address, c.ExpireTime = string(t.Kind), t.ID, p.Address, t.ExpireTime
	c.Scopes = narrowed(c.Scopes, t.Scopes)
	if t.Kind == KindRecovery {
		c.Scopes = narrowed(c.Scopes, recoveryScopes)
	}
	return c, nil
}

// overItsOwn tells whether a bound token came over the certificate that it is bound to, and that one is good still. The caller holds mu.
func (k *Keeper) overItsOwn(t *Token, chain []*x509.Certificate) error {
	if len(chain) == 0 || Fingerprint(chain[0]) != t.Bound {
		return ErrBound
	}
	if c := k.certificates.get(t.Bound); c != nil && !c.RevokeTime.IsZero() {
		return ErrCertRevoked
	}
	if k.now().After(chain[0].NotAfter) {
		return ErrCertExpired
	}
	return nil
}

// byCertificate: the caller holds mu.
func (k *Keeper) byCertificate(p *Presented) (Caller, error) {
	leaf := p.Chain[0]
	c := k.certificates.get(Fingerprint(leaf))
	if c == nil && k.roots != nil {
		if id, ok := k.chains.spiffe(p.Chain, k.roots, k.now()); ok {
			c = k.certificates.get(certificateID("", id))
		}
	}
	if c == nil {
		return Caller{}, ErrCertificate
	}
	if now := k.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return Caller{}, ErrCertExpired
	}
	account, err := k.certificateHolds(c)
	if err != nil {
		return Caller{}, err
	}
	if !within(c.Prefixes, p.Address) {
		return Caller{}, ErrAddress
	}
	who := callerOf(account)
	who.CredentialKind, who.CredentialID, who.Address, who.ExpireTime = string(KindCertificate), c.ID, p.Address, leaf.NotAfter
	return who, nil
}

func callerOf(a *Account) Caller {
	return Caller{
		Account: a.Name, Role: a.Role, Tenant: a.Tenant, Environment: a.Environment, Scopes: narrowed(roleScopes[a.Role], a.Scopes),
	}
}

// narrowed is what both lists have; an empty second one narrows nothing. The first is not changed.
func narrowed(all, to []Scope) []Scope {
	if len(to) == 0 {
		return all
	}
	out := make([]Scope, 0, len(to))
	for _, s := range to {
		if slices.Contains(all, s) {
			out = append(out, s)
		}
	}
	return out
}

// tokenHolds is the account of a token that is good now. The caller holds mu.
func (k *Keeper) tokenHolds(t *Token) (*Account, error) {
	if err := k.inForce(t); err != nil {
		return nil, err
	}
	account := k.accounts.get(t.holder)
	switch {
	case account == nil && (t.Kind == KindBootstrap || t.Kind == KindRecovery):
		if t.Kind == KindBootstrap && k.bootstrapped() {
			return nil, ErrBootstrapped
		}
		return &Account{Name: t.Account, Role: Operator}, nil
	case account == nil && t.old: // made by a process of an older release, meanwhile
		return &Account{Name: t.Account, Role: t.Role, Tenant: t.Tenant}, nil
	case account == nil:
		return nil, ErrToken
	case !account.DisableTime.IsZero():
		return nil, ErrDisabled
	}
	return account, nil
}

// certificateHolds is the account of a certificate that is not ended. The caller holds mu.
func (k *Keeper) certificateHolds(c *Certificate) (*Account, error) {
	if !c.RevokeTime.IsZero() {
		return nil, ErrCertRevoked
	}
	if !c.ExpireTime.IsZero() && !k.now().Before(c.ExpireTime) {
		return nil, ErrCertExpired
	}
	account := k.accounts.get(c.holder)
	switch {
	case account == nil:
		return nil, ErrCertificate
	case !account.DisableTime.IsZero():
		return nil, ErrDisabled
	}
	return account, nil
}

// Live tells whether the credential that a caller came with is still good, for calls that last.
func (k *Keeper) Live(c Caller) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.lost != nil && time.Since(k.lostSince) > unheardGrace {
		return ErrUnheard
	}
	if c.CredentialKind == string(KindCertificate) {
		cert := k.certificates.get(c.CredentialID)
		if cert == nil {
			return ErrCertificate
		}
		if !c.ExpireTime.IsZero() && !k.now().Before(c.ExpireTime) {
			return ErrCertExpired
		}
		_, err := k.certificateHolds(cert)
		return err
	}
	t := k.tokens.get(c.CredentialID)
	if t == nil {
		return ErrToken
	}
	_, err := k.tokenHolds(t)
	return err
}

func (k *Keeper) inForce(t *Token) error {
	switch {
	case !t.RevokeTime.IsZero():
		return ErrRevoked
	case !t.ExpireTime.IsZero() && !k.now().Before(t.ExpireTime):
		return ErrExpired
	}
	return nil
}

// chains remembers which certificates a trusted CA was found to have issued, so that a chain is verified once a connection or so and not
// with each call.
type chains struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]seen
}

type seen struct {
	id    string
	until time.Time // the end of the chain's first certificate to expire
}

// maxChains bounds what is remembered; beyond it everything is verified anew.
const maxChains = 4096

// spiffe is the SPIFFE ID of a chain that leads to the roots: that of its leaf's only URI name (X.509-SVID, section 2).
func (v *chains) spiffe(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (string, bool) {
	leaf := chain[0]
	if len(leaf.URIs) != 1 || !validSpiffe(leaf.URIs[0].String()) {
		return "", false
	}
	key := sha256.Sum256(leaf.Raw)
	v.mu.Lock()
	known, ok := v.seen[key]
	v.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.id, true
	}
	below := x509.NewCertPool()
	for _, c := range chain[1:] {
		below.AddCert(c)
	}
	found, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: below, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || leaf.IsCA {
		return "", false
	}
	one := seen{id: leaf.URIs[0].String(), until: leaf.NotAfter}
	for _, c := range found[0] {
		if c.NotAfter.Before(one.until) {
			one.until = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil || len(v.seen) >= maxChains {
		v.seen = map[[sha256.Size]byte]seen{}
	}
	v.seen[key] = one
	return one.id, true
}

// newLimiter is a bound of calls a second with a second's worth saved up.
func newLimiter(perSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
}
