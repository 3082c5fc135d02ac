package partition

import (
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
)

// Metrics are those of all partitions of a process.
type Metrics struct {
	routed             prometheus.Counter
	outcomes           *prometheus.CounterVec // by state
	attempts           *prometheus.CounterVec // by verdict and reason
	attemptSeconds     prometheus.Histogram
	phaseSeconds       *prometheus.HistogramVec // by phase
	firstAttempt       prometheus.Histogram
	inFlight           *prometheus.GaugeVec
	laneBytes          *prometheus.GaugeVec
	unrouted           *prometheus.GaugeVec
	unrecorded         *prometheus.GaugeVec
	open               *prometheus.GaugeVec
	openBytes          *prometheus.GaugeVec
	ready              *prometheus.GaugeVec
	breakers           *prometheus.GaugeVec
	checkpointSeconds  prometheus.Histogram
	checkpointBytes    prometheus.Gauge
	checkpointFailures prometheus.Counter

	// What is counted for each delivery is found once: to look a series up by its labels costs more than to count.
	states map[relay.DeliveryState]prometheus.Counter // never written after NewMetrics
	phases [4]prometheus.Observer
	known  sync.Map // of attempts: attemptKind -> prometheus.Counter
}

type attemptKind struct {
	verdict relay.VerdictKind
	reason  relay.Reason
}

// NewMetrics registers the metrics; every series that is known ahead begins at zero.
func NewMetrics(r prometheus.Registerer) *Metrics {
	const ns = "sealpost"
	seconds := prometheus.ExponentialBuckets(0.001, 2, 16)
	m := &Metrics{
		routed:         prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "events_routed_total", Help: "Events that were routed."}),
		outcomes:       prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "delivery_outcomes_total", Help: "Changes of deliveries' states, by the state."}, []string{"state"}),
		attempts:       prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: "delivery_attempts_total", Help: "Attempts, by verdict and reason."}, []string{"verdict", "reason"}),
		attemptSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "delivery_attempt_seconds", Help: "Length of attempts.", Buckets: seconds}),
		phaseSeconds:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Name: "delivery_phase_seconds", Help: "Length of an attempt's phases, where they took place.", Buckets: seconds}, []string{"phase"}),
		firstAttempt:   prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "delivery_latency_seconds", Help: "From an event's acceptance to its delivery at the first attempt.", Buckets: seconds}),
		inFlight:       gauge(ns, "deliveries_in_flight", "Attempts under way."),
		laneBytes:      gauge(ns, "lane_bytes", "Bodies in lanes and in flight."),
		unrouted:       gauge(ns, "cursor_event_sequence", "EVENTS sequence up to which everything is routed and recorded."),
		unrecorded:     gauge(ns, "events_unrecorded", "Events that are routed and of which a delivery has no outcome yet."),
		open:           gauge(ns, "deliveries_open", "Deliveries that are recorded as neither settled nor new: retrying, parked, held, or long in flight."),
		openBytes:      gauge(ns, "deliveries_open_bytes", "Memory of the index of open deliveries."),
		ready:          gauge(ns, "deliveries_ready", "Open deliveries that wait for nothing but their endpoint."),
		breakers:       gauge(ns, "breakers_open", "Endpoints that are sent nothing but probes, because they failed."),
		checkpointSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "checkpoint_seconds", Help: "Time to save a checkpoint.",
			Buckets: seconds}),
		checkpointBytes:    prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "checkpoint_bytes", Help: "Size of the last checkpoint."}),
		checkpointFailures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "checkpoint_failures_total", Help: "Checkpoints that could not be saved."}),
	}
	m.states = map[relay.DeliveryState]prometheus.Counter{}
	for _, s := range append(relay.DeliveryStates(), relay.Unmatched) {
		m.states[s] = m.outcomes.WithLabelValues(string(s))
	}
	for i, phase := range [...]string{"dns", "connect", "tls", "first_byte"} {
		m.phases[i] = m.phaseSeconds.WithLabelValues(phase)
	}
	r.MustRegister(m.routed, m.outcomes, m.attempts, m.attemptSeconds, m.phaseSeconds, m.firstAttempt, m.inFlight, m.laneBytes,
		m.unrouted, m.unrecorded, m.open, m.openBytes, m.ready, m.breakers, m.checkpointSeconds, m.checkpointBytes, m.checkpointFailures)
	return m
}

func gauge(ns, name, help string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: name, Help: help}, []string{"partition"})
}

func (m *Metrics) outcome(o *relay.Outcome) {
	m.states[o.State].Inc()
	if o.State == relay.Delivered && o.Attempts == 1 && !o.AcceptTime.IsZero() {
		m.firstAttempt.Observe(o.Time.Sub(o.AcceptTime).Seconds())
	}
}

func (m *Metrics) attempt(a *relay.Attempt) {
	kind := attemptKind{a.Verdict, a.Reason}
	counter, found := m.known.Load(kind)
	if !found {
		counter, _ = m.known.LoadOrStore(kind, m.attempts.WithLabelValues(string(a.Verdict), string(a.Reason)))
	}
	counter.(prometheus.Counter).Inc()
	m.attemptSeconds.Observe(a.Durations.Total.Seconds())
	for i, d := range [...]time.Duration{a.Durations.DNS, a.Durations.Connect, a.Durations.TLS, a.Durations.FirstByte} {
		if d > 0 {
			m.phases[i].Observe(d.Seconds())
		}
	}
}

func (m *Metrics) checkpoint(s saved) {
	m.checkpointSeconds.Observe(s.took.Seconds())
	m.checkpointBytes.Set(float64(s.size))
}

func (m *Metrics) observe(l *loop) {
	p := fmt.Sprint(l.o.Partition)
	m.inFlight.WithLabelValues(p).Set(float64(l.lanes.InFlight("")))
	m.laneBytes.WithLabelValues(p).Set(float64(l.lanes.Bytes()))
	m.unrouted.WithLabelValues(p).Set(float64(l.state.Cursor()))
	m.unrecorded.WithLabelValues(p).Set(float64(l.state.Routed() - l.state.Cursor()))
	open, ready := l.state.Waiting()
	m.open.WithLabelValues(p).Set(float64(open))
	m.openBytes.WithLabelValues(p).Set(float64(l.state.Bytes()))
	m.ready.WithLabelValues(p).Set(float64(ready))
	m.breakers.WithLabelValues(p).Set(float64(l.lanes.BreakersOpen()))
}

// typeName is what may be said of a panic: its value may quote a payload.
func typeName(p any) string { return fmt.Sprintf("%T", p) }
