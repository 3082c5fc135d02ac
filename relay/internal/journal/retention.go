package journal

import (
	"context"
	"errors"
	"math"
	"time"
)

// Expire gives up the records below keep that are older than a time; and where the log holds more than a share of its
// byte bound, the oldest below keep until it holds no more than that. With a share of 0 none goes for its bytes. The embedded
// store gives up whole blocks (see Trim).
func (l *Log) Expire(ctx context.Context, keep uint64, before time.Time, share float64) error {
	upTo, err := l.expirePoint(ctx, keep, before, share)
	if err != nil || upTo == 0 {
		return err
	}
	return l.Trim(ctx, upTo)
}

// expirePoint is the last sequence that may go; 0: none.
func (l *Log) expirePoint(ctx context.Context, keep uint64, before time.Time, share float64) (uint64, error) {
	st, err := l.State(ctx)
	if err != nil || st.Last < st.First || keep <= st.First {
		return 0, err
	}
	first, last := st.First, min(keep-1, st.Last)
	old, err := l.OlderThan(ctx, first, last, before)
	if err != nil {
		return 0, err
	}
	if excess := float64(st.Bytes) - share*float64(l.maxBytes); share > 0 && excess > 0 && l.maxBytes > 0 {
		part := math.Min(1, excess/float64(st.Bytes))
		old = max(old, min(last, first+uint64(part*float64(st.Last-first+1))))
	}
	if old < first {
		return 0, nil
	}
	return old, nil
}

// OlderThan finds the last record in [first, last] that is older than a time, by halving: first-1 if none is.
func (l *Log) OlderThan(ctx context.Context, first, last uint64, before time.Time) (uint64, error) {
	low, high := first, last+1 // all below low are older, none from high on
	for low < high {
		middle := low + (high-low)/2
		m, err := l.Get(ctx, middle)
		for at := middle; errors.Is(err, ErrNotFound) && at+1 < high; {
			at++
			m, err = l.Get(ctx, at)
		}
		if errors.Is(err, ErrNotFound) {
			high = middle
			continue
		} else if err != nil {
			return 0, err
		}
		if m.Time.Before(before) {
			low = max(m.Seq, middle) + 1
		} else {
			high = middle
		}
	}
	return low - 1, nil
}
