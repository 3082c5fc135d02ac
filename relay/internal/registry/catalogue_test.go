package registry

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

func typesOf(entries ...relay.EventType) (*catalogue, *Snapshot) {
	by := map[string]*relay.EventType{}
	for i := range entries {
		by[typeKeyOf(entries[i].Tenant, entries[i].Pattern)] = &entries[i]
	}
	c := newCatalogue(by)
	return c, &Snapshot{types: c}
}

func TestLeaving(t *testing.T) {
	t.Parallel()
	_, s := typesOf(
		relay.EventType{Pattern: "export.*", Leaving: relay.LeavingBulk},
		relay.EventType{Pattern: "export.summary", Leaving: relay.LeavingAllowed},
		relay.EventType{Pattern: "audit", Leaving: relay.LeavingForbidden},
		relay.EventType{Tenant: "acme", Pattern: "*", Leaving: relay.LeavingForbidden},
		relay.EventType{Tenant: "acme", Pattern: "contact.*", Leaving: relay.LeavingAllowed},
		relay.EventType{Tenant: "acme", Pattern: "export.contacts", Leaving: relay.LeavingAllowed},
		relay.EventType{Tenant: "odd", Pattern: "x", Leaving: "MAYBE"},
	)
	for _, c := range []struct {
		tenant, eventType string
		leaving           relay.Leaving
	}{
		{"globex", "contact.updated", relay.LeavingAllowed}, {"globex", "export.contacts", relay.LeavingBulk}, {"globex", "export.a.b", relay.LeavingBulk},
		{"globex", "export.summary", relay.LeavingAllowed}, {"globex", "export", relay.LeavingAllowed}, {"globex", "exports.x", relay.LeavingAllowed},
		{"globex", "audit", relay.LeavingForbidden}, {"globex", "audit.log", relay.LeavingAllowed},
		{"acme", "deal.won", relay.LeavingForbidden}, {"acme", "contact.updated", relay.LeavingAllowed}, {"acme", "contact.a.b", relay.LeavingAllowed},
		{"acme", "export.contacts", relay.LeavingBulk}, // a tenant's own entry opens nothing that all tenants' shuts
		{"odd", "x", "MAYBE"},
	} {
		if got := s.Types(c.tenant).Leaving(c.eventType); got != c.leaving || s.Types(c.tenant).Leaves(c.eventType) != (c.leaving == relay.LeavingAllowed) {
			t.Errorf("%s of %s: %s, not %s", c.eventType, c.tenant, got, c.leaving)
		}
	}
	for pattern, none := range map[string]bool{
		"export.contacts": true, "export.*": false /* export.summary */, "export.a.*": true, "*": false, "audit": true, "contact.*": false, "export.summary": false,
	} {
		if _, got := s.Types("globex").None(pattern); got != none {
			t.Errorf("nothing of %s leaves: %v, not %v", pattern, got, none)
		}
	}
}

// TestNoneIsRight: a pattern of which nothing may leave names no type that may, whatever the entries are.
func TestNoneIsRight(t *testing.T) {
	t.Parallel()
	segment := rapid.SampledFrom([]string{"a", "b", "c"})
	exact := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(segment, 1, 3).Draw(t, "segments"), ".") })
	pattern := rapid.OneOf(exact, rapid.Map(exact, func(s string) string { return s + ".*" }), rapid.Just("*"))
	rapid.Check(t, func(t *rapid.T) {
		var entries []relay.EventType
		for _, p := range rapid.SliceOfNDistinct(pattern, 0, 5, rapid.ID).Draw(t, "patterns") {
			entries = append(entries, relay.EventType{Pattern: p, Leaving: rapid.SampledFrom([]relay.Leaving{relay.LeavingAllowed, relay.LeavingForbidden, relay.LeavingBulk}).Draw(t, "leaving")})
		}
		_, s := typesOf(entries...)
		asked := pattern.Draw(t, "asked")
		eventType := exact.Draw(t, "type")
		types := s.Types("acme")
		if _, none := types.None(asked); none && relay.MatchPattern(asked, eventType) && types.Leaves(eventType) {
			t.Fatalf("nothing of %s leaves, but %s does: %v", asked, eventType, entries)
		}
		// The closest of the entries that name the type, by a plain search.
		best := relay.EventType{Leaving: relay.LeavingAllowed}
		for _, e := range entries {
			if relay.MatchPattern(e.Pattern, eventType) && (best.Pattern == "" || !strings.HasSuffix(e.Pattern, "*") || strings.HasSuffix(best.Pattern, "*") && len(e.Pattern) > len(best.Pattern)) {
				best = e
			}
		}
		if got := types.Leaving(eventType); got != best.Leaving {
			t.Fatalf("%s: %s, not %s of %s", eventType, got, best.Leaving, best.Pattern)
		}
	})
}

// FuzzDecodeType: what is read is written and read again as the same; what cannot be read keeps inside what its key names.
func FuzzDecodeType(f *testing.F) {
	entry := relay.EventType{Tenant: "acme", Pattern: "a.*", Sensitivity: relay.SensitivityPublic, Leaving: relay.LeavingAllowed, Example: "{}"}
	data, err := encodeType(&entry)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(typeKeyOf("acme", "a.*"), data)
	f.Add(typeKeyOf("", "a.*"), data)
	f.Add(typeKey+"acme/zz", data)
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		e, err := decodeType(key, data)
		if err != nil {
			if e != nil && (e.Leaving != relay.LeavingForbidden || typeKeyOf(e.Tenant, e.Pattern) != key && !strings.EqualFold(typeKeyOf(e.Tenant, e.Pattern), key)) {
				t.Fatalf("%v", e)
			}
			return
		}
		again, err := encodeType(e)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := decodeType(key, again); err != nil || *second != *e {
			t.Fatalf("%v, then %v: %v", e, second, err)
		}
	})
}

// TestRetyped: when the catalogue changes, every endpoint of it is another version, and others' are not.
func TestRetyped(t *testing.T) {
	t.Parallel()
	one := &Endpoint{Endpoint: &relay.Endpoint{ID: "ep_1", Tenant: "acme"}, patterns: []string{"*"}}
	have := (&Snapshot{}).with(map[string]*Endpoint{"ep_1": one}, nil, 1)
	if got := slices.Collect(have.Match("acme", "export.all")); len(got) != 1 {
		t.Fatalf("%v", got)
	}
	c, _ := typesOf(relay.EventType{Pattern: "export.*", Leaving: relay.LeavingBulk})
	changes := map[string]*Endpoint{}
	c.hold(have, changes, true)
	next := have.with(changes, c, 2)
	if next.Endpoint("ep_1").Version() == one.Version() || one.types != nil {
		t.Error("the endpoint is the same, or was written to")
	}
	if got := slices.Collect(next.Match("acme", "export.all")); len(got) != 0 || next.Endpoint("ep_1").Leaves("export.all") {
		t.Errorf("a bulk export matches %v", got)
	}
	if got := slices.Collect(next.Match("acme", "contact.updated")); len(got) != 1 {
		t.Errorf("%v", got)
	}
}
