package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// maxTypeRecord bounds a stored entry of the catalogue, in bytes.
const maxTypeRecord = 32 << 10

// noTenant stands in a key for all tenants; no tenant begins so.
const noTenant = "_"

// catalogue is every entry, immutable.
type catalogue struct {
	entries map[string]*relay.EventType // by key in the bucket
	all     *Types                      // of tenants without entries of their own
	own     map[string]*Types           // of the others
}

// Types is the catalogue as it holds for one tenant. A nil one lets everything leave.
type Types struct {
	all, own *patterns
}

// patterns are entries by what they name: exactly, or by the beginning, up to and with a dot, or "" for all.
type patterns struct {
	exact, prefix map[string]*relay.EventType
}

// closest is the entry that names a type most closely, or nil.
func (p *patterns) closest(eventType string) *relay.EventType {
	if p == nil {
		return nil
	}
	if e := p.exact[eventType]; e != nil {
		return e
	}
	for end := len(eventType); end > 0; {
		if end = strings.LastIndexByte(eventType[:end], '.'); end < 0 {
			break
		}
		if e := p.prefix[eventType[:end+1]]; e != nil {
			return e
		}
	}
	return p.prefix[""]
}

// Leaves tells whether events of a type may leave: those who speak for all tenants and those for this one must both let them.
func (t *Types) Leaves(eventType string) bool { return t.Leaving(eventType) == relay.LeavingAllowed }

// Leaving is what holds for a type.
func (t *Types) Leaving(eventType string) relay.Leaving {
	if t == nil {
		return relay.LeavingAllowed
	}
	for _, p := range []*patterns{t.all, t.own} {
		if e := p.closest(eventType); e != nil && e.Leaving != relay.LeavingAllowed {
			return e.Leaving
		}
	}
	return relay.LeavingAllowed
}

// Entry is what the tenant's own catalogue, or else that of all tenants, says of a type; nil where neither says anything.
func (t *Types) Entry(eventType string) *relay.EventType {
	if t == nil {
		return nil
	}
	if e := t.own.closest(eventType); e != nil {
		return e
	}
	return t.all.closest(eventType)
}

// None tells whether nothing that a pattern names may leave, and what an entry says instead.
func (t *Types) None(pattern string) (relay.Leaving, bool) {
	if t == nil {
		return relay.LeavingAllowed, false
	}
	for _, p := range []*patterns{t.all, t.own} {
		if leaving, none := p.none(pattern); none {
			return leaving, true
		}
	}
	return relay.LeavingAllowed, false
}

func (p *patterns) none(pattern string) (relay.Leaving, bool) {
	if p == nil {
		return relay.LeavingAllowed, false
	}
	beginning, wild := strings.CutSuffix(pattern, "*")
	found := p.closest(beginning)
	if wild {
		found = p.closest(beginning + "\x00") // a type that no exact entry names
	}
	if found == nil || found.Leaving == relay.LeavingAllowed {
		return relay.LeavingAllowed, false
	}
	if wild {
		for _, entries := range []map[string]*relay.EventType{p.exact, p.prefix} {
			for name, e := range entries {
				if e.Leaving == relay.LeavingAllowed && strings.HasPrefix(name, beginning) {
					return relay.LeavingAllowed, false // a closer entry lets some of it leave
				}
			}
		}
	}
	return found.Leaving, true
}

// Types is the catalogue as it holds for a tenant; it may be nil.
func (s *Snapshot) Types(tenant string) *Types {
	if s.types == nil {
		return nil
	}
	if own := s.types.own[tenant]; own != nil {
		return own
	}
	return s.types.all
}

// EventTypes lists the entries for all tenants and, beside them, those of one tenant, or of every one where tenant is empty; by tenant and pattern.
func (s *Snapshot) EventTypes(tenant string) []*relay.EventType {
	if s.types == nil {
		return nil
	}
	var out []*relay.EventType
	for _, e := range s.types.entries {
		if tenant == "" || e.Tenant == "" || e.Tenant == tenant {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *relay.EventType) int {
		if n := strings.Compare(a.Tenant, b.Tenant); n != 0 {
			return n
		}
		return strings.Compare(a.Pattern, b.Pattern)
	})
	return out
}

// EventType is the entry of exactly that tenant and pattern, or nil.
func (s *Snapshot) EventType(tenant, pattern string) *relay.EventType {
	if s.types == nil {
		return nil
	}
	return s.types.entries[typeKeyOf(tenant, pattern)]
}

// typeKeyOf is an entry's key. A pattern can hold what a key cannot.
func typeKeyOf(tenant, pattern string) string {
	if tenant == "" {
		tenant = noTenant
	}
	return typeKey + tenant + "/" + hex.EncodeToString([]byte(pattern))
}

// SetEventType keeps an entry in place of the one with the same tenant and pattern. It returns when that is durable and in the
// snapshot.
func (r *Registry) SetEventType(ctx context.Context, e relay.EventType) error {
	data, err := encodeType(&e)
	if err != nil {
		return err
	}
	revision, err := r.bucket.Put(ctx, typeKeyOf(e.Tenant, e.Pattern), data)
	if err != nil {
		return fmt.Errorf("registry: set event type: %w", err)
	}
	return r.Await(ctx, revision)
}

