package registry

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/signer"
)

// Record is all that is kept of one endpoint. Its secrets are sealed: a Record can be copied, logged by mistake or
// written back by a process that cannot open them without harm.
type Record struct {
	ID          string
	Tenant      string
	State       relay.EndpointState
	StateReason string
	Registrant  string   // the account that registered it
	Hands       []string // those that the registrant's credential went through
	Approver    string   // of Settings; empty where they were never approved
	CreateTime  time.Time
	UpdateTime  time.Time
	ApproveTime time.Time

	// Inactive and InactiveSince are the endpoint's active clock; MoveTo keeps them.
	Inactive      time.Duration
	InactiveSince time.Time

	// ContainedFrom is the state that it was contained in; empty where it is not contained. MoveTo keeps it.
	ContainedFrom relay.EndpointState

	// Settings are in force, or, where ApproveTime is zero, wait to be.
	Settings Settings
	// ReviewTime and Reviewer are of the last approval, or of the last time that somebody looked at it again.
	ReviewTime time.Time
	Reviewer   string
	// Proof is of the host of Settings.URL. Its zero value: none yet.
	Proof Proof
	// Proposed, where not nil, waits for approval while Settings stay in force.
	Proposed *Proposal
	// Keys sign; the first is the current one.
	Keys []Key
	// CertificateTime is when the client certificate was last replaced ahead of its renewal: those from before are no longer
	// presented.
	CertificateTime time.Time

	// RequestID is the creation's own, empty where it had none, and RequestDigest tells its repeat from another creation
	// under the same request id.
	RequestID     string
	RequestDigest []byte

	// Revision is the bucket's for this record: what an update has to state. It is not stored in the record.
	Revision uint64
}

// MoveTo changes the state. While it is not active the endpoint's active clock stands still.
func (r *Record) MoveTo(state relay.EndpointState, reason string, now time.Time) {
	switch {
	case state == relay.EndpointActive && !r.InactiveSince.IsZero():
		r.Inactive += max(0, now.Sub(r.InactiveSince))
		r.InactiveSince = time.Time{}
	case state != relay.EndpointActive && r.InactiveSince.IsZero():
		r.InactiveSince = now
	}
	switch {
	case state != relay.EndpointContained:
		r.ContainedFrom = ""
	case r.State != relay.EndpointContained:
		r.ContainedFrom = r.State
	}
	r.State, r.StateReason, r.UpdateTime = state, reason, now
}

// Proposal is what one account asks for, beyond what was approved.
type Proposal struct {
	Settings Settings
	Author   string
	Hands    []string // those that the author's credential went through
	Time     time.Time
	// Proof is of the host of Settings.URL, where it is another than that of the endpoint's own.
	Proof Proof
}

// ProofMethod is the way in which a host was proven.
type ProofMethod string

// The methods.
const (
	ProofDNS         ProofMethod = "DNS"
	ProofHTTPS       ProofMethod = "HTTPS"
	ProofCertificate ProofMethod = "CERTIFICATE"
	ProofOff         ProofMethod = "OFF" // the configuration asked for none
)

// Proof says that a host was the partner's at a time.
type Proof struct {
	Host   string // and port, where the URL names one
	Method ProofMethod
	Time   time.Time // zero: not proven
	// DueTime is when it must be proven again, at the latest. Of an endpoint from before proofs it can be set without a Time.
	DueTime time.Time
	// FailTime is since when it could not be; zero: nothing is wrong.
	FailTime time.Time
	// Key is SHA-256 of the public key that signed the nonce, of ProofCertificate.
	Key []byte
	// CertificateExpireTime is of the certificate that the server showed then; zero: none was seen.
	CertificateExpireTime time.Time
}

// Holds tells whether the proof is one of a host, and not over.
func (p *Proof) Holds(host string, now time.Time) bool {
	return p.Host == host && !p.Time.IsZero() && (p.DueTime.IsZero() || now.Before(p.DueTime))
}

// Settings are what an endpoint's owner asks for and an approval approves.
type Settings struct {
	URL         string
	Owner       string
	Purpose     string
	Description string

	EventTypes  []string
	Filter      string
	Scheme      signer.Scheme
	ContentMode relay.ContentMode
	Redaction   relay.Redaction
	Environment relay.Environment
	DataScope   []string

	ChunkBytes  int
	ChunkArray  string
	Concurrency int
	Ordered     bool
	RateLimit   float64
	Timeout     time.Duration
	RetryFor    time.Duration
	HTTP2       bool
	TLS         relay.TLS
	Rotation    relay.Rotation

	Headers   []Header
	BasicUser string
	BasicPass []byte // sealed; nil: none
	Bearer    []byte // sealed; nil: none
}

// Header is a static header with its value sealed.
type Header struct {
	Name  string
	Value []byte
}

// KeyState is what a signing key does.
type KeyState string

// The states of a key.
const (
	KeyCurrent  KeyState = "CURRENT"  // it signs
	KeyNext     KeyState = "NEXT"     // it is made known ahead, and does not sign
	KeyPrevious KeyState = "PREVIOUS" // it was replaced; it signs beside the current one where the scheme carries two signatures
)

