package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/test/rig"
)

func event(id, data string) *sealpostv1.Event {
	return &sealpostv1.Event{Tenant: "acme", Id: id, Type: "contact.updated", Subject: "contact/42", Data: []byte(data),
		Time: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
}

// TestPublish publishes over each way there is and finds every event delivered once, its data as it was written.
func TestPublish(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, nil)
		ep := p.Register(partner.URL, rig.Object{"contentMode": "data"})
		const data = `{"z":1.50,"big":12345678901234567890123,"a":"Zoë \u00e9 漢字","nested":[{"k":null},{}],"e":1E+2}`
		want := map[string]bool{}

		if a := p.Publish(rig.Event("rest", data)); a.S("id") != "rest" || a["duplicate"] != false {
			t.Errorf("REST: %v", a)
		}
		want["rest"] = true

		events := sealpostv1.NewEventServiceClient(p.Conn())
		unary, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event("unary", data)})
		if err != nil || unary.Id != "unary" || unary.Duplicate {
			t.Errorf("unary: %v %v", unary, err)
		}
		want["unary"] = true

		assigned, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event("", data)})
		if err != nil || !relay.ValidEventID(assigned.GetId()) {
			t.Errorf("an event without id: %v %v", assigned, err)
		}
		want[assigned.GetId()] = true

		batch := &sealpostv1.BatchPublishEventsRequest{}
		for i := range 50 {
			id := fmt.Sprintf("batch-%d", i)
			e := event(id, data)
			if i == 25 {
				e.Data = []byte(`{"a":1,"a":2}`)
			} else {
				want[id] = true
			}
			batch.Events = append(batch.Events, e)
		}
		answer, err := events.BatchPublishEvents(t.Context(), batch)
		if err != nil || len(answer.Results) != 50 {
			t.Fatalf("batch: %v %v", answer, err)
		}
		for i, r := range answer.Results {
			if i == 25 {
				if r.Error == nil || codes.Code(r.Error.Code) != codes.InvalidArgument {
					t.Errorf("the bad event of a batch: %v", r)
				}
			} else if r.Error != nil || r.Id != fmt.Sprintf("batch-%d", i) {
				t.Errorf("a good neighbour of a bad event, %d: %v", i, r)
			}
		}

		stream(t, events, 200, func(i int) *sealpostv1.Event {
			id := fmt.Sprintf("stream-%d", i)
			if i == 100 {
				return event("no.dots.here", data)
			}
			want[id] = true
			return event(id, data)
		}, func(r *sealpostv1.PublishEventsResponse) {
			if bad := r.Number == 100; bad != (r.Result.GetError() != nil) {
				t.Errorf("stream: %v", r)
			}
		})

		cloud := `{"specversion":"1.0","id":"cloud","source":"/crm/acme","type":"Contact.Updated","time":"2026-01-02T03:04:05Z","subject":"contact/42","datacontenttype":"application/json","data":` + data + `}`
		a, err := p.Send("POST", "/v1/events", "application/cloudevents+json", []byte(cloud))
		if err != nil || a.Status != http.StatusOK || a.S("id") != "cloud" {
			t.Errorf("CloudEvents: %v %d %s", err, a.Status, a.Raw)
		}
		want["cloud"] = true

		preview := p.OK("POST", "/v1/events?validateOnly=true", rig.Event("never", data))
		if n := len(preview.L("preview", "endpoints")); n != 1 || preview.L("preview", "endpoints")[0].S("outcome") != "DELIVERY" {
			t.Errorf("validateOnly: %v", preview)
		}

		delivered := p.AwaitCount("tenant=acme&state=DELIVERED", len(want))
		for _, d := range delivered {
			if !want[d.S("eventId")] {
				t.Errorf("delivered, but never accepted: %v", d.S("eventId"))
			}
			if d.S("endpointId") != ep.ID {
				t.Errorf("delivered elsewhere: %v", d)
			}
		}
		once := map[string]bool{}
		for _, r := range partner.Receipts() {
			if once[r.ID()] {
				t.Errorf("received twice: %s", r.ID())
			}
			once[r.ID()] = true
			if !sameJSON(r.Body, data) {
				t.Fatalf("received\n%s, published\n%s", r.Body, data)
			}
		}
		if len(once) != len(want) {
			t.Errorf("%d deliveries were received, %d accepted", len(once), len(want))
		}
		if a := p.Do("GET", "/v1/events/never?tenant=acme", nil); a.Status != http.StatusNotFound {
			t.Errorf("an event that was only validated is kept: %d %s", a.Status, a.Raw)
		}
		if got := p.OK("GET", "/v1/events/rest?tenant=acme", nil); got["matched"] != true || got.S("type") != "contact.updated" {
			t.Errorf("GetEvent: %v", got)
		}
	})
}

