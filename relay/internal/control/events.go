package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/redact"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// MaxBatch is how many events one call can publish.
const MaxBatch = 1000

// PublishResult is the answer to one event. ID is the event's, assigned where it had none.
type PublishResult struct {
	ID        string
	Duplicate bool // the same event was kept before
	Err       error
}

// PublishEvents keeps events and answers each on its own, in their order, when it is durable: a refused one does not touch its
// neighbours. An event without id, time or tenant gets a new id, the present time and the caller's tenant. The error is
// for what concerns the call as a whole: then nothing was kept.
//
// An event's Err is a relay.Invalid, ErrExists (the id is taken by another event), *ForbiddenError, *BusyError,
// ErrFull, ErrUnavailable, or the context's.
func (c *Control) PublishEvents(ctx context.Context, who access.Caller, events []relay.Event) ([]PublishResult, error) {
	if err := c.mayPublish(ctx, who, events); err != nil {
		return nil, err
	}
	if len(events) > MaxBatch {
		return nil, relay.Invalid{{Field: "events", Rule: fmt.Sprintf("must be at most %d", MaxBatch)}}
	}
	results := make([]PublishResult, len(events))
	entries := make([]journal.Entry, len(events))
	sizes := make([]int, len(events))
	for i := range events {
		entries[i], results[i].Err = c.entry(who, events[i], &results[i])
		sizes[i] = len(events[i].Data)
	}
	c.noteForbidden(ctx, who, events, results)
	c.holdQuotas(ctx, entries, sizes, results)
	groups := make(map[int]*publishGroup) // by partition
	for i, entry := range entries {
		if results[i].Err != nil {
			continue
		}
		partition := c.Journal.Partition(entry.Share)
		g := groups[partition]
		if g == nil {
			g = &publishGroup{}
			groups[partition] = g
		}
		g.entries, g.places = append(g.entries, entry), append(g.places, i)
	}
	c.accept(ctx, groups, results)
	return results, nil
}

// noteForbidden records that a caller may not publish some of the events; once a call.
func (c *Control) noteForbidden(ctx context.Context, who access.Caller, events []relay.Event, results []PublishResult) {
	for i := range results {
		var forbidden *ForbiddenError
		if errors.As(results[i].Err, &forbidden) {
			act := audit.Act{Name: "event.publish", Object: clip(results[i].ID), Tenant: clip(events[i].Tenant), Scope: access.EventsPublish}
			results[i].Err = c.refuse(ctx, who, act, forbidden)
			return
		}
	}
}

// publishGroup is what of a call goes to one partition, and where in the call it stands.
type publishGroup struct {
	entries []journal.Entry
	places  []int
}

// overQuota is the reason of a refusal.
const overQuota = "the tenant's publish quota is used up"

// holdQuotas refuses what is beyond its tenant's publish quota: of each tenant's events the last ones.
func (c *Control) holdQuotas(ctx context.Context, entries []journal.Entry, sizes []int, results []PublishResult) {
	if c.Quotas == nil {
		return
	}
	places := make(map[string][]int) // of what may be published otherwise, by tenant
	for i := range entries {
		if results[i].Err == nil {
			places[entries[i].Share] = append(places[entries[i].Share], i)
		}
	}
	for tenant, at := range places {
		of := make([]int, len(at))
		for n, i := range at {
			of[n] = sizes[i]
		}
		may, again := c.Quotas.Take(ctx, tenant, of)
		for _, i := range at[may:] {
			results[i].Err = &BusyError{RetryAfter: again, Reason: overQuota}
		}
	}
}

// mayPublish is allow without an act to be made for each call: publishing is recorded where it is refused, and else in the log of events.
func (c *Control) mayPublish(ctx context.Context, who access.Caller, events []relay.Event) error {
	who.Exercise(access.EventsPublish)
	if who.CredentialID != "" {
		if err := c.Access.Live(who); err != nil {
			return err
		}
	}
	if !who.May(access.EventsPublish) {
		return c.refuse(ctx, who, audit.Act{Name: "event.publish", Scope: access.EventsPublish},
			&ForbiddenError{Scope: access.EventsPublish, Reason: "the caller has no such scope"})
	}
	if !who.In(access.Production) && slices.ContainsFunc(events, func(e relay.Event) bool { return !e.Synthetic }) {
		return &ForbiddenError{Scope: access.EventsPublish, Reason: "the account is for the sandbox: it publishes synthetic events alone, and can validate others"}
	}
	return nil
}

