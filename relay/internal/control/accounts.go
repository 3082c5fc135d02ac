package control

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/pki"
)

// AccountView is an account, when it last called, and how many of its credentials are good.
type AccountView struct {
	access.Account
	LastUse     access.Use
	Credentials int
}

// CreateAccount makes an account for a service. Nobody makes one that may do what they may not.
func (c *Control) CreateAccount(ctx context.Context, who access.Caller, a access.Account) (AccountView, error) {
	a.Tenant, a.Environment = cmp.Or(a.Tenant, who.Tenant), cmp.Or(a.Environment, who.Environment)
	a.Creator = who.Account
	act := audit.Act{Name: "account.create", Object: clip(a.Name), Tenant: clip(a.Tenant), Detail: map[string]string{
		"role": clip(string(a.Role)), "environment": clip(string(a.Environment)),
	}}
	if err := c.allow(ctx, who, access.AccountsWrite, &act); err != nil {
		return AccountView{}, err
	}
	if err := c.mayGive(ctx, who, act, a.Environment, given(&a, a.Role, nil)); err != nil {
		return AccountView{}, err
	}
	if err := a.Check().Err(); err != nil {
		return AccountView{}, err
	}
	err := c.act(ctx, who, act, func() (_ map[string]string, err error) {
		a, err = c.Access.CreateAccount(ctx, a)
		return nil, err
	})
	if err != nil {
		return AccountView{}, err
	}
	return AccountView{Account: a}, nil
}

// GetAccount is one account. Every account may know of itself.
func (c *Control) GetAccount(ctx context.Context, who access.Caller, tenant, name string) (AccountView, error) {
	tenant = cmp.Or(tenant, who.Tenant)
	act := audit.Act{Name: "account.read", Object: clip(name), Tenant: clip(tenant)}
	if own := who.Account != "" && name == who.Account && tenant == who.Tenant; own {
		if err := c.Access.Live(who); err != nil {
			return AccountView{}, err
		}
	} else if err := c.allow(ctx, who, access.AccountsRead, &act); err != nil {
		return AccountView{}, err
	}
	a, err := c.Access.Account(tenant, name)
	if err != nil {
		return AccountView{}, translated(err)
	}
	return c.accountView(a), nil
}

func (c *Control) accountView(a access.Account) AccountView {
	v := AccountView{Account: a, Credentials: c.Access.Credentials(a.Tenant, a.Name)}
	later := func(id string) {
		if u := c.Access.LastUse(id); u.Time.After(v.LastUse.Time) {
			v.LastUse = u
		}
	}
	for _, t := range c.Access.List() {
		if t.Account == a.Name && t.Tenant == a.Tenant {
			later(t.ID)
		}
	}
	for _, cert := range c.Access.Certificates() {
		if cert.Account == a.Name && cert.Tenant == a.Tenant {
			later(cert.ID)
		}
	}
	return v
}

// AccountQuery asks for accounts. Zero fields do not narrow it.
type AccountQuery struct {
	Tenant    string
	Role      access.Role
	UnusedFor time.Duration
	PageSize  int
	PageToken string
}

// AccountPage is one page of a list, by tenant and name. NextPageToken is empty on the last page.
type AccountPage struct {
	Accounts      []AccountView
	NextPageToken string
}

// ListAccounts lists those that the caller may know of.
func (c *Control) ListAccounts(ctx context.Context, who access.Caller, q AccountQuery) (AccountPage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.AccountsRead, &audit.Act{Name: "account.list", Tenant: clip(q.Tenant)}); err != nil {
		return AccountPage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return AccountPage{}, err
	}
	size := cmp.Or(q.PageSize, relay.DefaultPageSize)
	place := func(a *access.Account) string { return a.Tenant + "\x00" + a.Name }
	all := c.Access.Accounts()
	slices.SortFunc(all, func(a, b access.Account) int { return strings.Compare(place(&a), place(&b)) })
	var page AccountPage
	for _, a := range all {
		if place(&a) <= after || !who.AllTenants() && !who.Sees(a.Tenant) || q.Tenant != "" && a.Tenant != q.Tenant || q.Role != "" && a.Role != q.Role {
			continue
		}
		v := c.accountView(a)
		if q.UnusedFor > 0 && c.now().Sub(later(v.LastUse.Time, a.CreateTime)) < q.UnusedFor {
			continue
		}
		if len(page.Accounts) == size {
			page.NextPageToken = pageToken(place(&page.Accounts[size-1].Account))
			break
		}
		page.Accounts = append(page.Accounts, v)
	}
	return page, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// SetAccountDisabled refuses every credential of an account from now on, on every process, or takes them again. Nobody disables the
