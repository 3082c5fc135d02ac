package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/test/rig"
)

// TestRetries fails a delivery in each way that is tried again: the id stays, the attempts are recorded, it arrives.
func TestRetries(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, code := range []int{408, 425, 429, 500, 502, 503, 504, 599, 401, 403, 404} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			partner := rig.NewPartner(t, nil, func(r rig.Receipt) rig.Reply {
				if r.N <= 3 {
					return rig.Reply{Status: code, Body: "not now"}
				}
				return rig.Reply{}
			})
			ep := p.Register(partner.URL, rig.Object{"tenant": fmt.Sprintf("later-%d", code)})
			e := rig.Event("evt_1", `{}`)
			e["tenant"] = ep.Tenant
			p.Publish(e)
			d := p.AwaitDelivery(ep, "evt_1", "DELIVERED")
			got := partner.Receipts()
			if len(got) != 4 || d.N("attemptCount") != 4 || len(d.L("attempts")) != 4 {
				t.Fatalf("%d requests, %v", len(got), d)
			}
			for i, r := range got {
				if r.ID() != d.S("id") {
					t.Errorf("attempt %d has id %s, delivery %s", i+1, r.ID(), d.S("id"))
				}
				a := d.L("attempts")[i]
				if a.N("number") != i+1 || i < 3 && (a.S("verdict") != "LATER" || a.N("statusCode") != code || a.S("responseBody") != "not now") {
					t.Errorf("attempt %d: %v", i+1, a)
				}
			}
		})
	}
	for _, code := range []int{400, 405, 413, 415, 418, 422, 451} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			partner := rig.NewPartner(t, nil, rig.Status(code))
			ep := p.Register(partner.URL, rig.Object{"tenant": fmt.Sprintf("dead-%d", code)})
			e := rig.Event("evt_1", `{}`)
			e["tenant"] = ep.Tenant
			p.Publish(e)
			if d := p.AwaitDelivery(ep, "evt_1", "DEAD"); d.S("reason") != "REJECTED" || d.N("attemptCount") != 1 {
				t.Errorf("%v", d)
			}
			// A caller can have it sent again all the same.
			partner.Answer(nil)
			d := p.AwaitDelivery(ep, "evt_1", "DEAD")
			p.OK("POST", "/v1/deliveries/"+d.S("id")+":retry", rig.Object{"tenant": ep.Tenant})
			if d := p.AwaitDelivery(ep, "evt_1", "DELIVERED"); d.N("attemptCount") != 2 || len(d.L("attempts")) != 2 {
				t.Errorf("after a retry: %v", d)
			}
			if a := p.Do("POST", "/v1/deliveries/"+d.S("id")+":cancel", rig.Object{"tenant": ep.Tenant}); a.Status != http.StatusBadRequest || a.N("code") != int(codes.FailedPrecondition) {
				t.Errorf("cancelling what is delivered: %d %s", a.Status, a.Raw)
			}
		})
	}
}

// TestRetryAfter is honoured in both forms.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	p := start(t)
	for name, value := range map[string]func() string{
		"seconds": func() string { return "2" },
		"date":    func() string { return time.Now().Add(3 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			partner := rig.NewPartner(t, nil, func(r rig.Receipt) rig.Reply {
				if r.N == 1 {
					return rig.Reply{Status: 429, Header: map[string]string{"Retry-After": value()}}
				}
				return rig.Reply{}
			})
			ep := p.Register(partner.URL, rig.Object{"tenant": name})
			e := rig.Event("evt_1", `{}`)
			e["tenant"] = ep.Tenant
			p.Publish(e)
			if d := p.AwaitDelivery(ep, "evt_1", "RETRYING"); d.S("nextAttemptTime") == "" || d.S("reason") != "THROTTLED" {
				t.Errorf("while it waits: %v", d)
			}
			got := partner.Await(t, 2)
			if wait := got[1].At.Sub(got[0].At); wait < 1900*time.Millisecond || wait > 10*time.Second {
				t.Errorf("it was tried again after %v", wait)
			}
			p.AwaitDelivery(ep, "evt_1", "DELIVERED")
		})
	}
}

