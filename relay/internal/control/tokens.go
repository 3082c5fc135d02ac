package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
)

// CreateToken makes a token for an account. The secret is shown this once. Nobody gives more than they have: not
// another tenant, not a scope of their own that they lack.
func (c *Control) CreateToken(ctx context.Context, who access.Caller, g access.Grant) (token access.Token, secret relay.Secret, err error) {
	g.Tenant = cmp.Or(g.Tenant, who.Tenant)
	g.Creator = who.Account
	act := audit.Act{Name: "token.create", Object: clip(g.Account), Tenant: clip(g.Tenant), Detail: map[string]string{"role": clip(string(g.Role))}}
	if err := c.allow(ctx, who, access.TokensWrite, &act); err != nil {
		return token, secret, err
	}
	asked := g.Scopes
	if len(asked) == 0 {
		asked = g.Role.Scopes()
	}
	for _, s := range asked {
		if slices.Contains(access.Operator.Scopes(), s) && !who.May(s) {
			return token, secret, c.refuse(ctx, who, act, &ForbiddenError{Scope: s, Reason: "nobody gives a scope that they lack"})
		}
	}
	if err := g.Check().Err(); err != nil { // before the record: a grant against the rules is no act
		return token, secret, err
	}
	_, act.After = audit.Changes(nil, shownGrant(&g))
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		token, secret, err = c.Access.Create(ctx, g)
		return map[string]string{"token": token.ID, "expires": token.ExpireTime.Format(time.RFC3339)}, err
	})
	if err != nil {
		return access.Token{}, relay.Secret{}, err
	}
	return token, secret, nil
}

// TokenQuery asks for tokens. Zero fields do not narrow it.
type TokenQuery struct {
	Tenant    string
	Account   string
	PageSize  int // 1 to relay.MaxPageSize; 0 is relay.DefaultPageSize
	PageToken string
}

// TokenPage is one page of a list, by id. NextPageToken is empty on the last page.
type TokenPage struct {
	Tokens        []access.Token
	NextPageToken string
}

// ListTokens lists what is kept of tokens, expired and revoked ones too; never a secret.
func (c *Control) ListTokens(ctx context.Context, who access.Caller, q TokenQuery) (TokenPage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.TokensRead, &audit.Act{Name: "token.list", Tenant: clip(q.Tenant)}); err != nil {
		return TokenPage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return TokenPage{}, err
	}
	size := cmp.Or(q.PageSize, relay.DefaultPageSize)
	all := c.Access.List()
	slices.SortFunc(all, func(a, b access.Token) int { return strings.Compare(a.ID, b.ID) })
	var page TokenPage
	for _, t := range all {
		if t.ID <= after || !seesToken(who, t) || q.Tenant != "" && t.Tenant != q.Tenant || q.Account != "" && t.Account != q.Account {
			continue
		}
		if len(page.Tokens) == size {
			page.NextPageToken = pageToken(page.Tokens[size-1].ID)
			break
		}
		page.Tokens = append(page.Tokens, t)
	}
	return page, nil
}

func seesToken(who access.Caller, t access.Token) bool {
	return who.AllTenants() || t.Tenant != "" && who.Sees(t.Tenant)
}

// RevokeToken ends a token at once. Any account can end the token that it calls with.
func (c *Control) RevokeToken(ctx context.Context, who access.Caller, tenant, id string) (token access.Token, err error) {
	act := audit.Act{Name: "token.revoke", Object: clip(id), Scope: access.TokensWrite, Anyway: true}
	token, err = c.Access.Get(id)
	own := err == nil && id == who.CredentialID
	if !own {
		if err := c.allow(ctx, who, access.TokensWrite, &act); err != nil {
			return access.Token{}, err
		}
	}
	if err != nil || !own && !seesToken(who, token) || tenant != "" && tenant != token.Tenant {
		return access.Token{}, c.refuse(ctx, who, act, ErrNotFound)
	}
	act.Tenant, act.Detail = token.Tenant, map[string]string{"account": token.Account}
	revoked := token
	revoked.RevokeTime = c.now()
	act.Before, act.After = audit.Changes(shownToken(&token), shownToken(&revoked))
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		token, err = c.Access.Revoke(ctx, id)
		return nil, err
	})
	if err != nil {
		return access.Token{}, err
	}
	return token, nil
}
