package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

func someEvent(id string) *sealpostv1.Event {
	return &sealpostv1.Event{Tenant: "acme", Id: id, Type: "contact.updated", Data: []byte(`{"a":1}`)}
}

// Each error of the door, over gRPC: the code, the text and the details.
func TestErrorsOverGRPC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		err   error
		code  codes.Code
		text  string
		field string
		retry time.Duration
	}{
		{"invalid", relay.Invalid{{Field: "redaction.mask[0].path", Rule: "is no path"}}, codes.InvalidArgument, "redaction.mask[0].path: is no path", "redaction.mask[0].path", 0},
		{"not found", control.ErrNotFound, codes.NotFound, "not found", "", 0},
		{"exists", control.ErrExists, codes.AlreadyExists, "already exists with other content", "", 0},
		{"forbidden", &control.ForbiddenError{Scope: access.EventsPublish, Reason: "no such scope"}, codes.PermissionDenied, "not permitted: no such scope (scope events.publish)", "", 0},
		{"busy", &control.BusyError{RetryAfter: 1200 * time.Millisecond}, codes.ResourceExhausted, "busy", "", 1200 * time.Millisecond},
		{"full", fmt.Errorf("%w: 3 bytes left", control.ErrFull), codes.ResourceExhausted, "storage is full", "", time.Second},
		{"state", &control.StateError{Act: "pause", State: "DELETED", Reason: "x"}, codes.FailedPrecondition, "cannot pause in state DELETED: x", "", 0},
		{"stale", control.ErrStale, codes.Aborted, "has changed since: the etag is not the latest", "", 0},
		{"unavailable", fmt.Errorf("%w: dial 10.0.0.1", control.ErrUnavailable), codes.Unavailable, "unavailable", "", time.Second},
		{"expired", access.ErrExpired, codes.Unauthenticated, "the token has expired", "", 0},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "out of time", "", 0},
		{"unknown", errors.New("disk sda1"), codes.Internal, "internal error", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, newDoor(), nil)
			f.door.failing(tt.err)
			ctx := as(t.Context(), "good")
			_, unary := sealpostv1.NewEventServiceClient(f.conn).PublishEvent(ctx, &sealpostv1.PublishEventRequest{Event: someEvent("a")})
			watch, err := sealpostv1.NewDeliveryServiceClient(f.conn).WatchDeliveries(ctx, &sealpostv1.WatchDeliveriesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, streamed := watch.Recv()
			for _, err := range []error{unary, streamed} {
				s := status.Convert(err)
				if s.Code() != tt.code || s.Message() != tt.text {
					t.Errorf("%v %q, want %v %q", s.Code(), s.Message(), tt.code, tt.text)
				}
				var field string
				var retry time.Duration
				for _, d := range s.Details() {
					switch d := d.(type) {
					case *errdetails.BadRequest:
						field = d.GetFieldViolations()[0].GetField()
					case *errdetails.RetryInfo:
						retry = d.GetRetryDelay().AsDuration()
					}
				}
				if field != tt.field || retry != tt.retry {
					t.Errorf("field %q, retry %v; want %q, %v", field, retry, tt.field, tt.retry)
				}
			}
		})
	}
}

