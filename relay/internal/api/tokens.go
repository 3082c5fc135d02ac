package api

import (
	"context"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Tokens is the part of the door that tokens go through. control has its contract.
type Tokens interface {
	CreateToken(ctx context.Context, who access.Caller, g access.Grant) (access.Token, relay.Secret, error)
	ListTokens(ctx context.Context, who access.Caller, q control.TokenQuery) (control.TokenPage, error)
	RevokeToken(ctx context.Context, who access.Caller, tenant, id string) (access.Token, error)
}

type accessService struct {
	sealpostv1.UnimplementedAccessServiceServer
	tokens Tokens
}

// CreateToken makes a token; its secret is in the answer, this once.
func (s *accessService) CreateToken(ctx context.Context, r *sealpostv1.CreateTokenRequest) (*sealpostv1.CreateTokenResponse, error) {
	asked := r.GetToken()
	grant := access.Grant{
		Account: asked.GetAccount(), Role: access.Role(enumName(asked.GetRole())), Tenant: asked.GetTenant(),
		Lifetime: asked.GetTtl().AsDuration(),
	}
	for _, scope := range asked.GetScopes() {
		grant.Scopes = append(grant.Scopes, access.Scope(scope))
	}
	token, secret, err := s.tokens.CreateToken(ctx, callerOf(ctx), grant)
	if err != nil {
		return nil, err
	}
	return &sealpostv1.CreateTokenResponse{Token: tokenOf(&token), Secret: secret.Reveal()}, nil
}

// ListTokens is a page of them, without secrets.
func (s *accessService) ListTokens(ctx context.Context, r *sealpostv1.ListTokensRequest) (*sealpostv1.ListTokensResponse, error) {
	page, err := s.tokens.ListTokens(ctx, callerOf(ctx), control.TokenQuery{
		Tenant: r.GetTenant(), Account: r.GetAccount(), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListTokensResponse{NextPageToken: page.NextPageToken}
	for i := range page.Tokens {
		out.Tokens = append(out.Tokens, tokenOf(&page.Tokens[i]))
	}
	return out, nil
}

// RevokeToken ends a token.
func (s *accessService) RevokeToken(ctx context.Context, r *sealpostv1.RevokeTokenRequest) (*sealpostv1.Token, error) {
	token, err := s.tokens.RevokeToken(ctx, callerOf(ctx), r.GetTenant(), r.GetId())
	if err != nil {
		return nil, err
	}
	return tokenOf(&token), nil
}

func tokenOf(t *access.Token) *sealpostv1.Token {
	out := &sealpostv1.Token{
		Id: t.ID, Account: t.Account, Role: enumValue[sealpostv1.Token_Role](string(t.Role)), Tenant: t.Tenant,
		CreateTime: stamp(t.CreateTime), ExpireTime: stamp(t.ExpireTime), RevokeTime: stamp(t.RevokeTime), Creator: t.Creator,
	}
	for _, scope := range t.Scopes {
		out.Scopes = append(out.Scopes, string(scope))
	}
	return out
}
