package tree

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	failures  prometheus.Counter
	published prometheus.Gauge
}

func newMetrics(r prometheus.Registerer, t *Tree) *metrics {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "sealpost", Name: name, Help: help}, value)
	}
	m := &metrics{
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "sealpost", Name: "audit_publish_failures_total", Help: "Checkpoints of the audit log that could not be written outside the data folder.",
		}),
		published: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "sealpost", Name: "audit_published_records", Help: "Audit records in the last checkpoint that this process wrote outside the data folder.",
		}),
	}
	r.MustRegister(m.failures, m.published,
		gauge("audit_tree_records", "Audit records in the newest signed checkpoint.", func() float64 { return float64(t.now().Size) }),
		gauge("audit_broken", "1 while the audit log is not what its checkpoints say, and no privileged act is done.", func() float64 {
			if t.Halted() != nil {
				return 1
			}
			return 0
		}))
	return m
}
