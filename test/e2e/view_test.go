package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// TestRedisIsAView takes the view away in the middle of a run, in both ways: deliveries go on, and it is rebuilt.
func TestRedisIsAView(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hit, mend func(*testing.T, *redistest.Server)
	}{
		"flushed": {func(t *testing.T, s *redistest.Server) {
			if err := s.Client().FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
		}, func(*testing.T, *redistest.Server) {}},
		"killed": {func(_ *testing.T, s *redistest.Server) { s.Kill() }, func(_ *testing.T, s *redistest.Server) { s.Restart() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			p := start(t, rig.Config{"redis": redis.URL("view")})
			partner := rig.NewPartner(t, nil, nil)
			p.Register(partner.URL, nil)
			unwanted := rig.Event("unmatched", `{}`)
			unwanted["type"] = "deal.won"
			p.Publish(unwanted)
			n := publishWhile(t, p, func() {
				partner.Await(t, 500)
				c.hit(t, redis)
				partner.Await(t, partner.Count()+1000) // while it is gone
				c.mend(t, redis)
				partner.Await(t, partner.Count()+500)
			})
			partner.Await(t, n)
			p.AwaitCount("tenant=acme&state=DELIVERED", n)
			if got := partner.Count(); got != n {
				t.Errorf("%d requests for %d events", got, n)
			}
			rig.Eventually(t, "the unmatched event is in the view again", func() bool {
				a := p.Do("GET", "/v1/events/unmatched?tenant=acme", nil)
				return a.Status == http.StatusOK && a.Object["matched"] == false
			})
		})
	}
}

// TestRedisGoneAtStart: without its view a process still starts, accepts and delivers.
func TestRedisGoneAtStart(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	p := start(t, rig.Config{"redis": redis.URL("view")})
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	p.Publish(rig.Event("e1", `{}`))
	partner.Await(t, 1)
	p.Stop()
	redis.Kill()
	p.Restart(nil)
	p.Publish(rig.Event("e2", `{}`))
	partner.Await(t, 2)
	if a := p.Do("GET", "/v1/deliveries?tenant=acme", nil); a.Status != http.StatusServiceUnavailable {
		t.Errorf("a list without the view: %d %s", a.Status, a.Raw)
	}
	redis.Restart()
	p.AwaitCount("tenant=acme&state=DELIVERED", 2)
}

// TestEmbeddedViewRebuilt removes the embedded view: it is rebuilt from the journal.
func TestEmbeddedViewRebuilt(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	p.PublishMany("acme", "e", 500)
	p.AwaitCount("tenant=acme&state=DELIVERED", 500)
	p.Stop()
	removeAll(t, p.Data, "view")
	p.Restart(nil)
	p.AwaitCount("tenant=acme&state=DELIVERED", 500)
	if n := partner.Count(); n != 500 {
		t.Errorf("%d requests", n)
	}
}

// publishWhile publishes from some goroutines until during returns, and returns how many events were accepted.
func publishWhile(t *testing.T, p *rig.Process, during func()) int {
	t.Helper()
	c, err := client.New(client.Options{Target: p.GRPC, Token: p.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var count atomic.Int32
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := c.Publish(t.Context(), relay.Event{Tenant: "acme", ID: fmt.Sprintf("w-%d-%d", w, i), Type: "contact.updated", Data: []byte(`{}`)})
				if err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				count.Add(1)
			}
		})
	}
	func() {
		defer wg.Wait()
		defer close(stop)
		during()
	}()
	return int(count.Load())
}
