package registry

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/signer"
)

// recordVersion is the version of the endpoint records written here, the only one that is read.
const recordVersion = 1

// maxRecord bounds a stored record, in bytes: two times the largest settings.
const maxRecord = 512 << 10

var errRecord = errors.New("endpoint record cannot be read")

func encode(r *Record) ([]byte, error) {
	m := settingsRecord(&r.Settings)
	m.Version = recordVersion
	m.Id, m.Tenant = r.ID, r.Tenant
	m.State, m.StateReason = string(r.State), r.StateReason
	m.Registrant, m.Approver, m.Hands = r.Registrant, r.Approver, r.Hands
	m.CreateTime, m.UpdateTime, m.ApproveTime = nanos(r.CreateTime), nanos(r.UpdateTime), nanos(r.ApproveTime)
	m.RequestId, m.RequestDigest = r.RequestID, r.RequestDigest
	m.Inactive, m.InactiveSince, m.ContainedFrom = int64(r.Inactive), nanos(r.InactiveSince), string(r.ContainedFrom)
	m.CertificateTime = nanos(r.CertificateTime)
	for _, k := range r.Keys {
		m.Keys = append(m.Keys, &sealpostv1.KeyRecord{
			Id: k.ID, State: string(k.State), Sealed: k.Secret, Public: k.Public, CreateTime: nanos(k.CreateTime), ExpireTime: nanos(k.ExpireTime),
			ActivateTime: nanos(k.ActivateTime), Overlap: int64(k.Overlap), Unclaimed: k.Unclaimed,
		})
	}
	m.ReviewTime, m.Reviewer, m.Proof = nanos(r.ReviewTime), r.Reviewer, proofRecord(&r.Proof)
	if r.Proposed != nil {
		m.Proposed = settingsRecord(&r.Proposed.Settings)
		m.Proposed.Proof = proofRecord(&r.Proposed.Proof)
		m.Proposed.Registrant, m.Proposed.Hands, m.Proposed.UpdateTime = r.Proposed.Author, r.Proposed.Hands, nanos(r.Proposed.Time)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode endpoint record: %w", err)
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("encode endpoint record: larger than %d bytes", maxRecord)
	}
	return data, nil
}

// decode reads a record; what it cannot read in full it refuses, so that nothing is sent under half a policy.
func decode(data []byte) (*Record, error) {
	if len(data) > maxRecord {
		return nil, fmt.Errorf("%w: larger than %d bytes", errRecord, maxRecord)
	}
	var m sealpostv1.EndpointRecord
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: not a record", errRecord)
	}
	if m.Version != recordVersion {
		return nil, fmt.Errorf("%w: version %d", errRecord, m.Version)
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 || m.Proposed != nil && len(m.Proposed.ProtoReflect().GetUnknown()) > 0 || m.Proof != nil && len(m.Proof.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("%w: unknown fields", errRecord) // a newer release's: it may narrow what leaves
	}
	r := &Record{
		ID: m.Id, Tenant: m.Tenant,
		State: relay.EndpointState(m.State), StateReason: m.StateReason,
		Registrant: m.Registrant, Approver: m.Approver, Hands: m.Hands,
		CreateTime: moment(m.CreateTime), UpdateTime: moment(m.UpdateTime), ApproveTime: moment(m.ApproveTime),
		Inactive: time.Duration(m.Inactive), InactiveSince: moment(m.InactiveSince), ContainedFrom: relay.EndpointState(m.ContainedFrom),
		ReviewTime: moment(m.ReviewTime), Reviewer: m.Reviewer, Proof: proof(m.Proof),
		Settings:  settings(&m),
		RequestID: m.RequestId, RequestDigest: m.RequestDigest, CertificateTime: moment(m.CertificateTime),
	}
	for _, k := range m.Keys {
		if len(k.ProtoReflect().GetUnknown()) > 0 {
			return nil, fmt.Errorf("%w: unknown fields of a key", errRecord) // it may be one that must not sign
		}
		key := Key{
			ID: k.Id, State: KeyState(k.State), Secret: k.Sealed, Public: k.Public, CreateTime: moment(k.CreateTime), ExpireTime: moment(k.ExpireTime),
			ActivateTime: moment(k.ActivateTime), Overlap: time.Duration(k.Overlap), Unclaimed: k.Unclaimed,
		}
		if key.State == "" && len(m.Keys) == 1 {
			key.State = KeyCurrent // of a release that did not rotate
		}
		r.Keys = append(r.Keys, key)
	}
	if err := r.checkKeys(); err != nil {
		return nil, err
	}
	if m.Proposed != nil {
		r.Proposed = &Proposal{
			Settings: settings(m.Proposed), Author: m.Proposed.Registrant, Hands: m.Proposed.Hands, Time: moment(m.Proposed.UpdateTime), Proof: proof(m.Proposed.Proof),
		}
	}
	for _, s := range []*Settings{&r.Settings, proposedSettings(r)} {
		if s != nil && s.Environment != relay.Sandbox && s.Environment != relay.Production {
			return nil, fmt.Errorf("%w: unknown environment", errRecord)
		}
	}
	if r.ReviewTime.IsZero() { // of before there were reviews: its approval was the last one
		r.ReviewTime, r.Reviewer = r.ApproveTime, r.Approver
	}
	switch r.State {
	case relay.EndpointUnverified, relay.EndpointPending, relay.EndpointActive, relay.EndpointPaused,
		relay.EndpointSuspended, relay.EndpointContained, relay.EndpointDeleted:
	default:
		return nil, fmt.Errorf("%w: unknown state", errRecord)
	}
	return r, nil
}

