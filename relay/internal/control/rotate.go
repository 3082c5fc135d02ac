package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

// Rotation is what is asked of RotateSecret.
type Rotation struct {
	// Secret is the new secret or private key in the scheme's form; empty: one is made.
	Secret relay.Secret
	// Overlap is how long the old key stays good, 0 to relay.MaxOverlap; nil: the endpoint's own, or relay.DefaultOverlap.
	Overlap *time.Duration
	// Revoke takes every key before the new one out of use at once, whatever is under way.
	Revoke bool
	Reason string
}

// NewSecret is a new signing key. Secret is shown this once, and empty for schemes with a key pair, which have PublicPEM.
type NewSecret struct {
	Endpoint  *registry.Endpoint
	KeyID     string
	Secret    relay.Secret
	PublicPEM string
}

// RotateSecret gives an endpoint a new signing key. Under schemes that carry two signatures it signs at once, beside the old one for
// the overlap; under the others it becomes the next key, which signs from the end of the overlap or from ActivateSecret on. With
// Revoke or no overlap the old key is out of use when this returns, and nothing that it signed is in flight.
//
// A rotation that is under way is not begun anew: its receivers may hold either key. Killed before the record is written, nothing
// happened; after it, the caller has no answer and does not know the secret: RevokeSecret of the new key takes it back.
func (c *Control) RotateSecret(ctx context.Context, who access.Caller, ref Ref, asked Rotation) (NewSecret, error) {
	act := audit.Act{Name: "endpoint.secret.rotate"}
	e, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act)
	if err != nil {
		return NewSecret{}, err
	}
	overlap := cmp.Or(e.Record.Settings.Rotation.Overlap, relay.DefaultOverlap)
	if asked.Overlap != nil {
		overlap = *asked.Overlap
	}
	var bad relay.Invalid
	text(&bad, "reason", asked.Reason, maxReason, false)
	switch {
	case overlap < 0 || overlap > relay.MaxOverlap:
		bad.Add("overlap", "must be 0 to 30 days")
	case asked.Revoke && asked.Overlap != nil && overlap > 0:
		bad.Add("overlap", "excludes revoke, which is without one")
	}
	key, err := c.key(e.Scheme, asked.Secret, "", likeCurrent(e.Record)...)
	if err != nil {
		bad.Add("secret", "%s", rule(err))
	}
	if err := bad.Err(); err != nil {
		return NewSecret{}, err
	}
	sealed, err := registry.NewVault(c.Sealer, e.Tenant, e.ID).Key(key, c.now())
	if err != nil {
		return NewSecret{}, fmt.Errorf("seal signing key: %w", err)
	}
	if asked.Revoke {
		overlap = 0
	}
	act.Detail = map[string]string{"newKey": key.ID(), "overlap": overlap.String(), "revoke": fmt.Sprint(asked.Revoke), "because": asked.Reason}
	e, err = c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.mayRotate(who, r); err != nil {
			return effect{}, err
		}
		old := r.Current()
		if err := rotate(r, sealed, overlap, asked.Revoke, c.now()); err != nil {
			return effect{}, rotationError("rotate the secret of", r, err)
		}
		r.UpdateTime = c.now()
		return effect{settle: overlap == 0, facts: map[string]string{"oldKey": old.ID}}, nil
	})
	if err != nil {
		return NewSecret{}, err
	}
	if c.sharesKey(e.Record) {
		return NewSecret{}, c.takeBack(ctx, e, key.ID())
	}
	out := NewSecret{Endpoint: e, KeyID: key.ID(), PublicPEM: key.PublicPEM()}
	if !key.Asymmetric() {
		out.Secret = relay.NewSecret(key.Reveal())
	}
	return out, nil
}

func rotate(r *registry.Record, k registry.Key, overlap time.Duration, revoke bool, now time.Time) error {
	switch {
	case revoke:
		r.Replace(k)
		return nil
	case overlap == 0 || r.Settings.Scheme.Facts().CarriesTwoSignatures:
		return r.Succeed(k, overlap, now)
	}
	return r.Announce(k, overlap, now)
}

func (c *Control) mayRotate(who access.Caller, r *registry.Record) error {
	if r.State == relay.EndpointDeleted || r.State == relay.EndpointContained && who.Role == access.Partner {
		return stateError("rotate the secret of", r, "it must not be deleted or contained")
	}
	return nil
}

