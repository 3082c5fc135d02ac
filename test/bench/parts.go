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
		{"accept", "publishing at full speed what no endpoint wants", false, (*bench).accept},
		{"tls", "end to end over TLS and mutual TLS", false, (*bench).secured},
		{"redaction", "end to end with a policy that removes one field and masks another", false, (*bench).redacted},
		{"schemes", "end to end with each signature scheme, HMAC, Ed25519 and RSA", false, (*bench).schemes},
		{redisPart, "end to end with the view in a Redis, where --redis names one", false, (*bench).redisView},
		{"fan-out", "each event to 200 endpoints, and to 1,000", false, (*bench).fanOut},
		{"endpoints", "10, 1,000 and 10,000 endpoints on as many addresses, each event to one", false, (*bench).manyEndpoints},
		{"isolation", "seven endpoints beside three that hang, trickle and reset, and beside three that are well", false, (*bench).isolation},
		{"hanging", "800 endpoints beside 200 that hang, more than there are slots, and beside 200 that are well", false, (*bench).hanging},
		{"fairness", "one tenant gently, beside another's flood and alone", false, (*bench).fairness},
		{"drain", "what was parked for a paused endpoint, when it resumes", false, (*bench).drain},
		{"backlog", "a million deliveries for one dead endpoint: memory, disk, start, drain, live traffic meanwhile", false, (*bench).backlog},
		{"interleaved", "a million deliveries for 1,000 dead endpoints that come back, half of them taking ten a second", false, (*bench).interleaved},
	}
}

// bareAlone is what all else is held against, for the record: beside each figure it is measured again.
func (b *bench) bareAlone(ctx context.Context) error {
	for _, over := range []transport{overHTTP, overMutualTLS} {
		best, err := b.around(ctx, over, func() error { return nil })
		if err != nil {
			return err
		}
		part := fmt.Sprintf("bare client, %v", over)
		b.add(part, "requests", best.rate, "/s", 0, nil)
		b.add(part, "CPU for 10,000", best.cpu, "s", 0, nil)
	}
	return nil
}

func (b *bench) endToEnd(ctx context.Context) error {
	m, err := b.measured(ctx, "end to end, HTTP", setting{}, atLeastBare(0.5), atMostBare(3))
	b.half = m.rate / 2
	return err
}

// measurement is what a setting did at full speed.
type measurement struct {
	rate float64 // deliveries a second
	bare float64 // requests a second of the bare client beside it
}

// measured adds what a setting does at full speed. The goals are those of its deliveries a second and of its CPU; they may be nil.
func (b *bench) measured(ctx context.Context, part string, s setting, rate, cpu *Goal) (measurement, error) {
	var p passed
	beside, err := b.around(ctx, s.over, func() error {
		st, err := b.set(ctx, s)
		if err != nil {
			return err
		}
		p, err = st.fullSpeed(ctx, part)
		return errors.Join(err, st.close())
	})
	if err != nil {
		return measurement{}, err
	}
	delivered := float64(p.Received)
	m := measurement{delivered / p.took.Seconds(), beside.rate}
	b.add(part, "deliveries", m.rate, "/s", beside.rate, rate)
	b.addAccepted(part, p, delivered, "deliveries", beside, cpu)
	return m, nil
}

// addAccepted adds the rate at which events were accepted, and what the relay used for 10,000 of what.
func (b *bench) addAccepted(part string, p passed, n float64, what string, beside bare, cpu *Goal) {
	b.add(part, "events accepted", float64(p.Acknowledged)/p.accepted.Seconds(), "/s", beside.rate, nil)
	if p.spent.cpu > 0 {
		b.add(part, "CPU of the relay for 10,000 "+what, p.spent.cpu/n*10_000, "s", beside.cpu, cpu)
		b.add(part, "written by the relay for 10,000 "+what, float64(p.spent.written)/n*10_000/1e6, "MB", 0, nil)
	}
}

