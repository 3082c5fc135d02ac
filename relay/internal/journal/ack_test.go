package journal

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

func TestParseAck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		data string
		want ack
	}{
		{`{"stream":"SEALPOST_EVENTS_0", "seq":12}`, ack{seq: 12}},
		{`{"stream":"SEALPOST_EVENTS_0","domain":"hub", "seq":18446744073709551615,"duplicate": true}`, ack{seq: 1<<64 - 1, duplicate: true}},
		{`{"stream":"X","seq": 3,"duplicate":true}`, ack{seq: 3, duplicate: true}},
		{`{"stream":"X","seq":3,"duplicate":false}`, ack{seq: 3}},
		{``, ack{err: ErrUnavailable}},
		{`{}`, ack{err: ErrUnavailable}},
		{`{"stream":"X","seq":0}`, ack{err: ErrUnavailable}},
		{`{"stream":"X","seq":-1}`, ack{err: ErrUnavailable}},
		{`{"stream":"X","seq":18446744073709551616}`, ack{err: ErrUnavailable}},
		{`{"error":`, ack{err: ErrUnavailable}},
		{`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"X","seq":0}`, ack{err: ErrFenced}},
		{`{"error":{"code":400,"err_code":10070,"description":"wrong last msg ID: x"},"stream":"X","seq":0}`, ack{err: ErrFenced}},
		{`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"X","seq":0}`, ack{err: ErrFull}},
		{`{"error":{"code":503,"err_code":10077,"description":"disk on fire"},"stream":"X","seq":0}`, ack{err: ErrUnavailable}},
		{`{"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}`, ack{err: ErrFull}},
		{`{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}`, ack{err: ErrTooLarge}},
		{`{"error":{"code":429,"err_code":10167,"description":"too many requests"}}`, ack{err: ErrBusy}},
		{`{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}`, ack{err: errInProcess}},
		{`{"error":{"code":500,"err_code":1,"description":"?"}}`, ack{err: ErrUnavailable}},
	} {
		got := parseAck(&nats.Msg{Data: []byte(tt.data)})
		if got.seq != tt.want.seq || got.duplicate != tt.want.duplicate || !errors.Is(got.err, tt.want.err) || (got.err == nil) != (tt.want.err == nil) {
			t.Errorf("%s: %+v, want %+v", tt.data, got, tt.want)
		}
	}
}

// The short way reads what the long way reads.
func FuzzParseAck(f *testing.F) {
	f.Add([]byte(`{"stream":"SEALPOST_EVENTS_0","seq":12,"duplicate": true}`))
	f.Add([]byte(`{"stream":"SEALPOST_EVENTS_0","seq":9999999999999999999}`))
	f.Add([]byte(`{"stream":"a\\u0062","seq":1}`))
	f.Add([]byte(`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"X","seq":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		long := jsonAck(data)
		if short, ok := plainAck(data); ok && short != long {
			t.Fatalf("%q: %+v, by encoding/json %+v", data, short, long)
		}
		if (long.err == nil) != (long.seq > 0) {
			t.Errorf("%q: %+v", data, long)
		}
	})
}

// What the server writes is read by the short way: the long one costs as much as storing the record.
func TestAckOfServer(t *testing.T) {
	t.Parallel()
	j := open(t, Options{Dir: t.TempDir()})
	for _, want := range []ack{{seq: 1}, {seq: 1, duplicate: true}} {
		m := nats.NewMsg(j.Events(0).subject)
		m.Header.Set(nats.MsgIdHdr, "acme.1")
		m.Data = appendFrame(nil, frame{}, []byte("one"))
		answer, err := j.nc.RequestMsgWithContext(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := plainAck(answer.Data); !ok || got != want {
			t.Errorf("%s: %+v, %v; want %+v", answer.Data, got, ok, want)
		}
	}
}
