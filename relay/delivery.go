package relay

import (
	"crypto/sha256"
	"encoding/base32"
	"time"
)

// DeliveryState is where a delivery stands. DELIVERED, DEAD, WITHHELD and CANCELLED are terminal:
// a delivery ends in exactly one of them.
type DeliveryState string

// The states of a delivery. Unmatched is no delivery's state: it marks the record of an event that no
// endpoint was to have.
const (
	Pending   DeliveryState = "PENDING"
	Retrying  DeliveryState = "RETRYING"
	Parked    DeliveryState = "PARKED"
	Held      DeliveryState = "HELD"
	Delivered DeliveryState = "DELIVERED"
	Dead      DeliveryState = "DEAD"
	Withheld  DeliveryState = "WITHHELD"
	Cancelled DeliveryState = "CANCELLED"
	Unmatched DeliveryState = "UNMATCHED"
	// Owned is no delivery's state either: it marks the record with which a partition's new owner begins, so that the log refuses
	// the former one's from there on. It is in the log alone.
	Owned DeliveryState = "OWNED"
)

// DeliveryStates are the states of a delivery, in the order of its life.
var deliveryStates = []DeliveryState{Pending, Retrying, Parked, Held, Delivered, Dead, Withheld, Cancelled}

// DeliveryStates returns every state that a delivery can be in.
func DeliveryStates() []DeliveryState { return append([]DeliveryState(nil), deliveryStates...) }

// Terminal tells whether nothing more happens to a delivery in this state unless a caller asks for it.
func (s DeliveryState) Terminal() bool {
	switch s {
	case Delivered, Dead, Withheld, Cancelled, Unmatched, Owned:
		return true
	}
	return false
}

// deliveryIDPrefix begins each delivery's id, so that ids in logs tell what they are.
const deliveryIDPrefix = "dlv_"

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// DeliveryID is the id of the delivery of one event to one endpoint: the same over all attempts,
// restarts and replays, and without a dot. It is 128 bits of SHA-256 over the three ids, none of which can
// hold a zero byte.
func DeliveryID(tenant, eventID, endpointID string) string {
	var scratch [256]byte
	b := append(scratch[:0], tenant...)
	b = append(b, 0)
	b = append(b, eventID...)
	b = append(b, 0)
	b = append(b, endpointID...)
	sum := sha256.Sum256(b)
	out := make([]byte, 0, len(deliveryIDPrefix)+26)
	out = append(out, deliveryIDPrefix...)
	return string(idEncoding.AppendEncode(out, sum[:16]))
}

// Progress is how far a chunked delivery has come. The zero value is a delivery that is not chunked, or of which
// no chunk was accepted yet.
type Progress struct {
	Digest [32]byte // of the whole body; if it changes between attempts, a new set begins
	Next   int      // index, from 0, of the first chunk not yet accepted
	Total  int
}

// Delivery is one event on its way to one endpoint, after policy: Data is what may leave, and no more.
// It is the unit of work, of status and of replay.
type Delivery struct {
	ID       string
	Endpoint *Endpoint // the version in force when it was routed

	EventID    string
	EventType  string
	EventTime  time.Time
	Subject    string // after policy
	Data       []byte // after policy; compact JSON; shared between deliveries, never written to
	Synthetic  bool   // its event is
	Seq        uint64 // the event's place in EVENTS
	AcceptTime time.Time

	Attempts int       // made so far
	Deadline time.Time // on the endpoint's active clock: after it the delivery is dead
	Progress Progress
}

// Outcome is one change of a delivery's state, and the journal's record of it. Each tells the whole
// state that the delivery is in after it, so that the last one wins whatever was read before: a log of outcomes
// may be read again from any earlier place.
//
// With state Unmatched it is the record of an event that no endpoint was to have; it has no endpoint.
type Outcome struct {
	DeliveryID string
	Tenant     string
	EndpointID string
	EventID    string
	EventType  string
	EventTime  time.Time
	AcceptTime time.Time
	Seq        uint64 // of the event in its partition's EVENTS
	Partition  int

	State    DeliveryState
	Reason   Reason
	Time     time.Time // of the change
	Attempts int
	Due      time.Time // of the next attempt; zero unless Retrying, or Parked for a time
	Deadline time.Time // on the endpoint's active clock
	Progress Progress
	Attempt  *Attempt // the attempt that brought the change about, if one did

	Redacted int // fields that policy dropped, masked or replaced

	// Retold is not 0 where the outcome is told once more, because a record of the log that held it, or its Attempt, was
	// erased: State and all else are as they were after the OUTCOMES sequence that it names, and only Attempt may be of an earlier one. What
	// was told after that sequence stays true.
	Retold uint64
}
