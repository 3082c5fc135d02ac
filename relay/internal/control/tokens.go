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

// CreateToken makes a token for an account, and the account where there is none. The secret is shown this once. Nobody gives more than
// they have: not another tenant, not a scope of their own that they lack.
func (c *Control) CreateToken(ctx context.Context, who access.Caller, g access.Grant) (token access.Token, secret relay.Secret, err error) {
	g.Tenant = cmp.Or(g.Tenant, who.Tenant)
	g.Creator, g.Environment, g.Kind = who.Account, who.Environment, access.KindToken
	act := audit.Act{Name: "token.create", Object: clip(g.Account), Tenant: clip(g.Tenant), Detail: map[string]string{"role": clip(string(g.Role))}}
	if err := c.allow(ctx, who, access.TokensWrite, &act); err != nil {
		return token, secret, err
	}
	account, err := c.Access.Account(g.Tenant, g.Account)
	if err == nil {
		g.Role = cmp.Or(g.Role, account.Role)
	}
	if err := c.mayGive(ctx, who, act, account.Environment, given(&account, g.Role, g.Scopes)); err != nil {
		return token, secret, err
	}
	if err := g.Check().Err(); err != nil { // before the record: a grant against the rules is no act
		return token, secret, err
	}
	if g.Hands = c.Access.HandsFor(who, g.Tenant, g.Account); len(g.Hands) > access.MaxHands {
		return token, secret, c.refuse(ctx, who, act, tooManyHands)
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

var tooManyHands = &ForbiddenError{Scope: access.TokensWrite, Reason: "this credential went through too many hands: sign in, or call with one that was made for you directly"}

// given are the scopes that a credential is to have: those asked for, else the account's, else its role's.
func given(a *access.Account, role access.Role, asked []access.Scope) []access.Scope {
	switch {
	case len(asked) > 0:
		return asked
	case len(a.Scopes) > 0:
		return a.Scopes
	}
	return role.Scopes()
}

// mayGive refuses a caller who would give what it does not have.
func (c *Control) mayGive(ctx context.Context, who access.Caller, act audit.Act, env access.Environment, scopes []access.Scope) error {
	if who.Environment != "" && env != "" && env != who.Environment {
		return c.refuse(ctx, who, act, &ForbiddenError{Scope: access.TokensWrite, Reason: "the account is of another environment than the caller"})
	}
	for _, s := range scopes {
		if slices.Contains(access.Operator.Scopes(), s) && !who.May(s) {
			return c.refuse(ctx, who, act, &ForbiddenError{Scope: s, Reason: "nobody gives a scope that they lack"})
		}
	}
	return nil
}

// Rotated is a token made in another one's place.
type Rotated struct {
	Token    access.Token
	Secret   relay.Secret // shown this once
	Previous access.Token
}

// RotateToken makes a token like another one, which ends after the overlap. Any account can rotate the token that it calls with: the new one
// has been in nobody's hands that the old one was not in.
func (c *Control) RotateToken(ctx context.Context, who access.Caller, tenant, id string, overlap time.Duration) (out Rotated, err error) {
	act := audit.Act{Name: "token.rotate", Object: clip(id)}
	token, own, err := c.findToken(ctx, who, access.TokensWrite, &act, tenant, id)
	if err != nil {
		return out, err
	}
	hands := c.Access.HandsFor(who, token.Tenant, token.Account)
	act.Tenant, act.Detail = token.Tenant, map[string]string{"account": token.Account, "overlap": overlap.String()}
	if !own {
		account, _ := c.Access.Account(token.Tenant, token.Account)
		if err := c.mayGive(ctx, who, act, account.Environment, given(&account, token.Role, token.Scopes)); err != nil {
			return out, err
		}
	}
	if len(access.Joined(token.Hands, hands...)) > access.MaxHands {
		return out, c.refuse(ctx, who, act, tooManyHands)
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		out.Token, out.Secret, out.Previous, err = c.Access.Rotate(ctx, id, who.Account, hands, overlap)
		return map[string]string{"token": out.Token.ID}, err
	})
	if err != nil {
		return Rotated{}, err
	}
	return out, nil
}

// findToken is a token that the caller may act on: its own, or with the scope.
func (c *Control) findToken(ctx context.Context, who access.Caller, scope access.Scope, act *audit.Act, tenant, id string) (token access.Token, own bool, err error) {
	token, found := c.Access.Get(id)
	own = found == nil && id == who.CredentialID
	if own {
		act.Scope = scope
		err = c.Access.Live(who)
	} else {
		err = c.allow(ctx, who, scope, act)
	}
	if err != nil {
		return access.Token{}, own, err
	}
	if found != nil || !own && !seesToken(who, token) || tenant != "" && tenant != token.Tenant {
		return access.Token{}, own, c.refuse(ctx, who, *act, ErrNotFound)
	}
	return token, own, nil
}

// TokenQuery asks for tokens. Zero fields do not narrow it.
type TokenQuery struct {
	Tenant    string
	Account   string
	UnusedFor time.Duration // those that are good and were not used for so long
	PageSize  int           // 1 to relay.MaxPageSize; 0 is relay.DefaultPageSize
	PageToken string
}

// TokenView is what is kept of a token, and when it was last used.
type TokenView struct {
	access.Token
	LastUse access.Use
}

// TokenPage is one page of a list, by id. NextPageToken is empty on the last page.
type TokenPage struct {
	Tokens        []TokenView
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
		if q.UnusedFor > 0 && (!c.Access.Good(&t) || !c.Access.Unused(t.ID, t.CreateTime, q.UnusedFor)) {
			continue
		}
		if len(page.Tokens) == size {
			page.NextPageToken = pageToken(page.Tokens[size-1].ID)
			break
		}
		page.Tokens = append(page.Tokens, TokenView{t, c.Access.LastUse(t.ID)})
	}
	return page, nil
}

func seesToken(who access.Caller, t access.Token) bool {
	return who.AllTenants() || t.Tenant != "" && who.Sees(t.Tenant)
}

// RevokeToken ends a token at once. Any account can end the token that it calls with.
func (c *Control) RevokeToken(ctx context.Context, who access.Caller, tenant, id string) (token access.Token, err error) {
	act := audit.Act{Name: "token.revoke", Object: clip(id), Anyway: true}
	if token, _, err = c.findToken(ctx, who, access.TokensRevoke, &act, tenant, id); err != nil {
		return access.Token{}, err
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
