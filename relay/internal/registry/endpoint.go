package registry

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/redact"
	"github.com/sealpost/sealpost/signer"
)

// Endpoint is an endpoint with what was compiled of it, immutable and shared by snapshots.
type Endpoint struct {
	// Endpoint is never nil. Its Revision is that of the record.
	*relay.Endpoint
	// Redact is the policy's program; nil where Err is not.
	Redact *redact.Program
	// Filter is nil where there is none: then every event of the types is wanted.
	Filter *filter.Filter
	// PolicyHash is the same for endpoints of one tenant with the same policy, whose redacted data may be shared within
	// one event.
	PolicyHash [32]byte
	// Err says why the endpoint could not be compiled; nothing may be sent to it then, and its deliveries are
	// parked.
	Err error
	// Record is what it was compiled of; nobody writes to it.
	Record *Record
	// PublicKeys are the public halves of its keys, the next one too, the current one first; none for shared secrets.
	PublicKeys []signer.PublicKey

	patterns []string // minimal; see Snapshot.Match
	types    *Types   // what of the catalogue holds for its tenant
}

// Version names what decides about an endpoint's deliveries: two that are equal decide the same.
type Version struct {
	record uint64
	types  *Types
}

// Version is of this endpoint.
func (e *Endpoint) Version() Version { return Version{e.Revision, e.types} }

// Leaves tells whether the catalogue lets events of a type leave to it.
func (e *Endpoint) Leaves(eventType string) bool { return e.types.Leaves(eventType) }

// Takes tells whether the endpoint's environment is one for such events.
func (e *Endpoint) Takes(synthetic bool) bool { return synthetic == (e.Environment == relay.Sandbox) }

// Matches tells whether the endpoint's event types name eventType.
func (e *Endpoint) Matches(eventType string) bool {
	for _, p := range e.patterns {
		if relay.MatchPattern(p, eventType) {
			return true
		}
	}
	return false
}

// Sendable tells whether deliveries may be sent: the endpoint is active, and all of it could be compiled.
func (e *Endpoint) Sendable() bool { return e.State == relay.EndpointActive && e.Err == nil }

// CurrentKey is the id of the key that signs; empty where there is none.
func (e *Endpoint) CurrentKey() string { return e.Record.Current().ID }

// Holds tells whether a key is still one of the endpoint's.
func (e *Endpoint) Holds(keyID string) bool {
	return slices.ContainsFunc(e.Record.Keys, func(k Key) bool { return k.ID == keyID })
}

// compiler makes endpoints of records.
type compiler struct {
	sealer   Sealer
	filters  *filter.Compiler
	insecure bool
	now      func() time.Time
}

// broken is an endpoint of which not even the record could be read.
func broken(id string, revision uint64, err error) *Endpoint {
	return &Endpoint{
		Endpoint: &relay.Endpoint{ID: id, State: relay.EndpointSuspended, StateReason: "record cannot be read", Revision: revision},
		Err:      err,
		Record:   &Record{ID: id, State: relay.EndpointSuspended, Revision: revision},
	}
}

// compile never fails: what cannot be compiled is in the endpoint's Err.
func (c *compiler) compile(r *Record) *Endpoint {
	e := &Endpoint{Endpoint: plain(r), Record: r}
	for _, p := range r.Settings.EventTypes {
		if !relay.ValidPattern(p) {
			e.Err = errors.New("event types cannot be read")
			return e
		}
	}
	e.patterns = minimal(r.Settings.EventTypes)
	if r.State == relay.EndpointDeleted {
		return e // a tombstone has no secrets
	}
	if err := c.complete(e); err != nil {
		e.Err, e.Redact, e.Signer = err, nil, nil
	}
	return e
}

func (c *compiler) complete(e *Endpoint) (err error) {
	r, s := e.Record, &e.Record.Settings
	if e.URL, err = relay.ParseEndpointURL(s.URL, c.insecure); err != nil {
		return err
	}
	if e.Redact, err = redact.Compile(Policy(s.Redaction, s.DataScope), c.sealer.Pseudonym(r.Tenant)); err != nil {
		return fmt.Errorf("redaction: %w", err)
	}
	e.PolicyHash = policyHash(r.Tenant, s.Redaction, s.DataScope)
	if s.Filter != "" {
		if e.Filter, err = c.filters.Compile(s.Filter); err != nil {
			return fmt.Errorf("filter: %w", err)
		}
	}
	vault := NewVault(c.sealer, r.Tenant, r.ID)
	credentials, err := vault.Open(s)
	if err != nil {
		return err
	}
	e.Headers, e.BasicPass, e.Bearer = credentials.Headers, credentials.BasicPass, credentials.Bearer
	return c.sign(e, vault)
}

