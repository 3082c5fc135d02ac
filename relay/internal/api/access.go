package api

import (
	"context"
	"net/netip"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Access is the part of the door that accounts and credentials go through. control has its contract.
type Access interface {
	CreateAccount(ctx context.Context, who access.Caller, a access.Account) (control.AccountView, error)
	GetAccount(ctx context.Context, who access.Caller, tenant, name string) (control.AccountView, error)
	ListAccounts(ctx context.Context, who access.Caller, q control.AccountQuery) (control.AccountPage, error)
	SetAccountDisabled(ctx context.Context, who access.Caller, tenant, name, reason string, disabled bool) (control.AccountView, error)
	Caller(ctx context.Context, who access.Caller) (access.Caller, []string, error)

	CreateToken(ctx context.Context, who access.Caller, g access.Grant) (access.Token, relay.Secret, error)
	ListTokens(ctx context.Context, who access.Caller, q control.TokenQuery) (control.TokenPage, error)
	RotateToken(ctx context.Context, who access.Caller, tenant, id string, overlap time.Duration) (control.Rotated, error)
	RevokeToken(ctx context.Context, who access.Caller, tenant, id string) (access.Token, error)

	IssueCertificate(ctx context.Context, who access.Caller, r control.CertificateRequest) (control.IssuedCertificate, error)
	RenewCertificate(ctx context.Context, who access.Caller, requestPEM string) (control.IssuedCertificate, error)
	MapCertificate(ctx context.Context, who access.Caller, c access.Certificate) (control.CertificateView, error)
	ListCertificates(ctx context.Context, who access.Caller, q control.TokenQuery) (control.CertificatePage, error)
	RevokeCertificate(ctx context.Context, who access.Caller, tenant, id string) (control.CertificateView, error)

	GrantAccess(ctx context.Context, who access.Caller, scopes []access.Scope, life time.Duration) (access.Token, relay.Secret, error)
	BeginSignIn(ctx context.Context, redirect, state, nonce, challenge string) (string, error)
	CompleteSignIn(ctx context.Context, from netip.Addr, redirect, code, verifier, nonce string) (access.Token, relay.Secret, error)
}

type accessService struct {
	sealpostv1.UnimplementedAccessServiceServer
	access Access
}

// CreateAccount makes an account.
func (s *accessService) CreateAccount(ctx context.Context, r *sealpostv1.CreateAccountRequest) (*sealpostv1.Account, error) {
	asked := r.GetAccount()
	return accountOf(s.access.CreateAccount(ctx, callerOf(ctx), access.Account{
		Name: asked.GetName(), Tenant: asked.GetTenant(), Role: access.Role(enumName(asked.GetRole())), Scopes: scopesOf(asked.GetScopes()),
		Environment: access.Environment(enumName(asked.GetEnvironment())), Description: asked.GetDescription(),
	}))
}

// GetAccount is one account.
func (s *accessService) GetAccount(ctx context.Context, r *sealpostv1.GetAccountRequest) (*sealpostv1.Account, error) {
	return accountOf(s.access.GetAccount(ctx, callerOf(ctx), r.GetTenant(), r.GetName()))
}

// ListAccounts is a page of them.
func (s *accessService) ListAccounts(ctx context.Context, r *sealpostv1.ListAccountsRequest) (*sealpostv1.ListAccountsResponse, error) {
	page, err := s.access.ListAccounts(ctx, callerOf(ctx), control.AccountQuery{
		Tenant: r.GetTenant(), Role: access.Role(enumName(r.GetRole())), UnusedFor: r.GetUnusedFor().AsDuration(),
		PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListAccountsResponse{NextPageToken: page.NextPageToken}
	for _, a := range page.Accounts {
		one, _ := accountOf(a, nil)
		out.Accounts = append(out.Accounts, one)
	}
	return out, nil
}

// DisableAccount refuses all of an account's credentials.
func (s *accessService) DisableAccount(ctx context.Context, r *sealpostv1.DisableAccountRequest) (*sealpostv1.Account, error) {
	return accountOf(s.access.SetAccountDisabled(ctx, callerOf(ctx), r.GetTenant(), r.GetName(), r.GetReason(), true))
}

// EnableAccount takes them again.
func (s *accessService) EnableAccount(ctx context.Context, r *sealpostv1.EnableAccountRequest) (*sealpostv1.Account, error) {
	return accountOf(s.access.SetAccountDisabled(ctx, callerOf(ctx), r.GetTenant(), r.GetName(), r.GetReason(), false))
}

// GetCaller is who calls.
func (s *accessService) GetCaller(ctx context.Context, _ *sealpostv1.GetCallerRequest) (*sealpostv1.Caller, error) {
	c, hands, err := s.access.Caller(ctx, callerOf(ctx))
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.Caller{
		Account: c.Account, Tenant: c.Tenant, Role: enumValue[sealpostv1.Token_Role](string(c.Role)), Scopes: scopeTexts(c.Scopes),
		Environment:    enumValue[sealpostv1.Account_Environment](string(c.Environment)),
		CredentialKind: c.CredentialKind, CredentialId: c.CredentialID, ExpireTime: stamp(c.ExpireTime),
		CertificateSubject: c.CertificateSubject, CertificateSha256: c.CertificateSHA256, Hands: hands,
	}
	if c.Address.IsValid() {
		out.Address = c.Address.String()
	}
	return out, nil
}

// CreateToken makes a token; its secret is in the answer, this once.
func (s *accessService) CreateToken(ctx context.Context, r *sealpostv1.CreateTokenRequest) (*sealpostv1.CreateTokenResponse, error) {
	asked := r.GetToken()
	prefixes, err := prefixesOf("token.cidrs", asked.GetCidrs())
	if err != nil {
		return nil, err
	}
	token, secret, err := s.access.CreateToken(ctx, callerOf(ctx), access.Grant{
		Account: asked.GetAccount(), Role: access.Role(enumName(asked.GetRole())), Tenant: asked.GetTenant(), Scopes: scopesOf(asked.GetScopes()),
		Lifetime: asked.GetTtl().AsDuration(), Prefixes: prefixes, RateLimit: asked.GetRateLimit(), Bound: asked.GetCertificateSha256(),
	})
	if err != nil {
		return nil, err
	}
	return &sealpostv1.CreateTokenResponse{Token: tokenOf(&token, access.Use{}), Secret: secret.Reveal()}, nil
}

// ListTokens is a page of them, without secrets.
func (s *accessService) ListTokens(ctx context.Context, r *sealpostv1.ListTokensRequest) (*sealpostv1.ListTokensResponse, error) {
	page, err := s.access.ListTokens(ctx, callerOf(ctx), control.TokenQuery{
		Tenant: r.GetTenant(), Account: r.GetAccount(), UnusedFor: r.GetUnusedFor().AsDuration(), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListTokensResponse{NextPageToken: page.NextPageToken}
	for i := range page.Tokens {
		out.Tokens = append(out.Tokens, tokenOf(&page.Tokens[i].Token, page.Tokens[i].LastUse))
	}
	return out, nil
}

// RotateToken makes a token in another one's place; its secret is in the answer, this once.
func (s *accessService) RotateToken(ctx context.Context, r *sealpostv1.RotateTokenRequest) (*sealpostv1.RotateTokenResponse, error) {
	overlap := access.DefaultOverlap
	if r.GetOverlap() != nil {
		overlap = r.GetOverlap().AsDuration()
	}
	out, err := s.access.RotateToken(ctx, callerOf(ctx), r.GetTenant(), r.GetId(), overlap)
	if err != nil {
		return nil, err
	}
	return &sealpostv1.RotateTokenResponse{
		Token: tokenOf(&out.Token, access.Use{}), Secret: out.Secret.Reveal(), Previous: tokenOf(&out.Previous, access.Use{}),
	}, nil
}

// RevokeToken ends a token.
func (s *accessService) RevokeToken(ctx context.Context, r *sealpostv1.RevokeTokenRequest) (*sealpostv1.Token, error) {
	token, err := s.access.RevokeToken(ctx, callerOf(ctx), r.GetTenant(), r.GetId())
	if err != nil {
		return nil, err
	}
	return tokenOf(&token, access.Use{}), nil
}

// IssueCertificate signs a client certificate.
func (s *accessService) IssueCertificate(ctx context.Context, r *sealpostv1.IssueCertificateRequest) (*sealpostv1.IssueCertificateResponse, error) {
	prefixes, err := prefixesOf("cidrs", r.GetCidrs())
	if err != nil {
		return nil, err
	}
	return issuedOf(s.access.IssueCertificate(ctx, callerOf(ctx), control.CertificateRequest{
		Account: r.GetAccount(), Tenant: r.GetTenant(), PEM: r.GetRequestPem(), Lifetime: r.GetTtl().AsDuration(), Prefixes: prefixes,
	}))
}

// RenewCertificate signs another one for the caller.
func (s *accessService) RenewCertificate(ctx context.Context, r *sealpostv1.RenewCertificateRequest) (*sealpostv1.IssueCertificateResponse, error) {
	return issuedOf(s.access.RenewCertificate(ctx, callerOf(ctx), r.GetRequestPem()))
}

// MapCertificate lets an account call with another CA's certificate.
func (s *accessService) MapCertificate(ctx context.Context, r *sealpostv1.MapCertificateRequest) (*sealpostv1.Certificate, error) {
	asked := r.GetCertificate()
	prefixes, err := prefixesOf("certificate.cidrs", asked.GetCidrs())
	if err != nil {
		return nil, err
	}
	return certificateOf(s.access.MapCertificate(ctx, callerOf(ctx), access.Certificate{
		Account: asked.GetAccount(), Tenant: asked.GetTenant(), SHA256: asked.GetSha256(), SpiffeID: asked.GetSpiffeId(), Prefixes: prefixes,
	}))
}

// ListCertificates is a page of them.
func (s *accessService) ListCertificates(ctx context.Context, r *sealpostv1.ListCertificatesRequest) (*sealpostv1.ListCertificatesResponse, error) {
	page, err := s.access.ListCertificates(ctx, callerOf(ctx), control.TokenQuery{
		Tenant: r.GetTenant(), Account: r.GetAccount(), UnusedFor: r.GetUnusedFor().AsDuration(), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListCertificatesResponse{NextPageToken: page.NextPageToken}
	for _, c := range page.Certificates {
		one, _ := certificateOf(c, nil)
		out.Certificates = append(out.Certificates, one)
	}
	return out, nil
}

// RevokeCertificate ends one.
func (s *accessService) RevokeCertificate(ctx context.Context, r *sealpostv1.RevokeCertificateRequest) (*sealpostv1.Certificate, error) {
	return certificateOf(s.access.RevokeCertificate(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

// BeginSignIn says where a person signs in.
func (s *accessService) BeginSignIn(ctx context.Context, r *sealpostv1.BeginSignInRequest) (*sealpostv1.BeginSignInResponse, error) {
	where, err := s.access.BeginSignIn(ctx, r.GetRedirectUri(), r.GetState(), r.GetNonce(), r.GetCodeChallenge())
	if err != nil {
		return nil, err
	}
	return &sealpostv1.BeginSignInResponse{AuthorizationUrl: where}, nil
}

// CompleteSignIn gives who signed in a token.
func (s *accessService) CompleteSignIn(ctx context.Context, r *sealpostv1.CompleteSignInRequest) (*sealpostv1.CreateTokenResponse, error) {
	token, secret, err := s.access.CompleteSignIn(ctx, peerAddress(ctx), r.GetRedirectUri(), r.GetCode(), r.GetCodeVerifier(), r.GetNonce())
	if err != nil {
		return nil, err
	}
	return &sealpostv1.CreateTokenResponse{Token: tokenOf(&token, access.Use{}), Secret: secret.Reveal()}, nil
}

func tokenOf(t *access.Token, last access.Use) *sealpostv1.Token {
	out := &sealpostv1.Token{
		Id: t.ID, Kind: enumValue[sealpostv1.Token_Kind](string(t.Kind)), Account: t.Account, Role: enumValue[sealpostv1.Token_Role](string(t.Role)), Tenant: t.Tenant,
		CreateTime: stamp(t.CreateTime), ExpireTime: stamp(t.ExpireTime), RevokeTime: stamp(t.RevokeTime), Creator: t.Creator,
		Scopes: scopeTexts(t.Scopes), Cidrs: prefixTexts(t.Prefixes), RateLimit: t.RateLimit, CertificateSha256: t.Bound, RotatedFrom: t.RotatedFrom,
		LastUseTime: stamp(last.Time),
	}
	if len(t.Scopes) == 0 {
		out.Scopes = scopeTexts(t.Role.Scopes())
	}
	if last.Address.IsValid() {
		out.LastUseAddress = last.Address.String()
	}
	return out
}

func accountOf(a control.AccountView, err error) (*sealpostv1.Account, error) {
	if err != nil {
		return nil, err
	}
	return &sealpostv1.Account{
		Name: a.Name, Tenant: a.Tenant, Role: enumValue[sealpostv1.Token_Role](string(a.Role)), Scopes: scopeTexts(a.Scopes),
		Environment: enumValue[sealpostv1.Account_Environment](string(a.Environment)), Description: a.Description,
		Kind: enumValue[sealpostv1.Account_Kind](string(a.Kind)), Creator: a.Creator, CreateTime: stamp(a.CreateTime), DisableTime: stamp(a.DisableTime),
		LastUseTime: stamp(a.LastUse.Time), CredentialCount: int32(a.Credentials),
	}, nil
}

func certificateOf(c control.CertificateView, err error) (*sealpostv1.Certificate, error) {
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.Certificate{
		Id: c.ID, Account: c.Account, Tenant: c.Tenant, Sha256: c.SHA256, SpiffeId: c.SpiffeID, Cidrs: prefixTexts(c.Prefixes), Creator: c.Creator,
		CreateTime: stamp(c.CreateTime), ExpireTime: stamp(c.ExpireTime), RevokeTime: stamp(c.RevokeTime), LastUseTime: stamp(c.LastUse.Time),
	}
	if c.LastUse.Address.IsValid() {
		out.LastUseAddress = c.LastUse.Address.String()
	}
	return out, nil
}

func issuedOf(c control.IssuedCertificate, err error) (*sealpostv1.IssueCertificateResponse, error) {
	if err != nil {
		return nil, err
	}
	one, _ := certificateOf(c.CertificateView, nil)
	return &sealpostv1.IssueCertificateResponse{Certificate: one, ChainPem: string(c.Chain)}, nil
}

func scopesOf(list []string) (out []access.Scope) {
	for _, s := range list {
		out = append(out, access.Scope(s))
	}
	return out
}

func scopeTexts(list []access.Scope) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func prefixTexts(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// prefixesOf reads CIDRs, and single addresses as those that hold them alone.
func prefixesOf(field string, list []string) (out []netip.Prefix, _ error) {
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if a, bare := netip.ParseAddr(text); err != nil && bare == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return nil, relay.Invalid{{Field: field, Rule: "must be CIDRs such as 192.0.2.0/24, or addresses"}}
		}
		out = append(out, p)
	}
	return out, nil
}
