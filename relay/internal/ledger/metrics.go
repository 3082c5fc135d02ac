package ledger

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all projectors of a process.
type Metrics struct {
	outcomes prometheus.Counter
	seconds  prometheus.Histogram
	failures prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		outcomes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sealpost", Name: "view_outcomes_total", Help: "Outcomes applied to the view."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "sealpost", Name: "view_apply_seconds", Help: "Time to apply a group of outcomes.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "sealpost", Name: "view_failures_total", Help: "Times the view could not be read or written."}),
	}
	r.MustRegister(m.outcomes, m.seconds, m.failures)
	return m
}

func (m *Metrics) applied(n int, took time.Duration) {
	m.outcomes.Add(float64(n))
	m.seconds.Observe(took.Seconds())
}
