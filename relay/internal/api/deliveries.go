package api

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// Deliveries is the part of the door that deliveries go through. control has its contract.
type Deliveries interface {
	ListDeliveries(ctx context.Context, who access.Caller, q relay.DeliveryQuery) (relay.DeliveryPage, error)
	GetDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error)
	RetryDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error)
	CancelDelivery(ctx context.Context, who access.Caller, tenant, id string) (relay.DeliveryStatus, error)
	WatchDeliveries(ctx context.Context, who access.Caller, q relay.DeliveryQuery, fn func(*relay.Outcome) error) error
}

type deliveryService struct {
	sealpostv1.UnimplementedDeliveryServiceServer
	deliveries Deliveries
	operations Operations
	closing    <-chan struct{} // closed when streams are to end
}

// ListDeliveries is a page of them, newest first.
func (s *deliveryService) ListDeliveries(ctx context.Context, r *sealpostv1.ListDeliveriesRequest) (*sealpostv1.ListDeliveriesResponse, error) {
	q := relay.DeliveryQuery{
		Tenant: r.GetTenant(), EndpointID: r.GetEndpointId(), EventID: r.GetEventId(), EventType: r.GetEventType(),
		State: relay.DeliveryState(enumName(r.GetState())), PageSize: int(r.GetPageSize()), PageToken: r.GetPageToken(),
	}
	if r.GetAfter() != nil {
		q.After = r.GetAfter().AsTime()
	}
	if r.GetBefore() != nil {
		q.Before = r.GetBefore().AsTime()
	}
	page, err := s.deliveries.ListDeliveries(ctx, callerOf(ctx), q)
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.ListDeliveriesResponse{NextPageToken: page.NextPageToken}
	for i := range page.Deliveries {
		out.Deliveries = append(out.Deliveries, deliveryOf(&page.Deliveries[i]))
	}
	return out, nil
}

// GetDelivery is one delivery with its attempts.
func (s *deliveryService) GetDelivery(ctx context.Context, r *sealpostv1.GetDeliveryRequest) (*sealpostv1.Delivery, error) {
	return shownDelivery(s.deliveries.GetDelivery(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

// RetryDelivery sends a delivery again.
func (s *deliveryService) RetryDelivery(ctx context.Context, r *sealpostv1.RetryDeliveryRequest) (*sealpostv1.Delivery, error) {
	return shownDelivery(s.deliveries.RetryDelivery(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

// CancelDelivery ends a delivery.
func (s *deliveryService) CancelDelivery(ctx context.Context, r *sealpostv1.CancelDeliveryRequest) (*sealpostv1.Delivery, error) {
	return shownDelivery(s.deliveries.CancelDelivery(ctx, callerOf(ctx), r.GetTenant(), r.GetId()))
}

// WatchDeliveries tells each change from now on.
func (s *deliveryService) WatchDeliveries(r *sealpostv1.WatchDeliveriesRequest, stream grpc.ServerStreamingServer[sealpostv1.WatchDeliveriesResponse]) error {
	q := relay.DeliveryQuery{
		Tenant: r.GetTenant(), EndpointID: r.GetEndpointId(), EventID: r.GetEventId(), EventType: r.GetEventType(),
		State: relay.DeliveryState(enumName(r.GetState())),
	}
	return untilClosing(stream.Context(), s.closing, func(ctx context.Context) error {
		return s.deliveries.WatchDeliveries(ctx, callerOf(ctx), q, func(o *relay.Outcome) error {
			return stream.Send(&sealpostv1.WatchDeliveriesResponse{Delivery: changeOf(o)})
		})
	})
}

// changeOf is a delivery as a change of it tells, with the attempt that brought the change about, if one did.
func changeOf(o *relay.Outcome) *sealpostv1.Delivery {
	d := relay.DeliveryStatus{
		ID: o.DeliveryID, Tenant: o.Tenant, EndpointID: o.EndpointID, EventID: o.EventID, EventType: o.EventType,
		EventTime: o.EventTime, AcceptTime: o.AcceptTime, State: o.State, Reason: o.Reason, Attempts: o.Attempts,
		Due: o.Due, Deadline: o.Deadline, Updated: o.Time, Redacted: o.Redacted, Progress: o.Progress,
	}
	if o.Attempt != nil {
		d.History = []relay.Attempt{*o.Attempt}
	}
	return deliveryOf(&d)
}

func shownDelivery(d relay.DeliveryStatus, err error) (*sealpostv1.Delivery, error) {
	if err != nil {
		return nil, err
	}
	return deliveryOf(&d), nil
}

func deliveryOf(d *relay.DeliveryStatus) *sealpostv1.Delivery {
	out := &sealpostv1.Delivery{
		Id: d.ID, Tenant: d.Tenant, EndpointId: d.EndpointID, EventId: d.EventID, EventType: d.EventType,
		State: enumValue[sealpostv1.Delivery_State](string(d.State)), Reason: string(d.Reason),
		AttemptCount: int32(d.Attempts), NextAttemptTime: stamp(d.Due),
		EventTime: stamp(d.EventTime), AcceptTime: stamp(d.AcceptTime), UpdateTime: stamp(d.Updated), ExpireTime: stamp(d.Deadline),
		RedactedCount: int32(d.Redacted), ChunksDelivered: int32(d.Progress.Next), ChunkCount: int32(d.Progress.Total),
	}
	for i := range d.History {
		out.Attempts = append(out.Attempts, attemptOf(&d.History[i]))
	}
	return out
}

func attemptOf(a *relay.Attempt) *sealpostv1.Attempt {
	return &sealpostv1.Attempt{
		Number: int32(a.Number), Chunk: int32(a.Chunk), ChunkCount: int32(a.ChunkTotal), StartTime: stamp(a.StartTime),
		Verdict: enumValue[sealpostv1.Attempt_Verdict](string(a.Verdict)), Reason: string(a.Reason), StatusCode: int32(a.StatusCode),
		Durations: &sealpostv1.Attempt_Durations{
			Dns: phase(a.Durations.DNS), Connect: phase(a.Durations.Connect), Tls: phase(a.Durations.TLS),
			FirstByte: phase(a.Durations.FirstByte), Total: phase(a.Durations.Total),
		},
		RemoteAddress: a.RemoteAddress, TlsVersion: a.TLSVersion,
		ServerCertificateSubject: strings.ToValidUTF8(a.ServerCertificateSubject, "\uFFFD"), ServerCertificateSha256: a.ServerCertificateSHA256,
		ClientCertificateSha256: a.ClientCertificateSHA256, KeyId: a.KeyID, BodySha256: a.BodySHA256,
		// What a receiver answers need not be UTF-8, and protobuf's strings must be.
		ResponseBody: strings.ToValidUTF8(string(a.ResponseBody), "\uFFFD"), ResponseSize: a.ResponseSize,
	}
}

// phase is absent where it did not take place.
func phase(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
