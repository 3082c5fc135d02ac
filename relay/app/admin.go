package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/lease"
)

// admin serves /metrics, /healthz and /readyz; and on a loopback address, to those who work on this machine, the profiles of Go's
// runtime below /debug/pprof. Profiles hold no content of events.
func (a *App) admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"status":"ok"}` + "\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		parts := a.Readiness(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if !parts.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(parts)
	})
	if onLoopback(a.o.Admin) {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return mux
}

// Readiness says whether the process can do its work, and which part is degraded.
type Readiness struct {
	Ready   bool   `json:"ready"`
	Version string `json:"version"`
	// Journal must be ok: without it nothing is accepted and nothing sent.
	Journal string `json:"journal"`
	// Registry must be ok: endpoints, accounts and erasures are heard of as they change.
	Registry string `json:"registry"`
	// Audit may be nearly full: once it is full no privileged act is done; or broken: not what its checkpoints say.
	Audit string `json:"audit"`
	// View may be degraded: deliveries go on, and lists and look-ups fail.
	View string `json:"view"`
	// Quotas may be degraded: this process holds publish quotas by its own part, not together with others.
	Quotas string `json:"quotas"`
	// Partitions may be degraded: what is accepted for one without an owner waits for one.
	Partitions string `json:"partitions"`
	// Owners say who sends what is in each partition.
	Owners []lease.Owner `json:"owners,omitempty"`
}

// readinessWithin bounds how long a part may take to say that it is well.
const readinessWithin = 2 * time.Second

// auditNearlyFull is the share of the audit log's bound from which on readiness says so.
const auditNearlyFull = 0.8

// Readiness asks each part.
func (a *App) Readiness(ctx context.Context) Readiness {
	ctx, cancel := context.WithTimeout(ctx, readinessWithin)
	defer cancel()
	r := Readiness{Ready: true, Version: a.o.Version, Journal: "ok", Registry: "ok", Audit: "ok", View: "ok", Quotas: "ok", Partitions: "ok"}
	switch st := a.journal.Status(ctx); {
	case st.Failure != nil:
		r.Ready, r.Journal = false, "failed: nothing is accepted any more; see the log"
	case !st.Connected:
		r.Ready, r.Journal = false, "not connected"
	case errors.Is(st.Unavailable, journal.ErrOutOfTouch):
		r.Ready, r.Journal = false, "out of touch: the NATS server here hears no majority of its cluster, and nothing can be stored through it; another is tried"
	case !st.JetStream:
		r.Ready, r.Journal = false, "JetStream does not answer"
	case st.Unreadable != nil:
		r.Ready, r.Journal = false, "not readable: nothing is accepted until the disk gives what was written to it; see the log"
	case st.Full != nil:
		r.Ready, r.Journal = false, "full: nothing is accepted until there is room on the disk; what was accepted is delivered"
	}
	if errors.Join(a.registry.Err(), a.access.Err(), a.erasures.Err()) != nil {
		r.Ready, r.Registry = false, "not heard: nothing is sent until it is"
	}
	if audit, err := a.journal.Audit().State(ctx); err == nil && float64(audit.Bytes) > auditNearlyFull*float64(a.journal.Audit().MaxBytes()) {
		r.Audit = fmt.Sprintf("nearly full: %d of %d MiB: once it is full no privileged act is done; lower retention.audit or raise journal.auditMaxBytes",
			audit.Bytes>>20, a.journal.Audit().MaxBytes()>>20)
	}
	if err := a.tree.Halted(); err != nil {
		r.Audit = "broken: no privileged act is done until that is accepted (sealpost audit accept): " + err.Error()
	} else if a.tree.Unpublished() != nil {
		r.Audit = "degraded: its checkpoints cannot be written to audit.checkpoints; see the log"
	}
	r.View = a.viewState(ctx)
	if a.quotas.Degraded() {
		r.Quotas = "degraded: the counter in Redis cannot be reached; this process goes by its own part of each publish quota"
	}
	r.Owners = a.owners()
	missing := 0
	for _, o := range r.Owners {
		if o.Owner == "" {
			missing++
		}
	}
	if missing > 0 {
		r.Partitions = fmt.Sprintf("degraded: %d of %d have no owner now; what is accepted for them waits", missing, len(r.Owners))
	}
	return r
}

// viewState says how the view is, from the worst on.
func (a *App) viewState(ctx context.Context) string {
	switch err := a.view.Ping(ctx); {
	case errors.Is(err, relay.ErrViewFull):
		return "degraded: full: it can be read, and shows nothing new until it has room; see the log"
	case errors.Is(err, relay.ErrViewRefuses):
		return "degraded: it answers, and refuses; see the log"
	case err != nil:
		return "degraded: cannot be reached"
	}
	for p, projector := range a.projector {
		if a.owned[p].Load() && projector.Failing() {
			return "degraded: it cannot be written: lists and look-ups show what was before; see the log"
		}
	}
	return "ok"
}
