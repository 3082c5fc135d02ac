package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

// Ref names an endpoint. Tenant may be empty: then the one whose endpoint it is, if the caller sees it. ETag is the
// revision that the caller saw; 0: whatever is the latest.
type Ref struct {
	Tenant string
	ID     string
	ETag   uint64
}

// Created is a new endpoint. Secret is shown this once, and empty for schemes with a key pair, which have PublicPEM.
type Created struct {
	Endpoint  *registry.Endpoint
	Secret    relay.Secret
	PublicPEM string
	// Repeat is true where this creation was done before under the same request id: then Secret is empty, because it was
	// shown already.
	Repeat bool
}

const (
	endpointPrefix   = "ep_"
	maxRequestID     = 64
	maxReason        = 256
	devApprover      = "--dev"
	reasonRejected   = "rejected"
	settleWait       = 30 * time.Second
	maxListedAtOnce  = relay.MaxPageSize
	defaultListBatch = relay.DefaultPageSize
)

var endpointIDs = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// CreateEndpoint registers an endpoint: active at once with Dev, else pending. With a request id (1 to 64 of A-Za-z0-9_-)
// the same account can repeat it safely: the same spec gets the same endpoint, another one ErrExists.
func (c *Control) CreateEndpoint(ctx context.Context, who access.Caller, asked Spec, requestID string) (Created, error) {
	asked.Tenant = cmp.Or(asked.Tenant, who.Tenant)
	id := newEndpointID(asked.Tenant, who.Account, requestID)
	act := audit.Act{Name: "endpoint.create", Object: id, RequestID: clip(requestID)}
	if relay.ValidTenant(asked.Tenant) {
		act.Tenant = asked.Tenant
	}
	if err := c.allow(ctx, who, access.EndpointsWrite, &act); err != nil {
		return Created{}, err
	}
	if asked.Tenant == relay.ReservedTenant && !who.AllTenants() {
		return Created{}, c.refuse(ctx, who, act, &ForbiddenError{Scope: access.EndpointsWrite, Reason: "the tenant is the relay's own, and for operators of all tenants"})
	}
	asked.Environment = cmp.Or(asked.Environment, relay.Environment(who.Environment))
	spec := asked.withDefaults(c.Dev)
	if !who.In(access.Environment(spec.Environment)) {
		return Created{}, c.refuse(ctx, who, act, errOtherEnvironment(who))
	}
	bad := c.check(&spec, &asked)
	if requestID != "" && (len(requestID) > maxRequestID || !relay.ValidEventID(requestID)) {
		bad.Add("requestId", "must be 1 to %d of A-Z, a-z, 0-9, '_' and '-'", maxRequestID)
	}
	var key signer.Key
	if scheme, unknown := signer.ParseScheme(spec.Scheme); unknown == nil { // else it is refused as the scheme's fault
		var err error
		if key, err = c.key(scheme, spec.Secret, id); err != nil {
			bad.Add("secret", "%s", rule(err))
		}
	}
	if err := bad.Err(); err != nil {
		return Created{}, err
	}
	digest := c.specDigest(&asked, id)
	if requestID != "" {
		if old, err := c.repeat(id, digest); old != nil || err != nil {
			return Created{Endpoint: old, Repeat: true}, err
		}
	}
	record, err := c.newRecord(&spec, id, who, key)
	if err != nil {
		return Created{}, err
	}
	record.RequestID, record.RequestDigest = requestID, digest
	if c.count(spec.Tenant) >= c.MaxEndpoints {
		return Created{}, &StateError{Act: "create an endpoint", State: "FULL", Reason: fmt.Sprintf("the tenant has %d already", c.MaxEndpoints)}
	}
	created := Created{PublicPEM: key.PublicPEM()}
	if !key.Asymmetric() {
		created.Secret = relay.NewSecret(key.Reveal())
	}
	act.Detail = c.facts(&spec)
	_, act.After = audit.Changes(nil, c.shown(record))
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		created.Endpoint, err = c.Registry.Create(ctx, record)
		return map[string]string{"state": string(record.State), "key": key.ID()}, err
	})
	if errors.Is(err, ErrExists) && requestID != "" { // a repeat that raced the first
		old, err := c.repeat(id, digest)
		return Created{Endpoint: old, Repeat: true}, cmp.Or(err, notKnown(old))
	}
	if err != nil {
		return Created{}, err
	}
	if c.sharesKey(created.Endpoint.Record) {
		return Created{}, c.takeBack(ctx, created.Endpoint, key.ID())
	}
	return created, nil
}