// account that they call with: another one has to be there to enable it.
func (c *Control) SetAccountDisabled(ctx context.Context, who access.Caller, tenant, name, reason string, disabled bool) (AccountView, error) {
	tenant = cmp.Or(tenant, who.Tenant)
	act, scope := audit.Act{Name: "account.enable", Object: clip(name), Tenant: clip(tenant)}, access.AccountsWrite
	if disabled {
		act.Name, scope = "account.disable", access.AccountsDisable
	}
	if err := c.allow(ctx, who, scope, &act); err != nil {
		return AccountView{}, err
	}
	if err := checkReason(reason); err != nil {
		return AccountView{}, err
	}
	a, err := c.Access.Account(tenant, name)
	if err != nil || tenant == "" && !who.AllTenants() {
		return AccountView{}, c.refuse(ctx, who, act, ErrNotFound)
	}
	if disabled && a.Name == who.Account && a.Tenant == who.Tenant {
		return AccountView{}, &StateError{Act: "disable an account", State: "OWN", Reason: "another account has to disable this one"}
	}
	if !disabled {
		if err := c.mayGive(ctx, who, act, a.Environment, given(&a, a.Role, nil)); err != nil {
			return AccountView{}, err
		}
	}
	act.Reason, act.Anyway = reason, disabled
	err = c.act(ctx, who, act, func() (_ map[string]string, err error) {
		a, err = c.Access.SetDisabled(ctx, tenant, name, disabled)
		return nil, err
	})
	if err != nil {
		return AccountView{}, err
	}
	return c.accountView(a), nil
}

// Caller is who calls, with the hands that the credential went through.
func (c *Control) Caller(_ context.Context, who access.Caller) (access.Caller, []string, error) {
	if who.Account == "" {
		return access.Caller{}, nil, access.ErrNoToken
	}
	if err := c.Access.Live(who); err != nil {
		return access.Caller{}, nil, err
	}
	return who, c.Access.Hands(who), nil
}

// CertificateSigner signs for a certificate authority; *pki.CA is one, and has the contract.
type CertificateSigner interface {
	SignClient(request *x509.CertificateRequest, name string, ttl time.Duration) (leaf *x509.Certificate, chain []byte, err error)
}

// CertificateRequest is a certificate that an account is to have.
type CertificateRequest struct {
	Account  string
	Tenant   string
	PEM      string        // of the signing request
	Lifetime time.Duration // 0: access.DefaultCertificateLife
	Prefixes []netip.Prefix
}

// IssuedCertificate is one that was signed, and in PEM with the intermediate.
type IssuedCertificate struct {
	CertificateView
	Chain []byte
}

// CertificateView is what is kept of a certificate, and when it was last used.
type CertificateView struct {
	access.Certificate
	LastUse access.Use
}

// IssueCertificate signs a client certificate of the built-in CA for an account. It is known before it is handed out.
func (c *Control) IssueCertificate(ctx context.Context, who access.Caller, r CertificateRequest) (IssuedCertificate, error) {
	r.Tenant, r.Lifetime = cmp.Or(r.Tenant, who.Tenant), cmp.Or(r.Lifetime, access.DefaultCertificateLife)
	act := audit.Act{Name: "certificate.issue", Object: clip(r.Account), Tenant: clip(r.Tenant), Detail: map[string]string{"life": r.Lifetime.String()}}
	if err := c.allow(ctx, who, access.TokensWrite, &act); err != nil {
		return IssuedCertificate{}, err
	}
	account, err := c.Access.Account(r.Tenant, r.Account)
	if err != nil {
		return IssuedCertificate{}, translated(err)
	}
	if err := c.mayGive(ctx, who, act, account.Environment, given(&account, account.Role, nil)); err != nil {
		return IssuedCertificate{}, err
	}
	if r.Lifetime < access.MinCertificateLife || r.Lifetime > access.MaxCertificateLife {
		return IssuedCertificate{}, relay.Invalid{{Field: "ttl", Rule: fmt.Sprintf("must be %v to %v", access.MinCertificateLife, access.MaxCertificateLife)}}
	}
	hands := c.Access.HandsFor(who, r.Tenant, r.Account)
	if len(hands) > access.MaxHands {
		return IssuedCertificate{}, c.refuse(ctx, who, act, tooManyHands)
	}
	return c.sign(ctx, who, act, r, hands)
}

