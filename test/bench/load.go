package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
)

// tenant is whose events they are: each relay under test has its own data.
const tenant = "bench"

// stage is a relay with its endpoints, and the sink that plays them.
type stage struct {
	b         *bench
	relay     *relayProcess
	run       int // in the endpoints' URLs
	endpoints []*sealpostv1.Endpoint
	next      int // the next event's number
}

// setting says what a stage is like. Its zero value is one endpoint over plain HTTP that takes all as it is.
type setting struct {
	over      transport
	endpoints int                                  // 0: one
	redis     string                               // the view's URL; empty: embedded
	change    func(i int, ep *sealpostv1.Endpoint) // of each endpoint; may be nil
}

// transport is how an endpoint is reached.
type transport int

const (
	overHTTP transport = iota
	overTLS
	overMutualTLS
)

func (t transport) String() string { return [...]string{"HTTP", "TLS", "mutual TLS"}[t] }

// set starts a relay and registers its endpoints.
func (b *bench) set(ctx context.Context, s setting) (*stage, error) {
	r, err := startRelay(ctx, b.o.Program, b.dir, s.redis)
	if err != nil {
		return nil, err
	}
	b.runs++
	st := &stage{b: b, relay: r, run: b.runs}
	if err := st.register(ctx, s); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return st, nil
}

func (st *stage) register(ctx context.Context, s setting) error {
	base, err := st.b.listen(s.over, string(st.relay.roots))
	if err != nil {
		return err
	}
	service := sealpostv1.NewEndpointServiceClient(st.relay.client.Conn())
	for i := range max(1, s.endpoints) {
		ep := &sealpostv1.Endpoint{
			Tenant: tenant, Url: fmt.Sprintf("%s/%d/%d", base, st.run, i), Owner: "bench@example.com", Purpose: "benchmark",
			EventTypes: []string{"contact.*"}, Redaction: &sealpostv1.Redaction{Mode: sealpostv1.Redaction_NONE},
			Concurrency: BareWorkers, Tls: &sealpostv1.Tls{ClientCertificate: sealpostv1.Tls_NONE},
		}
		if s.over != overHTTP {
			ep.Tls.CaPem = st.b.ids.roots
		}
		if s.over == overMutualTLS {
			ep.Tls.ClientCertificate = sealpostv1.Tls_REQUIRED
		}
		if s.change != nil {
			s.change(i, ep)
		}
		made, err := service.CreateEndpoint(ctx, &sealpostv1.CreateEndpointRequest{Endpoint: ep})
		if err != nil {
			return fmt.Errorf("bench: endpoint: %w", err)
		}
		st.endpoints = append(st.endpoints, made.GetEndpoint())
	}
	return nil
}

// load is what is published in one pass.
type load struct {
	part   string
	events int
	// every is the time between events; 0: as fast as they are taken.
	every time.Duration
	// want is how many deliveries are to come; 0: one of each event to each endpoint.
	want int64
	// typed gives an event its type; nil: all have the same.
	typed func(i int) string
	// published runs when all events are acknowledged, and the pass's time begins anew with it; may be nil.
	published func(context.Context) error
}

// passed is what came of a load.
type passed struct {
	Pass
	began    time.Time
	accepted time.Duration // until the last acknowledgement
	took     time.Duration // until the last receipt; where load.published was called, from then on
	spent    usage         // by the relay; zero where the system does not tell
	starts   []int64       // when each event was published, Unix nanoseconds
}

// settles is how long the relay has, after the last receipt, to write what belongs to a pass.
const settles = 500 * time.Millisecond