// DeleteEventType removes an entry. It returns when that is durable and in the snapshot. The error is ErrNotFound where there is none.
func (r *Registry) DeleteEventType(ctx context.Context, tenant, pattern string) error {
	if r.Snapshot().EventType(tenant, pattern) == nil {
		return ErrNotFound
	}
	if err := r.bucket.Delete(ctx, typeKeyOf(tenant, pattern), 0); err != nil {
		return fmt.Errorf("registry: delete event type: %w", err)
	}
	for s := range r.Updates(ctx) {
		if s.EventType(tenant, pattern) == nil {
			return nil
		}
	}
	return fmt.Errorf("registry: delete event type: %w", ctx.Err())
}

// types is the catalogue after what was heard, and whether it is another than before.
func (r *Registry) types(b batch) (*catalogue, bool) {
	have := r.Snapshot().types
	next, changed := map[string]*relay.EventType{}, false
	if have != nil {
		for key, e := range have.entries {
			if _, still := b.items[key]; b.whole && !still {
				changed = true
				continue
			}
			next[key] = e
		}
	}
	for key, item := range b.items {
		if !strings.HasPrefix(key, typeKey) {
			continue
		}
		old := next[key]
		if item.Deleted {
			changed = changed || old != nil
			delete(next, key)
			continue
		}
		e, err := decodeType(key, item.Value)
		if err != nil {
			r.log.Error("entry of the event type catalogue cannot be read; what it names stays inside", "key", key, "error", err)
		}
		if e != nil && (old == nil || *old != *e) {
			next[key], changed = e, true
		}
	}
	if !changed {
		return have, false
	}
	return newCatalogue(next), true
}

func newCatalogue(entries map[string]*relay.EventType) *catalogue {
	if len(entries) == 0 {
		return nil
	}
	c := &catalogue{entries: entries, own: map[string]*Types{}}
	by := map[string]*patterns{}
	for _, e := range entries {
		p := by[e.Tenant]
		if p == nil {
			p = &patterns{exact: map[string]*relay.EventType{}, prefix: map[string]*relay.EventType{}}
			by[e.Tenant] = p
		}
		if beginning, wild := strings.CutSuffix(e.Pattern, "*"); wild {
			p.prefix[beginning] = e
		} else {
			p.exact[e.Pattern] = e
		}
	}
	c.all = &Types{all: by[""]}
	for tenant, p := range by {
		if tenant != "" {
			c.own[tenant] = &Types{all: by[""], own: p}
		}
	}
	return c
}

// hold puts the catalogue into the endpoints that change, and, where it is another, into all: they decide otherwise now.
func (c *catalogue) hold(have *Snapshot, changes map[string]*Endpoint, changed bool) {
	after := &Snapshot{types: c}
	for _, e := range changes {
		if e != nil {
			e.types = after.Types(e.Tenant)
		}
	}
	if !changed {
		return
	}
	for id, e := range have.endpoints {
		if _, too := changes[id]; !too {
			same := *e
			same.types = after.Types(e.Tenant)
			changes[id] = &same
		}
	}
}

func encodeType(e *relay.EventType) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&sealpostv1.EventTypeRecord{
		Version: recordVersion, Tenant: e.Tenant, Type: e.Pattern, Sensitivity: string(e.Sensitivity), Leaving: string(e.Leaving),
		Description: e.Description, Example: e.Example, UpdateTime: nanos(e.UpdateTime), Author: e.Author,
	})
	if err != nil {
		return nil, fmt.Errorf("encode event type: %w", err)
	}
	if len(data) > maxTypeRecord {
		return nil, fmt.Errorf("encode event type: larger than %d bytes", maxTypeRecord)
	}
	return data, nil
}

var errType = errors.New("not an entry of the catalogue")

// decodeType reads an entry. One that cannot be read in full keeps inside what its key names; it is nil where not even that can be told.
func decodeType(key string, data []byte) (*relay.EventType, error) {
	tenant, name, _ := strings.Cut(strings.TrimPrefix(key, typeKey), "/")
	pattern, err := hex.DecodeString(name)
	if err != nil || !relay.ValidPattern(string(pattern)) || tenant != noTenant && !relay.ValidTenant(tenant) {
		return nil, fmt.Errorf("%w: its key", errType)
	}
	shut := &relay.EventType{Tenant: strings.TrimPrefix(tenant, noTenant), Pattern: string(pattern), Leaving: relay.LeavingForbidden}
	var m sealpostv1.EventTypeRecord
	switch {
	case len(data) > maxTypeRecord:
		return shut, fmt.Errorf("%w: larger than %d bytes", errType, maxTypeRecord)
	case proto.Unmarshal(data, &m) != nil || len(m.ProtoReflect().GetUnknown()) > 0:
		return shut, errType
	case m.Version != recordVersion:
		return shut, fmt.Errorf("%w: version %d", errType, m.Version)
	case m.Tenant != shut.Tenant || m.Type != shut.Pattern:
		return shut, fmt.Errorf("%w: it is another's", errType)
	}
	return &relay.EventType{
		Tenant: m.Tenant, Pattern: m.Type, Sensitivity: relay.Sensitivity(m.Sensitivity), Leaving: relay.Leaving(m.Leaving),
		Description: m.Description, Example: m.Example, UpdateTime: moment(m.UpdateTime), Author: m.Author,
	}, nil
}