// rate adds what a setting for which no goal is set does at full speed.
func (b *bench) rate(ctx context.Context, part string, s setting) error {
	_, err := b.measured(ctx, part, s, nil, nil)
	return err
}

// accept has nothing delivered: the only endpoint wants other events.
func (b *bench) accept(ctx context.Context) error {
	part := "accepting alone"
	var p passed
	beside, err := b.around(ctx, overHTTP, func() error {
		st, err := b.set(ctx, setting{change: func(_ int, ep *sealpostv1.Endpoint) { ep.EventTypes = []string{"deal.*"} }})
		if err != nil {
			return err
		}
		p, err = st.acceptAlone(ctx, part)
		return errors.Join(err, st.close())
	})
	if err != nil {
		return err
	}
	b.addAccepted(part, p, float64(p.Acknowledged), "events", beside, nil)
	return nil
}

func (st *stage) acceptAlone(ctx context.Context, part string) (passed, error) {
	once := func(events int) (passed, error) {
		p, err := st.publishAll(ctx, load{part: part, events: events, want: -1})
		if err != nil {
			return p, err
		}
		return p, st.account(ctx, &p)
	}
	for events := fewest; ; events *= 4 {
		p, err := once(events)
		if err != nil {
			return p, err
		}
		if p.accepted > st.b.o.Lasting/10 || events >= most/10 {
			return once(st.lasting(float64(events) / p.accepted.Seconds()))
		}
	}
}

