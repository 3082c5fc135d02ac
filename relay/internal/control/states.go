package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// ApproveEndpoint puts a pending endpoint, or what was proposed for one, in force. The approver is neither the account that
// registered it nor the one that proposed the change, nor one whose credential went through a hand that theirs did (access/hands.go). What is approved is checked again: a configuration that no longer
// allows it (it was made with --dev) refuses it, and so does a host that is not proven. Where nothing waits for approval, it is looked at
// once more and stays as it is: its next review is due as long from now as from an approval.
func (c *Control) ApproveEndpoint(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.approve"}
	e, err := c.enter(ctx, who, access.EndpointsApprove, ref, &act)
	if err != nil {
		return nil, err
	}
	if err := c.fourEyes(ctx, who, act, e.Record); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if err := c.eyes(who, r); err != nil {
			return effect{}, err
		}
		facts, err := c.approve(who, r)
		return effect{facts: facts}, err
	})
}

// approval is what an approval would do now, or why it cannot be.
func (c *Control) approval(r *registry.Record) (Approval, error) {
	switch r.State {
	case relay.EndpointUnverified:
		return "", stateError("approve", r, "its host is not proven: verify the endpoint first")
	case relay.EndpointPending:
		if c.provable() && !c.proven(&r.Proof, hostOf(r.Settings.URL)) {
			return "", stateError("approve", r, "its host is not proven, or no more: verify the endpoint first")
		}
		return ApproveFirst, nil
	case relay.EndpointActive, relay.EndpointPaused, relay.EndpointSuspended:
		if r.Proposed == nil {
			return ApproveRenewal, nil
		}
		if host := hostOf(r.Proposed.Settings.URL); c.provable() && host != hostOf(r.Settings.URL) && !c.proven(&r.Proposed.Proof, host) {
			return "", stateError("approve", r, "the proposed host is not proven: verify the endpoint first")
		}
		return ApproveChange, nil
	}
	return "", stateError("approve", r, "nothing waits for approval")
}

func (c *Control) approve(who access.Caller, r *registry.Record) (map[string]string, error) {
	approval, err := c.approval(r)
	if err != nil {
		return nil, err
	}
	if approval == ApproveChange {
		if hostOf(r.Proposed.Settings.URL) != hostOf(r.Settings.URL) {
			r.Proof = r.Proposed.Proof
		}
		r.Settings, r.Proposed = r.Proposed.Settings, nil
	}
	spec, err := specOf(r.Tenant, &r.Settings, registry.NewVault(c.Sealer, r.Tenant, r.ID))
	if err != nil {
		return nil, err
	}
	if err := c.check(&spec, &Spec{}).Err(); err != nil {
		return nil, err
	}
	if c.sharesKey(r) {
		return nil, stateError("approve", r, "its secret "+errSharedKey.Error()+": rotate it first")
	}
	now := c.now()
	r.Reviewer, r.ReviewTime, r.UpdateTime = who.Account, now, now
	if approval != ApproveRenewal {
		r.Approver, r.ApproveTime = who.Account, now
	}
	if approval == ApproveFirst {
		c.move(r, relay.EndpointActive, "")
	}
	facts := c.facts(&spec)
	facts["approval"], facts["proof"] = string(approval), string(r.Proof.Method)
	return facts, nil
}

// fourEyes refuses, with a record, an approver who wrote what is to be approved.
func (c *Control) fourEyes(ctx context.Context, who access.Caller, act audit.Act, r *registry.Record) error {
	if err := c.eyes(who, r); err != nil {
		return c.refuse(ctx, who, act, err)
	}
	return nil
}

// Approval is what an approval does.
type Approval string

// The approvals.
const (
	ApproveFirst   Approval = "APPROVE"        // a new endpoint
	ApproveChange  Approval = "APPROVE_CHANGE" // what was proposed
	ApproveRenewal Approval = "RENEW"          // its review
)

func (c *Control) eyes(who access.Caller, r *registry.Record) error {
	author, hands := r.Registrant, r.Hands
	if r.Proposed != nil {
		author, hands = r.Proposed.Author, r.Proposed.Hands
	}
	own := c.Access.Hands(who)
	switch {
	case who.Account == author:
		return &ForbiddenError{Scope: access.EndpointsApprove, Reason: "another account than " + author + " has to approve it"}
	case slices.Contains(own, author) || !access.Apart(own, hands):
		return &ForbiddenError{Scope: access.EndpointsApprove, Reason: "the credentials of " + who.Account + " and " + author +
			" went through the same hands: somebody has to approve it who neither made a credential for the other nor got one from the same account"}
	}
	return nil
}

