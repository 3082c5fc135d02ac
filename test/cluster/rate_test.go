package cluster_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

const (
	// rated is the rate of the endpoint that has one, in requests a second.
	rated = 20
	// ratedBurst is what may come in a second beside: a tenth that a lane saves up, and the rest for requests that a busy machine holds back
	// on their way and passes on together. Two owners at once would send twice the rate.
	ratedBurst = rated/10 + rated*4/10
	// ratedEvents take fifteen seconds at that rate: time for two takeovers.
	ratedEvents = 300
)

// metered keeps when each request arrived, and what it was for.
type metered struct {
	mu       sync.Mutex
	arrivals []time.Time
	ids      map[string]int
}

func (m *metered) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrivals = append(m.arrivals, time.Now())
	m.ids[r.Header.Get("Webhook-Id")]++
}

func (m *metered) requests() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.arrivals))
}

// most is how many requests came in the fullest second.
func (m *metered) most() (most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.SortFunc(m.arrivals, time.Time.Compare)
	first := 0
	for last, at := range m.arrivals {
		for at.Sub(m.arrivals[first]) >= time.Second {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// rate publishes far more than an endpoint's rate lets pass, and kills the relay that sends to it, twice: whoever sends, no second has
// more than the rate and its burst, and everything arrives.
func rate(w *world) {
	const tenant = "acme"
	meter := &metered{ids: map[string]int{}}
	by := w.apis[0].In(w)
	ep := by.Register(rig.Serve(w, meter)+"/rated", rig.Object{
		"tenant": tenant, "eventTypes": []string{"rated.*"}, "rateLimit": rig.Object{"requestsPerSecond": rated},
	})
	began := time.Now()
	for n := 0; n < ratedEvents; n += 100 {
		var events []rig.Object
		for i := range 100 {
			e := rig.Event(fmt.Sprintf("rated-%d", n+i), `{}`)
			e["type"] = "rated.made"
			events = append(events, e)
		}
		by.OK("POST", "/v1/events:batch", rig.Object{"events": events})
	}
	for range 2 {
		w.grown("requests at the rate", meter.requests, 2*rated)
		victim := w.owner(tenant)
		w.interrupted(func() {
			victim.Kill()
			w.grown("requests after the takeover", meter.requests, rated)
		})
		victim.Restart(nil)
		w.awaitOwners()
	}
	query := "tenant=" + tenant + "&endpointId=" + ep.ID + "&state=DELIVERED"
	w.apis[0].In(w).AwaitCount(query, ratedEvents)
	took := time.Since(began)
	meter.mu.Lock()
	arrived, requests := len(meter.ids), len(meter.arrivals)
	meter.mu.Unlock()
	if arrived != ratedEvents {
		w.Errorf("%d of %d events arrived", arrived, ratedEvents)
	}
	most := meter.most()
	w.Logf("%d requests for %d events in %v over two takeovers; at most %d in a second, at a rate of %d/s", requests, arrived, took.Round(time.Millisecond), most, rated)
	if most > rated+ratedBurst {
		w.Errorf("%d requests in a second", most)
	}
	by.Do("DELETE", ep.Path(), nil)
}
