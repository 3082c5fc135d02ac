package e2e_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// A tenant beyond its publish quota is refused event by event, with the time to come again; another one is not, and what was kept is
// delivered.
func TestPublishQuota(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		publishQuota(t, start(t, view, rig.Config{"limits": rig.Config{"publish": rig.Config{
			"burst": "10s", "tenants": rig.Config{"acme": rig.Config{"eventsPerSecond": 1}},
		}}}))
	})
}

func publishQuota(t *testing.T, p *rig.Process) {
	partner := rig.NewPartner(t, nil, nil)
	p.Client.In(t).Register(partner.URL, nil)
	batch := func(tenant string, n int) (kept, refused int) {
		var events []rig.Object
		for i := range n {
			e := rig.Event(tenant+"-"+strconv.Itoa(i), `{"n":1}`)
			e["tenant"] = tenant
			events = append(events, e)
		}
		for _, r := range p.Client.OK(http.MethodPost, "/v1/events:batch", rig.Object{"events": events}).L("results") {
			switch {
			case r.O("error") == nil:
				kept++
			case r.N("error", "code") == 8 && len(r.L("error", "details")) == 1 && r.L("error", "details")[0].S("retryDelay") != "":
				refused++
			default:
				t.Fatalf("%v", r)
			}
		}
		return kept, refused
	}
	kept, refused := batch("acme", 40)
	if kept < 5 || kept > 12 || kept+refused != 40 {
		t.Fatalf("of 40 events %d were kept and %d refused, with a quota of 10 at once", kept, refused)
	}
	if others, none := batch("other", 40); others != 40 || none != 0 {
		t.Fatalf("of another tenant's 40 events %d were kept", others)
	}
	for i := range 20 {
		answer := p.Client.Do(http.MethodPost, "/v1/events", rig.Event("single-"+strconv.Itoa(i), `{}`))
		if answer.Status == http.StatusTooManyRequests {
			if answer.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if n := p.Metric("sealpost_publish_quota_refused_total", ""); n < float64(refused) {
				t.Errorf("%v refusals are counted, want %d and more", n, refused)
			}
			partner.Await(t, kept)
			return
		}
		kept++
	}
	t.Fatal("a single event is never refused")
}