func TestAuthenticationOverGRPC(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	for _, md := range []metadata.MD{
		nil,
		metadata.Pairs("authorization", "Bearer expired"),
		metadata.Pairs("authorization", "Bearer wrong"),
		metadata.Pairs("authorization", "Basic good"),
		metadata.Pairs("authorization", "Bearer good", "authorization", "Bearer good"),
		metadata.Pairs("grpcgateway-authorization", "Bearer good"),
	} {
		ctx := metadata.NewOutgoingContext(t.Context(), md)
		_, err := sealpostv1.NewEndpointServiceClient(f.conn).GetEndpoint(ctx, &sealpostv1.GetEndpointRequest{Id: "ep_1"})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v: unary: %v", md, err)
		}
		stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v: stream: %v", md, err)
		}
	}
	if len(f.door.calls) != 0 {
		t.Errorf("the door was reached: %v", f.door.calls)
	}
	// Health and reflection are for anybody.
	h, err := grpc_health_v1.NewHealthClient(f.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	r, err := grpc_reflection_v1.NewServerReflectionClient(f.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	list, err := r.Recv()
	if err != nil || !strings.Contains(list.String(), "sealpost.v1.EventService") {
		t.Errorf("reflection: %v, %v", list, err)
	}
}

func TestPublishOverGRPC(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	ctx := as(t.Context(), "good")
	events := sealpostv1.NewEventServiceClient(f.conn)
	data := []byte("{ \"z\":1,\n\"a\":1e400}")
	for _, duplicate := range []bool{false, true} {
		r, err := events.PublishEvent(ctx, &sealpostv1.PublishEventRequest{Event: &sealpostv1.Event{Tenant: "acme", Id: "e", Type: "a.b", Data: data}})
		if err != nil || r.GetId() != "e" || r.GetDuplicate() != duplicate {
			t.Errorf("%v, %v", r, err)
		}
	}
	if got, err := events.GetEvent(ctx, &sealpostv1.GetEventRequest{Tenant: "acme", Id: "e"}); err != nil || !bytes.Equal(got.GetData(), data) {
		t.Errorf("%v, %v", got, err)
	}
	if f.door.caller.Address.String() != "127.0.0.1" {
		t.Errorf("caller's address is %v", f.door.caller.Address)
	}
	for _, tt := range []struct {
		event *sealpostv1.Event
		code  codes.Code
	}{
		{nil, codes.InvalidArgument},
		{&sealpostv1.Event{Tenant: "acme", Id: "e", Type: "a.b", Data: []byte("2")}, codes.AlreadyExists},
		{&sealpostv1.Event{Tenant: "acme", Id: "n", Type: "a.b", Data: []byte("{")}, codes.InvalidArgument},
		{&sealpostv1.Event{Tenant: "acme", Id: "n", Type: "a.b", Data: []byte("1"), Time: &timestamppb.Timestamp{Nanos: -1}}, codes.InvalidArgument},
		{someEvent("busy"), codes.ResourceExhausted},
		{someEvent("panic"), codes.Internal},
		{&sealpostv1.Event{Tenant: "acme", Id: "n", Type: "a.b", Data: make([]byte, MaxBatchBytes)}, codes.ResourceExhausted},
	} {
		_, err := events.PublishEvent(ctx, &sealpostv1.PublishEventRequest{Event: tt.event})
		if status.Code(err) != tt.code || strings.Contains(err.Error(), "boom") {
			t.Errorf("%.40s: %v, want %v", tt.event.GetId(), err, tt.code)
		}
	}
	// A mask that is absent is what the endpoint has.
	_, err := sealpostv1.NewEndpointServiceClient(f.conn).UpdateEndpoint(ctx, &sealpostv1.UpdateEndpointRequest{
		Endpoint: &sealpostv1.Endpoint{Id: "ep_1", Tls: &sealpostv1.Tls{CaPem: "x"}},
	})
	if err != nil || strings.Join(f.door.mask, " ") != "tls.caPem" {
		t.Errorf("%v, mask %v", err, f.door.mask)
	}
	_, err = sealpostv1.NewEndpointServiceClient(f.conn).UpdateEndpoint(ctx, &sealpostv1.UpdateEndpointRequest{
		Endpoint: &sealpostv1.Endpoint{Id: "ep_1"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"nonsense"}},
	})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("nonsense in a mask: %v", err)
	}
}

func TestPublishStream(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(as(t.Context(), "good"))
	if err != nil {
		t.Fatal(err)
	}
	const n = 3000
	go func() {
		for i := range n {
			e := someEvent(fmt.Sprintf("e%04d", i))
			switch i % 10 {
			case 3:
				e.Type = "NOT A TYPE"
			case 4:
				e = nil
			case 5:
				e.Id = "busy"
			}
			if stream.Send(&sealpostv1.PublishEventsRequest{Number: uint64(n - i), Event: e}) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	seen := map[uint64]bool{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		i := n - int(r.GetNumber())
		want := map[int]codes.Code{3: codes.InvalidArgument, 4: codes.InvalidArgument, 5: codes.ResourceExhausted}[i%10]
		if got := codes.Code(r.GetResult().GetError().GetCode()); got != want || seen[r.GetNumber()] {
			t.Fatalf("event %d: %v, want %v (answered before: %v)", i, got, want, seen[r.GetNumber()])
		}
		seen[r.GetNumber()] = true
	}
	if len(seen) != n {
		t.Errorf("%d answers of %d", len(seen), n)
	}
	// The door got them in the order in which they were sent.
	for i := 1; i < len(f.door.order); i++ {
		if f.door.order[i-1] >= f.door.order[i] {
			t.Fatalf("%s before %s", f.door.order[i-1], f.door.order[i])
		}
	}
}

// Messages of many events are answered by messages of many, each under its number; a client that sends them one by one gets its
// answers one by one.
func TestPublishStreamOfMany(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	for _, most := range []int{1, 2, 7, 256} {
		stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(as(t.Context(), "good"))
		if err != nil {
			t.Fatal(err)
		}
		const n = 2000
		go func() {
			for i := 0; i < n; {
				r := &sealpostv1.PublishEventsRequest{Number: uint64(i)}
				for k := range min(most, n-i) {
					e := someEvent(fmt.Sprintf("m%d-%04d", most, i+k))
					if (i+k)%10 == 3 {
						e.Type = "NOT A TYPE"
					}
					if k == 0 {
						r.Event = e
					} else {
						r.More = append(r.More, e)
					}
				}
				i += 1 + len(r.GetMore())
				if stream.Send(r) != nil {
					return
				}
			}
			stream.CloseSend()
		}()
		seen, messages := map[uint64]bool{}, 0
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			messages++
			for k, result := range append([]*sealpostv1.PublishResult{r.GetResult()}, r.GetMore()...) {
				number := r.GetNumber() + uint64(k)
				refused := codes.Code(result.GetError().GetCode()) == codes.InvalidArgument
				kept := result.GetId() == fmt.Sprintf("m%d-%04d", most, number) && result.GetError() == nil
				if seen[number] || refused != (number%10 == 3) || kept == refused {
					t.Fatalf("%d in a message: event %d: %v (answered before: %v)", most, number, result, seen[number])
				}
				seen[number] = true
			}
		}
		if len(seen) != n || (messages == n) != (most == 1) {
			t.Errorf("%d in a message: %d answers in %d messages", most, len(seen), messages)
		}
	}

	stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(as(t.Context(), "good"))
	if err != nil {
		t.Fatal(err)
	}
	large := &sealpostv1.PublishEventsRequest{Event: someEvent("x")}
	for range streamMore + 1 {
		large.More = append(large.More, someEvent("x"))
	}
	if err := stream.Send(large); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a message of %d events: %v", len(large.GetMore())+1, err)
	}
}

