package control

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// PublishOperational keeps an event of the relay's own, in its own tenant, by the path that all events take. One that is there under
// the same id is taken for the same, whatever it counts. No caller gets here from outside.
func (c *Control) PublishOperational(ctx context.Context, ev *relay.Event) error {
	if bad := ev.Check(); bad != nil || ev.Tenant != relay.ReservedTenant {
		return fmt.Errorf("operational event of tenant %q: %w", ev.Tenant, bad.Err())
	}
	payload, err := record.EncodeEvent(nil, ev)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	entry := journal.Entry{ID: dedupID(ev.Tenant, ev.ID), Digest: sha256.Sum256([]byte(ev.ID)), Payload: payload}
	return translated(c.Journal.Events(c.Journal.Partition(ev.Tenant)).AcceptAll(ctx, []journal.Entry{entry})[0].Err)
}