func proposedSettings(r *Record) *Settings {
	if r.Proposed == nil {
		return nil
	}
	return &r.Proposed.Settings
}

func proofRecord(p *Proof) *sealpostv1.ProofRecord {
	if p.Host == "" {
		return nil
	}
	return &sealpostv1.ProofRecord{
		Host: p.Host, Method: string(p.Method), Time: nanos(p.Time), DueTime: nanos(p.DueTime), FailTime: nanos(p.FailTime), Key: p.Key,
		CertificateExpireTime: nanos(p.CertificateExpireTime),
	}
}

func proof(m *sealpostv1.ProofRecord) Proof {
	if m == nil {
		return Proof{}
	}
	return Proof{
		Host: m.Host, Method: ProofMethod(m.Method), Time: moment(m.Time), DueTime: moment(m.DueTime), FailTime: moment(m.FailTime), Key: m.Key,
		CertificateExpireTime: moment(m.CertificateExpireTime),
	}
}

func settingsRecord(s *Settings) *sealpostv1.EndpointRecord {
	m := &sealpostv1.EndpointRecord{
		Url: s.URL, Owner: s.Owner, Purpose: s.Purpose, Description: s.Description,
		EventTypes: s.EventTypes, Filter: s.Filter, Scheme: string(s.Scheme), ContentMode: string(s.ContentMode),
		RedactionMode: string(s.Redaction.Mode), RedactionAllow: s.Redaction.Allow, RedactionDrop: s.Redaction.Drop,
		RedactionPseudonymize: s.Redaction.Pseudonymize, Environment: string(s.Environment), DataScope: s.DataScope,
		ChunkBytes: uint32(s.ChunkBytes), ChunkArray: s.ChunkArray, Concurrency: uint32(s.Concurrency),
		Ordered: s.Ordered, RateLimit: s.RateLimit, Timeout: int64(s.Timeout), RetryFor: int64(s.RetryFor), Http2: s.HTTP2,
		TlsClientCertificate: string(s.TLS.ClientCertificate), TlsCaPem: s.TLS.CAPEM, TlsSpkiPins: s.TLS.SPKIPins,
		TlsAllow_12: s.TLS.AllowTLS12,
		BasicUser:   s.BasicUser, BasicPass: s.BasicPass, Bearer: s.Bearer,
		RotationEvery: int64(s.Rotation.Every), RotationOverlap: int64(s.Rotation.Overlap),
	}
	for _, k := range s.Redaction.Mask {
		m.RedactionMask = append(m.RedactionMask, &sealpostv1.MaskRecord{Path: k.Path, KeepLast: uint32(k.KeepLast)})
	}
	for _, h := range s.Headers {
		m.Headers = append(m.Headers, &sealpostv1.HeaderRecord{Name: h.Name, Value: h.Value})
	}
	return m
}

func settings(m *sealpostv1.EndpointRecord) Settings {
	s := Settings{
		URL: m.Url, Owner: m.Owner, Purpose: m.Purpose, Description: m.Description,
		EventTypes: m.EventTypes, Filter: m.Filter, Scheme: signer.Scheme(m.Scheme), ContentMode: relay.ContentMode(m.ContentMode),
		Redaction: relay.Redaction{
			Mode: relay.RedactionMode(m.RedactionMode), Allow: m.RedactionAllow, Drop: m.RedactionDrop, Pseudonymize: m.RedactionPseudonymize,
		},
		// Endpoints from before there were environments get what they always got: real events.
		Environment: cmp.Or(relay.Environment(m.Environment), relay.Production), DataScope: m.DataScope,
		ChunkBytes: int(m.ChunkBytes), ChunkArray: m.ChunkArray, Concurrency: int(m.Concurrency),
		Ordered: m.Ordered, RateLimit: m.RateLimit, Timeout: time.Duration(m.Timeout), RetryFor: time.Duration(m.RetryFor), HTTP2: m.Http2,
		TLS: relay.TLS{
			ClientCertificate: relay.ClientCertificateMode(m.TlsClientCertificate), CAPEM: m.TlsCaPem, SPKIPins: m.TlsSpkiPins, AllowTLS12: m.TlsAllow_12,
		},
		BasicUser: m.BasicUser, BasicPass: m.BasicPass, Bearer: m.Bearer,
		Rotation: relay.Rotation{Every: time.Duration(m.RotationEvery), Overlap: time.Duration(m.RotationOverlap)},
	}
	for _, k := range m.RedactionMask {
		s.Redaction.Mask = append(s.Redaction.Mask, relay.Mask{Path: k.Path, KeepLast: int(k.KeepLast)})
	}
	for _, h := range m.Headers {
		s.Headers = append(s.Headers, Header{Name: h.Name, Value: h.Value})
	}
	return s
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
