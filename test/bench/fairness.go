package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
)

// One tenant floods, another publishes gently.
const (
	flooder        = "flood"
	floodEndpoints = 10 // each has every event of the flood
	floodClients   = 4  // each with as much unanswered as a client may have
	fairnessPairs  = 3
	floodGrows     = time.Second // until the flood has filled what it can fill
)

// fairness measures what one tenant's latency is beside another tenant's flood, and without it: by turns in each pair, so that a
// machine that drifts falls to neither side alone.
func (b *bench) fairness(ctx context.Context) error {
	part := fmt.Sprintf("fairness, %d events/s of one tenant beside another's flood, %d pairs", gentle, fairnessPairs)
	var calm, rough, ratios, floods []float64
	for i := range fairnessPairs {
		var p99 [2]float64
		for _, flooded := range []int{i % 2, 1 - i%2} {
			took, accepted, err := b.besideFlood(ctx, part, flooded == 1)
			if err != nil {
				return err
			}
			p99[flooded] = percentile(took, 99)
			if flooded == 1 {
				floods = append(floods, accepted)
			}
			b.say("%s: pair %d, flood of %s events/s: p50 %s ms, p99 %s ms", part, i+1, number(accepted), number(percentile(took, 50)), number(p99[flooded]))
		}
		calm, rough = append(calm, p99[0]), append(rough, p99[1])
		ratios = append(ratios, p99[1]/p99[0])
	}
	b.add(part, "p99 alone (median)", percentile(calm, 50), "ms", 0, nil)
	b.add(part, "p99 beside the flood (median)", percentile(rough, 50), "ms", 0, nil)
	b.add(part, "flood over alone (median of pairs)", percentile(ratios, 50), "x", 0, atMost(1.5))
	b.add(part, fmt.Sprintf("flood's events accepted, 1 to %d (median)", floodEndpoints), percentile(floods, 50), "/s", 0, nil)
	return nil
}

// besideFlood is what the gentle tenant's events took, in milliseconds, and how many of the flood's were accepted a second.
func (b *bench) besideFlood(ctx context.Context, part string, flooded bool) (took []float64, accepted float64, err error) {
	st, err := b.set(ctx, setting{endpoints: 1 + floodEndpoints, change: func(i int, ep *sealpostv1.Endpoint) {
		ep.Concurrency = 0 // the default
		if i > 0 {
			ep.Tenant = flooder
			ep.Url += "/well" // answered, and not counted
		}
	}})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, st.relay.close()) }()
	few := fewest / 2
	if _, err := st.pass(ctx, load{part: part + ", warming up", events: few, every: time.Second / gentle, want: int64(few)}); err != nil {
		return nil, 0, err
	}
	flooding, stop := context.WithCancel(ctx)
	defer stop()
	var kept atomic.Int64
	var floods sync.WaitGroup
	defer floods.Wait()
	defer stop()
	if flooded {
		for n := range floodClients {
			c, err := st.relay.dial()
			if err != nil {
				return nil, 0, err
			}
			floods.Go(func() { flood(flooding, c, n, &kept) })
		}
		sleep(ctx, floodGrows)
	}
	events := max(fewest/10, int(3*b.o.Lasting.Seconds()*gentle))
	from, before := time.Now(), kept.Load()
	p, err := st.pass(ctx, load{part: part, events: events, every: time.Second / gentle, want: int64(events)})
	if err != nil {
		return nil, 0, err
	}
	accepted = float64(kept.Load()-before) / time.Since(from).Seconds()
	if flooded != (accepted > 0) {
		return nil, 0, fmt.Errorf("bench: %s: %s events/s of the flood were accepted", part, number(accepted))
	}
	took, err = st.latencies(p, 0)
	return took, accepted, err
}

// flood publishes as fast as it is let, until ctx ends. What is refused then, or is not answered, is nobody's.
func flood(ctx context.Context, c *client.Client, n int, kept *atomic.Int64) {
	defer c.Close()
	publisher := c.NewPublisher(client.PublisherOptions{})
	for i := 0; ; i++ {
		err := publisher.Publish(ctx, relay.Event{
			Tenant: flooder, ID: "flood-" + strconv.Itoa(n) + "-" + strconv.Itoa(i), Type: "contact.updated",
			Time: time.Unix(1_700_000_000, 0), Subject: "contact/1", Data: contact(i),
		}, func(_ client.Receipt, err error) {
			if err == nil {
				kept.Add(1)
			}
		})
		if err != nil {
			break
		}
	}
	publisher.Close(ctx)
}
