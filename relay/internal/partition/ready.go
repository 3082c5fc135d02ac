package partition

import "runtime/metrics"

// ready counts the goroutines of this process that wait for a processor: where many do, whatever is sent beside them waits too.
type ready struct{ samples []metrics.Sample }

const readyMetric = "/sched/goroutines/runnable:goroutines"

func (r *ready) count() int {
	if r.samples == nil {
		r.samples = []metrics.Sample{{Name: readyMetric}}
	}
	metrics.Read(r.samples)
	if r.samples[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a runtime that does not tell holds nobody back
	}
	return int(r.samples[0].Value.Uint64())
}
