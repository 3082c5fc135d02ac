package control

import (
	"strings"

	"github.com/sealpost/sealpost/relay"
)

// fields are what an update can change, by their paths in the REST API. Each takes one field over.
var fields = map[string]func(to, from *Spec){
	"url":         func(to, from *Spec) { to.URL = from.URL },
	"owner":       func(to, from *Spec) { to.Owner = from.Owner },
	"purpose":     func(to, from *Spec) { to.Purpose = from.Purpose },
	"description": func(to, from *Spec) { to.Description = from.Description },
	"eventTypes":  func(to, from *Spec) { to.EventTypes = from.EventTypes },
	"filter":      func(to, from *Spec) { to.Filter = from.Filter },
	"environment": func(to, from *Spec) { to.Environment = from.Environment },
	"dataScope":   func(to, from *Spec) { to.DataScope = from.DataScope },
	"contentMode": func(to, from *Spec) { to.ContentMode = from.ContentMode },

	"redaction":              func(to, from *Spec) { to.Redaction = from.Redaction },
	"redaction.mode":         func(to, from *Spec) { to.Redaction.Mode = from.Redaction.Mode },
	"redaction.allow":        func(to, from *Spec) { to.Redaction.Allow = from.Redaction.Allow },
	"redaction.drop":         func(to, from *Spec) { to.Redaction.Drop = from.Redaction.Drop },
	"redaction.mask":         func(to, from *Spec) { to.Redaction.Mask = from.Redaction.Mask },
	"redaction.pseudonymize": func(to, from *Spec) { to.Redaction.Pseudonymize = from.Redaction.Pseudonymize },

	"chunkBytes":                  func(to, from *Spec) { to.ChunkBytes = from.ChunkBytes },
	"chunkArray":                  func(to, from *Spec) { to.ChunkArray = from.ChunkArray },
	"concurrency":                 func(to, from *Spec) { to.Concurrency = from.Concurrency },
	"ordered":                     func(to, from *Spec) { to.Ordered = from.Ordered },
	"rateLimit":                   func(to, from *Spec) { to.RateLimit = from.RateLimit },
	"rateLimit.requestsPerSecond": func(to, from *Spec) { to.RateLimit = from.RateLimit },
	"timeout":                     func(to, from *Spec) { to.Timeout = from.Timeout },
	"retryFor":                    func(to, from *Spec) { to.RetryFor = from.RetryFor },
	"http2":                       func(to, from *Spec) { to.HTTP2 = from.HTTP2 },

	"tls":                   func(to, from *Spec) { to.TLS = from.TLS },
	"tls.clientCertificate": func(to, from *Spec) { to.TLS.ClientCertificate = from.TLS.ClientCertificate },
	"tls.caPem":             func(to, from *Spec) { to.TLS.CAPEM = from.TLS.CAPEM },
	"tls.spkiPins":          func(to, from *Spec) { to.TLS.SPKIPins = from.TLS.SPKIPins },
	"tls.allowTls12":        func(to, from *Spec) { to.TLS.AllowTLS12 = from.TLS.AllowTLS12 },

	"rotation":         func(to, from *Spec) { to.Rotation = from.Rotation },
	"rotation.every":   func(to, from *Spec) { to.Rotation.Every = from.Rotation.Every },
	"rotation.overlap": func(to, from *Spec) { to.Rotation.Overlap = from.Rotation.Overlap },

	"headers":            func(to, from *Spec) { to.Headers = keepValues(to.Headers, from.Headers) },
	"basicAuth":          func(to, from *Spec) { to.BasicUser, to.BasicPass = from.BasicUser, from.BasicPass },
	"basicAuth.username": func(to, from *Spec) { to.BasicUser = from.BasicUser },
	"basicAuth.password": func(to, from *Spec) { to.BasicPass = from.BasicPass },
	"bearerToken":        func(to, from *Spec) { to.Bearer = from.Bearer },
}

// fixed are fields that a creation has and an update has not, with the reason.
var fixed = map[string]string{
	"tenant": "cannot be changed",
	"scheme": "cannot be changed: its keys are the scheme's; register another endpoint",
	"secret": "cannot be changed by an update: rotate it",
}

// keepValues gives headers without a value the one that the header of that name has now.
func keepValues(now, asked []relay.Header) []relay.Header {
	out := make([]relay.Header, len(asked))
	for i, h := range asked {
		for _, old := range now {
			if h.Value.Empty() && strings.EqualFold(old.Name, h.Name) {
				h.Value = old.Value
			}
		}
		out[i] = h
	}
	return out
}

// overlay takes over the fields that mask names, in their proto or JSON spelling. What the mask resets to zero gets its
// default later.
func overlay(to, from *Spec, mask []string) error {
	var bad relay.Invalid
	if len(mask) == 0 || len(mask) > 2*len(fields) {
		bad.Add("updateMask", "must name 1 to %d fields", 2*len(fields))
		return bad
	}
	for _, path := range mask {
		name := camel(path)
		if set := fields[name]; set != nil {
			set(to, from)
		} else if why := fixed[name]; why != "" {
			bad.Add(name, "%s", why)
		} else {
			bad.Add("updateMask", "names a field that an update cannot change")
		}
	}
	return bad.Err()
}

// camel is a path in the spelling of JSON: event_types is eventTypes.
func camel(path string) string {
	var b strings.Builder
	up := false
	for i := range len(path) {
		c := path[i]
		switch {
		case c == '_':
			up = true
			continue
		case up && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		up = false
		b.WriteByte(c)
	}
	return b.String()
}
