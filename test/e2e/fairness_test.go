package e2e_test

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// One tenant has flooded the relay: what another one publishes then is sent after some of the flood, and not after all of it, however
// long the machine takes for either.
func TestFloodOfAnotherTenant(t *testing.T) {
	t.Parallel()
	const (
		batches, each = 3, 1000
		endpoints     = 100
		flood         = batches * each * endpoints
		before        = flood / 100 // of the flood, that may go before it
	)
	p := start(t)
	var sent atomic.Int64
	partner := rig.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent.Add(1) }))
	for i := range endpoints {
		p.Register(partner+"/"+strconv.Itoa(i), rig.Object{"tenant": "flood"})
	}
	came := make(chan int64, 1)
	gentle := rig.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came <- sent.Load() }))
	p.Register(gentle, rig.Object{"tenant": "gentle"})
	for b := range batches {
		var events []rig.Object
		for i := range each {
			e := rig.Event("flood-"+strconv.Itoa(b*each+i), `{"n":1}`)
			e["tenant"] = "flood"
			events = append(events, e)
		}
		p.OK(http.MethodPost, "/v1/events:batch", rig.Object{"events": events})
	}
	e := rig.Event("gentle-1", `{"n":1}`)
	e["tenant"] = "gentle"
	p.Publish(e)
	began := sent.Load()
	if began > flood-2*before {
		t.Fatalf("the flood was over: %d of %d deliveries were sent", began, flood)
	}
	overtaken := <-came - began
	t.Logf("%d deliveries of the flood went before it", overtaken)
	if overtaken > before {
		t.Fatalf("%d deliveries of the flood went before it, of %d that were waiting", overtaken, flood-began)
	}
}
