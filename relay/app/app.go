// Package app puts a Sealpost process together: it is the only place that wires. It promises that what New has opened Stop
// closes, in the opposite order, also when New failed half-way; that a process which cannot keep its promises any more (the
// journal failed) ends instead of going on; and that nothing listens before everything behind it works.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/alert"
	"github.com/sealpost/sealpost/relay/internal/api"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/courier"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/folder"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/internal/lane"
	"github.com/sealpost/sealpost/relay/internal/lease"
	"github.com/sealpost/sealpost/relay/internal/ledger"
	"github.com/sealpost/sealpost/relay/internal/onboard"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/partition"
	"github.com/sealpost/sealpost/relay/internal/pki"
	"github.com/sealpost/sealpost/relay/internal/quota"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/relay/internal/retry"
	"github.com/sealpost/sealpost/relay/internal/tree"
)

// Names inside the data folder.
const (
	fileOperatorToken = "operator.token"
	fileSecretsKey    = "secrets.key"
	folderCA          = "ca"
	folderJournal     = "journal"
	folderView        = "view"
)

// App is one Sealpost process.
type App struct {
	o          Options
	log        *slog.Logger
	metrics    *prometheus.Registry
	journal    *journal.Journal
	keys       *keys.Root
	ca         *pki.CA
	guard      *egress.Guard
	registry   *registry.Registry
	erasures   *erasure.Set
	access     *access.Keeper
	audit      *audit.Log
	tree       *tree.Tree // over the audit log
	view       relay.Ledger
	quotas     *quota.Publish // nil: none
	hub        *ledger.Hub
	projector  []*ledger.Projector // by partition; run by its owner
	owned      []atomic.Bool       // the partitions that this process owns now
	board      *lease.Board        // of an external server: who owns which
	courier    *courier.Courier
	certs      *clientCerts
	way        egress.Options // out
	prover     *onboard.Prover
	operations *operation.Keeper
	control    *control.Control
	alerts     *alert.Alerts
	api        *api.Server
	listeners  []listener
	relays     *crew // of Run

	listenerCert *pki.Pair // of our listeners; nil: plain text, on loopback
	clientCert   *pki.Pair // presented to every endpoint; nil: one for each, of the built-in CA
	clientCerts  *clientCerts

	copying  sync.Mutex // held by the backup under way
	cleanups []cleanup  // in the order of opening
}

type cleanup struct {
	name string
	run  func(context.Context) error
}

