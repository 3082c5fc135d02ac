package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// metrics count what both faces do.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	acks    *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, services []*grpc.ServiceDesc) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealpost_api_calls_total", Help: "Calls answered, by method and code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sealpost_api_call_seconds", Help: "Time from a call's request to its answer; streams are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
		acks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealpost_api_events_total", Help: "Events that were published, one by one, by what became of them.",
		}, []string{"code"}),
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.acks} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for _, s := range services {
		for _, method := range s.Methods {
			m.calls.WithLabelValues(label(s.ServiceName, method.MethodName), codes.OK.String())
			m.seconds.WithLabelValues(label(s.ServiceName, method.MethodName))
		}
		for _, stream := range s.Streams {
			m.calls.WithLabelValues(label(s.ServiceName, stream.StreamName), codes.OK.String())
		}
	}
	for _, c := range []codes.Code{codes.OK, codes.InvalidArgument, codes.AlreadyExists, codes.ResourceExhausted} {
		m.acks.WithLabelValues(c.String())
	}
	return m, nil
}

func label(service, method string) string { return "/" + service + "/" + method }

func (m *metrics) call(method string, code codes.Code, took time.Duration) {
	m.calls.WithLabelValues(method, code.String()).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

func (m *metrics) stream(method string, code codes.Code) {
	m.calls.WithLabelValues(method, code.String()).Inc()
}

func (m *metrics) event(code codes.Code) { m.acks.WithLabelValues(code.String()).Inc() }