// RejectEndpoint refuses a pending endpoint, which is then deleted with that reason, or what was proposed for one,
// which then stays as it is.
func (c *Control) RejectEndpoint(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.reject", Reason: reason}
	if _, err := c.enter(ctx, who, access.EndpointsApprove, ref, &act); err != nil {
		return nil, err
	}
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		switch {
		case r.State == relay.EndpointPending || r.State == relay.EndpointUnverified:
			c.erase(r, says(who, join(reasonRejected, reason)))
		case r.Proposed != nil && r.State != relay.EndpointDeleted:
			r.Proposed, r.UpdateTime = nil, c.now()
		default:
			return effect{}, stateError("reject", r, "nothing waits for approval")
		}
		return effect{settle: r.State == relay.EndpointDeleted}, nil
	})
}

// PauseEndpoint stops sending; what comes is parked. It answers when nothing more is being sent. A paused one stays as it is.
func (c *Control) PauseEndpoint(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.pause", Reason: reason, Anyway: true}
	if _, err := c.enter(ctx, who, access.EndpointsOperate, ref, &act); err != nil {
		return nil, err
	}
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		switch {
		case r.State == relay.EndpointPaused && (who.Role == access.Partner || !pausedByPartner(r)):
			return effect{settle: true}, nil
		case r.State == relay.EndpointActive || r.State == relay.EndpointSuspended || r.State == relay.EndpointPaused:
			c.move(r, relay.EndpointPaused, says(who, reason))
			return effect{settle: true}, nil
		}
		return effect{}, stateError("pause", r, "it must be active")
	})
}

// ResumeEndpoint sends again. A partner can resume what itself paused, or what the relay suspended.
func (c *Control) ResumeEndpoint(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.resume"}
	if _, err := c.enter(ctx, who, access.EndpointsOperate, ref, &act); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		switch {
		case r.State == relay.EndpointActive:
			return effect{}, nil
		case r.State != relay.EndpointPaused && r.State != relay.EndpointSuspended:
			return effect{}, stateError("resume", r, "it must be paused or suspended")
		case who.Role == access.Partner && !saidBy(r, who.Account) && !saidBy(r, access.RelayAccount):
			return effect{}, stateError("resume", r, "an operator has to resume what an operator paused")
		}
		if c.sharesKey(r) {
			return effect{}, stateError("resume", r, "its secret "+errSharedKey.Error()+": rotate it first")
		}
		if c.overdue(&r.Proof) {
			return effect{}, stateError("resume", r, "its host has to be proven again: verify the endpoint")
		}
		c.move(r, relay.EndpointActive, "")
		return effect{}, nil
	})
}

// SuspendEndpoint stops an active endpoint because of what its receiver did. It does not wait for the owner, which may be
// who calls it. One that is not active stays as it is.
func (c *Control) SuspendEndpoint(ctx context.Context, who access.Caller, ref Ref, reason string) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.suspend", Reason: reason, Anyway: true}
	if _, err := c.enter(ctx, who, access.EndpointsApprove, ref, &act); err != nil {
		return nil, err
	}
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		if r.State != relay.EndpointActive {
			return effect{}, nil
		}
		c.move(r, relay.EndpointSuspended, says(who, reason))
		return effect{}, nil
	})
}

// DeleteEndpoint ends an endpoint and forgets its secrets; a tombstone stays so that the owner can cancel what is open.
// It answers when nothing more is being sent. A deleted one stays as it is; a contained one only an operator can delete.
func (c *Control) DeleteEndpoint(ctx context.Context, who access.Caller, ref Ref) (*registry.Endpoint, error) {
	act := audit.Act{Name: "endpoint.delete"}
	if _, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act); err != nil {
		return nil, err
	}
	return c.change(ctx, who, ref, act, func(r *registry.Record) (effect, error) {
		switch {
		case r.State == relay.EndpointDeleted:
			return effect{settle: true}, nil
		case r.State == relay.EndpointContained && who.Role == access.Partner:
			return effect{}, stateError("delete", r, "an operator has to release it first")
		}
		c.erase(r, says(who, ""))
		return effect{settle: true}, nil
	})
}

// TestEndpoint sends one signed synthetic event to an active endpoint, now, on a connection of its own, and tells what came of it.
func (c *Control) TestEndpoint(ctx context.Context, who access.Caller, ref Ref) (attempt relay.Attempt, verdict relay.Verdict, err error) {
	act := audit.Act{Name: "endpoint.test"}
	e, err := c.enter(ctx, who, access.EndpointsOperate, ref, &act)
	if err != nil {
		return attempt, verdict, err
	}
	if e.State != relay.EndpointActive {
		return attempt, verdict, stateError("test", e.Record, "only active endpoints are sent to")
	}
	if e.Err != nil {
		return attempt, verdict, &StateError{Act: "test", State: string(e.State), Reason: "it cannot be used: " + e.Err.Error()}
	}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		attempt, verdict, err = c.Tester.Test(ctx, e)
		return map[string]string{"verdict": string(verdict.Kind), "because": string(verdict.Reason), "status": fmt.Sprint(attempt.StatusCode)}, err
	})
	return attempt, verdict, err
}

