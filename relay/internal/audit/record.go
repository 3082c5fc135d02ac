package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// Outcome is what became of an act.
type Outcome string

// The outcomes. Allowed is written before the act, Refused in its place, Done and Failed after it.
const (
	Allowed Outcome = "ALLOWED"
	Refused Outcome = "REFUSED"
	Done    Outcome = "DONE"
	Failed  Outcome = "FAILED"
)

// Record is one line of the audit log.
type Record struct {
	ActID string // joins the records of one act
	Time  time.Time

	Account            string
	Role               access.Role
	CredentialID       string
	CredentialKind     string // such as TOKEN
	CertificateSubject string
	CertificateSHA256  string
	Address            netip.Addr
	Scope              access.Scope // that the act takes
	RequestID          string

	Act     string // such as endpoint.approve
	Object  string // the id of what it is done to
	Tenant  string
	Outcome Outcome
	Reason  string // the caller's words, or why it was refused or failed
	// Before and After are JSON objects of what the act changes; never secrets.
	Before, After json.RawMessage
	Detail        map[string]string // further facts; never secrets or payloads
	Omitted       uint64            // refusals of the account that have no record of their own, since the one before
}

const (
	recordVersion = 1
	maxText       = 512      // bytes kept of one text
	maxChanges    = 20 << 10 // bytes of each, before and after
	maxRecord     = 64 << 10 // bytes
)

var errRecord = errors.New("audit record cannot be read")

func (r *Record) encode() ([]byte, error) {
	m := &sealpostv1.AuditRecord{
		Version: recordVersion, ActId: r.ActID, Time: r.Time.UnixNano(), Account: cut(r.Account), Role: cut(string(r.Role)),
		CredentialId: cut(r.CredentialID), CredentialKind: cut(r.CredentialKind),
		CertificateSubject: cut(r.CertificateSubject), CertificateSha256: cut(r.CertificateSHA256),
		Scope: cut(string(r.Scope)), RequestId: cut(r.RequestID),
		Act: cut(r.Act), Object: cut(r.Object), Tenant: cut(r.Tenant), Reason: cut(r.Reason), Omitted: r.Omitted,
		Outcome: sealpostv1.AuditRecord_Outcome(sealpostv1.AuditRecord_Outcome_value[string(r.Outcome)]),
		Before:  r.Before, After: r.After,
	}
	if m.Outcome == 0 {
		return nil, fmt.Errorf("encode audit record: unknown outcome %q", r.Outcome)
	}
	if r.Address.IsValid() {
		m.Address = r.Address.String()
	}
	if len(r.Detail) > 0 {
		m.Detail = make(map[string]string, len(r.Detail))
		for k, v := range r.Detail {
			m.Detail[cut(k)] = cut(v)
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	if len(data) > maxRecord {
		return nil, fmt.Errorf("encode audit record: larger than %d bytes", maxRecord)
	}
	return data, nil
}

// Decode reads a record of the AUDIT log.
func Decode(data []byte) (Record, error) {
	var m sealpostv1.AuditRecord
	if len(data) > maxRecord {
		return Record{}, fmt.Errorf("%w: too large", errRecord)
	}
	if err := proto.Unmarshal(data, &m); err != nil {
		return Record{}, fmt.Errorf("%w: not a record", errRecord)
	}
	if m.Version != recordVersion {
		return Record{}, fmt.Errorf("%w: version %d", errRecord, m.Version)
	}
	r := Record{
		ActID: m.ActId, Time: time.Unix(0, m.Time).UTC(), Account: m.Account, Role: access.Role(m.Role),
		CredentialID: m.CredentialId, CredentialKind: m.CredentialKind,
		CertificateSubject: m.CertificateSubject, CertificateSHA256: m.CertificateSha256,
		Scope: access.Scope(m.Scope), RequestID: m.RequestId,
		Act: m.Act, Object: m.Object, Tenant: m.Tenant, Outcome: Outcome(m.Outcome.String()), Reason: m.Reason,
		Before: m.Before, After: m.After, Detail: m.Detail, Omitted: m.Omitted,
	}
	if m.Outcome < sealpostv1.AuditRecord_ALLOWED || m.Outcome > sealpostv1.AuditRecord_FAILED {
		return Record{}, fmt.Errorf("%w: unknown outcome", errRecord)
	}
	if m.Address != "" {
		addr, err := netip.ParseAddr(m.Address)
		if err != nil {
			return Record{}, fmt.Errorf("%w: address", errRecord)
		}
		r.Address = addr
	}
	return r, nil
}

// cut bounds a text, which may be a caller's, and makes it valid UTF-8, as the record's fields must be.
func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if utf8.ValidString(s) {
		return s
	}
	out := make([]rune, 0, len(s))
	for _, r := range s {
		out = append(out, r)
	}
	return string(out)
}
