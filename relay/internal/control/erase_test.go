package control

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/erasure"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// The subject goes into no record: not the audit log's, nor the operation's.
func TestEraseSubject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, op := t.Context(), w.caller("op", access.Operator, "")
	e := Erasure{Tenant: "acme", Subject: "contact/jane-doe", Reason: "ticket 7", RequestID: "r1"}
	first, err := w.EraseSubject(ctx, op, e)
	if err != nil {
		t.Fatal(err)
	}
	want := w.Erasures.Digest("acme", e.Subject).String()
	if first.Kind != operation.Erasure || first.Erased != want || first.Reason != e.Reason || first.Author != "op" {
		t.Errorf("%+v", first)
	}
	if again, err := w.EraseSubject(ctx, op, e); err != nil || again.ID != first.ID {
		t.Errorf("a repeat: %v %v", again.ID, err)
	}
	other := e
	other.Subject = "contact/43"
	if _, err := w.EraseSubject(ctx, op, other); !errors.Is(err, ErrExists) {
		t.Errorf("another subject under the same request id: %v", err)
	}
	n := 0
	err = w.journal.Audit().Range(ctx, 1, 1<<62, func(m journal.Message) error {
		if n++; bytes.Contains(m.Payload, []byte("jane")) {
			t.Errorf("the audit log names the subject: %q", m.Payload)
		}
		return nil
	})
	if err != nil || n < 4 {
		t.Errorf("%d records in the audit log: %v", n, err)
	}
	for name, bad := range map[string]Erasure{
		"tenant": {Tenant: "No", Subject: "x", Reason: "r"}, "subject": {Tenant: "acme", Reason: "r"},
		"reason": {Tenant: "acme", Subject: "x"}, "reason names": {Tenant: "acme", Subject: "contact/42", Reason: "erase contact/42"},
		"long": {Tenant: "acme", Subject: strings.Repeat("x", relay.MaxSubjectLength+1), Reason: "r"},
	} {
		var invalid relay.Invalid
		if _, err := w.EraseSubject(ctx, op, bad); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	publisher := w.caller("crm", access.Publisher, "acme")
	var f *ForbiddenError
	if _, err := w.EraseSubject(ctx, publisher, e); !errors.As(err, &f) {
		t.Errorf("a publisher: %v", err)
	}
}

// An event that a tombstone speaks of is shown without its data, while it is still in the log.
func TestGetErasedEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, op := t.Context(), w.caller("op", access.Operator, "")
	ev := relay.Event{Tenant: "acme", ID: "evt_1", Type: "contact.updated", Time: w.now(), Subject: "contact/42", Data: []byte(`{"a":1}`)}
	payload, err := record.EncodeEvent(nil, &ev)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := w.journal.Events(0).Accept(ctx, journal.Entry{ID: "acme/evt_1", Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	w.view.events = []relay.EventStatus{{Tenant: "acme", ID: "evt_1", Type: ev.Type, Seq: receipt.Seq}}
	if got, err := w.GetEvent(ctx, op, "acme", "evt_1"); err != nil || string(got.Data) != `{"a":1}` {
		t.Fatalf("before: %+v %v", got, err)
	}
	revision, err := w.Erasures.Put(ctx, erasure.Tombstone{Tenant: "acme", Subject: w.Erasures.Digest("acme", "contact/42"), Seq: receipt.Seq, Time: w.now()})
	if err != nil {
		t.Fatal(err)
	}
	for s := range w.Erasures.Updates(ctx) {
		if s.Revision() >= revision {
			break
		}
	}
	if got, err := w.GetEvent(ctx, op, "acme", "evt_1"); err != nil || got.Data != nil || got.Subject != "" || got.ID != "evt_1" {
		t.Errorf("after: %+v %v", got, err)
	}
}