// enter checks the caller, finds the endpoint, and completes the act with both.
func (c *Control) enter(ctx context.Context, who access.Caller, scope access.Scope, ref Ref, act *audit.Act) (*registry.Endpoint, error) {
	act.Object = clip(ref.ID)
	if err := c.allow(ctx, who, scope, act); err != nil {
		return nil, err
	}
	e, err := c.find(who, ref)
	if err != nil {
		return nil, c.refuse(ctx, who, *act, err)
	}
	act.Tenant = e.Tenant
	return e, nil
}

// effect is what a change of a record asks for beside being kept.
type effect struct {
	settle bool              // answer only when nothing is sent any more under what was before
	facts  map[string]string // for the audit log
}

// change does an act on the latest record of an endpoint. Doing again what was done settles again: the first caller may
// not have had its answer.
func (c *Control) change(ctx context.Context, who access.Caller, ref Ref, act audit.Act, fn func(*registry.Record) (effect, error)) (e *registry.Endpoint, err error) {
	act.Before, act.After = c.planned(ctx, ref, act, fn)
	err = c.alter(ctx, who, act, func() (audit.Result, error) {
		var done effect
		var result audit.Result
		e, err = c.Registry.Change(ctx, ref.ID, ref.ETag, func(r *registry.Record) (err error) {
			result, done, err = c.changed(r, act, fn)
			return err
		})
		if err != nil {
			return audit.Result{}, err
		}
		if bytes.Equal(result.Before, act.Before) && bytes.Equal(result.After, act.After) {
			result.Before, result.After = nil, nil // it came out as the first record says
		}
		result.Detail = map[string]string{"state": string(e.State), "revision": fmt.Sprint(e.Revision)}
		maps.Copy(result.Detail, done.facts)
		if done.settle {
			err = c.settle(ctx, e)
		}
		return result, err
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// changed changes a record and tells what changed.
func (c *Control) changed(r *registry.Record, act audit.Act, fn func(*registry.Record) (effect, error)) (result audit.Result, done effect, err error) {
	if r.Tenant != act.Tenant {
		return result, done, registry.ErrNotFound
	}
	before := c.shown(r)
	if done, err = fn(r); err != nil {
		return result, done, err
	}
	result.Before, result.After = audit.Changes(before, c.shown(r))
	return result, done, nil
}

// planned is what an act would change of an endpoint as it is now: for the record that is written before it. Nothing is known of what cannot be
// changed; the act itself then fails.
func (c *Control) planned(ctx context.Context, ref Ref, act audit.Act, fn func(*registry.Record) (effect, error)) (before, after json.RawMessage) {
	r, err := c.Registry.Load(ctx, ref.ID)
	if err != nil {
		return nil, nil
	}
	result, _, err := c.changed(r, act, fn)
	if err != nil {
		return nil, nil
	}
	return result.Before, result.After
}

func (c *Control) settle(ctx context.Context, e *registry.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if err := c.Owners.Settle(ctx, e.Tenant, e.Revision); err != nil {
		return fmt.Errorf("%w: the endpoint is %s, but that nothing more is sent is not confirmed: %w", ErrOwnerUnavailable, e.State, err)
	}
	return nil
}

func (c *Control) move(r *registry.Record, to relay.EndpointState, reason string) {
	r.MoveTo(to, reason, c.now())
}

// erase makes a tombstone: who it was and where it went stays, its secrets do not.
func (c *Control) erase(r *registry.Record, reason string) {
	c.move(r, relay.EndpointDeleted, reason)
	r.Proposed, r.Keys = nil, nil
	r.Settings.Headers, r.Settings.BasicPass, r.Settings.Bearer = nil, nil, nil
}

// says is a reason with who gave it. An account holds no space, so that saidBy cannot be misled by a reason.
func says(who access.Caller, reason string) string { return join("by "+who.Account, reason) }

func saidBy(r *registry.Record, account string) bool {
	return r.StateReason == "by "+account || strings.HasPrefix(r.StateReason, "by "+account+": ")
}

func pausedByPartner(r *registry.Record) bool { return saidBy(r, r.Registrant) }

func join(first, more string) string {
	if more == "" {
		return first
	}
	return first + ": " + more
}

func checkReason(reason string) error {
	var bad relay.Invalid
	text(&bad, "reason", reason, maxReason, false)
	return bad.Err()
}

func stateError(act string, r *registry.Record, reason string) error {
	return &StateError{Act: act + " the endpoint", State: string(r.State), Reason: reason}
}
