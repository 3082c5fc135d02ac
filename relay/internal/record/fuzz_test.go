package record_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

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

// FuzzDecodeEvent likewise.
func FuzzDecodeEvent(f *testing.F) {
	b, err := record.EncodeEvent(nil, &relay.Event{Tenant: "acme", ID: "evt_1", Type: "a.b", Time: time.Unix(1, 0), Data: []byte(`{"a":1}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		first, err := record.DecodeEvent(b, 1, time.Time{})
		if err != nil {
			return
		}
		again, err := record.EncodeEvent(nil, first)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		second, err := record.DecodeEvent(again, 1, time.Time{})
		if err != nil || !bytes.Equal(first.Data, second.Data) || first.ID != second.ID || !first.Time.Equal(second.Time) {
			t.Fatalf("read %+v, then %+v: %v", first, second, err)
		}
	})
}
