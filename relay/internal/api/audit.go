package api

import (
	"context"
	"encoding/json"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/proof"
)

// Audit is the part of the door that the audit log is read through. control has its contract.
type Audit interface {
	ListAudit(ctx context.Context, who access.Caller, q audit.Query) (audit.Page, error)
	WatchAudit(ctx context.Context, who access.Caller, q audit.Query, fn func(audit.Entry) error) error
	AuditCheckpoint(ctx context.Context, who access.Caller) (control.AuditState, error)
	ProveAudit(ctx context.Context, who access.Caller, seq uint64, old int64) ([]byte, control.AuditState, error)
	ExportAudit(ctx context.Context, who access.Caller, first uint64, to io.Writer) error
	AcceptAuditBreak(ctx context.Context, who access.Caller, reason string) (control.AuditState, error)
}

type auditService struct {
	sealpostv1.UnimplementedAuditServiceServer
	audit   Audit
	closing <-chan struct{} // closed when streams are to end
}

// ListAuditEntries is a page of them, newest first.
func (s *auditService) ListAuditEntries(ctx context.Context, r *sealpostv1.ListAuditEntriesRequest) (*sealpostv1.ListAuditEntriesResponse, error) {
	q := audit.Query{
		Tenant: r.GetTenant(), Account: r.GetAccount(), Act: r.GetAct(), Object: r.GetObject(), ActID: r.GetActId(),
		Outcome: audit.Outcome(enumName(r.GetOutcome())), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	}
	if r.GetAfter() != nil {
		q.After = r.GetAfter().AsTime()
	}
	if r.GetBefore() != nil {
		q.Before = r.GetBefore().AsTime()
	}
	page, err := s.audit.ListAudit(ctx, callerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListAuditEntriesResponse{NextPageToken: page.NextPageToken}
	for i := range page.Entries {
		out.Entries = append(out.Entries, entryOf(&page.Entries[i]))
	}
	return out, nil
}

// WatchAuditEntries tells each from now on.
func (s *auditService) WatchAuditEntries(r *sealpostv1.WatchAuditEntriesRequest, stream grpc.ServerStreamingServer[sealpostv1.WatchAuditEntriesResponse]) error {
	q := audit.Query{
		Tenant: r.GetTenant(), Account: r.GetAccount(), Act: r.GetAct(), Object: r.GetObject(), Outcome: audit.Outcome(enumName(r.GetOutcome())),
	}
	return untilClosing(stream.Context(), s.closing, func(ctx context.Context) error {
		return s.audit.WatchAudit(ctx, callerOf(ctx), q, func(e audit.Entry) error {
			return stream.Send(&sealpostv1.WatchAuditEntriesResponse{Entry: entryOf(&e)})
		})
	})
}

// GetAuditCheckpoint is the signed state of the log.
func (s *auditService) GetAuditCheckpoint(ctx context.Context, _ *sealpostv1.GetAuditCheckpointRequest) (*sealpostv1.AuditCheckpoint, error) {
	return shownAudit(s.audit.AuditCheckpoint(ctx, callerOf(ctx)))
}

// ProveAudit proves that a record stands in the log, or that it goes on where it ended.
func (s *auditService) ProveAudit(ctx context.Context, r *sealpostv1.ProveAuditRequest) (*sealpostv1.AuditProof, error) {
	var bad relay.Invalid
	switch {
	case r.GetSequence() > 0 && r.GetOldSize() > 0:
		bad.Add("oldSize", "must be 0 where a sequence is given")
	case r.GetSequence() == 0 && r.GetOldSize() == 0:
		bad.Add("sequence", "is required, or oldSize")
	case r.GetSequence() >= 1<<62 || r.GetOldSize() >= 1<<62:
		bad.Add("sequence", "must be below 2^62, and so must oldSize")
	}
	if err := bad.Err(); err != nil {
		return nil, err
	}
	text, state, err := s.audit.ProveAudit(ctx, callerOf(ctx), r.GetSequence(), int64(r.GetOldSize()))
	if err != nil {
		return nil, err
	}
	return &sealpostv1.AuditProof{Proof: string(text), Checkpoint: checkpointOf(&state)}, nil
}

// ExportAudit streams the records as they are stored. A stream that ends with an error is not whole.
func (s *auditService) ExportAudit(r *sealpostv1.ExportAuditRequest, stream grpc.ServerStreamingServer[sealpostv1.ExportAuditResponse]) error {
	return untilClosing(stream.Context(), s.closing, func(ctx context.Context) error {
		return s.audit.ExportAudit(ctx, callerOf(ctx), r.GetFirstSequence(), chunks(func(data []byte) error {
			return stream.Send(&sealpostv1.ExportAuditResponse{Data: data})
		}))
	})
}

// AcceptAuditBreak has acts done again.
func (s *auditService) AcceptAuditBreak(ctx context.Context, r *sealpostv1.AcceptAuditBreakRequest) (*sealpostv1.AuditCheckpoint, error) {
	return shownAudit(s.audit.AcceptAuditBreak(ctx, callerOf(ctx), r.GetReason()))
}

func shownAudit(state control.AuditState, err error) (*sealpostv1.AuditCheckpoint, error) {
	if err != nil {
		return nil, err
	}
	return checkpointOf(&state), nil
}

func checkpointOf(state *control.AuditState) *sealpostv1.AuditCheckpoint {
	out := &sealpostv1.AuditCheckpoint{
		Checkpoint: string(state.Signed), Size: uint64(state.Checkpoint.Size), Key: state.Key.String(), Broken: state.Broken, FirstSequence: state.First,
	}
	if state.Signed != nil {
		out.Root = proof.FormatHash(state.Checkpoint.Root)
	}
	return out
}

func entryOf(e *audit.Entry) *sealpostv1.AuditEntry {
	out := &sealpostv1.AuditEntry{
		Sequence: e.Seq, Time: stamp(e.Time), Outcome: enumValue[sealpostv1.AuditEntry_Outcome](string(e.Outcome)), Act: e.Act, Object: e.Object, Tenant: e.Tenant,
		ActId: e.ActID, Account: e.Account, Role: string(e.Role), CredentialId: e.CredentialID, CredentialKind: e.CredentialKind,
		CertificateSubject: e.CertificateSubject, CertificateSha256: e.CertificateSHA256, Scope: string(e.Scope), RequestId: e.RequestID, Reason: e.Reason,
		Before: structOf(e.Before), After: structOf(e.After), Detail: e.Detail, Omitted: e.Omitted, Record: e.Raw, Tampered: e.Tampered,
	}
	if e.Address.IsValid() {
		out.Address = e.Address.String()
	}
	return out
}

// structOf is a JSON object of a record; none for what is no such thing.
func structOf(text json.RawMessage) *structpb.Struct {
	if len(text) == 0 {
		return nil
	}
	out := &structpb.Struct{}
	if err := protojson.Unmarshal(text, out); err != nil {
		return nil
	}
	return out
}