// ActivateSecret makes the next key the current one now.
func (c *Control) ActivateSecret(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.secret.activate"}
	if _, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.mayRotate(who, r); err != nil {
			return effect{}, err
		}
		if err := r.Activate(c.now()); err != nil {
			return effect{}, rotationError("activate a secret of", r, err)
		}
		r.UpdateTime = c.now()
		return effect{facts: map[string]string{"key": r.Current().ID}}, nil
	})
}

// ClaimSecret shows the secret of the next key that the schedule made, once; from then on the key can become the current one. A
// caller who lost the answer takes the key back with RevokeSecret and rotates on demand.
func (c *Control) ClaimSecret(ctx context.Context, who access.Caller, ref Ref) (NewSecret, error) {
	act := audit.Act{Name: "endpoint.secret.claim"}
	e, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act)
	if err != nil {
		return NewSecret{}, err
	}
	out := NewSecret{}
	vault := registry.NewVault(c.Sealer, e.Tenant, e.ID)
	out.Endpoint, err = c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.mayRotate(who, r); err != nil {
			return effect{}, err
		}
		key, err := r.Claim()
		if err != nil {
			return effect{}, stateError("claim a secret of", r, "no key waits to be claimed; if the answer that showed it was lost, revoke that key and rotate")
		}
		if out.Secret, err = vault.Reveal(key); err != nil {
			return effect{}, fmt.Errorf("open signing key: %w", err)
		}
		out.KeyID, r.UpdateTime = key.ID, c.now()
		return effect{facts: map[string]string{"key": key.ID}}, nil
	})
	if err != nil {
		return NewSecret{}, err
	}
	return out, nil
}

// RevokeSecret takes one key of a rotation out of use at once. Where it is the current one, the previous one signs again. When it
// returns, nothing that only the revoked key signed is in flight.
func (c *Control) RevokeSecret(ctx context.Context, who access.Caller, ref Ref, keyID, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.secret.revoke"}
	e, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act)
	if err != nil {
		return nil, err
	}
	if !e.Holds(keyID) { // and is recorded nowhere: it may be the secret itself
		return nil, rotationError("revoke a secret of", e.Record, registry.ErrNoKey)
	}
	act.Detail = map[string]string{"key": keyID}
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.mayRotate(who, r); err != nil {
			return effect{}, err
		}
		if err := r.Drop(keyID); err != nil {
			return effect{}, rotationError("revoke a secret of", r, err)
		}
		r.UpdateTime = c.now()
		return effect{settle: true, facts: map[string]string{"current": r.Current().ID, "because": reason}}, nil
	})
}

// rotationError says what would have to be.
func rotationError(act string, r *registry.Record, err error) error {
	switch {
	case errors.Is(err, registry.ErrRotating):
		if k, ok := r.Previous(); ok {
			return stateError(act, r, fmt.Sprintf("a rotation is under way: key %s stays good until %s; wait, or revoke it first",
				k.ID, k.ExpireTime.UTC().Format(time.RFC3339)))
		}
		k, _ := r.Next()
		return stateError(act, r, "a rotation is under way: key "+k.ID+" waits to become the current one; activate it, or revoke it first")
	case errors.Is(err, registry.ErrNoNext):
		return stateError(act, r, "there is no next key: rotate first")
	case errors.Is(err, registry.ErrClaim):
		return stateError(act, r, "nobody was shown the next key's secret: claim it first")
	case errors.Is(err, registry.ErrNoKey):
		return relay.Invalid{{Field: "keyId", Rule: "is not one of the endpoint's signing keys"}}
	case errors.Is(err, registry.ErrOnlyKey):
		return stateError(act, r, "no other key could sign in its place: rotate with revoke")
	}
	return err
}

// sharesKey tells whether another endpoint has a key of this one: two callers may have brought the same at once, and neither check
// before the writes could see it. Of two the one whose record was written first keeps it.
func (c *Control) sharesKey(r *registry.Record) bool {
	for other := range c.Registry.Snapshot().All() {
		if other.ID == r.ID || other.Revision > r.Revision {
			continue
		}
		for _, k := range r.Keys {
			if other.Holds(k.ID) {
				return true
			}
		}
	}
	return false
}

// errSharedKey is said of a key that another endpoint has.
var errSharedKey = errors.New("is a signing key already; each endpoint has its own, and each rotation a new one")

