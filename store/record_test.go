package store

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func sampleRecord() record {
	return record{sequence: 77, first: appendAttempt(nil, sampleAttempt()), DeliveryStatus: relay.DeliveryStatus{
		ID: "dlv_x", Tenant: "acme", EndpointID: "ep_1", EventID: "evt-1", EventType: "contact.updated",
		EventTime: noon, AcceptTime: noon, Partition: 3, Seq: 9, State: relay.Retrying, Reason: relay.ReasonTimeout,
		Attempts: 2, Due: noon, Deadline: noon, Updated: noon, Redacted: 4,
		Progress: relay.Progress{Digest: [32]byte{1}, Next: 1, Total: 2},
	}}
}

func sampleAttempt() *relay.Attempt {
	digest := hex.EncodeToString(bytes.Repeat([]byte{0xab}, 32))
	return &relay.Attempt{Number: 1, Chunk: 1, ChunkTotal: 2, StartTime: noon, Verdict: relay.VerdictDone, Reason: relay.ReasonAccepted,
		StatusCode: 204, Durations: relay.Durations{DNS: 1, Connect: 2, TLS: 3, FirstByte: 4, Total: 5}, RemoteAddress: "203.0.113.1:443",
		TLSVersion: "TLS 1.3", ServerCertificateSubject: "CN=x", ServerCertificateSHA256: digest, ClientCertificateSHA256: digest,
		KeyID: "k", BodySHA256: digest, ResponseBody: []byte("{}"), ResponseSize: 2}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	for _, want := range []record{sampleRecord(), {DeliveryStatus: relay.DeliveryStatus{ID: "x", State: relay.Unmatched}}} {
		b := appendRecord(nil, &want)
		want.size = len(b)
		got, err := decodeRecord(want.ID, b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
	}
	for _, want := range []*relay.Attempt{sampleAttempt(), {BodySHA256: "not hex", ServerCertificateSHA256: strings.Repeat("AB", 32)}} {
		got, err := decodeAttempt(appendAttempt(nil, want))
		if err != nil || !reflect.DeepEqual(&got, want) {
			t.Fatalf("%+v, %v; want %+v", got, err, want)
		}
	}
}

// What cannot be represented is stored as the nearest that can, never as something that cannot be read.
func TestRecordBounds(t *testing.T) {
	t.Parallel()
	r := sampleRecord()
	r.Attempts, r.Redacted = -1, -5
	r.Due = time.Unix(1<<62, 0)
	r.AcceptTime = time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
	got, err := decodeRecord("x", appendRecord(nil, &r))
	if err != nil || got.Attempts != 0 || !got.Due.IsZero() || got.AcceptTime.Year() != 2262 {
		t.Fatalf("%+v, %v", got, err)
	}
	a := sampleAttempt()
	a.ResponseBody = make([]byte, relay.MaxResponseKept+1)
	a.Durations.DNS, a.ResponseSize = -1, -1
	back, err := decodeAttempt(appendAttempt(nil, a))
	if err != nil || len(back.ResponseBody) != relay.MaxResponseKept || back.Durations.DNS != 0 || back.ResponseSize != 0 {
		t.Fatalf("%+v, %v", back, err)
	}
}

func TestSortable(t *testing.T) {
	t.Parallel()
	times := []time.Time{{}, time.Unix(-1, 0).UTC(), time.Unix(0, 0).UTC(), noon, noon.Add(1)}
	for i, at := range times {
		if back := sortableTime(sortable(at)); !back.Equal(at) {
			t.Errorf("%v became %v", at, back)
		}
		if i > 0 && sortable(times[i-1]) >= sortable(at) {
			t.Errorf("%v does not sort before %v", times[i-1], at)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := sampleRecord()
	f.Add(appendRecord(nil, &r))
	r.first, r.Progress, r.Due = nil, relay.Progress{}, time.Time{}
	f.Add(appendRecord(nil, &r))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord("x", b)
		if err == nil && !bytes.Equal(appendRecord(nil, &r), b) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, r, appendRecord(nil, &r))
		}
	})
}

func FuzzDecodeAttempt(f *testing.F) {
	f.Add(appendAttempt(nil, sampleAttempt()))
	f.Add(appendAttempt(nil, &relay.Attempt{}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAttempt(b)
		if err == nil && !bytes.Equal(appendAttempt(nil, &a), b) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, a, appendAttempt(nil, &a))
		}
	})
}

func FuzzParseToken(f *testing.F) {
	q, err := checkQuery(relay.DeliveryQuery{Tenant: "acme"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.token(place{1, "dlv_x"}))
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		at, ok := parseToken(token, q.fingerprint)
		if ok && q.token(at) != token {
			t.Fatalf("%q is read as %+v, whose token is %q", token, at, q.token(at))
		}
	})
}

func TestSketch(t *testing.T) {
	t.Parallel()
	s := newSketch()
	if s.may("a") {
		t.Fatal("an empty sketch says may")
	}
	for range 300 { // beyond what a counter holds: it stays full
		s.add("a")
	}
	s.add("b")
	for range 300 {
		s.remove("a")
	}
	if !s.may("a") || !s.may("b") {
		t.Fatal("a full counter was emptied")
	}
	s.remove("b")
	if s.may("b") {
		t.Fatal("b was removed as often as added")
	}
}
