package partition

import (
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// An endpoint's rate bounds requests, so each chunk takes its turn.
func TestTheRateCoversChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const rate = 40
	w.endpoint("ep", func(r *registry.Record) { r.Settings.RateLimit = rate })
	w.start()
	began := time.Now()
	seq := w.publish("contact.imported", `{"rows":[`+strings.Repeat(`{"name":"`+strings.Repeat("x", 480)+`"},`, 159)+`{}]}`)
	o := w.reaches(seq, "ep", relay.Delivered, "")
	// The burst is a tenth of a second's; the machine can only make it slower.
	if least := time.Duration(float64(o.Progress.Total-rate/10-1) / rate * float64(time.Second)); o.Progress.Total < 15 || time.Since(began) < least {
		t.Errorf("%d requests in %v, at least %v at %d a second", o.Progress.Total, time.Since(began), least, rate)
	}
	w.finish()
	w.settled()
}

// What we have to mend ourselves is parked for a time, and sent once it is mended.
func TestOurOwnFaultParks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	w.script(func(s sent) relay.Verdict {
		if s.number < 3 {
			return relay.Verdict{Kind: relay.VerdictPark, Reason: relay.ReasonCredentialFailed}
		}
		return status(200)
	})
	w.start()
	seq := w.publish("contact.updated", `{}`)
	w.reaches(seq, "ep", relay.Delivered, "")
	parked := 0
	for _, o := range w.of(seq, "ep") {
		if o.State == relay.Parked && o.Reason == relay.ReasonCredentialFailed && !o.Due.IsZero() {
			parked++
		}
	}
	if parked != 2 {
		t.Errorf("parked with a time %d times, want 2: %+v", parked, w.of(seq, "ep"))
	}
	w.finish()
	w.settled()
}
