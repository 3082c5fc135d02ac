package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
)

// tenant is whose events they are: each relay under test has its own data.
const tenant = "bench"

// stage is a relay with endpoints of one sort, and the sink that plays them. Several may share a relay.
type stage struct {
	b         *bench
	relay     *relayProcess
	run       int // in the endpoints' URLs, and in the type of their events
	spread    bool
	endpoints []*sealpostv1.Endpoint
	kinds     []string // of events: where they are spread, one for each endpoint, otherwise one
	next      int      // the next event's number
}

// setting says what a stage is like. Its zero value is one endpoint over plain HTTP that takes all as it is.
type setting struct {
	over      transport
	endpoints int                                  // 0: one
	spread    bool                                 // each event is for one endpoint, in turns; otherwise for all
	apart     bool                                 // each endpoint has a loopback address of its own
	redis     string                               // the view's URL; empty: embedded
	configure []string                             // more of the relay's environment
	change    func(i int, ep *sealpostv1.Endpoint) // of each endpoint; may be nil
}

// usual is a change that leaves an endpoint the default number of requests in flight.
func usual(_ int, ep *sealpostv1.Endpoint) { ep.Concurrency = 0 }

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
	if err := enoughFiles(s.endpoints, openFiles()); err != nil {
		return nil, err
	}
	r, err := startRelay(ctx, b.o.Program, b.dir, s)
	if err != nil {
		return nil, err
	}
	st, err := b.beside(ctx, r, s)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return st, nil
}

// spareFiles are those that a process needs beside its connections.
const spareFiles = 1000

// enoughFiles tells whether each endpoint can have a connection, under a limit of open files; 0: not known.
func enoughFiles(endpoints int, limit uint64) error {
	if need := uint64(endpoints) + spareFiles; limit > 0 && need > limit {
		return fmt.Errorf("bench: %d endpoints need %d open files, and a process may have %d: raise it (ulimit -Hn) or use --scale", endpoints, need, limit)
	}
	return nil
}

// beside registers more endpoints at a relay that runs.
func (b *bench) beside(ctx context.Context, r *relayProcess, s setting) (*stage, error) {
	b.runs++
	st := &stage{b: b, relay: r, run: b.runs, spread: s.spread}
	st.kinds = []string{fmt.Sprintf("contact_%d.updated", st.run)}
	if s.spread {
		st.kinds = make([]string, max(1, s.endpoints))
		for i := range st.kinds {
			st.kinds[i] = fmt.Sprintf("contact_%d.for_%d", st.run, i)
		}
	}
	return st, st.register(ctx, s)
}

// close ends the relay. What the sink knows of its endpoints is forgotten.
func (st *stage) close() error {
	_, err := st.b.sink.tell(order{Do: "forget", Run: st.run})
	return errors.Join(err, st.relay.close())
}

// registering is how many endpoints are registered at a time.
const registering = 64

func (st *stage) register(ctx context.Context, s setting) error {
	base, err := st.b.listen(s.over, string(st.relay.roots), s.apart)
	if err != nil {
		return err
	}
	service := sealpostv1.NewEndpointServiceClient(st.relay.client.Conn())
	st.endpoints = make([]*sealpostv1.Endpoint, max(1, s.endpoints))
	began, told := time.Now(), time.Now()
	var done int
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(registering)
	for i := range st.endpoints {
		group.Go(func() error {
			made, err := service.CreateEndpoint(ctx, &sealpostv1.CreateEndpointRequest{Endpoint: st.endpoint(s, base, i)})
			if err != nil {
				return fmt.Errorf("bench: endpoint: %w", err)
			}
			st.endpoints[i] = made.GetEndpoint()
			mu.Lock()
			defer mu.Unlock()
			if done++; time.Since(told) > time.Second {
				told = time.Now()
				st.b.say("%d of %d endpoints registered, %s a second", done, len(st.endpoints), number(float64(done)/time.Since(began).Seconds()))
			}
			return nil
		})
	}
	return group.Wait()
}

