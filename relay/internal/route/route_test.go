package route

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type world struct {
	testing.TB
	root     *keys.Root
	bucket   *journal.Bucket
	registry *registry.Registry
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	root, err := keys.NewRoot(bytes.Repeat([]byte{1}, keys.Size))
	if err != nil {
		tb.Fatal(err)
	}
	j, err := journal.Open(tb.Context(), journal.Options{Dir: tb.TempDir(), MinFreeDisk: -1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { j.Close(context.Background()) })
	w := &world{TB: tb, root: root}
	if w.bucket, err = j.Bucket(tb.Context(), registry.BucketName); err != nil {
		tb.Fatal(err)
	}
	if w.registry, err = registry.Open(tb.Context(), w.bucket, root, registry.Options{}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.registry.Close)
	return w
}

func (w *world) endpoint(id string, change ...func(*registry.Record)) *registry.Endpoint {
	w.Helper()
	r := &registry.Record{
		ID: id, Tenant: "acme", State: relay.EndpointActive, CreateTime: start, UpdateTime: start, ApproveTime: start,
		Settings: registry.Settings{
			URL: "https://hooks.partner.example/", EventTypes: []string{"contact.*"}, Scheme: signer.Standard,
			Redaction: relay.Redaction{Mode: relay.RedactionNone}, Concurrency: 1, RetryFor: relay.DefaultRetryFor,
		},
	}
	for _, f := range change {
		f(r)
	}
	key, err := signer.GenerateKey(signer.Standard)
	if err != nil {
		w.Fatal(err)
	}
	sealed, err := registry.NewVault(w.root, r.Tenant, id).Key(key, start)
	if err != nil {
		w.Fatal(err)
	}
	r.Keys = []registry.Key{sealed}
	ep, err := w.registry.Create(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	return ep
}

func event(eventType, data string) *relay.Event {
	return &relay.Event{
		Tenant: "acme", ID: "evt_1", Type: eventType, Time: start, Subject: "contact/42", Data: []byte(data),
		Seq: 7, AcceptTime: start.Add(time.Minute),
	}
}

func types(t ...string) func(*registry.Record) {
	return func(r *registry.Record) { r.Settings.EventTypes = t }
}

func filtered(f string) func(*registry.Record) {
	return func(r *registry.Record) { r.Settings.Filter = f }
}

func policy(p relay.Redaction) func(*registry.Record) {
	return func(r *registry.Record) { r.Settings.Redaction = p }
}

func inState(s relay.EndpointState) func(*registry.Record) {
	return func(r *registry.Record) { r.State = s }
}

// said is what a result says, but for its delivery's identity.
func said(r Routed) string {
	switch r.Kind {
	case Send:
		return fmt.Sprintf("send %s %s", r.Delivery.Data, r.Delivery.Subject)
	case Withhold:
		return "withhold " + string(r.Reason)
	case Later:
		return "later"
	}
	return "skip"
}

func handle(w *world, ev *relay.Event) map[string]string {
	w.Helper()
	out := map[string]string{}
	for r := range Handle(ev, w.registry.Snapshot(), nil) {
		id := r.Endpoint.ID
		if _, twice := out[id]; twice {
			w.Errorf("%s comes twice", id)
		}
		out[id] = said(r)
		d := r.Delivery
		if d.ID != relay.DeliveryID("acme", "evt_1", id) || d.Endpoint != r.Endpoint.Endpoint || d.EventID != "evt_1" || d.EventType != ev.Type ||
			!d.EventTime.Equal(ev.Time) || d.Seq != 7 || !d.AcceptTime.Equal(ev.AcceptTime) || d.Attempts != 0 {
			w.Errorf("%s is not identified: %+v", id, d)
		}
		if r.Kind == Withhold && (d.Data != nil || d.Subject != "" || r.Detail == "") {
			w.Errorf("%s is withheld with content, or without a word: %+v", id, r)
		}
		// A retry of it is decided alike.
		again := One(ev, r.Endpoint)
		if said(again) != said(r) || again.Reason != r.Reason || again.Redacted != r.Redacted || !reflect.DeepEqual(again.Delivery, r.Delivery) {
			w.Errorf("One says %s, Handle %s", said(again), said(r))
		}
	}
	leftForLater(w, ev, out)
	for _, ep := range w.registry.Snapshot().ByID() {
		if _, there := out[ep.ID]; !there && ep.State != relay.EndpointPending && ep.State != relay.EndpointUnverified && !ev.AcceptTime.Before(ep.CreateTime) {
			if again := One(ev, ep); again.Kind != Skip || again.Delivery.Data != nil {
				w.Errorf("Handle leaves %s out, One says %s", ep.ID, said(again))
			}
		}
	}
	return out
}

// leftForLater: endpoints that are behind are named without content, but where a filter has to say whether they are.
func leftForLater(w *world, ev *relay.Event, now map[string]string) {
	n := 0
	for r := range Handle(ev, w.registry.Snapshot(), func(string) bool { return true }) {
		n++
		want := "later"
		if r.Endpoint.Filter != nil || r.Endpoint.Err != nil {
			want = now[r.Endpoint.ID]
		}
		if _, there := now[r.Endpoint.ID]; said(r) != want || !there {
			w.Errorf("%s is behind: %s, want %s", r.Endpoint.ID, said(r), want)
		}
		if d := r.Delivery; r.Kind == Later && (d.Data != nil || d.Subject != "" || d.ID != relay.DeliveryID("acme", "evt_1", r.Endpoint.ID)) {
			w.Errorf("%s is left for later with content, or without its name: %+v", r.Endpoint.ID, d)
		}
	}
	if n != len(now) {
		w.Errorf("%d endpoints when behind, %d when not", n, len(now))
	}
}

const whole = `{"n":1,"ssn":"1-2-3","email":"a@b.example"}`

func TestHandle(t *testing.T) {
	t.Parallel()
	sent := "send " + whole + " contact/42"
	for name, c := range map[string]struct {
		change []func(*registry.Record)
		event  *relay.Event
		want   string // empty: not among the results
	}{
		"exact type":            {[]func(*registry.Record){types("contact.updated")}, event("contact.updated", whole), sent},
		"another type":          {[]func(*registry.Record){types("contact.updated")}, event("contact.created", whole), ""},
		"a type's beginning":    {[]func(*registry.Record){types("contact.updated")}, event("contact.updated.twice", whole), ""},
		"pattern":               {nil, event("contact.updated.twice", whole), sent},
		"pattern, not itself":   {nil, event("contact", whole), ""},
		"pattern, no dot":       {nil, event("contacts.updated", whole), ""},
		"everything":            {[]func(*registry.Record){types("*")}, event("deal.won", whole), sent},
		"patterns that overlap": {[]func(*registry.Record){types("*", "contact.*", "contact.updated")}, event("contact.updated", whole), sent},
		"another tenant's":      {[]func(*registry.Record){func(r *registry.Record) { r.Tenant = "other" }}, event("contact.updated", whole), ""},

		"paused":     {[]func(*registry.Record){inState(relay.EndpointPaused)}, event("contact.updated", whole), sent},
		"suspended":  {[]func(*registry.Record){inState(relay.EndpointSuspended)}, event("contact.updated", whole), sent},
		"contained":  {[]func(*registry.Record){inState(relay.EndpointContained)}, event("contact.updated", whole), sent},
		"pending":    {[]func(*registry.Record){inState(relay.EndpointPending)}, event("contact.updated", whole), ""},
		"unverified": {[]func(*registry.Record){inState(relay.EndpointUnverified)}, event("contact.updated", whole), ""},
		"deleted":    {[]func(*registry.Record){inState(relay.EndpointDeleted)}, event("contact.updated", whole), ""},
		"made later": {[]func(*registry.Record){func(r *registry.Record) { r.CreateTime = start.Add(time.Hour) }}, event("contact.updated", whole), ""},
		"made then":  {[]func(*registry.Record){func(r *registry.Record) { r.CreateTime = start.Add(time.Minute) }}, event("contact.updated", whole), sent},

		"filter holds":          {[]func(*registry.Record){filtered("event.data.n == 1")}, event("contact.updated", whole), sent},
		"filter does not":       {[]func(*registry.Record){filtered("event.data.n == 2")}, event("contact.updated", whole), ""},
		"filter fails":          {[]func(*registry.Record){filtered("event.data.n.deeper == 1")}, event("contact.updated", whole), "withhold FILTER_FAILED"},
		"filter misses a field": {[]func(*registry.Record){filtered("event.data.gone == 1")}, event("contact.updated", whole), "withhold FILTER_FAILED"},
		"policy fails":          {[]func(*registry.Record){policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"ssn"}})}, event("contact.updated", `{"n":`), "withhold REDACTION_FAILED"},

		"dropped": {[]func(*registry.Record){policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"ssn"}})},
			event("contact.updated", whole), `send {"n":1,"email":"a@b.example"} contact/42`},
		"only what is allowed": {[]func(*registry.Record){policy(relay.Redaction{Mode: relay.RedactionAllowListed, Allow: []string{"n"}})},
			event("contact.updated", whole), `send {"n":1} `},
		"the subject dropped": {[]func(*registry.Record){policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"$subject"}})},
			event("contact.updated", whole), "send " + whole + " "},
		"a filter sees no dropped field": {[]func(*registry.Record){
			policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"ssn"}}), filtered("has(event.data.ssn)")},
			event("contact.updated", whole), ""},
		"a filter that needs a dropped field": {[]func(*registry.Record){
			policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"ssn"}}), filtered("event.data.ssn == '1-2-3'")},
			event("contact.updated", whole), "withhold FILTER_FAILED"},
		"a filter sees a masked field masked": {[]func(*registry.Record){
			policy(relay.Redaction{Mode: relay.RedactionDenyListed, Mask: []relay.Mask{{Path: "ssn", KeepLast: 1}}}), filtered("event.data.ssn == '1-2-3'")},
			event("contact.updated", whole), ""},
		"a filter sees no dropped subject": {[]func(*registry.Record){
			policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"$subject"}}), filtered("event.subject == 'contact/42'")},
			event("contact.updated", whole), "withhold FILTER_FAILED"},
		"an endpoint that cannot be compiled": {[]func(*registry.Record){filtered("event.data.(")}, event("contact.updated", whole), "send  "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.endpoint("ep", c.change...)
			if got := handle(w, c.event)["ep"]; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Endpoints of one policy share one body; nothing of it differs from what each would get alone.
func TestSharedBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 24 {
		// Six policies, so that some fall out of what is remembered.
		w.endpoint(fmt.Sprintf("ep_%02d", i), policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{fmt.Sprint("f", i%6)}}))
	}
	w.endpoint("ep_other", func(r *registry.Record) { r.Tenant = "other" })
	data := `{"f0":0,"f1":1,"f2":2,"f3":3,"f4":4,"f5":5}`
	ev := event("contact.updated", data)
	bodies := map[int][][]byte{}
	n := 0
	for r := range Handle(ev, w.registry.Snapshot(), nil) {
		n++
		var i int
		if _, err := fmt.Sscanf(r.Endpoint.ID, "ep_%d", &i); err != nil {
			t.Fatal(err)
		}
		dropped := strings.Replace(strings.Replace(data, fmt.Sprintf(`"f%d":%d`, i%6, i%6), "", 1), "{,", "{", 1)
		dropped = strings.Replace(strings.Replace(dropped, ",,", ",", 1), ",}", "}", 1)
		if string(r.Delivery.Data) != dropped || r.Redacted != 1 {
			t.Errorf("%s got %s", r.Endpoint.ID, r.Delivery.Data)
		}
		bodies[i%6] = append(bodies[i%6], r.Delivery.Data)
	}
	if n != 24 || string(ev.Data) != data {
		t.Errorf("%d deliveries; the event is now %s", n, ev.Data)
	}

	same := newWorld(t)
	for i := range 3 {
		same.endpoint(fmt.Sprint("ep_", i), policy(relay.Redaction{Mode: relay.RedactionDenyListed, Drop: []string{"f1"}}))
	}
	var first []byte
	for r := range Handle(ev, same.registry.Snapshot(), nil) {
		if first == nil {
			first = r.Delivery.Data
		}
		if &first[0] != &r.Delivery.Data[0] {
			t.Error("endpoints of one policy have a body each")
		}
	}
}

