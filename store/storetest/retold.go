package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// stripped is an attempt as it is told once more.
func stripped(a *relay.Attempt) *relay.Attempt {
	bare := *a
	bare.ResponseBody, bare.BodySHA256 = nil, ""
	return &bare
}

// testRetold: what is told once more changes the attempts that it has, and nothing of what came later.
func testRetold(t *testing.T, place Place) {
	// Small answers stand in the record and large ones beside it: the one must go where the other was.
	for _, size := range []int{10, 2000} {
		for _, state := range []relay.DeliveryState{relay.Delivered, relay.Parked, relay.Dead} {
			for _, oneGroup := range []bool{false, true} {
				t.Run(fmt.Sprint(size, state, oneGroup), func(t *testing.T) { retold(t, place(), size, state, oneGroup) })
			}
		}
	}
}

func retold(t *testing.T, l relay.Ledger, size int, state relay.DeliveryState, oneGroup bool) {
	tenant := fmt.Sprintf("t-%d-%s-%v", size, stateName(state), oneGroup)
	defer l.Close()
	at := position(t, l, 0)
	j := behind(at)
	var told []relay.Outcome
	tell := func(s relay.DeliveryState, number int) {
		o := outcome(tenant, 1, "ep_1", s)
		o.Attempts, o.Attempt = number, attempt(o.DeliveryID, number)
		o.Attempt.ResponseBody = slices.Repeat([]byte("a"), size)
		o.Progress = relay.Progress{Digest: [32]byte{7}, Next: 1, Total: 2}
		told = append(told, o)
		j.add(o)
	}
	tell(relay.Retrying, 1)
	tell(relay.Retrying, 2)
	asOf := j.end()
	tell(state, 3)
	if !oneGroup {
		j.apply(t, l, int(at))
		at = j.end()
	}
	before := told[2]
	for _, old := range told[:2] {
		o := told[1]
		o.Attempt, o.Retold, o.Progress.Digest = stripped(old.Attempt), asOf, [32]byte{}
		j.add(o)
	}
	j.apply(t, l, int(at))
	got := get(t, l, tenant, before.DeliveryID)
	want := []relay.Attempt{*stripped(told[0].Attempt), *stripped(told[1].Attempt), *before.Attempt}
	same(t, "history", got.History, want)
	if got.State != state || got.Progress != before.Progress || got.Attempts != 3 {
		t.Fatalf("%+v", got)
	}
	// As of the last word, the whole of it is told once more.
	o, end := before, j.end()
	o.Attempt, o.Retold, o.Progress.Digest = stripped(before.Attempt), asOf+1, [32]byte{}
	j.add(o)
	j.apply(t, l, int(end))
	got = get(t, l, tenant, before.DeliveryID)
	want[2] = *stripped(before.Attempt)
	same(t, "history", got.History, want)
	if got.State != state || got.Progress.Digest != [32]byte{} {
		t.Fatalf("%+v", got)
	}
	// What comes later is as ever.
	end = j.end()
	tell(relay.Cancelled, 4)
	j.apply(t, l, int(end))
	if got = get(t, l, tenant, before.DeliveryID); got.State != relay.Cancelled || len(got.History) != 4 {
		t.Fatalf("%+v", got)
	}
	if page := walk(t, l, relay.DeliveryQuery{Tenant: tenant, State: state}); len(page) != 0 {
		t.Fatalf("still listed as %s", state)
	}
	if page := walk(t, l, relay.DeliveryQuery{Tenant: tenant, State: relay.Cancelled}); len(page) != 1 {
		t.Fatalf("%d listed as cancelled", len(page))
	}
}

func stateName(s relay.DeliveryState) string {
	return map[relay.DeliveryState]string{relay.Delivered: "delivered", relay.Parked: "parked", relay.Dead: "dead"}[s]
}

// testRetoldAlone: where all that was told first is gone, as for a view that is rebuilt, what is told once more is all there is;
// and of an earlier life of the same delivery it says nothing to a later one.
func testRetoldAlone(t *testing.T, place Place) {
	l := opened(t, place)
	j := behind(9)
	o := outcome("acme", 1, "ep_1", relay.Delivered)
	o.Attempt, o.Retold = stripped(o.Attempt), 4
	j.add(o)
	j.apply(t, l, 9)
	got := get(t, l, "acme", o.DeliveryID)
	same(t, "history", got.History, []relay.Attempt{*o.Attempt})
	if got.State != relay.Delivered || len(walk(t, l, relay.DeliveryQuery{Tenant: "acme"})) != 1 {
		t.Fatalf("%+v", got)
	}
	again := outcome("acme", 1, "ep_1", relay.Parked)
	again.AcceptTime = again.AcceptTime.Add(time.Hour)
	j.add(again)
	o.Retold = 5
	j.add(o)
	j.apply(t, l, 10)
	got = get(t, l, "acme", o.DeliveryID)
	if got.State != relay.Parked || len(got.History) != 0 || !got.AcceptTime.Equal(again.AcceptTime) {
		t.Fatalf("%+v", got)
	}
	j.add(o)
	j.apply(t, l, 12)
	if got = get(t, l, "acme", o.DeliveryID); got.State != relay.Parked || len(got.History) != 0 {
		t.Fatalf("%+v", got)
	}
}

// behind is a journal of which n outcomes are no longer told.
func behind(n uint64) *journal {
	j := &journal{log: make([]relay.SequencedOutcome, n)}
	for i := range j.log {
		j.log[i].Sequence = uint64(i) + 1
	}
	return j
}