func notKnown(e *registry.Endpoint) error {
	if e == nil {
		return ErrUnavailable
	}
	return nil
}

// newEndpointID is random, or, for a creation with a request id, the same for each repeat of it: so that
// the bucket itself tells the repeats.
func newEndpointID(tenant, account, requestID string) string {
	var b [16]byte
	if requestID == "" {
		rand.Read(b[:])
	} else {
		sum := sha256.Sum256([]byte(tenant + "\x00" + account + "\x00" + requestID))
		copy(b[:], sum[:])
	}
	return endpointPrefix + endpointIDs.EncodeToString(b[:])
}

// repeat is the endpoint that a creation made before, if it asked for the same.
func (c *Control) repeat(id string, digest []byte) (*registry.Endpoint, error) {
	old := c.Registry.Snapshot().Endpoint(id)
	if old == nil {
		return nil, nil
	}
	if subtle.ConstantTimeCompare(old.Record.RequestDigest, digest) != 1 {
		return nil, ErrExists
	}
	return old, nil
}

// specDigest tells one spec from another. It is keyed, because a password in it could be guessed from a plain hash.
func (c *Control) specDigest(s *Spec, id string) []byte {
	plain := struct {
		Spec
		Secrets []string
	}{Spec: normal(s), Secrets: []string{s.BasicPass.Reveal(), s.Bearer.Reveal(), s.Secret.Reveal()}}
	for _, h := range s.Headers {
		plain.Secrets = append(plain.Secrets, h.Value.Reveal())
	}
	data, err := json.Marshal(plain)
	if err != nil { // a rate limit that is no number; it is refused before
		return nil
	}
	return c.Sealer.Digest("creation of "+id, data)
}

// key makes or reads a new signing key. It is one endpoint's alone: what is signed for one partner must not verify at another. self is
// the endpoint that may have it already, by a creation that is repeated.
func (c *Control) key(scheme signer.Scheme, brought relay.Secret, self string, kind ...signer.KeyOption) (signer.Key, error) {
	if brought.Empty() {
		return signer.GenerateKey(scheme, kind...)
	}
	key, err := signer.ParseKey(scheme, brought.Reveal())
	if err != nil {
		return signer.Key{}, err
	}
	for e := range c.Registry.Snapshot().All() {
		if e.ID != self && e.Holds(key.ID()) {
			return signer.Key{}, errSharedKey
		}
	}
	return key, nil
}

// rule is what a signer's error says of a key, without its prefix.
func rule(err error) string { return strings.TrimPrefix(err.Error(), signer.ErrKey.Error()+": ") }

func (c *Control) newRecord(spec *Spec, id string, who access.Caller, key signer.Key) (*registry.Record, error) {
	now := c.now()
	vault := registry.NewVault(c.Sealer, spec.Tenant, id)
	record := &registry.Record{
		ID: id, Tenant: spec.Tenant, State: relay.EndpointPending, Registrant: who.Account, Hands: c.Access.Hands(who), CreateTime: now, UpdateTime: now,
	}
	switch {
	case c.Dev:
		record.State, record.Approver, record.ApproveTime = relay.EndpointActive, devApprover, now
		record.Reviewer, record.ReviewTime = devApprover, now
	case c.provable():
		record.State = relay.EndpointUnverified
	default:
		record.Proof = registry.Proof{Host: hostOf(spec.URL), Method: registry.ProofOff, Time: now}
	}
	var err error
	if record.Settings, err = settings(spec, vault); err != nil {
		return nil, err
	}
	sealed, err := vault.Key(key, now)
	if err != nil {
		return nil, fmt.Errorf("seal signing key: %w", err)
	}
	record.Keys = []registry.Key{sealed}
	return record, nil
}

