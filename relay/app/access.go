package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/internal/signin"
)

// Bounds of a sign-in's life.
const (
	defaultSignInLife = 8 * time.Hour
	minSignInLife     = 5 * time.Minute
	maxSignInLife     = 24 * time.Hour
)

func (a *Access) withDefaults() {
	defaultTo(&a.AccessTokenLife, control.DefaultAccessLife)
	o := &a.OIDC
	defaultTo(&o.GroupsClaim, "groups")
	defaultTo(&o.NameClaim, "email")
	defaultTo(&o.Life, defaultSignInLife)
	if o.Scopes == nil {
		o.Scopes = []string{"profile", "email", "groups"}
	}
}

func (a *Access) check() error {
	if a.AccessTokenLife < control.MinAccessLife || a.AccessTokenLife > control.MaxAccessLife {
		return fmt.Errorf("access.accessTokenLife: must be %v to %v, not %v", control.MinAccessLife, control.MaxAccessLife, a.AccessTokenLife)
	}
	if a.Issuer != "" {
		// RFC 8414, section 2.
		if u, err := url.Parse(a.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("access.issuer: %q is not https://host[:port]", a.Issuer)
		}
	}
	o := &a.OIDC
	if o.Issuer == "" {
		if o.ClientID != "" || len(o.Roles) > 0 {
			return errors.New("access.oidc.issuer: is missing")
		}
		return nil
	}
	if u, err := url.Parse(o.Issuer); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("access.oidc.issuer: %q is not an https:// URL", o.Issuer)
	}
	switch {
	case o.ClientID == "":
		return errors.New("access.oidc.clientId: is missing")
	case len(o.Roles) == 0:
		return errors.New("access.oidc.roles: is missing: without one nobody could sign in")
	case o.Life < minSignInLife || o.Life > maxSignInLife:
		return fmt.Errorf("access.oidc.life: must be %v to %v, not %v", minSignInLife, maxSignInLife, o.Life)
	}
	for i, m := range o.Roles {
		account := access.Account{Name: "a", Role: access.Role(strings.ToUpper(m.Role)), Tenant: m.Tenant, Environment: access.Environment(strings.ToUpper(m.Environment))}
		if m.Group == "" {
			return fmt.Errorf("access.oidc.roles[%d].group: is missing", i)
		}
		if err := account.Check().Err(); err != nil {
			return fmt.Errorf("access.oidc.roles[%d]: %w", i, err)
		}
	}
	return nil
}

// oauthIssuer is the URL that OAuth clients know us by; "" where there is no TLS and so no token endpoint.
func (o *Options) oauthIssuer() string {
	switch {
	case o.TLS.Cert == "":
		return ""
	case o.Access.Issuer != "":
		return o.Access.Issuer
	}
	host, port, err := net.SplitHostPort(o.HTTP)
	if err != nil || host == "" || port == "0" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port)
}

// readRoots reads a PEM file of CAs; nil where none is named.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return roots, nil
}

// maxClientSecret bounds the file of a client secret, in bytes.
const maxClientSecret = 4 << 10

// signIns is the OpenID provider, nil where none is configured.
func (a *App) signIns() (control.SignIns, error) {
	o := a.o.Access.OIDC
	if o.Issuer == "" {
		return nil, nil
	}
	if strings.HasPrefix(o.Issuer, "http://") && !a.o.Dev {
		return nil, fmt.Errorf("access.oidc.issuer: %q is not https, which only --dev allows", o.Issuer)
	}
	roots, err := readRoots(o.CA)
	if err != nil {
		return nil, fmt.Errorf("access.oidc.ca: %w", err)
	}
	var secret []byte
	if o.ClientSecretFile != "" {
		if secret, err = keys.ReadPrivate(o.ClientSecretFile, maxClientSecret); err != nil {
			return nil, fmt.Errorf("access.oidc.clientSecretFile: %w", err)
		}
	}
	var mappings []signin.Mapping
	for _, m := range o.Roles {
		mappings = append(mappings, signin.Mapping(m))
	}
	options := egress.Options{Guard: *a.guard}
	if a.o.Egress.NameServer != "" {
		options.Resolver = egress.NameServer(a.o.Egress.NameServer)
	}
	client := egress.NewClient(options, roots, a.o.Dev)
	a.onClose("OpenID provider", func(context.Context) error { client.CloseIdleConnections(); return nil })
	return signIns{signin.New(signin.Options{
		Issuer: o.Issuer, ClientID: o.ClientID, ClientSecret: strings.TrimSpace(string(secret)), Scopes: o.Scopes, GroupsClaim: o.GroupsClaim,
		NameClaim: o.NameClaim, Mappings: mappings, Life: o.Life, Client: client, Now: a.o.Clock, ValidName: access.ValidAccount,
	})}, nil
}

// signIns gives control who signed in, in its words.
type signIns struct{ *signin.Provider }

func (s signIns) Exchange(ctx context.Context, redirect, code, verifier, nonce string) (control.SignedIn, error) {
	p, err := s.Provider.Exchange(ctx, redirect, code, verifier, nonce)
	if errors.Is(err, signin.ErrNoRole) {
		err = control.ErrNoRole
	}
	return control.SignedIn{
		Issuer: p.Issuer, Subject: p.Subject, Name: p.Name, Role: strings.ToUpper(p.Role), Tenant: p.Tenant, Environment: strings.ToUpper(p.Environment),
	}, err
}