// While the door does not answer, the server reads no more than its bound: the client's Send blocks.
func TestPublishStreamHoldsBack(t *testing.T) {
	t.Parallel()
	d := newDoor()
	d.block = make(chan struct{})
	f := serve(t, d, nil)
	ctx, cancel := context.WithCancel(as(t.Context(), "good"))
	defer cancel()
	stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	big := &sealpostv1.Event{Tenant: "acme", Type: "a.b", Data: append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 1<<20)...), '"')}
	sent := make(chan int, 1)
	progress := make(chan struct{}, 1000)
	go func() {
		n := 0
		for ; n < 64 && stream.Send(&sealpostv1.PublishEventsRequest{Number: uint64(n), Event: big}) == nil; n++ {
			progress <- struct{}{}
		}
		sent <- n
	}()
	for quiet := false; !quiet; { // until Send has not returned for a while
		select {
		case <-progress:
		case n := <-sent:
			t.Fatalf("all %d MiB were taken", n)
		case <-time.After(500 * time.Millisecond):
			quiet = true
		}
	}
	close(d.block)
	if n := <-sent; n != 64 {
		t.Errorf("%d were sent once the door opened", n)
	}
}

func TestPublishStreamEnds(t *testing.T) {
	t.Parallel()
	f := serve(t, newDoor(), nil)
	f.door.failing(access.ErrRevoked)
	stream, err := sealpostv1.NewEventServiceClient(f.conn).PublishEvents(as(t.Context(), "good"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&sealpostv1.PublishEventsRequest{Number: 1, Event: someEvent("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a caller who may no longer publish: %v", err)
	}
	f.door.failing(nil)
	if stream, err = sealpostv1.NewEventServiceClient(f.conn).PublishEvents(as(t.Context(), "good")); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&sealpostv1.PublishEventsRequest{Number: 1, Event: someEvent("a")}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	f.api.Stop(t.Context())
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a server that stops: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	d := newDoor()
	reg := prometheus.NewRegistry()
	o := d.options()
	o.Registerer = reg
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := withCaller(t.Context(), access.Caller{Account: "crm"})
	for _, id := range []string{"a", "busy"} {
		s.local.Invoke(ctx, sealpostv1.EventService_PublishEvent_FullMethodName, &sealpostv1.PublishEventRequest{Event: someEvent(id)}, &sealpostv1.PublishEventResponse{})
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"sealpost_api_calls_total OK /sealpost.v1.EventService/PublishEvent":                1,
		"sealpost_api_calls_total ResourceExhausted /sealpost.v1.EventService/PublishEvent": 1,
		"sealpost_api_call_seconds /sealpost.v1.EventService/PublishEvent":                  2,
		"sealpost_api_calls_total OK /sealpost.v1.EndpointService/TestEndpoint":             0,
		"sealpost_api_events_total OK":                                                      1,
		"sealpost_api_events_total ResourceExhausted":                                       1,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", key, v, ok, want)
		}
	}
	if _, err := New(o); err == nil {
		t.Error("a registry that has the metrics took them again")
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no parts, no error")
	}
}

// instant is a door that does nothing: what is left is the face.
type instant struct{ *door }

func (instant) PublishEvents(_ context.Context, _ access.Caller, events []relay.Event) ([]control.PublishResult, error) {
	return make([]control.PublishResult, len(events)), nil
}

func benchServer(b *testing.B) sealpostv1.EventServiceClient {
	o := newDoor().options()
	o.Events = instant{}
	return sealpostv1.NewEventServiceClient(serveOptions(b, newDoor(), o).conn)
}

func BenchmarkPublishUnary(b *testing.B) {
	client := benchServer(b)
	event := someEvent("a")
	event.Data = append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 1022)...), '"')
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := as(context.Background(), "good")
		for pb.Next() {
			if _, err := client.PublishEvent(ctx, &sealpostv1.PublishEventRequest{Event: event}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkPublishStream(b *testing.B) {
	client := benchServer(b)
	event := someEvent("a")
	event.Data = append(append([]byte{'"'}, bytes.Repeat([]byte("x"), 1022)...), '"')
	stream, err := client.PublishEvents(as(context.Background(), "good"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for i := range b.N {
			if stream.Send(&sealpostv1.PublishEventsRequest{Number: uint64(i), Event: event}) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	for range b.N {
		if _, err := stream.Recv(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

var _ grpc.ClientConnInterface = (*loopback)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
