package e2e_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/rig"
)

// dead publishes n events that the partner of an endpoint refuses for good, and has it accept from then on. It forgets nothing: the
// partner has n receipts.
func dead(t *testing.T, p *rig.Client, partner *rig.Partner, ep rig.Endpoint, prefix string, n int) []string {
	t.Helper()
	partner.Answer(rig.Status(http.StatusUnprocessableEntity))
	ids := p.PublishMany(ep.Tenant, prefix, n)
	p.AwaitCount("tenant="+ep.Tenant+"&endpointId="+ep.ID+"&state=DEAD", n)
	partner.Answer(nil)
	return ids
}

func replay(p *rig.Client, replay rig.Object) rig.Object {
	return p.OK("POST", "/v1/deliveries:replay", rig.Object{"replay": replay, "reason": "tests"})
}

// ended waits for an operation's end.
func ended(t *testing.T, p *rig.Client, op rig.Object) rig.Object {
	t.Helper()
	var last rig.Object
	rig.Eventually(t, "the operation ends", func() bool {
		last = p.OK("GET", "/v1/operations/"+op.S("id")+"?tenant="+op.S("tenant"), nil)
		return last.S("endTime") != ""
	}, func() string { return fmt.Sprint(last) })
	return last
}

func succeeded(t *testing.T, p *rig.Client, op rig.Object, done, skipped int) {
	t.Helper()
	got := ended(t, p, op)
	if got.S("state") != "SUCCEEDED" || got.N("progress", "done") != done || got.N("progress", "skipped") != skipped ||
		got.N("progress", "examined") != done+skipped || got.N("progress", "fraction") != 1 {
		t.Errorf("want %d done and %d skipped: %v", done, skipped, got)
	}
}

// times counts the receipts of each delivery from the given one on.
func times(partner *rig.Partner, from int) map[string]int {
	out := map[string]int{}
	for _, r := range partner.Receipts()[from:] {
		out[r.ID()]++
	}
	return out
}

// TestReplay sends again what a filter names, and nothing else.
func TestReplay(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		one, two := rig.NewPartner(t, nil, nil), rig.NewPartner(t, nil, nil)
		a, b := p.Register(one.URL, nil), p.Register(two.URL, rig.Object{"tenant": "globex"})
		c := p.Register(two.URL, rig.Object{"eventTypes": []string{"deal.*"}})
		first := dead(t, p.Client, one, a, "first", 30)
		dead(t, p.Client, two, b, "other", 5)
		one.Answer(rig.Status(http.StatusUnprocessableEntity))
		p.PublishMany("acme", "second", 20)
		two.Answer(rig.Status(http.StatusUnprocessableEntity))
		deal := rig.Event("deal", `{}`)
		deal["type"] = "deal.won"
		p.Publish(deal)
		p.AwaitCount("tenant=acme&state=DEAD", 51)
		one.Answer(nil)
		two.Answer(nil)

		// By endpoint and time: the first 30.
		middle := p.Deliveries("tenant=acme&eventId=second-0")[0].S("acceptTime")
		succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme", "endpointId": a.ID, "before": middle}), 30, 0)
		p.AwaitCount("tenant=acme&state=DELIVERED", 30)
		got := times(one, 50)
		for _, event := range first {
			d := p.AwaitDelivery(a, event, "DELIVERED")
			if got[d.S("id")] != 1 || d.N("attemptCount") != 2 || len(d.L("attempts")) != 2 {
				t.Errorf("%s: sent again %d times, %v", event, got[d.S("id")], d)
			}
		}
		if len(got) != 30 {
			t.Errorf("%d deliveries were sent again", len(got))
		}
		// By type, over all endpoints of the tenant.
		succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme", "eventTypes": []string{"deal.won", "task.*"}}), 1, 0)
		p.AwaitDelivery(c, "deal", "DELIVERED")
		// What is dead of the tenant: nobody else's, and once. A second one finds none.
		succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme"}), 20, 0)
		p.AwaitCount("tenant=acme&state=DELIVERED", 51)
		succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme"}), 0, 0)
		if n := len(p.Deliveries("tenant=globex&state=DEAD")); n != 5 {
			t.Errorf("%d of another tenant are dead", n)
		}
		// What was delivered, when it is asked for.
		succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme", "endpointId": a.ID, "states": []string{"DELIVERED", "DEAD"}}), 50, 0)
		one.Await(t, 50+50+50)
		p.AwaitCount("tenant=acme&state=DELIVERED", 51)
		for id, n := range times(one, 50) {
			if n != 2 {
				t.Errorf("%s was sent again %d times in two replays", id, n)
			}
		}
		// They are listed, newest first.
		list := p.OK("GET", "/v1/operations?tenant=acme&kind=REPLAY", nil).L("operations")
		if len(list) != 5 || list[0].O("replay").S("endpointId") != a.ID || list[4].O("replay").S("before") != middle || list[4].S("reason") != "tests" {
			t.Errorf("%v", list)
		}
	})
}

