// Package signin is the client of an OpenID provider: it sends people there and finds out who came back.
//
// It promises that nobody counts as signed in whose ID token the provider did not sign for us, for this sign-in (the nonce) and for the
// client that began it (PKCE, RFC 7636), and that nothing of the provider is read but through the client that it is given. It trusts the
// provider to know people and their groups. It keeps no state of a sign-in: the client that begins one holds what ends it.
package signin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/sealpost/sealpost/relay"
)

// Mapping gives the people of a group a role.
type Mapping struct {
	Group       string // as the provider names it
	Role        string
	Tenant      string // "": all
	Environment string // "": both
}

// Options say where the provider is and whom it knows.
type Options struct {
	Issuer       string
	ClientID     string
	ClientSecret string   // "": a public client
	Scopes       []string // beside openid
	GroupsClaim  string
	NameClaim    string
	Mappings     []Mapping // the first whose group a person is in counts
	Life         time.Duration
	Client       *http.Client
	Now          func() time.Time
	// ValidName tells whether a text can name an account.
	ValidName func(string) bool
}

// Person is who signed in, with what the first mapping that fits gives.
type Person struct {
	Issuer, Subject string
	Name            string
	Mapping
}

// ErrNoRole is for who signed in and is in no group that has a role.
var ErrNoRole = errors.New("signin: in no group that has a role")

// Provider is an OpenID provider. Its methods may be called concurrently.
type Provider struct {
	o Options

	mu       sync.Mutex
	found    *oidc.Provider // nil: not discovered yet
	foundAt  time.Time
	failedAt time.Time
	failed   error
}

// How long discovery is good, and for how long one that failed is not tried again.
const (
	discoverEvery = time.Hour
	discoverAgain = 5 * time.Second
)

// New is a provider; it is discovered when the first person signs in, so that a provider that is away keeps no relay from starting.
func New(o Options) *Provider { return &Provider{o: o} }

// Life is how long a sign-in is good.
func (p *Provider) Life() time.Duration { return p.o.Life }

// discover reads the provider's configuration (OpenID Connect Discovery 1.0), once an hour.
func (p *Provider) discover(ctx context.Context) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case p.found != nil && now.Sub(p.foundAt) < discoverEvery:
		return p.found, nil
	case p.failed != nil && now.Sub(p.failedAt) < discoverAgain:
		return nil, p.failed
	}
	// The keys are read later, by a context that must not end with this call.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.o.Client), p.o.Issuer)
	if err != nil {
		p.failed, p.failedAt = fmt.Errorf("signin: discovery: %w", err), now
		return nil, p.failed
	}
	p.found, p.foundAt, p.failed = found, now, nil
	return found, nil
}

func (p *Provider) config(found *oidc.Provider, redirect string) *oauth2.Config {
	endpoint := found.Endpoint()
	// Said and not tried out: a code that came with the wrong form is spent.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	var about struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"` // absent: client_secret_basic (Discovery, section 3)
	}
	if p.o.ClientSecret == "" || found.Claims(&about) == nil && len(about.Methods) > 0 && !slices.Contains(about.Methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: p.o.ClientID, ClientSecret: p.o.ClientSecret, Endpoint: endpoint, RedirectURL: redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, p.o.Scopes...),
	}
}

// AuthURL is where a person signs in: the authorisation endpoint with everything that the provider has to know. What breaks a rule is a relay.Invalid.
func (p *Provider) AuthURL(ctx context.Context, redirect, state, nonce, challenge string) (string, error) {
	var bad relay.Invalid
	if !loopbackRedirect(redirect) {
		bad.Add("redirectUri", "must be http://127.0.0.1:PORT/callback or http://[::1]:PORT/callback")
	}
	for field, text := range map[string]string{"state": state, "nonce": nonce} {
		if len(text) < 22 || len(text) > 128 || !urlSafe(text) {
			bad.Add(field, "must be 22 to 128 of A-Z, a-z, 0-9, '-' and '_'")
		}
	}
	if len(challenge) != 43 || !urlSafe(challenge) {
		bad.Add("codeChallenge", "must be the base64url of a SHA-256 (RFC 7636, section 4.2)")
	}
	if err := bad.Err(); err != nil {
		return "", err
	}
	found, err := p.discover(ctx)
	if err != nil {
		return "", err
	}
	return p.config(found, redirect).AuthCodeURL(state, oidc.Nonce(nonce),
		oauth2.SetAuthURLParam("code_challenge", challenge), oauth2.SetAuthURLParam("code_challenge_method", "S256")), nil
}

