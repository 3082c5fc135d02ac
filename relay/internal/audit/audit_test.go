package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/proof"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	ann   = access.Caller{Account: "ann", CredentialID: "tok", CredentialKind: "TOKEN", Address: netip.MustParseAddr("192.0.2.1"), Role: access.Operator}
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
	act := Act{
		Name: "endpoint.pause", Object: "ep_a", Tenant: "acme", Scope: access.EndpointsOperate, Reason: "holidays", RequestID: "r1",
		Before: []byte(`{"state":"ACTIVE"}`), After: []byte(`{"state":"PAUSED"}`), Detail: map[string]string{"k": "v"},
	}
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
		reason  string
		detail  map[string]string
	}{
		{Allowed, "holidays", map[string]string{"k": "v"}}, {Done, "", map[string]string{"state": "PAUSED"}},
		{Allowed, "holidays", map[string]string{"k": "v"}}, {Failed, "it broke", map[string]string{"state": "PAUSED"}},
		{Refused, "no scope", map[string]string{"k": "v"}},
	} {
		full := Record{
			ActID: got[i].ActID, Time: start, Account: "ann", Role: access.Operator, CredentialID: "tok", CredentialKind: "TOKEN", Address: ann.Address,
			Act: "endpoint.pause", Object: "ep_a", Tenant: "acme", Scope: access.EndpointsOperate, RequestID: "r1",
			Outcome: want.outcome, Reason: want.reason, Before: act.Before, After: act.After, Detail: want.detail,
		}
		if want.outcome == Done || want.outcome == Failed { // as the first record says
			full.Before, full.After = nil, nil
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

// While the log is not what its checkpoints say only that may be done which reads or accepts it.
func TestNothingIsDoneWhileHalted(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	l := New(s, time.Now)
	l.Guard(func() error { return errors.New("it was changed") })
	err := l.Do(t.Context(), ann, Act{Name: "x"}, func() (map[string]string, error) { t.Error("done"); return nil, nil })
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "it was changed") {
		t.Fatalf("got %v", err)
	}
	if got := read(t, s); len(got) != 1 || got[0].Outcome != Refused || got[0].Reason != "it was changed" {
		t.Fatalf("records: %+v", got)
	}
	done := false
	if err := l.Do(t.Context(), ann, Act{Name: "audit.accept", Anyway: true}, func() (map[string]string, error) { done = true; return nil, nil }); err != nil || !done {
		t.Fatalf("%v, done %v", err, done)
	}
}

// However often an account is refused, it has few records, and every refusal is in one or counted in one.
func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	now := start
	l := New(s, func() time.Time { return now })
	bob := access.Caller{Account: "bob"}
	const many = 2000
	refuse := func(c access.Caller, n int) {
		for range n {
			if err := l.Refuse(t.Context(), c, Act{Name: "x"}, "no"); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse(ann, many)
	refuse(bob, 1)
	if n := len(read(t, s)); n != accountBurst+1 {
		t.Errorf("%d records at once", n)
	}
	now = now.Add(accountEvery)
	refuse(ann, 1)
	got := read(t, s)
	if last := got[len(got)-1]; last.Account != "ann" || last.Omitted != many-accountBurst {
		t.Errorf("the next record: %+v", last)
	}
	refuse(ann, 7)
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got = read(t, s)
	if last := got[len(got)-1]; last.Account != "ann" || last.Omitted != 7 || last.Act != actOmitted || last.Outcome != Refused {
		t.Errorf("the flushed record: %+v", last)
	}
	total := uint64(0)
	for _, r := range got {
		total += r.Omitted
		if r.Act != actOmitted {
			total++
		}
	}
	if total != many+1+1+7 {
		t.Errorf("%d refusals are told of, and there were %d", total, many+9)
	}
	if err := l.Flush(t.Context()); err != nil || len(read(t, s)) != len(got) {
		t.Errorf("nothing more is to be told: %v", err)
	}
	// Many accounts take neither the log nor memory.
	for i := range 3 * maxAccounts {
		refuse(access.Caller{Account: fmt.Sprint("account-", i)}, 1)
	}
	if n := len(read(t, s)) - len(got); n > allBurst+20 {
		t.Errorf("%d records of many accounts", n)
	}
	if n := len(l.refusals.by); n > maxAccounts+1 {
		t.Errorf("%d accounts are remembered", n)
	}
	before := len(read(t, s))
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, s)) - before; n > maxFlushed+1 {
		t.Errorf("%d records of one flush", n)
	}
}

