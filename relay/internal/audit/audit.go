// Package audit writes down who did what to what, by which credential, from where, what it was before and after, why, and what came of
// it; and reads it back.
//
// It promises that a record is durable when Append returns, and that an act run by Do or Change has a record before it and one of
// its outcome after it: no record, no act. While the log is known not to be what its checkpoints say (see Guard) no act is done either. Refusals are
// recorded too, within a bound, and those that are left out are counted in a record. It holds facts (ids, names of fields), never
// payloads or secrets; the callers answer for that. It trusts the journal's AUDIT log to keep what it confirmed, and package tree to find out
// where that is not so.
//
// Nothing is ever taken out of the log but by its age. An erasure leaves it as it is: a record names events and subjects by id and digest alone.
package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
)

// ErrUnavailable is for a record that could not be kept. Where Do answers it the act may have taken place.
var ErrUnavailable = errors.New("audit log is unavailable")

// Stream is the journal's AUDIT log; *journal.Audit is one.
type Stream interface {
	// Append returns when the record is durable.
	Append(ctx context.Context, payload []byte) (seq uint64, err error)
}

// Log writes records. It is safe for concurrent use.
type Log struct {
	stream   Stream
	now      func() time.Time
	halted   func() error
	refusals refusals
}

// New is a log on a stream; now is the clock.
func New(s Stream, now func() time.Time) *Log {
	return &Log{stream: s, now: now, halted: func() error { return nil }, refusals: newRefusals()}
}

// Guard has acts refused while halted answers an error. It is called before the first act.
func (l *Log) Guard(halted func() error) { l.halted = halted }

// Act is a privileged act, before it is done.
type Act struct {
	Name      string // such as endpoint.approve
	Object    string
	Tenant    string
	Scope     access.Scope
	Reason    string // the caller's words
	RequestID string
	// Before and After are JSON objects of what the act is about to change, as Changes makes them.
	Before, After json.RawMessage
	Detail        map[string]string
	// Anyway is for what may be done while the log is not what its checkpoints say: to read it, to accept that, and what only takes something away
	// from somebody, as who finds that out may have to do first.
	Anyway bool
}

// Result is what came of an act.
type Result struct {
	Detail map[string]string
	// Before and After are what changed, where that is other than the act said beforehand.
	Before, After json.RawMessage
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

// Do is Change for an act of which no more than details are told.
func (l *Log) Do(ctx context.Context, c access.Caller, a Act, do func() (map[string]string, error)) error {
	return l.Change(ctx, c, a, func() (Result, error) {
		detail, err := do()
		return Result{Detail: detail}, err
	})
}

// Change records the act, does it, and records what came of it. The act is not done where the first record fails. The
// returned error is the act's, or ErrUnavailable where a record failed, or where acts are halted. What do returns joins the second record, which
// is written even when ctx ended meanwhile.
func (l *Log) Change(ctx context.Context, c access.Caller, a Act, do func() (Result, error)) error {
	if err := l.halted(); err != nil && !a.Anyway {
		return errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), l.Refuse(ctx, c, a, err.Error()))
	}
	r := newRecord(c, a)
	r.ActID, r.Outcome = newActID(), Allowed
	if err := l.Append(ctx, r); err != nil {
		return err
	}
	result, failed := do()
	r.Time, r.Outcome, r.Reason = time.Time{}, Done, ""
	r.Detail, r.Before, r.After = result.Detail, result.Before, result.After
	if failed != nil {
		r.Outcome, r.Reason = Failed, failed.Error()
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

// newRecord is where all that is known of a caller goes into a record.
func newRecord(c access.Caller, a Act) Record {
	return Record{
		Account: c.Account, Role: c.Role, CredentialID: c.CredentialID, CredentialKind: c.CredentialKind,
		CertificateSubject: c.CertificateSubject, CertificateSHA256: c.CertificateSHA256, Address: c.Address,
		Act: a.Name, Object: a.Object, Tenant: a.Tenant, Scope: a.Scope, Reason: a.Reason, RequestID: a.RequestID,
		Before: a.Before, After: a.After, Detail: a.Detail,
	}
}

func newActID() string {
	var b [12]byte
	rand.Read(b[:])
	return "act_" + hex.EncodeToString(b[:])
}
