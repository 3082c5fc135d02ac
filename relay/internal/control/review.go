package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/onboard"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Review is what an approver is shown before an approval.
type Review struct {
	Endpoint *registry.Endpoint // as it is
	Wanted   *registry.Endpoint // as an approval would put it in force
	Changes  []Change
	Samples  []Sample
	Server   onboard.Server
	Warnings []string
	// Action is what an approval would do; empty where it would be refused, for the reason in Blocked.
	Action  Approval
	Blocked string
}

// Change is a setting that an approval would change, in the API's name.
type Change struct{ Field, Before, After string }

// Sample is what would leave of a synthetic event.
type Sample struct {
	EventType     string
	Entry         *relay.EventType // of the catalogue; nil: none
	Fields        []onboard.Field
	Body          []byte
	ContentType   string
	FilterMatches bool
	Withheld      relay.Reason // why nothing would leave
}

// Bounds of a review.
const (
	maxSamples    = 16
	maxSampleBody = 64 << 10 // bytes
	soon          = 14 * 24 * time.Hour
)

// ReviewEndpoint shows an approver what would leave, under which policy, and who answers at the endpoint's address now.
func (c *Control) ReviewEndpoint(ctx context.Context, who access.Caller, ref Ref) (Review, error) {
	act := audit.Act{Name: "endpoint.review"}
	e, err := c.enter(ctx, who, access.EndpointsApprove, ref, &act)
	if err != nil {
		return Review{}, err
	}
	if e.State == relay.EndpointDeleted || e.Tenant == "" {
		return Review{}, stateError("review", e.Record, "there is nothing to be reviewed")
	}
	if err := c.mayAsk(); err != nil {
		return Review{}, err
	}
	v := Review{Endpoint: e, Wanted: e}
	if p := e.Record.Proposed; p != nil {
		proposed := *e.Record
		proposed.Settings, proposed.Proposed = p.Settings, nil
		v.Wanted = c.Registry.Compile(&proposed)
		vault := registry.NewVault(c.Sealer, e.Tenant, e.ID)
		before, err := specOf(e.Tenant, &e.Record.Settings, vault)
		if err != nil {
			return Review{}, err
		}
		after, err := specOf(e.Tenant, &p.Settings, vault)
		if err != nil {
			return Review{}, err
		}
		v.Changes = changes(&before, &after)
	}
	if v.Action, err = c.approval(e.Record); err != nil {
		v.Blocked = err.Error()
	} else if err := c.eyes(who, e.Record); err != nil {
		v.Action, v.Blocked = "", err.Error()
	}
	if v.Wanted.Err != nil {
		v.Action, v.Blocked = "", "it cannot be used: "+v.Wanted.Err.Error()
		return v, nil
	}
	v.Samples = c.samples(v.Wanted)
	if c.Onboarding.Prover != nil {
		v.Server = c.Onboarding.Prover.Look(ctx, v.Wanted.Endpoint)
	}
	v.Warnings = c.warnings(&v)
	return v, nil
}

// changes are the settings in which two specs differ. Secrets are told apart, and not told.
func changes(before, after *Spec) []Change {
	var out []Change
	for i, old := range settingTexts(before) {
		if now := settingTexts(after)[i]; now.text != old.text {
			out = append(out, Change{old.field, old.text, now.text})
		}
	}
	secret := func(field string, a, b relay.Secret) {
		if a.Reveal() == b.Reveal() {
			return
		}
		say := func(s relay.Secret, otherwise string) string {
			if s.Empty() {
				return "none"
			}
			return otherwise
		}
		out = append(out, Change{field, say(a, "set"), say(b, "set, another")})
	}
	secret("bearerToken", before.Bearer, after.Bearer)
	secret("basicAuth.password", before.BasicPass, after.BasicPass)
	values := func(s *Spec) relay.Secret {
		var b strings.Builder
		for _, h := range s.Headers {
			fmt.Fprintf(&b, "%d:%s", len(h.Value.Reveal()), h.Value.Reveal())
		}
		return relay.NewSecret(b.String())
	}
	secret("headers.value", values(before), values(after))
	return out
}

