package record

import (
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// EncodeEvent appends the event's record to b. The event's place and time in the log are the log's to say.
func EncodeEvent(b []byte, e *relay.Event) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(b, &pb.EventRecord{
		Version: Version,
		Tenant:  e.Tenant, Id: e.ID, Type: e.Type, Time: nanos(e.Time), Subject: e.Subject, Data: e.Data, Synthetic: e.Synthetic,
	})
}

// The numbers of EventRecord's fields.
const (
	eventVersion protowire.Number = iota + 1
	eventTenant
	eventID
	eventType
	eventTime
	eventSubject
	eventData
	eventSynthetic
)

// DecodeEvent reads an event's record that stands at seq since the given time. The event's data is b's own bytes: every event is
// read at least once, and a copy of it costs what all else here does together.
func DecodeEvent(b []byte, seq uint64, accepted time.Time) (*relay.Event, error) {
	e := &relay.Event{Seq: seq, AcceptTime: accepted}
	version := uint64(0)
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, fmt.Errorf("event %d: %w: %w", seq, ErrRecord, protowire.ParseError(n))
		}
		b = b[n:]
		switch {
		case kind == protowire.VarintType && (number == eventVersion || number == eventTime || number == eventSynthetic):
			var v uint64
			switch v, n = protowire.ConsumeVarint(b); number {
			case eventVersion:
				version = uint64(uint32(v))
			case eventTime:
				e.Time = at(int64(v))
			default:
				e.Synthetic = protowire.DecodeBool(v)
			}
		case kind == protowire.BytesType && number == eventData:
			e.Data, n = protowire.ConsumeBytes(b)
			e.Data = e.Data[:len(e.Data):len(e.Data)]
		case kind == protowire.BytesType && eventTenant <= number && number <= eventSubject && number != eventTime:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n >= 0 && !utf8.Valid(v) {
				return nil, fmt.Errorf("event %d: %w: field %d is not UTF-8", seq, ErrRecord, number)
			}
			*textOf(e, number) = string(v)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return nil, fmt.Errorf("event %d: %w: field %d: %w", seq, ErrRecord, number, protowire.ParseError(n))
		}
		b = b[n:]
	}
	if version == 0 || version > Version {
		return nil, fmt.Errorf("event %d: %w: version %d, known up to %d", seq, ErrRecord, version, Version)
	}
	return e, nil
}

func textOf(e *relay.Event, number protowire.Number) *string {
	switch number {
	case eventTenant:
		return &e.Tenant
	case eventID:
		return &e.ID
	case eventType:
		return &e.Type
	default:
		return &e.Subject
	}
}
