package store

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sealpost/sealpost/relay"
)

// Delivery is part of relay.Ledger.
func (s *inRedis) Delivery(ctx context.Context, tenant, id string) (relay.DeliveryStatus, error) {
	var none relay.DeliveryStatus
	if !deliveryID(id) || !relay.ValidTenant(tenant) {
		return none, relay.ErrNotFound
	}
	if err := s.enter(ctx); err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	base := s.base(tenant)
	var record *redis.StringCmd
	var beside *redis.StringSliceCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error { // of one moment
		record = p.Get(ctx, base+"d:"+id)
		beside = p.HVals(ctx, base+"h:"+id)
		return nil
	})
	if errors.Is(err, redis.Nil) {
		return none, relay.ErrNotFound
	}
	if err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	r, err := decodeRecord(id, []byte(record.Val()))
	if err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	if r.Tenant != tenant {
		return none, relay.ErrNotFound
	}
	attempts := make([][]byte, 0, len(beside.Val())+1)
	for _, one := range beside.Val() {
		attempts = append(attempts, []byte(one))
	}
	if r.History, err = history(r.first, attempts); err != nil {
		return none, fmt.Errorf("read delivery: %w", err)
	}
	return r.DeliveryStatus, nil
}

// Event is part of relay.Ledger. An event stands where its latest delivery says; only one without any is
// unmatched.
func (s *inRedis) Event(ctx context.Context, tenant, id string) (relay.EventStatus, error) {
	if !relay.ValidTenant(tenant) || id == "" || len(id) > maxKeyText {
		return relay.EventStatus{}, relay.ErrNotFound
	}
	err := s.enter(ctx)
	var r *record
	if err == nil {
		r, err = s.eventRecord(ctx, tenant, id)
	}
	if err != nil {
		return relay.EventStatus{}, fmt.Errorf("read event: %w", err)
	}
	if r == nil || r.Tenant != tenant || r.EventID != id {
		return relay.EventStatus{}, relay.ErrNotFound
	}
	return r.event(), nil
}

func (s *inRedis) eventRecord(ctx context.Context, tenant, id string) (*record, error) {
	latest := &stream{tenant: tenant, key: s.base(tenant) + "e:" + id, down: true, from: "+", to: "-"}
	if err := s.fill(ctx, []*stream{latest}, 8); err != nil {
		return nil, err
	}
	candidates := append(latest.entries(), entry{tenant: tenant, place: place{id: unmatchedID(tenant, id)}})
	records, err := s.records(ctx, candidates)
	if err != nil {
		return nil, err
	}
	for i, r := range records {
		if r != nil && (r.State == relay.Unmatched || sortable(r.AcceptTime) == candidates[i].accept) {
			return r, nil
		}
	}
	return nil, nil
}

// index is the sorted set of a tenant that narrows q most, less the tenant's base.
func (q *query) index() string {
	stateful := q.state != 0 && q.state != codeDelivered
	switch {
	case q.EventID != "":
		return "e:" + q.EventID
	case q.EndpointID != "" && stateful:
		return "q:" + q.EndpointID + ":" + strconv.Itoa(int(q.state))
	case q.EndpointID != "":
		return "p:" + q.EndpointID
	case stateful:
		return "s:" + strconv.Itoa(int(q.state))
	case q.exactType() != "":
		return "y:" + q.EventType
	}
	return "t"
}

// stream is one sorted set, read in order piece by piece: all members are of score 0, so that their order is that of their
// bytes, which is that of accept time and id.
type stream struct {
	tenant   string
	key      string
	down     bool
	from, to string // bounds of what is yet to be read, in the form of ZRANGEBYLEX
	buffer   []place
	ended    bool
}

// entry is a member of a stream.
type entry struct {
	tenant string
	place
}

func (st *stream) entries() []entry {
	out := make([]entry, len(st.buffer))
	for i, at := range st.buffer {
		out[i] = entry{st.tenant, at}
	}
	return out
}

