package demo

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is what a demo found. It holds no content of events.
type Report struct {
	Published int `json:"published"` // events that the server kept
	Repeats   int `json:"repeats"`   // events that were published again and known
	Matched   int `json:"matched"`   // events that anybody was to have
	Expected  int `json:"expected"`  // deliveries that the events' file calls for
	Delivered int `json:"delivered"` // of them, by the API's account
	Verified  int `json:"verified"`  // of them, with signature and content right at the partner
	Redacted  int `json:"redacted"`  // fields removed, masked or replaced on the way
	Chunked   int `json:"chunked"`   // deliveries that came in chunks
	Chunks    int `json:"chunks"`
	Retries   int `json:"retries"`    // attempts that had to be repeated
	Twice     int `json:"duplicates"` // deliveries that a partner got once more
	Leaks     int `json:"leaks"`      // requests with a sensitive value

	// From publishing to the partner's verification, retries included, in milliseconds.
	P50     float64 `json:"p50Milliseconds"`
	P99     float64 `json:"p99Milliseconds"`
	Seconds float64 `json:"seconds"`

	// Problems is why the demo failed.
	Problems []string `json:"problems"`

	latencies       []time.Duration
	attempts, posts int
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// OK tells whether everything that should have happened did, and nothing else.
func (r *Report) OK() bool {
	return len(r.Problems) == 0 && r.Leaks == 0 && r.Expected > 0 && r.Verified == r.Expected && r.Delivered == r.Expected
}

// finish works out what the report shows.
func (r *Report) finish() {
	slices.Sort(r.latencies)
	r.P50, r.P99 = r.percentile(50), r.percentile(99)
}

// percentile is the nearest-rank one, in milliseconds.
func (r *Report) percentile(p int) float64 {
	n := len(r.latencies)
	if n == 0 {
		return 0
	}
	rank := max(1, (n*p+99)/100)
	return float64(r.latencies[rank-1].Microseconds()) / 1000
}

// maxProblems is how many are shown; JSON has them all.
const maxProblems = 20

// Table writes the report for people.
func (r *Report) Table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	for _, line := range []struct {
		name  string
		value any
		more  string
	}{
		{"published", r.Published, fmt.Sprintf("events, %d of them twice and kept once", r.Repeats)},
		{"matched", r.Matched, fmt.Sprintf("events, %d deliveries", r.Expected)},
		{"delivered", r.Delivered, "by the API's account"},
		{"verified by the receiver", r.Verified, "signature, client certificate and content"},
		{"sensitive values received", r.Leaks, ""},
		{"fields redacted", r.Redacted, ""},
		{"chunks", r.Chunks, fmt.Sprintf("of %d deliveries too large for one push", r.Chunked)},
		{"retries", r.Retries, "while a partner was down"},
		{"duplicates", r.Twice, "at the receivers"},
		{"latency p50", fmt.Sprintf("%.0f ms", r.P50), "from publishing to verified receipt"},
		{"latency p99", fmt.Sprintf("%.0f ms", r.P99), "with the wait for the partner that was down"},
	} {
		fmt.Fprintf(w, "%s\t%v\t  %s\n", line.name, line.value, line.more)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, p := range r.Problems {
		if i == maxProblems {
			fmt.Fprintf(out, "... and %d more problems\n", len(r.Problems)-i)
			break
		}
		fmt.Fprintf(out, "problem: %s\n", p)
	}
	return nil
}