// A reader that has enough gets no more.
func TestStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 3 {
		w.endpoint(fmt.Sprint("ep_", i))
	}
	n := 0
	for range Handle(event("contact.updated", whole), w.registry.Snapshot(), nil) {
		n++
		break
	}
	if n != 1 {
		t.Error(n)
	}
}

// What one step does to one endpoint's delivery, however badly, is no other's matter.
func TestPanicWithholds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	well := w.endpoint("ep_well")
	broken := *well
	broken.Redact = nil // as no registry makes it: the step dereferences nothing
	ev := event("contact.updated", `{"secret":"recognisable"}`)
	r := One(ev, &broken)
	if r.Kind != Withhold || r.Reason != relay.ReasonPanicked || r.Delivery.Data != nil || r.Delivery.ID != relay.DeliveryID("acme", "evt_1", "ep_well") {
		t.Errorf("%+v", r)
	}
	if strings.Contains(r.Detail, "recognisable") || r.Detail == "" {
		t.Errorf("detail: %s", r.Detail)
	}
	if r := One(ev, well); r.Kind != Send {
		t.Errorf("%+v", r)
	}
}

// An endpoint whose record cannot be read keeps its deliveries: nobody knows what it wants.
func TestUnreadableRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.endpoint("ep")
	if _, err := w.bucket.Put(t.Context(), "endpoint/ep", []byte("no record")); err != nil {
		t.Fatal(err)
	}
	for s := range w.registry.Updates(t.Context()) {
		ep := s.Endpoint("ep")
		if ep.Err == nil {
			continue
		}
		if r := One(event("contact.updated", whole), ep); r.Kind != Send || r.Delivery.Data != nil || ep.Sendable() {
			t.Errorf("%s, sendable %v", said(r), ep.Sendable())
		}
		break
	}
}

