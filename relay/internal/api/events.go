package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Events is the part of the door that events go through. control has its contract.
type Events interface {
	PublishEvents(ctx context.Context, who access.Caller, events []relay.Event) ([]control.PublishResult, error)
	PreviewEvent(ctx context.Context, who access.Caller, event relay.Event) (string, []control.Preview, error)
	GetEvent(ctx context.Context, who access.Caller, tenant, id string) (control.EventView, error)
	EraseSubject(ctx context.Context, who access.Caller, e control.Erasure) (control.Operation, error)
}

type eventService struct {
	sealpostv1.UnimplementedEventServiceServer
	events  Events
	metrics *metrics
	closing <-chan struct{} // closed when streams are to end
}

// PublishEvent keeps one event, or with validate_only tells who would get what.
func (s *eventService) PublishEvent(ctx context.Context, r *sealpostv1.PublishEventRequest) (*sealpostv1.PublishEventResponse, error) {
	if r.GetValidateOnly() {
		return s.preview(ctx, r.GetEvent())
	}
	results, err := s.publish(ctx, []*sealpostv1.Event{r.GetEvent()})
	if err != nil {
		return nil, err
	}
	result := results[0]
	if result.GetError() != nil {
		return nil, statusFrom(result.GetError()).Err()
	}
	return &sealpostv1.PublishEventResponse{Id: result.GetId(), Duplicate: result.GetDuplicate()}, nil
}

// BatchPublishEvents keeps each of a batch on its own.
func (s *eventService) BatchPublishEvents(ctx context.Context, r *sealpostv1.BatchPublishEventsRequest) (*sealpostv1.BatchPublishEventsResponse, error) {
	if n := len(r.GetEvents()); n == 0 || n > MaxBatchEvents {
		return nil, relay.Invalid{{Field: "events", Rule: fmt.Sprintf("must be 1 to %d events", MaxBatchEvents)}}
	}
	results, err := s.publish(ctx, r.GetEvents())
	if err != nil {
		return nil, err
	}
	return &sealpostv1.BatchPublishEventsResponse{Results: results}, nil
}

// publish hands events to control and gives one result for each, in order. What cannot be read as an event is refused
// without holding up the others; the error is for all of them.
func (s *eventService) publish(ctx context.Context, in []*sealpostv1.Event) ([]*sealpostv1.PublishResult, error) {
	out := make([]*sealpostv1.PublishResult, len(in))
	events := make([]relay.Event, 0, len(in))
	at := make([]int, 0, len(in)) // events[i] is in[at[i]]
	for i, e := range in {
		ev, err := eventOf(e)
		if err != nil {
			out[i] = s.refused(ev.ID, err)
			continue
		}
		events, at = append(events, ev), append(at, i)
	}
	if len(events) == 0 {
		return out, nil
	}
	results, err := s.events.PublishEvents(ctx, callerOf(ctx), events)
	if err != nil {
		return nil, err
	}
	if len(results) != len(events) {
		return nil, fmt.Errorf("%d results for %d events", len(results), len(events))
	}
	for i, r := range results {
		if r.Err != nil {
			out[at[i]] = s.refused(r.ID, r.Err)
			continue
		}
		s.metrics.event(codes.OK)
		out[at[i]] = &sealpostv1.PublishResult{Id: r.ID, Duplicate: &results[i].Duplicate}
	}
	return out, nil
}

func (s *eventService) refused(id string, err error) *sealpostv1.PublishResult {
	st := statusOf(err)
	s.metrics.event(st.Code())
	return &sealpostv1.PublishResult{Id: id, Error: errorOf(st)}
}

// eventOf reads what was published as an event of the vocabulary. Whether it keeps the rules, and what it lacks, is
// control's; here only what cannot be expressed there. A time that was left out stays so: it is part of what tells a
// repeat from another event.
func eventOf(e *sealpostv1.Event) (relay.Event, error) {
	out := relay.Event{Tenant: e.GetTenant(), ID: e.GetId(), Type: e.GetType(), Subject: e.GetSubject(), Data: e.GetData(), Synthetic: e.GetSynthetic()}
	if t := e.GetTime(); t != nil {
		if t.CheckValid() != nil {
			return out, relay.Invalid{{Field: "time", Rule: "must be a time between the years 1970 and 9999"}}
		}
		out.Time = t.AsTime()
	}
	return out, nil
}

func (s *eventService) preview(ctx context.Context, e *sealpostv1.Event) (*sealpostv1.PublishEventResponse, error) {
	ev, err := eventOf(e)
	if err != nil {
		return nil, err
	}
	id, previews, err := s.events.PreviewEvent(ctx, callerOf(ctx), ev)
	if err != nil {
		return nil, err
	}
	out := &sealpostv1.EventPreview{}
	for _, p := range previews {
		out.Endpoints = append(out.Endpoints, &sealpostv1.EndpointPreview{
			EndpointId:    p.EndpointID,
			Outcome:       enumValue[sealpostv1.EndpointPreview_Outcome](string(p.Outcome)),
			Reason:        string(p.Reason),
			RedactedCount: int32(p.Redacted),
			Data:          p.Data,
		})
	}
	return &sealpostv1.PublishEventResponse{Id: id, Preview: out}, nil
}

// GetEvent is an event that was kept.
func (s *eventService) GetEvent(ctx context.Context, r *sealpostv1.GetEventRequest) (*sealpostv1.Event, error) {
	v, err := s.events.GetEvent(ctx, callerOf(ctx), r.GetTenant(), r.GetId())
	if err != nil {
		return nil, err
	}
	return &sealpostv1.Event{
		Tenant: v.Tenant, Id: v.ID, Type: v.Type, Time: stamp(v.Time), Subject: v.Subject, Data: v.Data,
		AcceptTime: stamp(v.AcceptTime), Matched: &v.Matched, Synthetic: v.Synthetic,
	}, nil
}

// stamp is absent for the zero time.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// EraseSubject begins to erase the events of a subject.
func (s *eventService) EraseSubject(ctx context.Context, r *sealpostv1.EraseSubjectRequest) (*sealpostv1.Operation, error) {
	return shownOperation(s.events.EraseSubject(ctx, callerOf(ctx), control.Erasure{
		Tenant: r.GetTenant(), Subject: r.GetSubject(), Reason: r.GetReason(), RequestID: r.GetRequestId(),
	}))
}
