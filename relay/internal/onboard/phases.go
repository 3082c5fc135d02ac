package onboard

import (
	"fmt"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// Phase is one step of a test of an endpoint.
type Phase struct {
	Name     string // DNS, CONNECT, TLS, CERTIFICATE, REQUEST, RESPONSE, VERDICT
	Outcome  string // PASSED, FAILED, SKIPPED
	Duration time.Duration
	Detail   string
}

// The outcomes of a phase.
const (
	Passed  = "PASSED"
	Failed  = "FAILED"
	Skipped = "SKIPPED"
)

var phaseNames = []string{"DNS", "CONNECT", "TLS", "CERTIFICATE", "REQUEST", "RESPONSE", "VERDICT"}

// failedIn is the phase in which an attempt with no answer ended, by its reason. What is not here ended with or after an answer.
var failedIn = map[relay.Reason]string{
	relay.ReasonDNSNotFound: "DNS", relay.ReasonDNSFailure: "DNS", relay.ReasonForbidden: "DNS",
	relay.ReasonConnectRefused: "CONNECT", relay.ReasonConnectFailed: "CONNECT", relay.ReasonConnectTimeout: "CONNECT",
	relay.ReasonTLSHandshake: "TLS", relay.ReasonCertNotAsked: "TLS", relay.ReasonCertRefused: "TLS", relay.ReasonCertUnconfirmed: "TLS",
	relay.ReasonTLSCertificate: "CERTIFICATE", relay.ReasonTLSExpired: "CERTIFICATE", relay.ReasonTLSHostname: "CERTIFICATE", relay.ReasonTLSPin: "CERTIFICATE",
	relay.ReasonSigningFailed: "REQUEST", relay.ReasonCredentialFailed: "REQUEST", relay.ReasonChunkUncovered: "REQUEST", relay.ReasonChunkFailed: "REQUEST",
	relay.ReasonTransport: "REQUEST", relay.ReasonInterrupted: "REQUEST",
	relay.ReasonTimeout: "RESPONSE", relay.ReasonConnectionReset: "RESPONSE", relay.ReasonConnectionEnded: "RESPONSE",
	relay.ReasonResponseInvalid: "RESPONSE", relay.ReasonResponseTimeout: "RESPONSE",
}

// Phases tells an attempt on a connection of its own, step by step.
func Phases(a *relay.Attempt) []Phase {
	end := len(phaseNames) - 1
	if a.StatusCode == 0 {
		end = 4 // what is not known better ended with the request
		for i, name := range phaseNames {
			if failedIn[a.Reason] == name {
				end = i
			}
		}
		if a.Reason == relay.ReasonConnectTimeout { // it is of all three together
			if end = 0; a.Durations.Connect > 0 {
				end = 1
			}
			if a.Durations.TLS > 0 {
				end = 2
			}
		}
	}
	took := []time.Duration{a.Durations.DNS, a.Durations.Connect, a.Durations.TLS, 0, 0, a.Durations.FirstByte, a.Durations.Total}
	out := make([]Phase, len(phaseNames))
	for i, name := range phaseNames {
		p := Phase{Name: name, Outcome: Passed, Duration: took[i]}
		switch {
		case a.StatusCode != 0 && a.TLSVersion == "" && (name == "TLS" || name == "CERTIFICATE"):
			p.Outcome, p.Detail = Skipped, "plain HTTP"
		case i > end:
			p = Phase{Name: name, Outcome: Skipped}
		case i == end && (i < len(phaseNames)-1 || a.Verdict != relay.VerdictDone):
			p.Outcome, p.Detail = Failed, string(a.Reason)
		default:
			p.Detail = found(name, a)
		}
		out[i] = p
	}
	return out
}

func found(phase string, a *relay.Attempt) string {
	switch phase {
	case "CONNECT":
		return a.RemoteAddress
	case "TLS":
		if a.ClientCertificateSHA256 != "" {
			return a.TLSVersion + ", our certificate was asked for: sha256 " + short(a.ClientCertificateSHA256)
		}
		return a.TLSVersion
	case "CERTIFICATE":
		return strings.TrimSpace(a.ServerCertificateSubject + " sha256 " + short(a.ServerCertificateSHA256))
	case "REQUEST":
		return "signed with key " + a.KeyID
	case "RESPONSE":
		return fmt.Sprintf("%d, %d bytes", a.StatusCode, a.ResponseSize)
	case "VERDICT":
		return string(a.Reason)
	}
	return ""
}

// short is enough of a digest to compare by eye.
func short(digest string) string { return digest[:min(len(digest), 16)] }
