package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/test/rig"
)

// counter is a receiver that counts what it took of each delivery.
type counter struct {
	taken, refused atomic.Int64
	flying         atomic.Int64

	mu     sync.Mutex
	byID   map[string]int             // successes by webhook-id
	events map[string]map[string]bool // event ids that arrived, by path
}

func newCounter() *counter {
	return &counter{byID: map[string]int{}, events: map[string]map[string]bool{}}
}

// ServeHTTP answers /slow after a second, and an eighth of what comes to /flaky with 503.
func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.flying.Add(1)
	defer c.flying.Add(-1)
	var body struct{ ID string }
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		return
	}
	switch {
	case r.URL.Path == "/slow":
		time.Sleep(time.Second)
	case r.URL.Path == "/flaky" && rand.IntN(8) == 0:
		c.refused.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	default:
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[r.Header.Get("Webhook-Id")]++
	if c.events[r.URL.Path] == nil {
		c.events[r.URL.Path] = map[string]bool{}
	}
	c.events[r.URL.Path][body.ID] = true
	c.taken.Add(1)
}

// tally counts the deliveries that were taken, those taken more than once, and the requests too many.
func (c *counter) tally() (deliveries, twice, surplus int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.byID {
		if n > 1 {
			twice++
			surplus += n - 1
		}
	}
	return len(c.byID), twice, surplus
}

// has tells whether an event arrived at a path.
func (c *counter) has(path, event string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[path][event]
}

// book is what publishers were answered.
type book struct {
	mu       sync.Mutex
	accepted []string
}

func (b *book) write(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accepted = append(b.accepted, id)
}

func (b *book) read() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.accepted...)
}

// publishUntil publishes one event after the other, each again until it is accepted, also after ctx has ended.
func publishUntil(ctx context.Context, t *testing.T, events sealpostv1.EventServiceClient, name string, b *book) {
	late := time.Now().Add(2 * time.Minute)
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d", name, n)
		e := &sealpostv1.Event{Tenant: "acme", Id: id, Type: "contact.updated", Data: fmt.Appendf(nil, `{"pad":"%0*d"}`, rand.IntN(2000), 0)}
		for {
			short, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := events.PublishEvent(short, &sealpostv1.PublishEventRequest{Event: e}, grpc.WaitForReady(true))
			cancel()
			if err == nil {
				b.write(id)
				break
			}
			if time.Now().After(late) {
				t.Errorf("%s is not accepted any more: %v", id, err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(15)) * time.Millisecond)
	}
}

// TestGracefulRestart asks the process to end, and starts it again, while events are published and delivered: no accepted event
// is lost, none comes twice to anybody, and every stop ends well and waits for what is in flight.
func TestGracefulRestart(t *testing.T) {
	t.Parallel()
	restarts := 5
	if *long {
		restarts = 25
	}
	partner := newCounter()
	server := rig.Serve(t, partner)
	p := rig.Start(t, binary, rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"}}))
	endpoints := map[string]rig.Endpoint{}
	for _, path := range []string{"/plain", "/flaky", "/slow"} {
		spec := rig.Object{}
		if path == "/slow" {
			spec["eventTypes"] = []string{"contact.updated"}
			spec["concurrency"] = 64
		}
		endpoints[path] = p.Register(server+path, spec)
	}
	ordered := p.Register(server+"/ordered", rig.Object{"ordered": true})
	endpoints["/ordered"] = ordered
	var kept book
	ctx, stop := context.WithCancel(context.Background())
	events := sealpostv1.NewEventServiceClient(p.Conn())
	var publishers sync.WaitGroup
	defer publishers.Wait()
	defer stop()
	for i := range 4 {
		publishers.Go(func() { publishUntil(ctx, t, events, fmt.Sprintf("p%d", i), &kept) })
	}
	for round := range restarts {
		before := partner.taken.Load()
		rig.Eventually(t, "there is load", func() bool { return partner.taken.Load() > before+200 && partner.flying.Load() > 2 })
		flying := partner.flying.Load()
		took := p.Stop()
		if left := partner.flying.Load(); left > 0 {
			t.Errorf("the process ended while %d requests were in flight", left)
		}
		p.Restart(nil)
		t.Logf("restart %d: %d requests in flight when it was asked to end, which took %v", round+1, flying, took.Round(time.Millisecond))
	}
	stop()
	publishers.Wait()
	accepted := kept.read()
	for path, ep := range endpoints {
		p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, len(accepted))
		missing := 0
		for _, id := range accepted {
			if !partner.has(path, id) {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("%d of %d accepted events never came to %s", missing, len(accepted), path)
		}
	}
	deliveries, twice, surplus := partner.tally()
	t.Logf("%d restarts, %d events accepted, %d deliveries taken by %d endpoints, %d answered with 503 once or more; %d came twice",
		restarts, len(accepted), deliveries, len(endpoints), partner.refused.Load(), twice)
	if deliveries != len(accepted)*len(endpoints) || surplus > 0 {
		t.Errorf("%d deliveries of %d, %d of them more than once, %d requests too many", deliveries, len(accepted)*len(endpoints), twice, surplus)
	}
}
