package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
)

// How a backlog is measured.
const (
	million = 1_000_000
	// ids are remembered for a second only: what they take has nothing to do with what is parked.
	shortMemory = "SEALPOST_JOURNAL_DEDUP_WINDOW=1s"
)

// pile is a relay at which deliveries of one stage are parked, with another one's endpoint that lives.
type pile struct {
	b          *bench
	part       string
	live, dead *stage
	parked     passed
	before     observed
}

// pileUp parks n deliveries for endpoints that reset each connection.
func (b *bench) pileUp(ctx context.Context, part string, n int, s setting) (*pile, error) {
	live, err := b.set(ctx, setting{configure: []string{shortMemory}})
	if err != nil {
		return nil, err
	}
	p := &pile{b: b, part: part, live: live}
	if err := p.fill(ctx, n, s); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pile) close() error { return p.live.close() }

func (p *pile) fill(ctx context.Context, n int, s setting) error {
	if _, err := p.live.warm(ctx, p.part); err != nil {
		return err
	}
	var err error
	if p.dead, err = p.b.beside(ctx, p.live.relay, s); err != nil {
		return err
	}
	if err := p.dead.behave(resets, upTo(len(p.dead.endpoints))...); err != nil {
		return err
	}
	if p.before, err = p.live.relay.observe(ctx); err != nil {
		return err
	}
	if p.parked, err = p.dead.publishAll(ctx, load{part: p.part, events: n}); err != nil {
		return err
	}
	p.b.add(p.part, "events accepted and parked", float64(n)/p.parked.accepted.Seconds(), "/s", 0, nil)
	if err := p.awaitParked(ctx); err != nil {
		return err
	}
	return p.weigh(ctx)
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func (p *pile) awaitParked(ctx context.Context) error {
	return p.live.relay.awaitOpen(ctx, p.parked.Published, func(open float64) {
		p.b.say("%s: %.0f deliveries are open", p.part, open)
	})
}

// weigh adds what a parked delivery takes.
func (p *pile) weigh(ctx context.Context) error {
	now, err := p.live.relay.observe(ctx)
	if err != nil {
		return err
	}
	each := 1 / float64(p.parked.Published)
	p.b.add(p.part, "index of what is parked, of a delivery", now.index*each, "B", 0, p.b.whole(atMost(16)))
	p.b.add(p.part, "heap grown by, of a delivery", (now.heap-p.before.heap)*each, "B", 0, nil)
	p.b.add(p.part, "resident memory grown by, of a delivery", (now.resident-p.before.resident)*each, "B", 0, nil)
	p.b.add(p.part, "disk, of a delivery of 1 KiB", (now.disk-p.before.disk)*each, "B", 0, nil)
	return nil
}

// backlog is that of one endpoint.
func (b *bench) backlog(ctx context.Context) error {
	n := b.scaled(million, 1000)
	p, err := b.pileUp(ctx, fmt.Sprintf("backlog, %d deliveries for one dead endpoint", n), n, setting{})
	if err != nil {
		return err
	}
	return errors.Join(p.backlog(ctx), p.close())
}

func (p *pile) backlog(ctx context.Context) error {
	if err := p.startAnew(ctx); err != nil {
		return err
	}
	quiet, err := p.traffic(ctx, "live traffic before the drain")
	if err != nil {
		return err
	}
	var alone drained
	beside, err := p.b.around(ctx, overHTTP, func() error {
		alone, err = p.drainHalf(ctx)
		return err
	})
	if err != nil {
		return err
	}
	p.b.add(p.part, "deliveries while it drains and nothing is published", alone.rate, "/s", beside.rate, p.b.whole(atLeastBare(0.75)))
	if alone.cpu > 0 {
		p.b.add(p.part, "CPU of the relay for 10,000 of them", alone.cpu, "s", beside.cpu, p.b.whole(atMostBare(3)))
	}
	p.b.add(p.part, "bytes read by all of the relay, over those of the log", alone.read, "x", 0, nil)
	busy, err := p.traffic(ctx, "live traffic while it drains")
	if err != nil {
		return err
	}
	during, err := p.b.sink.count(p.dead.run, 0)
	if err != nil {
		return err
	}
	note := ""
	if during.Completed != 0 {
		note = "the drain ended before the live traffic did"
	}
	p.compare(quiet, busy, note)
	return p.settle(ctx)
}

// startAnew kills the relay and measures how soon it works again.
func (p *pile) startAnew(ctx context.Context) error {
	began := time.Now()
	if err := p.live.relay.restart(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	first, err := p.live.pass(ctx, load{part: p.part + ", first event after a start", events: 1})
	if err != nil {
		return err
	}
	works := first.began.Add(first.took).Sub(began)
	if err := p.awaitParked(ctx); err != nil {
		return err
	}
	p.b.add(p.part, "start after kill -9, until ready", ready.Seconds(), "s", 0, nil)
	p.b.add(p.part, "start after kill -9, until a new event is delivered", works.Seconds(), "s", 0, p.b.whole(atMost(5)))
	now, err := p.live.relay.observe(ctx)
	if err != nil {
		return err
	}
	p.b.add(p.part, "resident memory after the start", now.resident/1e6, "MB", 0, nil)
	return nil
}

// drained is what came of a drain.
type drained struct {
	rate float64 // deliveries a second
	read float64 // bytes read over those of what was drained in the log
	cpu  float64 // seconds of the relay for 10,000; 0: not known
}

// drainHalf resumes the endpoint and waits until half of what is parked has come.
func (p *pile) drainHalf(ctx context.Context) (drained, error) {
	log, err := p.live.relay.metrics(ctx)
	if err != nil {
		return drained{}, err
	}
	resume, err := p.dead.mend(ctx, 0, well)
	if err != nil {
		return drained{}, err
	}
	before, err := used(p.live.relay.pid())
	if err != nil && !errors.Is(err, errNoUsage) {
		return drained{}, err
	}
	began := time.Now()
	if err := resume(); err != nil {
		return drained{}, err
	}
	count, err := p.dead.awaitSome(ctx, p.part, p.parked.Expected/2, p.parked.Expected)
	if err != nil {
		return drained{}, err
	}
	at := time.Now()
	if count.Completed != 0 {
		at = time.Unix(0, count.Completed)
	}
	d := drained{rate: float64(count.Received) / at.Sub(began).Seconds()}
	if after, err := used(p.live.relay.pid()); err == nil {
		share := float64(count.Received) / float64(p.parked.Expected)
		spent := after.since(before)
		d.read = float64(spent.read) / (share * log["sealpost_journal_bytes EVENTS"])
		d.cpu = spent.cpu / float64(count.Received) * 10_000
	}
	return d, nil
}

// mend has an operator pause an endpoint, whose partner then acts in a manner from now on, and returns what resumes it. Paused it is
// sent no probe, which would end with the pause and come again.
func (st *stage) mend(ctx context.Context, which int, m manner) (resume func() error, err error) {
	service := sealpostv1.NewEndpointServiceClient(st.relay.client.Conn())
	id := st.endpoints[which].GetId()
	if _, err := service.PauseEndpoint(ctx, &sealpostv1.PauseEndpointRequest{Tenant: tenant, Id: id, Reason: "benchmark"}); err != nil {
		return nil, fmt.Errorf("bench: pause: %w", err)
	}
	return func() error {
		if _, err := service.ResumeEndpoint(ctx, &sealpostv1.ResumeEndpointRequest{Tenant: tenant, Id: id}); err != nil {
			return fmt.Errorf("bench: resume: %w", err)
		}
		return nil
	}, st.behave(m, which)
}

// lived is what became of live traffic.
type lived struct {
	rate     float64   // deliveries a second at full speed
	p50, p99 float64   // milliseconds, at liveRate
	bare     []float64 // the bare client's at the same time
}

// liveRate is that of gentle traffic beside a drain, in events a second.
const liveRate = 200

// traffic publishes to the endpoint that lives, at full speed and gently.
func (p *pile) traffic(ctx context.Context, what string) (lived, error) {
	st, part := p.live, p.part+", "+what
	full, err := st.fullSpeed(ctx, part)
	if err != nil {
		return lived{}, err
	}
	l, err := p.gently(ctx, part)
	l.rate = float64(full.Received) / full.took.Seconds()
	return l, err
}

func (p *pile) gently(ctx context.Context, part string) (lived, error) {
	st := p.live
	var gentle passed
	bare, err := p.b.withTrips(ctx, st.b.o.Lasting, func() (err error) {
		gentle, err = st.pass(ctx, load{part: part, events: max(20, int(liveRate*st.b.o.Lasting.Seconds())), every: time.Second / liveRate})
		return err
	})
	if err != nil {
		return lived{}, err
	}
	took, err := st.latencies(gentle, 0)
	return lived{p50: percentile(took, 50), p99: percentile(took, 99), bare: bare}, err
}

// compare adds what a drain did to live traffic.
func (p *pile) compare(quiet, busy lived, note string) {
	add := func(name string, v float64, unit string, bare float64, goal *Goal) {
		p.b.take(Figure{Part: p.part, Name: name, Value: v, Unit: unit, Bare: bare, Goal: goal, Note: note})
	}
	if quiet.rate > 0 {
		add("live traffic at full speed before", quiet.rate, "/s", 0, nil)
		add("live traffic at full speed, draining over before", busy.rate/quiet.rate, "x", 0, p.b.whole(atLeast(0.8)))
	}
	at := fmt.Sprintf(" of live traffic at %d/s", liveRate)
	add("p50"+at+" before", quiet.p50, "ms", percentile(quiet.bare, 50), nil)
	add("p50"+at+" while it drains", busy.p50, "ms", percentile(busy.bare, 50), nil)
	add("p99"+at+" before", quiet.p99, "ms", percentile(quiet.bare, 99), nil)
	add("p99"+at+" while it drains", busy.p99, "ms", percentile(busy.bare, 99), nil)
}

// settle waits for the rest of what was parked, and holds all of it against what was published.
func (p *pile) settle(ctx context.Context) error {
	if _, err := p.dead.await(ctx, p.part, p.parked.Expected); err != nil {
		return err
	}
	return p.dead.account(ctx, &p.parked)
}

// How endpoints come back.
const (
	returning = 4  // times as long as a figure takes, until all have
	resuming  = 16 // at a time
)

// interleaved is the backlog of many endpoints, each event for one of them in turn, so that what one needs is all over the log.
func (b *bench) interleaved(ctx context.Context) error {
	n, endpoints := b.scaled(million, 1000), b.scaled(1000, 20)
	part := fmt.Sprintf("backlog, %d deliveries interleaved over %d dead endpoints", n, endpoints)
	p, err := b.pileUp(ctx, part, n, setting{endpoints: endpoints, spread: true, apart: true, change: usual})
	if err != nil {
		return err
	}
	return errors.Join(p.interleaved(ctx), p.close())
}

func (p *pile) interleaved(ctx context.Context) error {
	quiet, err := p.gently(ctx, p.part+", live traffic before the drain")
	if err != nil {
		return err
	}
	log, err := p.live.relay.metrics(ctx)
	before, err1 := used(p.live.relay.pid())
	if errors.Is(err1, errNoUsage) {
		err1 = nil
	}
	if err := errors.Join(err, err1); err != nil {
		return err
	}
	var busy lived
	var times returned
	beside, err := p.b.around(ctx, overHTTP, func() error {
		if times, err = p.comeBack(ctx); err != nil {
			return err
		}
		if busy, err = p.gently(ctx, p.part+", live traffic while it drains"); err != nil {
			return err
		}
		return p.settle(ctx)
	})
	if err != nil {
		return err
	}
	fast, paced, err := p.rates(times)
	if err != nil {
		return err
	}
	p.b.add(p.part, "deliveries, until those who take all have it", fast, "/s", beside.rate, nil)
	p.b.add(p.part, "time of those who take ten a second over what it needs", paced, "x", 0, nil)
	if after, err := used(p.live.relay.pid()); err == nil {
		p.b.add(p.part, "bytes read by all of the relay, over those of the log", float64(after.since(before).read)/log["sealpost_journal_bytes EVENTS"], "x", 0, nil)
	}
	p.compare(quiet, busy, "")
	return nil
}

// returned says when endpoints came back.
type returned struct {
	at    []time.Time // by endpoint
	paced []bool
	all   time.Time // when the last had
}

// comeBack has the endpoints come back in a random order, every second one to take ten a second.
func (p *pile) comeBack(ctx context.Context) (returned, error) {
	n := len(p.dead.endpoints)
	back := returned{at: make([]time.Time, n), paced: make([]bool, n)}
	order := rand.Perm(n)
	every := returning * p.b.o.Lasting / time.Duration(n)
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(resuming)
	for i, which := range order {
		sleep(ctx, time.Until(began.Add(time.Duration(i)*every)))
		m := well
		if back.paced[which] = i%2 == 1; back.paced[which] {
			m = paced
		}
		group.Go(func() error {
			resume, err := p.dead.mend(ctx, which, m)
			if err != nil {
				return err
			}
			back.at[which] = time.Now()
			return resume()
		})
		if i%max(1, n/10) == 0 {
			p.b.say("%s: %d of %d endpoints are back", p.part, i, n)
		}
	}
	err := group.Wait()
	back.all = time.Now()
	return back, err
}

// rates are the deliveries a second of all endpoints from when all were back, or the first was where it is over by then, until
// those were served that take all; and how many times as long as it needs the median one took that is paced.
func (p *pile) rates(back returned) (fast, paced float64, err error) {
	a, err := p.b.sink.tell(order{Do: "times", Run: p.dead.run})
	if err != nil {
		return 0, 0, err
	}
	n := len(p.dead.endpoints)
	last, share := make([]int64, n), make([]float64, n)
	for i, at := range a.Times {
		last[i%n] = max(last[i%n], at)
		share[i%n]++
	}
	var took []float64
	end := int64(0)
	for i := range n {
		if back.paced[i] {
			took = append(took, time.Unix(0, last[i]).Sub(back.at[i]).Seconds()/(share[i]*pace.Seconds()))
		} else {
			end = max(end, last[i])
		}
	}
	begin := back.all.UnixNano()
	if end <= begin {
		begin = slices.MinFunc(back.at, time.Time.Compare).UnixNano()
	}
	count := 0
	for _, at := range a.Times {
		if at > begin && at <= end {
			count++
		}
	}
	return float64(count) / (float64(end-begin) / 1e9), percentile(took, 50), nil
}
