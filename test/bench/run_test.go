package bench_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/store/redistest"
	"github.com/sealpost/sealpost/test/bench"
	"github.com/sealpost/sealpost/test/rig"
)

var binary string

func TestMain(m *testing.M) { os.Exit(rig.Main(m, &binary)) }

// measured runs the command with short times. What its figures are depends on the machine; that they are there and that events
// and deliveries add up does not.
func measured(t *testing.T, args ...string) bench.Report {
	t.Helper()
	r, err := attempted(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// attempted is measured where a part may fail.
func attempted(t *testing.T, args ...string) (bench.Report, error) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"bench", "--time", "100ms", "--scale", "0.001", "--data", dir, "--output", "json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, errs.Bytes())
	}
	var r bench.Report
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	if decoded := decoder.Decode(&r); decoded != nil {
		t.Fatal(errors.Join(err, decoded))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d entries are left in the data folder (%v)", len(left), err)
	}
	if r.Machine.Cores < 1 || r.Machine.Go == "" || r.Seconds <= 0 {
		t.Errorf("the machine is not described: %+v", r.Machine)
	}
	if r.Scale != 0.001 || (err != nil) != (len(r.Failures) > 0) {
		t.Errorf("scale %v, %d failures, and the command ended with %v", r.Scale, len(r.Failures), err)
	}
	for _, p := range r.Passes {
		if p.Published < 1 || p.Acknowledged != p.Published || p.Expected < 1 && !strings.HasPrefix(p.Part, "accepting") || p.Received != p.Expected || p.Duplicates != 0 {
			t.Errorf("does not add up: %+v", p)
		}
	}
	for _, f := range r.Figures {
		// Memory may shrink while little is parked.
		if f.Value <= 0 && !strings.Contains(f.Name, "grown by") || f.Unit == "" || f.Bare > 0 && f.Ratio <= 0 {
			t.Errorf("no figure: %+v", f)
		}
	}
	return r, err
}

// holds fails where a report lacks one of a part's figures; those with a plus have the bare client's beside them.
func holds(t *testing.T, r bench.Report, part string, names ...string) {
	t.Helper()
	for _, name := range names {
		name, beside := strings.CutSuffix(name, "+")
		at := slices.IndexFunc(r.Figures, func(f bench.Figure) bool { return strings.HasPrefix(f.Part, part) && f.Name == name })
		if at < 0 {
			t.Errorf("%s: no figure %q", part, name)
		} else if f := r.Figures[at]; beside != (f.Ratio > 0) {
			t.Errorf("%s: %s has the ratio %v", part, name, f.Ratio)
		}
	}
}

// full are the figures of a load at full speed.
var full = []string{
	"deliveries+", "events accepted+", "CPU of the relay for 10,000 deliveries+", "written by the relay for 10,000 deliveries",
}

func TestQuick(t *testing.T) {
	t.Parallel()
	r := measured(t, "--quick")
	holds(t, r, "bare client, HTTP", "requests", "CPU for 10,000")
	holds(t, r, "bare client, mutual TLS", "requests", "CPU for 10,000")
	holds(t, r, "end to end, HTTP", full...)
	holds(t, r, "latency at 50 events/s", "p50+", "p99+", "max+")
	if len(r.Passes) < 4 {
		t.Errorf("only %d passes are accounted for", len(r.Passes))
	}
}

func TestLatencyHalf(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "latency-half")
	holds(t, r, "latency at half of the rate", "events published", "p50+", "p99+", "max+")
}

func TestVariants(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "tls,redaction,fan-out,accept")
	holds(t, r, "end to end, TLS", full...)
	holds(t, r, "end to end, mutual TLS", full...)
	holds(t, r, "end to end, redacted", full...)
	holds(t, r, "end to end, 1 event to 2 endpoints", full...)
	holds(t, r, "end to end, 1 event to 3 endpoints", full...)
	holds(t, r, "accepting alone", "events accepted+", "CPU of the relay for 10,000 events+", "written by the relay for 10,000 events")
}

func TestManyEndpoints(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "endpoints")
	holds(t, r, "end to end, each event to 1 of 10 endpoints", full...)
	for _, n := range []string{"20", "40"} {
		holds(t, r, "end to end, each event to 1 of "+n+" endpoints", append(slices.Clone(full), "deliveries against those at 10, both over bare")...)
	}
	for _, f := range r.Figures {
		if f.Goal != nil {
			t.Errorf("a goal is set for another number of endpoints: %+v", f)
		}
	}
}

