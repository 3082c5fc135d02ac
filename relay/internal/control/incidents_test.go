package control

import (
	"errors"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Containing and releasing leaves no endpoint closer to being sent to than it was.
func TestContainingIsNoWayRoundApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	for from, want := range map[relay.EndpointState]relay.EndpointState{
		relay.EndpointUnverified: relay.EndpointUnverified, relay.EndpointPending: relay.EndpointPending,
		relay.EndpointActive: relay.EndpointPaused, relay.EndpointPaused: relay.EndpointPaused, relay.EndpointSuspended: relay.EndpointPaused,
	} {
		e := w.active(ann)
		ref := Ref{ID: e.ID}
		if _, err := w.Registry.Change(ctx, e.ID, 0, func(r *registry.Record) error { r.State = from; return nil }); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing, and what the first noted stays
			if got, err := w.ContainEndpoint(ctx, op, ref, "INC-42"); err != nil || got.State != relay.EndpointContained || got.StateReason != "by op: INC-42" || got.Sendable() {
				t.Errorf("from %s: %+v, %v", from, got, err)
			}
		}
		// Nobody else gets it out of there.
		for name, act := range map[string]func(access.Caller) error{
			"resume":  func(c access.Caller) error { _, err := w.ResumeEndpoint(ctx, c, ref); return err },
			"pause":   func(c access.Caller) error { _, err := w.PauseEndpoint(ctx, c, ref, ""); return err },
			"approve": func(c access.Caller) error { _, err := w.ApproveEndpoint(ctx, c, ref); return err },
			"test":    func(c access.Caller) error { _, _, err := w.TestEndpoint(ctx, c, ref); return err },
		} {
			if err := act(op); !isState(err) {
				t.Errorf("from %s: %s by an operator: %v", from, name, err)
			}
		}
		for name, act := range map[string]func() error{
			"contain": func() error { _, err := w.ContainEndpoint(ctx, ann, ref, "x"); return err },
			"release": func() error { _, err := w.ReleaseEndpoint(ctx, ann, ref, "x"); return err },
		} {
			if err := act(); !isForbidden(err) {
				t.Errorf("%s by a partner: %v", name, err)
			}
		}
		if got, err := w.ReleaseEndpoint(ctx, op, ref, "keys were changed"); err != nil || got.State != want || got.Record.ContainedFrom != "" {
			t.Errorf("contained from %s and released: %+v, %v; want %s", from, got, err, want)
		}
	}
}

// What was registered with --dev, and contained, is not approved by being released without it.
func TestReleaseAfterDev(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	ref := Ref{ID: w.active(ann).ID}
	if err := w.EnterDev(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ContainEndpoint(ctx, op, ref, "INC-42"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.LeaveDev(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := w.ReleaseEndpoint(ctx, op, ref, "over"); err != nil || got.State != relay.EndpointPending {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestContainNeedsAReasonAndTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	ref := Ref{ID: w.active(ann).ID}
	var bad relay.Invalid
	for _, reason := range []string{"", " \t"} {
		if _, err := w.ContainEndpoint(ctx, op, ref, reason); !errors.As(err, &bad) {
			t.Errorf("reason %q: %v", reason, err)
		}
		if _, err := w.ReleaseEndpoint(ctx, op, ref, reason); !errors.As(err, &bad) {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
	w.owners.fail = errors.New("owner is away")
	if _, err := w.ContainEndpoint(ctx, op, ref, "INC-42"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if now := w.Registry.Snapshot().Endpoint(ref.ID); now.State != relay.EndpointContained {
		t.Errorf("state %s: nobody may go on sending", now.State)
	}
	w.owners.fail = nil
	if _, err := w.ContainEndpoint(ctx, op, ref, "again"); err != nil {
		t.Errorf("again: %v", err)
	}
}
