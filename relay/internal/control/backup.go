package control

import (
	"context"
	"io"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
)

// BackUp writes a copy of everything, keys included: only an operator of all tenants may have it. What is written before an
// error is of no use.
func (c *Control) BackUp(ctx context.Context, who access.Caller, to io.Writer) error {
	act := audit.Act{Name: "system.backup"}
	if err := c.allow(ctx, who, access.SystemBackup, &act); err != nil {
		return err
	}
	if !who.AllTenants() {
		return c.refuse(ctx, who, act, &ForbiddenError{Scope: access.SystemBackup, Reason: "a backup is of all tenants, and the caller is of one"})
	}
	if c.Backup == nil {
		return &StateError{Act: "back up", State: "NONE", Reason: "this process keeps nothing"}
	}
	return c.act(ctx, who, act, func() (map[string]string, error) { return c.Backup(ctx, to) })
}
