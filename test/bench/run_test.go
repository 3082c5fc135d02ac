package bench_test

import (
	"bytes"
	"encoding/json"
	"errors"
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
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"bench", "--time", "100ms", "--data", dir, "--output", "json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, errs.Bytes())
	}
	var r bench.Report
	decoder := json.NewDecoder(&out)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%d entries are left in the data folder (%v)", len(left), err)
	}
	if r.Machine.Cores < 1 || r.Machine.Go == "" || r.Seconds <= 0 {
		t.Errorf("the machine is not described: %+v", r.Machine)
	}
	for _, p := range r.Passes {
		if p.Published < 1 || p.Acknowledged != p.Published || p.Expected < 1 || p.Received != p.Expected || p.Duplicates != 0 {
			t.Errorf("does not add up: %+v", p)
		}
	}
	for _, f := range r.Figures {
		if f.Value <= 0 || f.Unit == "" || f.Bare > 0 && f.Ratio <= 0 {
			t.Errorf("no figure: %+v", f)
		}
	}
	return r
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
	holds(t, r, "latency at half of the rate", "events published", "p50", "p99", "max")
}

func TestVariants(t *testing.T) {
	t.Parallel()
	r := measured(t, "--only", "tls,redaction,fan-out")
	holds(t, r, "end to end, TLS", full...)
	holds(t, r, "end to end, mutual TLS", full...)
	holds(t, r, "end to end, redacted", full...)
	holds(t, r, "end to end, 1 event to 200 endpoints", full...)
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
	r := measured(t, "--only", "isolation")
	holds(t, r, "isolation", "p99 of seven, all well (median)", "p99 of seven, three others ill (median)", "ill over well (median of pairs)")
	if len(r.Passes) != 20 { // a warming up and a load, with and without, five times
		t.Errorf("%d passes are accounted for", len(r.Passes))
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
