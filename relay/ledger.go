package relay

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound is what a Ledger answers for a delivery or event that it does not hold, or that is another
// tenant's.
var ErrNotFound = errors.New("not found")

// ErrPageToken is what a Ledger answers for a page token that it did not make, or that was made for another query.
var ErrPageToken = errors.New("page token is not one of this query's")

// Why a view does not do what Ping asks of it, where it answers at all.
var (
	// ErrViewFull is for a view that can be read, and takes nothing more for want of room.
	ErrViewFull = errors.New("the view is full")
	// ErrViewRefuses is for one that can be reached, and refuses.
	ErrViewRefuses = errors.New("the view refuses")
)

// ErrPositionLost is what Apply answers where a partition's stored position is no longer the one that its writer last
// saw: the view was emptied, or lost a part of itself. Nothing was moved; the writer asks for Position again and goes
// on from there.
var ErrPositionLost = errors.New("the view's position is not where its writer left it")

// Ledger is the view: the queryable index of deliveries, derived from the OUTCOMES logs and rebuilt from
// them when it is lost. No decision to send rests on it. Implementations are safe for concurrent use; each
// partition has one writer.
type Ledger interface {
	// Apply takes the next outcomes of a partition's log and moves its position to upTo (the sequence in OUTCOMES
	// of the last of them), both or neither. Applying outcomes again that were applied before
	// changes nothing: those at or below the position are left out by the implementation. It takes effect only if the
	// position is still the one that this Ledger last answered for the partition, by Position or Apply, and
	// is ErrPositionLost otherwise. An outcome that is Retold changes nothing of a delivery of which a later one than it names was applied,
	// but for the attempt that it carries.
	Apply(ctx context.Context, partition int, upTo uint64, outcomes []SequencedOutcome) error
	// Position is the sequence in OUTCOMES up to which a partition was applied; 0 for a view that is new or was lost.
	Position(ctx context.Context, partition int) (uint64, error)
	// Delivery is one delivery with its attempts, oldest first, or ErrNotFound.
	Delivery(ctx context.Context, tenant, id string) (DeliveryStatus, error)
	// Deliveries lists what a query asks for, newest first by AcceptTime and, where that is equal, by descending ID, or just
	// the other way round, without attempts. A page may hold fewer than were asked for, or none, and still have a next one: that is
	// so where an implementation has looked at as many as one call may.
	Deliveries(ctx context.Context, q DeliveryQuery) (DeliveryPage, error)
	// Event is where an event stands, or ErrNotFound.
	Event(ctx context.Context, tenant, id string) (EventStatus, error)
	// Trim removes settled deliveries that were accepted before a time, and then the oldest settled ones until what is
	// stored is at most maxBytes (0: no bound; bytes as the implementation counts them, before compression). A record
	// of an unmatched event goes in the same way; an event's own goes with its last delivery. What is not settled
	// stays whatever the bounds. It returns how many deliveries and unmatched events it removed.
	Trim(ctx context.Context, before time.Time, maxBytes int64) (int, error)
	// Scrub has what was written over or removed of deliveries accepted from one time up to another leave the disk, as far as the implementation
	// can; it returns when that is so. The embedded one does; a Redis server that writes a log of its commands
	// keeps the old values in it until it rewrites that log.
	Scrub(ctx context.Context, from, to time.Time) error
	// Ping tells whether the view can be read and written now; an error is ErrViewFull or ErrViewRefuses where that is why.
	Ping(ctx context.Context) error
	Close() error
}

// SequencedOutcome is an outcome with its place in its partition's OUTCOMES. Outcomes of one record of the log share a
// sequence; Apply is given all of them, in their order, or none.
type SequencedOutcome struct {
	Sequence uint64
	Outcome
}

// DeliveryStatus is a delivery as the view has it.
type DeliveryStatus struct {
	ID         string
	Tenant     string
	EndpointID string
	EventID    string
	EventType  string
	EventTime  time.Time
	AcceptTime time.Time
	Partition  int
	Seq        uint64

	State    DeliveryState
	Reason   Reason
	Attempts int
	Due      time.Time
	Deadline time.Time
	Updated  time.Time
	Redacted int
	Progress Progress

	// History holds the latest attempts, oldest first, at most MaxAttemptsKept; nil in lists.
	History []Attempt
}

// MaxAttemptsKept is how many attempts of one delivery the view keeps: the first one and the latest others.
const MaxAttemptsKept = 100

// EventStatus is an event as the view has it.
type EventStatus struct {
	Tenant     string
	ID         string
	Type       string
	Time       time.Time
	AcceptTime time.Time
	Partition  int
	Seq        uint64
	Matched    bool // false: no endpoint was to have it
}

// DeliveryQuery asks for deliveries of one tenant. Zero fields do not narrow it.
type DeliveryQuery struct {
	Tenant     string // required, unless AllTenants
	AllTenants bool   // for operators
	EndpointID string
	EventID    string
	EventType  string // exact, or a pattern as in MatchPattern
	State      DeliveryState
	After      time.Time // accepted at or after
	Before     time.Time // accepted before
	Oldest     bool      // the oldest first
	PageSize   int       // 1 to MaxPageSize; 0 is DefaultPageSize
	PageToken  string
}

// Bounds of a page.
const (
	DefaultPageSize = 50
	MaxPageSize     = 1000
)

// DeliveryPage is one page of a list. NextPageToken is empty on the last page. A token stays right while new deliveries
// arrive: none is listed twice or left out because of them.
type DeliveryPage struct {
	Deliveries    []DeliveryStatus
	NextPageToken string
}
