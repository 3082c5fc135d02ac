package registry

import (
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
)

func TestTheActiveClockStandsStillWhileNotActive(t *testing.T) {
	t.Parallel()
	at := func(minute int) time.Time {
		return time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC)
	}
	r := &Record{ID: "ep_1", Tenant: "acme", State: relay.EndpointActive, CreateTime: at(0)}
	deadline := plain(r).ActiveTime(at(1)).Add(10 * time.Minute)

	r.MoveTo(relay.EndpointPaused, "", at(2))
	r.MoveTo(relay.EndpointContained, "", at(5)) // one spell
	if got := plain(r).ActiveTime(at(30)); !got.Equal(at(2)) {
		t.Errorf("paused at :02, the clock shows %v at :30", got)
	}
	r.MoveTo(relay.EndpointActive, "", at(32))
	data, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = decode(data); err != nil {
		t.Fatal(err)
	}
	if active := plain(r).ActiveTime(at(40)); !active.Before(deadline) {
		t.Errorf("nine active minutes of ten are over, and the deadline has passed: %v, %v", active, deadline)
	}
	if active := plain(r).ActiveTime(at(42)); active.Before(deadline) {
		t.Errorf("eleven active minutes of ten are over, and the deadline has not passed: %v, %v", active, deadline)
	}
}
