package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// How long a token lives.
const (
	DefaultLifetime = 24 * time.Hour
	MinLifetime     = time.Minute
	MaxLifetime     = 90 * 24 * time.Hour
)

// Kind is how a token came to be.
type Kind string

// The kinds.
const (
	KindToken     Kind = "TOKEN"
	KindAccess    Kind = "ACCESS_TOKEN" // by the OAuth token endpoint, bound to a certificate
	KindSession   Kind = "SESSION"      // by a person's sign-in
	KindBootstrap Kind = "BOOTSTRAP"    // the first operator's: loopback only, until two operators of all tenants have credentials
	KindRecovery  Kind = "RECOVERY"     // made at a start where no operator of all tenants has a credential that is good: an hour, loopback, accounts only

	// KindCertificate is a caller's who is known by a client certificate.
	KindCertificate Kind = "CERTIFICATE"
)

// A token is "spt_", 16 characters of its id, "_" and 43 of its secret: one fixed form, so that scanners of source code
// and logs find one that got lost.
const (
	tokenPrefix  = "spt_"
	idLength     = 16
	secretLength = 43
	tokenLength  = len(tokenPrefix) + idLength + 1 + secretLength
)

// MaxRateLimit bounds a token's rate, in calls a second.
const MaxRateLimit = 1e6

var tokenIDs = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Grant is what a token is asked to allow.
type Grant struct {
	Account   string
	Role      Role    // "": the account's, where there is one
	Scopes    []Scope // none: all of the account
	Tenant    string
	Lifetime  time.Duration // 0: DefaultLifetime
	Prefixes  []netip.Prefix
	RateLimit float64 // calls a second in each process; 0: none
	Bound     string  // SHA-256 in hex of the certificate that it is bound to; "": none
	Creator   string  // the account that asks
	Hands     []string
	Kind      Kind // "": KindToken
	// Environment is of the account, where it is made with the token.
	Environment Environment
}

// Check reports every field of a grant that breaks its rule.
func (g *Grant) Check() relay.Invalid {
	var bad relay.Invalid
	checkWho(&bad, g.Account, g.Role, g.Tenant, g.Scopes)
	if g.Lifetime < 0 || g.Lifetime > MaxLifetime || g.Lifetime > 0 && g.Lifetime < MinLifetime {
		bad.Add("ttl", "must be %v to %v", MinLifetime, MaxLifetime)
	}
	checkPrefixes(&bad, g.Prefixes)
	if !(g.RateLimit >= 0 && g.RateLimit <= MaxRateLimit) || g.RateLimit > 0 && g.RateLimit < 0.001 {
		bad.Add("rateLimit", "must be 0.001 to %.0f calls a second, or 0 for no bound", float64(MaxRateLimit))
	}
	if _, ok := parseFingerprint(g.Bound); !ok && g.Bound != "" {
		bad.Add("certificateSha256", "must be 64 characters of lower-case hex")
	}
	return bad
}

// parseFingerprint reads the SHA-256 of a certificate in lower-case hex; it has one spelling.
func parseFingerprint(text string) (sum [sha256.Size]byte, ok bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(sum) || strings.ToLower(text) != text {
		return sum, false
	}
	return [sha256.Size]byte(b), true
}

// Token is what is kept of a token: everything but the token itself.
type Token struct {
	ID          string
	Kind        Kind
	Account     string
	Role        Role
	Scopes      []Scope // none: all of the account
	Tenant      string
	CreateTime  time.Time
	ExpireTime  time.Time // zero: never, which only the bootstrap token has
	RevokeTime  time.Time // zero: it was not
	Creator     string
	Prefixes    []netip.Prefix
	RateLimit   float64
	Bound       string
	Hands       []string // the accounts whose hands it went through when it was made
	RotatedFrom string

	old    bool   // made before there were accounts: its own word is enough
	holder string // its account's key
	hash   [sha256.Size]byte
}

// newToken makes a token and its secret form for a grant that was checked.
func newToken(g Grant, now time.Time) (*Token, relay.Secret) {
	var id [idLength * 5 / 8]byte
	var secret [32]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	t := &Token{
		ID: tokenIDs.EncodeToString(id[:]), Kind: g.Kind, Account: g.Account, Role: g.Role, Scopes: g.Scopes, Tenant: g.Tenant,
		CreateTime: now, Creator: g.Creator, Prefixes: g.Prefixes, RateLimit: g.RateLimit, Bound: g.Bound, Hands: g.Hands,
	}
	if t.Kind == "" {
		t.Kind = KindToken
	}
	t.holder = accountKey(t.Tenant, t.Account)
	text := tokenPrefix + t.ID + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
	t.hash = sha256.Sum256([]byte(text)) // of 256 random bits: a slow hash would add nothing
	return t, relay.NewSecret(text)
}

