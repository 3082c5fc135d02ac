package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sealpost/sealpost/relay"
)

// current is the record that the pointer of id leads to, or nil.
func (s *embedded) current(from pebble.Reader, id string) (*record, error) {
	at, err := s.pointer(from, id)
	if err != nil || at == nil {
		return nil, err
	}
	return s.record(from, place{*at, id})
}

// pointer is the accept time of the life of a delivery that counts, or nil.
func (s *embedded) pointer(from pebble.Reader, id string) (*uint64, error) {
	value, closer, err := from.Get(append([]byte{keyPointer}, id...))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	if len(value) != 8 {
		return nil, fmt.Errorf("delivery %q: %w", id, errRecord)
	}
	at := binary.BigEndian.Uint64(value)
	return &at, nil
}

// record is the record at a place, or nil.
func (s *embedded) record(from pebble.Reader, at place) (*record, error) {
	value, err := s.get(from, appendPlace([]byte{keyRecord}, at))
	if err != nil || value == nil {
		return nil, err
	}
	r, err := decodeRecord(at.id, value)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// listed is the record at a place if that is the life of the delivery that counts, else nil.
func (s *embedded) listed(from pebble.Reader, at place) (*record, error) {
	now, err := s.pointer(from, at.id)
	if err != nil || now == nil || *now != at.accept {
		return nil, err
	}
	return s.record(from, at)
}

// Delivery is part of relay.Ledger.
func (s *embedded) Delivery(ctx context.Context, tenant, id string) (relay.DeliveryStatus, error) {
	var none relay.DeliveryStatus
	if !deliveryID(id) {
		return none, relay.ErrNotFound
	}
	if err := s.enter(ctx); err != nil {
		return none, err
	}
	defer s.leave()
	snapshot := s.db.NewSnapshot()
	defer snapshot.Close()
	r, err := s.current(snapshot, id)
	if err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	if r == nil || r.Tenant != tenant {
		return none, relay.ErrNotFound
	}
	beside, err := s.attempts(snapshot, place{sortable(r.AcceptTime), id})
	if err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	if r.History, err = history(r.first, beside); err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	return r.DeliveryStatus, nil
}

func (s *embedded) attempts(from pebble.Reader, at place) (out [][]byte, err error) {
	prefix := attemptPrefix(at)
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		value, err = it.ValueAndErr()
		out = append(out, append([]byte(nil), value...))
	}
	return out, errors.Join(err, it.Close())
}

// Event is part of relay.Ledger. An event stands where its latest delivery says; only one without any is
// unmatched.
func (s *embedded) Event(ctx context.Context, tenant, id string) (relay.EventStatus, error) {
	if err := s.enter(ctx); err != nil {
		return relay.EventStatus{}, err
	}
	defer s.leave()
	snapshot := s.db.NewSnapshot()
	defer snapshot.Close()
	r, err := s.eventRecord(snapshot, tenant, id)
	if err != nil {
		return relay.EventStatus{}, fmt.Errorf("read event: %w", err)
	}
	if r == nil || r.Tenant != tenant || r.EventID != id {
		return relay.EventStatus{}, relay.ErrNotFound
	}
	return r.event(), nil
}

func (r *record) event() relay.EventStatus {
	return relay.EventStatus{
		Tenant: r.Tenant, ID: r.EventID, Type: r.EventType, Time: r.EventTime, AcceptTime: r.AcceptTime,
		Partition: r.Partition, Seq: r.Seq, Matched: r.State != relay.Unmatched,
	}
}

func (s *embedded) eventRecord(from pebble.Reader, tenant, id string) (found *record, err error) {
	prefix := appendText([]byte{keyEvent}, id)
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return nil, err
	}
	for ok := it.Last(); ok && err == nil && found == nil; ok = it.Prev() {
		var value []byte
		value, err = it.ValueAndErr()
		at, sound := parsePlace(it.Key()[len(prefix):])
		if err != nil || !sound || string(value) != tenant {
			continue
		}
		found, err = s.listed(from, at)
	}
	if err = errors.Join(err, it.Close()); err != nil || found != nil {
		return found, err
	}
	return s.current(from, unmatchedID(tenant, id))
}

