package courier

import (
	"slices"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
)

// What each status must mean, written out a second time and another way round than the table.
func wanted(status int) relay.Verdict {
	is := func(of ...int) bool { return slices.Contains(of, status) }
	v := relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonStatusUnknown}
	switch status / 100 {
	case 2:
		v = relay.Verdict{Kind: relay.VerdictDone, Reason: relay.ReasonAccepted, Healthy: true}
	case 3:
		v = relay.Verdict{Kind: relay.VerdictDead, Reason: relay.ReasonRedirected}
	case 4:
		v = relay.Verdict{Kind: relay.VerdictDead, Reason: relay.ReasonRejected, Healthy: is(400, 413, 422)}
	case 5:
		v.Reason = relay.ReasonServerError
	}
	switch {
	case is(401, 403):
		v = relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonUnauthorized}
	case is(404):
		v = relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonNotFound}
	case is(408, 425):
		v = relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonRequestTimeout}
	case is(410):
		v = relay.Verdict{Kind: relay.VerdictDead, Reason: relay.ReasonGone, Suspend: true}
	case is(429):
		v = relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonThrottled, After: time.Minute}
	case is(503):
		v = relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonUnavailable, After: time.Minute}
	}
	return v
}

func TestEveryStatus(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for status := 100; status <= 999; status++ {
		want := wanted(status)
		for _, after := range []string{"60", "Fri, 02 Jan 2026 03:05:05 GMT"} {
			if got := OfStatus(status, after, now); got != want {
				t.Errorf("%d: %+v, want %+v", status, got, want)
			}
		}
		want.After = 0
		for _, after := range []string{"", "soon", "-1"} {
			if got := OfStatus(status, after, now); got != want {
				t.Errorf("%d without Retry-After: %+v, want %+v", status, got, want)
			}
		}
		if !Counts(want) {
			t.Errorf("%d: the breaker must hear of every answer", status)
		}
	}
}

func TestEveryFailure(t *testing.T) {
	t.Parallel()
	reasons := map[relay.Reason]egress.Reason{}
	for _, reason := range egress.Reasons() {
		if _, known := byFailure[reason]; !known {
			t.Errorf("%s has no rule", reason)
		}
		v := OfFailure(reason)
		if v.Kind != relay.VerdictLater || v.Healthy || v.Suspend || v.After != 0 || v.Reason == relay.ReasonNone {
			t.Errorf("%s: %+v", reason, v)
		}
		if other, taken := reasons[v.Reason]; taken {
			t.Errorf("%s and %s are told alike: %s", reason, other, v.Reason)
		}
		reasons[v.Reason] = reason
		if Counts(v) != (reason != egress.Cancelled) {
			t.Errorf("%s: counted wrongly", reason)
		}
	}
	if len(byFailure) != len(egress.Reasons()) {
		t.Error("the table has rules for what cannot happen")
	}
	if OfFailure("NEW") != OfFailure(egress.TransportOther) {
		t.Error("an unknown failure is one of the transport")
	}
	for _, v := range []relay.Verdict{park(relay.ReasonCredentialFailed), withhold(relay.ReasonChunkUncovered), {Kind: relay.VerdictHold}} {
		if Counts(v) {
			t.Errorf("%+v says nothing of the endpoint", v)
		}
	}
}