// sameJSON tells whether two texts are the same JSON but for whitespace: order, numbers and escapes as they were.
func sameJSON(got []byte, want string) bool {
	var a, b bytes.Buffer
	return json.Compact(&a, got) == nil && json.Compact(&b, []byte(want)) == nil && a.String() == b.String()
}

// stream publishes n events over one stream and hands on every answer.
func stream(t *testing.T, events sealpostv1.EventServiceClient, n int, make func(int) *sealpostv1.Event, answered func(*sealpostv1.PublishEventsResponse)) {
	t.Helper()
	s, err := events.PublishEvents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range n {
			if s.Send(&sealpostv1.PublishEventsRequest{Number: uint64(i), Event: make(i)}) != nil {
				return
			}
		}
		s.CloseSend()
	}()
	numbers := map[uint64]bool{}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("stream: %v", err)
		}
		numbers[r.Number] = true
		answered(r)
	}
	if len(numbers) != n {
		t.Errorf("%d of %d events of a stream were answered", len(numbers), n)
	}
}

// TestIdempotent repeats events in every way a publisher may: the first answer stands, and one delivery is made.
func TestIdempotent(t *testing.T) {
	t.Parallel()
	eachView(t, func(t *testing.T, view rig.Config) {
		p := start(t, view)
		partner := rig.NewPartner(t, nil, nil)
		p.Register(partner.URL, nil)
		events := sealpostv1.NewEventServiceClient(p.Conn())

		first := p.Publish(rig.Event("again", `{"v":1}`))
		second := p.Publish(rig.Event("again", `{"v":1}`))
		if first["duplicate"] != false || second["duplicate"] != true {
			t.Errorf("repeat: %v, %v", first, second)
		}
		other := p.Do("POST", "/v1/events", rig.Event("again", `{"v":2}`))
		if other.Status != http.StatusConflict || other.N("code") != int(codes.AlreadyExists) {
			t.Errorf("other content under the same id: %d %s", other.Status, other.Raw)
		}

		// Repeats that race the first one.
		const racers, ids = 32, 20
		var mu sync.Mutex
		fresh := map[string]int{}
		var wg sync.WaitGroup
		for range racers {
			wg.Go(func() {
				for i := range ids {
					id := fmt.Sprintf("race-%d", i)
					r, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event(id, `{"race":true}`)})
					if err != nil {
						t.Errorf("race: %v", err)
						return
					}
					if !r.Duplicate {
						mu.Lock()
						fresh[id]++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		for i := range ids {
			if id := fmt.Sprintf("race-%d", i); fresh[id] != 1 {
				t.Errorf("%s was new for %d callers", id, fresh[id])
			}
		}

		// Twice in one batch, and once more with other content.
		answer, err := events.BatchPublishEvents(t.Context(), &sealpostv1.BatchPublishEventsRequest{Events: []*sealpostv1.Event{
			event("twin", `{"v":1}`), event("twin", `{"v":1}`), event("twin", `{"v":2}`), event("single", `{"v":1}`),
		}})
		if err != nil {
			t.Fatal(err)
		}
		r := answer.Results
		if r[0].Error != nil || r[0].GetDuplicate() || r[1].Error != nil || !r[1].GetDuplicate() ||
			codes.Code(r[2].GetError().GetCode()) != codes.AlreadyExists || r[3].Error != nil {
			t.Errorf("twins in a batch: %v", r)
		}

		// Other content that races: one wins, the others are told.
		var won, lost int
		for i := range racers {
			wg.Go(func() {
				_, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event("contested", fmt.Sprintf(`{"v":%d}`, i))})
				mu.Lock()
				defer mu.Unlock()
				switch status.Code(err) {
				case codes.OK:
					won++
				case codes.AlreadyExists:
					lost++
				default:
					t.Errorf("contested: %v", err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != racers-1 {
			t.Errorf("contested: %d won, %d lost", won, lost)
		}

		total := 1 + ids + 2 + 1
		p.AwaitCount("tenant=acme&state=DELIVERED", total)
		p.Stop()
		p.Restart(nil)
		if again := p.Publish(rig.Event("again", `{"v":1}`)); again["duplicate"] != true {
			t.Errorf("a repeat after a restart: %v", again)
		}
		if other := p.Do("POST", "/v1/events", rig.Event("again", `{"v":3}`)); other.Status != http.StatusConflict {
			t.Errorf("other content after a restart: %d %s", other.Status, other.Raw)
		}
		p.Kill()
		p.Restart(nil)
		if again := p.Publish(rig.Event("twin", `{"v":1}`)); again["duplicate"] != true {
			t.Errorf("a repeat after a kill: %v", again)
		}
		p.Publish(rig.Event("last", `{}`))
		p.AwaitCount("tenant=acme&state=DELIVERED", total+1)
		if n := partner.Count(); n != total+1 {
			t.Errorf("%d requests for %d deliveries", n, total+1)
		}
	})
}

// TestTenantsShareNoIDs publishes one id in two tenants.
func TestTenantsShareNoIDs(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	p.Publish(rig.Event("same", `{"of":"acme"}`))
	e := rig.Event("same", `{"of":"globex"}`)
	e["tenant"] = "globex"
	if a := p.Publish(e); a["duplicate"] != false {
		t.Errorf("an id of another tenant is taken: %v", a)
	}
	p.AwaitCount("tenant=acme&state=DELIVERED", 1)
	rig.Eventually(t, "the other tenant's event is routed", func() bool {
		a := p.Do("GET", "/v1/events/same?tenant=globex", nil)
		return a.Status == http.StatusOK && a.Object["matched"] == false
	})
	if got := partner.Receipts(); len(got) != 1 || !strings.Contains(string(got[0].Body), `"of":"acme"`) {
		t.Errorf("the endpoint of acme got %v", got)
	}
}

// TestBackPressure floods a relay that holds little uncommitted: it refuses with a hint, and loses nothing that it accepted.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	p := start(t, rig.Config{"journal": rig.Config{"minFreeDisk": -1, "maxUncommittedBytes": 64 << 10}})
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	conn := p.Conn()
	events := sealpostv1.NewEventServiceClient(conn)
	data := `{"pad":"` + strings.Repeat("x", 8<<10) + `"}`
	var mu sync.Mutex
	accepted, refused := map[string]bool{}, 0
	var wg sync.WaitGroup
	for w := range 48 {
		wg.Go(func() {
			for i := range 20 {
				id := fmt.Sprintf("flood-%d-%d", w, i)
				_, err := events.PublishEvent(t.Context(), &sealpostv1.PublishEventRequest{Event: event(id, data)})
				mu.Lock()
				switch status.Code(err) {
				case codes.OK:
					accepted[id] = true
				case codes.ResourceExhausted:
					refused++
					if len(status.Convert(err).Details()) == 0 {
						t.Errorf("a refusal without a hint: %v", err)
					}
				default:
					t.Errorf("publish: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	var told sync.Once
	hinted := make(chan string, 1)
	for range 16 {
		wg.Go(func() {
			for i := range 30 {
				a, err := p.Send("POST", "/v1/events", "application/json", []byte(fmt.Sprintf(`{"tenant":"acme","type":"deal.lost","data":{"i":%d,"pad":%q}}`, i, data)))
				if err == nil && a.Status == http.StatusTooManyRequests {
					told.Do(func() { hinted <- a.Header.Get("Retry-After") })
				}
			}
		})
	}
	wg.Wait()
	if refused == 0 || len(accepted) == 0 {
		t.Fatalf("%d accepted, %d refused: the bound was not felt", len(accepted), refused)
	}
	select {
	case hint := <-hinted:
		if hint == "" {
			t.Error("429 without Retry-After")
		}
	default:
		t.Error("no caller of REST was refused with 429")
	}
	for _, d := range p.AwaitCount("tenant=acme&state=DELIVERED", len(accepted)) {
		if !accepted[d.S("eventId")] {
			t.Errorf("%s was refused and delivered", d.S("eventId"))
		}
	}
	t.Logf("%d accepted, %d refused", len(accepted), refused)
}

// TestClient publishes with the Go client against a relay that is killed under it: with the same ids, nothing is lost or doubled.
func TestClient(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	p.Register(partner.URL, nil)
	c, err := client.New(client.Options{Target: p.GRPC, Token: p.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	publisher := c.NewPublisher(client.PublisherOptions{})
	const n = 2000
	var mu sync.Mutex
	failed := map[string]error{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	published := make(chan error, 1)
	go func() {
		for i := range n {
			e := relay.Event{Tenant: "acme", ID: fmt.Sprintf("c-%d", i), Type: "contact.updated", Data: []byte(`{"n":1}`), Time: time.Unix(1767323045, 0)}
			err := publisher.Publish(ctx, e, func(_ client.Receipt, err error) {
				if err != nil {
					mu.Lock()
					failed[e.ID] = err
					mu.Unlock()
				}
			})
			if err != nil {
				published <- err
				return
			}
		}
		published <- publisher.Close(ctx)
	}()
	partner.Await(t, n/10)
	p.Kill()
	p.Restart(nil)
	if err := <-published; err != nil {
		t.Fatalf("publish: %v", err)
	}
	for id, err := range failed {
		t.Errorf("%s: %v", id, err)
	}
	p.AwaitCount("tenant=acme&state=DELIVERED", n)
}

// TestHealthAndReflection asks the open services, without a token.
func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	p := start(t)
	conn := p.As("").Conn()
	h, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", h, err)
	}
	s, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err == nil {
		err = s.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil || !strings.Contains(r.String(), "sealpost.v1.EventService") {
		t.Errorf("reflection: %v %v", r, err)
	}
	if a := p.As("").Do("GET", "/openapi.json", nil); a.Status != http.StatusOK || a.O("paths", "/v1/events") == nil {
		t.Errorf("openapi.json: %d", a.Status)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + p.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