// accept hands every group to its partition, all at once.
func (c *Control) accept(ctx context.Context, groups map[int]*publishGroup, results []PublishResult) {
	take := func(partition int, g *publishGroup) {
		for i, r := range c.Journal.Events(partition).AcceptAll(ctx, g.entries) {
			out := &results[g.places[i]]
			out.Duplicate, out.Err = r.Receipt.Duplicate, translated(r.Err)
		}
	}
	if len(groups) == 1 {
		for partition, g := range groups {
			take(partition, g)
		}
		return
	}
	done := make(chan struct{})
	for partition, g := range groups {
		go func() {
			defer func() { done <- struct{}{} }()
			take(partition, g)
		}()
	}
	for range groups {
		<-done
	}
}

// entry checks an event and makes the journal's entry of it.
func (c *Control) entry(who access.Caller, ev relay.Event, result *PublishResult) (journal.Entry, error) {
	ev.Tenant = cmp.Or(ev.Tenant, who.Tenant)
	digest := contentDigest(&ev) // of what was given, before the rest is filled in
	c.complete(who, &ev)
	result.ID = ev.ID
	if err := c.checkEvent(who, &ev); err != nil {
		return journal.Entry{}, err
	}
	payload, err := record.EncodeEvent(make([]byte, 0, len(ev.Data)+len(ev.Subject)+256), &ev)
	if err != nil {
		return journal.Entry{}, fmt.Errorf("encode event: %w", err)
	}
	return journal.Entry{ID: dedupID(ev.Tenant, ev.ID), Share: ev.Tenant, Digest: digest, Payload: payload}, nil
}

// dedupID joins tenant and event id: neither can hold a slash.
func dedupID(tenant, id string) string { return tenant + "/" + id }

// complete fills in what an event may leave out.
func (c *Control) complete(who access.Caller, ev *relay.Event) {
	ev.Tenant = cmp.Or(ev.Tenant, who.Tenant)
	if ev.ID == "" {
		ev.ID = newEventID()
	}
	if ev.Time.IsZero() {
		ev.Time = c.now()
	}
}

var eventIDs = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newEventID() string {
	var b [16]byte
	rand.Read(b[:])
	return "evt_" + eventIDs.EncodeToString(b[:])
}

// reservedTypes begin the types of what the relay itself sends, such as tests: nobody publishes one, so that a receiver
// can tell them from facts of the CRM.
const reservedTypes = "sealpost."

// lastYear is the last that the journal's records can hold: they count nanoseconds since 1970 in 64 bits.
const lastYear = 2261