// RenewCertificate signs another one, for another key, for the account that calls with a certificate that the built-in CA issued to it.
func (c *Control) RenewCertificate(ctx context.Context, who access.Caller, requestPEM string) (IssuedCertificate, error) {
	act := audit.Act{Name: "certificate.renew", Object: who.CredentialID, Tenant: who.Tenant, Scope: access.TokensWrite}
	have, err := c.Access.Certificate(who.CredentialID)
	if err != nil || who.CredentialKind != string(access.KindCertificate) || have.Lifetime == 0 {
		return IssuedCertificate{}, c.refuse(ctx, who, act, &ForbiddenError{
			Scope: access.TokensWrite, Reason: "only a call over a certificate that this server issued renews it",
		})
	}
	if err := c.Access.Live(who); err != nil {
		return IssuedCertificate{}, err
	}
	return c.sign(ctx, who, act, CertificateRequest{
		Account: have.Account, Tenant: have.Tenant, PEM: requestPEM, Lifetime: have.Lifetime, Prefixes: have.Prefixes,
	}, have.Hands)
}

func (c *Control) sign(ctx context.Context, who access.Caller, act audit.Act, r CertificateRequest, hands []string) (out IssuedCertificate, err error) {
	if c.Certificates == nil {
		return out, &StateError{Act: "issue a certificate", State: "NONE", Reason: "this process has no certificate authority"}
	}
	request, err := pki.ParseRequest(r.PEM)
	if err != nil {
		return out, relay.Invalid{{Field: "requestPem", Rule: strings.TrimPrefix(err.Error(), pki.ErrRequest.Error()+": ")}}
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		leaf, chain, err := c.Certificates.SignClient(request, access.AccountSpiffeID(r.Tenant, r.Account), r.Lifetime)
		if err != nil {
			return nil, err
		}
		out.Chain = chain
		out.Certificate, err = c.Access.AddCertificate(ctx, access.Certificate{
			Account: r.Account, Tenant: r.Tenant, SHA256: access.Fingerprint(leaf), Prefixes: r.Prefixes,
			Creator: who.Account, Hands: hands, ExpireTime: leaf.NotAfter.UTC(), Lifetime: r.Lifetime,
		})
		return map[string]string{"certificate": access.Fingerprint(leaf), "expires": leaf.NotAfter.UTC().Format(time.RFC3339)}, err
	})
	if err != nil {
		return IssuedCertificate{}, err
	}
	return out, nil
}

// MapCertificate lets an account call with a certificate that another CA issued.
func (c *Control) MapCertificate(ctx context.Context, who access.Caller, m access.Certificate) (CertificateView, error) {
	m.Tenant, m.Creator, m.Lifetime, m.ExpireTime = cmp.Or(m.Tenant, who.Tenant), who.Account, 0, time.Time{}
	act := audit.Act{Name: "certificate.map", Object: clip(m.Account), Tenant: clip(m.Tenant), Detail: map[string]string{
		"sha256": clip(m.SHA256), "spiffeId": clip(m.SpiffeID),
	}}
	if err := c.allow(ctx, who, access.TokensWrite, &act); err != nil {
		return CertificateView{}, err
	}
	account, err := c.Access.Account(m.Tenant, m.Account)
	if err != nil {
		return CertificateView{}, translated(err)
	}
	if err := c.mayGive(ctx, who, act, account.Environment, given(&account, account.Role, nil)); err != nil {
		return CertificateView{}, err
	}
	if err := m.Check().Err(); err != nil {
		return CertificateView{}, err
	}
	if m.Hands = c.Access.HandsFor(who, m.Tenant, m.Account); len(m.Hands) > access.MaxHands {
		return CertificateView{}, c.refuse(ctx, who, act, tooManyHands)
	}
	err = c.act(ctx, who, act, func() (_ map[string]string, err error) {
		m, err = c.Access.AddCertificate(ctx, m)
		return map[string]string{"certificate": m.ID}, err
	})
	if err != nil {
		return CertificateView{}, err
	}
	return CertificateView{Certificate: m}, nil
}

// CertificatePage is one page of a list, by id. NextPageToken is empty on the last page.
type CertificatePage struct {
	Certificates  []CertificateView
	NextPageToken string
}

