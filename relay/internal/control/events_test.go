package control

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/record"
)

func event(id string, change ...func(*relay.Event)) relay.Event {
	ev := relay.Event{
		Tenant: "acme", ID: id, Type: "contact.updated", Time: start, Subject: "contact/42", Data: []byte(`{"n":1}`),
	}
	for _, f := range change {
		f(&ev)
	}
	return ev
}

func (w *world) publish(who access.Caller, events ...relay.Event) []PublishResult {
	w.t.Helper()
	results, err := w.PublishEvents(w.t.Context(), who, events)
	if err != nil {
		w.t.Fatal(err)
	}
	return results
}

func TestPublishAndRepeat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.caller("crm", access.Publisher, "acme")
	noTime := func(e *relay.Event) { e.Time = time.Time{} }
	noTenant := func(e *relay.Event) { e.Tenant = "" }
	steps := []struct {
		name string
		ev   relay.Event
		dup  bool
		err  error
	}{
		{"first", event("a"), false, nil},
		{"repeat", event("a"), true, nil},
		{"repeat, tenant left out", event("a", noTenant), true, nil},
		{"other data", event("a", func(e *relay.Event) { e.Data = []byte(`{"n":2}`) }), false, ErrExists},
		{"other spelling of the data", event("a", func(e *relay.Event) { e.Data = []byte(`{"n": 1}`) }), false, ErrExists},
		{"other type", event("a", func(e *relay.Event) { e.Type = "contact.created" }), false, ErrExists},
		{"other subject", event("a", func(e *relay.Event) { e.Subject = "contact/4" }), false, ErrExists},
		{"other time", event("a", func(e *relay.Event) { e.Time = start.Add(1) }), false, ErrExists},
		{"time left out", event("a", noTime), false, ErrExists},
		{"without a time", event("b", noTime), false, nil},
		{"without a time again", event("b", noTime), true, nil},
		{"still a repeat", event("a"), true, nil},
	}
	for _, s := range steps {
		r := w.publish(crm, s.ev)[0]
		if r.ID != s.ev.ID || r.Duplicate != s.dup || !errors.Is(r.Err, s.err) {
			t.Errorf("%s: %+v", s.name, r)
		}
	}
	given := w.publish(crm, event("", noTime), event("", noTime))
	if !strings.HasPrefix(given[0].ID, "evt_") || !relay.ValidEventID(given[0].ID) || given[0].ID == given[1].ID || given[0].Err != nil {
		t.Errorf("assigned: %+v", given)
	}
	m, err := w.journal.Events(0).Get(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
	want := event("a")
	if err != nil || kept.ID != "a" || kept.Type != want.Type || kept.Subject != want.Subject || !kept.Time.Equal(want.Time) || string(kept.Data) != string(want.Data) {
		t.Errorf("kept %+v, %v", kept, err)
	}
	if trail := w.trail(); len(trail) != 0 {
		t.Errorf("audit records of publishing: %v", trail)
	}
}

// Tenants do not share ids: not even those that would run together.
func TestTenantsDoNotShareIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *Options, jo *journal.Options) { jo.Partitions = 3 })
	op := w.caller("op", access.Operator, "")
	var all []relay.Event
	for _, tenant := range []string{"a", "a-b", "ab", "b", "globex"} {
		for _, id := range []string{"x", "b-x", "bx"} {
			all = append(all, event(id, func(e *relay.Event) { e.Tenant = tenant }))
		}
	}
	for i, r := range w.publish(op, all...) {
		if r.Err != nil || r.Duplicate || r.ID != all[i].ID {
			t.Errorf("%s %s: %+v", all[i].Tenant, all[i].ID, r)
		}
	}
	for i, r := range w.publish(op, all...) {
		if r.Err != nil || !r.Duplicate {
			t.Errorf("again %s %s: %+v", all[i].Tenant, all[i].ID, r)
		}
	}
}

func TestRefusedEventsTouchNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options, _ *journal.Options) { o.MaxDataBytes = 1024 })
	crm := w.caller("crm", access.Publisher, "acme")
	data := func(s string) func(*relay.Event) { return func(e *relay.Event) { e.Data = []byte(s) } }
	cases := []struct {
		ev    relay.Event
		field string
	}{
		{event("bad.id"), "id"}, {event(strings.Repeat("x", 65)), "id"},
		{event("e", func(e *relay.Event) { e.Type = "Contact" }), "type"},
		{event("e", func(e *relay.Event) { e.Type = "sealpost.test" }), "type"},
		{event("e", func(e *relay.Event) { e.Subject = "a\nb" }), "subject"},
		{event("e", func(e *relay.Event) { e.Time = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) }), "time"},
		{event("e", func(e *relay.Event) { e.Tenant = "No" }), "tenant"},
		{event("e", data("")), "data"}, {event("e", data("{")), "data"}, {event("e", data(`{"a":1,"a":2}`)), "data"},
		{event("e", data("{\"a\":\"\xff\"}")), "data"}, {event("e", data("{}{}")), "data"},
		{event("e", data(strings.Repeat("[", 200)+strings.Repeat("]", 200))), "data"},
		{event("e", data(`"`+strings.Repeat("x", 1024)+`"`)), "data"},
	}
	var batch []relay.Event
	for i, c := range cases {
		batch = append(batch, c.ev, event(fmt.Sprintf("good%d", i)))
	}
	for i, r := range w.publish(crm, batch...) {
		if i%2 == 1 {
			if r.Err != nil {
				t.Errorf("neighbour %d: %v", i/2, r.Err)
			}
		} else if !isInvalid(r.Err, cases[i/2].field) {
			t.Errorf("%d: %v, want %s", i/2, r.Err, cases[i/2].field)
		}
	}
	if r := w.publish(crm, event("e", func(e *relay.Event) { e.Tenant = "globex" }))[0]; !isForbidden(r.Err) {
		t.Errorf("another tenant: %v", r.Err)
	}
	if _, err := w.PublishEvents(t.Context(), crm, make([]relay.Event, MaxBatch+1)); !isInvalid(err, "events") {
		t.Errorf("too many: %v", err)
	}
	if r := w.publish(crm, event("e"))[0]; r.Err != nil || r.Duplicate {
		t.Errorf("a refused event left something: %+v", r)
	}
}

func TestRacingRepeatsGetOneAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.caller("crm", access.Publisher, "acme")
	var wg sync.WaitGroup
	var mu sync.Mutex
	first, repeats, conflicts := 0, 0, 0
	for i := range 16 {
		wg.Go(func() {
			ev := event("same", func(e *relay.Event) { e.Data = fmt.Appendf(nil, `{"n":%d}`, i%2) })
			results, err := w.PublishEvents(t.Context(), crm, []relay.Event{ev, ev})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range results {
				switch {
				case errors.Is(r.Err, ErrExists):
					conflicts++
				case r.Err != nil:
					t.Error(r.Err)
				case r.Duplicate:
					repeats++
				default:
					first++
				}
			}
		})
	}
	wg.Wait()
	if first != 1 || repeats != 15 || conflicts != 16 {
		t.Errorf("%d kept, %d repeats, %d conflicts", first, repeats, conflicts)
	}
}

func TestPublishIsNotOKWithoutSync(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.caller("crm", access.Publisher, "acme")
	w.broken.Store(true)
	if r := w.publish(crm, event("a"))[0]; !errors.Is(r.Err, ErrUnavailable) {
		t.Errorf("answered %+v", r)
	}
}

func TestPublishRefusesWhenFullOrBusy(t *testing.T) {
	t.Parallel()
	full := newWorld(t, func(_ *Options, jo *journal.Options) { jo.MinFreeDisk = 1 << 62 })
	if r := full.publish(full.caller("crm", access.Publisher, "acme"), event("a"))[0]; !errors.Is(r.Err, ErrFull) {
		t.Errorf("without room: %+v", r)
	}
	busy := newWorld(t, func(_ *Options, jo *journal.Options) { jo.MaxUncommittedBytes = 200 })
	refused := 0
	for i, r := range busy.publish(busy.caller("crm", access.Publisher, "acme"), event("a"), event("b"), event("c"), event("d")) {
		var b *BusyError
		switch {
		case errors.As(r.Err, &b) && b.RetryAfter > 0:
			refused++
		case r.Err != nil:
			t.Errorf("%d: %v", i, r.Err)
		}
	}
	if refused == 0 || refused == 4 {
		t.Errorf("%d of 4 were refused", refused)
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, crm := w.caller("ann", access.Partner, "acme"), w.caller("crm", access.Publisher, "acme")
	gets := w.active(ann, func(s *Spec) { s.Redaction.Drop = []string{"ssn"} })
	not := w.active(ann, func(s *Spec) { s.Filter = "event.data.n > 5" })
	fails := w.active(ann, func(s *Spec) { s.Filter = "event.data.missing > 5" })
	w.active(ann, func(s *Spec) { s.EventTypes = []string{"deal.*"} })
	pending := w.create(ann)
	_, previews, err := w.PreviewEvent(t.Context(), crm, event("a", func(e *relay.Event) { e.Data = []byte(`{"n":1,"ssn":"078-05-1120"}`) }))
	if err != nil || len(previews) != 4 {
		t.Fatalf("%+v, %v", previews, err)
	}
	for _, p := range previews {
		want := map[string]PreviewOutcome{
			gets.ID: PreviewDelivery, not.ID: PreviewUnmatched, fails.ID: PreviewWithheld, pending.ID: PreviewUnmatched,
		}[p.EndpointID]
		if p.Outcome != want {
			t.Errorf("%s: %s (%s), want %s", p.EndpointID, p.Outcome, p.Reason, want)
		}
		if p.Outcome == PreviewDelivery && (string(p.Data) != `{"n":1}` || p.Redacted != 1) {
			t.Errorf("would leave: %s, %d", p.Data, p.Redacted)
		}
	}
	st, err := w.journal.Events(0).State(t.Context())
	if err != nil || st.Last != 0 {
		t.Errorf("a preview was kept: %+v, %v", st, err)
	}
}

func TestGetEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.caller("crm", access.Publisher, "acme")
	w.publish(crm, event("a"))
	w.view.events = []relay.EventStatus{
		{Tenant: "acme", ID: "a", Seq: 1, Matched: true}, {Tenant: "acme", ID: "trimmed", Seq: 99}, {Tenant: "acme", ID: "lost", Seq: 1},
	}
	got, err := w.GetEvent(t.Context(), crm, "", "a")
	if err != nil || string(got.Data) != `{"n":1}` || !got.Matched || got.Subject != "contact/42" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, id := range []string{"trimmed", "lost"} { // another event stands where the view says this one does
		if got, err := w.GetEvent(t.Context(), crm, "", id); err != nil || got.Data != nil || got.ID != id {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
	if _, err := w.GetEvent(t.Context(), crm, "", "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if trail := strings.Join(w.trail(), ", "); !strings.HasPrefix(trail, "event.read ALLOWED, event.read DONE") {
		t.Errorf("audit: %s", trail)
	}
}