// takeBack ends the use of a key that turned out to be another endpoint's too.
func (c *Control) takeBack(ctx context.Context, e *registry.Endpoint, keyID string) error {
	ref := Ref{Tenant: e.Tenant, ID: e.ID}
	_, err := c.RevokeSecret(ctx, c.operator(), ref, keyID, errSharedKey.Error())
	var state *StateError
	if errors.As(err, &state) { // no other key could sign: nothing may be sent under this one
		_, err = c.SuspendEndpoint(ctx, Relay(), ref, "its secret "+errSharedKey.Error())
	}
	return errors.Join(relay.Invalid{{Field: "secret", Rule: errSharedKey.Error()}}, err)
}

// operator is the relay as it acts on an endpoint's keys.
func (c *Control) operator() access.Caller {
	who := Relay()
	who.Scopes = append(who.Scopes, access.EndpointsWrite)
	return who
}

// Turned is what TurnKeys did for one endpoint, or found.
type Turned struct {
	Endpoint *registry.Endpoint
	// Step is "made", "activated" or "dropped" with a key's id; or empty where a key waits beyond its time to be claimed.
	Step string
}

// TurnKeys takes the steps of rotations that are due: keys whose overlap is over are dropped, next keys become current ones, and
// where a schedule asks for it a next key is made. mine tells whether an endpoint is for this process to turn. Steps that could
// not be taken are taken at the next call; the error tells of the last one.
func (c *Control) TurnKeys(ctx context.Context, mine func(*registry.Endpoint) bool) (turned []Turned, err error) {
	now := c.now()
	for e := range c.Registry.Snapshot().All() {
		if r := *e.Record; r.Turn(now) == "" && !r.Due(now) && !r.Overdue(now) || !mine(e) {
			continue
		}
		if e.Record.Overdue(now) {
			turned = append(turned, Turned{Endpoint: e})
			continue
		}
		step, failed := c.turn(ctx, e)
		if failed != nil {
			if !errors.Is(failed, ErrStale) { // somebody was first
				err = fmt.Errorf("turn the keys of endpoint %s: %w", e.ID, failed)
			}
			continue
		}
		turned = append(turned, step)
	}
	return turned, err
}

func (c *Control) turn(ctx context.Context, e *registry.Endpoint) (Turned, error) {
	var step string
	act := audit.Act{Name: "endpoint.secret.turn", Object: e.ID, Tenant: e.Tenant}
	turned, err := c.change(ctx, c.operator(), Ref{Tenant: e.Tenant, ID: e.ID, ETag: e.Revision}, act, func(r *registry.Record) (effect, error) {
		if step = r.Turn(c.now()); step == "" {
			key, err := c.scheduled(r)
			if err != nil {
				return effect{}, err
			}
			step = "made " + key
		}
		return effect{facts: map[string]string{"step": step}}, nil
	})
	return Turned{Endpoint: turned, Step: step}, err
}

// scheduled makes the next key that a schedule asks for. A shared secret waits to be claimed: nobody was shown it.
func (c *Control) scheduled(r *registry.Record) (string, error) {
	key, err := signer.GenerateKey(r.Settings.Scheme, likeCurrent(r)...)
	if err != nil {
		return "", err
	}
	sealed, err := registry.NewVault(c.Sealer, r.Tenant, r.ID).Key(key, c.now())
	if err != nil {
		return "", fmt.Errorf("seal signing key: %w", err)
	}
	sealed.Unclaimed = !key.Asymmetric()
	return key.ID(), r.Announce(sealed, r.Settings.Rotation.OverlapOrDefault(), c.now())
}

// likeCurrent asks for a key of the current one's kind where the scheme has a choice: its receiver verifies no other.
func likeCurrent(r *registry.Record) []signer.KeyOption {
	facts := r.Settings.Scheme.Facts()
	if facts.Asymmetric && len(r.Current().Public) == 0 {
		return []signer.KeyOption{signer.WithHMAC()}
	}
	return nil
}

// RotateClientCertificate has a new client certificate presented to an endpoint, ahead of its renewal. When it returns, what is begun
// presents it, in the process that sends to the endpoint; what is in flight ends as it would.
func (c *Control) RotateClientCertificate(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.certificate.rotate"}
	if _, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act); err != nil {
		return nil, err
	}
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.mayRotate(who, r); err != nil {
			return effect{}, err
		}
		if r.Settings.TLS.ClientCertificate == relay.ClientCertificateNone {
			return effect{}, stateError("rotate the client certificate of", r, "none is presented to it")
		}
		r.CertificateTime, r.UpdateTime = c.now(), c.now()
		return effect{settle: true, facts: map[string]string{"because": reason}}, nil
	})
}
