package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// AccountKind is who is behind an account.
type AccountKind string

// The kinds.
const (
	Service AccountKind = "SERVICE"
	Person  AccountKind = "PERSON" // made by a sign-in, and has no other credentials
)

// Account is whom callers act for. Its name and tenant are one account for ever: it can be disabled, never deleted, so that a name
// in a record means one account. What it may do is fixed when it is made.
type Account struct {
	Name        string
	Tenant      string // "": all
	Role        Role
	Scopes      []Scope // none: all of the role
	Environment Environment
	Description string
	Kind        AccountKind
	Creator     string
	CreateTime  time.Time
	DisableTime time.Time // zero: it is not disabled

	// Issuer and Subject are a person's, as the OpenID provider names them.
	Issuer, Subject string

	enrolTime time.Time // when it got its first credential; zero: it has had none
}

// MaxDescription bounds an account's description, in bytes.
const MaxDescription = 256

// Check reports every field of an account to be made that breaks its rule.
func (a *Account) Check() relay.Invalid {
	var bad relay.Invalid
	checkWho(&bad, a.Name, a.Role, a.Tenant, a.Scopes)
	if a.Name == OperatorAccount {
		bad.Add("account", "is the bootstrap token's own")
	}
	if !a.Environment.Valid() {
		bad.Add("environment", "must be SANDBOX, PRODUCTION or absent, for both")
	}
	if len(a.Description) > MaxDescription {
		bad.Add("description", "must be at most %d bytes", MaxDescription)
	}
	return bad
}

// accountKey is where an account is kept: a digest, because a name has more characters than a key can have.
func accountKey(tenant, name string) string {
	sum := sha256.Sum256([]byte(tenant + "\x00" + name))
	return hex.EncodeToString(sum[:16])
}

var errAccount = errors.New("account record cannot be read")

const recordVersion = 1

func (a *Account) key() string { return accountKey(a.Tenant, a.Name) }

func (a *Account) encode() ([]byte, error) {
	return encode(&sealpostv1.AccountRecord{
		Version: recordVersion, Name: a.Name, Tenant: a.Tenant, Role: string(a.Role), Scopes: texts(a.Scopes), Environment: string(a.Environment),
		Description: a.Description, Kind: string(a.Kind), Creator: a.Creator, CreateTime: nanos(a.CreateTime), DisableTime: nanos(a.DisableTime),
		EnrolTime: nanos(a.enrolTime), Issuer: a.Issuer, Subject: a.Subject,
	})
}

func decodeAccount(key string, data []byte) (*Account, error) {
	var m sealpostv1.AccountRecord
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errAccount, err)
	}
	a := &Account{
		Name: m.Name, Tenant: m.Tenant, Role: Role(m.Role), Scopes: scopes(m.Scopes), Environment: Environment(m.Environment), Description: m.Description,
		Kind: AccountKind(m.Kind), Creator: m.Creator, CreateTime: moment(m.CreateTime), DisableTime: moment(m.DisableTime),
		enrolTime: moment(m.EnrolTime), Issuer: m.Issuer, Subject: m.Subject,
	}
	switch {
	case m.Version != recordVersion:
		return nil, fmt.Errorf("%w: version %d", errAccount, m.Version)
	case a.key() != key:
		return nil, fmt.Errorf("%w: it is another account's", errAccount)
	case !a.Role.Valid() || !a.Environment.Valid() || !ValidAccount(a.Name) || a.Tenant == "" && !a.Role.wide() || a.Kind != Service && a.Kind != Person:
		return nil, fmt.Errorf("%w: fields out of bounds", errAccount)
	}
	return a, nil
}

const maxRecord = 16 << 10 // bytes of a stored record

// encode is a record in bytes.
func encode(m proto.Message) ([]byte, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("access: encode record: %w", err)
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("access: encode record: larger than %d bytes", maxRecord)
	}
	return data, nil
}

// decode reads a record. Unknown fields are a newer release's: they may say that it allows less.
func decode(data []byte, m proto.Message) error {
	if len(data) > maxRecord {
		return errors.New("too large")
	}
	if proto.Unmarshal(data, m) != nil {
		return errors.New("not a record")
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return errors.New("unknown fields")
	}
	return nil
}

func texts(list []Scope) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

func scopes(list []string) (out []Scope) {
	for _, s := range list {
		out = append(out, Scope(s))
	}
	return out
}