// TestReplayMissing gives an endpoint the events from before it was there, in their order, once, under its own policy.
func TestReplayMissing(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		old, late := rig.NewPartner(t, nil, nil), rig.NewPartner(t, nil, nil)
		p.Register(old.URL, nil)
		ids := p.PublishMany("acme", "e", 300)
		p.PublishMany("globex", "theirs", 20)
		unwanted := rig.Event("unwanted", `{}`)
		unwanted["type"] = "deal.won"
		p.Publish(unwanted)
		ep := p.Register(late.URL, rig.Object{"ordered": true, "redaction": rig.Object{"mode": "DENY_LISTED", "drop": []string{"n"}}})
		p.Publish(rig.Event("its-own", `{"n":1}`))
		late.Await(t, 1)
		ask := rig.Object{"tenant": "acme", "endpointId": ep.ID, "missing": true, "deliveriesPerSecond": 10_000}
		succeeded(t, p.Client, replay(p.Client, ask), 300, 2)
		p.AwaitCount("tenant=acme&endpointId="+ep.ID+"&state=DELIVERED", 301)
		got := late.Receipts()[1:]
		if len(got) != len(ids) {
			t.Fatalf("%d receipts for %d events", len(got), len(ids))
		}
		for i, event := range ids {
			if d := p.Deliveries("tenant=acme&endpointId=" + ep.ID + "&eventId=" + event); got[i].ID() != d[0].S("id") || d[0].N("redactedCount") != 1 {
				t.Fatalf("receipt %d is not %s, or not redacted: %v", i, event, d)
			}
		}
		// Now it has them: also after a restart.
		succeeded(t, p.Client, replay(p.Client, ask), 0, 302)
		p.Stop()
		p.Restart(nil)
		succeeded(t, p.Client, replay(p.Client, ask), 0, 302)
		if n := late.Count(); n != 301 {
			t.Errorf("%d receipts in the end", n)
		}
		if n := old.Count(); n != 301 {
			t.Errorf("the other endpoint has %d", n)
		}
	})
}

// TestReplayCancelled stops within a second, and what it did stays done.
func TestReplayCancelled(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	dead(t, p.Client, partner, ep, "e", 500)
	op := replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 20})
	partner.Await(t, 510)
	began := time.Now()
	p.OK("POST", "/v1/operations/"+op.S("id")+":cancel", rig.Object{"tenant": "acme"})
	got := ended(t, p.Client, op)
	if took := time.Since(began); got.S("state") != "CANCELLED" || took > 5*time.Second {
		t.Errorf("after %v: %v", took, got)
	}
	done := got.N("progress", "done")
	partner.Await(t, 500+done)
	p.AwaitCount("tenant=acme&state=DELIVERED", done)
	if n := len(p.Deliveries("tenant=acme&state=DEAD")); done < 10 || n != 500-done {
		t.Errorf("%d were done, and %d are dead", done, n)
	}
	p.OK("POST", "/v1/operations/"+op.S("id")+":cancel", rig.Object{"tenant": "acme"})
	// What is left can be replayed.
	succeeded(t, p.Client, replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 10_000}), 500-done, 0)
	partner.Await(t, 1000)
}

// TestReplaySurvivesAKill: it goes on where it was, and what was not in flight at the kill is sent again once.
func TestReplaySurvivesAKill(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, nil)
		ep := p.Register(partner.URL, nil)
		const n = 600
		dead(t, p.Client, partner, ep, "e", n)
		op := replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 300})
		inFlight := 0
		for round := range 3 {
			partner.Await(t, n+100*(round+1))
			p.Kill()
			inFlight += ep.Object.N("concurrency")
			p.Restart(nil)
		}
		if got := ended(t, p.Client, op); got.S("state") != "SUCCEEDED" || got.N("progress", "done") != n || got.N("progress", "skipped") != 0 {
			t.Errorf("%v", got)
		}
		p.AwaitCount("tenant=acme&state=DELIVERED", n)
		again, twice := times(partner, n), 0
		for id, times := range again {
			if times > 2 {
				t.Errorf("%s was sent again %d times", id, times)
			}
			twice += times - 1
		}
		if len(again) != n || twice > inFlight {
			t.Errorf("%d of %d were sent again, %d of them twice: at most %d were in flight at the kills", len(again), n, twice, inFlight)
		}
		t.Logf("%d deliveries, %d sent twice over 3 kills", len(again), twice)
	})
}

