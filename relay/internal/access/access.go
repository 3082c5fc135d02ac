// Package access says who calls and what they may do: accounts with roles made of scopes, and what they authenticate with:
// opaque bearer tokens kept as hashes, and client certificates.
//
// It promises that a credential is known from memory alone, without I/O; that one that expired, was revoked, is presented from
// elsewhere or over another certificate, changed or made up is refused; that revoking a credential and disabling an account
// take effect in every process as soon as the bucket tells it, and that a process which the bucket does not reach refuses everybody
// instead of going on by what it knew; and that no token can be had back from what is kept. It trusts the
// journal to keep the bucket, TLS to have seen that a certificate's key is there, and a token's holder to keep the token. What
// a caller may do to a given object is decided in control.
package access

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// Role is what an account is to the CRM: the scopes that it can have at most.
type Role string

// The roles.
const (
	Operator  Role = "OPERATOR"  // everything, in one tenant or in all
	Publisher Role = "PUBLISHER" // publishes events of its tenant, and reads what became of them
	Partner   Role = "PARTNER"   // registers endpoints in its tenant, and sees and steers those alone
	Security  Role = "SECURITY"  // approves, pauses and ends what is misused, and sees who may do what; publishes and registers nothing
	Auditor   Role = "AUDITOR"   // reads how it is set up and who did what; changes nothing
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
	AccountsRead     Scope = "accounts.read"
	AccountsWrite    Scope = "accounts.write"   // create, enable; map certificates
	AccountsDisable  Scope = "accounts.disable" // refuse all of an account's credentials
	TokensRead       Scope = "tokens.read"      // what is kept of tokens and certificates
	TokensWrite      Scope = "tokens.write"     // create and rotate tokens, issue certificates
	TokensRevoke     Scope = "tokens.revoke"    // end tokens and certificates
	PolicyRead       Scope = "policy.read"
	PolicyWrite      Scope = "policy.write" // what may leave at all
	SystemBackup     Scope = "system.backup"
	AuditRead        Scope = "audit.read"   // list, watch, prove, export
	AuditAccept      Scope = "audit.accept" // that the log is not what its checkpoints say
)

// roleScopes is the most that each role's accounts can have, and what they have unless fewer are asked for.
var roleScopes = map[Role][]Scope{
	Operator: {EventsPublish, EventsRead, EventsPreview, EventsErase, EndpointsRead, EndpointsWrite, EndpointsOperate, EndpointsApprove,
		IncidentsContain, DeliveriesRead, DeliveriesSteer, AccountsRead, AccountsWrite, AccountsDisable, TokensRead, TokensWrite, TokensRevoke, PolicyRead, PolicyWrite, SystemBackup, AuditRead, AuditAccept},
	Publisher: {EventsPublish, EventsRead, EventsPreview, DeliveriesRead},
	Partner:   {EndpointsRead, EndpointsWrite, EndpointsOperate, DeliveriesRead, DeliveriesSteer},
	Security: {EventsPreview, EndpointsRead, EndpointsOperate, EndpointsApprove, IncidentsContain, DeliveriesRead,
		AccountsRead, AccountsDisable, TokensRead, TokensRevoke, PolicyRead, PolicyWrite, AuditRead},
	Auditor: {EndpointsRead, DeliveriesRead, AccountsRead, TokensRead, PolicyRead, AuditRead},
}

// Roles lists them.
func Roles() []Role { return []Role{Operator, Publisher, Partner, Security, Auditor} }

// Scopes lists a role's scopes; none for what is no role.
func (r Role) Scopes() []Scope { return slices.Clone(roleScopes[r]) }

// Valid tells whether r is one of the roles.
func (r Role) Valid() bool { return len(roleScopes[r]) > 0 }

// wide tells whether accounts of the role can be of all tenants.
func (r Role) wide() bool { return r == Operator || r == Security || r == Auditor }

// Environment is what an account is to be used for; "" is both.
type Environment string

// The environments.
const (
	Sandbox    Environment = "SANDBOX"
	Production Environment = "PRODUCTION"
)

// Valid tells whether e is one of them, or both.
func (e Environment) Valid() bool { return e == "" || e == Sandbox || e == Production }

// Caller is an authenticated account behind a call, and all that a record of the call has to say of it. The zero Caller may do nothing.
type Caller struct {
	Account        string
	Role           Role
	Scopes         []Scope
	Tenant         string // the only one; "" is all of them, which only operators, security and auditors can have
	Environment    Environment
	CredentialKind string // a Kind of token, or KindCertificate
	CredentialID   string // the token's id, or the certificate's
	Address        netip.Addr
	ExpireTime     time.Time // of the credential; zero: never

	// Of the client certificate that the call came over, whether or not it is what the caller is known by; empty: none.
	CertificateSubject string
	CertificateSHA256  string // in hex

	trace *Trace
}

// Trace is what a call is found to have done while it lasts. Its methods may be called concurrently.
type Trace struct{ scope atomic.Pointer[Scope] }

