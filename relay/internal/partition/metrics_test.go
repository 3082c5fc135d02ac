package partition

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
)

// one is a delivery's attempt and outcome.
func one() (*relay.Attempt, *relay.Outcome) {
	return &relay.Attempt{Verdict: relay.VerdictDone, Reason: relay.ReasonAccepted, Durations: relay.Durations{FirstByte: time.Millisecond, Total: time.Millisecond}},
		&relay.Outcome{State: relay.Delivered, Attempts: 2}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m := NewMetrics(registry)
	a, o := one()
	for range 3 {
		m.attempt(a)
		m.outcome(o)
	}
	m.attempt(&relay.Attempt{Verdict: relay.VerdictLater, Reason: relay.ReasonServerError})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, series := range f.Metric {
			name := f.GetName()
			for _, l := range series.Label {
				name += " " + l.GetValue()
			}
			got[name] = series.GetCounter().GetValue()
			if h := series.GetHistogram(); h != nil {
				got[name] = float64(h.GetSampleCount())
			}
		}
	}
	for name, want := range map[string]float64{
		"sealpost_delivery_outcomes_total DELIVERED": 3, "sealpost_delivery_outcomes_total DEAD": 0, "sealpost_delivery_outcomes_total UNMATCHED": 0,
		"sealpost_delivery_attempts_total ACCEPTED DONE": 3, "sealpost_delivery_attempts_total SERVER_ERROR LATER": 1,
		"sealpost_delivery_phase_seconds first_byte": 3, "sealpost_delivery_phase_seconds tls": 0, "sealpost_delivery_attempt_seconds": 4,
	} {
		if n, there := got[name]; !there || n != want {
			t.Errorf("%s is %v (there: %v), want %v", name, n, there, want)
		}
	}
}

func BenchmarkMetrics(b *testing.B) {
	m := NewMetrics(prometheus.NewRegistry())
	a, o := one()
	b.ReportAllocs()
	for b.Loop() {
		m.attempt(a)
		m.outcome(o)
	}
}
