package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// How long a token lives.
const (
	DefaultLifetime = 24 * time.Hour
	MinLifetime     = time.Minute
	MaxLifetime     = 90 * 24 * time.Hour
)

// A token is "spt_", 16 characters of its id, "_" and 43 of its secret: one fixed form, so that scanners of source code
// and logs find one that got lost.
const (
	tokenPrefix  = "spt_"
	idLength     = 16
	secretLength = 43
	tokenLength  = len(tokenPrefix) + idLength + 1 + secretLength
)

var tokenIDs = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Grant is what a token is asked to allow.
type Grant struct {
	Account  string
	Role     Role
	Scopes   []Scope // none: all of the role
	Tenant   string
	Lifetime time.Duration // 0: DefaultLifetime
	Creator  string        // the account that asks
}

// Token is what is kept of a token: everything but the token itself.
type Token struct {
	ID         string
	Account    string
	Role       Role
	Scopes     []Scope
	Tenant     string
	CreateTime time.Time
	ExpireTime time.Time // zero: never, which only the bootstrap token has
	RevokeTime time.Time // zero: it was not
	Creator    string

	hash     [sha256.Size]byte
	revision uint64
}

// newToken makes a token and its secret form for a grant that was checked.
func newToken(g Grant, now time.Time) (*Token, relay.Secret) {
	var id [idLength * 5 / 8]byte
	var secret [32]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	t := &Token{
		ID: tokenIDs.EncodeToString(id[:]), Account: g.Account, Role: g.Role, Scopes: g.Scopes, Tenant: g.Tenant,
		CreateTime: now, Creator: g.Creator,
	}
	if len(t.Scopes) == 0 {
		t.Scopes = g.Role.Scopes()
	}
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
	tokenVersion = 1
	maxToken     = 4 << 10 // bytes of a stored record
)

var errToken = errors.New("token record cannot be read")

func (t *Token) encode() ([]byte, error) {
	m := &sealpostv1.TokenRecord{
		Version: tokenVersion, Id: t.ID, Hash: t.hash[:], Account: t.Account, Role: string(t.Role), Tenant: t.Tenant,
		CreateTime: nanos(t.CreateTime), ExpireTime: nanos(t.ExpireTime), RevokeTime: nanos(t.RevokeTime), Creator: t.Creator,
	}
	for _, s := range t.Scopes {
		m.Scopes = append(m.Scopes, string(s))
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode token record: %w", err)
	}
	return data, nil
}

func decodeToken(data []byte) (*Token, error) {
	var m sealpostv1.TokenRecord
	if len(data) > maxToken {
		return nil, fmt.Errorf("%w: too large", errToken)
	}
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: not a record", errToken)
	}
	t := &Token{
		ID: m.Id, Account: m.Account, Role: Role(m.Role), Tenant: m.Tenant, Creator: m.Creator,
		CreateTime: moment(m.CreateTime), ExpireTime: moment(m.ExpireTime), RevokeTime: moment(m.RevokeTime),
	}
	for _, s := range m.Scopes {
		t.Scopes = append(t.Scopes, Scope(s))
	}
	switch {
	case m.Version != tokenVersion:
		return nil, fmt.Errorf("%w: version %d", errToken, m.Version)
	case len(m.ProtoReflect().GetUnknown()) > 0:
		return nil, fmt.Errorf("%w: unknown fields", errToken) // a newer release's: they may say that it allows less
	case len(m.Hash) != sha256.Size || !t.Role.Valid() || !ValidAccount(t.Account) || t.Tenant == "" && t.Role != Operator:
		return nil, fmt.Errorf("%w: fields out of bounds", errToken)
	}
	t.hash = [sha256.Size]byte(m.Hash)
	return t, nil
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
