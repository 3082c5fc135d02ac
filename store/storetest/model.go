package storetest

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// model is a relay.Ledger's meaning in maps: what the stores are compared with.
type model struct {
	positions  map[int]uint64
	deliveries map[string]*modelDelivery // by id
	unmatched  map[[2]string]relay.SequencedOutcome
}

type modelDelivery struct {
	last     relay.SequencedOutcome
	attempts map[int]relay.Attempt
}

func newModel() *model {
	return &model{positions: map[int]uint64{}, deliveries: map[string]*modelDelivery{}, unmatched: map[[2]string]relay.SequencedOutcome{}}
}

func (m *model) apply(partition int, upTo uint64, outcomes []relay.SequencedOutcome) {
	for _, o := range outcomes {
		if o.Sequence <= m.positions[partition] {
			continue
		}
		if o.State == relay.Unmatched {
			m.unmatched[[2]string{o.Tenant, o.EventID}] = o
			continue
		}
		d := m.deliveries[o.DeliveryID]
		if d == nil || !d.last.AcceptTime.Equal(o.AcceptTime) {
			d = &modelDelivery{attempts: map[int]relay.Attempt{}}
			m.deliveries[o.DeliveryID] = d
		}
		d.last = o
		if o.Attempt != nil {
			d.attempts[o.Attempt.Number] = *o.Attempt
		}
	}
	m.positions[partition] = max(upTo, m.positions[partition])
}

func (d *modelDelivery) status() relay.DeliveryStatus {
	o := &d.last
	return relay.DeliveryStatus{
		ID: o.DeliveryID, Tenant: o.Tenant, EndpointID: o.EndpointID, EventID: o.EventID, EventType: o.EventType,
		EventTime: o.EventTime, AcceptTime: o.AcceptTime, Partition: o.Partition, Seq: o.Seq, State: o.State,
		Reason: o.Reason, Attempts: o.Attempts, Due: o.Due, Deadline: o.Deadline, Updated: o.Time,
		Redacted: o.Redacted, Progress: o.Progress,
	}
}

func (m *model) delivery(tenant, id string) (relay.DeliveryStatus, bool) {
	d := m.deliveries[id]
	if d == nil || d.last.Tenant != tenant {
		return relay.DeliveryStatus{}, false
	}
	s := d.status()
	s.History = []relay.Attempt{}
	for _, n := range slices.Sorted(maps.Keys(d.attempts)) {
		s.History = append(s.History, d.attempts[n])
	}
	if extra := len(s.History) - relay.MaxAttemptsKept; extra > 0 {
		s.History = append(s.History[:1:1], s.History[1+extra:]...)
	}
	return s, true
}

func (m *model) event(tenant, id string) (relay.EventStatus, bool) {
	var last *relay.SequencedOutcome
	for _, d := range m.deliveries {
		if d.last.Tenant == tenant && d.last.EventID == id && (last == nil || newer(&d.last, last) < 0) {
			last = &d.last
		}
	}
	if last == nil {
		o, ok := m.unmatched[[2]string{tenant, id}]
		if !ok {
			return relay.EventStatus{}, false
		}
		last = &o
	}
	return relay.EventStatus{Tenant: tenant, ID: id, Type: last.EventType, Time: last.EventTime, AcceptTime: last.AcceptTime,
		Partition: last.Partition, Seq: last.Seq, Matched: last.State != relay.Unmatched}, true
}

// newer orders as lists do: by accept time, then id, both descending.
func newer(a, b *relay.SequencedOutcome) int {
	if c := b.AcceptTime.Compare(a.AcceptTime); c != 0 {
		return c
	}
	return cmp.Compare(b.DeliveryID, a.DeliveryID)
}

// list is every delivery that q asks for, whatever its page.
func (m *model) list(q relay.DeliveryQuery) []relay.DeliveryStatus {
	var found []*relay.SequencedOutcome
	for _, d := range m.deliveries {
		o := &d.last
		switch {
		case q.Tenant != "" && q.Tenant != o.Tenant,
			q.EndpointID != "" && q.EndpointID != o.EndpointID,
			q.EventID != "" && q.EventID != o.EventID,
			q.EventType != "" && !relay.MatchPattern(q.EventType, o.EventType),
			q.State != "" && q.State != o.State,
			!q.After.IsZero() && o.AcceptTime.Before(q.After),
			!q.Before.IsZero() && !o.AcceptTime.Before(q.Before):
			continue
		}
		found = append(found, o)
	}
	slices.SortFunc(found, newer)
	if q.Oldest {
		slices.Reverse(found)
	}
	out := make([]relay.DeliveryStatus, 0, len(found))
	for _, o := range found {
		out = append(out, m.deliveries[o.DeliveryID].status())
	}
	return out
}

func (m *model) trim(before time.Time) int {
	removed := 0
	for id, d := range m.deliveries {
		if d.last.State.Terminal() && d.last.AcceptTime.Before(before) {
			delete(m.deliveries, id)
			removed++
		}
	}
	for key, o := range m.unmatched {
		if o.AcceptTime.Before(before) {
			delete(m.unmatched, key)
			removed++
		}
	}
	return removed
}
