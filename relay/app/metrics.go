package app

import (
	"context"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
)

// gauges are what is looked up when the metrics are asked for: how full the journal is, how far the view is behind, and
// how many endpoints stand in which state.
type gauges struct {
	app       *App
	build     *prometheus.Desc
	connected *prometheus.Desc
	bytes     *prometheus.Desc
	bound     *prometheus.Desc
	behind    *prometheus.Desc
	endpoints *prometheus.Desc
	broken    *prometheus.Desc
	expiry    *prometheus.Desc
	keyAge    *prometheus.Desc
	rotations *prometheus.Desc

	inventoried, owned, scoped, shortLived, shortLivedShare, pending, overdue, unproven *prometheus.Desc
}

func newGauges(a *App) *gauges {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sealpost_"+name, help, labels, nil)
	}
	return &gauges{
		app:             a,
		build:           describe("build_info", "1; the label says which build this is.", "version"),
		connected:       describe("journal_connected", "1 while the journal is connected and has not failed."),
		bytes:           describe("journal_bytes", "Bytes in a stream of the journal.", "stream"),
		bound:           describe("journal_max_bytes", "Bytes at which a stream refuses.", "stream"),
		behind:          describe("view_behind_outcomes", "Durable outcomes that the view does not have yet.", "partition"),
		endpoints:       describe("endpoints", "Endpoints by state; deleted ones are tombstones.", "state"),
		inventoried:     describe("inventory_endpoints", "Endpoints in the inventory: all that are not deleted, but the relay's own tenant's."),
		owned:           describe("inventory_endpoints_with_owner", "Of those, the ones with an owner."),
		scoped:          describe("inventory_endpoints_with_data_scope", "Of those, the ones whose fields are named: by a data scope, or an allow list."),
		shortLived:      describe("inventory_endpoints_short_lived", "Of those, the ones that authenticate the relay by credentials of at most 30 days alone."),
		shortLivedShare: describe("inventory_short_lived_share", "Their share, 0 to 1; 0 where there are no endpoints."),
		pending:         describe("inventory_approvals_pending", "What waits for approval: new endpoints and changes.", "kind"),
		overdue:         describe("inventory_reviews_overdue", "Endpoints in force that were not reviewed in time."),
		unproven:        describe("inventory_proofs_failing", "Endpoints in force whose host could not be proven again."),
		broken:          describe("endpoints_unusable", "Active endpoints that cannot be sent to, because their record, keys or policy cannot be used."),
		expiry:          describe("certificate_expiry_timestamp_seconds", "When a certificate of ours ends; ENDPOINTS is the first of those that are presented to endpoints, one each, and renewed by themselves.", "certificate"),
		keyAge:          describe("signing_key_oldest_age_seconds", "Age of the oldest signing key in use."),
		rotations:       describe("signing_key_rotations", "Endpoints whose signing key is rotated by a schedule, whose next secret waits to be claimed, and whose waits beyond its time.", "state"),
	}
}

// Describe names the metrics.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.build, g.connected, g.bytes, g.bound, g.behind, g.endpoints, g.broken, g.expiry, g.keyAge, g.rotations,
		g.inventoried, g.owned, g.scoped, g.shortLived, g.shortLivedShare, g.pending, g.overdue, g.unproven} {
		ch <- d
	}
}

// Collect looks them up, within readinessWithin; what does not answer by then is left out.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readinessWithin)
	defer cancel()
	set(g.build, 1, g.app.o.Version)
	g.collectJournal(ctx, set)
	for p, projector := range g.app.projector {
		if g.app.owned[p].Load() {
			if upTo, err := g.app.journal.Outcomes(p).Synced(ctx); err == nil {
				set(g.behind, float64(upTo-min(upTo, projector.Position())), strconv.Itoa(p))
			}
		}
	}
	count, broken := map[relay.EndpointState]int{
		relay.EndpointUnverified: 0, relay.EndpointPending: 0, relay.EndpointActive: 0, relay.EndpointPaused: 0,
		relay.EndpointSuspended: 0, relay.EndpointContained: 0, relay.EndpointDeleted: 0,
	}, 0
	for e := range g.app.registry.Snapshot().All() {
		count[e.State]++
		if e.State == relay.EndpointActive && e.Err != nil {
			broken++
		}
	}
	for state, n := range count {
		set(g.endpoints, float64(n), string(state))
	}
	set(g.broken, float64(broken))
	g.collectTrust(set)
	g.collectInventory(set)
}

func (g *gauges) collectTrust(set func(*prometheus.Desc, float64, ...string)) {
	for _, c := range g.app.certificates() {
		set(g.expiry, float64(c.NotAfter.Unix()), c.name)
	}
	if end := g.app.clientCerts.soonest(); !end.IsZero() {
		set(g.expiry, float64(end.Unix()), "ENDPOINTS")
	}
	oldest, scheduled, unclaimed, overdue := g.app.rotations(g.app.o.Clock())
	set(g.keyAge, oldest.Seconds())
	set(g.rotations, float64(scheduled), "scheduled")
	set(g.rotations, float64(unclaimed), "unclaimed")
	set(g.rotations, float64(overdue), "overdue")
}

// collectInventory counts what the guides measure success by.
func (g *gauges) collectInventory(set func(*prometheus.Desc, float64, ...string)) {
	var all, owned, scoped, short, fresh, changed, overdue, failing float64
	add := func(to *float64, holds bool) {
		if holds {
			*to++
		}
	}
	for e := range g.app.registry.Snapshot().All() {
		if e.State == relay.EndpointDeleted || e.Tenant == relay.ReservedTenant {
			continue
		}
		item := g.app.control.Item(e)
		all++
		add(&owned, strings.TrimSpace(e.Owner) != "")
		add(&scoped, len(item.Fields) > 0)
		add(&short, item.ShortLived)
		add(&fresh, e.State == relay.EndpointPending || e.State == relay.EndpointUnverified)
		add(&changed, e.Record.Proposed != nil)
		add(&overdue, item.ReviewOverdue)
		add(&failing, !e.Record.Proof.FailTime.IsZero())
	}
	set(g.inventoried, all)
	set(g.owned, owned)
	set(g.scoped, scoped)
	set(g.shortLived, short)
	set(g.shortLivedShare, short/max(1, all))
	set(g.pending, fresh, "new")
	set(g.pending, changed, "change")
	set(g.overdue, overdue)
	set(g.unproven, failing)
}

func (g *gauges) collectJournal(ctx context.Context, set func(*prometheus.Desc, float64, ...string)) {
	st, up := g.app.journal.Status(ctx), 0.0
	if st.Connected && st.JetStream && st.Failure == nil {
		up = 1
	}
	set(g.connected, up)
	for _, s := range st.Streams {
		set(g.bytes, float64(s.Bytes), s.Name)
		set(g.bound, float64(s.MaxBytes), s.Name)
	}
}
