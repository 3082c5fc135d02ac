package partition

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/owner"
	"github.com/sealpost/sealpost/relay/internal/record"
	"github.com/sealpost/sealpost/relay/internal/route"
)

// purpose is why an open delivery's event is read again.
type purpose uint8

const (
	purposeSend   purpose = iota // its turn has come: the elevator
	purposePark                  // record that it is parked
	purposeCancel                // record that it is cancelled
	purposeExpire                // record that its time ran out
	purposeRetry                 // a caller wants it sent now
	purposeOpen                  // its endpoint never had it, and a replay wants it sent
)

type fetchItem struct {
	entry   owner.Entry
	purpose purpose
	reason  relay.Reason
	// Of a caller's command: the delivery must be the one that was meant.
	deliveryID string
	redacted   int
	reply      reply
}

// fetched is an item whose event was read; event is nil where the log no longer has it, and end marks the last of a
// sweep.
type fetched struct {
	item   fetchItem
	event  *relay.Event
	routed route.Routed // for purposeSend and purposeOpen
	unread bool         // it could not be read: it is there, and may be read later
	end    bool
	err    error
}

// fetchAtMost bounds one sweep, so that its results are soon followed by a look at what else there is.
const fetchAtMost = 512

// later asks for an open delivery's event to be read for a purpose other than its turn.
func (l *loop) later(e owner.Entry, why purpose, reason relay.Reason) {
	l.state.SetBusy(e.Key, true)
	l.urgent = append(l.urgent, fetchItem{entry: e, purpose: why, reason: reason})
}

// startFetch begins the next sweep if none is under way: what is urgent first, then the deliveries of deleted
// endpoints, then those whose endpoints have room.
func (l *loop) startFetch(now time.Time) {
	if l.fetching || l.stopping || now.Before(l.unreadable) {
		return
	}
	items := l.nextUrgent()
	if len(items) == 0 && l.hungry {
		items = l.nextSweep(now)
		l.hungry = len(items) > 0
	}
	if len(items) == 0 {
		return
	}
	l.fetching = true
	l.fetchC <- items
}

func (l *loop) nextUrgent() []fetchItem {
	if len(l.urgent) < fetchAtMost {
		for id := range l.purging {
			l.purge(id)
			break
		}
	}
	n := min(len(l.urgent), fetchAtMost)
	items := slices.Clone(l.urgent[:n])
	l.urgent = slices.Delete(l.urgent, 0, n)
	slices.SortStableFunc(items, func(a, b fetchItem) int { return cmp.Compare(a.entry.Seq, b.entry.Seq) })
	return items
}

// purge has the next open deliveries of a deleted endpoint cancelled, until it has none: what is busy now comes back.
func (l *loop) purge(endpointID string) {
	if open, _ := l.state.Open(endpointID); open == 0 {
		delete(l.purging, endpointID)
		return
	}
	for _, e := range l.pick(endpointID) {
		l.later(e, purposeCancel, relay.ReasonEndpointDeleted)
	}
}

// pick takes some of an endpoint's open deliveries that are not busy.
func (l *loop) pick(endpointID string) []owner.Entry {
	var entries []owner.Entry
	l.state.Each(endpointID, func(e owner.Entry) bool {
		if e.Status != owner.Busy {
			entries = append(entries, e)
		}
		return len(entries) < fetchAtMost
	})
	return entries
}

func (l *loop) nextSweep(now time.Time) []fetchItem {
	if l.lanes.Full() {
		return nil
	}
	wants := l.wants(now)
	if len(wants) == 0 {
		return nil
	}
	entries := l.state.Sweep(wants, fetchAtMost)
	items := make([]fetchItem, len(entries))
	for i, e := range entries {
		items[i] = fetchItem{entry: e}
	}
	return items
}

// fetch reads the events that the loop asks for, in ascending order of their sequences, so that what lies close together is
// read together.
func (l *loop) fetch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case items := <-l.fetchC:
			if !l.fetchAll(ctx, items) {
				return
			}
		}
	}
}

func (l *loop) fetchAll(ctx context.Context, items []fetchItem) bool {
	for {
		n, err := l.fetchSome(ctx, items)
		items = items[n:]
		if ctx.Err() != nil {
			return false
		}
		if !errors.Is(err, journal.ErrUnavailable) {
			return l.handOver(ctx, fetched{end: true, err: err})
		}
		// A cluster that elects a leader: what is read meanwhile is read again, and the partition has no other work to lose for it.
		l.log.Warn("parked events cannot be read, will try again", "error", err)
		select {
		case <-time.After(fetchAgain):
		case <-ctx.Done():
			return false
		}
	}
}