// fill reads up to n more members of each of the streams.
func (s *inRedis) fill(ctx context.Context, streams []*stream, n int) error {
	answers := make([]*redis.StringSliceCmd, len(streams))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, st := range streams {
			if st.down {
				answers[i] = p.ZRevRangeByLex(ctx, st.key, &redis.ZRangeBy{Max: st.from, Min: st.to, Count: int64(n)})
			} else {
				answers[i] = p.ZRangeByLex(ctx, st.key, &redis.ZRangeBy{Min: st.from, Max: st.to, Count: int64(n)})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, st := range streams {
		members := answers[i].Val()
		st.ended = len(members) < n
		for _, m := range members {
			at, sound := parsePlace([]byte(m))
			if !sound {
				return errRecord
			}
			st.buffer = append(st.buffer, at)
			st.from = "(" + m
		}
	}
	return nil
}

// merge reads several streams as one.
type merge struct {
	store   *inRedis
	streams []*stream // a heap of those with something in their buffers
	dry     []*stream // those that must be filled before anything can be taken
	down    bool
}

func (m *merge) Len() int { return len(m.streams) }
func (m *merge) Less(i, j int) bool {
	order := m.streams[i].buffer[0].compare(m.streams[j].buffer[0])
	if m.down {
		return order > 0
	}
	return order < 0
}
func (m *merge) Swap(i, j int) { m.streams[i], m.streams[j] = m.streams[j], m.streams[i] }
func (m *merge) Push(x any)    { m.streams = append(m.streams, x.(*stream)) }
func (m *merge) Pop() any {
	last := m.streams[len(m.streams)-1]
	m.streams = m.streams[:len(m.streams)-1]
	return last
}

// maxPipelined bounds the commands of one flight.
const maxPipelined = 1000

// take returns the next entries, up to n; fewer only at the end.
func (m *merge) take(ctx context.Context, n int) ([]entry, error) {
	var out []entry
	for len(out) < n {
		if err := m.refill(ctx, n); err != nil {
			return nil, err
		}
		if len(m.streams) == 0 {
			break
		}
		st := m.streams[0]
		out = append(out, entry{st.tenant, st.buffer[0]})
		st.buffer = st.buffer[1:]
		if len(st.buffer) > 0 {
			heap.Fix(m, 0)
			continue
		}
		heap.Pop(m)
		if !st.ended {
			m.dry = append(m.dry, st)
		}
	}
	return out, nil
}

func (m *merge) refill(ctx context.Context, n int) error {
	for len(m.dry) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		some := m.dry[:min(len(m.dry), maxPipelined)]
		each := min(n/max(1, len(m.dry)+len(m.streams))+8, maxPipelined)
		if len(m.dry)+len(m.streams) == 1 {
			each = n
		}
		if err := m.store.fill(ctx, some, each); err != nil {
			return err
		}
		m.dry = m.dry[len(some):]
		for _, st := range some {
			if len(st.buffer) > 0 {
				heap.Push(m, st)
			}
		}
	}
	return nil
}

// records reads the entries' records in one flight; nil for one that is not there.
func (s *inRedis) records(ctx context.Context, entries []entry) ([]*record, error) {
	answers := make([]*redis.StringCmd, len(entries))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, e := range entries {
			answers[i] = p.Get(ctx, s.base(e.tenant)+"d:"+e.id)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	out := make([]*record, len(entries))
	for i, answer := range answers {
		raw, err := answer.Result()
		if errors.Is(err, redis.Nil) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := decodeRecord(entries[i].id, []byte(raw))
		if err != nil {
			return nil, err
		}
		out[i] = &r
	}
	return out, nil
}

// Deliveries is part of relay.Ledger. Over all tenants it merges the tenants' own lists: it costs a command a tenant.
func (s *inRedis) Deliveries(ctx context.Context, asked relay.DeliveryQuery) (relay.DeliveryPage, error) {
	q, err := checkQuery(asked)
	if err != nil {
		return relay.DeliveryPage{}, err
	}
	if err := s.enter(ctx); err != nil {
		return relay.DeliveryPage{}, fmt.Errorf("list deliveries: %w", err)
	}
	p := &page{query: q}
	ended, err := s.scan(ctx, p)
	if err != nil {
		return relay.DeliveryPage{}, fmt.Errorf("list deliveries: %w", err)
	}
	return p.result(ended), nil
}

// span is where the query's answers begin and end in their index, in the form of ZRANGEBYLEX.
func (q *query) span() (from, to string) {
	from, to = "+", "["+string(binary.BigEndian.AppendUint64(nil, q.lower))
	if !q.unbounded {
		from = "(" + string(binary.BigEndian.AppendUint64(nil, q.upper))
	}
	if q.Oldest {
		from, to = to, from
	}
	if q.resumed {
		from = "(" + string(appendPlace(nil, q.cursor))
	}
	return from, to
}

func (s *inRedis) scan(ctx context.Context, p *page) (ended bool, err error) {
	q := p.query
	tenants := []string{q.Tenant}
	if q.Tenant == "" {
		if tenants, err = s.client.SMembers(ctx, s.meta("tenants")).Result(); err != nil {
			return false, err
		}
	}
	from, to := q.span()
	m := &merge{store: s, down: !q.Oldest}
	for _, tenant := range tenants {
		m.dry = append(m.dry, &stream{tenant: tenant, key: s.base(tenant) + q.index(), down: m.down, from: from, to: to})
	}
	batch := min(q.PageSize+1, maxPipelined)
	for !p.full() {
		entries, err := m.take(ctx, min(batch, maxScanned-p.scanned))
		if err != nil {
			return false, err
		}
		if len(entries) == 0 {
			return true, nil
		}
		records, err := s.records(ctx, entries)
		if err != nil {
			return false, err
		}
		for i, r := range records {
			if p.full() {
				break
			}
			p.look(entries[i].place)
			// A record may have changed since its index was read, or be of a later life.
			if r != nil && sortable(r.AcceptTime) == entries[i].accept && q.wants(r) {
				p.add(r)
			}
		}
		batch = min(2*batch, maxPipelined)
	}
	return false, nil
}

// trimFlight is how many deliveries Trim removes at a time.
const trimFlight = 200

// Trim is part of relay.Ledger. Bytes are about what the server's memory holds of a delivery: its content and a flat
// sum for its keys and index entries. It may remove up to trimFlight more than the byte bound asks for.
func (s *inRedis) Trim(ctx context.Context, before time.Time, maxBytes int64) (int, error) {
	removed := 0
	err := s.enter(ctx)
	if err == nil {
		removed, err = s.trimAll(ctx, before, maxBytes)
	}
	if err != nil {
		return removed, fmt.Errorf("trim: %w", err)
	}
	return removed, nil
}

func (s *inRedis) trimAll(ctx context.Context, before time.Time, maxBytes int64) (removed int, err error) {
	tenants, err := s.client.SMembers(ctx, s.meta("tenants")).Result()
	if err != nil {
		return 0, err
	}
	total, err := s.stored64(ctx, tenants)
	if err != nil {
		return 0, err
	}
	limit := uint64(0)
	if !before.IsZero() {
		limit = sortable(before)
	}
	m := &merge{store: s}
	for _, tenant := range tenants {
		for _, set := range [...]string{"t", "w"} {
			m.dry = append(m.dry, &stream{tenant: tenant, key: s.base(tenant) + set, from: "-", to: "+"})
		}
	}
	for {
		entries, err := m.take(ctx, trimFlight)
		if err != nil || len(entries) == 0 {
			return removed, err
		}
		records, err := s.records(ctx, entries)
		if err != nil {
			return removed, err
		}
		n, freed, ended, err := s.trimEntries(ctx, entries, records, limit, total, maxBytes)
		removed += n
		total -= freed
		if err != nil || ended {
			return removed, err
		}
	}
}

// stored64 is the sum of what the tenants' records take.
func (s *inRedis) stored64(ctx context.Context, tenants []string) (total int64, err error) {
	for len(tenants) > 0 {
		some := tenants[:min(len(tenants), maxPipelined)]
		tenants = tenants[len(some):]
		answers := make([]*redis.StringCmd, len(some))
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, tenant := range some {
				answers[i] = p.Get(ctx, s.base(tenant)+"b")
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return 0, err
		}
		for _, answer := range answers {
			n, err := answer.Int64()
			if err != nil && !errors.Is(err, redis.Nil) {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}

// trimEntries removes those of the entries that are to go; ended tells that no later one is.
func (s *inRedis) trimEntries(ctx context.Context, entries []entry, records []*record, limit uint64, total, maxBytes int64) (removed int, freed int64, ended bool, err error) {
	var calls []*scriptCall
	open := map[string]*scriptCall{}
	expected := total
	for i, e := range entries {
		if e.accept >= limit && (maxBytes <= 0 || expected <= maxBytes) {
			ended = true
			break
		}
		endpoint, event := "", ""
		if r := records[i]; r != nil {
			if sortable(r.AcceptTime) != e.accept || !r.State.Terminal() {
				continue
			}
			endpoint, event = r.EndpointID, r.EventID
			expected -= int64(r.size + redisPerRecord)
		}
		base := s.base(e.tenant)
		if open[base] == nil {
			open[base] = newScriptCall(base)
			calls = append(calls, open[base])
		}
		open[base].args = append(open[base].args, e.id, binary.BigEndian.AppendUint64(nil, e.accept), endpoint, event, firstTerminal)
	}
	if len(calls) == 0 {
		return 0, 0, ended, nil
	}
	done, err := s.run(ctx, s.trim, calls)
	if err != nil {
		return 0, 0, ended, err
	}
	for _, one := range done {
		counts, err := one.Int64Slice()
		if err != nil || len(counts) != 2 {
			return removed, freed, ended, errors.Join(errRecord, err)
		}
		removed += int(counts[0])
		freed += counts[1]
	}
	return removed, freed, ended, nil
}

// redisPerRecord is PER_RECORD of common.lua.
const redisPerRecord = 900
