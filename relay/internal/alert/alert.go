// Package alert tells those who run Sealpost what happens to deliveries, endpoints and the relay itself, as events of the reserved
// tenant: an operator registers an endpoint there and gets them signed, retried and listed like any other.
//
// It promises that Raise never waits and that memory is bounded, however much is raised; that there is at most one event a minute for
// a kind, endpoint and reason, with a count of what it stands for; that nothing which happens in the reserved tenant is told of,
// so that no alert leads to another; that an event holds ids, reasons, counts and times, and never a payload; and that where the
// journal is short of room these events are dropped first, and counted. It does not promise that each is told: what was raised
// and not yet written is lost with the process. What alerts speak of is in the journal and the view anyway.
package alert

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
)

// Kind is the type of an event.
type Kind string

// The kinds. Those of an endpoint name it and its tenant; the others are of the relay.
const (
	EndpointSuspended   Kind = "sealpost.endpoint.suspended" // its receiver said that it is gone
	DeliveryDead        Kind = "sealpost.delivery.dead"
	BreakerOpened       Kind = "sealpost.breaker.opened" // the endpoint failed; it is sent nothing but probes
	BreakerClosed       Kind = "sealpost.breaker.closed"
	JournalShort        Kind = "sealpost.journal.short"        // a log is above four fifths of its bound
	DiskShort           Kind = "sealpost.disk.short"           // events are refused until there is room
	ViewBehind          Kind = "sealpost.view.behind"          // the view cannot be written, or is far behind
	PartitionFailing    Kind = "sealpost.partition.failing"    // nothing of the partition is sent until it is owned again
	AuditBroken         Kind = "sealpost.audit.broken"         // the audit log is not what its checkpoints say; no privileged act is done
	AuditUnpublished    Kind = "sealpost.audit.unpublished"    // its checkpoints cannot be written outside the data folder
	CertificateExpiring Kind = "sealpost.certificate.expiring" // a certificate of ours ends soon, and what renews it should have
	KeyMade             Kind = "sealpost.key.made"             // the schedule made an endpoint's next signing key; a shared secret has to be claimed
	KeyActivated        Kind = "sealpost.key.activated"        // the next key signs from now on
	KeyUnclaimed        Kind = "sealpost.key.unclaimed"        // nobody claimed the next key's secret by its time: the old key stays in use
	ProofFailing        Kind = "sealpost.proof.failing"        // an endpoint's host cannot be proven again; it is suspended when its proof ends
	ReviewOverdue       Kind = "sealpost.review.overdue"       // an endpoint in force was not reviewed in time
)

// Kinds lists them.
func Kinds() []Kind {
	return []Kind{EndpointSuspended, ProofFailing, ReviewOverdue, DeliveryDead, BreakerOpened, BreakerClosed, JournalShort, DiskShort, ViewBehind, PartitionFailing,
		AuditBroken, AuditUnpublished,
		CertificateExpiring, KeyMade, KeyActivated, KeyUnclaimed}
}

// Notice is one thing that happened.
type Notice struct {
	Kind       Kind
	Tenant     string // empty for the relay's own
	EndpointID string
	Reason     string
	// Fact tells this one from others of its kind, such as a delivery's id: the same facts, told again after a crash, are the
	// same event.
	Fact string
	Time time.Time
}

// Bounds.
const (
	// gather is how long the first of a kind waits for more like it, and every how long there is an event of it after that.
	gather = time.Second
	every  = time.Minute
	// maxGroups bounds the kinds, endpoints and reasons that are told apart at once; what is over it is dropped.
	maxGroups = 10_000
	// maxFacts bounds the facts that an event names.
	maxFacts = 10
	// keepFor is how long what cannot be written now is tried again.
	keepFor = 10 * time.Minute
	// look is how often what is due is looked for.
	look = 250 * time.Millisecond
)

// Options are what alerts stand on; all but Logger are required.
type Options struct {
	// Publish keeps an event, durably; one that it has under the same id already is no error.
	Publish func(context.Context, *relay.Event) error
	// Room tells whether the journal can spare room for alerts.
	Room       func(context.Context) bool
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Logger     *slog.Logger // default discards
}

// Alerts gathers and publishes. Raise may be called concurrently.
type Alerts struct {
	o         Options
	published *prometheus.CounterVec
	dropped   *prometheus.CounterVec

	mu     sync.Mutex
	groups map[group]*gathered
}

// group is what is told in one event.
type group struct {
	kind                     Kind
	tenant, endpoint, reason string
}

type gathered struct {
	count       int64
	first, last time.Time
	facts       []string
	sum         [32]byte // of all facts, in any order
	due         time.Time
}

// New makes alerts; Run publishes them.
func New(o Options) *Alerts {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sealpost", Name: name, Help: help}, []string{label})
	}
	a := &Alerts{
		o: o, groups: map[group]*gathered{},
		published: counter("alerts_published_total", "Operational events that were published, by type.", "type"),
		dropped:   counter("alerts_dropped_total", "Things to tell operators of that no event was published for, by why.", "why"),
	}
	for _, k := range Kinds() {
		a.published.WithLabelValues(string(k))
	}
	for _, why := range []string{whyMany, whyNoRoom, whyLate} {
		a.dropped.WithLabelValues(why)
	}
	o.Registerer.MustRegister(a.published, a.dropped)
	return a
}