// Key is a sealed signing key.
type Key struct {
	ID         string
	State      KeyState
	Secret     []byte // sealed
	Public     []byte // of a key pair: PKIX DER
	CreateTime time.Time
	// ExpireTime is when it is dropped: of the previous key.
	ExpireTime time.Time
	// ActivateTime is when it becomes the current one by itself, and Overlap how long the one before it then stays: of the next key.
	ActivateTime time.Time
	Overlap      time.Duration
	// Unclaimed: the schedule made it, and nobody was shown its secret yet. Such a key never signs.
	Unclaimed bool
}

// Algorithm is "hmac-sha256", "ed25519" or "rsa-v1_5-sha256" (RFC 9421 section 6.2); empty where it cannot be told.
func (k Key) Algorithm() string {
	if len(k.Public) == 0 {
		return "hmac-sha256"
	}
	public, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return ""
	}
	switch public.(type) {
	case ed25519.PublicKey:
		return "ed25519"
	case *rsa.PublicKey:
		return "rsa-v1_5-sha256"
	}
	return ""
}

// Field names of sealed values: the third part of their place.
const (
	fieldBasic  = "basic"
	fieldBearer = "bearer"
)

func fieldHeader(name string) string { return "header/" + name }
func fieldKey(id string) string      { return "key/" + id }

// Sealer seals and opens secrets and gives the keys of pseudonyms; *keys.Root is one. Open answers an error for whatever
// was not sealed by it for that same place.
type Sealer interface {
	Seal(plain []byte, at keys.Place) ([]byte, error)
	Open(sealed []byte, at keys.Place) ([]byte, error)
	Pseudonym(tenant string) []byte
	// Digest is a keyed digest, one function for each purpose.
	Digest(purpose string, data []byte) []byte
}

// Vault seals the secrets of one endpoint, each for its field.
type Vault struct {
	sealer     Sealer
	tenant, id string
}

// NewVault is the vault of one endpoint.
func NewVault(s Sealer, tenant, id string) Vault { return Vault{s, tenant, id} }

func (v Vault) seal(text, field string) ([]byte, error) {
	return v.sealer.Seal([]byte(text), keys.Place{Tenant: v.tenant, Object: v.id, Field: field})
}

func (v Vault) open(sealed []byte, field string) (string, error) {
	plain, err := v.sealer.Open(sealed, keys.Place{Tenant: v.tenant, Object: v.id, Field: field})
	return string(plain), err
}

// Credentials are what an endpoint's requests carry beside the signature, in the open.
type Credentials struct {
	Headers   []relay.Header
	BasicUser string
	BasicPass relay.Secret
	Bearer    relay.Secret
}

// Seal puts credentials into settings, each secret sealed.
func (v Vault) Seal(c Credentials, s *Settings) (err error) {
	s.Headers = nil
	for _, h := range c.Headers {
		sealed, err := v.seal(h.Value.Reveal(), fieldHeader(h.Name))
		if err != nil {
			return fmt.Errorf("seal header %s: %w", h.Name, err)
		}
		s.Headers = append(s.Headers, Header{Name: h.Name, Value: sealed})
	}
	s.BasicUser = c.BasicUser
	if s.BasicPass, err = v.optional(c.BasicPass, fieldBasic); err != nil {
		return fmt.Errorf("seal basic authentication: %w", err)
	}
	if s.Bearer, err = v.optional(c.Bearer, fieldBearer); err != nil {
		return fmt.Errorf("seal bearer token: %w", err)
	}
	return nil
}

// Open takes the credentials out of settings.
func (v Vault) Open(s *Settings) (Credentials, error) {
	c := Credentials{BasicUser: s.BasicUser}
	for _, h := range s.Headers {
		value, err := v.open(h.Value, fieldHeader(h.Name))
		if err != nil {
			return Credentials{}, fmt.Errorf("header %s: %w", h.Name, err)
		}
		c.Headers = append(c.Headers, relay.Header{Name: h.Name, Value: relay.NewSecret(value)})
	}
	if len(s.BasicPass) > 0 {
		pass, err := v.open(s.BasicPass, fieldBasic)
		if err != nil {
			return Credentials{}, fmt.Errorf("basic authentication: %w", err)
		}
		c.BasicPass = relay.NewSecret(pass)
	}
	if len(s.Bearer) > 0 {
		token, err := v.open(s.Bearer, fieldBearer)
		if err != nil {
			return Credentials{}, fmt.Errorf("bearer token: %w", err)
		}
		c.Bearer = relay.NewSecret(token)
	}
	return c, nil
}

func (v Vault) optional(s relay.Secret, field string) ([]byte, error) {
	if s.Empty() {
		return nil, nil
	}
	return v.seal(s.Reveal(), field)
}

// Reveal opens a signing key, for its receiver to be shown.
func (v Vault) Reveal(k Key) (relay.Secret, error) {
	text, err := v.open(k.Secret, fieldKey(k.ID))
	return relay.NewSecret(text), err
}

// Key seals a signing key made at now. It is the current one until its record says otherwise.
func (v Vault) Key(k signer.Key, now time.Time) (Key, error) {
	sealed, err := v.seal(k.Reveal(), fieldKey(k.ID()))
	out := Key{ID: k.ID(), State: KeyCurrent, Secret: sealed, CreateTime: now}
	if block, _ := pem.Decode([]byte(k.PublicPEM())); block != nil {
		out.Public = block.Bytes
	}
	return out, err
}
