package control

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/operation"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	op, ann, eve := w.caller("op", access.Operator, ""), w.caller("ann", access.Partner, "acme"), w.caller("eve", access.Partner, "acme")
	abroad := w.caller("abroad", access.Partner, "globex")
	hers, other := w.active(ann), w.active(eve)
	asked := relay.Replay{Tenant: "acme", EndpointID: hers.ID, EventTypes: []string{"contact.*"}}
	made, err := w.ReplayDeliveries(ctx, ann, asked, "was down", "r1")
	if err != nil {
		t.Fatal(err)
	}
	if made.State != operation.Pending || made.Kind != operation.Replay || made.Author != "ann" || made.Reason != "was down" || made.Tenant != "acme" {
		t.Errorf("%+v", made)
	}
	if r := made.Replay; r == nil || !slices.Equal(r.States, []relay.DeliveryState{relay.Dead}) || !r.Before.Equal(start) || r.Rate != relay.DefaultReplayRate {
		t.Errorf("defaults: %+v", made.Replay)
	}
	// Repeats.
	if again, err := w.ReplayDeliveries(ctx, ann, asked, "was down", "r1"); err != nil || again.ID != made.ID {
		t.Errorf("the same request again: %s, %v", again.ID, err)
	}
	for name, ask := range map[string]func() error{
		"reason": func() error { _, err := w.ReplayDeliveries(ctx, ann, asked, "other", "r1"); return err },
		"filter": func() error {
			r := asked
			r.Rate = 7
			_, err := w.ReplayDeliveries(ctx, ann, r, "was down", "r1")
			return err
		},
	} {
		if err := ask(); !errors.Is(err, ErrExists) {
			t.Errorf("the same request id with another %s: %v", name, err)
		}
	}
	// Before and after, and what was asked for.
	var trail []audit.Record
	for _, r := range w.records() {
		if r.Act == "delivery.replay" && r.Detail["operation"] == "" && r.Outcome == audit.Allowed || r.Detail["operation"] == made.ID {
			trail = append(trail, r)
		}
	}
	if len(trail) < 2 || trail[0].Object != hers.ID || trail[0].Detail["types"] != "contact.*" || trail[0].Reason != "was down" || trail[0].RequestID != "r1" ||
		trail[1].Outcome != audit.Done || trail[1].ActID != trail[0].ActID || trail[1].Tenant != "acme" {
		t.Errorf("audit: %+v", trail)
	}
	// What is against a rule.
	for field, r := range map[string]relay.Replay{
		"replay.tenant":              {},
		"replay.endpointId":          {Tenant: "acme", Missing: true},
		"replay.states":              {Tenant: "acme", States: []relay.DeliveryState{relay.Parked}},
		"replay.eventTypes":          {Tenant: "acme", EventTypes: []string{"*.x"}},
		"replay.before":              {Tenant: "acme", After: start, Before: start},
		"replay.deliveriesPerSecond": {Tenant: "acme", Rate: relay.MaxReplayRate + 1},
	} {
		if _, err := w.ReplayDeliveries(ctx, op, r, "", ""); !isInvalid(err, field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := w.ReplayDeliveries(ctx, op, asked, strings.Repeat("x", operation.MaxReason+1), ""); !isInvalid(err, "reason") {
		t.Errorf("reason: %v", err)
	}
	if _, err := w.ReplayDeliveries(ctx, op, asked, "", strings.Repeat("x", operation.MaxRequestID+1)); !isInvalid(err, "requestId") {
		t.Errorf("request id: %v", err)
	}
	// A partner is kept to its own endpoints, and to what is done with them.
	if _, err := w.ReplayDeliveries(ctx, ann, relay.Replay{Tenant: "acme"}, "", ""); !isInvalid(err, "replay.endpointId") {
		t.Errorf("a partner's replay of everything: %v", err)
	}
	for name, r := range map[string]relay.Replay{
		"another partner's": {Tenant: "acme", EndpointID: other.ID}, "none": {Tenant: "acme", EndpointID: "ep_none"},
	} {
		if _, err := w.ReplayDeliveries(ctx, ann, r, "", ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("a replay to an endpoint that is %s: %v", name, err)
		}
	}
	if _, err := w.ReplayDeliveries(ctx, abroad, relay.Replay{Tenant: "globex", EndpointID: hers.ID}, "", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("a replay to an endpoint of another tenant: %v", err)
	}
	ours, err := w.ReplayDeliveries(ctx, op, asked, "", "")
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.ReplayDeliveries(ctx, op, relay.Replay{Tenant: "acme"}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		who  access.Caller
		sees []string
	}{
		"operator": {op, []string{made.ID, ours.ID, all.ID}}, "ann": {ann, []string{made.ID, ours.ID}}, "eve": {eve, nil}, "abroad": {abroad, nil},
	} {
		page, err := w.ListOperations(ctx, c.who, OperationQuery{})
		var ids []string
		for _, o := range page.Operations {
			ids = append(ids, o.ID)
		}
		slices.Sort(ids)
		slices.Sort(c.sees)
		if err != nil || !slices.Equal(ids, c.sees) {
			t.Errorf("%s sees %v, want %v, %v", name, ids, c.sees, err)
		}
		for _, id := range []string{made.ID, ours.ID, all.ID} {
			if _, err := w.GetOperation(ctx, c.who, "", id); errors.Is(err, ErrNotFound) == slices.Contains(c.sees, id) {
				t.Errorf("%s gets %s: %v", name, id, err)
			}
			if slices.Contains(c.sees, id) {
				continue
			}
			if _, err := w.CancelOperation(ctx, c.who, "", id); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s cancels %s: %v", name, id, err)
			}
		}
	}
	// Cancelled by whom it concerns.
	if got, err := w.CancelOperation(ctx, ann, "acme", ours.ID); err != nil || got.State != operation.Cancelled {
		t.Errorf("cancel: %+v, %v", got, err)
	}
	if !slices.Contains(w.trail(), "operation.cancel DONE") {
		t.Error("the cancelling has no record")
	}
	w.audits.fail.Store(true)
	if _, err := w.CancelOperation(ctx, op, "", all.ID); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without audit: %v", err)
	}
	if got, err := w.Operations.Get(ctx, all.ID); err != nil || got.State != operation.Pending {
		t.Errorf("without audit it was cancelled: %+v, %v", got, err)
	}
	n := len(w.Operations.List())
	if _, err := w.ReplayDeliveries(ctx, op, asked, "", ""); !errors.Is(err, ErrUnavailable) || len(w.Operations.List()) != n {
		t.Errorf("without audit it was begun: %v", err)
	}
}

func TestOperationPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, op := t.Context(), w.caller("op", access.Operator, "acme")
	want := map[string]bool{}
	for range 7 {
		made, err := w.ReplayDeliveries(ctx, op, relay.Replay{Tenant: "acme"}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		want[made.ID] = true
	}
	q := OperationQuery{PageSize: 3, Kind: operation.Replay, State: operation.Pending}
	for pages := 1; ; pages++ {
		page, err := w.ListOperations(ctx, op, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Operations {
			if !want[o.ID] {
				t.Errorf("%s is listed twice", o.ID)
			}
			delete(want, o.ID)
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			if pages != 3 || len(want) != 0 {
				t.Errorf("%d pages, %d not listed", pages, len(want))
			}
			break
		}
	}
	for _, none := range []OperationQuery{{Kind: operation.Erasure}, {State: operation.Failed}} {
		if page, err := w.ListOperations(ctx, op, none); err != nil || len(page.Operations) != 0 {
			t.Errorf("%+v: %d, %v", none, len(page.Operations), err)
		}
	}
	for range 13 {
		if _, err := w.ReplayDeliveries(ctx, op, relay.Replay{Tenant: "acme"}, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.ReplayDeliveries(ctx, op, relay.Replay{Tenant: "acme"}, "", ""); !errors.Is(err, ErrTooMany) {
		t.Errorf("one too many: %v", err)
	}
}
