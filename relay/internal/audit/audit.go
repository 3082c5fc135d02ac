// Package audit writes down who did what to what, from where, and what came of it.
//
// It promises that a record is durable when Append returns, and that an act run by Act has a record before it and one of
// its outcome after it: no record, no act. It holds facts (ids, names of fields), never payloads or secrets; the callers
// answer for that. It trusts the journal's AUDIT log to keep what it confirmed.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// ErrUnavailable is for a record that could not be kept. Where Act answers it the act may have taken place.
var ErrUnavailable = errors.New("audit log is unavailable")

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
	ActID        string // joins the records of one act
	Time         time.Time
	Account      string
	CredentialID string
	Address      netip.Addr
	Act          string // such as endpoint.approve
	Object       string // the id of what it is done to
	Tenant       string
	Outcome      Outcome
	Detail       map[string]string // facts; never secrets or payloads
}

// Stream is the journal's AUDIT log; *journal.Audit is one.
type Stream interface {
	// Append returns when the record is durable.
	Append(ctx context.Context, payload []byte) (seq uint64, err error)
}

// Log writes records. It is safe for concurrent use.
type Log struct {
	stream Stream
	now    func() time.Time
}

// New is a log on a stream; now is the clock.
func New(s Stream, now func() time.Time) *Log { return &Log{stream: s, now: now} }

// Act is a privileged act, before it is done.
type Act struct {
	Name   string // such as endpoint.approve
	Object string
	Tenant string
	Detail map[string]string
}

// Append keeps one record; where they are empty it gives it a time and an act id.
func (l *Log) Append(ctx context.Context, r Record) error {
	if r.Time.IsZero() {
		r.Time = l.now().UTC()
	}
	if r.ActID == "" {
		r.ActID = newActID()
	}
	data, err := r.encode()
	if err != nil {
		return err
	}
	if _, err := l.stream.Append(ctx, data); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Refuse records that a caller may not do an act, and why.
func (l *Log) Refuse(ctx context.Context, c access.Caller, a Act, why string) error {
	r := newRecord(c, a)
	r.Outcome = Refused
	r.Detail = with(a.Detail, "reason", why)
	return l.Append(ctx, r)
}

// Do records the act, does it, and records what came of it. The act is not done where the first record fails. The
// returned error is the act's, or ErrUnavailable where a record failed. What do returns joins the second record's detail. That record is
// written even when ctx ended meanwhile.
func (l *Log) Do(ctx context.Context, c access.Caller, a Act, do func() (map[string]string, error)) error {
	r := newRecord(c, a)
	r.ActID, r.Outcome = newActID(), Allowed
	if err := l.Append(ctx, r); err != nil {
		return err
	}
	detail, failed := do()
	r.Time, r.Outcome, r.Detail = time.Time{}, Done, detail
	if failed != nil {
		r.Outcome, r.Detail = Failed, with(detail, "reason", failed.Error())
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeTimeout)
	defer cancel()
	if err := l.Append(after, r); err != nil && failed == nil {
		return err
	} else if err != nil {
		return errors.Join(failed, err)
	}
	return failed
}

// outcomeTimeout bounds the writing of an outcome whose caller may have left.
const outcomeTimeout = 10 * time.Second

func newRecord(c access.Caller, a Act) Record {
	return Record{
		Account: c.Account, CredentialID: c.CredentialID, Address: c.Address,
		Act: a.Name, Object: a.Object, Tenant: a.Tenant, Detail: a.Detail,
	}
}

func with(detail map[string]string, key, value string) map[string]string {
	out := map[string]string{key: value}
	for k, v := range detail {
		out[k] = v
	}
	return out
}

func newActID() string {
	var b [12]byte
	rand.Read(b[:])
	return "act_" + hex.EncodeToString(b[:])
}

const (
	recordVersion = 1
	maxText       = 512      // bytes kept of one text
	maxRecord     = 64 << 10 // bytes
)

var errRecord = errors.New("audit record cannot be read")

func (r *Record) encode() ([]byte, error) {
	m := &sealpostv1.AuditRecord{
		Version: recordVersion, ActId: r.ActID, Time: r.Time.UnixNano(), Account: cut(r.Account), CredentialId: cut(r.CredentialID),
		Act: cut(r.Act), Object: cut(r.Object), Tenant: cut(r.Tenant),
		Outcome: sealpostv1.AuditRecord_Outcome(sealpostv1.AuditRecord_Outcome_value[string(r.Outcome)]),
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
		ActID: m.ActId, Time: time.Unix(0, m.Time).UTC(), Account: m.Account, CredentialID: m.CredentialId,
		Act: m.Act, Object: m.Object, Tenant: m.Tenant, Outcome: Outcome(m.Outcome.String()), Detail: m.Detail,
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
