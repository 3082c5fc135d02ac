package control

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/redact"
)

// Bounds of an entry of the event type catalogue, in bytes.
const (
	maxTypeDescription = 1 << 10
	maxTypeExample     = 16 << 10
)

// settleTogether bounds the partitions' owners that are waited for at once.
const settleTogether = 16

// SetEventType puts an entry of the catalogue in force, and answers when nothing that it keeps inside is sent any more.
func (c *Control) SetEventType(ctx context.Context, who access.Caller, t relay.EventType) (*relay.EventType, error) {
	t.Tenant = cmp.Or(t.Tenant, who.Tenant)
	t.Leaving, t.UpdateTime, t.Author = cmp.Or(t.Leaving, relay.LeavingAllowed), c.now(), who.Account
	act := audit.Act{Name: "eventType.set", Object: clip(t.Pattern), Detail: map[string]string{"leaving": clip(string(t.Leaving)), "sensitivity": clip(string(t.Sensitivity))}}
	if err := c.mayJudge(ctx, who, t.Tenant, &act); err != nil {
		return nil, err
	}
	if err := checkEventType(&t).Err(); err != nil {
		return nil, err
	}
	if old := c.Registry.Snapshot().EventType(t.Tenant, t.Pattern); old != nil {
		act.Detail["before"] = string(old.Leaving) + " " + string(old.Sensitivity)
	}
	err := c.act(ctx, who, act, func() (map[string]string, error) {
		if err := c.Registry.SetEventType(ctx, t); err != nil {
			return nil, err
		}
		return nil, c.settleTypes(ctx, t.Tenant)
	})
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// mayJudge lets those who may write policy, and for all tenants those alone who are of none.
func (c *Control) mayJudge(ctx context.Context, who access.Caller, tenant string, act *audit.Act) error {
	if relay.ValidTenant(tenant) {
		act.Tenant = tenant
	}
	if err := c.allow(ctx, who, access.PolicyWrite, act); err != nil {
		return err
	}
	if tenant == "" && !who.AllTenants() {
		return c.refuse(ctx, who, *act, &ForbiddenError{Scope: access.PolicyWrite, Reason: "an entry for all tenants is for operators of all tenants"})
	}
	return nil
}

func checkEventType(t *relay.EventType) relay.Invalid {
	var bad relay.Invalid
	if t.Tenant != "" && !relay.ValidTenant(t.Tenant) {
		bad.Add("tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit, or absent for all", relay.MaxTenantLength)
	}
	if !relay.ValidPattern(t.Pattern) {
		bad.Add("type", "must be an event type, the beginning of some with '.*', or '*'")
	}
	switch t.Sensitivity {
	case relay.SensitivityPublic, relay.SensitivityInternal, relay.SensitivityConfidential, relay.SensitivityRestricted:
	default:
		bad.Add("sensitivity", "must be PUBLIC, INTERNAL, CONFIDENTIAL or RESTRICTED")
	}
	switch t.Leaving {
	case relay.LeavingAllowed, relay.LeavingForbidden, relay.LeavingBulk:
	default:
		bad.Add("leaving", "must be ALLOWED, FORBIDDEN or BULK_EXPORT")
	}
	text(&bad, "description", t.Description, maxTypeDescription, false)
	switch {
	case t.Example == "":
	case len(t.Example) > maxTypeExample:
		bad.Add("example", "must be at most %d bytes", maxTypeExample)
	case redact.Validate([]byte(t.Example)) != nil:
		bad.Add("example", "must be one JSON value (RFC 8259)")
	}
	return bad
}

// settleTypes waits until every owner of endpoints that the catalogue speaks of goes by it.
func (c *Control) settleTypes(ctx context.Context, tenant string) error {
	snapshot := c.Registry.Snapshot()
	tenants := []string{tenant}
	if tenant == "" {
		tenants = snapshot.Tenants()
	}
	var group errgroup.Group
	group.SetLimit(settleTogether)
	for _, one := range tenants {
		if one == "" || len(snapshot.Tenant(one)) == 0 {
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, settleWait)
			defer cancel()
			return c.Owners.Settle(ctx, one, snapshot.Revision())
		})
	}
	return group.Wait()
}

// GetEventType is the entry of exactly that tenant and pattern.
func (c *Control) GetEventType(ctx context.Context, who access.Caller, tenant, pattern string) (*relay.EventType, error) {
	tenant = cmp.Or(tenant, who.Tenant)
	if err := c.allow(ctx, who, access.PolicyRead, &audit.Act{Name: "eventType.read", Object: clip(pattern), Tenant: clip(tenant)}); err != nil {
		return nil, err
	}
	snapshot := c.Registry.Snapshot()
	if t := snapshot.EventType(tenant, pattern); t != nil {
		return t, nil
	}
	return nil, ErrNotFound
}

// EventTypePage is one page of the catalogue. NextPageToken is empty on the last page.
type EventTypePage struct {
	EventTypes    []*relay.EventType
	NextPageToken string
}

// ListEventTypes lists the entries for all tenants, and those of one tenant, or of all where the caller sees them; by tenant and pattern.
func (c *Control) ListEventTypes(ctx context.Context, who access.Caller, tenant string, size int, token string) (EventTypePage, error) {
	tenant = cmp.Or(tenant, who.Tenant)
	if err := c.allow(ctx, who, access.PolicyRead, &audit.Act{Name: "eventType.list", Tenant: clip(tenant)}); err != nil {
		return EventTypePage{}, err
	}
	after, err := pageStart(size, token)
	if err != nil {
		return EventTypePage{}, err
	}
	size = cmp.Or(size, relay.DefaultPageSize)
	name := func(t *relay.EventType) string { return t.Tenant + "/" + t.Pattern }
	all := c.Registry.Snapshot().EventTypes(tenant)
	slices.SortFunc(all, func(a, b *relay.EventType) int { return cmp.Compare(name(a), name(b)) })
	var page EventTypePage
	for _, t := range all {
		if name(t) <= after {
			continue
		}
		if len(page.EventTypes) == size {
			page.NextPageToken = pageToken(name(page.EventTypes[size-1]))
			break
		}
		page.EventTypes = append(page.EventTypes, t)
	}
	return page, nil
}

// DeleteEventType takes an entry out of the catalogue. What another one then keeps inside is not sent any more when it answers.
func (c *Control) DeleteEventType(ctx context.Context, who access.Caller, tenant, pattern string) error {
	tenant = cmp.Or(tenant, who.Tenant)
	act := audit.Act{Name: "eventType.delete", Object: clip(pattern)}
	if err := c.mayJudge(ctx, who, tenant, &act); err != nil {
		return err
	}
	old := c.Registry.Snapshot().EventType(tenant, pattern)
	if old == nil {
		return ErrNotFound
	}
	act.Detail = map[string]string{"before": string(old.Leaving) + " " + string(old.Sensitivity)}
	return c.act(ctx, who, act, func() (map[string]string, error) {
		if err := c.Registry.DeleteEventType(ctx, tenant, pattern); err != nil {
			return nil, err
		}
		return nil, c.settleTypes(ctx, tenant)
	})
}
