package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/signer"
)

// Parts are what can be measured, in the order of a run.
func Parts() []Part {
	return []Part{
		{"bare", "the bare client, over HTTP and mutual TLS", true, (*bench).bareAlone},
		{"end-to-end", "publishing at full speed to one endpoint over HTTP", true, (*bench).endToEnd},
		{"latency", "publishing 50 events a second, and the bare client 50 requests", true, (*bench).latency},
		{"latency-half", "publishing half of the rate that end to end reaches", false, (*bench).latencyHalf},
		{"tls", "end to end over TLS and mutual TLS", false, (*bench).secured},
		{"redaction", "end to end with a policy that removes one field and masks another", false, (*bench).redacted},
		{"schemes", "end to end with each signature scheme", false, (*bench).schemes},
		{"fan-out", "end to end to 200 endpoints at once", false, (*bench).fanOut},
		{"drain", "what was parked for a paused endpoint, when it resumes", false, (*bench).drain},
		{"isolation", "seven endpoints beside three that hang, trickle and reset, and beside three that are well", false, (*bench).isolation},
		{redisPart, "end to end with the view in a Redis, where --redis names one", false, (*bench).redisView},
	}
}

// bareAlone is what all else is held against, for the record: beside each figure it is measured again.
func (b *bench) bareAlone(ctx context.Context) error {
	for _, over := range []transport{overHTTP, overMutualTLS} {
		best, err := b.beside(ctx, over, func() error { return nil })
		if err != nil {
			return err
		}
		part := fmt.Sprintf("bare client, %v", over)
		b.add(part, "requests", best.rate, "/s", 0)
		b.add(part, "CPU for 10,000", best.cpu, "s", 0)
	}
	return nil
}

func (b *bench) endToEnd(ctx context.Context) error {
	rate, err := b.rate(ctx, "end to end, HTTP", setting{})
	b.half = rate / 2
	return err
}

// rate measures what a setting does at full speed, and returns its deliveries a second.
func (b *bench) rate(ctx context.Context, part string, s setting) (float64, error) {
	var p passed
	beside, err := b.beside(ctx, s.over, func() error {
		st, err := b.set(ctx, s)
		if err != nil {
			return err
		}
		p, err = st.fullSpeed(ctx, part)
		return errors.Join(err, st.relay.close())
	})
	if err != nil {
		return 0, err
	}
	delivered := float64(p.Received)
	rate := delivered / p.took.Seconds()
	b.add(part, "deliveries", rate, "/s", beside.rate)
	b.add(part, "events accepted", float64(p.Acknowledged)/p.accepted.Seconds(), "/s", beside.rate)
	if p.spent.cpu > 0 {
		b.add(part, "CPU of the relay for 10,000 deliveries", p.spent.cpu/delivered*10_000, "s", beside.cpu)
		b.add(part, "written by the relay for 10,000 deliveries", float64(p.spent.written)/delivered*10_000/1e6, "MB", 0)
	}
	return rate, nil
}

