package registry

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/sealpost/sealpost/relay"
)

// Snapshot is the registry at one revision. It is immutable; a later change makes another snapshot that shares all that
// did not change.
type Snapshot struct {
	revision  uint64
	endpoints map[string]*Endpoint
	tenants   map[string]*tenant
	types     *catalogue
}

// tenant is one tenant's endpoints and the index of their event types.
type tenant struct {
	all []*Endpoint // by id, tombstones too
	// exact finds by the whole type, prefix by its beginning up to and with a dot, or "" for "*". An endpoint is in at
	// most one of the lists that one type leads to, because its patterns were made minimal.
	exact  map[string][]*Endpoint
	prefix map[string][]*Endpoint
}

// Revision is the bucket's revision up to which changes are in the snapshot; it grows.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Len is the number of endpoints, tombstones included.
func (s *Snapshot) Len() int { return len(s.endpoints) }

// Endpoint is the endpoint of that id, tombstones included, or nil.
func (s *Snapshot) Endpoint(id string) *Endpoint { return s.endpoints[id] }

// Tenant lists a tenant's endpoints by id, tombstones included. The caller must not change the slice.
func (s *Snapshot) Tenant(name string) []*Endpoint {
	if t := s.tenants[name]; t != nil {
		return t.all
	}
	return nil
}

// Tenants lists the tenants that have endpoints, by name.
func (s *Snapshot) Tenants() []string { return slices.Sorted(maps.Keys(s.tenants)) }

// ByID lists every endpoint by id, tombstones included.
func (s *Snapshot) ByID() []*Endpoint { return slices.SortedFunc(s.All(), byID) }

// All lists every endpoint, tombstones included, in no order.
func (s *Snapshot) All() iter.Seq[*Endpoint] { return maps.Values(s.endpoints) }

// Match yields, once each, the endpoints of a tenant whose event types name eventType, whatever their state but deleted:
// the deliveries of those that may not be sent to are parked. A type that the catalogue keeps inside names none of them, whatever
// their patterns are. The work is proportional to the endpoints yielded and the type's segments.
func (s *Snapshot) Match(tenantName, eventType string) iter.Seq[*Endpoint] {
	return func(yield func(*Endpoint) bool) {
		t := s.tenants[tenantName]
		if t == nil || !s.Types(tenantName).Leaves(eventType) {
			return
		}
		if !yieldAll(t.exact[eventType], yield) || !yieldAll(t.prefix[""], yield) {
			return
		}
		for i := range len(eventType) {
			if eventType[i] == '.' && !yieldAll(t.prefix[eventType[:i+1]], yield) {
				return
			}
		}
	}
}

func yieldAll(list []*Endpoint, yield func(*Endpoint) bool) bool {
	for _, e := range list {
		if !yield(e) {
			return false
		}
	}
	return true
}

// with is the snapshot after changes: an endpoint by its id, nil where it was purged.
func (s *Snapshot) with(changes map[string]*Endpoint, types *catalogue, revision uint64) *Snapshot {
	next := &Snapshot{revision: max(revision, s.revision), endpoints: s.endpoints, tenants: s.tenants, types: types}
	if len(changes) == 0 {
		return next
	}
	next.endpoints, next.tenants = make(map[string]*Endpoint, len(s.endpoints)+len(changes)), make(map[string]*tenant, len(s.tenants))
	maps.Copy(next.endpoints, s.endpoints)
	maps.Copy(next.tenants, s.tenants)
	touched := make(map[string][]string) // tenant -> ids
	for id, e := range changes {
		old := s.endpoints[id]
		if old != nil {
			touched[old.Tenant] = append(touched[old.Tenant], id)
		}
		if e == nil {
			delete(next.endpoints, id)
			continue
		}
		next.endpoints[id] = e
		if old == nil || old.Tenant != e.Tenant {
			touched[e.Tenant] = append(touched[e.Tenant], id)
		}
	}
	for name, ids := range touched {
		if t := s.tenants[name].with(name, ids, next.endpoints); t != nil {
			next.tenants[name] = t
		} else {
			delete(next.tenants, name)
		}
	}
	return next
}

// with is the tenant after the endpoints of ids changed to those in now. Lists that no changed endpoint is in
// are shared with the tenant before.
func (t *tenant) with(name string, ids []string, now map[string]*Endpoint) *tenant {
	next := &tenant{exact: map[string][]*Endpoint{}, prefix: map[string][]*Endpoint{}}
	gone := make(map[string]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	fresh := make(map[bool]map[string]bool) // the lists copied so far, by kind and key
	fresh[false], fresh[true] = map[string]bool{}, map[string]bool{}
	lists := map[bool]map[string][]*Endpoint{false: next.exact, true: next.prefix}
	without := func(list []*Endpoint) []*Endpoint {
		return slices.DeleteFunc(slices.Clone(list), func(e *Endpoint) bool { return gone[e.ID] })
	}
	own := func(wild bool, key string) {
		if !fresh[wild][key] {
			fresh[wild][key] = true
			lists[wild][key] = without(lists[wild][key])
		}
	}
	if t != nil {
		maps.Copy(next.exact, t.exact)
		maps.Copy(next.prefix, t.prefix)
		for _, e := range t.all {
			if !gone[e.ID] {
				continue
			}
			for _, p := range e.patterns {
				key, wild := strings.CutSuffix(p, "*")
				own(wild, key)
			}
		}
		next.all = without(t.all)
	}
	for _, id := range ids {
		e := now[id]
		if e == nil || e.Tenant != name {
			continue
		}
		next.all = append(next.all, e)
		if e.State == relay.EndpointDeleted {
			continue
		}
		for _, p := range e.patterns {
			key, wild := strings.CutSuffix(p, "*")
			own(wild, key)
			lists[wild][key] = append(lists[wild][key], e)
		}
	}
	slices.SortFunc(next.all, byID)
	for wild, keys := range fresh {
		for key := range keys {
			if slices.SortFunc(lists[wild][key], byID); len(lists[wild][key]) == 0 {
				delete(lists[wild], key)
			}
		}
	}
	if len(next.all) == 0 {
		return nil
	}
	return next
}

func byID(a, b *Endpoint) int { return strings.Compare(a.ID, b.ID) }

// minimal leaves out the patterns that another one covers, so that each event type is named by at most one of
// the rest: two patterns that name one type are prefixes of it, and the shorter covers the longer.
func minimal(patterns []string) []string {
	var out []string
	for i, p := range patterns {
		covered := false
		for j, q := range patterns {
			if i != j && Covers(q, p) && (!Covers(p, q) || j < i) {
				covered = true
				break
			}
		}
		if !covered {
			out = append(out, p)
		}
	}
	return out
}

// Covers tells whether every event type that narrow names is also named by wide. Both must be valid patterns.
func Covers(wide, narrow string) bool {
	if wide == "*" || wide == narrow {
		return true
	}
	prefix, wild := strings.CutSuffix(wide, "*")
	return wild && narrow != "*" && strings.HasPrefix(narrow, prefix)
}
