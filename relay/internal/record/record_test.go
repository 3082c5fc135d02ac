package record_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/record"
)

func times() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		n := rapid.Int64Range(0, 4e18).Draw(t, "nanos")
		if n == 0 {
			return time.Time{}
		}
		return time.Unix(0, n).UTC()
	})
}

func bytesOrNil(t *rapid.T, name string) []byte {
	b := rapid.SliceOf(rapid.Byte()).Draw(t, name)
	if len(b) == 0 {
		return nil
	}
	return b
}

func attempts() *rapid.Generator[*relay.Attempt] {
	return rapid.Custom(func(t *rapid.T) *relay.Attempt {
		if rapid.Bool().Draw(t, "none") {
			return nil
		}
		return &relay.Attempt{
			Number: rapid.IntRange(0, 1e6).Draw(t, "number"), Chunk: rapid.IntRange(0, 1e4).Draw(t, "chunk"),
			ChunkTotal: rapid.IntRange(0, 1e4).Draw(t, "total"), StartTime: times().Draw(t, "start"),
			Verdict: relay.VerdictLater, Reason: relay.ReasonServerError, StatusCode: rapid.IntRange(0, 999).Draw(t, "status"),
			Durations:     relay.Durations{DNS: 1, Connect: 2, TLS: 3, FirstByte: 4, Total: time.Duration(rapid.Int64().Draw(t, "took"))},
			RemoteAddress: rapid.String().Draw(t, "remote"), TLSVersion: "TLS 1.3",
			ServerCertificateSubject: rapid.String().Draw(t, "subject"), ServerCertificateSHA256: "aa",
			ClientCertificateSHA256: "bb", KeyID: "k", BodySHA256: "cc",
			ResponseBody: bytesOrNil(t, "response"), ResponseSize: rapid.Int64Range(0, 1e9).Draw(t, "size"),
		}
	})
}

func TestOutcomeReadsBackAsItWas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &relay.Outcome{
			DeliveryID: rapid.String().Draw(t, "id"), Tenant: "acme", EndpointID: rapid.String().Draw(t, "endpoint"),
			EventID: "evt", EventType: "a.b", EventTime: times().Draw(t, "time"), AcceptTime: times().Draw(t, "accepted"),
			Seq: rapid.Uint64().Draw(t, "seq"), Partition: rapid.IntRange(0, 1000).Draw(t, "partition"),
			State: rapid.SampledFrom(relay.DeliveryStates()).Draw(t, "state"), Reason: relay.ReasonThrottled,
			Time: times().Draw(t, "changed"), Attempts: rapid.IntRange(0, 1e6).Draw(t, "attempts"),
			Due: times().Draw(t, "due"), Deadline: times().Draw(t, "deadline"),
			Attempt: attempts().Draw(t, "attempt"), Redacted: rapid.IntRange(0, 1e6).Draw(t, "redacted"),
		}
		if next := rapid.IntRange(0, 100).Draw(t, "next"); next > 0 {
			want.Progress = relay.Progress{Digest: [32]byte{1, byte(next)}, Next: next, Total: 200}
		}
		n := rapid.IntRange(1, 3).Draw(t, "n")
		var b []byte
		for range n {
			var err error
			if b, err = record.AppendOutcome(b, want); err != nil {
				t.Fatal(err)
			}
		}
		got, err := record.DecodeOutcomes(b)
		if err != nil || len(got) != n {
			t.Fatalf("%d outcomes, not %d: %v", len(got), n, err)
		}
		for i := range got {
			if !reflect.DeepEqual(&got[i], want) {
				t.Fatalf("got  %+v\nwant %+v", got[i], want)
			}
		}
	})
}

func TestEventReadsBackAsItWas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &relay.Event{
			Tenant: "acme", ID: "evt_1", Type: "contact.updated", Time: times().Draw(t, "time"),
			Subject: rapid.String().Draw(t, "subject"), Data: bytesOrNil(t, "data"),
		}
		b, err := record.EncodeEvent(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		want.Seq, want.AcceptTime = 42, time.Unix(7, 0).UTC()
		got, err := record.DecodeEvent(b, want.Seq, want.AcceptTime)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestAForeignVersionIsRefused(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"none": {}, "newer": {0x08, record.Version + 1}, "newer outcome": {0x0a, 0x02, 0x08, record.Version + 1}, "garbage": {0xff, 0xff, 0xff},
	} {
		if _, err := record.DecodeOutcomes(b); !errors.Is(err, record.ErrRecord) {
			t.Errorf("%s: DecodeOutcomes: %v", name, err)
		}
		if _, err := record.DecodeEvent(b, 1, time.Now()); !errors.Is(err, record.ErrRecord) {
			t.Errorf("%s: DecodeEvent: %v", name, err)
		}
	}
}