// New opens everything and listens, but serves nothing yet. On an error everything is closed again.
func New(ctx context.Context, o Options) (_ *App, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &App{o: o, log: o.Logger, metrics: prometheus.NewRegistry()}
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []struct {
		name string
		open func(context.Context) error
	}{
		{"data folder", a.openFolder},
		{"certificates", a.openCertificates},
		{"journal", a.openJournal},
		{"audit log", a.openAudit},
		{"registry", a.openRegistry},
		{"erasures", a.openErasures},
		{"accounts", a.openAccess},
		{"view", a.openView},
		{"leases", a.openLeases},
		{"courier", a.openCourier},
		{"operations", a.openOperations},
		{"restored erasures", a.resumeErasures},
		{"publish quotas", a.openQuotas},
		{"control", a.openControl},
		{"alerts", a.openAlerts},
		{"development mode", a.settleDev},
		{"listeners", a.listen},
	} {
		if err := step.open(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	a.metrics.MustRegister(newGauges(a))
	return a, nil
}

// onClose adds what Stop does, before all that was added earlier.
func (a *App) onClose(name string, run func(context.Context) error) {
	a.cleanups = append(a.cleanups, cleanup{name, run})
}

// dataFormat is that of the data folder, and of a journal on an external server: what a binary of another one must not write into.
const dataFormat = 1

func (a *App) openFolder(context.Context) (err error) {
	held, err := folder.Open(a.o.Data, folder.Layout{Format: dataFormat, Version: a.o.Version, Fsync: a.o.Fsync})
	if err != nil {
		return err
	}
	a.onClose("data folder", func(context.Context) error { return held.Close() })
	for _, name := range []string{folderCA, folderJournal, folderView} {
		if err := folder.Make(a.path(name), a.o.Fsync); err != nil {
			return err
		}
	}
	if a.keys, _, err = keys.OpenFile(a.path(fileSecretsKey)); err != nil {
		return err
	}
	a.ca, err = pki.Open(a.path(folderCA), a.o.Clock)
	return err
}

func (a *App) path(name string) string { return filepath.Join(a.o.Data, name) }

func (a *App) openJournal(ctx context.Context) (err error) {
	j, n := a.o.Journal, a.o.NATS
	options := journal.Options{
		URL: n.URL, Durability: journal.Durability(n.Durability), Replicas: n.Replicas, Credentials: n.Credentials,
		Partitions: j.Partitions, EventsMaxBytes: j.EventsMaxBytes, OutcomesMaxBytes: j.OutcomesMaxBytes, AuditMaxBytes: j.AuditMaxBytes,
		// A record holds the event's fields beside its data.
		DedupWindow: j.DedupWindow, MaxEventBytes: j.MaxEventBytes + 64<<10, MaxUncommittedBytes: j.MaxUncommittedBytes,
		MinFreeDisk: j.MinFreeDisk, Clock: a.o.Clock, Logger: a.log, Fsync: a.o.Fsync,
		Format: journal.Format{Number: dataFormat, WrittenBy: a.o.Version, Shared: map[string]string{
			fileSecretsKey: a.keys.Fingerprint(), folderCA: a.ca.Fingerprint(),
		}},
	}
	if n.URL == "" {
		options.Dir = a.path(folderJournal)
	}
	if options.TLS, err = natsTLS(n); err != nil {
		return err
	}
	if a.journal, err = journal.Open(ctx, options); errors.Is(err, journal.ErrForeign) {
		return fmt.Errorf("%w: copy %s and the folder %s from the data folder of a process that runs on it, readable for their owner alone, into %s",
			err, fileSecretsKey, folderCA, a.o.Data)
	} else if err != nil {
		return err
	}
	a.onClose("journal", a.journal.Close)
	return nil
}

// leaderPatience is for how long a cluster may say that the audit log is shorter than it was: a leader that was just elected may not have
// applied everything yet.
const leaderPatience = 15 * time.Second

// openAudit compares the audit log with its checkpoints before anything is done that rests on it.
func (a *App) openAudit(ctx context.Context) error {
	tiles, err := a.journal.Bucket(ctx, tree.TilesBucket)
	if err != nil {
		return err
	}
	state, err := a.journal.Bucket(ctx, tree.StateBucket)
	if err != nil {
		return err
	}
	options := tree.Options{
		Log: a.journal.Audit(), Tiles: tiles, State: state, Sealer: a.keys, Outside: a.o.Audit.Checkpoints, PublishEvery: a.o.Audit.PublishEvery,
		Clock: a.o.Clock, Registerer: a.metrics, Logger: a.log, Fsync: a.o.Fsync,
	}
	if a.o.NATS.URL != "" {
		options.Patience = leaderPatience
	}
	if a.tree, err = tree.Open(ctx, options); err != nil {
		return err
	}
	a.onClose("audit log", func(context.Context) error { a.tree.Close(); return nil })
	a.audit = audit.New(a.journal.Audit(), a.o.Clock)
	a.audit.Guard(a.tree.Halted)
	return nil
}

func (a *App) openRegistry(ctx context.Context) error {
	bucket, err := a.journal.Bucket(ctx, registry.BucketName)
	if err != nil {
		return err
	}
	a.registry, err = registry.Open(ctx, bucket, a.keys, registry.Options{Insecure: a.o.Dev, Now: a.o.Clock, Logger: a.log})
	if err != nil {
		return err
	}
	a.onClose("registry", func(context.Context) error { a.registry.Close(); return nil })
	return nil
}

// settleDev marks the data before an endpoint can become active by itself, or, without --dev, takes back what was made
// so, before anything is sent.
func (a *App) settleDev(ctx context.Context) error {
	if a.o.Dev {
		return a.control.EnterDev(ctx)
	}
	if err := a.control.NoteProofs(ctx); err != nil {
		return err
	}
	n, err := a.control.LeaveDev(ctx)
	if n > 0 {
		a.log.Warn("the data folder was used with --dev: endpoints were put back to pending", "endpoints", n)
	}
	return err
}

func (a *App) openAccess(ctx context.Context) error {
	bucket, err := a.journal.Bucket(ctx, access.BucketName)
	if err != nil {
		return err
	}
	roots, err := readRoots(a.o.Access.Roots)
	if err != nil {
		return fmt.Errorf("access.roots: %w", err)
	}
	if a.access, err = access.Open(ctx, bucket, access.Options{Roots: roots, Now: a.o.Clock, Registerer: a.metrics, Logger: a.log}); err != nil {
		return err
	}
	a.onClose("accounts", func(context.Context) error { a.access.Close(); return nil })
	if err := a.access.Adopt(ctx); err != nil {
		return err
	}
	made, err := a.access.Bootstrap(ctx, a.path(fileOperatorToken))
	if made {
		a.log.Info("operator token written", "file", a.path(fileOperatorToken))
	}
	return err
}

func (a *App) openView(ctx context.Context) (err error) {
	if a.view, err = a.o.OpenView(ctx, cmp.Or(a.o.Redis, a.path(folderView)), a.log); err != nil {
		return err
	}
	a.onClose("view", func(context.Context) error { return a.view.Close() })
	a.hub = &ledger.Hub{}
	metrics := ledger.NewMetrics(a.metrics)
	a.owned = make([]atomic.Bool, a.journal.Partitions())
	for p := range a.journal.Partitions() {
		a.projector = append(a.projector, ledger.NewProjector(p, a.journal.Outcomes(p), a.view, a.hub, a.log, metrics))
	}
	return nil
}

// changes tells of them: of those that the view here has taken, or, where others may own the partitions, of those in the logs.
func (a *App) changes() changes {
	if a.o.NATS.URL == "" {
		return a.hub
	}
	logs := make([]*journal.Outcomes, a.journal.Partitions())
	for p := range logs {
		logs[p] = a.journal.Outcomes(p)
	}
	return ledger.NewFollower(logs, a.log)
}

func (a *App) openCourier(context.Context) (err error) {
	a.clientCerts = newClientCerts(a.ca, a.clientCert, a.o.Clock)
	a.guard = &egress.Guard{Allow: a.o.Egress.Allow, Ports: a.o.Egress.Ports}
	if a.o.Dev {
		a.guard.Allow = append(a.guard.Allow, loopback...)
	}
	a.way = egress.Options{Guard: *a.guard}
	if a.o.Egress.NameServer != "" {
		a.way.Resolver = egress.NameServer(a.o.Egress.NameServer)
	}
	pool := egress.NewPool(a.way)
	a.onClose("connections", func(context.Context) error { pool.Close(); return nil })
	a.prover = &onboard.Prover{Pool: pool, Trust: a.trust}
	a.courier, err = a.newCourier(pool)
	return err
}

func (a *App) newCourier(pool *egress.Pool) (*courier.Courier, error) {
	return courier.New(courier.Options{
		Pool: pool, ClientCertificates: a.clientCerts.of, PlainHTTP: a.o.Dev, Version: a.o.Version, Clock: a.o.Clock, Logger: a.log,
	})
}

// openQuotas makes the publish quotas, over all processes where the view is one that they share.
func (a *App) openQuotas(context.Context) (err error) {
	o := a.o.quotas()
	o.Shared, _ = a.view.(quota.Shared)
	o.Now, o.Logger, o.Registerer = a.o.Clock, a.log, a.metrics
	a.quotas, err = quota.New(o)
	return err
}

func (a *App) openControl(context.Context) (err error) {
	signIns, err := a.signIns()
	if err != nil {
		return err
	}
	a.control, err = control.New(control.Options{
		Journal: a.journal, Registry: a.registry, Sealer: a.keys, Access: a.access,
		Audit: a.audit, Trail: &audit.Reader{Log: a.journal.Audit(), Tree: a.tree}, Tree: a.tree, Certificates: a.ca, SignIns: signIns, Ledger: a.view,
		Owners: owners{partition.Owners{Journal: a.journal}}, Tester: tester{a}, Feed: feed{a.changes()}, Operations: a.operations, Erasures: a.erasures,
		Backup: a.backup, Quotas: a.quotas, Guard: a.guard, Onboarding: a.onboarding(), Dev: a.o.Dev, MaxDataBytes: a.o.Journal.MaxEventBytes, Now: a.o.Clock, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.api, err = api.New(api.Options{
		Auth: a.access, Noter: a.control, Events: a.control, Endpoints: a.control, EventTypes: a.control, Incidents: a.control, Deliveries: a.control, Operations: a.control, Access: a.control, System: a.control, Audit: a.control,
		OAuth: api.OAuth{Issuer: a.o.oauthIssuer(), Life: a.o.Access.AccessTokenLife}, LogCalls: a.o.Access.LogCalls, TLS: a.tls(), MaxDataBytes: a.o.Journal.MaxEventBytes, Registerer: a.metrics, Logger: a.log,
	})
	return err
}

// Run serves until ctx ends, and then stops in order: nothing new is accepted, what is in flight has StopGrace to end, and what
// became of it is durable before Run returns. ready is called once everything serves. A part that does not end in its time is ErrStuck:
// then the rest is left as it is, because what still runs must not find its files closed.
func (a *App) Run(ctx context.Context, ready func()) error {
	defer a.log.Info("stopped")
	working, endWork := context.WithCancel(context.WithoutCancel(ctx))
	defer endWork()
	parts, failing := newCrew(working)

	relaying, endRelaying := context.WithCancel(failing)
	watching, endWatching := context.WithCancel(failing)
	defer endRelaying()
	defer endWatching()

	a.relays, _ = newCrew(relaying)
	if a.o.Role != RoleAPI {
		a.relays.Go("leases", func() error { return a.relay(relaying) })
		parts.Go("trimming", func() error { return a.keepTrimmed(watching) })
	}
	parts.Go("relay", a.relays.group.Wait)
	if a.o.Role != RoleAPI {
		parts.Go("alerts", func() error { return a.alerts.Run(watching) })
		parts.Go("health", func() error { return a.watchSelf(watching) })
		parts.Go("rotation", func() error { return a.turnKeys(watching) })
		parts.Go("onboarding", func() error { return a.watchOnboarding(watching) })
	}
	for _, pair := range []*pki.Pair{a.listenerCert, a.clientCert} {
		if pair != nil {
			parts.Go("certificate files", func() error { return pair.Run(watching) })
		}
	}
	parts.Go("audit log", func() error { return a.audit.Run(watching) })
	for _, l := range a.listeners {
		parts.Go("listener "+l.name, l.serve)
	}
	parts.Go("watch", func() error { return a.watchOver(watching) })
	parts.Go("accounts", func() error { return a.access.Run(watching) })
	if ready != nil {
		ready()
	}

	select {
	case <-ctx.Done():
		a.log.Info("stopping")
	case <-failing.Done():
	}
	// No more is accepted; what was accepted is answered.
	err := a.stopListeners(working)
	endRelaying()
	err = errors.Join(err, a.relays.wait(a.o.StopGrace+a.o.patience()))
	endWatching()
	if !errors.Is(err, ErrStuck) {
		err = errors.Join(err, parts.wait(a.o.patience()))
	}
	if errors.Is(err, ErrStuck) {
		a.log.Error("a part does not stop: the process ends as it is", "error", err)
		return errors.Join(err, a.journal.Err())
	}
	return errors.Join(err, a.close(working))
}

// unheardAtMost is how long a process goes on by endpoints and tokens of which it hears nothing, as where an external
// server is started anew: it sends nothing meanwhile.
const unheardAtMost = 30 * time.Second

// watchOver ends the process when it can no longer keep its promises: the journal failed, or it would go by endpoints and
// tokens of which it no longer hears.
func (a *App) watchOver(ctx context.Context) error {
	heard := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-a.journal.Failed():
			return fmt.Errorf("the journal failed: %w", a.journal.Err())
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := errors.Join(a.registry.Err(), a.access.Err(), a.erasures.Err())
		if err == nil {
			heard = time.Now()
		} else if time.Since(heard) > unheardAtMost {
			return fmt.Errorf("the registry is out of reach: %w", err)
		}
	}
}

// own runs a partition, and again when it ended with an error that another start may mend.
func (a *App) own(ctx context.Context, p int, t partition.Tenure, metrics *partition.Metrics) error {
	limits := lane.DefaultLimits()
	limits.InFlight = max(1, cmp.Or(a.o.Delivery.InFlight, limits.InFlight)/a.journal.Partitions())
	limits.Slow = 2 * limits.InFlight
	limits.Bytes = max(1<<20, cmp.Or(a.o.Delivery.LaneBytes, limits.Bytes)/a.journal.Partitions())
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second),
		backoff.WithMaxElapsedTime(0))
	for {
		began := time.Now()
		err := a.runPartition(ctx, partition.Options{
			Partition: p, Journal: a.journal, Registry: a.registry, Erasures: a.erasures, Courier: a.courier, Suspend: a.suspend, Alerts: a.alerts,
			Projected: a.projector[p].Position, Tenure: t, Schedule: retry.Schedule{Intervals: a.o.Delivery.RetryIntervals}, Limits: limits,
			SyncEvery: a.o.Delivery.SyncEvery, CheckpointEvery: a.o.Delivery.CheckpointEvery, Retention: a.o.Retention.Age, TrimEvery: a.o.Retention.TrimEvery,
			StopGrace: a.o.StopGrace, Clock: a.o.Clock, Logger: a.log, Metrics: metrics,
		})
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped before it had taken the partition over
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, partition.ErrLost) || lost(t) {
			return err
		}
		if a.journal.Err() != nil {
			return err
		}
		a.log.Error("partition stopped, will be owned again", "error", err)
		a.alerts.Raise(alert.Notice{Kind: alert.PartitionFailing, Reason: fmt.Sprintf("PARTITION_%d", p), Fact: began.Format(time.RFC3339Nano), Time: a.o.Clock()})
		if time.Since(began) > time.Minute {
			wait.Reset()
		}
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return nil
		case <-t.Lost:
			return partition.ErrLost
		}
	}
}

