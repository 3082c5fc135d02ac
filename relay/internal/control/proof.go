package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/onboard"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Onboarding is how endpoints are proven, shown and reviewed.
type Onboarding struct {
	// Prover asks hosts; required, but with Off or Dev.
	Prover *onboard.Prover
	// Off asks for no proof: of networks where none can be had.
	Off bool
	// ProofLife is how long a proof holds, default DefaultProofLife; ReviewEvery how long a review does, default DefaultReviewEvery.
	ProofLife, ReviewEvery time.Duration
	// Render is the body that an endpoint would receive of a delivery, and its content type. Nil: reviews show none.
	Render func(*relay.Delivery) (body []byte, contentType string)
	// CertificateExpiry is when the client certificate that is shown to an endpoint ends, and whether it is a short-lived one of our CA's. Nil: not known.
	CertificateExpiry func(*relay.Endpoint) (at time.Time, short bool)
}

// The defaults of the guides: a proof every 30 days, a review every 90.
const (
	DefaultProofLife   = 30 * 24 * time.Hour
	DefaultReviewEvery = 90 * 24 * time.Hour
)

// proofsPerSecond bounds the proofs and reviews that callers ask for, each of which goes out to a host of their choosing.
const proofsPerSecond = 5

// ReasonUnproven is why the relay suspends an endpoint whose host is not proven any more.
const ReasonUnproven = "PROOF_EXPIRED"

// provable tells whether proofs are asked for.
func (c *Control) provable() bool { return !c.Dev && !c.Onboarding.Off }

// hostOf is the host of a URL, with its port where it names one; empty for what is no endpoint's URL.
func hostOf(raw string) string {
	u, err := relay.ParseEndpointURL(raw, true)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.URL().Host)
}

// proven tells whether a host is proven now.
func (c *Control) proven(p *registry.Proof, host string) bool {
	return p.Method != registry.ProofOff && p.Holds(host, c.now())
}

// overdue tells whether nothing may be sent any more on the word of a proof.
func (c *Control) overdue(p *registry.Proof) bool {
	return c.provable() && !p.DueTime.IsZero() && !c.now().Before(p.DueTime)
}

// noProof is the proof of a host that nobody proved yet.
func (c *Control) noProof(host string, now time.Time) registry.Proof {
	if c.provable() {
		return registry.Proof{}
	}
	return registry.Proof{Host: host, Method: registry.ProofOff, Time: now}
}

// Verification is what a proof came to.
type Verification struct {
	Endpoint  *registry.Endpoint
	Challenge onboard.Challenge
	Proven    bool
	Checks    []onboard.Check
}

// VerifyEndpoint says what the endpoint's host has to show, that of its proposed URL where it has one, and, unless only the instructions
// are asked for, looks for it. With a proof an unverified endpoint waits for approval, and one that was suspended for want of it is active again. A signature
// is over one of the challenge's nonces.
func (c *Control) VerifyEndpoint(ctx context.Context, who access.Caller, ref Ref, instructionsOnly bool, signature []byte) (Verification, error) {
	act := audit.Act{Name: "endpoint.verify"}
	e, err := c.enter(ctx, who, access.EndpointsWrite, ref, &act)
	if err != nil {
		return Verification{}, err
	}
	if len(signature) > onboard.MaxSignature {
		return Verification{}, relay.Invalid{{Field: "signature", Rule: fmt.Sprintf("must be at most %d bytes", onboard.MaxSignature)}}
	}
	if e.State == relay.EndpointDeleted {
		return Verification{}, stateError("verify", e.Record, "it is no more")
	}
	settings, proof := toProve(e.Record)
	ep, err := proofSubject(e.Record, settings)
	if err != nil {
		return Verification{}, &StateError{Act: "verify the endpoint", State: string(e.State), Reason: "its URL cannot be used"}
	}
	v := Verification{Endpoint: e, Challenge: onboard.NewChallenge(e.Tenant, e.ID, ep.URL.URL(), c.Sealer.Digest, c.now())}
	v.Proven = c.proven(proof, v.Challenge.Host)
	if instructionsOnly {
		return v, nil
	}
	if !c.provable() {
		return v, stateError("verify", e.Record, "this server asks for no proof (onboarding.proof, or --dev)")
	}
	if err := c.mayAsk(); err != nil {
		return v, err
	}
	evidence := onboard.Evidence{Signature: signature, Key: proof.Key}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		found := c.Onboarding.Prover.Prove(ctx, ep, v.Challenge, evidence)
		v.Proven, v.Checks = found.Proven, found.Checks
		facts := map[string]string{"host": v.Challenge.Host, "proven": fmt.Sprint(found.Proven), "method": string(found.Method)}
		for _, check := range found.Checks {
			facts[strings.ToLower(string(check.Method))] = check.Detail
		}
		if !found.Proven {
			return facts, nil
		}
		v.Endpoint, err = c.Registry.Change(ctx, e.ID, 0, func(r *registry.Record) error {
			err := c.keepProof(r, v.Challenge.Host, &found)
			facts["state"] = string(r.State)
			return err
		})
		return facts, err
	})
	return v, err
}

