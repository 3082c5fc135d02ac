package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"strings"
	"unicode/utf8"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/operation"
)

// Erasure asks for the erasure of one subject of a tenant.
type Erasure struct {
	Tenant    string
	Subject   string // as its events were published
	Reason    string // required; kept, and so without personal data
	RequestID string
}

func (e *Erasure) check() error {
	var bad relay.Invalid
	if !relay.ValidTenant(e.Tenant) {
		bad.Add("tenant", "must be a tenant's name")
	}
	switch {
	case e.Subject == "":
		bad.Add("subject", "is required: as the events were published with, such as contact/42")
	case len(e.Subject) > relay.MaxSubjectLength || !utf8.ValidString(e.Subject):
		bad.Add("subject", "must be UTF-8 of at most %d bytes", relay.MaxSubjectLength)
	}
	switch {
	case strings.TrimSpace(e.Reason) == "":
		bad.Add("reason", "is required: such as the number of the request, without personal data")
	case len(e.Reason) > operation.MaxReason || !utf8.ValidString(e.Reason):
		bad.Add("reason", "must be UTF-8 of at most %d bytes", operation.MaxReason)
	case e.Subject != "" && strings.Contains(e.Reason, e.Subject):
		bad.Add("reason", "must not name the subject: it is kept")
	}
	if len(e.RequestID) > operation.MaxRequestID || !utf8.ValidString(e.RequestID) {
		bad.Add("requestId", "must be UTF-8 of at most %d bytes", operation.MaxRequestID)
	}
	return bad.Err()
}

// EraseSubject begins to erase every event of a subject that was accepted before, and answers once the operation that does is durable; see package erasure. The
// subject goes no further than here: what is kept is its digest. A repeat with the same request id gets the first one's
// operation.
func (c *Control) EraseSubject(ctx context.Context, who access.Caller, e Erasure) (Operation, error) {
	e.Tenant = cmp.Or(e.Tenant, who.Tenant)
	act := audit.Act{Name: "event.erase", Tenant: clip(e.Tenant), RequestID: clip(e.RequestID)}
	if err := c.allow(ctx, who, access.EventsErase, &act); err != nil {
		return Operation{}, err
	}
	if err := e.check(); err != nil {
		return Operation{}, err
	}
	subject := c.Erasures.Digest(e.Tenant, e.Subject)
	act.Object, act.Reason = subject.String(), clip(e.Reason) // which names no subject, as was checked
	var op operation.Operation
	err := c.act(ctx, who, act, func() (_ map[string]string, err error) {
		op, err = c.Operations.Create(ctx, operation.Request{
			Tenant: e.Tenant, Kind: operation.Erasure, Author: who.Account, Reason: e.Reason, Body: subject.Body(), RequestID: e.RequestID,
			Digest: sha256.Sum256(append(append([]byte(e.Reason), 0), subject.Body()...)),
		})
		return map[string]string{"operation": op.ID}, err
	})
	if err != nil {
		return Operation{}, err
	}
	return shownOperation(op), nil
}