// TestGone suspends an endpoint whose receiver answers 410; what comes is parked, and delivered when it is resumed, also by
// the partner.
func TestGone(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, func(r rig.Receipt) rig.Reply {
			if r.N == 1 {
				return rig.Reply{Status: http.StatusGone}
			}
			return rig.Reply{}
		})
		them := p.As(p.OK("POST", "/v1/tokens", rig.Object{"account": "partner-1", "role": "PARTNER", "tenant": "acme"}).S("secret"))
		ep := them.Register(partner.URL, nil)
		p.Publish(rig.Event("first", `{}`))
		if d := p.AwaitDelivery(ep, "first", "DEAD"); d.S("reason") != "GONE" {
			t.Errorf("%v", d)
		}
		rig.Eventually(t, "the endpoint is suspended", func() bool {
			e := p.OK("GET", ep.Path(), nil)
			return e.S("state") == "SUSPENDED" && e.S("stateReason") != ""
		})
		p.PublishMany("acme", "more", 10)
		for _, d := range p.AwaitCount("tenant=acme&state=PARKED", 10) {
			if d.S("reason") != "ENDPOINT_SUSPENDED" {
				t.Errorf("parked: %v", d)
			}
		}
		them.MustAct(ep, "resume")
		p.AwaitCount("tenant=acme&state=DELIVERED", 10)
	})
}

// TestBreaker parks what an endpoint that fails cannot have, probes it, and drains when it works again.
func TestBreaker(t *testing.T) {
	t.Parallel()
	p := start(t)
	var down atomic.Bool
	down.Store(true)
	partner := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply {
		if down.Load() {
			return rig.Reply{Status: 500}
		}
		return rig.Reply{}
	})
	ep := p.Register(partner.URL, nil)
	const n = 300
	p.PublishMany("acme", "e", n)
	rig.Eventually(t, "most deliveries are parked", func() bool { return len(p.Deliveries("tenant=acme&state=PARKED")) > n-60 })
	failed := partner.Count()
	if failed > 60 {
		t.Errorf("%d requests to an endpoint that fails", failed)
	}
	down.Store(false)
	p.AwaitCount("tenant=acme&state=DELIVERED", n)
	if more := partner.Count() - failed; more > n+20 {
		t.Errorf("%d requests for %d deliveries", more, n)
	}
	_ = ep
}

// TestPause: nothing is sent once Pause has answered, and everything after Resume.
func TestPause(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply { time.Sleep(5 * time.Millisecond); return rig.Reply{} })
		ep := p.Register(partner.URL, nil)
		const n = 1000
		var wg sync.WaitGroup
		quick := p.Client
		wg.Go(func() {
			for i := 0; i < n; i += 100 {
				var events []rig.Object
				for k := range 100 {
					events = append(events, rig.Event(fmt.Sprintf("e-%d", i+k), `{}`))
				}
				body, _ := json.Marshal(rig.Object{"events": events})
				if a, err := quick.Send("POST", "/v1/events:batch", "application/json", body); err != nil || a.Status != http.StatusOK {
					t.Errorf("publish: %v %s", err, a.Raw)
				}
			}
		})
		partner.Await(t, 50)
		if e := p.MustAct(ep, "pause"); e.S("state") != "PAUSED" {
			t.Errorf("pause: %v", e)
		}
		answered := time.Now()
		wg.Wait()
		rig.Eventually(t, "all that is left is parked", func() bool {
			return len(p.Deliveries("tenant=acme&state=PARKED"))+len(p.Deliveries("tenant=acme&state=DELIVERED")) == n
		})
		time.Sleep(300 * time.Millisecond) // nothing to wait for: it must stay silent
		for _, r := range partner.Receipts() {
			if r.At.After(answered) {
				t.Errorf("sent %v after Pause answered", r.At.Sub(answered))
			}
		}
		p.MustAct(ep, "resume")
		p.AwaitCount("tenant=acme&state=DELIVERED", n)
		once := map[string]int{}
		for _, r := range partner.Receipts() {
			once[r.ID()]++
		}
		// What pausing cut off in flight may have arrived: those alone can come twice.
		if len(once) != n || partner.Count() > n+8 {
			t.Errorf("%d of %d arrived, by %d requests", len(once), n, partner.Count())
		}
	})
}

