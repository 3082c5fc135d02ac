// Package owner is the state of one partition as its owner folds it from the logs: how far EVENTS is routed and recorded, and
// which deliveries are open, that is neither settled nor new. It promises that the same outcomes give the same
// state, from whatever earlier place of the log they are read again, and that no event at or below Cursor needs to be
// routed again after a crash. It trusts its caller to hand it the records in the log's order. Pure: no clock, no I/O,
// no locks; one goroutine at a time.
//
// A delivery is known by its event's sequence in EVENTS and its endpoint. It is
//
//   - new, from Route until its first outcome is recorded: only counted, so that Cursor stays below it;
//   - open, once an outcome that is not terminal is recorded (PENDING, RETRYING, PARKED, HELD): 12 bytes in the endpoint's
//     index, sorted by sequence;
//   - settled, once a terminal outcome is recorded: forgotten here, and kept by the view.
package owner

import (
	"math"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// Key names a delivery inside its partition.
type Key struct {
	Seq      uint64
	Endpoint string
}

// Entry is an open delivery.
type Entry struct {
	Key
	Status   Status
	Attempts int
	Deadline time.Time // whole seconds, on the endpoint's active clock (relay.Endpoint.ActiveTime)
	Recorded bool      // an outcome says that it is open; otherwise Cursor is still below it
	Progress relay.Progress
}

// Status is what an open delivery waits for.
type Status uint8

// An open delivery is Ready to be read and sent when its endpoint has room, Waiting for a time, Held for a
// caller, or Busy: in a lane or in flight.
const (
	Ready Status = iota
	Waiting
	Held
	Busy
)

// State is a partition's state. The zero value is not ready; use New or Restore.
type State struct {
	window    window
	endpoints map[string]*endpoint
	progress  map[Key]relay.Progress // of deliveries with some chunks accepted: few
	timers    timers
	due       map[Key]int64    // nanoseconds since 1970, of those that are Waiting: few
	known     map[Key]struct{} // recorded above the cursor before this start; nil once routing has passed them
	knownMax  uint64           // the highest event of which that is so; stays
	floor     uint64           // the OUTCOMES sequence after which those outcomes stand
	folded    uint64           // the last OUTCOMES sequence that was applied
	whole     uint64           // that, or the one before while further outcomes may come under it
	elevator  elevator
}

type endpoint struct {
	open  index
	count [Busy + 1]int // entries by status
	fresh int           // of those that are Ready: not recorded yet
}

// New is the state of a partition whose logs begin after the given EVENTS sequence: 0 for new ones.
func New(cursor uint64) *State {
	return &State{
		window:    window{base: cursor},
		endpoints: map[string]*endpoint{},
		progress:  map[Key]relay.Progress{},
		due:       map[Key]int64{},
	}
}

// Cursor is the EVENTS sequence at or below which every event is routed and each of its deliveries recorded.
func (s *State) Cursor() uint64 { return s.window.base }

// Routed is the EVENTS sequence up to which deliveries are known: the highest that was routed or, as long as some that were known
// before this start have yet to come, the one up to which all were.
func (s *State) Routed() uint64 {
	if s.known != nil {
		return s.window.through()
	}
	return s.window.top()
}

// FoldFrom is the OUTCOMES sequence after which every outcome of an event above Cursor stands. A checkpoint
// of this state is completed by the outcomes after it.
func (s *State) FoldFrom() uint64 {
	if s.window.base < s.knownMax {
		// The outcomes that were known at the start are older than their events' second routing.
		return s.floor
	}
	return s.window.foldFrom(s.whole)
}

// Folded is the last OUTCOMES sequence that was applied.
func (s *State) Folded() uint64 { return s.folded }

// Route notes that the event at seq was routed to n deliveries that are new: those for which Known said no. An event that no
// endpoint is to have counts as one, its Unmatched record. Sequences come in ascending order; those left out
// are gone from the log.
func (s *State) Route(seq uint64, n int) { s.RouteAhead(seq, n, seq+1) }

// RouteAhead is Route for events that are routed before lower ones: the lowest that still waits is given too. What is
// below it and was not routed is gone from the log.
func (s *State) RouteAhead(seq uint64, n int, lowest uint64) {
	s.window.route(seq, n, s.whole, lowest)
	if s.known != nil && s.window.through() >= s.knownMax {
		s.known = nil
	}
}

// Known tells whether an outcome of this delivery was recorded before this start, so that it must not be made anew from its
// event. The endpoint is empty for the Unmatched record.
func (s *State) Known(k Key) bool {
	_, ok := s.known[k]
	return ok
}

// Fold applies an outcome that was read from the log at start, at its OUTCOMES sequence.
func (s *State) Fold(seq uint64, o *relay.Outcome) {
	if o.Retold != 0 { // nothing new
		s.reach(seq)
		return
	}
	k := Key{o.Seq, o.EndpointID}
	if o.Seq > s.window.base {
		if s.known == nil {
			s.known = map[Key]struct{}{}
		}
		s.known[k] = struct{}{}
		s.knownMax = max(s.knownMax, o.Seq)
	}
	s.reach(seq)
	s.place(k, o)
}

// reach notes that the records below seq are whole.
func (s *State) reach(seq uint64) {
	if seq > s.folded {
		s.folded, s.whole = seq, seq-1
	}
}

// Whole notes that no more outcomes come under the last OUTCOMES sequence: one record of the log holds several.
func (s *State) Whole() { s.whole = s.folded }

// Apply takes an outcome that this owner appends at this OUTCOMES sequence, with others before and after it. first tells that it is the first
// one of a delivery (or the Unmatched record) that Route counted as new: it is recorded from here on. What waits in no lane becomes
// Ready, Waiting or Held by its state; busy tells that the delivery stays in its lane or in flight.
func (s *State) Apply(seq uint64, o *relay.Outcome, first, busy bool) {
	k := Key{o.Seq, o.EndpointID}
	s.reach(seq)
	if o.Retold != 0 { // nothing new
		return
	}
	if first {
		s.window.record(o.Seq)
	}
	s.place(k, o)
	if busy {
		s.SetBusy(k, true)
	}
}

// Defer keeps a new delivery by its sequence alone, Ready, before any outcome says so: it waits behind a
// full lane. Until it is recorded Cursor stays below it.
func (s *State) Defer(k Key, deadline time.Time) {
	s.put(k, entry{seq: k.Seq, deadline: clampSeconds(deadline), flags: flagUnrecorded})
}

// place makes the index say what an outcome says.
func (s *State) place(k Key, o *relay.Outcome) {
	if o.State.Terminal() {
		s.remove(k)
		return
	}
	e := entry{seq: k.Seq, deadline: clampSeconds(o.Deadline), attempts: clampAttempts(o.Attempts)}
	delete(s.due, k)
	switch {
	case o.State == relay.Held:
		e.setWaits(Held)
	case o.State == relay.Retrying, !o.Due.IsZero():
		e.setWaits(Waiting)
		s.wait(k, o.Due.UnixNano())
	}
	if o.Progress.Next > 0 {
		s.progress[k] = o.Progress
	} else {
		delete(s.progress, k)
	}
	s.put(k, e)
}

// Get is an open delivery.
func (s *State) Get(k Key) (Entry, bool) {
	e, ok := s.find(k)
	if !ok {
		return Entry{}, false
	}
	return s.export(k, e), true
}

// SetBusy takes an open delivery out of the hands of Sweep, or gives it back: then it is what it was before, or Ready
// where its time came meanwhile. It does nothing to one that is not open.
func (s *State) SetBusy(k Key, busy bool) {
	e, ok := s.find(k)
	if !ok || e.busy() == busy {
		return
	}
	e.flags ^= flagBusy
	s.put(k, e)
}

// Due makes the deliveries Ready whose time has come by now, at most limit of them, and returns those that are not Busy.
func (s *State) Due(now time.Time, limit int) []Entry {
	var due []Entry
	for len(due) < limit {
		one, ok := s.timers.pop(now)
		if !ok {
			break
		}
		k := one.key
		if s.due[k] != one.due {
			continue // the timer outlived its delivery, or that state of it
		}
		delete(s.due, k)
		if e, found := s.find(k); found && e.waits() == Waiting {
			e.setWaits(Ready)
			s.put(k, e)
			if !e.busy() {
				due = append(due, s.export(k, e))
			}
		}
	}
	return due
}

// SetBack makes what waits for a time wait for one that is so much earlier, as when the clock was set back: it is ready when it
// would have been.
func (s *State) SetBack(by time.Duration) {
	s.timers = timers{}
	for k, due := range s.due {
		s.wait(k, due-int64(by))
	}
}

// NextDue is when the next delivery's time comes; the zero time if none waits.
func (s *State) NextDue() time.Time { return s.timers.next() }

// Open counts an endpoint's open deliveries and those of them that are Ready.
func (s *State) Open(endpointID string) (open, ready int) {
	ep := s.endpoints[endpointID]
	if ep == nil {
		return 0, 0
	}
	return ep.open.len(), ep.count[Ready]
}

// Count counts an endpoint's open deliveries of one status.
func (s *State) Count(endpointID string, status Status) int {
	if ep := s.endpoints[endpointID]; ep != nil {
		return ep.count[status]
	}
	return 0
}

// Oldest is the lowest EVENTS sequence of an endpoint's open deliveries, and false where none is open.
func (s *State) Oldest(endpointID string) (seq uint64, ok bool) {
	ep := s.endpoints[endpointID]
	if ep == nil {
		return 0, false
	}
	first, ok := ep.open.first()
	return first.seq, ok
}

// Waiting counts all open deliveries, and those of them that are Ready.
func (s *State) Waiting() (open, ready int) {
	for _, ep := range s.endpoints {
		open += ep.open.len()
		ready += ep.count[Ready]
	}
	return open, ready
}

// Bytes is the memory that the index of open deliveries takes, but for a constant share of it.
func (s *State) Bytes() (n int) {
	for _, ep := range s.endpoints {
		n += ep.open.bytes()
	}
	return n
}

// LowestOpen is the lowest EVENTS sequence that an open delivery still needs; MaxUint64 if none is open.
func (s *State) LowestOpen() uint64 {
	lowest := uint64(math.MaxUint64)
	for _, ep := range s.endpoints {
		if first, ok := ep.open.first(); ok {
			lowest = min(lowest, first.seq)
		}
	}
	return lowest
}

// Each calls yield for every open delivery of an endpoint in ascending order of their sequences, until it returns
// false. The state must not be changed meanwhile.
func (s *State) Each(endpointID string, yield func(Entry) bool) {
	ep := s.endpoints[endpointID]
	if ep == nil {
		return
	}
	ep.open.ascend(0, func(e *entry) bool { return yield(s.export(Key{e.seq, endpointID}, *e)) })
}

// EachReady calls yield with each endpoint that has Ready deliveries, in no order, and how many of them are its backlog: those that
// an outcome says are open. The state must not be changed meanwhile.
func (s *State) EachReady(yield func(endpointID string, backlog int)) {
	for id, ep := range s.endpoints {
		if n := ep.count[Ready]; n > 0 {
			yield(id, n-ep.fresh)
		}
	}
}

// Endpoints are the ids of those with open deliveries.
func (s *State) Endpoints() []string {
	ids := make([]string, 0, len(s.endpoints))
	for id := range s.endpoints {
		ids = append(ids, id)
	}
	return ids
}

func (s *State) export(k Key, e entry) Entry {
	return Entry{
		Key: k, Status: e.status(), Attempts: int(e.attempts), Deadline: time.Unix(int64(e.deadline), 0),
		Recorded: e.flags&flagUnrecorded == 0, Progress: s.progress[k],
	}
}

func (s *State) find(k Key) (entry, bool) {
	ep := s.endpoints[k.Endpoint]
	if ep == nil {
		return entry{}, false
	}
	return ep.open.get(k.Seq)
}

// put inserts or replaces an entry and keeps the counts by status.
func (s *State) put(k Key, e entry) {
	ep := s.endpoints[k.Endpoint]
	if ep == nil {
		ep = &endpoint{}
		s.endpoints[k.Endpoint] = ep
	}
	old, replaced := ep.open.put(e)
	if replaced {
		ep.tell(&old, -1)
	}
	ep.tell(&e, 1)
}

// tell counts an entry that comes or goes.
func (ep *endpoint) tell(e *entry, n int) {
	ep.count[e.status()] += n
	if e.status() == Ready && e.flags&flagUnrecorded != 0 {
		ep.fresh += n
	}
}

// wait sets the time at which a Waiting delivery becomes Ready.
func (s *State) wait(k Key, due int64) {
	s.due[k] = due
	s.timers.add(timer{due, k})
}

func (s *State) remove(k Key) {
	delete(s.progress, k)
	delete(s.due, k)
	ep := s.endpoints[k.Endpoint]
	if ep == nil {
		return
	}
	if old, ok := ep.open.remove(k.Seq); ok {
		ep.tell(&old, -1)
	}
	if ep.open.len() == 0 {
		delete(s.endpoints, k.Endpoint)
	}
}

func clampSeconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

func clampAttempts(n int) uint16 { return uint16(min(max(n, 0), math.MaxUint16)) }
