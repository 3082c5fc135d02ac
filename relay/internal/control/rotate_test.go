package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

// states are the endpoint's keys in short: the states of its list.
func states(e *registry.Endpoint) (out []registry.KeyState) {
	for _, k := range e.Record.Keys {
		out = append(out, k.State)
	}
	return out
}

func hours(n int) *time.Duration {
	d := time.Duration(n) * time.Hour
	return &d
}

// TestRotate under each scheme: shared secrets of schemes with two signatures sign at once, others wait for their time.
func TestRotate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	for _, scheme := range signer.Schemes() {
		e := w.create(ann, func(s *Spec) { s.Scheme = string(scheme) })
		old := e.CurrentKey()
		made, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{Reason: "yearly"})
		if err != nil {
			t.Fatal(err)
		}
		if asymmetric := scheme.Facts().Asymmetric; asymmetric != made.Secret.Empty() || asymmetric != (made.PublicPEM != "") {
			t.Errorf("%s: secret %v, %q", scheme, !made.Secret.Empty(), made.PublicPEM)
		} else if !asymmetric {
			if key, err := signer.ParseKey(scheme, made.Secret.Reveal()); err != nil || key.ID() != made.KeyID {
				t.Errorf("%s: the secret is not the key's: %v", scheme, err)
			}
		}
		if _, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{}); !isState(err) || !strings.Contains(err.Error(), "under way") {
			t.Errorf("%s: twice at once: %v", scheme, err)
		}
		e = made.Endpoint
		if scheme.Facts().CarriesTwoSignatures {
			if e.CurrentKey() != made.KeyID || !slices.Equal(states(e), []registry.KeyState{registry.KeyCurrent, registry.KeyPrevious}) {
				t.Errorf("%s: %v", scheme, states(e))
			}
		} else {
			if e.CurrentKey() != old || !slices.Equal(states(e), []registry.KeyState{registry.KeyCurrent, registry.KeyNext}) {
				t.Errorf("%s: %v", scheme, states(e))
			}
			if e, err = w.ActivateSecret(ctx, ann, Ref{ID: e.ID}); err != nil || e.CurrentKey() != made.KeyID {
				t.Fatalf("%s: activate: %v", scheme, err)
			}
		}
		if previous, ok := e.Record.Previous(); !ok || previous.ID != old || previous.ExpireTime.Sub(w.now()) > relay.DefaultOverlap || previous.ExpireTime.Sub(w.now()) < relay.DefaultOverlap-time.Minute {
			t.Errorf("%s: previous %+v", scheme, previous)
		}
		if _, err := w.ActivateSecret(ctx, ann, Ref{ID: e.ID}); !isState(err) {
			t.Errorf("%s: activated without a next one: %v", scheme, err)
		}
		// The old key is revoked before its time.
		settled := len(w.owners.settled)
		if e, err = w.RevokeSecret(ctx, ann, Ref{ID: e.ID}, old, ""); err != nil || e.Holds(old) || len(w.owners.settled) != settled+1 {
			t.Errorf("%s: revoke: %v", scheme, err)
		}
		if _, err := w.RevokeSecret(ctx, ann, Ref{ID: e.ID}, made.KeyID, ""); !isState(err) {
			t.Errorf("%s: the only key was revoked: %v", scheme, err)
		}
		// An emergency: nothing that the old one signed is on its way any more.
		again, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{Revoke: true, Reason: "leaked"})
		if err != nil || len(again.Endpoint.Record.Keys) != 1 || again.Endpoint.CurrentKey() != again.KeyID || again.Endpoint.Holds(made.KeyID) || len(w.owners.settled) != settled+2 {
			t.Errorf("%s: emergency: %v, %v", scheme, states(again.Endpoint), err)
		}
		// A rotation whose answer was lost is taken back: the key from before signs again.
		lost, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{Overlap: hours(1)})
		if err != nil {
			t.Fatal(err)
		}
		if e, err = w.RevokeSecret(ctx, ann, Ref{ID: e.ID}, lost.KeyID, "the answer was lost"); err != nil || e.CurrentKey() != again.KeyID || len(e.Record.Keys) != 1 {
			t.Errorf("%s: taken back: %v, %v", scheme, states(e), err)
		}
		// Without overlap the new key is alone at once.
		if none, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{Overlap: hours(0)}); err != nil || len(none.Endpoint.Record.Keys) != 1 || none.Endpoint.CurrentKey() != none.KeyID {
			t.Errorf("%s: no overlap: %v", scheme, err)
		}
	}
	for _, r := range w.records() {
		for name, value := range r.Detail {
			if strings.Contains(value, "whsec_") || strings.Contains(value, "whsk_") || strings.Contains(value, "PRIVATE") {
				t.Errorf("%s %s holds a secret", r.Act, name)
			}
		}
	}
	if trail := w.trail(); !slices.Contains(trail, "endpoint.secret.rotate DONE") || !slices.Contains(trail, "endpoint.secret.activate DONE") ||
		!slices.Contains(trail, "endpoint.secret.revoke DONE") || !slices.Contains(trail, "endpoint.secret.rotate FAILED") {
		t.Errorf("trail: %v", trail)
	}
}

func TestRotateRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, bob := w.caller("ann", access.Partner, "acme"), w.caller("bob", access.Operator, "")
	e := w.active(ann)
	other, err := w.CreateEndpoint(ctx, ann, goodSpec(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, asked := range map[string]Rotation{
		"overlap of 31 days": {Overlap: hours(31 * 24)}, "negative overlap": {Overlap: hours(-1)}, "revoke with overlap": {Overlap: hours(1), Revoke: true},
		"not a secret": {Secret: relay.NewSecret("hello")}, "long reason": {Reason: strings.Repeat("x", 1000)},
		"another endpoint's secret": {Secret: other.Secret},
	} {
		var bad relay.Invalid
		if _, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, asked); !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID, ETag: 1}, Rotation{}); !errors.Is(err, ErrStale) {
		t.Errorf("an old etag: %v", err)
	}
	if _, err := w.RotateSecret(ctx, w.caller("eve", access.Partner, "acme"), Ref{ID: e.ID}, Rotation{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another partner: %v", err)
	}
	if _, err := w.ClaimSecret(ctx, ann, Ref{ID: e.ID}); !isState(err) {
		t.Errorf("nothing to claim: %v", err)
	}
	var bad relay.Invalid
	if _, err := w.RevokeSecret(ctx, ann, Ref{ID: e.ID}, "none", ""); !errors.As(err, &bad) {
		t.Errorf("revoke an unknown key: %v", err)
	}
	s := goodSpec()
	s.Secret = other.Secret
	if _, err := w.CreateEndpoint(ctx, bob, s, ""); !errors.As(err, &bad) {
		t.Errorf("registered with another endpoint's secret: %v", err)
	}
	if _, err := w.DeleteEndpoint(ctx, ann, Ref{ID: e.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RotateSecret(ctx, ann, Ref{ID: e.ID}, Rotation{}); !isState(err) {
		t.Errorf("deleted: %v", err)
	}
}

// TestSharedKeyIsTakenBack: a key that two endpoints came to have at once is not left to the second.
func TestSharedKeyIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	key, err := signer.GenerateKey(signer.Standard)
	if err != nil {
		t.Fatal(err)
	}
	first, second := w.create(ann), w.active(ann)
	brought := func(e *registry.Endpoint) *registry.Endpoint { // as a caller would whose check was before the other's write
		sealed, err := registry.NewVault(w.Sealer, e.Tenant, e.ID).Key(key, w.now())
		if err != nil {
			t.Fatal(err)
		}
		changed, err := w.Registry.Change(ctx, e.ID, 0, func(r *registry.Record) error { return r.Succeed(sealed, time.Hour, w.now()) })
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	first, second = brought(first), brought(second)
	if w.sharesKey(first.Record) || !w.sharesKey(second.Record) {
		t.Fatal("the second is the one to lose it")
	}
	var bad relay.Invalid
	if err := w.takeBack(ctx, second, key.ID()); !errors.As(err, &bad) {
		t.Fatal(err)
	}
	if now := w.Registry.Snapshot().Endpoint(second.ID); now.Holds(key.ID()) || now.State != relay.EndpointActive {
		t.Errorf("second: %v %v", now.State, states(now))
	}
	// Where no other key could sign, nothing is sent until there is one.
	alone, err := w.Registry.Change(ctx, second.ID, 0, func(r *registry.Record) error { r.Replace(first.Record.Keys[0]); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := w.takeBack(ctx, alone, key.ID()); !errors.As(err, &bad) {
		t.Fatal(err)
	}
	if now := w.Registry.Snapshot().Endpoint(second.ID); now.State != relay.EndpointSuspended {
		t.Errorf("second: %v", now.State)
	}
	if _, err := w.ResumeEndpoint(ctx, ann, Ref{ID: second.ID}); !isState(err) {
		t.Errorf("resumed: %v", err)
	}
}

// TestScheduledRotation goes through two lives of a key by the clock alone.
func TestScheduledRotation(t *testing.T) {
	t.Parallel()
	now := start
	w := newWorld(t, func(o *Options, _ *journal.Options) { o.Now = func() time.Time { return now } })
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	every := relay.Rotation{Every: 30 * 24 * time.Hour, Overlap: 48 * time.Hour}
	shared := w.active(ann, func(s *Spec) { s.Rotation = every })
	pair := w.active(ann, func(s *Spec) { s.Rotation, s.Scheme = every, string(signer.RSASHA256) })
	turn := func(mine bool) (steps []string) {
		t.Helper()
		turned, err := w.TurnKeys(ctx, func(*registry.Endpoint) bool { return mine })
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range turned {
			step, _, _ := strings.Cut(one.Step, " ")
			kind := "shared"
			if one.Endpoint.ID == pair.ID {
				kind = "pair"
			}
			steps = append(steps, kind+" "+step)
		}
		slices.Sort(steps)
		return steps
	}
	latest := func(e *registry.Endpoint) *registry.Endpoint { return w.Registry.Snapshot().Endpoint(e.ID) }
	expect := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %v, not %v", what, got, want)
		}
	}
	expect("at once", turn(true))
	now = now.Add(28 * 24 * time.Hour)
	expect("another process's", turn(false))
	expect("one overlap ahead", turn(true), "pair made", "shared made")
	expect("done", turn(true))
	if keys, age, err := w.EndpointKeys(pair.ID); err != nil || len(keys) != 2 || keys[0].KeyID != pair.CurrentKey() || age > 5*time.Minute || age <= 0 {
		t.Errorf("published ahead: %v, %v, %v", keys, age, err)
	}
	now = now.Add(48 * time.Hour)
	expect("its time has come", turn(true), "pair activated", "shared ")
	if latest(pair).CurrentKey() == pair.CurrentKey() || latest(shared).CurrentKey() != shared.CurrentKey() {
		t.Error("a key signs that nobody was shown, or the old pair still does")
	}
	if _, err := w.ActivateSecret(ctx, ann, Ref{ID: shared.ID}); !isState(err) {
		t.Errorf("activated unclaimed: %v", err)
	}
	claimed, err := w.ClaimSecret(ctx, ann, Ref{ID: shared.ID})
	if err != nil {
		t.Fatal(err)
	}
	if key, err := signer.ParseKey(signer.Standard, claimed.Secret.Reveal()); err != nil || key.ID() != claimed.KeyID {
		t.Errorf("claimed: %v", err)
	}
	if _, err := w.ClaimSecret(ctx, ann, Ref{ID: shared.ID}); !isState(err) {
		t.Errorf("claimed twice: %v", err)
	}
	expect("claimed", turn(true), "shared activated")
	if latest(shared).CurrentKey() != claimed.KeyID || !latest(shared).Holds(shared.CurrentKey()) {
		t.Errorf("after the claim: %v", states(latest(shared)))
	}
	now = now.Add(48 * time.Hour)
	expect("the overlap is over", turn(true), "pair dropped", "shared dropped")
	now = now.Add(24 * 24 * time.Hour)
	expect("the second life", turn(true), "pair made", "shared made")
	// Where the audit log fails nothing is turned.
	now = now.Add(48 * time.Hour)
	w.audits.fail.Store(true)
	if turned, err := w.TurnKeys(ctx, func(e *registry.Endpoint) bool { return e.ID == pair.ID }); err == nil || len(turned) > 0 {
		t.Errorf("turned without a record: %v, %v", turned, err)
	}
}

func TestRotationBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	day := 24 * time.Hour
	for _, one := range []struct {
		every, overlap time.Duration
		field          string
	}{
		{0, 0, ""}, {day * 2, 0, ""}, {day, 12 * time.Hour, ""}, {730 * day, 30 * day, ""},
		{time.Hour, time.Minute, "rotation.every"}, {731 * day, 0, "rotation.every"}, {-day, 0, "rotation.every"}, {90 * day, time.Second, "rotation.overlap"},
		{90 * day, 31 * day, "rotation.overlap"}, {day, 13 * time.Hour, "rotation.overlap"}, {day, 0, "rotation.overlap"},
	} {
		s := goodSpec()
		s.Rotation = relay.Rotation{Every: one.every, Overlap: one.overlap}
		_, err := w.CreateEndpoint(t.Context(), w.caller("ann", access.Partner, "acme"), s, "")
		var bad relay.Invalid
		if one.field == "" && err != nil || one.field != "" && (!errors.As(err, &bad) || bad[0].Field != one.field) {
			t.Errorf("every %v, overlap %v: %v", one.every, one.overlap, err)
		}
	}
}