func TestRefusalThatCannotBeKeptIsCounted(t *testing.T) {
	t.Parallel()
	s := &failing{openStream(t), 1 << 20}
	now := start
	l := New(s, func() time.Time { return now })
	for range accountBurst + 5 {
		if err := l.Refuse(t.Context(), ann, Act{Name: "x"}, "no"); err != nil {
			t.Fatal(err)
		}
	}
	s.after = 0
	if err := l.Flush(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	s.after = 1 << 20
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := read(t, s.Stream.(*journal.Audit))
	if last := got[len(got)-1]; last.Omitted != 5 {
		t.Errorf("%+v", last)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	type view map[string]any
	long := strings.Repeat("x", maxMember)
	for name, c := range map[string]struct {
		before, after any
		was, now      string
	}{
		"nothing":  {view{"a": 1}, view{"a": 1}, "", ""},
		"one":      {view{"a": 1, "b": []int{1}}, view{"a": 1, "b": []int{2}}, `{"b":[1]}`, `{"b":[2]}`},
		"added":    {view{"a": 1}, view{"a": 1, "b": "x"}, "", `{"b":"x"}`},
		"gone":     {view{"a": 1, "b": "x"}, view{"a": 1}, `{"b":"x"}`, ""},
		"made":     {nil, view{"a": 1}, "", `{"a":1}`},
		"too long": {view{"a": "y"}, view{"a": long}, `{"a":"y"}`, `{"a":{"bytes":4098,"sha256":"` + sum(`"`+long+`"`) + `"}}`},
	} {
		if was, now := Changes(c.before, c.after); string(was) != c.was || string(now) != c.now {
			t.Errorf("%s: %s, %s", name, was, now)
		}
	}
	wide := view{}
	for i := range 100 {
		wide[fmt.Sprint(i)] = strings.Repeat("x", 3000)
	}
	if _, now := Changes(nil, wide); len(now) > maxChanges {
		t.Errorf("%d bytes", len(now))
	}
}

func sum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// noTree has no hashes.
type noTree struct{ Tree }

func (noTree) Checkpoint() (proof.Checkpoint, []byte) { return proof.Checkpoint{}, nil }

func TestList(t *testing.T) {
	t.Parallel()
	s := openStream(t)
	now := start
	l := New(s, func() time.Time { return now })
	r := Reader{Log: s, Tree: noTree{}}
	for i := range 700 {
		now = start.Add(time.Duration(i) * time.Minute)
		act, tenant := "endpoint.pause", "acme"
		if i%7 == 0 {
			act, tenant = "token.create", "globex"
		}
		if err := l.Append(t.Context(), Record{Act: act, Tenant: tenant, Account: "ann", Outcome: Done}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(q Query) (out []Entry) {
		t.Helper()
		for {
			page, err := r.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page.Entries...)
			if q.PageToken = page.NextPageToken; q.PageToken == "" {
				break
			}
		}
		for i := 1; i < len(out); i++ {
			if out[i].Seq >= out[i-1].Seq {
				t.Errorf("entry %d after %d", out[i].Seq, out[i-1].Seq)
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		q    Query
		want int
	}{
		"all":     {Query{PageSize: 13}, 700},
		"at once": {Query{PageSize: 1000}, 700},
		"tenant":  {Query{PageSize: 10, Tenant: "globex"}, 100},
		"act":     {Query{PageSize: 10, Act: "token.*"}, 100},
		"exact":   {Query{PageSize: 10, Act: "token"}, 0},
		"after":   {Query{PageSize: 10, After: start.Add(600 * time.Minute)}, 100},
		"before":  {Query{PageSize: 10, Before: start.Add(100 * time.Minute)}, 100},
		"between": {Query{PageSize: 7, After: start.Add(100 * time.Minute), Before: start.Add(110 * time.Minute)}, 10},
	} {
		if got := list(c.q); len(got) != c.want {
			t.Errorf("%s: %d entries", name, len(got))
		}
	}
	for _, token := range []string{"x", pageToken(5) + "=", "MDU"} {
		if _, err := r.List(t.Context(), Query{PageSize: 1, PageToken: token}); !errors.Is(err, ErrPageToken) {
			t.Errorf("token %q: %v", token, err)
		}
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
