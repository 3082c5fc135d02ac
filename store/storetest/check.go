package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
)

// machine runs a ledger and the model side by side.
type machine struct {
	place    Place
	ledger   relay.Ledger
	model    *model
	journals [2]*journal
	attempts map[string]int // made so far, by delivery and life
	lives    map[string]int
}

var (
	checkTenants   = []string{"a", "ab", "b-1"}
	checkEndpoints = []string{"ep_1", "ep_2", "ep:3"}
	checkTypes     = []string{"contact.updated", "contact.deleted", "contact", "deal.won"}
)

const checkEvents = 6

// checkModel does things in any order, and compares every answer.
func checkModel(t *rapid.T, place Place) {
	m := &machine{place: place, ledger: place(), model: newModel(), attempts: map[string]int{}, lives: map[string]int{}}
	defer func() { m.ledger.Close() }()
	for i := range m.journals {
		m.journals[i] = &journal{partition: i}
	}
	t.Repeat(map[string]func(*rapid.T){
		"":         func(*rapid.T) {},
		"apply":    m.apply,
		"again":    m.apply,
		"reopen":   m.reopen,
		"list":     m.list,
		"lists":    m.list,
		"delivery": m.delivery,
		"event":    m.event,
		"trim":     m.trim,
	})
	m.all(t)
}

func (m *machine) event(t *rapid.T) {
	tenant := rapid.SampledFrom(checkTenants).Draw(t, "tenant")
	id := fmt.Sprintf("evt-%d", rapid.IntRange(0, checkEvents).Draw(t, "event"))
	want, ok := m.model.event(tenant, id)
	got, err := m.ledger.Event(context.Background(), tenant, id)
	if !ok && errors.Is(err, relay.ErrNotFound) {
		return
	}
	if !ok || err != nil {
		t.Fatalf("event %s: %+v, %v; want %v", id, got, err, ok)
	}
	same(t, "event", got, want)
}

// draw makes an outcome. An event's accept time is one of a life of its own; attempts are numbered through a life.
func (m *machine) draw(t *rapid.T) (partition int, o relay.Outcome) {
	tenant := rapid.IntRange(0, len(checkTenants)-1).Draw(t, "tenant")
	event := rapid.IntRange(0, checkEvents-1).Draw(t, "event")
	o = outcome(checkTenants[tenant], event/2, rapid.SampledFrom(checkEndpoints).Draw(t, "endpoint"), relay.Pending)
	o.EventID = fmt.Sprintf("evt-%d", event)
	o.DeliveryID = relay.DeliveryID(o.Tenant, o.EventID, o.EndpointID)
	o.Attempt, o.Attempts = nil, 0
	name := o.Tenant + "/" + o.EventID
	if rapid.IntRange(0, 15).Draw(t, "life") == 0 {
		m.lives[name]++
	}
	life := m.lives[name]
	if life > 0 { // an earlier time is as good: clocks are set back
		o.AcceptTime = o.AcceptTime.Add(time.Duration(life*(1-life%2*2)) * time.Hour)
	}
	o.EventType = checkTypes[(event+life)%len(checkTypes)]
	if rapid.IntRange(0, 7).Draw(t, "unmatched") == 0 {
		o.State, o.DeliveryID, o.EndpointID = relay.Unmatched, "", ""
		return tenant % 2, o
	}
	o.State = rapid.SampledFrom(append(relay.DeliveryStates(), relay.Delivered, relay.Delivered, relay.Delivered)).Draw(t, "state")
	o.Reason = rapid.SampledFrom([]relay.Reason{relay.ReasonNone, relay.ReasonAccepted, relay.ReasonTimeout}).Draw(t, "reason")
	key := fmt.Sprint(o.DeliveryID, life)
	if rapid.Bool().Draw(t, "attempted") {
		m.attempts[key]++
		o.Attempt = attempt(key, m.attempts[key])
	}
	o.Attempts = m.attempts[key]
	return tenant % 2, o
}