func lost(t partition.Tenure) bool {
	select {
	case <-t.Lost:
		return true
	default:
		return false
	}
}

// suspend stops an endpoint whose receiver said that it is gone.
func (a *App) suspend(ctx context.Context, endpointID string, reason relay.Reason) {
	ep := a.registry.Snapshot().Endpoint(endpointID)
	if ep == nil || ep.State == relay.EndpointSuspended { // several attempts may have found it gone
		return
	}
	ref := control.Ref{Tenant: ep.Tenant, ID: endpointID}
	_, err := a.control.SuspendEndpoint(ctx, control.Relay(), ref, string(reason))
	switch {
	case err == nil:
		a.alerts.Raise(alert.Notice{
			Kind: alert.EndpointSuspended, Tenant: ep.Tenant, EndpointID: endpointID, Reason: string(reason),
			Fact: fmt.Sprint(ep.Revision), Time: a.o.Clock(),
		})
	case ctx.Err() == nil:
		a.log.Error("endpoint not suspended", "endpoint", endpointID, "error", err)
	}
}

// trimEvery is how often the view and the registry let go of what is past its time.
const trimEvery = 10 * time.Minute

func (a *App) keepTrimmed(ctx context.Context) error {
	ticker := time.NewTicker(trimEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		before := a.o.Clock().Add(-a.o.Retention.Age)
		n, err := a.view.Trim(ctx, before, max(0, a.o.Retention.ViewBytes))
		if err != nil && ctx.Err() == nil {
			a.log.Warn("view not trimmed", "error", err)
		} else if n > 0 {
			a.log.Info("view trimmed", "removed", n)
		}
		if err := a.journal.Audit().Expire(ctx, math.MaxUint64, a.o.Clock().Add(-a.o.Retention.Audit), 0); err != nil && ctx.Err() == nil {
			a.log.Warn("audit log not trimmed", "error", err)
		}
		if _, err := a.access.Purge(ctx, before); err != nil && ctx.Err() == nil {
			a.log.Warn("ended tokens not purged", "error", err)
		}
		if _, err := a.operations.Purge(ctx, operation.Replay, before); err != nil && ctx.Err() == nil {
			a.log.Warn("ended replays not purged", "error", err)
		}
		if err := a.forgetErasures(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("tombstones of erased subjects not purged", "error", err)
		}
		// The owners cancelled what was open to them long before.
		if _, err := a.registry.Purge(ctx, before); err != nil && ctx.Err() == nil {
			a.log.Warn("deleted endpoints not purged", "error", err)
		}
	}
}

// Addresses are those listened on, by name: grpc, http, admin, public.
func (a *App) Addresses() map[string]net.Addr {
	out := map[string]net.Addr{}
	for _, l := range a.listeners {
		out[l.name] = l.Addr()
	}
	return out
}
