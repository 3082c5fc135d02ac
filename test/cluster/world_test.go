// Package cluster_test runs several real processes together: api and relay processes on a NATS cluster of three nodes and one Redis or
// a Redis Cluster, all on loopback. It takes one after the other away while events are published without a pause, and holds what came of
// them against what was promised: every event whose publishing was answered with OK arrives at every endpoint that it matches, each
// delivery ends in exactly one state, ordered endpoints get theirs in order, and only what was in flight comes twice.
package cluster_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/test/rig"
)

// The programs that are run; TestMain builds them.
var binary, natsServer string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "sealpost-nats-")
	if err == nil {
		natsServer, err = rig.BuildNATS(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := rig.Main(m, &binary)
	os.RemoveAll(dir)
	os.Exit(code)
}

const (
	partitions = 4
	apis       = 2
	relays     = 3
	publishers = 6
	leaseLife  = 3 * time.Second
)

// tenants belong to all partitions: one each publisher's.
var tenants = []string{"acme", "globex", "initech", "umbrella", "hooli", "stark"}

// world is what the processes are, and what is known of the events.
type world struct {
	*testing.T
	nats    *rig.NATS
	apis    []*rig.Process
	relays  []*rig.Process
	partner *partner
	url     string

	endpoints map[string]map[string]rig.Endpoint // by tenant and path
	clients   []sealpostv1.EventServiceClient    // by api

	*ledger
}

// ledger is what was published in one scenario.
type ledger struct {
	accepted, refused atomic.Int64

	mu     sync.Mutex
	fates  map[string]*fate // by event id
	breaks []interruption
}

// fate is what the publisher of an event was told.
type fate struct {
	publisher, number int
	ok                bool
}

// interruption is a time in which attempts may have been cut off: by the death of their relay, or because what became of them could not
// be recorded.
type interruption struct{ from, to time.Time }

// newWorld starts everything.
func newWorld(t *testing.T, view string, relays int) *world {
	t.Helper()
	w := &world{
		T: t, nats: rig.StartNATS(t, natsServer), ledger: &ledger{fates: map[string]*fate{}}, endpoints: map[string]map[string]rig.Endpoint{},
		partner: &partner{receipts: map[string][]receipt{}, order: map[string][]string{}},
	}
	w.url = rig.Serve(t, w.partner)
	config := rig.Dev().With(rig.Config{
		"log": rig.Config{"level": "info"}, "redis": view, "leaseLife": leaseLife.String(),
		"nats":    rig.Config{"url": w.nats.URL(), "durability": "replicated"},
		"journal": rig.Config{"partitions": partitions, "eventsMaxBytes": 1 << 30, "outcomesMaxBytes": 1 << 30},
	})
	first := rig.Start(t, binary, config.With(rig.Config{"role": "api"}))
	w.apis = append(w.apis, first)
	begin := func(role string) *rig.Process {
		p := rig.New(t, binary, config.With(rig.Config{"role": role}))
		p.Join(first)
		return p
	}
	for len(w.apis) < apis {
		w.apis = append(w.apis, begin("api"))
	}
	for range relays {
		w.relays = append(w.relays, begin("relay"))
	}
	var starts sync.WaitGroup
	for _, p := range append(w.apis[1:], w.relays...) {
		starts.Go(func() {
			if err := p.Begin(); err != nil {
				t.Errorf("a process did not start: %v\n%s", err, p.Tail())
			}
		})
	}
	starts.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, p := range w.apis {
		w.clients = append(w.clients, sealpostv1.NewEventServiceClient(p.Conn()))
	}
	for _, tenant := range tenants {
		w.endpoints[tenant] = map[string]rig.Endpoint{
			"plain":   first.Register(w.url+"/plain", rig.Object{"tenant": tenant}),
			"flaky":   first.Register(w.url+"/flaky", rig.Object{"tenant": tenant}),
			"ordered": first.Register(w.url+"/ordered", rig.Object{"tenant": tenant, "ordered": true}),
		}
	}
	w.awaitOwners()
	return w
}

// awaitOwners waits until each partition has one owner, and the running relays hold their shares.
func (w *world) awaitOwners() {
	w.Helper()
	said := ""
	rig.Eventually(w, "the partitions are spread", func() bool {
		least, most, all := partitions, 0, 0
		said = ""
		for i, p := range w.relays {
			if !p.Running() {
				continue
			}
			n := len(p.Owned())
			least, most, all = min(least, n), max(most, n), all+n
			said += fmt.Sprintf("relay %d owns %d; ", i, n)
		}
		return all == partitions && most-least <= 1
	}, func() string { return said })
}

// partner gets everything, fails at times, and keeps when each delivery was answered.
type partner struct {
	answered, flying atomic.Int64

	mu       sync.Mutex
	receipts map[string][]receipt // by webhook-id
	order    map[string][]string  // event ids by tenant, in the order of their first success at /ordered
}

type receipt struct {
	arrived, answered time.Time
	ok                bool
	event, path       string
	tenant            string
}

func (p *partner) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	p.flying.Add(1)
	defer p.flying.Add(-1)
	var body struct{ ID, Tenant string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return // cut off: it never arrived
	}
	time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	fails := r.URL.Path == "/flaky" && rand.IntN(8) == 0
	if fails {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	id := r.Header.Get("Webhook-Id")
	p.mu.Lock()
	defer p.mu.Unlock()
	first := !slices.ContainsFunc(p.receipts[id], func(r receipt) bool { return r.ok })
	p.receipts[id] = append(p.receipts[id], receipt{arrived, time.Now(), !fails, body.ID, r.URL.Path, body.Tenant})
	if first && !fails && r.URL.Path == "/ordered" {
		p.order[body.Tenant] = append(p.order[body.Tenant], body.ID)
	}
	p.answered.Add(1)
}

// publish publishes for one tenant, one event after the other, until ctx ends. What is not answered with OK is repeated at the
// other api process until it is, also past ctx: it is never left.
func (w *world) publish(ctx context.Context, scenario string, publisher int) {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(10+rand.IntN(40)) * time.Millisecond)
		id := fmt.Sprintf("%s-%d-%d", scenario, publisher, n)
		e := &sealpostv1.Event{Tenant: tenants[publisher%len(tenants)], Id: id, Type: "contact.updated", Data: fmt.Appendf(nil, `{"n":%d}`, n)}
		f := &fate{publisher: publisher, number: n}
		w.mu.Lock()
		w.fates[id] = f
		w.mu.Unlock()
		for try := publisher; ; try++ {
			short, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := w.clients[try%len(w.clients)].PublishEvent(short, &sealpostv1.PublishEventRequest{Event: e}, grpc.WaitForReady(false))
			cancel()
			if err == nil {
				break
			}
			if w.Failed() {
				return
			}
			w.refused.Add(1)
			switch status.Code(err) {
			case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Aborted:
			default:
				w.Errorf("%s was refused for good: %v", id, err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		w.mu.Lock()
		f.ok = true
		w.mu.Unlock()
		w.accepted.Add(1)
	}
}

// interrupted runs what interrupts, and notes the time it took as one in which attempts may have been cut off.
func (w *world) interrupted(do func()) {
	b := interruption{from: time.Now()}
	do()
	b.to = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.breaks = append(w.breaks, b)
}

// grown waits until a figure has grown by n.
func (w *world) grown(what string, figure func() int64, n int64) {
	w.Helper()
	began := figure()
	rig.Eventually(w, what, func() bool { return figure() >= began+n })
}

// flowing waits until deliveries go on, in every partition: events that are accepted from now on arrive.
func (w *world) flowing() time.Duration {
	w.Helper()
	began := time.Now()
	for _, tenant := range tenants {
		id := "probe-" + tenant + fmt.Sprint("-", began.UnixNano())
		f := &fate{publisher: -1}
		w.mu.Lock()
		w.fates[id] = f
		w.mu.Unlock()
		rig.Eventually(w, "an event is accepted", func() bool {
			for _, c := range w.clients {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				e := &sealpostv1.Event{Tenant: tenant, Id: id, Type: "contact.updated", Data: []byte(`{}`)}
				if _, err := c.PublishEvent(ctx, &sealpostv1.PublishEventRequest{Event: e}); err == nil {
					return true
				}
			}
			return false
		})
		w.mu.Lock()
		f.ok = true
		w.mu.Unlock()
		w.accepted.Add(1)
		rig.Eventually(w, "it arrives: "+id, func() bool {
			w.partner.mu.Lock()
			defer w.partner.mu.Unlock()
			return slices.Contains(w.partner.order[tenant], id)
		})
	}
	return time.Since(began)
}

// scenario publishes while act does its worst, and then holds the ledger against the promises.
func (w *world) scenario(name string, act func(w *world)) {
	w.T.Run(name, func(t *testing.T) {
		in := *w
		in.T, in.ledger = t, &ledger{fates: map[string]*fate{}}
		in.partner.forget()
		began := time.Now()
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		for i := range publishers {
			running.Go(func() { in.publish(ctx, strings.ReplaceAll(name, " ", "-"), i) })
		}
		in.grown("deliveries", in.partner.answered.Load, 100)
		act(&in)
		in.grown("deliveries afterwards", in.partner.answered.Load, 100)
		stop()
		running.Wait()
		in.check()
		t.Logf("%v in all", time.Since(began).Round(time.Millisecond))
	})
}

// arrivedSince counts a tenant's requests at a path that arrived after a moment.
func (p *partner) arrivedSince(mark time.Time, tenant, path string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.receipts {
		for _, r := range all {
			if r.tenant == tenant && r.path == path && r.arrived.After(mark) {
				n++
			}
		}
	}
	return n
}

func (p *partner) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.receipts, p.order = map[string][]receipt{}, map[string][]string{}
}

// busiest is the running relay that owns most.
func (w *world) busiest() *rig.Process {
	var busiest *rig.Process
	most := -1
	for _, p := range w.relays {
		if !p.Running() {
			continue
		}
		if n := len(p.Owned()); n > most {
			busiest, most = p, n
		}
	}
	return busiest
}

// takeovers counts how often a partition was taken over by the relays that run.
func (w *world) takeovers() (n int) {
	for _, p := range w.relays {
		n += strings.Count(p.Output(), "partition owned")
	}
	return n
}

// leader is the node that leads a stream.
func (w *world) leader(stream string) (node *rig.Node) {
	w.Helper()
	rig.Eventually(w, stream+" has a leader", func() bool { node = w.nats.Leader(stream); return node != nil })
	return node
}

// whole waits until all nodes of NATS are well again.
func (w *world) whole() {
	w.Helper()
	said := ""
	well := func(n *rig.Node) bool {
		health := n.Health()
		if health != "ok" {
			said = n.Name + ": " + health
		}
		return health == "ok"
	}
	all := func() bool { return !slices.ContainsFunc(w.nats.Nodes, func(n *rig.Node) bool { return !well(n) }) }
	// A node that comes back has to catch up: on a busy machine for longer than one patience.
	for late := time.Now().Add(rig.Within); !all() && time.Now().Before(late); {
		time.Sleep(50 * time.Millisecond)
	}
	rig.Eventually(w, "all nodes of NATS are well", all, func() string { return said })
}

// degraded waits until some process says that a part of it is, and no process is any less ready for it.
func (w *world) degraded(part string) {
	w.Helper()
	rig.Eventually(w, "some process says that "+part+" is degraded", func() bool {
		return slices.ContainsFunc(w.all(), func(p *rig.Process) bool { return strings.HasPrefix(p.Readiness().S(part), "degraded") })
	})
	for _, p := range w.all() {
		if said := p.Readiness(); said["ready"] != true {
			w.Errorf("a process is not ready: %v", said)
		}
	}
}

// well waits until every process says that a part is.
func (w *world) well(part string) {
	w.Helper()
	rig.Eventually(w, part+" is well everywhere", func() bool {
		return !slices.ContainsFunc(w.all(), func(p *rig.Process) bool { return p.Readiness().S(part) != "ok" })
	})
}

// all are the processes of Sealpost.
func (w *world) all() []*rig.Process { return slices.Concat(w.apis, w.relays) }

// owner is the running relay that owns a tenant's partition.
func (w *world) owner(tenant string) (owner *rig.Process) {
	w.Helper()
	h := fnv.New64a() // as the journal counts, in every release
	h.Write([]byte(tenant))
	partition := int(h.Sum64() % partitions)
	rig.Eventually(w, fmt.Sprintf("partition %d has an owner", partition), func() bool {
		i := slices.IndexFunc(w.relays, func(p *rig.Process) bool { return p.Running() && slices.Contains(p.Owned(), partition) })
		if i >= 0 {
			owner = w.relays[i]
		}
		return i >= 0
	})
	return owner
}

// said tells whether a process said something since a mark in its output.
func said(p *rig.Process, mark int, what string) bool {
	return strings.Contains(p.Output()[mark:], what)
}