// What is handed on is what the policy left, as valid JSON, for every path it may take.
func TestNothingRemovedLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	modes := []relay.Redaction{
		{Mode: relay.RedactionDenyListed, Drop: []string{"**.secret"}},
		{Mode: relay.RedactionAllowListed, Allow: []string{"public"}},
		{Mode: relay.RedactionDenyListed, Mask: []relay.Mask{{Path: "**.secret"}}},
		{Mode: relay.RedactionDenyListed, Pseudonymize: []string{"**.secret"}},
	}
	for i, m := range modes {
		w.endpoint(fmt.Sprint("ep_", i), policy(m))
		w.endpoint(fmt.Sprint("ep_f", i), policy(m), filtered("has(event.data.public)"))
	}
	n := 0
	for r := range Handle(event("contact.updated", `{"public":1,"secret":"recognisable","list":[{"secret":"recognisable"}]}`), w.registry.Snapshot(), nil) {
		n++
		if r.Kind != Send || bytes.Contains(r.Delivery.Data, []byte("recognisable")) || !json.Valid(r.Delivery.Data) || r.Redacted == 0 {
			t.Errorf("%s: %s, %d redacted", r.Endpoint.ID, said(r), r.Redacted)
		}
	}
	if n != 2*len(modes) {
		t.Errorf("%d results", n)
	}
}

func BenchmarkHandle(b *testing.B) {
	fields := []string{`"name":"Anna Example","email":"anna@example.com","phone":"+49 30 1234567","ssn":"123-45-6789"`}
	for i := range 24 {
		fields = append(fields, fmt.Sprintf(`"field_%02d":"value number %d of this contact"`, i, i))
	}
	ev := event("contact.updated", "{"+strings.Join(fields, ",")+"}")
	for _, n := range []int{1, 10, 200} {
		for name, p := range map[string]relay.Redaction{
			"plain":    {Mode: relay.RedactionNone},
			"redacted": {Mode: relay.RedactionDenyListed, Drop: []string{"**.ssn"}, Mask: []relay.Mask{{Path: "phone", KeepLast: 4}}, Pseudonymize: []string{"email"}},
		} {
			w := newWorld(b)
			for i := range n {
				w.endpoint(fmt.Sprint("ep_", i), policy(p))
			}
			snapshot := w.registry.Snapshot()
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(ev.Data)))
				for b.Loop() {
					got := 0
					for range Handle(ev, snapshot, nil) {
						got++
					}
					if got != n {
						b.Fatal(got)
					}
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
			})
		}
	}
}