type settingText struct{ field, text string }

func settingTexts(s *Spec) []settingText {
	list := func(l []string) string { return strings.Join(l, ", ") }
	var masks, headers []string
	for _, m := range s.Redaction.Mask {
		masks = append(masks, fmt.Sprintf("%s:%d", m.Path, m.KeepLast))
	}
	for _, h := range s.Headers {
		headers = append(headers, h.Name)
	}
	return []settingText{
		{"url", s.URL}, {"environment", string(s.Environment)}, {"owner", s.Owner}, {"purpose", s.Purpose}, {"description", s.Description},
		{"eventTypes", list(s.EventTypes)}, {"filter", s.Filter}, {"dataScope", list(s.DataScope)}, {"redaction.mode", string(s.Redaction.Mode)},
		{"redaction.allow", list(s.Redaction.Allow)}, {"redaction.drop", list(s.Redaction.Drop)}, {"redaction.mask", list(masks)},
		{"redaction.pseudonymize", list(s.Redaction.Pseudonymize)}, {"contentMode", s.ContentMode}, {"chunkBytes", fmt.Sprint(s.ChunkBytes)},
		{"chunkArray", s.ChunkArray}, {"concurrency", fmt.Sprint(s.Concurrency)}, {"ordered", fmt.Sprint(s.Ordered)},
		{"rateLimit.requestsPerSecond", fmt.Sprint(s.RateLimit)}, {"timeout", s.Timeout.String()}, {"retryFor", s.RetryFor.String()},
		{"http2", fmt.Sprint(s.HTTP2)}, {"tls.clientCertificate", string(s.TLS.ClientCertificate)}, {"tls.caPem", s.TLS.CAPEM},
		{"tls.spkiPins", list(s.TLS.SPKIPins)}, {"tls.allowTls12", fmt.Sprint(s.TLS.AllowTLS12)}, {"headers", list(headers)},
		{"basicAuth.username", s.BasicUser},
	}
}

// samples are synthetic events of the types that an endpoint would get, as they would leave.
func (c *Control) samples(e *registry.Endpoint) []Sample {
	snapshot := c.Registry.Snapshot()
	types := snapshot.Types(e.Tenant)
	var out []Sample
	for _, name := range sampleTypes(e, snapshot.EventTypes(e.Tenant)) {
		s := Sample{EventType: name, Entry: types.Entry(name)}
		c.sample(e, types, &s)
		out = append(out, s)
	}
	return out
}