// TestReplayLeavesLiveTrafficItsPace: what is published during a replay of thousands overtakes them.
func TestReplayLeavesLiveTrafficItsPace(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	const n, live, ahead = 2000, 20, 24
	dead(t, p.Client, partner, ep, "e", n)
	partner.Answer(func(rig.Receipt) rig.Reply { time.Sleep(5 * time.Millisecond); return rig.Reply{} })
	op := replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 10_000})
	partner.Await(t, n+100)
	for i := range live {
		before := partner.Count()
		p.Publish(rig.Event(fmt.Sprintf("live-%d", i), `{}`))
		accepted := partner.Count()
		d := p.AwaitDelivery(ep, fmt.Sprintf("live-%d", i), "DELIVERED")
		for _, r := range partner.Receipts() {
			// What came before its answer was there before it could be in front of anything.
			if r.ID() == d.S("id") && r.N-accepted > ahead {
				t.Errorf("%d replayed deliveries went before a live one (from %d, accepted at %d, received as %d)", r.N-accepted, before, accepted, r.N)
			}
		}
	}
	if got := p.OK("GET", "/v1/operations/"+op.S("id"), nil); got.S("state") != "RUNNING" {
		t.Errorf("the replay was over before it could be measured: %v", got)
	}
	succeeded(t, p.Client, op, n, 0)
	partner.Await(t, 2*n+live)
}

// TestReplayOfAFlushedView: a view that is emptied in the middle does not end a replay early.
func TestReplayOfAFlushedView(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	p := start(t, rig.Config{"redis": redis.URL("view")})
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	const n = 1500
	dead(t, p.Client, partner, ep, "e", n)
	op := replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 1000})
	for round := range 3 {
		partner.Await(t, n+300*(round+1))
		if err := redis.Client().FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	succeeded(t, p.Client, op, n, 0)
	p.AwaitCount("tenant=acme&state=DELIVERED", n)
	if again := times(partner, n); len(again) != n || partner.Count() != 2*n {
		t.Errorf("%d of %d were sent again, in %d requests", len(again), n, partner.Count()-n)
	}
}

// TestReplayWaitsForItsEndpoint: an endpoint that takes nothing holds its own deliveries up, and nobody else's.
func TestReplayWaitsForItsEndpoint(t *testing.T) {
	t.Parallel()
	p := start(t)
	one, two := rig.NewPartner(t, nil, nil), rig.NewPartner(t, nil, nil)
	a := p.Register(one.URL, nil)
	dead(t, p.Client, one, a, "a", 40)
	p.MustAct(a, "pause")
	b := p.Register(two.URL, nil)
	dead(t, p.Client, two, b, "b", 40)
	op := replay(p.Client, rig.Object{"tenant": "acme", "deliveriesPerSecond": 1000})
	two.Await(t, 80)
	rig.Eventually(t, "the operation says what it waits for", func() bool {
		return p.OK("GET", "/v1/operations/"+op.S("id"), nil).S("error") == "endpoint "+a.ID+" takes nothing now: ENDPOINT_PAUSED"
	})
	if n := one.Count(); n != 40 {
		t.Errorf("a paused endpoint got %d", n-40)
	}
	p.MustAct(a, "resume")
	succeeded(t, p.Client, op, 80, 0)
	one.Await(t, 120)
}

// TestReplayCallers: a request id makes one operation, and a partner knows of its own alone.
func TestReplayCallers(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	them, strangers := token(p.Client, "partner-1", "PARTNER", "acme"), token(p.Client, "partner-2", "PARTNER", "globex")
	ep := them.Register(partner.URL, nil)
	dead(t, p.Client, partner, ep, "e", 10)
	ask := rig.Object{"replay": rig.Object{"tenant": "acme", "endpointId": ep.ID}, "requestId": "once"}
	op := them.OK("POST", "/v1/deliveries:replay", ask)
	succeeded(t, them, op, 10, 0)
	if again := them.OK("POST", "/v1/deliveries:replay", ask); again.S("id") != op.S("id") || again.S("state") != "SUCCEEDED" {
		t.Errorf("repeated: %v", again)
	}
	ask["reason"] = "other"
	if a := them.Do("POST", "/v1/deliveries:replay", ask); a.N("code") != int(codes.AlreadyExists) {
		t.Errorf("the request id with another reason: %d %s", a.Status, a.Raw)
	}
	partner.Await(t, 20)
	for path, body := range map[string]any{
		"/v1/operations/" + op.S("id"): nil, "/v1/operations/" + op.S("id") + ":cancel": rig.Object{},
		"/v1/deliveries:replay": rig.Object{"replay": rig.Object{"tenant": "globex", "endpointId": ep.ID}},
	} {
		method := "POST"
		if body == nil {
			method = "GET"
		}
		if a := strangers.Do(method, path, body); a.N("code") != int(codes.NotFound) {
			t.Errorf("%s by a partner of another tenant: %d %s", path, a.Status, a.Raw)
		}
	}
	if list := strangers.OK("GET", "/v1/operations", nil).L("operations"); len(list) != 0 {
		t.Errorf("a stranger lists %v", list)
	}
	if a := them.Do("POST", "/v1/operations/"+op.S("id")+":cancel", rig.Object{}); a.N("code") != int(codes.FailedPrecondition) {
		t.Errorf("cancelling what has ended: %d %s", a.Status, a.Raw)
	}
	if n := partner.Count(); n != 20 {
		t.Errorf("%d requests", n)
	}
}
