// Package tally counts what came of the attempts to one endpoint in the last five minutes, hour and day.
//
// It promises that counting costs no allocation but for the first attempt of each slot of time, that a tally takes at most MaxBytes however
// much it counts and however long, and that a span covers its length and at most one slot more: a minute, ten minutes, two
// hours. The counts are in memory and begin anew with it. It is pure: time is an argument; a Tally belongs to one goroutine.
package tally

import (
	"math/bits"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// spans are the lengths that are told of, and the slots that they are counted in.
var spans = [...]struct {
	length, slot time.Duration
}{
	{5 * time.Minute, time.Minute},
	{time.Hour, 10 * time.Minute},
	{24 * time.Hour, 2 * time.Hour},
}

// maxSlots is how many slots one span has at most: those of its length, and the one that is being filled.
const maxSlots = 13

const (
	// buckets of latencies: below 1 ms, below 2, 4, ... and from 65 s on.
	buckets = 18
	// maxReasons is how many reasons a slot tells apart; further ones are counted under relay.ReasonTransport, the least telling.
	maxReasons = 8
)

// MaxBytes is what a tally takes at most, in memory.
const MaxBytes = 8 << 10

// Tally counts for one endpoint. The zero value has counted nothing.
type Tally struct {
	slots   [len(spans)][maxSlots]*slot
	filling [len(spans)]filling
	since   time.Time // of the first count

	lastDelivery, lastFailure time.Time
	lastReason                relay.Reason
}

type slot struct {
	number    int64 // of the slot in time: which one it counts
	attempts  uint32
	accepted  uint32
	delivered uint32
	dead      uint32
	latency   [buckets]uint32
	reasons   int
	failures  [maxReasons]failure
}

type failure struct {
	reason relay.Reason
	n      uint32
}

// Attempt counts an attempt that ended now.
func (t *Tally) Attempt(now time.Time, accepted bool, reason relay.Reason, took time.Duration) {
	b := bucket(took)
	for i := range t.slots {
		s := t.slot(i, now)
		s.attempts++
		s.latency[b]++
		if accepted {
			s.accepted++
		} else {
			s.fail(reason)
		}
	}
	if !accepted {
		t.lastFailure, t.lastReason = now, reason
	}
}

// Settled counts a delivery that was delivered or is dead now; other states count nothing.
func (t *Tally) Settled(now time.Time, state relay.DeliveryState) {
	if state != relay.Delivered && state != relay.Dead {
		return
	}
	for i := range spans {
		if s := t.slot(i, now); state == relay.Delivered {
			s.delivered++
		} else {
			s.dead++
		}
	}
	if state == relay.Delivered {
		t.lastDelivery = now
	}
}

// filling is the slot of each span that was counted into last, and the time that it is for, in nanoseconds since 1970.
type filling struct {
	*slot
	from, to int64
}

// slot is the one that now falls into, empty where it counted another time.
func (t *Tally) slot(span int, now time.Time) *slot {
	ns := now.UnixNano()
	if f := &t.filling[span]; ns >= f.from && ns < f.to {
		return f.slot
	}
	if t.since.IsZero() {
		t.since = now
	}
	width := int64(spans[span].slot)
	number := ns / width
	at := &t.slots[span][number%int64(spans[span].length/spans[span].slot+1)]
	switch {
	case *at == nil:
		*at = &slot{number: number}
	case (*at).number != number:
		**at = slot{number: number}
	}
	t.filling[span] = filling{*at, number * width, (number + 1) * width}
	return *at
}

func (s *slot) fail(reason relay.Reason) {
	for i := range s.failures[:s.reasons] {
		if s.failures[i].reason == reason {
			s.failures[i].n++
			return
		}
	}
	if s.reasons == maxReasons {
		last := &s.failures[maxReasons-1]
		last.reason = relay.ReasonTransport
		last.n++
		return
	}
	s.failures[s.reasons] = failure{reason, 1}
	s.reasons++
}

// Tell adds to h what was counted up to now.
func (t *Tally) Tell(h *relay.EndpointHealth, now time.Time) {
	h.Since, h.LastDelivery, h.LastFailure, h.LastFailureReason = t.since, t.lastDelivery, t.lastFailure, t.lastReason
	for i, span := range spans {
		var latency [buckets]uint32
		out := relay.Span{Length: span.length, Failures: map[relay.Reason]int64{}}
		newest := now.UnixNano() / int64(span.slot)
		oldest := newest - int64(span.length/span.slot)
		for _, s := range t.slots[i] {
			if s == nil || s.number < oldest || s.number > newest {
				continue
			}
			out.Attempts += int64(s.attempts)
			out.Accepted += int64(s.accepted)
			out.Delivered += int64(s.delivered)
			out.Dead += int64(s.dead)
			for b, n := range s.latency {
				latency[b] += n
			}
			for _, f := range s.failures[:s.reasons] {
				out.Failures[f.reason] += int64(f.n)
			}
		}
		out.P50, out.P99 = quantile(&latency, 0.5), quantile(&latency, 0.99)
		h.Spans = append(h.Spans, out)
	}
}

// Idle tells whether there is nothing left to tell but when counting began.
func (t *Tally) Idle(now time.Time) bool {
	return now.Sub(t.lastDelivery) > 25*time.Hour && now.Sub(t.lastFailure) > 25*time.Hour
}

func bucket(took time.Duration) int {
	return min(bits.Len64(uint64(max(0, took.Milliseconds()))), buckets-1)
}

// edge is where a bucket begins.
func edge(b int) time.Duration {
	if b == 0 {
		return 0
	}
	return time.Millisecond << (b - 1)
}

// quantile is right to within its bucket, that is a factor of two, and in it goes by where the rank falls. The last bucket has no
// end and tells its beginning.
func quantile(latency *[buckets]uint32, q float64) time.Duration {
	total := uint64(0)
	for _, n := range latency {
		total += uint64(n)
	}
	rank := q * float64(total)
	for b, n := range latency {
		if n == 0 {
			continue
		}
		if rank > float64(n) {
			rank -= float64(n)
			continue
		}
		if b == buckets-1 {
			return edge(b)
		}
		return edge(b) + time.Duration(rank/float64(n)*float64(edge(b+1)-edge(b)))
	}
	return 0
}