// fetchAgain is how long to wait where the journal does not answer.
const fetchAgain = 200 * time.Millisecond

func (l *loop) handOver(ctx context.Context, f fetched) bool {
	select {
	case l.fetchedC <- f:
		return true
	case <-ctx.Done():
		return false
	}
}

// fetchSome reads the events of items and hands each over; it returns how many it handed over.
func (l *loop) fetchSome(ctx context.Context, items []fetchItem) (next int, err error) {
	seqs := make([]uint64, 0, len(items))
	for _, item := range items {
		if n := len(seqs); n == 0 || seqs[n-1] != item.entry.Seq {
			seqs = append(seqs, item.entry.Seq)
		}
	}
	// Items of events that the log does not have come to their turn with none.
	pass := func(before uint64) bool {
		for ; next < len(items) && items[next].entry.Seq < before; next++ {
			if !l.handOver(ctx, fetched{item: items[next]}) {
				return false
			}
		}
		return true
	}
	take := func(m journal.Message) error {
		if !pass(m.Seq) {
			return ctx.Err()
		}
		ev, err := record.DecodeEvent(m.Payload, m.Seq, m.Time)
		if err != nil {
			return err
		}
		for ; next < len(items) && items[next].entry.Seq == m.Seq; next++ {
			if !l.handOver(ctx, l.reroute(items[next], ev)) {
				return ctx.Err()
			}
		}
		return nil
	}
	err = l.events.Sweep(ctx, seqs, take)
	// What lies beside what cannot be read may be readable: each by itself.
	for errors.Is(err, journal.ErrUnreadable) && next < len(items) {
		seq := items[next].entry.Seq
		one := l.events.Sweep(ctx, []uint64{seq}, take)
		for ; errors.Is(one, journal.ErrUnreadable) && next < len(items) && items[next].entry.Seq == seq; next++ {
			if !l.handOver(ctx, fetched{item: items[next], unread: true}) {
				one = ctx.Err()
			}
		}
		if one == nil {
			pass(seq + 1)
		} else if !errors.Is(one, journal.ErrUnreadable) {
			err = one
		}
	}
	if errors.Is(err, journal.ErrUnreadable) {
		err = nil
	}
	if err == nil {
		pass(^uint64(0))
	}
	return next, err
}

// reroute applies the policy in force now.
func (l *loop) reroute(item fetchItem, ev *relay.Event) fetched {
	f := fetched{item: item, event: ev}
	if item.purpose != purposeSend && item.purpose != purposeOpen {
		return f
	}
	if ep := l.o.Registry.Snapshot().Endpoint(item.entry.Endpoint); ep != nil {
		f.routed = route.One(ev, ep)
	}
	return f
}

// place does with a fetched item what it was fetched for.
func (l *loop) place(f fetched) error {
	if f.end {
		l.fetching, l.hungry = false, true
		if f.err != nil && l.work.Err() == nil {
			return fmt.Errorf("reading parked events: %w", f.err)
		}
		return nil
	}
	e := f.item.entry
	delete(l.reopening, e.Key)
	if f.unread {
		l.unread(f.item)
		return nil
	}
	if f.event == nil {
		l.log.Error("an open delivery's event is gone", "seq", e.Seq, "endpoint", e.Endpoint)
		if f.item.reply != nil {
			f.item.reply(ErrGone)
		}
		if _, open := l.state.Get(e.Key); !open {
			return nil
		}
		return l.record(&relay.Outcome{EndpointID: e.Endpoint, Seq: e.Seq, State: relay.Cancelled, Reason: relay.ReasonEventGone}, !e.Recorded, false)
	}
	if l.erased.Covers(f.event.Tenant, f.event.Subject, f.event.Seq) {
		return l.placeErased(f)
	}
	switch f.item.purpose {
	case purposeSend:
		return l.placeSend(f)
	case purposeOpen:
		return l.placeOpen(f)
	}
	d := l.identify(f.event, e)
	o := outcomeOf(d, relay.Parked, f.item.reason)
	switch f.item.purpose {
	case purposeCancel:
		o.State = relay.Cancelled
	case purposeExpire:
		o.State = relay.Dead
	case purposeRetry:
		return l.placeRetry(f, o)
	}
	if f.item.deliveryID != "" && f.item.deliveryID != d.ID {
		l.state.SetBusy(e.Key, false)
		f.item.reply(errMismatch)
		return nil
	}
	if err := l.record(o, !e.Recorded, false); err != nil {
		return err
	}
	if f.item.reply != nil {
		l.afterSync(f.item.reply)
	}
	return nil
}

