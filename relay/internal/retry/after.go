package retry

import (
	"net/http"
	"strings"
	"time"
)

// MaxRetryAfter is the longest wait that a receiver can ask for; more is taken for this much.
const MaxRetryAfter = 24 * time.Hour

const maxRetryAfterLength = 64 // the longest HTTP-date has 33 characters

// ParseRetryAfter reads the value of a Retry-After header (RFC 9110, section 10.2.3): a number of seconds, or an
// HTTP-date in any of its three forms, which is counted from now. The answer lies between zero (also for a time gone
// by) and MaxRetryAfter. It is false for anything else.
func ParseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.Trim(value, " \t")
	if value == "" || len(value) > maxRetryAfterLength {
		return 0, false
	}
	if seconds, ok := deltaSeconds(value); ok {
		return seconds, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	// Sub saturates, so that no date overflows.
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}

// deltaSeconds reads 1*DIGIT of any length.
func deltaSeconds(value string) (time.Duration, bool) {
	var n time.Duration
	for i := range len(value) {
		c := value[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		if n < MaxRetryAfter {
			n = n*10 + time.Duration(c-'0')*time.Second
		}
	}
	return min(n, MaxRetryAfter), true
}