// endpoint is the ith of a setting, to be registered.
func (st *stage) endpoint(s setting, base string, i int) *sealpostv1.Endpoint {
	if s.apart {
		base = strings.Replace(base, "127.0.0.1", loopbackAddress(i), 1)
	}
	ep := &sealpostv1.Endpoint{
		Tenant: tenant, Url: fmt.Sprintf("%s/%d/%d", base, st.run, i), Owner: "bench@example.com", Purpose: "benchmark",
		EventTypes: []string{st.kinds[i%len(st.kinds)]}, Redaction: &sealpostv1.Redaction{Mode: sealpostv1.Redaction_NONE},
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
	return ep
}

// loopbackAddress is the ith of 127.0.0.0/8, beginning with 127.0.1.1.
func loopbackAddress(i int) string {
	const each = 250 // in the last byte, from 1 on
	return fmt.Sprintf("127.%d.%d.%d", i/each/200, 1+i/each%200, 1+i%each)
}

// behave has the sink's endpoints act in a manner from now on: those numbered.
func (st *stage) behave(m manner, which ...int) error {
	_, err := st.b.sink.tell(order{Do: "behave", Run: st.run, Manner: m, Which: which})
	return err
}

// load is what is published in one pass.
type load struct {
	part   string
	events int
	// every is the time between events; 0: as fast as they are taken.
	every time.Duration
	// want is how many deliveries are to come; 0: all, of each event to each endpoint, or to its own where they are spread; below
	// 0: none is waited for.
	want int64
	// published runs when all events are acknowledged, and the pass's time begins anew with it; may be nil.
	published func(context.Context) error
}

// passed is what came of a load.
type passed struct {
	Pass
	began    time.Time
	accepted time.Duration // until the last acknowledgement
	took     time.Duration // until the last receipt; where load.published was called, from then on
	before   usage         // by the relay
	spent    usage         // by the relay since; zero where the system does not tell
	starts   []int64       // when each event was published, Unix nanoseconds
}

// settles is how long the relay has, after the last receipt, to write what belongs to a pass; what the view lacks then is waited for.
const settles = 500 * time.Millisecond

// deliveries is how many come of so many events.
func (st *stage) deliveries(events int) int64 {
	if st.spread {
		return int64(events)
	}
	return int64(events) * int64(len(st.endpoints))
}

// pass publishes a load, waits for its deliveries, and holds both against each other.
func (st *stage) pass(ctx context.Context, l load) (passed, error) {
	p, err := st.publishAll(ctx, l)
	if err != nil {
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
	return p, st.account(ctx, &p)
}

// publishAll tells the sink what will come, and publishes it.
func (st *stage) publishAll(ctx context.Context, l load) (passed, error) {
	p := passed{Pass: Pass{Part: l.part, Published: l.events, Expected: max(0, l.want)}}
	if l.want == 0 {
		p.Expected = st.deliveries(l.events)
	}
	first := st.next
	st.next += l.events
	if _, err := st.b.sink.tell(order{
		Do: "begin", Run: st.run, First: first, Events: l.events, Endpoints: len(st.endpoints), Spread: st.spread, Want: p.Expected,
	}); err != nil {
		return p, err
	}
	var err error
	if p.before, err = used(st.relay.pid()); err != nil && !errors.Is(err, errNoUsage) {
		return p, err
	}
	return p, st.publish(ctx, l, first, &p)
}

// account closes the books of a pass, once all that was awaited is there.
func (st *stage) account(ctx context.Context, p *passed) error {
	sleep(ctx, settles)
	if err := st.relay.awaitView(ctx); err != nil {
		return err
	}
	if after, err := used(st.relay.pid()); err == nil {
		p.spent = after.since(p.before)
	} else if !errors.Is(err, errNoUsage) {
		return err
	}
	// What was sent twice may have come after the last that was awaited.
	count, err := st.b.sink.count(st.run, 0)
	if err != nil {
		return err
	}
	p.Received, p.Duplicates = count.Received, count.Duplicates
	st.b.report.Passes = append(st.b.report.Passes, p.Pass)
	return p.check()
}

// publish hands the events to the relay's client and waits until each is answered.
func (st *stage) publish(ctx context.Context, l load, first int, p *passed) error {
	publisher := st.relay.client.NewPublisher(client.PublisherOptions{})
	prefix := fmt.Sprintf("bench-%d-", st.run)
	var kept atomic.Int64
	var refused error
	var last time.Time
	done := func(_ client.Receipt, err error) { // one at a time, and none after Close
		if last = time.Now(); err == nil {
			kept.Add(1)
		} else if refused == nil {
			refused = err
		}
	}
	p.starts = make([]int64, l.events)
	p.began = time.Now()
	woke, told := p.began, p.began
	var err error
	for i := 0; i < l.events && err == nil; i++ {
		e := relay.Event{
			Tenant: tenant, ID: prefix + strconv.Itoa(first+i), Type: st.kinds[i%len(st.kinds)], Time: time.Unix(1_700_000_000, 0),
			Subject: "contact/1", Data: contact(first + i),
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
		if err = publisher.Publish(ctx, e, done); start.Sub(told) > progressEvery {
			told = start
			st.b.say("%s: %d of %d events acknowledged", l.part, kept.Load(), l.events)
		}
	}
	if err == nil {
		err = publisher.Flush(ctx)
	}
	err = errors.Join(err, publisher.Close(ctx))
	if err != nil {
		return fmt.Errorf("bench: publishing: %w", err)
	}
	p.Acknowledged, p.accepted = int(kept.Load()), last.Sub(p.began)
	if refused != nil {
		return fmt.Errorf("bench: %d of %d events were refused: %w", l.events-p.Acknowledged, l.events, refused)
	}
	return nil
}

// patience is how long nothing may come before deliveries are given up.
const patience = time.Minute

// progressEvery is how often what lasts is told.
const progressEvery = 2 * time.Second

// await waits until all deliveries have come.
func (st *stage) await(ctx context.Context, part string, want int64) (tally, error) {
	return st.awaitSome(ctx, part, want, want)
}

// awaitSome waits until some of all deliveries have come.
func (st *stage) awaitSome(ctx context.Context, part string, some, want int64) (tally, error) {
	var count tally
	moved, told := time.Now(), time.Now()
	for count.Completed == 0 && (some == want || count.Received < some) && want > 0 {
		now, err := st.b.sink.count(st.run, 20*time.Millisecond)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return count, err
		}
		if now.Received > count.Received {
			moved = time.Now()
		}
		if count = now; time.Since(moved) > patience {
			return count, fmt.Errorf("bench: %s: %d of %d deliveries came, and then none for %v", part, count.Received, want, patience)
		}
		if count.Completed == 0 && time.Since(told) > progressEvery {
			told = time.Now()
			st.b.say("%s: %d of %d deliveries", part, count.Received, want)
		}
	}
	return count, nil
}

// latencies are the times from publishing to the first receipt of all deliveries of the last pass that came, in milliseconds. Where
// events are spread, those to the first endpoints are left out that are named.
func (st *stage) latencies(p passed, without int) ([]float64, error) {
	a, err := st.b.sink.tell(order{Do: "times", Run: st.run})
	if err != nil {
		return nil, err
	}
	var out []float64
	for i, at := range a.Times {
		if at != 0 && (!st.spread || i%len(st.endpoints) >= without) {
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