func (c *Control) count(tenant string) (n int) {
	for _, e := range c.Registry.Snapshot().Tenant(tenant) {
		if e.State != relay.EndpointDeleted {
			n++
		}
	}
	return n
}

// facts are what the audit log tells of a spec: where to, what, and how it is trusted; no secrets, and no query, which may hold one.
func (c *Control) facts(s *Spec) map[string]string {
	return map[string]string{
		"url": bare(s.URL), "owner": s.Owner, "eventTypes": strings.Join(s.EventTypes, ","), "scheme": s.Scheme,
		"redaction": string(s.Redaction.Mode), "clientCertificate": string(s.TLS.ClientCertificate), "environment": string(s.Environment),
		"dataScope": strings.Join(s.DataScope, ","),
	}
}

// bare is a URL without what may hold a secret: query and path's end.
func bare(url string) string {
	u, err := relay.ParseEndpointURL(url, true)
	if err != nil {
		return ""
	}
	full := u.URL()
	return full.Scheme + "://" + full.Host
}

// find is the endpoint that a caller means, if it may know of it: a partner knows its own registrations alone.
func (c *Control) find(who access.Caller, ref Ref) (*registry.Endpoint, error) {
	e := c.Registry.Snapshot().Endpoint(ref.ID)
	if e == nil || !c.knows(who, e) || ref.Tenant != "" && ref.Tenant != e.Tenant {
		return nil, ErrNotFound
	}
	return e, nil
}

func (c *Control) knows(who access.Caller, e *registry.Endpoint) bool {
	if e.Tenant == "" { // its record cannot be read
		return who.AllTenants()
	}
	return who.Sees(e.Tenant) && who.In(environmentOf(e)) && (who.Role != access.Partner || e.Registrant == who.Account)
}

// environmentOf is what an endpoint is used for.
func environmentOf(e *registry.Endpoint) access.Environment { return access.Environment(e.Environment) }

func errOtherEnvironment(who access.Caller) error {
	return &ForbiddenError{Scope: access.EndpointsWrite, Reason: "the account is for " + string(who.Environment) + " alone"}
}

// GetEndpoint is one endpoint; a deleted one is there until it is purged.
func (c *Control) GetEndpoint(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, error) {
	if err := c.allow(ctx, who, access.EndpointsRead, &audit.Act{Name: "endpoint.read", Object: clip(ref.ID)}); err != nil {
		return nil, err
	}
	return c.find(who, ref)
}

// EndpointQuery asks for endpoints. Zero fields do not narrow it.
type EndpointQuery struct {
	Tenant string // required but for callers of one tenant and those that may see all
	State  relay.EndpointState
	Owner  string
	// ReviewOverdue asks for those alone whose review is.
	ReviewOverdue bool
	PageSize      int // 1 to relay.MaxPageSize; 0 is relay.DefaultPageSize
	PageToken     string
}

// EndpointPage is one page of a list, by id. NextPageToken is empty on the last page.
type EndpointPage struct {
	Endpoints     []*registry.Endpoint
	NextPageToken string
}

