// Package retry says when a delivery that failed is tried again, and when it is given up.
//
// It promises that a delivery is never tried sooner than its receiver asked (Retry-After, up to a day), that waits
// are spread by jitter so that deliveries which failed together do not return together, and that a delivery past its
// deadline is dead. It is pure: time and chance are arguments. It trusts nothing that a receiver wrote.
package retry

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// MaxInterval bounds each interval of a schedule, before jitter.
	MaxInterval = 24 * time.Hour
	// MaxIntervals bounds the length of a schedule.
	MaxIntervals = 64

	defaultRandomization = 0.2

	// A delivery whose next turn would come after its deadline gets one more attempt this long before the deadline,
	// if that is still to come: otherwise the last hours of a long schedule would pass unused.
	lastAttempt = time.Minute
)

// ErrSchedule reports a schedule out of bounds.
var ErrSchedule = errors.New("invalid retry schedule")

// Schedule is the waits between attempts. The zero value is the default: 5 s, 30 s, 2 m, 10 m, 30 m, 1 h, 2 h, 4 h,
// 8 h, then every 12 h, each spread by a fifth to either side.
type Schedule struct {
	// Intervals are the waits after the first, second, ... failed attempt; the last one repeats. Empty: the default.
	Intervals []time.Duration
	// Randomization spreads each wait over [1-r, 1+r] times its interval, from 0 to 0.5. Where Intervals is empty and
	// this is zero, it is 0.2.
	Randomization float64
}

// Draw picks a wait at random around an interval. [Backoff] is the one to use; a test may pass one that is not random.
type Draw func(interval time.Duration, randomization float64) time.Duration

// Backoff draws with cenkalti/backoff: each interval of the schedule is taken for the interval of an exponential
// back-off of its own, of which the first randomised interval is asked for. So the spread is that library's
// arithmetic, interval*(1 ± randomization), while the schedule, which is not geometric, gives the interval.
func Backoff(interval time.Duration, randomization float64) time.Duration {
	b := backoff.ExponentialBackOff{
		InitialInterval:     interval,
		RandomizationFactor: randomization,
		Multiplier:          1,
		MaxInterval:         interval,
		Stop:                backoff.Stop,
		Clock:               backoff.SystemClock, // only counts towards MaxElapsedTime, which is none here
	}
	b.Reset()
	return b.NextBackOff()
}

// Check reports a schedule that is out of bounds: ErrSchedule and the rule.
func (s Schedule) Check() error {
	if len(s.Intervals) > MaxIntervals {
		return fmt.Errorf("%w: more than %d intervals", ErrSchedule, MaxIntervals)
	}
	for i, d := range s.Intervals {
		if d < time.Millisecond || d > MaxInterval {
			return fmt.Errorf("%w: interval %d must be 1ms to %s", ErrSchedule, i+1, MaxInterval)
		}
	}
	if !(s.Randomization >= 0 && s.Randomization <= 0.5) { // so written, it refuses NaN too
		return fmt.Errorf("%w: randomization must be 0 to 0.5", ErrSchedule)
	}
	return nil
}

// Interval is the wait after that many failed attempts, without jitter. Fewer than one counts as one.
func (s Schedule) Interval(attempts int) time.Duration {
	i := max(attempts, 1) - 1
	if len(s.Intervals) > 0 {
		return s.Intervals[min(i, len(s.Intervals)-1)]
	}
	return defaultIntervals[min(i, len(defaultIntervals)-1)]
}

// defaultIntervals is read only.
var defaultIntervals = [...]time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 12 * time.Hour,
}

// Next is the wait after that many failed attempts, drawn around its interval.
func (s Schedule) Next(attempts int, draw Draw) time.Duration {
	r := s.Randomization
	if r == 0 && len(s.Intervals) == 0 {
		r = defaultRandomization
	}
	return draw(s.Interval(attempts), r)
}

// Decide says when a delivery is tried again that has failed that many attempts, the last one now, or that it is dead.
// After is what the receiver asked for at least (bounded by MaxRetryAfter), zero for nothing. A turn that would
// come after the deadline is moved to a minute before it, once, unless the receiver asked for later: then, and
// within the last minute, and past the deadline, the delivery is dead. A zero deadline is none.
func (s Schedule) Decide(attempts int, deadline time.Time, after time.Duration, now time.Time, draw Draw) (due time.Time, dead bool) {
	after = min(max(after, 0), MaxRetryAfter)
	due = now.Add(max(s.Next(attempts, draw), after))
	if deadline.IsZero() || !due.After(deadline) {
		return due, false
	}
	last := deadline.Add(-lastAttempt)
	if !now.Before(last) || last.Before(now.Add(after)) {
		return time.Time{}, true
	}
	return last, false
}