// apply adds to the logs, and applies each from the position or from anywhere before it, whole or in part.
func (m *machine) apply(t *rapid.T) {
	for range rapid.IntRange(0, 12).Draw(t, "outcomes") {
		partition, o := m.draw(t)
		m.journals[partition].add(o)
		if rapid.Bool().Draw(t, "one record") {
			m.journals[partition].join()
		}
	}
	for _, j := range m.journals {
		at, _ := slices.BinarySearchFunc(j.log, m.model.positions[j.partition]+1, func(o relay.SequencedOutcome, seq uint64) int {
			return cmp.Compare(o.Sequence, seq)
		})
		from := at - rapid.IntRange(0, at).Draw(t, "again")
		to := len(j.log) - rapid.IntRange(0, len(j.log)-from).Draw(t, "kept back")
		for 0 < to && to < len(j.log) && j.log[to].Sequence == j.upTo(to) {
			to++
		}
		if err := m.ledger.Apply(context.Background(), j.partition, j.upTo(to), j.log[from:to]); err != nil {
			t.Fatalf("apply: %v", err)
		}
		m.model.apply(j.partition, j.upTo(to), j.log[from:to])
		if got, want := position(t, m.ledger, j.partition), m.model.positions[j.partition]; got != want {
			t.Fatalf("position %d, want %d", got, want)
		}
	}
}

func (m *machine) reopen(t *rapid.T) {
	if err := m.ledger.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.ledger = m.place()
	for _, j := range m.journals {
		if got, want := position(t, m.ledger, j.partition), m.model.positions[j.partition]; got != want {
			t.Fatalf("position %d after reopening, want %d", got, want)
		}
	}
}

func (m *machine) list(t *rapid.T) {
	var q relay.DeliveryQuery
	if rapid.IntRange(0, 3).Draw(t, "all") == 0 {
		q.AllTenants = true
	} else {
		q.Tenant = rapid.SampledFrom(checkTenants).Draw(t, "tenant")
	}
	maybe := func(name string) bool { return rapid.IntRange(0, 2).Draw(t, name) == 0 }
	if maybe("by endpoint") {
		q.EndpointID = rapid.SampledFrom(checkEndpoints).Draw(t, "endpoint")
	}
	if maybe("by event") {
		q.EventID = fmt.Sprintf("evt-%d", rapid.IntRange(0, checkEvents-1).Draw(t, "event"))
	}
	if maybe("by type") {
		q.EventType = rapid.SampledFrom(append([]string{"*", "contact.*", "deal.*", "nothing"}, checkTypes...)).Draw(t, "type")
	}
	if maybe("by state") {
		q.State = rapid.SampledFrom(relay.DeliveryStates()).Draw(t, "state")
	}
	if maybe("after") {
		q.After = drawTime(t, "after time")
	}
	if maybe("before") {
		q.Before = drawTime(t, "before time")
	}
	q.Oldest = rapid.Bool().Draw(t, "oldest")
	q.PageSize = rapid.SampledFrom([]int{0, 1, 2, 5, 1000}).Draw(t, "size")
	same(t, fmt.Sprintf("%+v", q), walk(t, m.ledger, q), m.model.list(q))
}

func drawTime(t *rapid.T, name string) time.Time {
	return epoch.Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, name))*time.Hour + time.Duration(rapid.IntRange(-1, 4).Draw(t, name+", seconds"))*time.Second)
}

func (m *machine) delivery(t *rapid.T) {
	tenant := rapid.SampledFrom(checkTenants).Draw(t, "tenant")
	of := rapid.SampledFrom(checkTenants).Draw(t, "of tenant")
	id := relay.DeliveryID(of, fmt.Sprintf("evt-%d", rapid.IntRange(0, checkEvents-1).Draw(t, "event")), rapid.SampledFrom(checkEndpoints).Draw(t, "endpoint"))
	m.compare(t, tenant, id)
}

func (m *machine) compare(t *rapid.T, tenant, id string) {
	want, ok := m.model.delivery(tenant, id)
	got, err := m.ledger.Delivery(context.Background(), tenant, id)
	if !ok && errors.Is(err, relay.ErrNotFound) {
		return
	}
	if !ok || err != nil {
		t.Fatalf("delivery %s: %v; want %v", id, err, ok)
	}
	same(t, "delivery", got, want)
}

func (m *machine) trim(t *rapid.T) {
	before := drawTime(t, "before")
	if got, want := trim(t, m.ledger, before, 0), m.model.trim(before); got != want {
		t.Fatalf("%d trimmed, want %d", got, want)
	}
}

// all compares what there is at the end.
func (m *machine) all(t *rapid.T) {
	q := relay.DeliveryQuery{AllTenants: true}
	same(t, "all", walk(t, m.ledger, q), m.model.list(q))
	for id, d := range m.model.deliveries {
		m.compare(t, d.last.Tenant, id)
	}
}