// parseToken takes the id out of a token of the one form that there is.
func parseToken(text string) (id string, ok bool) {
	if len(text) != tokenLength || !strings.HasPrefix(text, tokenPrefix) {
		return "", false
	}
	id = text[len(tokenPrefix) : len(tokenPrefix)+idLength]
	rest := text[len(tokenPrefix)+idLength:]
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return "", false
		}
	}
	for i := 1; i < len(rest); i++ {
		if c := rest[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return "", false
		}
	}
	return id, rest[0] == '_'
}

const (
	oldTokenVersion = 1 // before there were accounts
	tokenVersion    = 2
)

var errToken = errors.New("token record cannot be read")

func (t *Token) key() string { return t.ID }

func (t *Token) encode() ([]byte, error) {
	version := uint32(tokenVersion)
	if t.old {
		version = oldTokenVersion
	}
	bound, _ := hex.DecodeString(t.Bound)
	return encode(&sealpostv1.TokenRecord{
		Version: version, Id: t.ID, Hash: t.hash[:], Account: t.Account, Role: string(t.Role), Tenant: t.Tenant, Scopes: texts(t.Scopes),
		CreateTime: nanos(t.CreateTime), ExpireTime: nanos(t.ExpireTime), RevokeTime: nanos(t.RevokeTime), Creator: t.Creator,
		Cidrs: prefixTexts(t.Prefixes), RateLimit: t.RateLimit, Kind: string(t.Kind), Certificate: bound, Hands: t.Hands, RotatedFrom: t.RotatedFrom,
	})
}

func decodeToken(id string, data []byte) (*Token, error) {
	var m sealpostv1.TokenRecord
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	t := &Token{
		ID: m.Id, Kind: Kind(m.Kind), Account: m.Account, Role: Role(m.Role), Tenant: m.Tenant, Creator: m.Creator, Scopes: scopes(m.Scopes),
		CreateTime: moment(m.CreateTime), ExpireTime: moment(m.ExpireTime), RevokeTime: moment(m.RevokeTime),
		RateLimit: m.RateLimit, Bound: hex.EncodeToString(m.Certificate), Hands: m.Hands, RotatedFrom: m.RotatedFrom,
		old: m.Version == oldTokenVersion,
	}
	var ok bool
	if t.Prefixes, ok = prefixes(m.Cidrs); !ok {
		return nil, fmt.Errorf("%w: addresses", errToken)
	}
	if t.old {
		t.fromOld()
	}
	switch {
	case m.Version != oldTokenVersion && m.Version != tokenVersion:
		return nil, fmt.Errorf("%w: version %d", errToken, m.Version)
	case t.ID != id:
		return nil, fmt.Errorf("%w: it is another token's", errToken)
	case len(m.Hash) != sha256.Size || len(m.Certificate) != 0 && len(m.Certificate) != sha256.Size || !(m.RateLimit >= 0) || math.IsInf(m.RateLimit, 0),
		!t.Role.Valid() || !ValidAccount(t.Account) || t.Tenant == "" && !t.Role.wide(),
		t.ExpireTime.IsZero() && t.Kind != KindBootstrap:
		return nil, fmt.Errorf("%w: fields out of bounds", errToken)
	}
	t.hash, t.holder = [sha256.Size]byte(m.Hash), accountKey(t.Tenant, t.Account)
	return t, nil
}

// fullBefore are the scopes that tokens had which nobody had narrowed, before there were accounts.
var fullBefore = map[Role][]Scope{
	Operator: {EventsPublish, EventsRead, EventsPreview, EventsErase, EndpointsRead, EndpointsWrite, EndpointsOperate, EndpointsApprove,
		DeliveriesRead, DeliveriesSteer, TokensRead, TokensWrite, SystemBackup},
	Publisher: {EventsPublish, EventsRead, EventsPreview, DeliveriesRead},
	Partner:   {EndpointsRead, EndpointsWrite, EndpointsOperate, DeliveriesRead, DeliveriesSteer},
}

// fromOld reads a record from before there were accounts as one of today's.
func (t *Token) fromOld() {
	t.Kind = KindToken
	if t.ExpireTime.IsZero() {
		t.Kind = KindBootstrap
	}
	narrowed := slices.ContainsFunc(fullBefore[t.Role], func(s Scope) bool { return !slices.Contains(t.Scopes, s) })
	switch {
	case !narrowed:
		t.Scopes = nil
	case slices.Contains(t.Scopes, TokensWrite):
		t.Scopes = append(t.Scopes, TokensRevoke) // it was one scope
	}
	if t.Creator != "" && t.Creator != t.Account && t.Creator != OperatorAccount {
		t.Hands = []string{t.Creator}
	}
}

func prefixTexts(list []netip.Prefix) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// prefixes reads a stored list of addresses: one that cannot be read must not be taken for any address.
func prefixes(list []string) (out []netip.Prefix, ok bool) {
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, false
		}
		out = append(out, p)
	}
	return out, true
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