// TestContain cuts off what is in flight to an endpoint, parks what comes, and lets nothing go until it is released and resumed.
func TestContain(t *testing.T) {
	t.Parallel()
	p := start(t)
	hangs, arrived, cut := true, make(chan struct{}, 64), make(chan struct{}, 64)
	var mu sync.Mutex
	partner := rig.Serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		wait := hangs
		mu.Unlock()
		if wait {
			arrived <- struct{}{}
			<-r.Context().Done()
			cut <- struct{}{}
		}
	}))
	ep := p.Register(partner, rig.Object{"concurrency": 1})
	p.PublishMany("acme", "e", 20)
	<-arrived
	began := time.Now()
	e := p.OK("POST", "/v1/endpoints/"+ep.ID+":contain", rig.Object{"tenant": "acme", "reason": "leaked key, INC-42"})
	took := time.Since(began)
	if e.S("state") != "CONTAINED" || e.S("stateReason") != "by operator: leaked key, INC-42" {
		t.Errorf("contain: %v", e)
	}
	<-cut
	if took > 4*time.Second { // what is in flight to a paused one has five
		t.Errorf("what was in flight was not cut off: it took %v", took)
	}
	for _, d := range p.AwaitCount("tenant=acme&state=PARKED", 20) {
		if d.S("reason") != "ENDPOINT_CONTAINED" {
			t.Errorf("parked: %v", d)
		}
	}
	mu.Lock()
	hangs = false
	mu.Unlock()
	for verb, want := range map[string]int{"resume": http.StatusBadRequest, "approve": http.StatusForbidden, "pause": http.StatusBadRequest, "test": http.StatusBadRequest} {
		if a := p.Do("POST", "/v1/endpoints/"+ep.ID+":"+verb, rig.Object{"tenant": "acme"}); a.Status != want {
			t.Errorf("%s of a contained endpoint: %d %s", verb, a.Status, a.Raw)
		}
	}
	if a := p.Do("POST", "/v1/endpoints/"+ep.ID+":release", rig.Object{"tenant": "acme"}); a.Status != http.StatusBadRequest || !strings.Contains(string(a.Raw), "reason") {
		t.Errorf("released without a reason: %d %s", a.Status, a.Raw)
	}
	p.Kill()
	p.Restart(nil)
	p.AwaitCount("tenant=acme&state=PARKED", 20)
	if e := p.OK("POST", "/v1/endpoints/"+ep.ID+":release", rig.Object{"tenant": "acme", "reason": "keys were changed"}); e.S("state") != "PAUSED" {
		t.Errorf("release: %v", e)
	}
	p.MustAct(ep, "resume")
	p.AwaitCount("tenant=acme&state=DELIVERED", 20)
}

// TestDelete cancels what is parked; a single delivery can be cancelled, or sent now.
func TestDelete(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	p.MustAct(ep, "pause")
	p.PublishMany("acme", "e", 50)
	parked := p.AwaitCount("tenant=acme&state=PARKED", 50)
	one := parked[0].S("id")
	if d := p.OK("POST", "/v1/deliveries/"+one+":cancel", rig.Object{"tenant": "acme"}); d.S("state") != "CANCELLED" {
		t.Errorf("the answer to a cancellation: %v", d)
	}
	p.AwaitCount("tenant=acme&state=CANCELLED", 1)
	if d := p.Delivery(one, "acme"); d.S("state") != "CANCELLED" || d.S("reason") != "CANCEL_REQUESTED" {
		t.Errorf("%v", d)
	}
	if a := p.Do("DELETE", ep.Path(), nil); a.Status != http.StatusOK {
		t.Errorf("delete: %d %s", a.Status, a.Raw)
	}
	p.AwaitCount("tenant=acme&state=CANCELLED", 50)
	p.Publish(rig.Event("later", `{}`))
	rig.Eventually(t, "the next event is unmatched", func() bool {
		a := p.Do("GET", "/v1/events/later?tenant=acme", nil)
		return a.Status == http.StatusOK && a.Object["matched"] == false
	})
	if n := partner.Count(); n != 0 {
		t.Errorf("%d requests", n)
	}
	if a := p.Do("POST", "/v1/deliveries/"+one+":retry", rig.Object{"tenant": "acme"}); a.Status != http.StatusBadRequest {
		t.Errorf("retry to a deleted endpoint: %d %s", a.Status, a.Raw)
	}
}

