package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
)

// Of ten endpoints the first three are ill, each in its own way, or well, for comparison.
const (
	neighbours     = 10
	neighboursRate = 1000 // events a second, over all of them in turn
	neighboursWait = 5 * time.Second
	pairs          = 5
)

var illnesses = [...]string{"hang", "trickle", "reset"}

// isolation measures the same load on the endpoints that are well, beside three that are well too, and beside three that are not.
// Each of the two has a relay of its own, in turns, so that neither a machine that drifts nor what the ill ones leave behind
// falls to one side alone.
func (b *bench) isolation(ctx context.Context) error {
	part := fmt.Sprintf("isolation, %d events/s to %d endpoints, %d pairs", neighboursRate, neighbours, pairs)
	var calm, rough, ratios []float64
	for i := range pairs {
		with := map[bool]float64{}
		for _, ill := range []bool{i%2 == 1, i%2 == 0} {
			p99, err := b.neighbours(ctx, part, ill)
			if err != nil {
				return err
			}
			with[ill] = p99
			b.say("%s: pair %d, three ill: %v, p99 of the well %s ms", part, i+1, ill, number(p99))
		}
		calm, rough = append(calm, with[false]), append(rough, with[true])
		ratios = append(ratios, with[true]/with[false])
	}
	b.add(part, "p99 of seven, all well (median)", percentile(calm, 50), "ms", 0)
	b.add(part, "p99 of seven, three others ill (median)", percentile(rough, 50), "ms", 0)
	b.add(part, "ill over well (median of pairs)", percentile(ratios, 50), "x", 0)
	return nil
}

// neighbours is the p99, in milliseconds, of the endpoints that are well in any case.
func (b *bench) neighbours(ctx context.Context, part string, ill bool) (float64, error) {
	st, err := b.set(ctx, setting{endpoints: neighbours, change: func(i int, ep *sealpostv1.Endpoint) {
		ep.EventTypes = []string{kind(i)}
		ep.Concurrency = 0 // the default
		ep.Timeout = durationpb.New(neighboursWait)
		switch {
		case i >= len(illnesses):
		case ill:
			ep.Url += "/" + illnesses[i]
		default:
			ep.Url += "/well"
		}
	}})
	if err != nil {
		return 0, err
	}
	p99, err := st.neighbours(ctx, part)
	if count, failed := b.sink.count(0); err == nil && (failed != nil || ill != (count.Ill > 0)) {
		err = errors.Join(failed, fmt.Errorf("bench: %s: %d requests were not answered well", part, count.Ill))
	}
	return p99, errors.Join(err, st.relay.close())
}

func (st *stage) neighbours(ctx context.Context, part string) (float64, error) {
	well := neighbours - len(illnesses)
	few := 100 * well
	if _, err := st.pass(ctx, load{
		part: part + ", warming up", events: few, every: time.Second / neighboursRate, want: int64(few),
		typed: func(i int) string { return kind(len(illnesses) + i%well) },
	}); err != nil {
		return 0, err
	}
	// Three times as long as an attempt that hangs, at least where figures take their usual time.
	rounds := max(10, int(3*st.b.o.Lasting.Seconds()*neighboursRate)/neighbours)
	p, err := st.pass(ctx, load{
		part: part, events: rounds * neighbours, every: time.Second / neighboursRate, want: int64(rounds * well),
		typed: func(i int) string { return kind(i % neighbours) },
	})
	if err != nil {
		return 0, err
	}
	took, err := st.latencies(p)
	if err != nil {
		return 0, err
	}
	if len(took) != rounds*well {
		return 0, fmt.Errorf("bench: %s: %d latencies of %d deliveries", part, len(took), rounds*well)
	}
	return percentile(took, 99), nil
}

// kind is the type of the events that go to one endpoint.
func kind(i int) string { return fmt.Sprintf("contact.for_%d", i) }