func (b *bench) secured(ctx context.Context) error {
	for _, over := range []transport{overTLS, overMutualTLS} {
		if _, err := b.rate(ctx, fmt.Sprintf("end to end, %v", over), setting{over: over}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) redacted(ctx context.Context) error {
	_, err := b.rate(ctx, "end to end, redacted", setting{change: func(_ int, ep *sealpostv1.Endpoint) {
		ep.Redaction = &sealpostv1.Redaction{
			Mode: sealpostv1.Redaction_DENY_LISTED, Drop: []string{"**.ssn"}, Mask: []*sealpostv1.Mask{{Path: "**.email", KeepLast: 4}},
		}
	}})
	return err
}

func (b *bench) schemes(ctx context.Context) error {
	for _, scheme := range []signer.Scheme{
		signer.Standard, signer.StandardEd25519, signer.RFC9421, signer.TimestampHMAC, signer.TimestampHMAC256, signer.RSASHA256,
	} {
		part := fmt.Sprintf("end to end, scheme %s", scheme)
		if _, err := b.rate(ctx, part, setting{change: func(_ int, ep *sealpostv1.Endpoint) { ep.Scheme = string(scheme) }}); err != nil {
			return err
		}
	}
	return nil
}

const fanOut = 200

func (b *bench) fanOut(ctx context.Context) error {
	_, err := b.rate(ctx, fmt.Sprintf("end to end, 1 event to %d endpoints", fanOut), setting{
		endpoints: fanOut, change: func(_ int, ep *sealpostv1.Endpoint) { ep.Concurrency = 0 }, // the default
	})
	return err
}

// redisPart is left out where no Redis is named.
const redisPart = "redis"

func (b *bench) redisView(ctx context.Context) error {
	_, err := b.rate(ctx, "end to end, view in Redis", setting{redis: b.o.Redis})
	return err
}

// drain pauses the endpoint, publishes, and measures from the resumption on.
func (b *bench) drain(ctx context.Context) error {
	part := "drain of a paused endpoint, HTTP"
	var p passed
	beside, err := b.beside(ctx, overHTTP, func() error {
		st, err := b.set(ctx, setting{})
		if err != nil {
			return err
		}
		p, err = st.drain(ctx, part)
		return errors.Join(err, st.relay.close())
	})
	if err != nil {
		return err
	}
	b.add(part, "deliveries", float64(p.Received)/p.took.Seconds(), "/s", beside.rate)
	b.add(part, "events accepted while paused", float64(p.Acknowledged)/p.accepted.Seconds(), "/s", beside.rate)
	return nil
}

func (st *stage) drain(ctx context.Context, part string) (passed, error) {
	rate, err := st.warm(ctx, part)
	if err != nil {
		return passed{}, err
	}
	service := sealpostv1.NewEndpointServiceClient(st.relay.client.Conn())
	id := st.endpoints[0].GetId()
	if _, err := service.PauseEndpoint(ctx, &sealpostv1.PauseEndpointRequest{Tenant: tenant, Id: id, Reason: "benchmark"}); err != nil {
		return passed{}, fmt.Errorf("bench: pause: %w", err)
	}
	return st.pass(ctx, load{part: part, events: st.lasting(2 * rate), published: func(ctx context.Context) error {
		if _, err := service.ResumeEndpoint(ctx, &sealpostv1.ResumeEndpointRequest{Tenant: tenant, Id: id}); err != nil {
			return fmt.Errorf("bench: resume: %w", err)
		}
		return nil
	}})
}

// Bounds of a full-speed pass, in events.
const (
	fewest = 200
	most   = 2_000_000
)

// warm publishes until connections are open and concurrency has grown, and returns how many events a second go through.
func (st *stage) warm(ctx context.Context, part string) (float64, error) {
	rate := 0.0
	for events := max(2, fewest/len(st.endpoints)); ; {
		p, err := st.pass(ctx, load{part: part + ", warming up", events: events})
		if err != nil {
			return 0, err
		}
		rate = float64(events) / p.took.Seconds() // of events, whatever the fan-out
		enough := rate * st.b.o.Lasting.Seconds() / 5
		if float64(events) >= enough/2 || events >= most/10 {
			return rate, nil
		}
		events = min(most/10, 4*events)
	}
}

// fullSpeed publishes, after warming up, as many events as should take the time of a figure.
func (st *stage) fullSpeed(ctx context.Context, part string) (passed, error) {
	rate, err := st.warm(ctx, part)
	if err != nil {
		return passed{}, err
	}
	return st.pass(ctx, load{part: part, events: st.lasting(rate)})
}

// lasting is how many events take the time of a figure at a rate.
func (st *stage) lasting(rate float64) int {
	return min(max(2, fewest/len(st.endpoints), int(rate*st.b.o.Lasting.Seconds())), most, maxTracked/len(st.endpoints))
}

const gentle = 50 // events a second

func (b *bench) latency(ctx context.Context) error {
	st, err := b.set(ctx, setting{})
	if err != nil {
		return err
	}
	part := fmt.Sprintf("latency at %d events/s, publish to receipt", gentle)
	return errors.Join(b.gentleLatency(ctx, st, part), st.relay.close())
}

func (b *bench) gentleLatency(ctx context.Context, st *stage, part string) error {
	if _, err := st.warm(ctx, part); err != nil {
		return err
	}
	every := time.Second / gentle
	events := max(fewest/10, int(2*b.o.Lasting/every))
	trips := make(chan trips, 1)
	go func() {
		sleep(ctx, every/2) // between two events
		trips <- roundTrips(ctx, b.plain+"/bare", events, every)
	}()
	p, err := st.pass(ctx, load{part: part, events: events, every: every})
	bare := <-trips
	if err = errors.Join(err, bare.err); err != nil {
		return err
	}
	took, err := st.latencies(p)
	if err != nil {
		return err
	}
	b.addLatencies(part, took, bare.took)
	return nil
}

func (b *bench) addLatencies(part string, took, bare []float64) {
	for _, p := range []struct {
		name string
		at   int
	}{{"p50", 50}, {"p99", 99}, {"max", 100}} {
		b.add(part, p.name, percentile(took, p.at), "ms", percentile(bare, p.at))
	}
}

func (b *bench) latencyHalf(ctx context.Context) error {
	st, err := b.set(ctx, setting{})
	if err != nil {
		return err
	}
	return errors.Join(b.halfLatency(ctx, st), st.relay.close())
}

func (b *bench) halfLatency(ctx context.Context, st *stage) error {
	part := "latency at half of the rate, publish to receipt"
	rate, err := st.warm(ctx, part)
	if err != nil {
		return err
	}
	if b.half > 0 {
		rate = 2 * b.half
	}
	p, err := st.pass(ctx, load{part: part, events: st.lasting(rate / 2), every: time.Duration(2e9 / rate)})
	if err != nil {
		return err
	}
	took, err := st.latencies(p)
	if err != nil {
		return err
	}
	b.add(part, "events published", float64(len(p.starts)-1)*1e9/float64(slices.Max(p.starts)-slices.Min(p.starts)), "/s", 0)
	b.addLatencies(part, took, nil)
	return nil
}