// TestOrdered keeps the order of acceptance, one in flight, while requests fail, the process is killed and comes back.
func TestOrdered(t *testing.T) {
	t.Parallel()
	p := start(t)
	var flying, most atomic.Int32
	partner := rig.NewPartner(t, nil, func(r rig.Receipt) rig.Reply {
		now := flying.Add(1)
		defer flying.Add(-1)
		for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
		}
		switch {
		case bytes.Contains(r.Body, []byte(`"poison":true`)):
			return rig.Reply{Status: 400}
		case rand.IntN(5) == 0:
			return rig.Reply{Status: 503}
		}
		return rig.Reply{}
	})
	p.Register(partner.URL, rig.Object{"ordered": true, "concurrency": 8, "contentMode": "data"})
	const n = 150
	for i := range n {
		p.Publish(rig.Event(fmt.Sprintf("e-%d", i), fmt.Sprintf(`{"n":%d,"poison":%v}`, i, i%40 == 20)))
		if i == n/2 {
			p.Kill()
			p.Restart(nil)
		}
	}
	rig.Eventually(t, "all are settled", func() bool {
		return len(p.Deliveries("tenant=acme&state=DELIVERED"))+len(p.Deliveries("tenant=acme&state=DEAD")) == n
	})
	last := -1
	for _, r := range partner.Receipts() {
		var body struct{ N int }
		if err := json.Unmarshal(r.Body, &body); err != nil {
			t.Fatal(err)
		}
		// A kill may bring back what was done in the last group of outcomes, in order again; nothing else goes back.
		if body.N > last+1 {
			t.Errorf("%d came after %d", body.N, last)
		}
		last = body.N
	}
	if most.Load() > 1 {
		t.Errorf("%d were in flight at once", most.Load())
	}
}

// TestIsolation hangs a hundred endpoints; one that works gets its deliveries all the same.
func TestIsolation(t *testing.T) {
	t.Parallel()
	// More endpoints hang than there are slots, and none has shown yet that it is fast.
	p := start(t, rig.Config{"delivery": rig.Config{"inFlight": 64}})
	release := make(chan struct{})
	defer close(release)
	hanging := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply { <-release; return rig.Reply{} })
	for range 100 {
		p.Register(hanging.URL, rig.Object{"timeout": "20s"})
	}
	good := rig.NewPartner(t, nil, nil)
	ep := p.Register(good.URL, nil)
	began := time.Now()
	const n = 500
	p.PublishMany("acme", "e", n)
	good.Await(t, n)
	took := time.Since(began)
	if took > 8*time.Second {
		t.Errorf("%d deliveries beside 100 hanging endpoints took %v", n, took)
	}
	p.AwaitCount("tenant=acme&state=DELIVERED&endpointId="+ep.ID, n)
	t.Logf("%d deliveries in %v", n, took)
}

