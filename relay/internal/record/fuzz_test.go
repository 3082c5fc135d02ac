package record_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/record"
)

// FuzzDecodeOutcomes: what is read is written and read again as the same value, whatever form the bytes had.
func FuzzDecodeOutcomes(f *testing.F) {
	for _, o := range []*relay.Outcome{
		{DeliveryID: "dlv_1", Tenant: "acme", Seq: 7, State: relay.Delivered, Attempt: &relay.Attempt{Number: 1, ResponseBody: []byte("ok")}},
		{Tenant: "acme", EventID: "evt_1", Seq: 8, State: relay.Unmatched, Time: time.Unix(1, 2)},
		{DeliveryID: "dlv_2", State: relay.Pending, Progress: relay.Progress{Next: 1, Total: 2}},
	} {
		b, err := record.AppendOutcome(nil, o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))
	}
	f.Add([]byte{0x0a, 0x07, 0x08, 0x01, 0x8a, 0x01, 0x02, 0x0a, 0x00}) // a digest of no bytes
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := record.DecodeOutcomes(b)
		if err != nil {
			return
		}
		var again []byte
		for i := range first {
			if again, err = record.AppendOutcome(again, &first[i]); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
		}
		second, err := record.DecodeOutcomes(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("read %+v, then %+v", first, second)
		}
	})
}

// FuzzDecodeEvent: what is read is what a decoder of the whole protocol reads, for every record that it does.
func FuzzDecodeEvent(f *testing.F) {
	b, err := record.EncodeEvent(nil, &relay.Event{Tenant: "acme", ID: "evt_1", Type: "a.b", Time: time.Unix(1, 0), Subject: "c/1", Data: []byte(`{"a":1}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, b...))
	f.Add(append(bytes.Clone(b), 0x40, 0x01))       // synthetic
	f.Add(append(bytes.Clone(b), 0x12, 0x01, 0xff)) // not UTF-8
	f.Add(append(bytes.Clone(b), 0x2a, 0x00, 0x7b, 0x7c))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want pb.EventRecord
		err := proto.Unmarshal(b, &want)
		got, failed := record.DecodeEvent(b, 7, time.Unix(3, 0))
		if known := err == nil && 0 < want.Version && want.Version <= record.Version; known != (failed == nil) {
			t.Fatalf("read: %v; the whole protocol: %v, version %d", failed, err, want.Version)
		} else if !known {
			if !errors.Is(failed, record.ErrRecord) {
				t.Fatal(failed)
			}
			return
		}
		if got.Tenant != want.Tenant || got.ID != want.Id || got.Type != want.Type || got.Subject != want.Subject || got.Synthetic != want.Synthetic || !bytes.Equal(got.Data, want.Data) ||
			want.Time != 0 && got.Time.UnixNano() != want.Time || got.Time.IsZero() != (want.Time == 0) || got.Seq != 7 {
			t.Fatalf("read %+v, want %v", got, &want)
		}
	})
}

// FuzzDecodeReplay likewise.
func FuzzDecodeReplay(f *testing.F) {
	b, err := record.EncodeReplay(&relay.Replay{
		Tenant: "acme", EndpointID: "ep_1", EventTypes: []string{"contact.*"}, After: time.Unix(1, 0), Before: time.Unix(2, 5),
		States: []relay.DeliveryState{relay.Dead, relay.Withheld}, Missing: true, Rate: 2.5,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := record.DecodeReplay(b)
		if err != nil {
			return
		}
		again, err := record.EncodeReplay(first)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		second, err := record.DecodeReplay(again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("read %+v, then %+v", first, second)
		}
	})
}
