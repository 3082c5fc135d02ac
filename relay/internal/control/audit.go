package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/tree"
	"github.com/sealpost/sealpost/relay/proof"
)

// NoteUnauthenticated records that a call came with a credential that is not good, or counts it where there are many. Those that come with none are not
// worth a record.
func (c *Control) NoteUnauthenticated(ctx context.Context, method string, from netip.Addr, why error) {
	if errors.Is(why, access.ErrNoToken) {
		return
	}
	act := audit.Act{Name: "authenticate", Object: clip(method)}
	if err := c.Audit.Refuse(ctx, access.Caller{Address: from}, act, why.Error()); err != nil {
		c.Logger.Error("refusal not recorded", "act", act.Name, "address", from, "error", err)
	}
}

// provenWithin is how long a checkpoint is waited for that has everything written before.
const provenWithin = 3 * time.Second

// maxAct bounds the name of an act that is asked for.
const maxAct = 64

// ListAudit lists the audit log, newest first. A caller of one tenant sees the records of that.
func (c *Control) ListAudit(ctx context.Context, who access.Caller, q audit.Query) (audit.Page, error) {
	if err := c.mayAudit(ctx, who, "audit.list", &q); err != nil {
		return audit.Page{}, err
	}
	var bad relay.Invalid
	if q.PageSize < 0 || q.PageSize > relay.MaxPageSize {
		bad.Add("pageSize", "must be 1 to %d", relay.MaxPageSize)
		return audit.Page{}, bad
	}
	q.PageSize = cmp.Or(q.PageSize, relay.DefaultPageSize)
	page, err := c.Trail.List(ctx, q)
	if errors.Is(err, audit.ErrPageToken) {
		bad.Add("pageToken", "is not one of this query's")
		return audit.Page{}, bad
	}
	return page, translated(err)
}

// mayAudit checks who asks for records, and bounds the query to what the caller may see.
func (c *Control) mayAudit(ctx context.Context, who access.Caller, name string, q *audit.Query) error {
	q.Tenant = cmp.Or(q.Tenant, who.Tenant)
	if err := c.allow(ctx, who, access.AuditRead, &audit.Act{Name: name, Tenant: clip(q.Tenant)}); err != nil {
		return err
	}
	if err := c.hasTrail(); err != nil {
		return err
	}
	var bad relay.Invalid
	if len(q.Act) > maxAct || strings.Contains(strings.TrimSuffix(q.Act, "*"), "*") {
		bad.Add("act", "must be an act, or the beginning of some with '*'")
	}
	return bad.Err()
}

func (c *Control) hasTrail() error {
	if c.Trail == nil || c.Tree == nil {
		return &StateError{Act: "read the audit log", State: "NONE", Reason: "this process has none"}
	}
	return nil
}

// WatchAudit calls fn with each record from now on that a query asks for, until ctx ends, the caller's credential does, or fn returns an error.
func (c *Control) WatchAudit(ctx context.Context, who access.Caller, q audit.Query, fn func(audit.Entry) error) error {
	if err := c.mayAudit(ctx, who, "audit.watch", &q); err != nil {
		return err
	}
	return translated(c.Trail.Watch(ctx, q, func(e audit.Entry) error {
		if who.CredentialID != "" {
			if err := c.Access.Live(who); err != nil {
				return err
			}
		}
		return fn(e)
	}))
}

// AuditState is the log's signed state.
type AuditState struct {
	Checkpoint proof.Checkpoint
	Signed     []byte // the note; nil where nothing was signed yet
	Key        proof.Key
	First      uint64 // the oldest record's sequence; 0: none
	Broken     string // what it was found not to match
}

// AuditCheckpoint is the signed state of the log, with everything that was written before; or the newest there is, where that is not signed in time.
func (c *Control) AuditCheckpoint(ctx context.Context, who access.Caller) (AuditState, error) {
	if err := c.allow(ctx, who, access.AuditRead, &audit.Act{Name: "audit.checkpoint"}); err != nil {
		return AuditState{}, err
	}
	if err := c.hasTrail(); err != nil {
		return AuditState{}, err
	}
	return c.auditState(ctx)
}

