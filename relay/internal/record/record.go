// Package record turns events and outcomes into the journal's records and back. It promises that what was written is read
// as the same value, and that a record of a version it does not know, or that breaks a bound, is an error and never
// half a value. It trusts the journal to return the bytes that it was given.
package record

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// Version is that of the records written here, and the newest that can be read.
const Version = 1

// ErrRecord is the error of bytes that are no record of a known version.
var ErrRecord = errors.New("not a journal record that this version can read")

// AppendOutcome adds an outcome to a record of outcomes, which an empty b begins.
func AppendOutcome(b []byte, o *relay.Outcome) ([]byte, error) {
	r := encodeOutcome(o)
	b = protowire.AppendTag(b, outcomesField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(proto.Size(r)))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, r)
}

// outcomesField is the number of OutcomesRecord's field.
const outcomesField = 1

func encodeOutcome(o *relay.Outcome) *pb.OutcomeRecord {
	r := &pb.OutcomeRecord{
		Version:    Version,
		DeliveryId: o.DeliveryID, Tenant: o.Tenant, EndpointId: o.EndpointID,
		EventId: o.EventID, EventType: o.EventType, EventTime: nanos(o.EventTime), AcceptTime: nanos(o.AcceptTime),
		Seq: o.Seq, Partition: uint32(o.Partition),
		State: string(o.State), Reason: string(o.Reason), Time: nanos(o.Time),
		Attempts: uint32(o.Attempts), Due: nanos(o.Due), Deadline: nanos(o.Deadline), Redacted: uint32(o.Redacted),
		Retold: o.Retold,
	}
	if o.Progress.Next > 0 {
		r.Progress = &pb.ProgressRecord{
			Digest: o.Progress.Digest[:], Next: uint32(o.Progress.Next), Total: uint32(o.Progress.Total),
		}
	}
	if o.Attempt != nil {
		r.Attempt = encodeAttempt(o.Attempt)
	}
	return r
}

// DecodeOutcomes reads a record of outcomes: at least one, in the order in which they were added.
func DecodeOutcomes(b []byte) ([]relay.Outcome, error) {
	var r pb.OutcomesRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("outcomes: %w: %w", ErrRecord, err)
	}
	if len(r.Outcomes) == 0 {
		return nil, fmt.Errorf("outcomes: %w: none", ErrRecord)
	}
	out := make([]relay.Outcome, len(r.Outcomes))
	for i, one := range r.Outcomes {
		if err := decodeOutcome(&out[i], one); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decodeOutcome(o *relay.Outcome, r *pb.OutcomeRecord) error {
	if err := known(r); err != nil {
		return fmt.Errorf("outcome: %w", err)
	}
	*o = relay.Outcome{
		DeliveryID: r.DeliveryId, Tenant: r.Tenant, EndpointID: r.EndpointId,
		EventID: r.EventId, EventType: r.EventType, EventTime: at(r.EventTime), AcceptTime: at(r.AcceptTime),
		Seq: r.Seq, Partition: int(r.Partition),
		State: relay.DeliveryState(r.State), Reason: relay.Reason(r.Reason), Time: at(r.Time),
		Attempts: int(r.Attempts), Due: at(r.Due), Deadline: at(r.Deadline), Redacted: int(r.Redacted),
		Retold: r.Retold,
	}
	if p := r.Progress; p != nil {
		if len(p.Digest) != len(o.Progress.Digest) {
			return fmt.Errorf("outcome: %w: digest of %d bytes", ErrRecord, len(p.Digest))
		}
		o.Progress = relay.Progress{Digest: [32]byte(p.Digest), Next: int(p.Next), Total: int(p.Total)}
	}
	if r.Attempt != nil {
		o.Attempt = decodeAttempt(r.Attempt)
	}
	return nil
}

func encodeAttempt(a *relay.Attempt) *pb.AttemptRecord {
	return &pb.AttemptRecord{
		Number: uint32(a.Number), Chunk: uint32(a.Chunk), ChunkTotal: uint32(a.ChunkTotal),
		StartTime: nanos(a.StartTime), Verdict: string(a.Verdict), Reason: string(a.Reason), StatusCode: uint32(a.StatusCode),
		Dns: int64(a.Durations.DNS), Connect: int64(a.Durations.Connect), Tls: int64(a.Durations.TLS),
		FirstByte: int64(a.Durations.FirstByte), Total: int64(a.Durations.Total),
		RemoteAddress: a.RemoteAddress, TlsVersion: a.TLSVersion,
		ServerCertificateSubject: a.ServerCertificateSubject, ServerCertificateSha256: a.ServerCertificateSHA256,
		ClientCertificateSha256: a.ClientCertificateSHA256, KeyId: a.KeyID, BodySha256: a.BodySHA256,
		ResponseBody: a.ResponseBody, ResponseSize: a.ResponseSize,
	}
}

func decodeAttempt(r *pb.AttemptRecord) *relay.Attempt {
	return &relay.Attempt{
		Number: int(r.Number), Chunk: int(r.Chunk), ChunkTotal: int(r.ChunkTotal),
		StartTime: at(r.StartTime), Verdict: relay.VerdictKind(r.Verdict), Reason: relay.Reason(r.Reason),
		StatusCode: int(r.StatusCode),
		Durations: relay.Durations{
			DNS: time.Duration(r.Dns), Connect: time.Duration(r.Connect), TLS: time.Duration(r.Tls),
			FirstByte: time.Duration(r.FirstByte), Total: time.Duration(r.Total),
		},
		RemoteAddress: r.RemoteAddress, TLSVersion: r.TlsVersion,
		ServerCertificateSubject: r.ServerCertificateSubject, ServerCertificateSHA256: r.ServerCertificateSha256,
		ClientCertificateSHA256: r.ClientCertificateSha256, KeyID: r.KeyId, BodySHA256: r.BodySha256,
		ResponseBody: r.ResponseBody, ResponseSize: r.ResponseSize,
	}
}

type versioned interface{ GetVersion() uint32 }

// known refuses a record of a version that is newer than this program.
func known(r versioned) error {
	if v := r.GetVersion(); v == 0 || v > Version {
		return fmt.Errorf("%w: version %d, known up to %d", ErrRecord, v, Version)
	}
	return nil
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
