package control

import (
	"reflect"
	"slices"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// What an approval approved is where data goes, which, and in what form of policy and trust. The functions here tell a change that
// can only let less leave from all others; where that cannot be told, it is taken for one that widens.

// inForce is what of a wanted spec may be in force at once, given what was approved: the narrowing parts of it. It equals
// wanted where nothing waits for approval.
func inForce(approved, wanted *Spec) Spec {
	now := *wanted
	if wanted.URL != approved.URL {
		// The credentials go with the URL: the ones for the new receiver are not to be sent to the old.
		now.URL, now.Headers, now.BasicUser = approved.URL, approved.Headers, approved.BasicUser
		now.BasicPass, now.Bearer = approved.BasicPass, approved.Bearer
	}
	if !narrowerTypes(approved.EventTypes, wanted.EventTypes) {
		now.EventTypes = approved.EventTypes
	}
	if wanted.Filter != approved.Filter && approved.Filter != "" {
		now.Filter = approved.Filter
	}
	if !narrowerPolicy(&approved.Redaction, &wanted.Redaction) || !narrowerScope(approved.DataScope, wanted.DataScope) {
		now.Redaction, now.DataScope = approved.Redaction, approved.DataScope // together they say what leaves
	}
	if wanted.Environment == relay.Production && approved.Environment != relay.Production {
		now.Environment = approved.Environment
	}
	if !narrowerTLS(&approved.TLS, &wanted.TLS) {
		now.TLS = approved.TLS
	}
	if now.URL != wanted.URL && now.TLS.ClientCertificate != approved.TLS.ClientCertificate {
		now.TLS = approved.TLS // what fits the new URL may not fit the old (http has no TLS)
	}
	return now
}

func narrowerTypes(old, new []string) bool {
	for _, p := range new {
		if !slices.ContainsFunc(old, func(wide string) bool { return registry.Covers(wide, p) }) {
			return false
		}
	}
	return true
}

// narrowerScope tells whether new lets nothing leave that old does not. No scope is no bound.
func narrowerScope(old, new []string) bool { return len(old) == 0 || len(new) > 0 && within(new, old) }

// narrowerPolicy tells whether new lets nothing leave that old does not, in a form that tells no more. It rests on redact's order: drop wins over
// pseudonymise, that over mask, and the mask that keeps least over others.
func narrowerPolicy(old, new *relay.Redaction) bool {
	if old.Mode == relay.RedactionNone {
		return true
	}
	if new.Mode == relay.RedactionNone || old.Mode == relay.RedactionAllowListed && new.Mode != old.Mode {
		return false
	}
	if old.Mode == relay.RedactionAllowListed && !within(new.Allow, old.Allow) {
		return false
	}
	if !within(old.Drop, new.Drop) {
		return false
	}
	for _, path := range old.Pseudonymize {
		if !slices.Contains(new.Pseudonymize, path) && !slices.Contains(new.Drop, path) {
			return false
		}
	}
	for _, m := range old.Mask {
		kept := slices.ContainsFunc(new.Mask, func(n relay.Mask) bool { return n.Path == m.Path && n.KeepLast <= m.KeepLast })
		if !kept && !slices.Contains(new.Drop, m.Path) {
			return false
		}
	}
	// A pseudonym wins over a mask and tells more than it: which records hold the same value.
	return within(new.Pseudonymize, old.Pseudonymize) || len(old.Mask) == 0
}

func within(inner, outer []string) bool {
	for _, s := range inner {
		if !slices.Contains(outer, s) {
			return false
		}
	}
	return true
}

// certificateRank orders the modes by how much they ask of a receiver.
var certificateRank = map[relay.ClientCertificateMode]int{
	relay.ClientCertificateNone: 0, relay.ClientCertificateOffered: 1, relay.ClientCertificateRequired: 2,
}

func narrowerTLS(old, new *relay.TLS) bool {
	switch {
	case new.CAPEM != old.CAPEM:
		return false // other roots are other trust, even fewer of them
	case certificateRank[new.ClientCertificate] < certificateRank[old.ClientCertificate]:
		return false
	case new.AllowTLS12 && !old.AllowTLS12:
		return false
	case len(old.SPKIPins) > 0 && (len(new.SPKIPins) == 0 || !within(new.SPKIPins, old.SPKIPins)):
		return false
	}
	return true
}

// same tells whether two specs ask for the same, secrets compared by what they are.
func same(a, b *Spec) bool { return reflect.DeepEqual(normal(a), normal(b)) }

// normal makes nil of empty lists.
func normal(s *Spec) Spec {
	n := *s
	for _, list := range []*[]string{&n.EventTypes, &n.Redaction.Allow, &n.Redaction.Drop, &n.Redaction.Pseudonymize, &n.TLS.SPKIPins, &n.DataScope} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if len(n.Redaction.Mask) == 0 {
		n.Redaction.Mask = nil
	}
	if len(n.Headers) == 0 {
		n.Headers = nil
	}
	return n
}
