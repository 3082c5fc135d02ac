package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
)

// How isolation is measured.
const (
	neighboursRate = 1000 // events a second, over all endpoints in turn
	pairs          = 5
	// Times as long as a figure usually takes: how long is published, and after what time an attempt fails that hangs. So each slot is
	// held by one that hangs, and each lane of theirs is full, for most of the time.
	illLasting = 6
	illTimeout = 3
)

// neighbourhood is some endpoints of which the first fall ill, each by its manner, once all have shown that they are fast.
type neighbourhood struct {
	endpoints int
	ill       []manner
}

// isolation is measured where three of ten fall ill, each in its own way.
func (b *bench) isolation(ctx context.Context) error {
	return b.isolate(ctx, neighbourhood{10, []manner{hangs, trickles, resets}})
}

// hanging is measured where a fifth of many hang: eight in flight of each are more than all slots.
func (b *bench) hanging(ctx context.Context) error {
	n := neighbourhood{endpoints: b.scaled(1000, 20)}
	for range n.endpoints / 5 {
		n.ill = append(n.ill, hangs)
	}
	return b.isolate(ctx, n)
}

// isolate measures the same load on the endpoints that are well, beside others that are well too, and beside those that are not.
// Each of the two has a relay of its own, in turns, so that neither a machine that drifts nor what the ill ones leave behind
// falls to one side alone.
func (b *bench) isolate(ctx context.Context, n neighbourhood) error {
	lasting := illLasting * b.o.Lasting
	part := fmt.Sprintf("isolation, %d of %d endpoints ill, %d events/s for %v, timeout %v, %d pairs",
		len(n.ill), n.endpoints, neighboursRate, lasting, illAttempt(b.o.Lasting), pairs)
	var calm, rough, ratios []float64
	for i := range pairs {
		with := map[bool]float64{}
		for _, ill := range []bool{i%2 == 1, i%2 == 0} {
			p99, err := b.neighbours(ctx, part, n, ill)
			if err != nil {
				return err
			}
			with[ill] = p99
			b.say("%s: pair %d, %d ill: %v, p99 of the well %s ms", part, i+1, len(n.ill), ill, number(p99))
		}
		calm, rough = append(calm, with[false]), append(rough, with[true])
		ratios = append(ratios, with[true]/with[false])
	}
	b.add(part, "p99 of the well, all well (median)", percentile(calm, 50), "ms", 0, nil)
	b.add(part, "p99 of the well, others ill (median)", percentile(rough, 50), "ms", 0, nil)
	b.add(part, "ill over well (median of pairs)", percentile(ratios, 50), "x", 0, b.whole(atMost(1.3)))
	return nil
}

// illAttempt is the endpoints' timeout: the default one where figures take their usual time.
func illAttempt(lasting time.Duration) time.Duration { return max(time.Second, illTimeout*lasting) }

// neighbours is the p99, in milliseconds, of the endpoints that are well in any case.
func (b *bench) neighbours(ctx context.Context, part string, n neighbourhood, ill bool) (float64, error) {
	st, err := b.set(ctx, setting{endpoints: n.endpoints, spread: true, apart: true, change: func(i int, ep *sealpostv1.Endpoint) {
		usual(i, ep)
		ep.Timeout = durationpb.New(illAttempt(b.o.Lasting))
	}})
	if err != nil {
		return 0, err
	}
	p99, err := st.neighbours(ctx, part, n, ill)
	return p99, errors.Join(err, st.close())
}

func (st *stage) neighbours(ctx context.Context, part string, n neighbourhood, ill bool) (float64, error) {
	// Twice as many as it takes for an endpoint to have all that it may have in flight.
	if _, err := st.pass(ctx, load{part: part + ", warming up", events: 16 * n.endpoints}); err != nil {
		return 0, err
	}
	rounds := max(2, int((illLasting*st.b.o.Lasting).Seconds()*neighboursRate)/n.endpoints)
	l := load{part: part, events: rounds * n.endpoints, every: time.Second / neighboursRate}
	if ill {
		for i, m := range n.ill {
			if err := st.behave(m, i); err != nil {
				return 0, err
			}
		}
		l.want = int64(rounds * (n.endpoints - len(n.ill)))
	}
	p, err := st.pass(ctx, l)
	if err != nil {
		return 0, err
	}
	count, err := st.b.sink.count(st.run, 0)
	if err != nil || ill != (count.Ill > 0) {
		return 0, errors.Join(err, fmt.Errorf("bench: %s: %d requests were not answered well", part, count.Ill))
	}
	took, err := st.latencies(p, len(n.ill))
	if err != nil {
		return 0, err
	}
	if want := rounds * (n.endpoints - len(n.ill)); len(took) != want {
		return 0, fmt.Errorf("bench: %s: %d latencies of %d deliveries", part, len(took), want)
	}
	// What hangs is let go, so that the relay can end at once.
	for i := range n.ill {
		err = errors.Join(err, st.behave(resets, i))
	}
	return percentile(took, 99), err
}
