// Package breaker says whether an endpoint is worth trying.
//
// It promises that an endpoint which keeps failing is asked seldom, one probe at a time, and that one success of a
// probe opens the way again. It is pure: time is an argument, and there is no goroutine, lock or timer; a Breaker
// belongs to whoever owns its endpoint. It trusts its caller to report what it allowed.
package breaker

import (
	"math/bits"
	"time"
)

// The bounds of the rule: it opens on MaxConsecutive failures in a row, or when half of the last Window attempts
// failed; then it probes after FirstProbe, twice that after each failed probe, and LastProbe at most.
const (
	MaxConsecutive = 10
	Window         = 20
	FirstProbe     = 10 * time.Second
	LastProbe      = 15 * time.Minute

	// A probe of which nothing is heard for longer than any attempt may last was lost: another one is allowed.
	probeLost = 2 * time.Minute
	windowSet = 1<<Window - 1
)

// State is what a breaker does with deliveries.
type State uint8

// The states: Closed lets everything pass, Open nothing until its next probe is due, Probing nothing while its
// one probe is on its way.
const (
	Closed State = iota
	Open
	Probing
)

// String is the state's name in records, logs and metrics.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case Probing:
		return "probing"
	}
	return "unknown"
}

// Change is what a result brought about.
type Change uint8

// The changes. FailedAgain is a failed probe: the breaker stays open, for longer.
const (
	Unchanged Change = iota
	Opened
	FailedAgain
	Recovered
)

// Breaker is the state of one endpoint. The zero value is closed and knows nothing, which is also how it starts after
// a restart, unless it is seeded: a breaker that was open is found out again by at most MaxConsecutive attempts.
// It is not safe for concurrent use.
type Breaker struct {
	failures    uint32 // the last Window results, the newest in bit 0; 1 is a failure
	results     uint8  // how many of them there are
	consecutive uint8
	state       State
	wait        time.Duration // until the probe after the next one
	next        time.Time     // of the next probe; in Probing, when this one counts as lost
}

// Seed is a breaker that has already seen that many failures in a row, as they were found in the log at a start.
// It is closed however many there were, so that one attempt after a restart finds out how things stand.
func Seed(consecutive int) Breaker {
	n := uint8(min(max(consecutive, 0), MaxConsecutive-1))
	return Breaker{failures: 1<<n - 1, results: n, consecutive: n}
}

// State tells the state.
func (b *Breaker) State() State { return b.state }

// Consecutive is the number of failures in a row, at most MaxConsecutive.
func (b *Breaker) Consecutive() int { return int(b.consecutive) }

// NextProbe is when Allow will grant a probe; zero while closed.
func (b *Breaker) NextProbe() time.Time { return b.next }

// Allow tells whether an attempt may be made now, and whether it would be the one probe. To ask for a probe is to take it:
// whoever was granted one reports it with Record, or gives it back with Release.
func (b *Breaker) Allow(now time.Time) (send, probe bool) {
	if b.state == Closed {
		return true, false
	}
	if now.Before(b.next) {
		return false, false
	}
	b.state, b.next = Probing, now.Add(probeLost)
	return true, true
}

// Record takes the result of an attempt; probe tells whether Allow granted it as one. While the breaker is not closed,
// the failure of an attempt that was begun before it opened changes nothing, and its success brings the next probe
// forward to now, for it says that the endpoint may be well.
func (b *Breaker) Record(now time.Time, healthy, probe bool) Change {
	switch {
	case b.state == Closed:
		return b.count(now, healthy)
	case !probe && healthy && b.state == Open:
		b.next = now
		return Unchanged
	case !probe:
		return Unchanged
	case healthy:
		*b = Breaker{}
		return Recovered
	}
	b.waitLonger(now)
	return FailedAgain
}

// Release gives back a probe that came to no result, as when it was cancelled: another one may be made at once.
func (b *Breaker) Release(now time.Time) {
	if b.state == Probing {
		b.state, b.next = Open, now
	}
}

// Reset closes the breaker and forgets what it knew, as when its endpoint was changed or resumed.
func (b *Breaker) Reset() { *b = Breaker{} }

func (b *Breaker) count(now time.Time, healthy bool) Change {
	b.failures = b.failures << 1 & windowSet
	b.results = min(b.results+1, Window)
	if healthy {
		b.consecutive = 0
	} else {
		b.failures |= 1
		b.consecutive++
	}
	half := b.results == Window && bits.OnesCount32(b.failures)*2 >= Window
	// A success never opens it, even where it completes a window of which half failed.
	if healthy || b.consecutive < MaxConsecutive && !half {
		return Unchanged
	}
	b.wait = FirstProbe
	b.waitLonger(now)
	return Opened
}

func (b *Breaker) waitLonger(now time.Time) {
	b.state = Open
	b.next = now.Add(b.wait)
	b.wait = min(2*b.wait, LastProbe)
}
