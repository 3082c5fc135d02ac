package app

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// trust is how an endpoint's server is recognised, with the certificate that is shown to it.
func (a *App) trust(ep *relay.Endpoint) (egress.Trust, error) {
	trust, err := courier.Trust(ep)
	if err != nil || trust.Mode == egress.None {
		return trust, err
	}
	trust.Certificate, err = a.clientCerts.of(ep)
	return trust, err
}

func (a *App) onboarding() control.Onboarding {
	o := a.o.Onboarding
	return control.Onboarding{
		Prover: a.prover, Off: o.Proof == ProofOff, ProofLife: o.ProofLife, ReviewEvery: o.ReviewEvery,
		Render: courier.Render, CertificateExpiry: a.certificateExpiry,
	}
}

// shortLife is the longest life of a credential that counts as a short-lived one.
const shortLife = 30 * 24 * time.Hour

// certificateExpiry is when the certificate that is shown to an endpoint ends, and whether it lives for 30 days at most.
func (a *App) certificateExpiry(ep *relay.Endpoint) (time.Time, bool) {
	cert, given := a.clientCerts.peek(ep.ID)
	if cert == nil || cert.Leaf == nil {
		return time.Time{}, !given // of the built-in CA, when it is needed
	}
	return cert.Leaf.NotAfter, cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore) <= shortLife
}

// onboardEvery is how often proofs and reviews are looked at; more often where proofs live for less than a few hours.
const onboardEvery = time.Minute

// caretaker looks after the endpoints of the partitions that this process owns.
type caretaker struct {
	*App
	told map[alert.Notice]time.Time
	next map[string]time.Time // by endpoint: when its proof is looked at again
}

// proofsAtOnce bounds the hosts that are asked at once.
const proofsAtOnce = 16

// watchOnboarding has hosts proven again before their proofs end, suspends endpoints where they cannot be, and tells operators, of that
// and of reviews that are overdue.
func (a *App) watchOnboarding(ctx context.Context) error {
	c := &caretaker{App: a, next: map[string]time.Time{}, told: map[alert.Notice]time.Time{}}
	ticker := time.NewTicker(min(onboardEvery, max(100*time.Millisecond, a.o.Onboarding.ProofLife/300)))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		c.look(ctx)
	}
}

func (c *caretaker) look(ctx context.Context) {
	now, snapshot := c.o.Clock(), c.registry.Snapshot()
	for id := range c.next {
		if snapshot.Endpoint(id) == nil {
			delete(c.next, id)
		}
	}
	for n, at := range c.told {
		if now.Sub(at) > 2*remindProofs {
			delete(c.told, n)
		}
	}
	var due []*registry.Endpoint
	for e := range snapshot.All() {
		if e.Tenant == "" || e.State == relay.EndpointDeleted || !c.owned[c.journal.Partition(e.Tenant)].Load() {
			continue
		}
		if c.control.ReviewOverdue(e) {
			c.tell(alert.Notice{Kind: alert.ReviewOverdue, Tenant: e.Tenant, EndpointID: e.ID}, c.control.ReviewDue(e), now)
		}
		if !now.Before(c.next[e.ID]) {
			due = append(due, e)
		}
	}
	cares := make([]control.ProofCare, len(due))
	var group errgroup.Group
	group.SetLimit(proofsAtOnce)
	for i, e := range due {
		group.Go(func() error {
			cares[i] = c.prove(ctx, e)
			return nil
		})
	}
	_ = group.Wait()
	for i, e := range due {
		c.report(e, cares[i], now)
	}
}

func (c *caretaker) prove(ctx context.Context, e *registry.Endpoint) control.ProofCare {
	care, err := c.control.CareForProof(ctx, e.ID)
	if err != nil && ctx.Err() == nil {
		c.log.Error("the proof of an endpoint's host could not be looked after", "endpoint", e.ID, "error", err)
	}
	return care
}

func (c *caretaker) report(e *registry.Endpoint, care control.ProofCare, now time.Time) {
	c.next[e.ID] = care.Next
	if care.Failing && !care.Suspended {
		c.tell(alert.Notice{Kind: alert.ProofFailing, Tenant: e.Tenant, EndpointID: e.ID, Reason: control.ReasonUnproven}, care.Proof.DueTime, now)
	}
	if care.Suspended {
		c.alerts.Raise(alert.Notice{
			Kind: alert.EndpointSuspended, Tenant: e.Tenant, EndpointID: e.ID, Reason: control.ReasonUnproven, Fact: fmt.Sprint(e.Revision), Time: now,
		})
	}
}

// remindProofs is how often operators are told again of a proof that fails, and of a review that is overdue.
const remindProofs = 24 * time.Hour

// tell raises a notice that is about a time, such as when a proof ends: once, and again every day.
func (c *caretaker) tell(n alert.Notice, about, now time.Time) {
	n.Fact = about.UTC().Format(time.RFC3339)
	if last, told := c.told[n]; told && now.Sub(last) < remindProofs {
		return
	}
	c.told[n] = now
	n.Time = now
	c.alerts.Raise(n)
}