// Scope is the one that the call made use of last, "" where none was asked for.
func (t *Trace) Scope() Scope {
	if s := t.scope.Load(); s != nil {
		return *s
	}
	return ""
}

// Traced is the caller, with what it does noted in t.
func (c Caller) Traced(t *Trace) Caller {
	c.trace = t
	return c
}

// Exercise notes the scope that an act takes.
func (c Caller) Exercise(s Scope) {
	if c.trace != nil && c.trace.Scope() != s {
		c.trace.scope.Store(&s)
	}
}

// Exercised is the scope that the call made use of last, "" where none was asked for yet.
func (c Caller) Exercised() Scope {
	if c.trace == nil {
		return ""
	}
	return c.trace.Scope()
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
func (c Caller) AllTenants() bool { return c.Account != "" && c.Tenant == "" && c.Role.wide() }

// In tells whether the caller may have to do with what is of an environment.
func (c Caller) In(e Environment) bool { return c.Environment == "" || c.Environment == e }

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

// Why a caller is not known. Each is ErrUnauthenticated as well. All but ErrNoToken and ErrToken are told only to who has the whole
// token, or the certificate's key.
var (
	ErrUnauthenticated = errors.New("unauthenticated")
	ErrNoToken         = refusal("no token was given")
	ErrToken           = refusal("the token is not valid")
	ErrExpired         = refusal("the token has expired")
	ErrRevoked         = refusal("the token was revoked")
	ErrAddress         = refusal("the credential is not for this address")
	ErrBound           = refusal("the token is bound to a client certificate, and this call did not come over it")
	ErrCertificate     = refusal("the client certificate is not one of an account")
	ErrCertExpired     = refusal("the client certificate is not valid at this time")
	ErrCertRevoked     = refusal("the client certificate was revoked")
	ErrDisabled        = refusal("the account is disabled")
	ErrBootstrapped    = refusal("the bootstrap token has ended: two operator accounts have credentials of their own; call with one of those")
)

// refusals are the reasons as metrics have them.
var refusals = []struct {
	err   error
	label string
}{
	{ErrNoToken, "none"}, {ErrToken, "unknown"}, {ErrExpired, "expired"}, {ErrRevoked, "revoked"}, {ErrAddress, "address"}, {ErrBound, "bound"},
	{ErrCertificate, "certificate"}, {ErrCertExpired, "certificate_expired"}, {ErrCertRevoked, "certificate_revoked"},
	{ErrDisabled, "disabled"}, {ErrBootstrapped, "bootstrapped"}, {ErrUnheard, "unheard"},
}

// refusal is an error that matches ErrUnauthenticated.
type refusal string

// Error is the reason.
func (r refusal) Error() string { return string(r) }

// Is makes every refusal an ErrUnauthenticated.
func (r refusal) Is(target error) bool { return target == ErrUnauthenticated }

// ErrUnheard is for every caller while changes of accounts and credentials are not heard: one of them may have been revoked.
var ErrUnheard = errors.New("changes of accounts and credentials are not heard at present")

// LimitError is for a call beyond its credential's rate.
type LimitError struct{ RetryAfter time.Duration }

// Error names the time.
func (e *LimitError) Error() string {
	return fmt.Sprintf("the credential's rate limit is reached, retry after %v", e.RetryAfter)
}

// checkWho reports what breaks a rule in what accounts and tokens are made of.
func checkWho(bad *relay.Invalid, account string, role Role, tenant string, scopes []Scope) {
	if !ValidAccount(account) {
		bad.Add("account", "must be 1 to %d of A-Z, a-z, 0-9, '.', '_', '-', '@' and '+'", MaxAccountLength)
	}
	if account == RelayAccount {
		bad.Add("account", "is the relay's own")
	}
	if !role.Valid() {
		bad.Add("role", "must be OPERATOR, PUBLISHER, PARTNER, SECURITY or AUDITOR")
	}
	switch {
	case tenant == "" && !role.wide():
		bad.Add("tenant", "is required: only operators, security and auditors can be of all tenants")
	case tenant != "" && !relay.ValidTenant(tenant):
		bad.Add("tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit", relay.MaxTenantLength)
	}
	if tenant == relay.ReservedTenant {
		bad.Add("tenant", "is the relay's own")
	}
	for i, s := range scopes {
		if role.Valid() && !slices.Contains(roleScopes[role], s) {
			bad.Add(indexed("scopes", i), "must be a scope of the role")
		}
	}
}

// MaxPrefixes bounds the addresses that a credential is for.
const MaxPrefixes = 32

// checkPrefixes reports a list of addresses that cannot be one.
func checkPrefixes(bad *relay.Invalid, list []netip.Prefix) {
	if len(list) > MaxPrefixes {
		bad.Add("cidrs", "must be at most %d", MaxPrefixes)
	}
	for i, p := range list {
		if !p.IsValid() || p != p.Masked() {
			bad.Add(indexed("cidrs", i), "must be a CIDR without bits beyond its length, such as 192.0.2.0/24")
		}
	}
}

// within tells whether a list that is not empty holds an address.
func within(list []netip.Prefix, a netip.Addr) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}