func parsePlace(key []byte) (place, bool) {
	if len(key) < 9 {
		return place{}, false
	}
	return place{binary.BigEndian.Uint64(key), string(key[8:])}, true
}

// plan is the index that narrows q most: what its keys begin with, before the place.
func (q *query) plan() (prefix []byte) {
	stateful := q.state != 0 && q.state != codeDelivered
	switch {
	case q.EventID != "":
		return appendText([]byte{keyEvent}, q.EventID)
	case q.EndpointID != "" && stateful:
		return append(appendText([]byte{keyBoth}, q.EndpointID), q.state)
	case q.EndpointID != "":
		return appendText([]byte{keyEndpoint}, q.EndpointID)
	case q.Tenant != "" && stateful:
		return append(appendText([]byte{keyState}, q.Tenant), q.state)
	case q.Tenant != "" && q.exactType() != "":
		return appendText(appendText([]byte{keyType}, q.Tenant), q.EventType)
	case q.Tenant != "":
		return appendText([]byte{keyTenant}, q.Tenant)
	case stateful:
		return []byte{keyAll, q.state}
	}
	return []byte{keyRecord}
}

// may tells by an index entry's value alone whether its delivery can be among the answers.
func (q *query) may(index byte, value []byte) bool {
	switch {
	case index == keyEvent:
		return q.Tenant == "" || string(value) == q.Tenant
	case index == keyRecord || len(value) == 0:
		return true
	}
	return q.passes(value[0], string(value[1:]))
}

// Deliveries is part of relay.Ledger.
func (s *embedded) Deliveries(ctx context.Context, asked relay.DeliveryQuery) (relay.DeliveryPage, error) {
	q, err := checkQuery(asked)
	if err != nil {
		return relay.DeliveryPage{}, err
	}
	if err := s.enter(ctx); err != nil {
		return relay.DeliveryPage{}, err
	}
	defer s.leave()
	snapshot := s.db.NewSnapshot()
	defer snapshot.Close()
	p := &page{query: q}
	ended, err := s.scan(ctx, snapshot, p)
	if err != nil {
		return relay.DeliveryPage{}, fmt.Errorf("list deliveries: %w", err)
	}
	return p.result(ended), nil
}

// scan fills the page from the query's index, from its upper end down, or from its lower end up where the oldest come
// first; ended tells that it came to the other one.
func (s *embedded) scan(ctx context.Context, from pebble.Reader, p *page) (ended bool, err error) {
	q := p.query
	prefix := q.plan()
	bounds := &pebble.IterOptions{LowerBound: binary.BigEndian.AppendUint64(append([]byte(nil), prefix...), q.lower)}
	bounds.UpperBound = successor(prefix)
	if !q.unbounded {
		bounds.UpperBound = binary.BigEndian.AppendUint64(append([]byte(nil), prefix...), q.upper)
	}
	if !q.unbounded && q.upper <= q.lower {
		return true, nil
	}
	it, err := from.NewIter(bounds)
	if err != nil {
		return false, err
	}
	first, next := it.Last, it.Prev
	if q.Oldest {
		first, next = it.First, it.Next
	}
	ok := false
	switch at := appendPlace(append([]byte(nil), prefix...), q.cursor); {
	case !q.resumed:
		ok = first()
	case q.Oldest:
		ok = it.SeekGE(append(at, 0)) // the next key there can be
	default:
		ok = it.SeekLT(at)
	}
	for ; ok && err == nil && !p.full(); ok = next() {
		if p.scanned%1024 == 1023 {
			err = ctx.Err()
		}
		err = errors.Join(err, s.consider(from, p, prefix, it))
	}
	return !ok, errors.Join(err, it.Close())
}

// consider adds the delivery of the entry that it stands on, if it is among the answers.
func (s *embedded) consider(from pebble.Reader, p *page, prefix []byte, it *pebble.Iterator) error {
	value, err := it.ValueAndErr()
	if err != nil {
		return err
	}
	at, sound := parsePlace(it.Key()[len(prefix):])
	if !sound {
		return errRecord
	}
	p.look(at)
	if !p.query.may(prefix[0], value) {
		return nil
	}
	r, err := s.listed(from, at)
	if err != nil || r == nil {
		return err
	}
	if p.query.wants(r) {
		p.add(r)
	}
	return nil
}