// mayAsk bounds what goes out at callers' wishes.
func (c *Control) mayAsk() error {
	if c.proofs.Allow() {
		return nil
	}
	return &BusyError{RetryAfter: time.Second, Reason: "too many hosts are being asked"}
}

// toProve are the settings whose host has to be proven, and its proof: those proposed where they lead to another host.
func toProve(r *registry.Record) (*registry.Settings, *registry.Proof) {
	if p := r.Proposed; p != nil && hostOf(p.Settings.URL) != hostOf(r.Settings.URL) {
		return &p.Settings, &p.Proof
	}
	return &r.Settings, &r.Proof
}

// proofSubject is what of an endpoint its server is looked for and recognised by.
func proofSubject(r *registry.Record, s *registry.Settings) (*relay.Endpoint, error) {
	u, err := relay.ParseEndpointURL(s.URL, true)
	return &relay.Endpoint{ID: r.ID, Tenant: r.Tenant, URL: u, TLS: s.TLS}, err
}

// keepProof puts a proof of a host into the record that has it.
func (c *Control) keepProof(r *registry.Record, host string, found *onboard.Result) error {
	settings, proof := toProve(r)
	if hostOf(settings.URL) != host {
		if settings, proof = &r.Settings, &r.Proof; hostOf(settings.URL) != host {
			return stateError("verify", r, "its URL has changed meanwhile")
		}
	}
	now := c.now()
	*proof = registry.Proof{
		Host: host, Method: registry.ProofMethod(found.Method), Time: now, DueTime: now.Add(c.Onboarding.ProofLife),
		CertificateExpireTime: found.CertificateExpireTime,
	}
	for _, check := range found.Checks {
		if check.Method == onboard.Certificate && check.Passed {
			proof.Key = found.Key
		}
	}
	if proof != &r.Proof {
		return nil
	}
	switch {
	case r.State == relay.EndpointUnverified:
		c.move(r, relay.EndpointPending, "")
	case suspendedUnproven(r):
		c.move(r, relay.EndpointActive, "")
	}
	return nil
}

func suspendedUnproven(r *registry.Record) bool {
	return r.State == relay.EndpointSuspended && r.StateReason == says(Relay(), ReasonUnproven)
}

// The shares of a proof's life: how long before its end it is proven again, how often that is tried, and how long operators have had
// notice before an endpoint is suspended. Of 30 days: a week, six hours, a day.
const (
	renewAhead = 7. / 30
	renewAgain = 1. / 120
	noticeFor  = 1. / 30
)

func (c *Control) share(of float64) time.Duration {
	return time.Duration(of * float64(c.Onboarding.ProofLife))
}

// ProofCare is what came of looking after a proof.
type ProofCare struct {
	// Failing is true where the host cannot be proven again, as of Proof.FailTime; at Proof.DueTime the endpoint is suspended.
	Failing   bool
	Suspended bool
	Proof     registry.Proof
	// Next is when to look again, at the earliest.
	Next time.Time
}