// pass publishes a load, waits for its deliveries, and holds both against each other.
func (st *stage) pass(ctx context.Context, l load) (passed, error) {
	p := passed{Pass: Pass{Part: l.part, Published: l.events, Expected: l.want}}
	if l.want == 0 {
		p.Expected = int64(l.events) * int64(len(st.endpoints))
	}
	first := st.next
	st.next += l.events
	if _, err := st.b.sink.tell(order{
		Do: "begin", Run: st.run, First: first, Events: l.events, Endpoints: len(st.endpoints), Want: p.Expected,
	}); err != nil {
		return p, err
	}
	pid := st.relay.cmd.Process.Pid
	before, err := used(pid)
	if err != nil && !errors.Is(err, errNoUsage) {
		return p, err
	}
	if err := st.publish(ctx, l, first, &p); err != nil {
		return p, err
	}
	from := p.began
	if l.published != nil {
		from = time.Now()
		if err := l.published(ctx); err != nil {
			return p, err
		}
	}
	count, err := st.await(ctx, l.part, p.Expected)
	p.Received, p.Duplicates = count.Received, count.Duplicates
	if err != nil {
		return p, err
	}
	p.took = time.Unix(0, count.Completed).Sub(from)
	sleep(ctx, settles)
	if after, err := used(pid); err == nil {
		p.spent = usage{cpu: after.cpu - before.cpu, written: after.written - before.written}
	} else if !errors.Is(err, errNoUsage) {
		return p, err
	}
	// What was sent twice may have come after the last that was awaited.
	if count, err = st.b.sink.count(0); err != nil {
		return p, err
	}
	p.Duplicates = count.Duplicates
	st.b.report.Passes = append(st.b.report.Passes, p.Pass)
	return p, p.check()
}

// publish hands the events to the relay's client and waits until each is answered.
func (st *stage) publish(ctx context.Context, l load, first int, p *passed) error {
	publisher := st.relay.client.NewPublisher(client.PublisherOptions{})
	var kept int
	var refused error
	var last time.Time
	done := func(_ client.Receipt, err error) { // one at a time, and none after Close
		if last = time.Now(); err == nil {
			kept++
		} else if refused == nil {
			refused = err
		}
	}
	p.starts = make([]int64, l.events)
	p.began = time.Now()
	woke := p.began
	var err error
	for i := 0; i < l.events && err == nil; i++ {
		e := relay.Event{
			Tenant: tenant, ID: "bench-" + strconv.Itoa(first+i), Type: "contact.updated", Time: time.Unix(1_700_000_000, 0), Subject: "contact/1",
			Data: contact(first + i),
		}
		if l.typed != nil {
			e.Type = l.typed(i)
		}
		start := time.Now()
		if l.every > 0 {
			// An event that is late because the one before it was not taken counts from when it was due; the lateness of our own
			// timer is nobody's.
			due := p.began.Add(time.Duration(i) * l.every)
			if start.Before(due) {
				sleep(ctx, due.Sub(start))
				woke = time.Now()
			}
			start = due
			if woke.After(due) {
				start = woke
			}
		}
		p.starts[i] = start.UnixNano()
		err = publisher.Publish(ctx, e, done)
	}
	if err == nil {
		err = publisher.Flush(ctx)
	}
	err = errors.Join(err, publisher.Close(ctx))
	if err != nil {
		return fmt.Errorf("bench: publishing: %w", err)
	}
	p.Acknowledged, p.accepted = kept, last.Sub(p.began)
	if refused != nil {
		return fmt.Errorf("bench: %d of %d events were refused: %w", l.events-kept, l.events, refused)
	}
	return nil
}

// patience is how long nothing may come before deliveries are given up.
const patience = time.Minute

// await waits until all deliveries have come.
func (st *stage) await(ctx context.Context, part string, want int64) (tally, error) {
	var count tally
	moved := time.Now()
	for count.Completed == 0 {
		now, err := st.b.sink.count(time.Second)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return count, err
		}
		if now.Received > count.Received {
			moved = time.Now()
		}
		if count = now; time.Since(moved) > patience {
			return count, fmt.Errorf("bench: %s: %d of %d deliveries came, and then none for %v", part, count.Received, want, patience)
		}
		if count.Completed == 0 {
			st.b.say("%s: %d of %d deliveries", part, count.Received, want)
		}
	}
	return count, nil
}

// latencies are the times from publishing to the first receipt of all deliveries of the last pass that came, in milliseconds.
func (st *stage) latencies(p passed) ([]float64, error) {
	a, err := st.b.sink.tell(order{Do: "times"})
	if err != nil {
		return nil, err
	}
	var out []float64
	for i, at := range a.Times {
		if at != 0 {
			out = append(out, float64(at-p.starts[i%len(p.starts)])/1e6)
		}
	}
	return out, nil
}

// contact is an event's data of about 1 KiB, with fields that policies take out.
func contact(n int) []byte {
	b := make([]byte, 0, 1100)
	b = append(b, `{"contact":{"sequence":`...)
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, `,"name":"Ann Example","email":"ann@example.com","ssn":"078-05-1120","country":"DE","notes":"`...)
	return append(append(b, notes...), `"}}`...)
}

var notes = strings.Repeat("x", 900)

// sleep waits, or less where ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
