package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealpost/sealpost/test/bench"
)

const benchHelp = `Measure this binary on this machine, beside a bare HTTP client in the same run.

Three processes on loopback: a server with everything embedded, which syncs each event before it acknowledges it and keeps the
view; a sink that plays the partners; and this one, which publishes over the server's real API. Machines differ and drift,
so what counts is the ratio to the bare client: a tuned net/http loop of 64 workers with an HMAC a request, which keeps nothing and
decides nothing, to the same sink, best of five short runs around each figure.

CPU time and bytes written are those of the server's process alone. The data folder should be on the disk that the server
would use: on tmpfs a sync costs nothing. Where a goal is set, the report says whether it is met.

The exit status is 0 only if all parts were measured, every event was acknowledged, and every delivery came once and only once. A
part that fails does not end the others. What is parked needs about 2 KiB of disk for each delivery, and 10,000 endpoints as many open
files in each process. The parts:

`

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure this machine beside a bare HTTP client", Long: benchHelp + benchParts(), Args: cobra.NoArgs,
		Example: "  sealpost bench --quick\n  sealpost bench --data /var/lib --output json\n  sealpost bench --only end-to-end,latency --time 20s\n  sealpost bench --only backlog,endpoints --scale 0.01",
	}
	f := cmd.Flags()
	quick := f.Bool("quick", false, "only the quick parts: under a minute")
	only := f.StringSlice("only", nil, "the parts to measure")
	lasting := f.Duration("time", bench.DefaultLasting, "how long to publish for a figure")
	data := f.String("data", "", "folder on the disk to measure; what is put there is removed (default the system's for temporary files)")
	scale := f.Float64("scale", 1, "multiply the large numbers of endpoints and of parked deliveries, between 0.001 and 1")
	markdown := f.String("markdown", "", "Markdown file to put the report into, too, in place of the run that it holds")
	redis := f.String("redis", "", "URL of a Redis to measure as the view too; its content is not spared")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		if *lasting < 100*time.Millisecond || *lasting > 10*time.Minute {
			return usagef("--time: %v is not between 100ms and 10m", *lasting)
		}
		if *scale < 0.001 || *scale > 1 {
			return usagef("--scale: %v is not between 0.001 and 1", *scale)
		}
		program, err := os.Executable()
		if err != nil {
			return err
		}
		report, err := bench.Run(cmd.Context(), bench.Options{
			Program: program, SinkArgs: []string{sinkCommand}, Dir: *data, Only: *only, Quick: *quick, Lasting: *lasting, Scale: *scale,
			Redis: *redis, Version: buildVersion(), Progress: cmd.ErrOrStderr(),
		})
		if errors.Is(err, bench.ErrPart) {
			return usagef("--only: %v", err)
		}
		if err != nil {
			return err
		}
		if *markdown != "" {
			err = report.WritePage(*markdown, time.Now())
		}
		return errors.Join(err, printReport(cmd.OutOrStdout(), report, asJSON), report.Failed())
	}
	return cmd
}

func printReport(out io.Writer, r *bench.Report, asJSON bool) error {
	if !asJSON {
		return r.Table(out)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// benchParts lists what can be measured.
func benchParts() string {
	var b strings.Builder
	for _, p := range bench.Parts() {
		quick := ""
		if p.Quick {
			quick = " (quick)"
		}
		fmt.Fprintf(&b, "  %-14s%s%s\n", p.Name, p.What, quick)
	}
	return b.String()
}

// sinkCommand is the partners' process, which bench starts itself.
const sinkCommand = "bench-sink"

func newBenchSink() *cobra.Command {
	return &cobra.Command{
		Use: sinkCommand, Short: "Play the partners of a benchmark, by orders on standard input", Hidden: true, Args: cobra.NoArgs,
		Example: "  sealpost bench-sink",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.Sink(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