// TestWatch follows deliveries over gRPC and over REST.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	ctx, cancel := context.WithTimeout(t.Context(), rig.Within)
	defer cancel()
	watch, err := sealpostv1.NewDeliveryServiceClient(p.Conn()).WatchDeliveries(ctx, &sealpostv1.WatchDeliveriesRequest{Tenant: "acme", State: sealpostv1.Delivery_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 100)
	go func() {
		for {
			r, err := watch.Recv()
			if err != nil {
				close(seen)
				return
			}
			seen <- r.Delivery.EventId
		}
	}()
	// A watch begins when it is heard; events are published until one is seen.
	for i := 0; ; i++ {
		p.Publish(rig.Event(fmt.Sprintf("w-%d", i), `{}`))
		select {
		case id, ok := <-seen:
			if !ok {
				t.Fatal("the watch ended")
			}
			if id == "" {
				t.Error("a change without its event")
			}
		case <-time.After(200 * time.Millisecond):
			continue
		}
		break
	}
	ids := p.PublishMany("acme", "all", 50)
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	for len(want) > 0 {
		id, ok := <-seen
		if !ok {
			t.Fatalf("the watch ended; %d were not seen", len(want))
		}
		delete(want, id)
	}
	cancel()
	// A watch must not hold up a stop.
	ctx2, cancel2 := context.WithCancel(t.Context())
	defer cancel2()
	again, err := sealpostv1.NewDeliveryServiceClient(p.Conn()).WatchDeliveries(ctx2, &sealpostv1.WatchDeliveriesRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	rest := watchREST(t, p)
	defer rest.Close()
	ended := make(chan error, 1)
	go func() { _, err := again.Recv(); ended <- err }()
	p.Publish(rig.Event("before-stop", `{}`))
	if err := <-ended; err != nil {
		t.Errorf("watch: %v", err)
	}
	go func() { _, err := again.Recv(); ended <- err }()
	if took := p.Stop(); took > 10*time.Second {
		t.Errorf("the stop took %v beside open watches", took)
	}
	<-ended
}

func watchREST(t *testing.T, p *rig.Process) interface{ Close() error } {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+p.HTTP+"/v1/deliveries:watch?tenant=acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	type answer struct {
		resp *http.Response
		err  error
	}
	got := make(chan answer, 1)
	go func() { resp, err := http.DefaultClient.Do(req); got <- answer{resp, err} }()
	// Headers may wait for the first change.
	for i := 0; ; i++ {
		p.Publish(rig.Event(fmt.Sprintf("rest-%d", i), `{}`))
		select {
		case a := <-got:
			if a.err != nil || a.resp.StatusCode != http.StatusOK {
				t.Fatalf("watch over REST: %v", a)
			}
			var one struct{ Result rig.Object }
			if err := json.NewDecoder(a.resp.Body).Decode(&one); err != nil || one.Result.S("delivery", "eventId") == "" {
				t.Errorf("watch over REST: %v %v", one, err)
			}
			return a.resp.Body
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestGracefulStop ends the process under load, again and again: nothing accepted is lost, and nothing comes twice.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, func(rig.Receipt) rig.Reply {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			return rig.Reply{}
		})
		p.Register(partner.URL, nil)
		c, err := client.New(client.Options{Target: p.GRPC, Token: p.Token})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var accepted sync.Map
		var count atomic.Int32
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					id := fmt.Sprintf("g-%d-%d", w, i)
					_, err := c.Publish(context.Background(), relay.Event{Tenant: "acme", ID: id, Type: "contact.updated", Data: []byte(`{}`)})
					if err != nil {
						t.Errorf("%s: %v", id, err)
						return
					}
					accepted.Store(id, true)
					count.Add(1)
				}
			})
		}
		for round := range 3 {
			partner.Await(t, (round+1)*150)
			if took := p.Stop(); took > 20*time.Second {
				t.Errorf("the stop took %v", took)
			}
			p.Restart(nil)
		}
		close(stop)
		wg.Wait()
		n := int(count.Load())
		p.AwaitCount("tenant=acme&state=DELIVERED", n)
		if got := partner.Count(); got != n {
			t.Errorf("%d requests for %d events", got, n)
		}
		t.Logf("%d events", n)
	})
}

// TestRateLimit is kept.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, rig.Object{"rateLimit": rig.Object{"requestsPerSecond": 20}})
	p.PublishMany("acme", "e", 60)
	p.AwaitCount("tenant=acme&state=DELIVERED", 60)
	got := partner.Receipts()
	if took := got[59].At.Sub(got[0].At); took < 1800*time.Millisecond {
		t.Errorf("60 requests at 20 a second took %v", took)
	}
}

// TestStreamOfAnotherTenant refuses each event of a stream on its own.
func TestStreamOfAnotherTenant(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := p.As(p.OK("POST", "/v1/tokens", rig.Object{"account": "crm", "role": "PUBLISHER", "tenant": "acme"}).S("secret"))
	refused := 0
	stream(t, sealpostv1.NewEventServiceClient(c.Conn()), 10, func(i int) *sealpostv1.Event {
		e := event(fmt.Sprintf("s-%d", i), `{}`)
		if i%2 == 1 {
			e.Tenant = "globex"
		}
		return e
	}, func(r *sealpostv1.PublishEventsResponse) {
		if code := codes.Code(r.Result.GetError().GetCode()); r.Number%2 == 1 && code != codes.PermissionDenied && code != codes.NotFound || r.Number%2 == 0 && code != codes.OK {
			t.Errorf("%v", r)
		} else if code != codes.OK {
			refused++
		}
	})
	if refused != 5 {
		t.Errorf("%d refused", refused)
	}
	_, err := sealpostv1.NewEventServiceClient(p.As("nonsense").Conn()).PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event("x", `{}`)})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token that is none: %v", err)
	}
}