// sampleTypes are the exact types that an endpoint asks for, those of the catalogue that its patterns name, and one made up for each
// pattern of which the catalogue knows none.
func sampleTypes(e *registry.Endpoint, known []*relay.EventType) []string {
	var out []string
	add := func(name string) {
		if len(out) < maxSamples && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, p := range e.EventTypes {
		if !strings.HasSuffix(p, "*") {
			add(p)
			continue
		}
		found := false
		for _, k := range known {
			if !strings.HasSuffix(k.Pattern, "*") && relay.MatchPattern(p, k.Pattern) {
				add(k.Pattern)
				found = true
			}
		}
		if !found {
			add(strings.TrimSuffix(p, "*") + "example")
		}
	}
	return out
}

func (c *Control) sample(e *registry.Endpoint, types *registry.Types, s *Sample) {
	if !types.Leaves(s.EventType) {
		s.Withheld = relay.ReasonTypeForbidden
		return
	}
	data := onboard.Sample(pathsOf(e.Endpoint))
	if s.Entry != nil && s.Entry.Example != "" {
		data = []byte(s.Entry.Example)
	}
	left, _, err := e.Redact.Apply(nil, data)
	if err != nil {
		s.Withheld = relay.ReasonRedactionFailed
		return
	}
	if s.Fields, err = onboard.Fates(data, left); err != nil {
		s.Withheld = relay.ReasonRedactionFailed
		return
	}
	object, _, _ := strings.Cut(s.EventType, ".")
	now := c.now()
	subject, _ := e.Redact.ApplySubject(object + "/example-1")
	s.FilterMatches = true
	if e.Filter != nil {
		s.FilterMatches, err = e.Filter.Match(filter.Input{Tenant: e.Tenant, ID: "evt_example", Type: s.EventType, Subject: subject, Time: now, Data: left})
		if err != nil {
			s.Withheld = relay.ReasonFilterFailed
		}
	}
	if c.Onboarding.Render == nil {
		return
	}
	d := &relay.Delivery{
		ID: relay.DeliveryID(e.Tenant, "evt_example", e.ID), Endpoint: e.Endpoint, EventID: "evt_example", EventType: s.EventType, EventTime: now,
		Subject: subject, Data: left, Synthetic: true,
	}
	s.Body, s.ContentType = c.Onboarding.Render(d)
	s.Body = s.Body[:min(len(s.Body), maxSampleBody)]
}

// pathsOf are those that an endpoint's policy and scope name.
func pathsOf(e *relay.Endpoint) []string {
	out := slices.Concat(e.DataScope, e.Redaction.Allow, e.Redaction.Drop, e.Redaction.Pseudonymize)
	for _, m := range e.Redaction.Mask {
		out = append(out, m.Path)
	}
	return out
}

// warnings are what speaks against an approval, or should be known before it.
func (c *Control) warnings(v *Review) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	e := v.Wanted
	if len(e.DataScope) == 0 && e.Redaction.Mode != relay.RedactionAllowListed {
		say("no data scope was declared: every field that the policy does not name leaves")
	}
	for _, known := range c.Registry.Snapshot().EventTypes(e.Tenant) {
		named := slices.ContainsFunc(e.EventTypes, func(p string) bool { return registry.Covers(p, known.Pattern) })
		switch {
		case named && known.Leaving != relay.LeavingAllowed:
			say("%s is asked for, and stays inside: %s", known.Pattern, known.Leaving)
		case named && (known.Sensitivity == relay.SensitivityRestricted || known.Sensitivity == relay.SensitivityConfidential):
			say("%s is %s", known.Pattern, known.Sensitivity)
		}
	}
	if e.TLS.ClientCertificate != relay.ClientCertificateRequired {
		say("the receiver need not ask for our certificate (tls.clientCertificate is %s)", e.TLS.ClientCertificate)
	}
	if static := staticCredentials(e.Endpoint); len(static) > 0 {
		say("it is sent credentials that do not expire: %s", strings.Join(static, ", "))
	}
	if e.TLS.AllowTLS12 {
		say("TLS 1.2 is allowed")
	}
	if v.Server.Error != "" {
		say("its server could not be looked at: %s", v.Server.Error)
	} else if !v.Server.Expire.IsZero() && v.Server.Expire.Before(c.now().Add(soon)) {
		say("its server's certificate ends %s", v.Server.Expire.UTC().Format(time.RFC3339))
	}
	if c.Onboarding.Off {
		say("no proof of its host was asked for (onboarding.proof is off)")
	}
	return out
}

// staticCredentials are the kinds of what is sent to a receiver that does not expire, beside the signature.
func staticCredentials(e *relay.Endpoint) []string {
	var out []string
	if e.BasicUser != "" || !e.BasicPass.Empty() {
		out = append(out, "basic")
	}
	if !e.Bearer.Empty() {
		out = append(out, "bearer")
	}
	if len(e.Headers) > 0 {
		out = append(out, "header")
	}
	return out
}

// ReviewDue is when an endpoint's next review is due; zero before its first approval.
func (c *Control) ReviewDue(e *registry.Endpoint) time.Time {
	if e.ReviewTime.IsZero() {
		return time.Time{}
	}
	return e.ReviewTime.Add(c.Onboarding.ReviewEvery)
}

// ReviewOverdue tells whether an endpoint that is in force was not reviewed in time.
func (c *Control) ReviewOverdue(e *registry.Endpoint) bool {
	switch e.State {
	case relay.EndpointActive, relay.EndpointPaused, relay.EndpointSuspended, relay.EndpointContained:
		due := c.ReviewDue(e)
		return !due.IsZero() && !c.now().Before(due)
	}
	return false
}