// ListCertificates lists what is kept of accounts' certificates, ended ones too.
func (c *Control) ListCertificates(ctx context.Context, who access.Caller, q TokenQuery) (CertificatePage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.TokensRead, &audit.Act{Name: "certificate.list", Tenant: clip(q.Tenant)}); err != nil {
		return CertificatePage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return CertificatePage{}, err
	}
	size := cmp.Or(q.PageSize, relay.DefaultPageSize)
	var page CertificatePage
	for _, cert := range c.Access.Certificates() {
		switch {
		case cert.ID <= after || !who.AllTenants() && !who.Sees(cert.Tenant):
		case q.Tenant != "" && cert.Tenant != q.Tenant || q.Account != "" && cert.Account != q.Account:
		case q.UnusedFor > 0 && (!c.Access.GoodCertificate(&cert) || !c.Access.Unused(cert.ID, cert.CreateTime, q.UnusedFor)):
		case len(page.Certificates) == size:
			page.NextPageToken = pageToken(page.Certificates[size-1].ID)
			return page, nil
		default:
			page.Certificates = append(page.Certificates, CertificateView{cert, c.Access.LastUse(cert.ID)})
		}
	}
	return page, nil
}

// RevokeCertificate ends one at once. Any account can end the one that it calls with.
func (c *Control) RevokeCertificate(ctx context.Context, who access.Caller, tenant, id string) (CertificateView, error) {
	act := audit.Act{Name: "certificate.revoke", Object: clip(id), Scope: access.TokensRevoke, Anyway: true}
	cert, found := c.Access.Certificate(id)
	own := found == nil && id == who.CredentialID
	var err error
	if own {
		err = c.Access.Live(who)
	} else {
		err = c.allow(ctx, who, access.TokensRevoke, &act)
	}
	if err != nil {
		return CertificateView{}, err
	}
	if found != nil || !own && !who.AllTenants() && !who.Sees(cert.Tenant) || tenant != "" && tenant != cert.Tenant {
		return CertificateView{}, c.refuse(ctx, who, act, ErrNotFound)
	}
	act.Tenant, act.Detail = cert.Tenant, map[string]string{"account": cert.Account}
	err = c.act(ctx, who, act, func() (_ map[string]string, err error) {
		cert, err = c.Access.RevokeCertificate(ctx, id)
		return nil, err
	})
	if err != nil {
		return CertificateView{}, err
	}
	return CertificateView{cert, c.Access.LastUse(id)}, nil
}

// Bounds of an access token's life.
const (
	DefaultAccessLife = time.Hour
	MinAccessLife     = 5 * time.Minute
	MaxAccessLife     = 12 * time.Hour
)

// grantsPerSecond bounds the access tokens that one account gets, with grantsAtOnce saved up.
const (
	grantsPerSecond = 1
	grantsAtOnce    = 30
)

// GrantAccess gives the account behind a client certificate a token of its own, bound to that certificate (RFC 8705, section 3): of
// the scopes asked for, or of all that the account has.
func (c *Control) GrantAccess(ctx context.Context, who access.Caller, scopes []access.Scope, life time.Duration) (token access.Token, secret relay.Secret, err error) {
	act := audit.Act{Name: "token.grant", Object: who.Account, Tenant: who.Tenant, Scope: access.TokensWrite}
	if who.CredentialKind != string(access.KindCertificate) || who.CertificateSHA256 == "" {
		return token, secret, c.refuse(ctx, who, act, &ForbiddenError{Scope: "", Reason: "an access token is given over a client certificate alone"})
	}
	if err := c.Access.Live(who); err != nil {
		return token, secret, err
	}
	limit, _ := c.grants.LoadOrStore(who.Tenant+"\x00"+who.Account, rate.NewLimiter(grantsPerSecond, grantsAtOnce))
	if !limit.(*rate.Limiter).Allow() {
		return token, secret, &BusyError{RetryAfter: time.Second, Reason: "the account asks for tokens too often: keep one until it ends"}
	}
	for i, s := range scopes {
		if !who.May(s) {
			return token, secret, relay.Invalid{{Field: fmt.Sprintf("scope[%d]", i), Rule: "is not one of the account's"}}
		}
	}
	cert, err := c.Access.Certificate(who.CredentialID)
	if err != nil {
		return token, secret, translated(err)
	}
	life = min(cmp.Or(life, DefaultAccessLife), who.ExpireTime.Sub(c.now()))
	if life < access.MinLifetime {
		return token, secret, &StateError{Act: "give an access token", State: "EXPIRING", Reason: "the client certificate ends within a minute: renew it"}
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		token, secret, err = c.Access.Create(ctx, access.Grant{
			Account: who.Account, Tenant: who.Tenant, Role: who.Role, Scopes: scopes, Lifetime: life, Prefixes: cert.Prefixes,
			Bound: who.CertificateSHA256, Creator: who.Account, Hands: cert.Hands, Kind: access.KindAccess,
		})
		return map[string]string{"token": token.ID, "expires": token.ExpireTime.Format(time.RFC3339)}, err
	})
	if err != nil {
		return access.Token{}, relay.Secret{}, err
	}
	return token, secret, nil
}

