package control

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// Item is one integration as an audit asks for it.
type Item struct {
	*registry.Endpoint
	Objects     []string // the first segments of its event types; * is all
	Fields      []string // that can leave; empty: all but what is dropped
	AuthMethods []string // the scheme, and mtls, basic, bearer or header beside it
	// ShortLived: all of what it authenticates us by beside the signature expires within 30 days, and there is something.
	ShortLived              bool
	KeyID                   string
	KeyCreateTime           time.Time
	ClientCertificateExpire time.Time
	TokenLife               time.Duration // the longest of the registrant's tokens in force; 0: none
	ReviewDue               time.Time
	ReviewOverdue           bool
	ApprovalPending         bool
	LastUse                 time.Time // zero: never, or not known
}

// InventoryQuery asks for items. Zero fields do not narrow it.
type InventoryQuery struct {
	Tenant            string
	State             relay.EndpointState
	Environment       relay.Environment
	Owner             string
	ReviewOverdue     bool
	ApprovalPending   bool
	StaticCredentials bool
	UnusedSince       time.Time
	PageSize          int // 1 to relay.MaxPageSize; 0 is relay.DefaultPageSize
	PageToken         string
}

// InventoryPage is one page, by id. NextPageToken is empty on the last page.
type InventoryPage struct {
	Items         []Item
	NextPageToken string
}

// ListInventory lists the endpoints that are not deleted and that the caller may know of, each with what an audit asks of an integration. When it was used last
// is the view's to say; a view that does not answer is an error.
func (c *Control) ListInventory(ctx context.Context, who access.Caller, q InventoryQuery) (InventoryPage, error) {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.EndpointsRead, &audit.Act{Name: "endpoint.inventory", Tenant: clip(q.Tenant)}); err != nil {
		return InventoryPage{}, err
	}
	after, err := pageStart(q.PageSize, q.PageToken)
	if err != nil {
		return InventoryPage{}, err
	}
	size := cmp.Or(q.PageSize, defaultListBatch)
	snapshot := c.Registry.Snapshot()
	list := snapshot.Tenant(q.Tenant)
	if q.Tenant == "" {
		list = snapshot.ByID()
	}
	lives := c.tokenLives()
	var page InventoryPage
	for _, e := range list {
		if e.ID <= after || !c.knows(who, e) || e.State == relay.EndpointDeleted {
			continue
		}
		item := c.Item(e)
		if !q.wants(&item) {
			continue
		}
		item.TokenLife = lives[account{e.Tenant, e.Registrant}]
		if item.LastUse, err = c.lastUse(ctx, e); err != nil {
			return InventoryPage{}, err
		}
		if !q.UnusedSince.IsZero() && !item.LastUse.Before(q.UnusedSince) {
			continue
		}
		if len(page.Items) == size {
			page.NextPageToken = pageToken(page.Items[size-1].ID)
			return page, nil
		}
		page.Items = append(page.Items, item)
	}
	return page, nil
}

func (q *InventoryQuery) wants(i *Item) bool {
	return (q.State == "" || i.State == q.State) && (q.Environment == "" || i.Environment == q.Environment) && (q.Owner == "" || i.Owner == q.Owner) &&
		(!q.ReviewOverdue || i.ReviewOverdue) && (!q.ApprovalPending || i.ApprovalPending) && (!q.StaticCredentials || !i.ShortLived)
}

// Item is what is known of an integration without asking anybody.
func (c *Control) Item(e *registry.Endpoint) Item {
	i := Item{Endpoint: e, ReviewDue: c.ReviewDue(e), ReviewOverdue: c.ReviewOverdue(e)}
	for _, p := range e.EventTypes {
		object, _, _ := strings.Cut(p, ".")
		if !slices.Contains(i.Objects, object) {
			i.Objects = append(i.Objects, object)
		}
	}
	i.Fields = e.DataScope
	if e.Redaction.Mode == relay.RedactionAllowListed {
		i.Fields = e.Redaction.Allow
	}
	static := staticCredentials(e.Endpoint)
	i.AuthMethods = []string{string(e.Scheme)}
	if e.TLS.ClientCertificate != relay.ClientCertificateNone {
		i.AuthMethods = append(i.AuthMethods, "mtls")
		if c.Onboarding.CertificateExpiry != nil && e.State != relay.EndpointDeleted && e.Err == nil {
			i.ClientCertificateExpire, i.ShortLived = c.Onboarding.CertificateExpiry(e.Endpoint)
		}
	}
	i.AuthMethods = append(i.AuthMethods, static...)
	i.ShortLived = i.ShortLived && len(static) == 0
	if r := e.Record; r != nil {
		if len(r.Keys) > 0 {
			i.KeyID, i.KeyCreateTime = r.Keys[0].ID, r.Keys[0].CreateTime
		}
		i.ApprovalPending = r.State == relay.EndpointPending || r.State == relay.EndpointUnverified || r.Proposed != nil && r.State != relay.EndpointDeleted
	}
	return i
}

// account names one in its tenant.
type account struct{ tenant, name string }

// tokenLives are the longest lives of the tokens in force, by account.
func (c *Control) tokenLives() map[account]time.Duration {
	out, now := map[account]time.Duration{}, c.now()
	for _, t := range c.Access.List() {
		if !t.RevokeTime.IsZero() || t.ExpireTime.IsZero() || !now.Before(t.ExpireTime) {
			continue
		}
		at := account{t.Tenant, t.Account}
		out[at] = max(out[at], t.ExpireTime.Sub(t.CreateTime))
	}
	return out
}

// lastUse is when the latest delivery to an endpoint changed.
func (c *Control) lastUse(ctx context.Context, e *registry.Endpoint) (time.Time, error) {
	page, err := c.Ledger.Deliveries(ctx, relay.DeliveryQuery{Tenant: e.Tenant, EndpointID: e.ID, PageSize: 1})
	if err != nil || len(page.Deliveries) == 0 {
		return time.Time{}, viewed(err)
	}
	return page.Deliveries[0].Updated, nil
}