// CareForProof has the host of an approved endpoint proven again before its proof ends, and suspends the endpoint where it cannot be,
// once operators have had notice. An endpoint from before there were proofs, or of when none was asked for, has as long as a proof's life to
// get one. It is the relay's own act, and of the owner of the endpoint's partition alone.
func (c *Control) CareForProof(ctx context.Context, id string) (ProofCare, error) {
	e, now := c.Registry.Snapshot().Endpoint(id), c.now()
	care := ProofCare{Next: now.Add(c.share(renewAgain))}
	if !c.provable() || e == nil || e.Err != nil {
		return care, nil
	}
	r := e.Record
	if r.State != relay.EndpointActive && r.State != relay.EndpointPaused && !suspendedUnproven(r) {
		return care, nil
	}
	care.Proof = r.Proof
	host := hostOf(r.Settings.URL)
	switch due := r.Proof.DueTime; {
	case r.Proof.Host != host || due.IsZero():
		return c.unprovenYet(ctx, r, host, care)
	case now.Before(due.Add(-c.share(renewAhead))):
		care.Next = minTime(due.Add(-c.share(renewAhead)), now.Add(c.Onboarding.ProofLife))
		return care, nil
	}
	ep, err := proofSubject(r, &r.Settings)
	if err != nil {
		return care, err
	}
	challenge := onboard.NewChallenge(r.Tenant, r.ID, ep.URL.URL(), c.Sealer.Digest, now)
	found := c.Onboarding.Prover.Prove(ctx, ep, challenge, onboard.Evidence{Key: r.Proof.Key})
	if ctx.Err() != nil {
		return care, ctx.Err() // the process stops: that is nobody's failure
	}
	switch {
	case found.Proven:
		return c.renewed(ctx, r, host, &found, care)
	case r.Proof.FailTime.IsZero():
		return c.unprovenYet(ctx, r, host, care)
	}
	care.Failing = true
	end := r.Proof.DueTime
	if noticed := r.Proof.FailTime.Add(c.share(noticeFor)); noticed.After(end) {
		end = noticed
	}
	if r.State == relay.EndpointActive && !now.Before(end) {
		_, err := c.SuspendEndpoint(ctx, Relay(), Ref{Tenant: r.Tenant, ID: r.ID}, ReasonUnproven)
		care.Suspended = err == nil
		return care, err
	}
	if end.After(now) {
		care.Next = minTime(care.Next, end)
	}
	return care, nil
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (c *Control) renewed(ctx context.Context, r *registry.Record, host string, found *onboard.Result, care ProofCare) (ProofCare, error) {
	e, err := c.changeProof(ctx, r, func(now *registry.Record) (map[string]string, error) {
		err := c.keepProof(now, host, found)
		return map[string]string{"host": host, "proven": "true", "method": string(found.Method)}, err
	})
	if err == nil {
		care.Proof = e.Record.Proof
	}
	return care, err
}

// unprovenYet notes since when a host is not proven, and until when it has to be.
func (c *Control) unprovenYet(ctx context.Context, r *registry.Record, host string, care ProofCare) (ProofCare, error) {
	e, err := c.changeProof(ctx, r, func(now *registry.Record) (map[string]string, error) {
		p := &now.Proof
		if hostOf(now.Settings.URL) != host {
			return nil, errMoved
		}
		if p.Host != host || p.DueTime.IsZero() {
			*p = registry.Proof{Host: host, DueTime: c.now().Add(c.Onboarding.ProofLife)}
		}
		if p.FailTime.IsZero() {
			p.FailTime = c.now()
		}
		return map[string]string{"host": host, "proven": "false", "due": p.DueTime.Format(time.RFC3339)}, nil
	})
	if errors.Is(err, errMoved) {
		return care, nil
	}
	if err == nil {
		care.Failing, care.Proof = true, e.Record.Proof
	}
	return care, err
}

var errMoved = errors.New("the endpoint's URL has changed")

func (c *Control) changeProof(ctx context.Context, r *registry.Record, fn func(*registry.Record) (map[string]string, error)) (e *registry.Endpoint, err error) {
	err = c.act(ctx, Relay(), audit.Act{Name: "endpoint.prove", Object: r.ID, Tenant: r.Tenant}, func() (facts map[string]string, err error) {
		e, err = c.Registry.Change(ctx, r.ID, 0, func(now *registry.Record) (err error) {
			facts, err = fn(now)
			return err
		})
		return facts, err
	})
	return e, err
}

// NoteProofs leaves a record of a start at which no proof is asked for.
func (c *Control) NoteProofs(ctx context.Context) error {
	if !c.Onboarding.Off || c.Dev {
		return nil
	}
	return c.act(ctx, Relay(), audit.Act{Name: "onboarding.proof", Detail: map[string]string{"proof": "off"}}, func() (map[string]string, error) { return nil, nil })
}