// ListEndpoints lists the endpoints that the caller may know of; deleted ones only where the query asks for them.
func (c *Control) ListEndpoints(ctx context.Context, who access.Caller, q EndpointQuery) (EndpointPage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.EndpointsRead, &audit.Act{Name: "endpoint.list", Tenant: clip(q.Tenant)}); err != nil {
		return EndpointPage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return EndpointPage{}, err
	}
	size := cmp.Or(q.PageSize, defaultListBatch)
	snapshot := c.Registry.Snapshot()
	list := snapshot.Tenant(q.Tenant)
	if q.Tenant == "" {
		list = snapshot.ByID()
	}
	var page EndpointPage
	for _, e := range list {
		switch {
		case e.ID <= after || !c.knows(who, e):
		case q.State == "" && e.State == relay.EndpointDeleted || q.State != "" && e.State != q.State:
		case q.Owner != "" && e.Owner != q.Owner:
		case q.ReviewOverdue && !c.ReviewOverdue(e):
		case len(page.Endpoints) == size:
			page.NextPageToken = pageToken(page.Endpoints[size-1].ID)
			return page, nil
		default:
			page.Endpoints = append(page.Endpoints, e)
		}
	}
	return page, nil
}

// A page token is the last id of the page before it: what is made or deleted meanwhile moves nothing.
func pageToken(last string) string { return base64.RawURLEncoding.EncodeToString([]byte(last)) }

func pageStart(size int, token string) (after string, err error) {
	var bad relay.Invalid
	if size < 0 || size > maxListedAtOnce {
		bad.Add("pageSize", "must be 1 to %d", maxListedAtOnce)
	}
	last, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(last) > 64 || pageToken(string(last)) != token { // the decoder passes over line breaks
		bad.Add("pageToken", "is not one of this query's")
	}
	return string(last), bad.Err()
}

// UpdateEndpoint changes the fields that the mask names. Once the endpoint was approved, what widens what leaves becomes a
// proposal that waits for approval, while the rest, and all that narrows it, applies at once; with Dev everything does.
// When it returns, nothing is sent any more under settings that were narrowed.
func (c *Control) UpdateEndpoint(ctx context.Context, who access.Caller, ref Ref, asked Spec, mask []string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.update", Object: clip(ref.ID), Detail: map[string]string{"fields": strings.Join(mask, ",")}}
	if _, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if r.State == relay.EndpointDeleted || r.State == relay.EndpointContained && who.Role == access.Partner {
			return effect{}, stateError("update", r, "it must not be deleted or contained")
		}
		before := r.Settings
		facts, err := c.update(who, r, &asked, mask)
		return effect{settle: r.State == relay.EndpointActive && leavesOtherwise(&before, &r.Settings), facts: facts}, err
	})
}

// leavesOtherwise tells whether other data may leave, or to elsewhere, under one of the settings than under the other.
func leavesOtherwise(a, b *registry.Settings) bool {
	return a.URL != b.URL || a.Filter != b.Filter || !reflect.DeepEqual(a.EventTypes, b.EventTypes) ||
		!reflect.DeepEqual(a.Redaction, b.Redaction) || !reflect.DeepEqual(a.DataScope, b.DataScope) || a.Environment != b.Environment ||
		!reflect.DeepEqual(a.TLS, b.TLS)
}

func (c *Control) update(who access.Caller, r *registry.Record, asked *Spec, mask []string) (map[string]string, error) {
	vault := registry.NewVault(c.Sealer, r.Tenant, r.ID)
	approved, err := specOf(r.Tenant, &r.Settings, vault)
	if err != nil {
		return nil, err
	}
	wanted := approved
	if r.Proposed != nil {
		if wanted, err = specOf(r.Tenant, &r.Proposed.Settings, vault); err != nil {
			return nil, err
		}
	}
	before := wanted
	if err := overlay(&wanted, asked, mask); err != nil {
		return nil, err
	}
	explicit := wanted // what stands in the record was asked for, or is a default and was not
	if !changed(mask, "chunkBytes") && wanted.ChunkBytes == relay.DefaultChunkBytes {
		explicit.ChunkBytes = 0
	}
	wanted = wanted.withDefaults(c.Dev)
	if !who.In(access.Environment(wanted.Environment)) {
		return nil, errOtherEnvironment(who)
	}
	if err := c.check(&wanted, &explicit).Err(); err != nil {
		return nil, err
	}
	if same(&wanted, &before) {
		return map[string]string{"changed": "nothing"}, nil
	}
	now := c.now()
	r.UpdateTime = now
	waiting := r.State == relay.EndpointPending || r.State == relay.EndpointUnverified || r.State == relay.EndpointContained
	if c.Dev || waiting && r.ApproveTime.IsZero() {
		if !c.Dev && who.Account != r.Registrant {
			// Else its author could be the one who approves it.
			return nil, stateError("update", r, "until it is approved only its registrant, "+r.Registrant+", can change it")
		}
		r.Proposed = nil
		r.Hands = access.Joined(r.Hands, c.Access.Hands(who)...) // the registrant's, by another credential maybe
		r.Settings, err = settings(&wanted, vault)
		if host := hostOf(wanted.URL); !c.Dev && r.Proof.Host != host {
			r.Proof = c.noProof(host, now)
			if c.provable() {
				c.move(r, relay.EndpointUnverified, "")
			}
		}
		return map[string]string{"applied": "all"}, err
	}
	return c.propose(who, r, vault, &approved, &wanted, &before)
}

