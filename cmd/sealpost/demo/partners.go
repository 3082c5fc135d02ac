package demo

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/signer"
)

// partner is one endpoint of the demo: what is registered with Sealpost, and beside it, in other words and other
// code, which events it should get and what of them.
type partner struct {
	name    string
	scheme  signer.Scheme
	content string
	types   []string
	chunk   int32
	ordered bool
	filter  string // as it is registered

	wants func(event) bool // what types and filter mean
	rules rules

	failFirst int // requests answered with 503 before it is well
}

// rules are a policy. Either allow is set, or the others.
type rules struct {
	allow        []string // paths, without wildcards but [*]
	drop         []string // names of fields, wherever they stand
	pseudonymize []string
	mask         map[string]int // by name: how many characters stay
}

// String says it in a line.
func (r rules) String() string {
	if len(r.allow) > 0 {
		return fmt.Sprintf("nothing but %d named fields", len(r.allow))
	}
	out := "without " + strings.Join(r.drop, ", ")
	if len(r.pseudonymize) > 0 {
		out += "; pseudonyms for " + strings.Join(r.pseudonymize, ", ")
	}
	if len(r.mask) > 0 {
		out += "; masked " + strings.Join(slices.Sorted(maps.Keys(r.mask)), ", ")
	}
	return out
}

// partners are five: each signature scheme that a partner is likely to have, each form of policy, each form of filter, and one whose
// server is down for a while.
func partners() []partner {
	return []partner{
		{
			name: "crm-sync", scheme: signer.Standard, content: "envelope", chunk: 64 << 10,
			types: []string{"contact.*", "company.*", "export.completed"},
			wants: func(e event) bool { return begins(e, "contact.", "company.") || e.Type == "export.completed" },
			rules: rules{
				drop: []string{"ssn", "street", "notes", "date_of_birth"}, mask: map[string]int{"iban": 4, "phone": 3},
				pseudonymize: []string{"email"},
			},
		},
		{
			name: "billing", scheme: signer.RFC9421, content: "cloudevents", chunk: 256 << 10,
			types:  []string{"invoice.*", "deal.won"},
			filter: `event.type == 'deal.won' || event.data.invoice.currency == 'EUR'`,
			wants: func(e event) bool {
				return e.Type == "deal.won" || begins(e, "invoice.") && text(e, "invoice", "currency") == "EUR"
			},
			rules: rules{allow: []string{
				"invoice", "company.id", "company.name", "deal.id", "deal.amount", "deal.currency", "payment.method", "bill_to.address.country",
			}},
		},
		{
			name: "support-desk", scheme: signer.TimestampHMAC, content: "envelope", chunk: 256 << 10, failFirst: 8,
			types: []string{"ticket.*"}, filter: `event.data.ticket.priority in ['high', 'urgent']`,
			wants: func(e event) bool {
				return begins(e, "ticket.") && slices.Contains([]string{"high", "urgent"}, text(e, "ticket", "priority"))
			},
			rules: rules{drop: []string{"body"}, pseudonymize: []string{"email", "phone"}},
		},
		{
			name: "warehouse", scheme: signer.StandardEd25519, content: "data", chunk: 16 << 10,
			types: []string{"contact.*", "company.*", "deal.*", "invoice.*", "export.*"},
			wants: func(e event) bool { return begins(e, "contact.", "company.", "deal.", "invoice.", "export.") },
			rules: rules{allow: []string{
				"contact.id", "contact.lifecycle_stage", "contact.address.country", "company.id", "company.industry", "deal.id", "deal.amount",
				"deal.stage", "invoice.id", "invoice.total", "export", "contacts[*].id", "contacts[*].country",
			}},
		},
		{
			name: "field-sales", scheme: signer.RSASHA256, content: "envelope", chunk: 256 << 10, ordered: true,
			types: []string{"deal.created", "deal.stage_changed", "deal.won", "deal.lost"}, filter: `event.data.deal.amount >= 10000`,
			wants: func(e event) bool { return begins(e, "deal.") && number(e, "deal", "amount") >= 10000 },
			rules: rules{drop: []string{"email"}},
		},
	}
}

func begins(e event, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Type, p) })
}

func text(e event, object, name string) string {
	inner, _ := e.doc[object].(map[string]any)
	s, _ := inner[name].(string)
	return s
}

func number(e event, object, name string) float64 {
	inner, _ := e.doc[object].(map[string]any)
	n, _ := inner[name].(interface{ Float64() (float64, error) })
	if n == nil {
		return 0
	}
	f, err := n.Float64()
	if err != nil {
		return 0
	}
	return f
}

// registration is the partner's endpoint in the API's words.
func (p partner) registration(url, caPEM string) *sealpostv1.Endpoint {
	r := &sealpostv1.Redaction{Mode: sealpostv1.Redaction_ALLOW_LISTED, Allow: p.rules.allow}
	if len(p.rules.allow) == 0 {
		r = &sealpostv1.Redaction{Mode: sealpostv1.Redaction_DENY_LISTED, Drop: anywhere(p.rules.drop), Pseudonymize: anywhere(p.rules.pseudonymize)}
		for name, keep := range p.rules.mask {
			r.Mask = append(r.Mask, &sealpostv1.Mask{Path: "**." + name, KeepLast: int32(keep)})
		}
	}
	return &sealpostv1.Endpoint{
		Tenant: Tenant, Url: url, Owner: "integrations@" + p.name + ".example", Purpose: "demo", EventTypes: p.types, Filter: p.filter,
		Scheme: string(p.scheme), ContentMode: p.content, Redaction: r, ChunkBytes: p.chunk, Ordered: p.ordered,
		Timeout: durationpb.New(attemptTimeout),
		Tls:     &sealpostv1.Tls{ClientCertificate: sealpostv1.Tls_REQUIRED, CaPem: caPEM},
	}
}

func anywhere(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = "**." + name
	}
	return out
}