// unread leaves for later what could not be read.
func (l *loop) unread(i fetchItem) {
	now := l.o.Clock()
	if k := [2]string{"", "unreadable"}; now.Sub(l.told[k]) >= time.Minute {
		l.told[k] = now
		l.log.Error("events of open deliveries cannot be read; they are tried again", "seq", i.entry.Seq, "endpoint", i.entry.Endpoint)
	}
	l.unreadable = now.Add(unreadableWait)
	if i.reply != nil {
		i.reply(ErrUnavailable)
	}
	if _, open := l.state.Get(i.entry.Key); !open {
		return
	}
	switch {
	case i.purpose == purposeCancel && i.reply == nil, i.purpose == purposePark:
		l.urgent = append(l.urgent, i) // nobody would ask again
	default:
		l.state.SetBusy(i.entry.Key, false)
	}
}

// identify is the delivery that an entry stands for, without content.
func (l *loop) identify(ev *relay.Event, e owner.Entry) *relay.Delivery {
	ep := &relay.Endpoint{ID: e.Endpoint, Tenant: ev.Tenant}
	if known := l.snapshot.Endpoint(e.Endpoint); known != nil {
		ep = known.Endpoint
	}
	d := route.Identify(ev, ep)
	d.Attempts, d.Deadline, d.Progress = e.Attempts, e.Deadline, e.Progress
	return d
}

// placeSend puts what the elevator brought into its lane.
func (l *loop) placeSend(f fetched) error {
	e, now := f.item.entry, l.o.Clock()
	r := f.routed
	if r.Endpoint == nil || r.Endpoint.State == relay.EndpointDeleted {
		d := l.identify(f.event, e)
		return l.record(outcomeOf(d, relay.Cancelled, relay.ReasonEndpointDeleted), !e.Recorded, false)
	}
	d := r.Delivery
	d.Attempts, d.Deadline, d.Progress = e.Attempts, e.Deadline, e.Progress
	t := newTask(d, r.Endpoint, f.event.Subject, r.Redacted, !e.Recorded)
	t.backlog = e.Recorded
	if current := l.snapshot.Endpoint(e.Endpoint); current != nil && current.Version() != r.Endpoint.Version() {
		return l.giveBack(t, relay.ReasonEndpointChanged) // only one version of it decides
	}
	switch r.Kind {
	case route.Skip:
		return l.record(t.outcome(relay.Withheld, relay.ReasonNoLongerMatched), t.first, false)
	case route.Withhold:
		l.withheld(&r, now)
		return l.record(t.outcome(relay.Withheld, r.Reason), t.first, false)
	}
	if reason := l.closed(e.Endpoint, now); reason != relay.ReasonNone {
		return l.giveBack(t, reason)
	}
	if r.Endpoint.Ordered && l.overtakes(t.key) {
		return l.giveBack(t, relay.ReasonBehindParked)
	}
	if !l.offer(t, now) {
		return l.giveBack(t, relay.ReasonLaneFull)
	}
	return nil
}

// overtakes tells whether a delivery would go before one of a lower sequence that is neither in its lane nor in
// flight: that may have left while the event was read.
func (l *loop) overtakes(k owner.Key) bool {
	out := false
	l.state.Each(k.Endpoint, func(e owner.Entry) bool {
		_, live := l.live[e.Key]
		out = e.Seq < k.Seq && !live
		return e.Seq < k.Seq && live
	})
	return out
}

// expireEvery is how often deliveries are looked for whose time ran out while they waited.
const expireEvery = 30 * time.Second

// expire has deliveries given up that waited past their deadline at an endpoint that could have had them.
func (l *loop) expire(now time.Time) {
	if now.Sub(l.lastExpiry) < expireEvery || len(l.urgent) >= fetchAtMost {
		return
	}
	more := false
	for _, id := range l.state.Endpoints() {
		ep := l.snapshot.Endpoint(id)
		if ep == nil || !ep.Sendable() {
			continue
		}
		active := ep.ActiveTime(now)
		late := l.state.Overdue(id, active, fetchAtMost)
		for _, e := range late {
			l.later(e, purposeExpire, relay.ReasonDeadline)
		}
		more = more || len(late) == fetchAtMost
	}
	if !more {
		l.lastExpiry = now
	}
}