// loopbackRedirect tells whether a person is sent back to their own machine and nowhere else.
func loopbackRedirect(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Path != "/callback" || u.RawQuery != "" || u.Fragment != "" || u.String() != text {
		return false
	}
	at, err := netip.ParseAddrPort(u.Host)
	return err == nil && at.String() == u.Host && at.Addr().IsLoopback() && at.Port() != 0
}

func urlSafe(s string) bool {
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// Exchange gets who signed in for the code that they came back with. What the client brought that is not right is a relay.Invalid; who
// has no role is ErrNoRole, with who it is.
func (p *Provider) Exchange(ctx context.Context, redirect, code, verifier, nonce string) (Person, error) {
	var bad relay.Invalid
	if !loopbackRedirect(redirect) {
		bad.Add("redirectUri", "must be the one that the sign-in began with")
	}
	if code == "" || len(code) > 4096 {
		bad.Add("code", "must be 1 to 4096 bytes")
	}
	if len(verifier) < 43 || len(verifier) > 128 {
		bad.Add("codeVerifier", "must be 43 to 128 characters (RFC 7636, section 4.1)")
	}
	if len(nonce) < 22 || len(nonce) > 128 {
		bad.Add("nonce", "must be the one that the sign-in began with")
	}
	if err := bad.Err(); err != nil {
		return Person{}, err
	}
	found, err := p.discover(ctx)
	if err != nil {
		return Person{}, err
	}
	token, err := p.config(found, redirect).Exchange(oidc.ClientContext(ctx, p.o.Client), code, oauth2.VerifierOption(verifier))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response.StatusCode < 500 && refused.ErrorCode == "invalid_grant":
		return Person{}, relay.Invalid{{Field: "code", Rule: "is not taken by the OpenID provider: sign in again"}}
	case err != nil:
		return Person{}, fmt.Errorf("signin: token endpoint: %w", withoutBody(err))
	}
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return Person{}, errors.New("signin: the provider sent no ID token")
	}
	id, err := found.VerifierContext(oidc.ClientContext(ctx, p.o.Client), &oidc.Config{ClientID: p.o.ClientID, Now: p.o.Now}).Verify(ctx, raw)
	if err != nil {
		return Person{}, fmt.Errorf("signin: ID token: %w", err)
	}
	if id.Nonce != nonce {
		return Person{}, relay.Invalid{{Field: "nonce", Rule: "is not that of the ID token: the sign-in is another one's"}}
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return Person{}, fmt.Errorf("signin: ID token: %w", err)
	}
	if _, ok := claims[p.o.GroupsClaim]; !ok { // many providers tell groups at the userinfo endpoint alone
		info, err := found.UserInfo(oidc.ClientContext(ctx, p.o.Client), oauth2.StaticTokenSource(token))
		if err == nil && info.Subject == id.Subject { // OpenID Connect Core, section 5.3.2
			more := map[string]any{}
			if info.Claims(&more) == nil {
				for name, value := range more {
					if _, ok := claims[name]; !ok {
						claims[name] = value
					}
				}
			}
		}
	}
	return p.person(id.Issuer, id.Subject, claims)
}

// withoutBody keeps what the provider answered out of logs: it could quote the code.
func withoutBody(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		return fmt.Errorf("status %d, error %q", refused.Response.StatusCode, refused.ErrorCode)
	}
	return err
}

// person reads claims by the configuration.
func (p *Provider) person(issuer, subject string, claims map[string]any) (Person, error) {
	person := Person{Issuer: issuer, Subject: subject, Name: p.name(issuer, subject, claims)}
	groups := texts(claims[p.o.GroupsClaim])
	for _, m := range p.o.Mappings {
		if slices.Contains(groups, m.Group) {
			person.Mapping = m
			return person, nil
		}
	}
	return person, ErrNoRole
}

// name is an account's: the claim's where it can be one, else made of who the person is to the provider. A mail address that the provider
// did not verify is nobody's name.
func (p *Provider) name(issuer, subject string, claims map[string]any) string {
	name, _ := claims[p.o.NameClaim].(string)
	if verified, told := claims["email_verified"].(bool); p.o.NameClaim == "email" && (!told || !verified) {
		name = ""
	}
	if p.o.ValidName(name) {
		return name
	}
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	return "person-" + hex.EncodeToString(sum[:10])
}

// texts reads a claim of one text or several.
func texts(claim any) (out []string) {
	switch c := claim.(type) {
	case string:
		return []string{c}
	case []any:
		for _, one := range c {
			if s, ok := one.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}