// SignedIn is a person as the OpenID provider and the configuration have them.
type SignedIn struct {
	Issuer, Subject string
	Name            string // an account's
	Role            string
	Tenant          string
	Environment     string
}

// SignIns knows the OpenID provider. What a client brings that is not right is a relay.Invalid; a person who is in none of the
// groups that have a role is ErrNoRole. All else is that the provider cannot be reached or is not as it should be.
type SignIns interface {
	// AuthURL is where a person signs in.
	AuthURL(ctx context.Context, redirect, state, nonce, challenge string) (string, error)
	// Exchange gets who signed in for the code that the provider sent them back with.
	Exchange(ctx context.Context, redirect, code, verifier, nonce string) (SignedIn, error)
	// Life is how long a sign-in is good.
	Life() time.Duration
}

// ErrNoRole is for a person whom the provider knows, and who is in no group that has a role.
var ErrNoRole = errors.New("who signed in is in no group that has a role here")

// signInsPerSecond bounds what anybody may ask of the OpenID provider through us.
const signInsPerSecond = 5

var errNoSignIn = &StateError{Act: "sign in", State: "NONE", Reason: "no OpenID provider is configured (access.oidc)"}

// BeginSignIn is where a person signs in. Anybody may ask.
func (c *Control) BeginSignIn(ctx context.Context, redirect, state, nonce, challenge string) (string, error) {
	if c.SignIns == nil {
		return "", errNoSignIn
	}
	if !c.signIns.Allow() {
		return "", &BusyError{RetryAfter: time.Second, Reason: "too many sign-ins"}
	}
	where, err := c.SignIns.AuthURL(ctx, redirect, state, nonce, challenge)
	return where, signInError(err)
}

// CompleteSignIn gives who signed in a token. Anybody may ask: what they bring only the person who signed in, with the client that
// they began with, can have.
func (c *Control) CompleteSignIn(ctx context.Context, from netip.Addr, redirect, code, verifier, nonce string) (token access.Token, secret relay.Secret, err error) {
	if c.SignIns == nil {
		return token, secret, errNoSignIn
	}
	if !c.signIns.Allow() {
		return token, secret, &BusyError{RetryAfter: time.Second, Reason: "too many sign-ins"}
	}
	person, err := c.SignIns.Exchange(ctx, redirect, code, verifier, nonce)
	who := access.Caller{Account: person.Name, Tenant: person.Tenant, Role: access.Role(person.Role), CredentialKind: string(access.KindSession), Address: from}
	act := audit.Act{Name: "person.signIn", Object: clip(person.Name), Tenant: clip(person.Tenant), Detail: map[string]string{
		"issuer": clip(person.Issuer), "subject": clip(person.Subject), "role": clip(person.Role),
	}}
	if errors.Is(err, ErrNoRole) {
		return token, secret, c.refuse(ctx, who, act, &ForbiddenError{Reason: err.Error()})
	}
	if err != nil {
		return token, secret, signInError(err)
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		token, secret, err = c.Access.SignIn(ctx, access.Account{
			Name: person.Name, Tenant: person.Tenant, Role: access.Role(person.Role), Environment: access.Environment(person.Environment),
			Issuer: person.Issuer, Subject: person.Subject, Creator: person.Name,
		}, c.SignIns.Life())
		return map[string]string{"token": token.ID, "expires": token.ExpireTime.Format(time.RFC3339)}, err
	})
	if err != nil {
		return access.Token{}, relay.Secret{}, err
	}
	return token, secret, nil
}

func signInError(err error) error {
	var invalid relay.Invalid
	if err == nil || errors.As(err, &invalid) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w: the OpenID provider: %w", ErrUnavailable, err)
}
