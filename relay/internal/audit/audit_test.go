package audit

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	ann   = access.Caller{Account: "ann", CredentialID: "tok", Address: netip.MustParseAddr("192.0.2.1"), Role: access.Operator}
)

func openStream(t *testing.T) *journal.Audit {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	return j.Audit()
}

func read(t *testing.T, s *journal.Audit) (out []Record) {
	t.Helper()
	st, err := s.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := st.First; seq != 0 && seq <= st.Last; seq++ {
		m, err := s.Get(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Decode(m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestActIsBetweenTwoRecords(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	l := New(s, func() time.Time { return start })
	act := Act{Name: "endpoint.pause", Object: "ep_a", Tenant: "acme", Detail: map[string]string{"k": "v"}}
	failure := errors.New("it broke")
	for _, fails := range []error{nil, failure} {
		before := len(read(t, s))
		err := l.Do(t.Context(), ann, act, func() (map[string]string, error) {
			if n := len(read(t, s)); n != before+1 {
				t.Errorf("%d records when the act began, want %d", n, before+1)
			}
			return map[string]string{"state": "PAUSED"}, fails
		})
		if !errors.Is(err, fails) {
			t.Fatalf("got %v", err)
		}
	}
	if err := l.Refuse(t.Context(), ann, act, "no scope"); err != nil {
		t.Fatal(err)
	}
	got := read(t, s)
	if len(got) != 5 || got[0].ActID != got[1].ActID || got[1].ActID == got[2].ActID || got[2].ActID != got[3].ActID {
		t.Fatalf("records: %+v", got)
	}
	for i, want := range []struct {
		outcome Outcome
		detail  map[string]string
	}{
		{Allowed, map[string]string{"k": "v"}}, {Done, map[string]string{"state": "PAUSED"}},
		{Allowed, map[string]string{"k": "v"}}, {Failed, map[string]string{"state": "PAUSED", "reason": "it broke"}},
		{Refused, map[string]string{"k": "v", "reason": "no scope"}},
	} {
		full := Record{
			ActID: got[i].ActID, Time: start, Account: "ann", CredentialID: "tok", Address: ann.Address,
			Act: "endpoint.pause", Object: "ep_a", Tenant: "acme", Outcome: want.outcome, Detail: want.detail,
		}
		if !reflect.DeepEqual(got[i], full) {
			t.Errorf("record %d: %+v, want %+v", i, got[i], full)
		}
	}
}

// failing is a stream that fails from a given record on.
type failing struct {
	Stream
	after int
}

func (f *failing) Append(ctx context.Context, b []byte) (uint64, error) {
	if f.after--; f.after < 0 {
		return 0, errors.New("disk is gone")
	}
	return f.Stream.Append(ctx, b)
}

func TestNoRecordNoAct(t *testing.T) {
	t.Parallel()
	l := New(&failing{openStream(t), 0}, time.Now)
	err := l.Do(t.Context(), ann, Act{Name: "x"}, func() (map[string]string, error) { t.Error("done without a record"); return nil, nil })
	if !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if err := l.Refuse(t.Context(), ann, Act{Name: "x"}, "no"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("refusal: %v", err)
	}
}

func TestOutcomeThatCannotBeKept(t *testing.T) {
	t.Parallel()
	failure := errors.New("it broke")
	for _, fails := range []error{nil, failure} {
		l := New(&failing{openStream(t), 1}, time.Now)
		err := l.Do(t.Context(), ann, Act{Name: "x"}, func() (map[string]string, error) { return nil, fails })
		if !errors.Is(err, ErrUnavailable) || fails != nil && !errors.Is(err, fails) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestOutcomeIsKeptWhenTheCallerLeft(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := New(s, time.Now).Do(ctx, ann, Act{Name: "x"}, func() (map[string]string, error) { cancel(); return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s); len(got) != 2 || got[1].Outcome != Done {
		t.Fatalf("records: %+v", got)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	l := New(s, time.Now)
	err := l.Append(t.Context(), Record{Act: strings.Repeat("x", 1<<20), Object: "a\xffb", Outcome: Done, Detail: map[string]string{"k": strings.Repeat("ä", 1<<20)}})
	if err != nil {
		t.Fatal(err)
	}
	r := read(t, s)[0]
	if len(r.Act) != maxText || r.Object != "a\uFFFDb" || len(r.Detail["k"]) > maxText+3 {
		t.Fatalf("%d, %q, %d", len(r.Act), r.Object, len(r.Detail["k"]))
	}
	if err := l.Append(t.Context(), Record{Act: "x"}); err == nil {
		t.Fatal("a record without outcome was kept")
	}
}

func FuzzDecode(f *testing.F) {
	r := Record{ActID: "act_1", Time: start, Account: "ann", Act: "x", Address: ann.Address, Outcome: Done, Detail: map[string]string{"k": "v"}}
	data, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Fatal(err)
			}
			return
		}
		once, err := r.encode()
		if err != nil {
			return // too large
		}
		back, err := Decode(once)
		if err != nil || back.Outcome != r.Outcome || !back.Time.Equal(r.Time) {
			t.Fatalf("changes when written again: %+v, %v", back, err)
		}
	})
}