func changed(mask []string, name string) bool {
	for _, path := range mask {
		if camel(path) == name {
			return true
		}
	}
	return false
}

// propose puts what narrows in force and leaves the rest of what is wanted as a proposal of one account.
func (c *Control) propose(who access.Caller, r *registry.Record, vault registry.Vault, approved, wanted, before *Spec) (_ map[string]string, err error) {
	now := inForce(approved, wanted)
	if r.Settings, err = settings(&now, vault); err != nil {
		return nil, err
	}
	if same(&now, wanted) {
		r.Proposed = nil
		return map[string]string{"applied": "all"}, nil
	}
	author, hands := who.Account, c.Access.Hands(who)
	if r.Proposed != nil && r.Proposed.Author != author {
		// Another account may narrow what was proposed, not add to it: a proposal has one author.
		if narrowed := inForce(before, wanted); !same(&narrowed, wanted) {
			return nil, stateError("update", r, "a proposal of "+r.Proposed.Author+" waits; approve or reject it first")
		}
		author, hands = r.Proposed.Author, r.Proposed.Hands
	} else if r.Proposed != nil {
		hands = access.Joined(hands, r.Proposed.Hands...) // by another credential of the author's, maybe
	}
	proposal := &registry.Proposal{Author: author, Hands: hands, Time: c.now()}
	if host := hostOf(wanted.URL); host != hostOf(now.URL) {
		if proposal.Proof = c.noProof(host, proposal.Time); r.Proposed != nil && r.Proposed.Proof.Host == host {
			proposal.Proof = r.Proposed.Proof
		}
	}
	if proposal.Settings, err = settings(wanted, vault); err != nil {
		return nil, err
	}
	r.Proposed = proposal
	return map[string]string{"applied": "what narrows", "proposed": "the rest"}, nil
}

// maxKeysAge is the longest that published keys may be kept: a key that was revoked is trusted by those who kept it until then.
const maxKeysAge = 5 * time.Minute

// EndpointKeys are the public keys that an endpoint's deliveries verify with, the current one first, the next one among them: for
// anybody. They may be kept for age, which is short enough for whoever keeps them to hear of a next key well before it signs.
func (c *Control) EndpointKeys(id string) (keys []signer.JWK, age time.Duration, err error) {
	e := c.Registry.Snapshot().Endpoint(id)
	if e == nil || len(e.PublicKeys) == 0 {
		return nil, 0, ErrNotFound
	}
	age = min(maxKeysAge, e.Rotation.OverlapOrDefault()/4)
	if next, ok := e.Record.Next(); ok { // what is kept of before must not outlast its time by much, nor this the steps after it
		age = min(age, max(time.Second, next.Overlap/4))
	}
	for _, k := range e.PublicKeys {
		if jwk, ok := k.JWK(); ok {
			keys = append(keys, jwk)
		}
	}
	return keys, age, nil
}

// clip bounds what a caller wrote before it goes into a record.
func clip(s string) string {
	if len(s) > maxReason {
		return s[:maxReason]
	}
	return s
}
