package relay

import "time"

// EndpointHealth is how an endpoint does, as its partition's owner knows it.
type EndpointHealth struct {
	Breaker BreakerState `json:"breaker"`
	// Open are the deliveries that are not settled, by state; states without any are left out.
	Open     map[DeliveryState]int `json:"open,omitempty"`
	InFlight int                   `json:"inFlight"`
	// OldestOpen is when the oldest open delivery was accepted; zero where none is recorded as open.
	OldestOpen        time.Time `json:"oldestOpen,omitzero"`
	LastDelivery      time.Time `json:"lastDelivery,omitzero"`
	LastFailure       time.Time `json:"lastFailure,omitzero"`
	LastFailureReason Reason    `json:"lastFailureReason,omitempty"`
	// Since is when counting began: at the owner's start, or at the endpoint's first attempt after it.
	Since time.Time `json:"since,omitzero"`
	Spans []Span    `json:"spans,omitempty"`
}

// BreakerState is what an endpoint's breaker does with deliveries.
type BreakerState string

// The states of a breaker: Closed lets everything pass, Open nothing until its next probe, Probing has a probe on its way.
const (
	BreakerClosed  BreakerState = "CLOSED"
	BreakerOpen    BreakerState = "OPEN"
	BreakerProbing BreakerState = "PROBING"
)

// Span is what came of the attempts of one span of time that ends now.
type Span struct {
	Length    time.Duration `json:"length"`
	Attempts  int64         `json:"attempts"`
	Accepted  int64         `json:"accepted"` // attempts that were
	Delivered int64         `json:"delivered"`
	Dead      int64         `json:"dead"`
	P50       time.Duration `json:"p50"` // of an attempt; zero where there was none
	P99       time.Duration `json:"p99"`
	// Failures are the attempts that were not accepted, by reason.
	Failures map[Reason]int64 `json:"failures,omitempty"`
}
