// Package access says who calls and what they may do: roles, scopes, and opaque bearer tokens kept as hashes.
//
// It promises that a token is known from memory alone, without I/O; that one that expired, was revoked, changed or made up
// is refused; that revoking takes effect in every process as soon as the bucket tells it; and that no token can be had
// back from what is kept. It trusts the journal to keep the bucket, and a token's holder to keep the token. What
// a caller may do to a given object is decided in control.
package access

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/sealpost/sealpost/relay"
)

// Role is what an account is to the CRM.
type Role string

// The roles.
const (
	Operator  Role = "OPERATOR"  // everything, in one tenant or in all
	Publisher Role = "PUBLISHER" // publishes events of its tenant, and reads what became of them
	Partner   Role = "PARTNER"   // registers endpoints in its tenant, and sees and steers those alone
)

// Scope is one kind of act.
type Scope string

// The scopes.
const (
	EventsPublish    Scope = "events.publish"
	EventsRead       Scope = "events.read"
	EventsPreview    Scope = "events.preview" // what would leave of an event, per endpoint
	EventsErase      Scope = "events.erase"   // a person's right to be forgotten
	EndpointsRead    Scope = "endpoints.read"
	EndpointsWrite   Scope = "endpoints.write"   // create, update, delete
	EndpointsOperate Scope = "endpoints.operate" // pause, resume, test
	EndpointsApprove Scope = "endpoints.approve" // approve, reject, suspend
	IncidentsContain Scope = "incidents.contain" // contain, release
	DeliveriesRead   Scope = "deliveries.read"
	DeliveriesSteer  Scope = "deliveries.steer" // retry, cancel
	TokensRead       Scope = "tokens.read"
	TokensWrite      Scope = "tokens.write" // create, revoke
	SystemBackup     Scope = "system.backup"
	AuditRead        Scope = "audit.read"   // list, watch, prove, export
	AuditAccept      Scope = "audit.accept" // that the log is not what its checkpoints say
)

// roleScopes is the most that each role's tokens can have, and what they have unless fewer are asked for.
var roleScopes = map[Role][]Scope{
	Operator: {EventsPublish, EventsRead, EventsPreview, EventsErase, EndpointsRead, EndpointsWrite, EndpointsOperate, EndpointsApprove,
		IncidentsContain, DeliveriesRead, DeliveriesSteer, TokensRead, TokensWrite, SystemBackup, AuditRead, AuditAccept},
	Publisher: {EventsPublish, EventsRead, EventsPreview, DeliveriesRead},
	Partner:   {EndpointsRead, EndpointsWrite, EndpointsOperate, DeliveriesRead, DeliveriesSteer},
}

// Scopes lists a role's scopes; none for what is no role.
func (r Role) Scopes() []Scope { return slices.Clone(roleScopes[r]) }

// Valid tells whether r is one of the roles.
func (r Role) Valid() bool { return len(roleScopes[r]) > 0 }

// Caller is an authenticated account behind a call. The zero Caller may do nothing.
type Caller struct {
	Account      string
	Role         Role
	Scopes       []Scope
	Tenant       string // the only one; "" is all of them, which only operators can have
	CredentialID string // the token's id
	Address      netip.Addr
}

// May tells whether the caller has a scope.
func (c Caller) May(s Scope) bool {
	return c.Account != "" && slices.Contains(roleScopes[c.Role], s) && slices.Contains(c.Scopes, s)
}

// Sees tells whether the caller may know of a tenant at all.
func (c Caller) Sees(tenant string) bool {
	return c.Account != "" && tenant != "" && (c.Tenant == tenant || c.AllTenants())
}

// AllTenants tells whether the caller is bound to no tenant.
func (c Caller) AllTenants() bool { return c.Account != "" && c.Tenant == "" && c.Role == Operator }

// RelayAccount is the account of what the relay does by itself. No token can be of it.
const RelayAccount = "relay"

// MaxAccountLength bounds an account's name, in bytes.
const MaxAccountLength = 128

// ValidAccount tells whether s can name an account: 1 to MaxAccountLength of A-Z a-z 0-9 and . _ - @ +, so that a mail
// address is one.
func ValidAccount(s string) bool {
	if s == "" || len(s) > MaxAccountLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' && c != '@' && c != '+' {
			return false
		}
	}
	return true
}

// Why a caller is not known. Each is ErrUnauthenticated as well.
var (
	ErrUnauthenticated = errors.New("unauthenticated")
	ErrNoToken         = refusal("no token was given")
	ErrToken           = refusal("the token is not valid")
	ErrExpired         = refusal("the token has expired")
	ErrRevoked         = refusal("the token was revoked")
)

// refusal is an error that matches ErrUnauthenticated.
type refusal string

// Error is the reason.
func (r refusal) Error() string { return string(r) }

// Is makes every refusal an ErrUnauthenticated.
func (r refusal) Is(target error) bool { return target == ErrUnauthenticated }

// Check reports every field of a grant that breaks its rule.
func (g *Grant) Check() relay.Invalid {
	var bad relay.Invalid
	if !ValidAccount(g.Account) {
		bad.Add("account", "must be 1 to %d of A-Z, a-z, 0-9, '.', '_', '-', '@' and '+'", MaxAccountLength)
	}
	if g.Account == RelayAccount {
		bad.Add("account", "is the relay's own")
	}
	if !g.Role.Valid() {
		bad.Add("role", "must be OPERATOR, PUBLISHER or PARTNER")
	}
	switch {
	case g.Tenant == "" && g.Role != Operator:
		bad.Add("tenant", "is required: only an operator's token can be for all tenants")
	case g.Tenant != "" && !relay.ValidTenant(g.Tenant):
		bad.Add("tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit", relay.MaxTenantLength)
	}
	if g.Tenant == relay.ReservedTenant {
		bad.Add("tenant", "is the relay's own")
	}
	for i, s := range g.Scopes {
		if g.Role.Valid() && !slices.Contains(roleScopes[g.Role], s) {
			bad.Add(indexed("scopes", i), "must be a scope of the role")
		}
	}
	if g.Lifetime < 0 || g.Lifetime > MaxLifetime || g.Lifetime > 0 && g.Lifetime < MinLifetime {
		bad.Add("ttl", "must be %v to %v", MinLifetime, MaxLifetime)
	}
	return bad
}
