package record

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// EncodeReplay is what a replay asks for, as an operation keeps it; the same for the same replay.
func EncodeReplay(r *relay.Replay) ([]byte, error) {
	m := &pb.Replay{
		Tenant: r.Tenant, EndpointId: r.EndpointID, EventTypes: r.EventTypes, After: stamp(r.After), Before: stamp(r.Before),
		Missing: r.Missing, DeliveriesPerSecond: r.Rate,
	}
	for _, s := range r.States {
		m.States = append(m.States, pb.Delivery_State(pb.Delivery_State_value[string(s)]))
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// DecodeReplay reads what EncodeReplay wrote.
func DecodeReplay(b []byte) (*relay.Replay, error) {
	var m pb.Replay
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("replay: %w: %w", ErrRecord, err)
	}
	r := &relay.Replay{
		Tenant: m.GetTenant(), EndpointID: m.GetEndpointId(), EventTypes: m.GetEventTypes(), After: stamped(m.GetAfter()), Before: stamped(m.GetBefore()),
		Missing: m.GetMissing(), Rate: m.GetDeliveriesPerSecond(),
	}
	for _, s := range m.GetStates() {
		r.States = append(r.States, relay.DeliveryState(s.String()))
	}
	if bad := r.Check(); bad.Err() != nil {
		return nil, fmt.Errorf("replay: %w: %w", ErrRecord, bad)
	}
	return r, nil
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func stamped(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
