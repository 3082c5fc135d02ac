// Package storetest is the conformance suite of relay.Ledger: each store runs it, against a model in maps and case by
// case. It trusts nothing but the port's documentation.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

// Place is an empty place for a ledger: each call opens what is there. The suite closes one before it opens the next.
type Place func() relay.Ledger

// Run runs the suite; fresh makes a place of its own for each test.
func Run(t *testing.T, fresh func(testing.TB) Place) {
	for name, test := range map[string]func(*testing.T, Place){
		"Position":        testPosition,
		"Reopen":          testReopen,
		"Fields":          testFields,
		"LastWins":        testLastWins,
		"States":          testStates,
		"History":         testHistory,
		"Events":          testEvents,
		"SecondLife":      testSecondLife,
		"Retold":          testRetold,
		"RetoldAlone":     testRetoldAlone,
		"Isolation":       testIsolation,
		"BadQueries":      testBadQueries,
		"BadOutcomes":     testBadOutcomes,
		"PageTokens":      testPageTokens,
		"PagesWhileAdded": testPagesWhileAdded,
		"ShortPages":      testShortPages,
		"TrimAge":         testTrimAge,
		"TrimBytes":       testTrimBytes,
		"TrimMany":        testTrimMany,
		"Concurrency":     testConcurrency,
		"Closed":          testClosed,
		"Cancelled":       testCancelled,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
	t.Run("Model", func(t *testing.T) {
		t.Parallel()
		rapid.Check(t, func(rt *rapid.T) { checkModel(rt, fresh(t)) })
	})
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// outcome is of delivery n's event to an endpoint: accepted n seconds after epoch.
func outcome(tenant string, n int, endpoint string, state relay.DeliveryState) relay.Outcome {
	event := fmt.Sprintf("evt-%d", n)
	o := relay.Outcome{
		DeliveryID: relay.DeliveryID(tenant, event, endpoint), Tenant: tenant, EndpointID: endpoint, EventID: event,
		EventType: "contact.updated", EventTime: epoch.Add(time.Duration(n)*time.Second - time.Minute),
		AcceptTime: epoch.Add(time.Duration(n) * time.Second), Seq: uint64(n) + 1,
		State: state, Reason: relay.ReasonAccepted, Time: epoch.Add(time.Duration(n)*time.Second + time.Millisecond),
		Deadline: epoch.Add(72 * time.Hour),
	}
	if state == relay.Delivered {
		o.Attempts, o.Attempt = 1, attempt(o.DeliveryID, 1)
	}
	return o
}

// attempt is the same for the same delivery and number.
func attempt(id string, number int) *relay.Attempt {
	sum := sha256.Sum256([]byte(fmt.Sprint(id, number)))
	digest := hex.EncodeToString(sum[:])
	a := &relay.Attempt{
		Number: number, StartTime: epoch.Add(time.Duration(number) * time.Minute), Verdict: relay.VerdictDone,
		Reason: relay.ReasonAccepted, StatusCode: 200, RemoteAddress: "203.0.113.7:443", TLSVersion: "TLS 1.3",
		Durations:                relay.Durations{DNS: 1, Connect: 2, TLS: 3, FirstByte: 4, Total: time.Second},
		ServerCertificateSubject: "CN=partner.example", ServerCertificateSHA256: digest,
		KeyID: "key-1", BodySHA256: strings.ToUpper(digest), ResponseSize: int64(sum[0]) * 20,
	}
	if sum[0] > 0 {
		a.ResponseBody = []byte(strings.Repeat("x", min(int(sum[0])*20, relay.MaxResponseKept)))
	}
	return a
}

// journal is a partition's log, and what puts it into a ledger.
type journal struct {
	partition int
	log       []relay.SequencedOutcome
}

func (j *journal) add(o relay.Outcome) *journal {
	o.Partition = j.partition
	j.log = append(j.log, relay.SequencedOutcome{Sequence: j.end() + 1, Outcome: o})
	return j
}

// join makes the last outcome part of the record before it.
func (j *journal) join() {
	if n := len(j.log); n > 1 {
		j.log[n-1].Sequence = j.log[n-2].Sequence
	}
}

func (j *journal) end() uint64 { return j.upTo(len(j.log)) }

// upTo is the sequence of the last of the first n outcomes.
func (j *journal) upTo(n int) uint64 {
	if n == 0 {
		return 0
	}
	return j.log[n-1].Sequence
}

// tb is what *testing.T and *rapid.T share.
type tb interface {
	Helper()
	Fatalf(string, ...any)
}

// apply applies the log from an index on.
func (j *journal) apply(t tb, l relay.Ledger, from int) {
	t.Helper()
	if err := l.Apply(context.Background(), j.partition, j.end(), j.log[from:]); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func position(t tb, l relay.Ledger, partition int) uint64 {
	t.Helper()
	at, err := l.Position(context.Background(), partition)
	if err != nil {
		t.Fatalf("position: %v", err)
	}
	return at
}

func same(t tb, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %.3000s\nwant %.3000s", what, show(got), show(want))
	}
}

// show is a value's text, with the long runs that make up responses cut.
func show(v any) string {
	return strings.ReplaceAll(fmt.Sprintf("%+v", v), "120 120 120 120 ", "")
}

func get(t tb, l relay.Ledger, tenant, id string) relay.DeliveryStatus {
	t.Helper()
	d, err := l.Delivery(context.Background(), tenant, id)
	if err != nil {
		t.Fatalf("delivery %s: %v", id, err)
	}
	return d
}

// walk reads every page.
func walk(t tb, l relay.Ledger, q relay.DeliveryQuery) []relay.DeliveryStatus {
	t.Helper()
	all := []relay.DeliveryStatus{}
	for pages := 0; ; pages++ {
		p, err := l.Deliveries(context.Background(), q)
		if err != nil {
			t.Fatalf("deliveries: %v", err)
		}
		if size := q.PageSize; size > 0 && len(p.Deliveries) > size || len(p.Deliveries) > relay.MaxPageSize {
			t.Fatalf("a page of %d, asked for %d", len(p.Deliveries), size)
		}
		all = append(all, p.Deliveries...)
		if p.NextPageToken == "" {
			return all
		}
		if pages > 100_000 {
			t.Fatalf("no last page")
		}
		q.PageToken = p.NextPageToken
	}
}

func ids(all []relay.DeliveryStatus) []string {
	out := []string{}
	for _, d := range all {
		out = append(out, d.ID)
	}
	return out
}

func opened(t *testing.T, place Place) relay.Ledger {
	l := place()
	t.Cleanup(func() { l.Close() })
	return l
}

func testPosition(t *testing.T, place Place) {
	l := opened(t, place)
	ctx := context.Background()
	if at := position(t, l, 0); at != 0 {
		t.Fatalf("a new ledger's position is %d", at)
	}
	j := &journal{}
	for n := range 10 {
		j.add(outcome("acme", n, "ep_1", relay.Delivered))
	}
	if err := l.Apply(ctx, 0, 4, j.log[:4]); err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(ctx, 0, 7, j.log[2:7]); err != nil { // overlaps what was applied
		t.Fatal(err)
	}
	if err := l.Apply(ctx, 0, 3, j.log[:3]); err != nil { // all of it was
		t.Fatal(err)
	}
	if at := position(t, l, 0); at != 7 {
		t.Fatalf("position %d, want 7", at)
	}
	if err := l.Apply(ctx, 0, 9, nil); err != nil { // records that are no outcomes
		t.Fatal(err)
	}
	if at := position(t, l, 0); at != 9 {
		t.Fatalf("position %d, want 9", at)
	}
	if at := position(t, l, 3); at != 0 {
		t.Fatalf("another partition's position is %d", at)
	}
	if n := len(walk(t, l, relay.DeliveryQuery{Tenant: "acme"})); n != 7 {
		t.Fatalf("%d deliveries, want 7", n)
	}
	if err := l.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}

func testReopen(t *testing.T, place Place) {
	l := place()
	j := &journal{partition: 5}
	j.add(outcome("acme", 1, "ep_1", relay.Delivered)).add(outcome("acme", 2, "ep_1", relay.Parked))
	j.apply(t, l, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = opened(t, place)
	if at := position(t, l, 5); at != 2 {
		t.Fatalf("position %d after reopening, want 2", at)
	}
	// A delivery that was parked before the restart and is delivered at its first attempt leaves the list of parked ones.
	j.add(outcome("acme", 2, "ep_1", relay.Delivered))
	j.apply(t, l, 2)
	for state, want := range map[relay.DeliveryState]int{relay.Parked: 0, relay.Delivered: 2} {
		if got := walk(t, l, relay.DeliveryQuery{Tenant: "acme", State: state}); len(got) != want {
			t.Fatalf("%d %s after reopening, want %d", len(got), state, want)
		}
	}
}

func testFields(t *testing.T, place Place) {
	l := opened(t, place)
	full := outcome("acme", 1, "ep_1", relay.Retrying)
	full.Attempts, full.Redacted, full.Due = 2, 3, epoch.Add(time.Hour)
	full.EventTime = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC) // the latest that is allowed
	full.Progress = relay.Progress{Digest: sha256.Sum256([]byte("x")), Next: 2, Total: 3}
	full.Attempt = attempt(full.DeliveryID, 2)
	full.Attempt.Chunk, full.Attempt.ChunkTotal = 2, 3
	full.Attempt.ResponseBody = []byte("\x00\xff answer")
	bare := relay.Outcome{DeliveryID: relay.DeliveryID("acme", "e", "ep_2"), Tenant: "acme", EndpointID: "ep_2", EventID: "e",
		EventType: "deal.won", AcceptTime: epoch, State: relay.Withheld, Reason: relay.ReasonFilterFailed, Time: epoch}
	j := (&journal{}).add(full).add(bare)
	j.apply(t, l, 0)
	m := newModel()
	m.apply(0, j.end(), j.log)
	for _, o := range []relay.Outcome{full, bare} {
		want, _ := m.delivery("acme", o.DeliveryID)
		same(t, "delivery", get(t, l, "acme", o.DeliveryID), want)
	}
	same(t, "list", walk(t, l, relay.DeliveryQuery{Tenant: "acme"}), m.list(relay.DeliveryQuery{Tenant: "acme"}))
}

func testLastWins(t *testing.T, place Place) {
	l := opened(t, place)
	j := (&journal{}).
		add(outcome("acme", 1, "ep_1", relay.Retrying)).
		add(outcome("acme", 1, "ep_1", relay.Dead)).
		add(outcome("acme", 1, "ep_1", relay.Pending)).
		add(outcome("acme", 1, "ep_1", relay.Delivered)).
		add(outcome("acme", 1, "ep_1", relay.Cancelled))
	id := j.log[0].DeliveryID
	for n := range j.log {
		part := &journal{log: j.log[:n+1]}
		part.apply(t, l, 0) // each time from the beginning of the log
		if got := get(t, l, "acme", id).State; got != j.log[n].State {
			t.Fatalf("after outcome %d: %s, want %s", n, got, j.log[n].State)
		}
		for _, state := range relay.DeliveryStates() {
			for _, q := range []relay.DeliveryQuery{{Tenant: "acme"}, {Tenant: "acme", EndpointID: "ep_1"}, {AllTenants: true}} {
				q.State = state
				want := 0
				if state == j.log[n].State {
					want = 1
				}
				if got := walk(t, l, q); len(got) != want {
					t.Fatalf("after outcome %d: %d in %s, want %d", n, len(got), state, want)
				}
			}
		}
	}
}

func testStates(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	m := newModel()
	for n := range 160 {
		j.add(outcome("acme", n, fmt.Sprintf("ep_%d", n%3), relay.DeliveryStates()[n%8]))
	}
	j.apply(t, l, 0)
	m.apply(0, j.end(), j.log)
	for _, state := range append(relay.DeliveryStates(), "") {
		for _, endpoint := range []string{"", "ep_0", "ep_2", "ep_9"} {
			for _, size := range []int{1, 7, 0, relay.MaxPageSize} {
				for _, oldest := range []bool{false, true} {
					q := relay.DeliveryQuery{Tenant: "acme", State: state, EndpointID: endpoint, Oldest: oldest, PageSize: size}
					same(t, fmt.Sprintf("%+v", q), walk(t, l, q), m.list(q))
				}
			}
		}
	}
}

func testHistory(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	m := newModel()
	const total = 250
	made := 0
	for n := range total {
		o := outcome("acme", 1, "ep_1", relay.Retrying)
		if n%50 != 49 { // each fiftieth is a change without an attempt
			made++
			o.Attempt = attempt(o.DeliveryID, made)
		}
		o.Attempts = made
		j.add(o)
	}
	id := j.log[0].DeliveryID
	for from := 0; from < total; from += 40 { // some groups hold the edge of what is kept
		part := &journal{log: j.log[:min(from+40, total)]}
		part.apply(t, l, from)
		m.apply(0, part.end(), part.log)
		want, _ := m.delivery("acme", id)
		same(t, "history", get(t, l, "acme", id), want)
	}
	got := get(t, l, "acme", id).History
	if len(got) != relay.MaxAttemptsKept || got[0].Number != 1 || got[len(got)-1].Number != made {
		t.Fatalf("%d attempts from %d to %d", len(got), got[0].Number, got[len(got)-1].Number)
	}
	if list := walk(t, l, relay.DeliveryQuery{Tenant: "acme"}); list[0].History != nil {
		t.Fatalf("a list shows attempts")
	}
}

func testEvents(t *testing.T, place Place) {
	l := opened(t, place)
	ctx := context.Background()
	unmatched := outcome("acme", 1, "", relay.Unmatched)
	unmatched.DeliveryID = ""
	j := (&journal{}).add(unmatched).add(outcome("acme", 2, "ep_1", relay.Parked)).add(outcome("acme", 2, "ep_2", relay.Dead))
	j.apply(t, l, 0)
	for n, matched := range map[int]bool{1: false, 2: true} {
		e, err := l.Event(ctx, "acme", fmt.Sprintf("evt-%d", n))
		if err != nil || e.Matched != matched || !e.AcceptTime.Equal(epoch.Add(time.Duration(n)*time.Second)) || e.Seq != uint64(n)+1 {
			t.Fatalf("event %d: %+v, %v", n, e, err)
		}
	}
	for _, ask := range [][2]string{{"acme", "evt-3"}, {"other", "evt-1"}, {"other", "evt-2"}, {"acme", ""}, {"", "evt-1"}, {"acme", "a\x00b"}} {
		if _, err := l.Event(ctx, ask[0], ask[1]); !errors.Is(err, relay.ErrNotFound) {
			t.Fatalf("event %q: %v", ask, err)
		}
	}
	if got := walk(t, l, relay.DeliveryQuery{AllTenants: true}); len(got) != 2 {
		t.Fatalf("an unmatched event is listed: %v", ids(got))
	}
	for _, id := range []string{"", "\x00acme\x00evt-1", "dlv_none", strings.Repeat("x", 10_000)} {
		if _, err := l.Delivery(ctx, "acme", id); !errors.Is(err, relay.ErrNotFound) {
			t.Fatalf("delivery %.20q: %v", id, err)
		}
	}
}

// testSecondLife: after the idempotency window, an event may be accepted again under its id; its deliveries have the ids
// that they had.
func testSecondLife(t *testing.T, place Place) {
	for _, first := range []relay.DeliveryState{relay.Delivered, relay.Parked, relay.Dead} {
		for _, second := range []relay.DeliveryState{relay.Delivered, relay.Retrying} {
			tenant := strings.ToLower(string(first + "-" + second))
			t.Run(tenant, func(t *testing.T) {
				l := opened(t, place)
				m := newModel()
				again := outcome(tenant, 1, "ep_1", second)
				again.AcceptTime, again.EventType, again.Seq = epoch.Add(time.Hour), "contact.created", 99
				j := (&journal{}).add(outcome(tenant, 1, "ep_1", first)).add(outcome(tenant, 2, "ep_1", relay.Delivered)).add(again)
				j.partition = len(tenant) * 100
				j.partition += int(second[0]) + int(first[1])*1000
				for i := range j.log {
					j.log[i].Partition = j.partition
				}
				(&journal{partition: j.partition, log: j.log[:2]}).apply(t, l, 0)
				j.apply(t, l, 2)
				m.apply(j.partition, j.end(), j.log)
				for _, q := range []relay.DeliveryQuery{
					{}, {EndpointID: "ep_1"}, {EventID: "evt-1"}, {EventType: "contact.updated"}, {EventType: "contact.created"},
					{State: first}, {State: second}, {State: first, EndpointID: "ep_1"}, {Before: epoch.Add(time.Minute)},
				} {
					q.Tenant = tenant
					same(t, fmt.Sprintf("%+v", q), walk(t, l, q), m.list(q))
				}
				want, _ := m.event(tenant, "evt-1")
				got, err := l.Event(context.Background(), tenant, "evt-1")
				if err != nil {
					t.Fatal(err)
				}
				same(t, "event", got, want)
				d, _ := m.delivery(tenant, again.DeliveryID)
				same(t, "delivery", get(t, l, tenant, again.DeliveryID), d)
				l.Close()
			})
		}
	}
}

func testIsolation(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	m := newModel()
	tenants := []string{"a", "ab", "a-b", "b"} // prefixes of each other
	for n := range 40 {
		j.add(outcome(tenants[n%4], n/8, "ep_same", relay.DeliveryStates()[n%5]))
	}
	j.apply(t, l, 0)
	m.apply(0, j.end(), j.log)
	for _, tenant := range append(tenants, "nobody") {
		for _, q := range []relay.DeliveryQuery{
			{}, {EndpointID: "ep_same"}, {EventID: "evt-1"}, {EventType: "contact.*"}, {EventType: "contact.updated"},
			{State: relay.Delivered}, {State: relay.Parked, EndpointID: "ep_same"}, {EventID: "evt-2", State: relay.Held},
		} {
			q.Tenant = tenant
			got := walk(t, l, q)
			same(t, fmt.Sprintf("%+v", q), got, m.list(q))
			for _, d := range got {
				if d.Tenant != tenant {
					t.Fatalf("%s was shown a delivery of %s", tenant, d.Tenant)
				}
			}
		}
		for id, d := range m.deliveries {
			if _, err := l.Delivery(context.Background(), tenant, id); (err == nil) != (d.last.Tenant == tenant) || err != nil && !errors.Is(err, relay.ErrNotFound) {
				t.Fatalf("%s asks for a delivery of %s: %v", tenant, d.last.Tenant, err)
			}
		}
	}
	for _, q := range []relay.DeliveryQuery{{PageSize: 3}, {EndpointID: "ep_same"}, {EventID: "evt-3", PageSize: 1}, {State: relay.Parked}, {EventType: "contact.updated"}} {
		q.AllTenants = true
		same(t, fmt.Sprintf("%+v", q), walk(t, l, q), m.list(q))
	}
}

func testBadQueries(t *testing.T, place Place) {
	l := opened(t, place)
	for field, q := range map[string]relay.DeliveryQuery{
		"tenant":     {},
		"tenant ":    {Tenant: "No Tenant"},
		"pageSize":   {Tenant: "acme", PageSize: -1},
		"pageSize ":  {Tenant: "acme", PageSize: relay.MaxPageSize + 1},
		"state":      {Tenant: "acme", State: "LOST"},
		"state ":     {Tenant: "acme", State: relay.Unmatched},
		"eventType":  {Tenant: "acme", EventType: "contact*"},
		"endpointId": {Tenant: "acme", EndpointID: strings.Repeat("x", 10_000)},
		"eventId":    {Tenant: "acme", EventID: strings.Repeat("x", 10_000)},
	} {
		_, err := l.Deliveries(context.Background(), q)
		var bad relay.Invalid
		if !errors.As(err, &bad) || len(bad) != 1 || bad[0].Field != strings.TrimSpace(field) {
			t.Fatalf("%s: %v", field, err)
		}
	}
}

func testBadOutcomes(t *testing.T, place Place) {
	l := opened(t, place)
	good := outcome("acme", 1, "ep_1", relay.Dead)
	for name, change := range map[string]func(*relay.SequencedOutcome){
		"sequence 0":        func(o *relay.SequencedOutcome) { o.Sequence = 0 },
		"sequence too high": func(o *relay.SequencedOutcome) { o.Sequence = 2 },
		"partition":         func(o *relay.SequencedOutcome) { o.Partition = 7 },
		"state":             func(o *relay.SequencedOutcome) { o.State = "LOST" },
		"tenant":            func(o *relay.SequencedOutcome) { o.Tenant = "A}{B" },
		"no event":          func(o *relay.SequencedOutcome) { o.EventID = "" },
		"no id":             func(o *relay.SequencedOutcome) { o.DeliveryID = "" },
		"odd id":            func(o *relay.SequencedOutcome) { o.DeliveryID = "\x00x" },
		"long endpoint":     func(o *relay.SequencedOutcome) { o.EndpointID = strings.Repeat("x", 10_000) },
	} {
		o := relay.SequencedOutcome{Sequence: 1, Outcome: good}
		change(&o)
		if err := l.Apply(context.Background(), 0, 1, []relay.SequencedOutcome{o}); err == nil {
			t.Fatalf("%s: applied", name)
		}
	}
	if at := position(t, l, 0); at != 0 {
		t.Fatalf("position %d after nothing was applied", at)
	}
}

func testPageTokens(t *testing.T, place Place) {
	l := opened(t, place)
	ctx := context.Background()
	j := &journal{}
	for n := range 9 {
		j.add(outcome("acme", n, "ep_1", relay.Parked))
	}
	j.apply(t, l, 0)
	q := relay.DeliveryQuery{Tenant: "acme", EndpointID: "ep_1", PageSize: 3}
	p, err := l.Deliveries(ctx, q)
	if err != nil || p.NextPageToken == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	token := p.NextPageToken
	for name, other := range map[string]relay.DeliveryQuery{
		"tenant":   {Tenant: "other", EndpointID: "ep_1"},
		"all":      {Tenant: "acme", AllTenants: true, EndpointID: "ep_1"},
		"endpoint": {Tenant: "acme", EndpointID: "ep_2"},
		"moved":    {Tenant: "acme", EventID: "ep_1"},
		"event":    {Tenant: "acme", EndpointID: "ep_1", EventID: "evt-1"},
		"type":     {Tenant: "acme", EndpointID: "ep_1", EventType: "contact.*"},
		"state":    {Tenant: "acme", EndpointID: "ep_1", State: relay.Parked},
		"after":    {Tenant: "acme", EndpointID: "ep_1", After: epoch},
		"before":   {Tenant: "acme", EndpointID: "ep_1", Before: epoch},
		"oldest":   {Tenant: "acme", EndpointID: "ep_1", Oldest: true},
	} {
		other.PageToken = token
		if _, err := l.Deliveries(ctx, other); !errors.Is(err, relay.ErrPageToken) {
			t.Fatalf("a token of another query (%s): %v", name, err)
		}
	}
	for i := range len(token) {
		for _, with := range []string{"", "A", "_", "=", "\n"} {
			spoilt := token[:i] + with + token[i+1:]
			if spoilt == token {
				continue
			}
			q.PageToken = spoilt
			if _, err := l.Deliveries(ctx, q); !errors.Is(err, relay.ErrPageToken) {
				t.Fatalf("token spoilt at %d: %v", i, err)
			}
		}
	}
	for _, bad := range []string{"x", "!", token + "A", token + "\n", strings.Repeat("A", 1<<20)} {
		q.PageToken = bad
		if _, err := l.Deliveries(ctx, q); !errors.Is(err, relay.ErrPageToken) {
			t.Fatalf("token %.20q: %v", bad, err)
		}
	}
	q.PageToken, q.PageSize = token, 100 // another size is no other query
	p, err = l.Deliveries(ctx, q)
	if err != nil || len(p.Deliveries) != 6 || p.NextPageToken != "" {
		t.Fatalf("%d, %q, %v", len(p.Deliveries), p.NextPageToken, err)
	}
	// A page that takes in the last delivery is the last.
	q.PageToken, q.PageSize = "", 9
	if p, err = l.Deliveries(ctx, q); err != nil || len(p.Deliveries) != 9 || p.NextPageToken != "" {
		t.Fatalf("%d, %q, %v", len(p.Deliveries), p.NextPageToken, err)
	}
}

func testPagesWhileAdded(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	for n := range 60 {
		j.add(outcome("acme", n, "ep_1", relay.Parked))
	}
	j.apply(t, l, 0)
	for _, q := range []relay.DeliveryQuery{{Tenant: "acme"}, {Tenant: "acme", EndpointID: "ep_1"}, {Tenant: "acme", EventType: "contact.updated"}, {AllTenants: true}} {
		q.PageSize = 7
		want := ids(walk(t, l, relay.DeliveryQuery{Tenant: "acme", PageSize: 1000}))
		var got []string
		for more := true; more; {
			p, err := l.Deliveries(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ids(p.Deliveries)...)
			q.PageToken, more = p.NextPageToken, p.NextPageToken != ""
			n := len(j.log) // new ones come, and the state of old ones changes
			j.add(outcome("acme", n, "ep_1", relay.Retrying)).add(outcome("acme", n%50, "ep_1", relay.DeliveryStates()[n%8]))
			j.apply(t, l, n)
		}
		same(t, "pages", got, want)
	}
}

// testShortPages: a query that its index narrows little costs a bounded number of entries a page.
func testShortPages(t *testing.T, place Place) {
	l := opened(t, place)
	const many, group = 100_200, 5000
	j := &journal{}
	for n := range many {
		o := outcome("acme", n, "ep_1", relay.Parked)
		o.State, o.Attempts, o.Attempt = relay.Delivered, 1, &relay.Attempt{Number: 1}
		if n == 3 {
			o.EventType = "deal.won"
		}
		j.add(o)
		if len(j.log)%group == 0 || n == many-1 {
			j.apply(t, l, n/group*group)
		}
	}
	q := relay.DeliveryQuery{Tenant: "acme", EndpointID: "ep_1", EventType: "deal.*"}
	p, err := l.Deliveries(context.Background(), q)
	if err != nil || len(p.Deliveries) != 0 || p.NextPageToken == "" {
		t.Fatalf("first page: %d, %q, %v", len(p.Deliveries), p.NextPageToken, err)
	}
	if got := walk(t, l, q); len(got) != 1 || got[0].EventType != "deal.won" {
		t.Fatalf("%v", ids(got))
	}
	q.EventType, q.EndpointID = "deal.won", "" // which has an index
	if p, err = l.Deliveries(context.Background(), q); err != nil || len(p.Deliveries) != 1 || p.NextPageToken != "" {
		t.Fatalf("by type: %d, %q, %v", len(p.Deliveries), p.NextPageToken, err)
	}
}

func trim(t tb, l relay.Ledger, before time.Time, bytes int64) int {
	t.Helper()
	n, err := l.Trim(context.Background(), before, bytes)
	if err != nil {
		t.Fatalf("trim: %v", err)
	}
	return n
}

func testTrimAge(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	m := newModel()
	for n := range 80 {
		j.add(outcome([]string{"a", "b"}[n%2], n, fmt.Sprintf("ep_%d", n%3), relay.DeliveryStates()[n%8]))
	}
	for n := range 10 {
		o := outcome("a", n*10, "", relay.Unmatched)
		o.DeliveryID, o.EventID = "", "un-"+o.EventID
		j.add(o)
	}
	j.apply(t, l, 0)
	m.apply(0, j.end(), j.log)
	if n := trim(t, l, time.Time{}, 0); n != 0 {
		t.Fatalf("%d removed without a bound", n)
	}
	for _, before := range []time.Time{epoch, epoch.Add(33 * time.Second), epoch.Add(33 * time.Second), epoch.Add(time.Hour)} {
		want := m.trim(before)
		if n := trim(t, l, before, 0); n != want {
			t.Fatalf("%d removed before %v, want %d", n, before, want)
		}
		q := relay.DeliveryQuery{AllTenants: true}
		same(t, "what is left", walk(t, l, q), m.list(q))
		for n := range 80 {
			for _, id := range []string{fmt.Sprintf("evt-%d", n), fmt.Sprintf("un-evt-%d", n)} {
				tenant := []string{"a", "b"}[n%2]
				_, stays := m.event(tenant, id)
				if _, err := l.Event(context.Background(), tenant, id); (err == nil) != stays {
					t.Fatalf("event %s: stays %v, %v", id, stays, err)
				}
			}
		}
	}
	for _, d := range walk(t, l, relay.DeliveryQuery{AllTenants: true}) {
		if d.State.Terminal() {
			t.Fatalf("a settled one is left: %+v", d)
		}
	}
	// An open one that is settled now goes with the next.
	at := len(j.log)
	for n := range 80 {
		j.add(outcome([]string{"a", "b"}[n%2], n, fmt.Sprintf("ep_%d", n%3), relay.Cancelled))
	}
	j.apply(t, l, at)
	if n := trim(t, l, epoch.Add(time.Hour), 0); n != 80 {
		t.Fatalf("%d removed, want 80", n)
	}
}

func testTrimBytes(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	const many = 3000
	for n := range many {
		state := relay.Delivered
		if n%10 == 0 {
			state = relay.Parked
		}
		j.add(outcome([]string{"a", "b", "c"}[n%3], n, "ep_1", state))
	}
	j.apply(t, l, 0)
	if n := trim(t, l, time.Time{}, 1<<40); n != 0 {
		t.Fatalf("%d removed below the bound", n)
	}
	removed := trim(t, l, time.Time{}, 2<<20)
	left := walk(t, l, relay.DeliveryQuery{AllTenants: true, State: relay.Delivered, PageSize: 1000})
	if removed == 0 || len(left) == 0 || removed+len(left) != many*9/10 {
		t.Fatalf("%d removed and %d left of %d", removed, len(left), many*9/10)
	}
	oldest := left[len(left)-1].AcceptTime // the oldest went: exactly those up to a time
	for n := range many {
		o := &j.log[n]
		if o.State != relay.Delivered {
			continue
		}
		_, err := l.Delivery(context.Background(), o.Tenant, o.DeliveryID)
		if stays := !o.AcceptTime.Before(oldest); stays != (err == nil) {
			t.Fatalf("delivery %d: stays %v, %v", n, stays, err)
		}
	}
	if n := trim(t, l, time.Time{}, 2<<20); n != 0 {
		t.Fatalf("%d more removed by the same bound", n)
	}
	if n := trim(t, l, time.Time{}, 1); n != len(left) {
		t.Fatalf("%d removed by a bound of one byte, want %d", n, len(left))
	}
	if open := walk(t, l, relay.DeliveryQuery{AllTenants: true, PageSize: 1000}); len(open) != many/10 {
		t.Fatalf("%d open ones left, want %d", len(open), many/10)
	}
}

// testTrimMany is more than one step of any store, with attempts that stand beside their records.
func testTrimMany(t *testing.T, place Place) {
	l := opened(t, place)
	j := &journal{}
	const many = 2500
	for n := range many {
		o := outcome("acme", n, "ep_1", relay.Dead)
		o.Attempts, o.Attempt = 2, attempt(o.DeliveryID, 2)
		j.add(o)
	}
	j.apply(t, l, 0)
	if n := trim(t, l, epoch.Add(many*time.Second-time.Hour+time.Hour), 0); n != many {
		t.Fatalf("%d removed, want %d", n, many)
	}
	if got := walk(t, l, relay.DeliveryQuery{AllTenants: true}); len(got) != 0 {
		t.Fatalf("%d left", len(got))
	}
	if n := trim(t, l, time.Time{}, 1); n != 0 {
		t.Fatalf("%d removed of nothing", n)
	}
}

// testConcurrency: one writer a partition, and readers and Trim beside them. Run it with the race detector.
func testConcurrency(t *testing.T, place Place) {
	l := opened(t, place)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var writers, readers sync.WaitGroup
	for partition := range 2 {
		writers.Go(func() {
			j := &journal{partition: partition}
			tenant := []string{"a", "b"}[partition]
			for n := range 1500 {
				j.add(outcome(tenant, n, "ep_1", relay.Parked)).add(outcome(tenant, n/2, "ep_1", relay.Delivered))
				if n%50 != 49 {
					continue
				}
				if err := l.Apply(context.Background(), partition, j.end(), j.log[len(j.log)-100:]); err != nil {
					t.Errorf("apply: %v", err)
					return
				}
			}
		})
	}
	for n := range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := readOnce(l, n); err != nil {
					t.Errorf("reader: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
	for _, tenant := range []string{"a", "b"} {
		parked := walk(t, l, relay.DeliveryQuery{Tenant: tenant, State: relay.Parked, PageSize: 1000})
		if len(parked) != 750 {
			t.Fatalf("%d parked, want 750", len(parked))
		}
	}
}

func readOnce(l relay.Ledger, n int) error {
	ctx := context.Background()
	q := []relay.DeliveryQuery{{Tenant: "a"}, {Tenant: "b", EndpointID: "ep_1", State: relay.Parked}, {AllTenants: true, State: relay.Delivered}}[n]
	q.PageSize = 20
	p, err := l.Deliveries(ctx, q)
	if err != nil {
		return err
	}
	for i, d := range p.Deliveries {
		if q.Tenant != "" && d.Tenant != q.Tenant || q.State != "" && d.State != q.State {
			return fmt.Errorf("%+v is not what %+v asks for", d, q)
		}
		if i > 0 && !d.AcceptTime.Before(p.Deliveries[i-1].AcceptTime) && d.ID >= p.Deliveries[i-1].ID {
			return fmt.Errorf("order of %s and %s", p.Deliveries[i-1].ID, d.ID)
		}
		if _, err := l.Delivery(ctx, d.Tenant, d.ID); err != nil && !errors.Is(err, relay.ErrNotFound) {
			return err
		}
	}
	if _, err := l.Event(ctx, "a", "evt-3"); err != nil && !errors.Is(err, relay.ErrNotFound) {
		return err
	}
	_, err = l.Trim(ctx, epoch.Add(100*time.Second), 0)
	return err
}

func testClosed(t *testing.T, place Place) {
	l := place()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("a second Close: %v", err)
	}
	ctx := context.Background()
	_, position := l.Position(ctx, 0)
	_, delivery := l.Delivery(ctx, "acme", "dlv_1")
	_, event := l.Event(ctx, "acme", "evt-1")
	_, list := l.Deliveries(ctx, relay.DeliveryQuery{Tenant: "acme"})
	_, trim := l.Trim(ctx, epoch, 0)
	for name, err := range map[string]error{"Position": position, "Delivery": delivery, "Event": event, "Deliveries": list, "Trim": trim,
		"Ping": l.Ping(ctx), "Apply": l.Apply(ctx, 0, 1, nil)} {
		if err == nil || errors.Is(err, relay.ErrNotFound) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
}

func testCancelled(t *testing.T, place Place) {
	l := opened(t, place)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o := relay.SequencedOutcome{Sequence: 1, Outcome: outcome("acme", 1, "ep_1", relay.Dead)}
	if err := l.Apply(ctx, 0, 1, []relay.SequencedOutcome{o}); !errors.Is(err, context.Canceled) {
		t.Fatalf("apply: %v", err)
	}
	if _, err := l.Deliveries(ctx, relay.DeliveryQuery{Tenant: "acme"}); !errors.Is(err, context.Canceled) {
		t.Fatalf("deliveries: %v", err)
	}
	if at := position(t, l, 0); at != 0 {
		t.Fatalf("position %d", at)
	}
}