func (c *Control) checkEvent(who access.Caller, ev *relay.Event) error {
	bad := ev.Check()
	if ev.Time.Year() > lastYear && ev.Time.Year() <= 9999 {
		bad.Add("time", "must be before the year %d", lastYear+1)
	}
	if strings.HasPrefix(ev.Type, reservedTypes) {
		bad.Add("type", "must not begin with %s: these are the relay's own", reservedTypes)
	}
	if ev.Tenant == relay.ReservedTenant {
		bad.Add("tenant", "%s is the relay's own: nobody publishes to it", relay.ReservedTenant)
	}
	switch most := c.MaxDataBytes; {
	case len(ev.Data) == 0:
		bad.Add("data", "is required: one JSON value")
	case len(ev.Data) > most:
		bad.Add("data", "must be at most %d bytes, not %d", most, len(ev.Data))
	default:
		if err := c.checks.Validate(ev.Data); err != nil {
			bad.Add("data", "%s", dataRule(err))
		}
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if !who.Sees(ev.Tenant) {
		return &ForbiddenError{Scope: access.EventsPublish, Reason: "the caller is not of this tenant"}
	}
	return nil
}

// dataRule says which rule data breaks and at which byte. The place's keys are the event's content, and stay out.
func dataRule(err error) string {
	var broken *redact.DocumentError
	if errors.As(err, &broken) {
		return fmt.Sprintf("must be one JSON value (RFC 8259): %v at byte %d", broken.Rule, broken.Offset)
	}
	return "must be one JSON value (RFC 8259)"
}

// contentDigest covers what a publisher gave, so that a repeat is told from another event under the same id. What was left
// out counts as left out: a repeat without a time is a repeat, whatever time it came.
func contentDigest(ev *relay.Event) [32]byte {
	h := sha256.New()
	var b []byte
	for _, s := range []string{ev.Tenant, ev.Type, ev.Subject} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	if ev.Time.IsZero() {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = binary.BigEndian.AppendUint64(b, uint64(ev.Time.Unix()))
		b = binary.BigEndian.AppendUint32(b, uint32(ev.Time.Nanosecond()))
	}
	if ev.Synthetic { // real ones keep the digest that they had before there were others
		b = append(b, 1)
	}
	h.Write(b)
	h.Write(ev.Data)
	return [32]byte(h.Sum(nil))
}

// Preview is what would become of an event at one endpoint that subscribes to its type.
type Preview struct {
	EndpointID string
	Outcome    PreviewOutcome
	Reason     relay.Reason
	Redacted   int    // fields that would be dropped, masked or replaced
	Data       []byte // what would leave; nil unless it would be delivered
}

// PreviewOutcome is what would become of an event.
type PreviewOutcome string

// The outcomes of a preview.
const (
	PreviewDelivery  PreviewOutcome = "DELIVERY"
	PreviewWithheld  PreviewOutcome = "WITHHELD"
	PreviewUnmatched PreviewOutcome = "UNMATCHED" // the endpoint's filter does not want it, or it was never approved
)

// PreviewEvent checks an event as PublishEvents does and tells who would get what of it; it keeps nothing.
func (c *Control) PreviewEvent(ctx context.Context, who access.Caller, ev relay.Event) (string, []Preview, error) {
	if err := c.allow(ctx, who, access.EventsPreview, &audit.Act{Name: "event.preview"}); err != nil {
		return "", nil, err
	}
	c.complete(who, &ev)
	if err := c.checkEvent(who, &ev); err != nil {
		return ev.ID, nil, err
	}
	ev.AcceptTime = c.now()
	snapshot := c.Registry.Snapshot()
	routed := make(map[string]Preview)
	for r := range route.Handle(&ev, snapshot, nil) {
		p := Preview{EndpointID: r.Endpoint.ID, Outcome: PreviewWithheld, Reason: r.Reason, Redacted: r.Redacted}
		if r.Kind == route.Send {
			p.Outcome, p.Data = PreviewDelivery, r.Delivery.Data
		}
		routed[p.EndpointID] = p
	}
	var out []Preview
	for e := range snapshot.Match(ev.Tenant, ev.Type) {
		if !who.In(environmentOf(e)) {
			continue
		}
		p, ok := routed[e.ID]
		if !ok {
			p = Preview{EndpointID: e.ID, Outcome: PreviewUnmatched}
		}
		if e.Err != nil {
			p.Outcome, p.Data, p.Reason = PreviewWithheld, nil, relay.ReasonEndpointInactive
		}
		out = append(out, p)
	}
	return ev.ID, out, nil
}

// EventView is an event that was kept.
type EventView struct {
	relay.Event      // Data is nil where the journal no longer has it
	Matched     bool // whether an endpoint was to have it
}

// GetEvent is an event as it was accepted, with its data, once it was routed. Reading what partners never see is recorded.
func (c *Control) GetEvent(ctx context.Context, who access.Caller, tenant, id string) (EventView, error) {
	tenant = cmp.Or(tenant, who.Tenant)
	act := audit.Act{Name: "event.read", Object: clip(id)}
	if err := c.allow(ctx, who, access.EventsRead, &act); err != nil {
		return EventView{}, err
	}
	status, err := c.event(ctx, who, tenant, id)
	if err != nil {
		return EventView{}, err
	}
	act.Tenant = status.Tenant
	view := EventView{Matched: status.Matched}
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		view.Event, err = c.stored(ctx, status)
		return nil, err
	})
	return view, err
}

func (c *Control) event(ctx context.Context, who access.Caller, tenant, id string) (relay.EventStatus, error) {
	if !relay.ValidEventID(id) {
		return relay.EventStatus{}, ErrNotFound
	}
	for _, t := range c.tenants(who, tenant) {
		status, err := c.Ledger.Event(ctx, t, id)
		if !errors.Is(err, relay.ErrNotFound) {
			return status, viewed(err)
		}
	}
	return relay.EventStatus{}, ErrNotFound
}

func (c *Control) stored(ctx context.Context, status relay.EventStatus) (relay.Event, error) {
	bare := relay.Event{
		Tenant: status.Tenant, ID: status.ID, Type: status.Type, Time: status.Time, Seq: status.Seq, AcceptTime: status.AcceptTime,
	}
	if status.Seq == 0 || status.Partition < 0 || status.Partition >= c.Journal.Partitions() {
		return bare, nil
	}
	m, err := c.Journal.Events(status.Partition).Get(ctx, status.Seq)
	if errors.Is(err, journal.ErrNotFound) {
		return bare, nil
	} else if err != nil {
		return bare, err
	}
	ev, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
	if err != nil {
		return bare, err
	}
	if ev.Tenant != status.Tenant || ev.ID != status.ID {
		return bare, nil // the view is of another journal: what is there is not what was asked for
	}
	if err := c.Erasures.Err(); err != nil {
		return bare, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if c.Erasures.Snapshot().Covers(ev.Tenant, ev.Subject, ev.Seq) {
		return bare, nil
	}
	return *ev, nil
}

// tenants are those in which to look for an id: the one named, or all that an operator sees. Another's is none.
func (c *Control) tenants(who access.Caller, tenant string) []string {
	switch {
	case tenant != "" && who.Sees(tenant):
		return []string{tenant}
	case tenant == "" && who.AllTenants():
		return c.Registry.Snapshot().Tenants()
	}
	return nil
}