// Why something is not told.
const (
	whyMany   = "too_many" // more at once than are told apart
	whyNoRoom = "no_room"  // the journal is short
	whyLate   = "late"     // it could not be written for too long
)

// Raise takes note of something, to be told soon. A nil Alerts tells nothing.
func (a *Alerts) Raise(n Notice) {
	if a == nil || n.Tenant == relay.ReservedTenant {
		return
	}
	k := group{n.Kind, n.Tenant, n.EndpointID, n.Reason}
	fact := sha256.Sum256([]byte(n.Fact))
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.groups[k]
	if g == nil {
		if len(a.groups) >= maxGroups {
			a.dropped.WithLabelValues(whyMany).Inc()
			return
		}
		g = &gathered{due: n.Time.Add(gather)}
		a.groups[k] = g
	}
	if slices.Contains(g.facts, n.Fact) {
		return // two who saw the same
	}
	if g.count == 0 {
		g.first = n.Time
	}
	g.count++
	g.last = n.Time
	if len(g.facts) < maxFacts && n.Fact != "" {
		g.facts = append(g.facts, n.Fact)
	}
	for i := range fact {
		g.sum[i] ^= fact[i]
	}
}

// Run publishes until ctx ends, and then what is gathered.
func (a *Alerts) Run(ctx context.Context) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			a.tell(ctx, a.o.Clock())
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			a.tell(last, a.o.Clock().Add(2*every))
			return nil
		}
	}
}

// tell publishes what is due.
func (a *Alerts) tell(ctx context.Context, now time.Time) {
	room, asked := false, false
	for k, g := range a.take(now) {
		if !asked {
			room, asked = a.o.Room(ctx), true
		}
		if !room {
			a.drop(whyNoRoom, k, g)
			continue
		}
		err := a.o.Publish(ctx, event(k, g))
		switch {
		case err == nil:
			a.published.WithLabelValues(string(k.kind)).Inc()
		case now.Sub(g.first) > keepFor || ctx.Err() != nil:
			a.o.Logger.Warn("operational event not published", "type", k.kind, "endpoint", k.endpoint, "error", err)
			a.drop(whyLate, k, g)
		default:
			a.again(k, g)
		}
	}
}

func (a *Alerts) drop(why string, k group, g *gathered) {
	a.dropped.WithLabelValues(why).Add(float64(g.count))
}

// take takes out what is due, and forgets what nothing was raised of for a while.
func (a *Alerts) take(now time.Time) map[group]*gathered {
	a.mu.Lock()
	defer a.mu.Unlock()
	var due map[group]*gathered
	for k, g := range a.groups {
		if g.due.After(now) {
			continue
		}
		if g.count == 0 {
			delete(a.groups, k)
			continue
		}
		if due == nil {
			due = map[group]*gathered{}
		}
		out := *g
		due[k] = &out
		*g = gathered{due: now.Add(every)}
	}
	return due
}

// again puts back what could not be published, with what was raised since.
func (a *Alerts) again(k group, old *gathered) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.groups[k]
	if g == nil {
		g = &gathered{}
		a.groups[k] = g
	}
	g.count += old.count
	g.first, g.last = old.first, maxTime(old.last, g.last)
	g.facts = slices.Concat(old.facts, g.facts)
	g.facts = g.facts[:min(len(g.facts), maxFacts)]
	for i := range g.sum {
		g.sum[i] ^= old.sum[i]
	}
	g.due = old.last.Add(gather)
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// data is an event's.
type data struct {
	Tenant     string    `json:"tenant,omitempty"`
	EndpointID string    `json:"endpointId,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Count      int64     `json:"count"`
	FirstTime  time.Time `json:"firstTime"`
	LastTime   time.Time `json:"lastTime"`
	Facts      []string  `json:"ids,omitempty"`
}

var ids = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// event is what is published. Its id is of what it tells, so that what is told again after a crash is the same event.
func event(k group, g *gathered) *relay.Event {
	text, err := json.Marshal(data{k.tenant, k.endpoint, k.reason, g.count, g.first.UTC(), g.last.UTC(), g.facts})
	if err != nil { // no such value
		text = []byte(`{}`)
	}
	h := sha256.New()
	for _, part := range []string{string(k.kind), k.tenant, k.endpoint, k.reason, string(g.sum[:])} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	subject := "relay"
	if k.endpoint != "" {
		subject = "endpoint/" + k.endpoint
	}
	return &relay.Event{
		Tenant: relay.ReservedTenant, ID: "ops_" + ids.EncodeToString(h.Sum(nil)[:16]), Type: string(k.kind), Time: g.last.UTC(),
		Subject: subject, Data: text,
	}
}