func (c *compiler) sign(e *Endpoint, vault Vault) error {
	var live []signer.Key
	for _, k := range e.Record.Keys {
		if !k.ExpireTime.IsZero() && !c.now().Before(k.ExpireTime) || k.Unclaimed {
			continue
		}
		text, err := vault.open(k.Secret, fieldKey(k.ID))
		if err != nil {
			return fmt.Errorf("signing key %s: %w", k.ID, err)
		}
		key, err := signer.ParseKey(e.Scheme, text)
		if err != nil {
			return fmt.Errorf("signing key %s: %w", k.ID, err)
		}
		if k.State != KeyNext {
			live = append(live, key)
		}
		if public, ok := key.Public(); ok {
			e.PublicKeys = append(e.PublicKeys, public)
		}
	}
	if len(live) == 0 {
		return errors.New("no signing key is in force")
	}
	ring, err := signer.NewKeyring(live[0], live[1:]...)
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	if e.Signer, err = signer.NewSigner(e.Scheme, ring); err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	return nil
}

// plain is what of a record needs no secret.
func plain(r *Record) *relay.Endpoint {
	s := &r.Settings
	return &relay.Endpoint{
		ID: r.ID, Tenant: r.Tenant, Owner: s.Owner, Purpose: s.Purpose, Description: s.Description,
		EventTypes: s.EventTypes, Filter: s.Filter, Scheme: s.Scheme, ContentMode: s.ContentMode, Redaction: s.Redaction,
		Environment: s.Environment, DataScope: s.DataScope,
		ChunkBytes: s.ChunkBytes, ChunkArray: s.ChunkArray, Concurrency: s.Concurrency, Ordered: s.Ordered,
		RateLimit: s.RateLimit, Timeout: s.Timeout, RetryFor: s.RetryFor, HTTP2: s.HTTP2, TLS: s.TLS, Rotation: s.Rotation, BasicUser: s.BasicUser,
		State: r.State, StateReason: r.StateReason, Registrant: r.Registrant, Approver: r.Approver,
		CreateTime: r.CreateTime, UpdateTime: r.UpdateTime, ApproveTime: r.ApproveTime, Revision: r.Revision,
		Reviewer: r.Reviewer, ReviewTime: r.ReviewTime, Inactive: r.Inactive, InactiveSince: r.InactiveSince, CertificateTime: r.CertificateTime,
	}
}

// Policy is a redaction within a data scope as the redact package takes it. What a scope does not name does not leave: a policy that
// lets all leave but what it drops becomes one that lets the scope leave but what it drops. One that allows paths by itself allows none
// outside of the scope; whoever registers sees to that. The subject stands beside the data, and is the redaction's alone to keep back.
func Policy(r relay.Redaction, scope []string) redact.Policy {
	p := redact.Policy{Mode: redact.Mode(r.Mode), Allow: r.Allow, Drop: r.Drop, Pseudonymize: r.Pseudonymize}
	if len(scope) > 0 && (r.Mode == relay.RedactionDenyListed || r.Mode == relay.RedactionNone) {
		p.Mode, p.Allow = redact.AllowListed, append(slices.Clone(scope), "$subject")
	}
	for _, m := range r.Mask {
		p.Mask = append(p.Mask, redact.Mask{Path: m.Path, KeepLast: m.KeepLast})
	}
	return p
}

// policyHash covers the tenant, too: its pseudonyms are its own.
func policyHash(tenant string, r relay.Redaction, scope []string) [32]byte {
	var b []byte
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	texts := func(list []string) {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	text(tenant)
	text(string(r.Mode))
	texts(r.Allow)
	texts(r.Drop)
	texts(r.Pseudonymize)
	texts(scope)
	for _, m := range r.Mask {
		text(m.Path)
		b = binary.AppendUvarint(b, uint64(m.KeepLast))
	}
	return sha256.Sum256(b)
}