func (c *Control) auditState(ctx context.Context) (out AuditState, err error) {
	out.Checkpoint, out.Signed, out.First, err = c.Trail.Latest(ctx, provenWithin)
	if err != nil {
		return out, translated(err)
	}
	out.Key = c.Tree.Key()
	if err := c.Tree.Halted(); err != nil {
		out.Broken = err.Error()
	}
	return out, nil
}

// ProveAudit proves that the record at a sequence stands in the log; or, where that is 0, that the log goes on where it ended when it had old records.
func (c *Control) ProveAudit(ctx context.Context, who access.Caller, seq uint64, old int64) (text []byte, state AuditState, err error) {
	if err := c.allow(ctx, who, access.AuditRead, &audit.Act{Name: "audit.prove", Object: strconv.FormatUint(seq, 10)}); err != nil {
		return nil, state, err
	}
	if err := c.hasTrail(); err != nil {
		return nil, state, err
	}
	if state, err = c.auditState(ctx); err != nil {
		return nil, state, err
	}
	if seq == 0 {
		p, err := c.Tree.Consistency(ctx, old)
		if err != nil {
			return nil, state, c.unproven(err)
		}
		return p.Format(), state, nil
	}
	p, err := c.Tree.Inclusion(ctx, seq)
	if err != nil {
		return nil, state, c.unproven(err)
	}
	// The record is in the proof.
	if r, err := audit.Decode(p.Record); !who.AllTenants() && (err != nil || !who.Sees(r.Tenant)) {
		return nil, state, ErrNotFound
	}
	return p.Format(), state, nil
}

func (c *Control) unproven(err error) error {
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return ErrNotFound
	case errors.Is(err, tree.ErrBroken):
		return &StateError{Act: "prove it", State: "BROKEN", Reason: err.Error()}
	}
	return translated(err)
}

// ExportAudit writes the records as they are stored, for whoever verifies them all: for operators of all tenants. What is written before an
// error is of no use.
func (c *Control) ExportAudit(ctx context.Context, who access.Caller, first uint64, to io.Writer) error {
	act := audit.Act{Name: "audit.export"}
	if err := c.allow(ctx, who, access.AuditRead, &act); err != nil {
		return err
	}
	if !who.AllTenants() {
		return c.refuse(ctx, who, act, &ForbiddenError{Scope: access.AuditRead, Reason: "an export is of all tenants, and the caller is of one"})
	}
	if err := c.hasTrail(); err != nil {
		return err
	}
	// It is read also while acts are halted: by then more than ever.
	act.Anyway = true
	return c.act(ctx, who, act, func() (map[string]string, error) {
		n, err := c.Trail.Export(ctx, first, provenWithin, to)
		switch {
		case errors.Is(err, journal.ErrNotFound):
			err = &StateError{Act: "export the audit log", State: "UNSIGNED", Reason: "nothing of it was signed yet"}
		case errors.Is(err, audit.ErrTrimmed):
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return map[string]string{"records": strconv.FormatInt(n, 10)}, err
	})
}

// AcceptAuditBreak has acts done again after the log was found not to be what its checkpoints say. What was found stays to be seen, and who accepted
// it, and why, is in the log.
func (c *Control) AcceptAuditBreak(ctx context.Context, who access.Caller, reason string) (state AuditState, err error) {
	act := audit.Act{Name: "audit.accept", Reason: clip(reason), Anyway: true}
	if err := c.allow(ctx, who, access.AuditAccept, &act); err != nil {
		return state, err
	}
	if !who.AllTenants() {
		return state, c.refuse(ctx, who, act, &ForbiddenError{Scope: access.AuditAccept, Reason: "the log is of all tenants, and the caller is of one"})
	}
	if err := c.hasTrail(); err != nil {
		return state, err
	}
	var bad relay.Invalid
	text(&bad, "reason", reason, maxReason, true)
	if err := bad.Err(); err != nil {
		return state, err
	}
	found := c.Tree.Broken()
	if found == nil {
		return state, &StateError{Act: "accept it", State: "WHOLE", Reason: "the audit log is what its checkpoints say"}
	}
	act.Before, _ = audit.Changes(found, nil)
	err = c.act(ctx, who, act, func() (map[string]string, error) {
		_, err := c.Tree.Accept(ctx)
		return nil, err
	})
	if err != nil {
		return state, err
	}
	return c.auditState(ctx)
}
