package courier

import (
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/retry"
)

// This file is the one table of what an attempt means for its delivery and its endpoint.

// rule is one row of it.
type rule struct {
	kind    relay.VerdictKind
	reason  relay.Reason
	healthy bool // the endpoint works: the breaker takes it for a success
	suspend bool
	waits   bool // Retry-After counts
}

// byStatus holds what each status of a response means; the first row that the status lies in is its rule. A receiver
// that refuses one delivery for what is in it (400, 413, 422) is itself well. One that redirects, or refuses the
// request as such (405, 415 ...), would refuse all: the breaker then saves the next ones from the same end.
var byStatus = []struct {
	from, to int
	rule
}{
	{200, 299, rule{relay.VerdictDone, relay.ReasonAccepted, true, false, false}},
	{300, 399, rule{relay.VerdictDead, relay.ReasonRedirected, false, false, false}},
	{400, 400, rule{relay.VerdictDead, relay.ReasonRejected, true, false, false}},
	{401, 401, rule{relay.VerdictLater, relay.ReasonUnauthorized, false, false, false}},
	{403, 403, rule{relay.VerdictLater, relay.ReasonUnauthorized, false, false, false}},
	{404, 404, rule{relay.VerdictLater, relay.ReasonNotFound, false, false, false}},
	{408, 408, rule{relay.VerdictLater, relay.ReasonRequestTimeout, false, false, false}},
	{410, 410, rule{relay.VerdictDead, relay.ReasonGone, false, true, false}},
	{413, 413, rule{relay.VerdictDead, relay.ReasonRejected, true, false, false}},
	{422, 422, rule{relay.VerdictDead, relay.ReasonRejected, true, false, false}},
	{425, 425, rule{relay.VerdictLater, relay.ReasonRequestTimeout, false, false, false}},
	{429, 429, rule{relay.VerdictLater, relay.ReasonThrottled, false, false, true}},
	{400, 499, rule{relay.VerdictDead, relay.ReasonRejected, false, false, false}},
	{503, 503, rule{relay.VerdictLater, relay.ReasonUnavailable, false, false, true}},
	{500, 599, rule{relay.VerdictLater, relay.ReasonServerError, false, false, false}},
}

// otherStatus is for what HTTP gives no meaning: 1xx as the last word, and 600 to 999.
var otherStatus = rule{relay.VerdictLater, relay.ReasonStatusUnknown, false, false, false}

// statusSetLost is what a receiver answers to a chunk when it no longer has those before it (RFC 4918, section 11.4:
// "the requested action depended on another action"). To the first chunk, or a whole delivery, it is any other 4xx.
const statusSetLost = 424

var setLost = rule{relay.VerdictLater, relay.ReasonChunkFailed, true, false, false}

// byFailure holds what it means that there was no response.
var byFailure = map[egress.Reason]rule{
	egress.DNSNotFound:                   later(relay.ReasonDNSNotFound),
	egress.DNSFailure:                    later(relay.ReasonDNSFailure),
	egress.AddressForbidden:              later(relay.ReasonForbidden),
	egress.ConnectRefused:                later(relay.ReasonConnectRefused),
	egress.ConnectTimeout:                later(relay.ReasonConnectTimeout),
	egress.ConnectFailed:                 later(relay.ReasonConnectFailed),
	egress.TLSCertificateInvalid:         later(relay.ReasonTLSCertificate),
	egress.TLSCertificateExpired:         later(relay.ReasonTLSExpired),
	egress.TLSHostname:                   later(relay.ReasonTLSHostname),
	egress.TLSPinMismatch:                later(relay.ReasonTLSPin),
	egress.TLSHandshake:                  later(relay.ReasonTLSHandshake),
	egress.ClientCertificateNotRequested: later(relay.ReasonCertNotAsked),
	egress.ClientCertificateRefused:      later(relay.ReasonCertRefused),
	egress.ClientCertificateUnconfirmed:  later(relay.ReasonCertUnconfirmed),
	egress.ResponseTimeout:               later(relay.ReasonResponseTimeout),
	egress.ResponseInvalid:               later(relay.ReasonResponseInvalid),
	egress.ConnectionReset:               later(relay.ReasonConnectionReset),
	egress.ConnectionClosed:              later(relay.ReasonConnectionEnded),
	egress.Timeout:                       later(relay.ReasonTimeout),
	egress.Cancelled:                     later(relay.ReasonInterrupted), // by us: see Counts
	egress.TransportOther:                later(relay.ReasonTransport),
}

func later(reason relay.Reason) rule { return rule{kind: relay.VerdictLater, reason: reason} }

// OfStatus is what a response means: its status, and its Retry-After header (empty: none), which counts for 429 and
// 503 alone, from now.
func OfStatus(status int, retryAfter string, now time.Time) relay.Verdict {
	r := otherStatus
	for i := range byStatus {
		if byStatus[i].from <= status && status <= byStatus[i].to {
			r = byStatus[i].rule
			break
		}
	}
	v := r.verdict()
	if r.waits {
		v.After, _ = retry.ParseRetryAfter(retryAfter, now)
	}
	return v
}

// OfFailure is what it means that there was no response. A reason that egress did not have when the table was written
// is a failure of the transport.
func OfFailure(reason egress.Reason) relay.Verdict {
	if r, known := byFailure[reason]; known {
		return r.verdict()
	}
	return later(relay.ReasonTransport).verdict()
}

func (r rule) verdict() relay.Verdict {
	return relay.Verdict{Kind: r.kind, Reason: r.reason, Healthy: r.healthy, Suspend: r.suspend}
}

// Counts tells whether a verdict says anything about the endpoint, so that its breaker is to hear of it: not
// where we ourselves broke the attempt off, and not where nothing was sent.
func Counts(v relay.Verdict) bool {
	switch v.Kind {
	case relay.VerdictPark, relay.VerdictWithhold, relay.VerdictHold:
		return false
	}
	return v.Reason != relay.ReasonInterrupted
}

func park(reason relay.Reason) relay.Verdict {
	return relay.Verdict{Kind: relay.VerdictPark, Reason: reason}
}

func withhold(reason relay.Reason) relay.Verdict {
	return relay.Verdict{Kind: relay.VerdictWithhold, Reason: reason}
}