// TestGoals are those that do not rest on numbers that are scaled.
func TestGoals(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "end-to-end")
	goals := 0
	for _, f := range r.Figures {
		if g := f.Goal; g != nil {
			goals++
			if !g.OfBare || g.Met != (f.Ratio >= g.AtLeast && (g.AtMost == 0 || f.Ratio <= g.AtMost)) {
				t.Errorf("%s: %+v", f.Name, g)
			}
		}
	}
	if goals != 2 {
		t.Errorf("%d goals", goals)
	}
}

// TestFailedPart has a part fail: the others are measured, and the command fails.
func TestFailedPart(t *testing.T) {
	t.Parallel()
	r, err := attempted(t, "--only", "bare,end-to-end,redis", "--redis", "redis://127.0.0.1:1/0")
	if err == nil || len(r.Failures) != 1 || r.Failures[0].Part != "redis" || r.Failures[0].Error == "" {
		t.Errorf("%v, failures %+v", err, r.Failures)
	}
	holds(t, r, "bare client, HTTP", "requests", "CPU for 10,000")
	holds(t, r, "end to end, HTTP", full...)
}

func TestSchemes(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "schemes")
	for _, scheme := range []string{"standard", "standard-ed25519", "rfc9421", "timestamp-hmac", "timestamp-hmac-256", "rsa-sha256"} {
		holds(t, r, "end to end, scheme "+scheme, full...)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "drain")
	holds(t, r, "drain of a paused endpoint", "deliveries+", "events accepted while paused+")
}

func TestIsolation(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "isolation,hanging")
	for _, part := range []string{"isolation, 3 of 10 endpoints ill", "isolation, 4 of 20 endpoints ill"} {
		holds(t, r, part, "p99 of the well, all well (median)", "p99 of the well, others ill (median)", "ill over well (median of pairs)")
	}
	if len(r.Passes) != 40 { // of each, a warming up and a load, with and without, five times
		t.Errorf("%d passes are accounted for", len(r.Passes))
	}
}

// weighed are the figures of what is parked, and lived those of live traffic beside its drain.
var (
	weighed = []string{
		"events accepted and parked", "index of what is parked, of a delivery", "heap grown by, of a delivery",
		"resident memory grown by, of a delivery", "disk, of a delivery of 1 KiB", "bytes read by all of the relay, over those of the log",
	}
	lived = []string{
		"p50 of live traffic at 200/s before+", "p50 of live traffic at 200/s while it drains+",
		"p99 of live traffic at 200/s before+", "p99 of live traffic at 200/s while it drains+",
	}
)

func TestBacklog(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "backlog")
	part := "backlog, 1000 deliveries for one dead endpoint"
	holds(t, r, part, slices.Concat(weighed, lived)...)
	holds(t, r, part, "start after kill -9, until ready", "start after kill -9, until a new event is delivered", "resident memory after the start",
		"deliveries while it drains and nothing is published+", "CPU of the relay for 10,000 of them+", "live traffic at full speed before", "live traffic at full speed, draining over before")
}

func TestInterleavedBacklog(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "interleaved")
	part := "backlog, 1000 deliveries interleaved over 20 dead endpoints"
	holds(t, r, part, slices.Concat(weighed, lived)...)
	holds(t, r, part, "deliveries, until those who take all have it+", "time of those who take ten a second over what it needs")
	for _, f := range r.Figures {
		if strings.HasPrefix(f.Name, "time of those who take ten a second") && f.Value < 0.95 {
			t.Errorf("partners who take ten a second were done in %v times what that takes", f.Value)
		}
	}
}

func TestRedis(t *testing.T) {
	t.Parallel()
	holds(t, measured(t, "--only", "redis", "--redis", redistest.Start(t).URL("bench")), "end to end, view in Redis", full...)
}

func TestUnknownPart(t *testing.T) {
	t.Parallel()
	_, err := bench.Run(t.Context(), bench.Options{Program: binary, Only: []string{"bare", "nothing"}})
	if !errors.Is(err, bench.ErrPart) || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("a part that there is none of: %v", err)
	}
}