func (b *bench) secured(ctx context.Context) error {
	for _, over := range []transport{overTLS, overMutualTLS} {
		if err := b.rate(ctx, fmt.Sprintf("end to end, %v", over), setting{over: over}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) redacted(ctx context.Context) error {
	return b.rate(ctx, "end to end, redacted", setting{change: func(_ int, ep *sealpostv1.Endpoint) {
		ep.Redaction = &sealpostv1.Redaction{
			Mode: sealpostv1.Redaction_DENY_LISTED, Drop: []string{"**.ssn"}, Mask: []*sealpostv1.Mask{{Path: "**.email", KeepLast: 4}},
		}
	}})
}

func (b *bench) schemes(ctx context.Context) error {
	for _, scheme := range signer.Schemes() {
		part := fmt.Sprintf("end to end, scheme %s", scheme)
		if err := b.rate(ctx, part, setting{change: func(_ int, ep *sealpostv1.Endpoint) { ep.Scheme = string(scheme) }}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) fanOut(ctx context.Context) error {
	for _, n := range []int{b.scaled(200, 2), b.scaled(1000, 3)} {
		if err := b.rate(ctx, fmt.Sprintf("end to end, 1 event to %d endpoints", n), setting{endpoints: n, change: usual}); err != nil {
			return err
		}
	}
	return nil
}

// manyEndpoints are held against few by their ratios to the bare client, which drifts with the machine.
func (b *bench) manyEndpoints(ctx context.Context) error {
	var few measurement
	for i, n := range []int{10, b.scaled(1000, 20), b.scaled(10_000, 40)} {
		part := fmt.Sprintf("end to end, each event to 1 of %d endpoints", n)
		m, err := b.measured(ctx, part, setting{endpoints: n, spread: true, apart: true, change: usual}, nil, nil)
		if err != nil {
			return err
		}
		if i == 0 {
			few = m
			continue
		}
		b.add(part, "deliveries against those at 10, both over bare", m.rate/m.bare/(few.rate/few.bare), "x", 0, b.whole(atLeast(0.8)))
	}
	return nil
}

// redisPart is left out where no Redis is named.
const redisPart = "redis"

func (b *bench) redisView(ctx context.Context) error {
	return b.rate(ctx, "end to end, view in Redis", setting{redis: b.o.Redis})
}

// drain pauses the endpoint, publishes, and measures from the resumption on.
func (b *bench) drain(ctx context.Context) error {
	part := "drain of a paused endpoint, HTTP"
	var p passed
	beside, err := b.around(ctx, overHTTP, func() error {
		st, err := b.set(ctx, setting{})
		if err != nil {
			return err
		}
		p, err = st.drain(ctx, part)
		return errors.Join(err, st.close())
	})
	if err != nil {
		return err
	}
	b.add(part, "deliveries", float64(p.Received)/p.took.Seconds(), "/s", beside.rate, atLeastBare(0.75))
	b.add(part, "events accepted while paused", float64(p.Acknowledged)/p.accepted.Seconds(), "/s", beside.rate, nil)
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
	for events := st.few(); ; {
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
	most := most
	if !st.spread {
		most = min(most, maxTracked/len(st.endpoints))
	}
	return min(max(st.few(), int(rate*st.b.o.Lasting.Seconds())), most)
}

// few is the least that is published in a pass: where events are spread, enough for each endpoint to show that it is fast.
func (st *stage) few() int {
	if st.spread {
		return max(fewest, 4*len(st.endpoints))
	}
	return max(2, fewest/len(st.endpoints))
}

const gentle = 50 // events a second

func (b *bench) latency(ctx context.Context) error {
	st, err := b.set(ctx, setting{})
	if err != nil {
		return err
	}
	part := fmt.Sprintf("latency at %d events/s, publish to receipt", gentle)
	return errors.Join(b.gentleLatency(ctx, st, part), st.close())
}

func (b *bench) gentleLatency(ctx context.Context, st *stage, part string) error {
	if _, err := st.warm(ctx, part); err != nil {
		return err
	}
	every := time.Second / gentle
	var p passed
	bare, err := b.withTrips(ctx, 2*b.o.Lasting, func() (err error) {
		p, err = st.pass(ctx, load{part: part, events: max(fewest/10, int(2*b.o.Lasting/every)), every: every})
		return err
	})
	if err != nil {
		return err
	}
	took, err := st.latencies(p, 0)
	if err != nil {
		return err
	}
	b.addLatencies(part, took, bare, atMost(1.5), atMost(5))
	return nil
}

// withTrips has the bare client make requests at a gentle rate for about so long, while a figure is taken, and returns how many
// milliseconds each took.
func (b *bench) withTrips(ctx context.Context, lasting time.Duration, figure func() error) ([]float64, error) {
	every := time.Second / gentle
	done := make(chan trips, 1)
	go func() {
		sleep(ctx, every/2) // between two events
		done <- roundTrips(ctx, b.plain+"/bare", max(fewest/10, int(lasting/every)), every)
	}()
	err := figure()
	bare := <-done
	return bare.took, errors.Join(err, bare.err)
}

// addLatencies adds what is known of latencies in milliseconds; the goals may be nil.
func (b *bench) addLatencies(part string, took, bare []float64, p50, p99 *Goal) {
	for _, p := range []struct {
		name string
		at   int
		goal *Goal
	}{{"p50", 50, p50}, {"p99", 99, p99}, {"max", 100, nil}} {
		b.add(part, p.name, percentile(took, p.at), "ms", percentile(bare, p.at), p.goal)
	}
}

func (b *bench) latencyHalf(ctx context.Context) error {
	st, err := b.set(ctx, setting{})
	if err != nil {
		return err
	}
	return errors.Join(b.halfLatency(ctx, st), st.close())
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
	var p passed
	bare, err := b.withTrips(ctx, b.o.Lasting, func() (err error) {
		p, err = st.pass(ctx, load{part: part, events: st.lasting(rate / 2), every: time.Duration(2e9 / rate)})
		return err
	})
	if err != nil {
		return err
	}
	took, err := st.latencies(p, 0)
	if err != nil {
		return err
	}
	b.add(part, "events published", float64(len(p.starts)-1)*1e9/float64(slices.Max(p.starts)-slices.Min(p.starts)), "/s", 0, nil)
	b.addLatencies(part, took, bare, nil, nil)
	return nil
}
