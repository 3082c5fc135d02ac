package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Report is what a run measured. It holds no content of events.
type Report struct {
	Version string  `json:"version"` // of the binary under test
	Machine Machine `json:"machine"`
	// Seconds that the run took, and how long it published for a figure.
	Seconds float64  `json:"seconds"`
	Lasting float64  `json:"secondsPerFigure"`
	Figures []Figure `json:"figures"`
	// Passes are what was sent and received for the figures.
	Passes []Pass `json:"passes"`
}

// Figure is one thing measured.
type Figure struct {
	Part  string  `json:"part"` // what was measured, such as "end to end, HTTP"
	Name  string  `json:"name"` // which of its figures, such as "deliveries"
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Bare is the bare client's same figure, taken beside it, and Ratio is Value over Bare; 0 where it has none.
	Bare  float64 `json:"bare,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
}

// Pass is the account of one load. Acknowledged is Published, Received is Expected and Duplicates is 0, or the run failed.
type Pass struct {
	Part         string `json:"part"`
	Published    int    `json:"published"`    // events handed to the client
	Acknowledged int    `json:"acknowledged"` // of them, kept by the relay
	Expected     int64  `json:"expected"`     // deliveries to endpoints that are well
	Received     int64  `json:"received"`     // of them, different ones at the sink
	Duplicates   int64  `json:"duplicates"`
}

// check says what does not add up.
func (p Pass) check() error {
	if p.Acknowledged != p.Published || p.Received != p.Expected || p.Duplicates != 0 {
		return fmt.Errorf("bench: %s: of %d events %d were acknowledged, of %d deliveries %d came, and %d came again",
			p.Part, p.Published, p.Acknowledged, p.Expected, p.Received, p.Duplicates)
	}
	return nil
}

// add takes a figure into the report, and says it.
func (b *bench) add(part, name string, value float64, unit string, bare float64) {
	f := Figure{Part: part, Name: name, Value: value, Unit: unit}
	beside := ""
	if bare > 0 {
		f.Bare, f.Ratio = bare, value/bare
		beside = fmt.Sprintf(", %.3g of the bare client's", f.Ratio)
	}
	b.report.Figures = append(b.report.Figures, f)
	b.say("%s: %s %s %s%s", part, name, number(value), unit, beside)
}

// Table writes the report for people.
func (r *Report) Table(out io.Writer) error {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d cores, %s, Linux %s, %s, data on %s, load %.2f at the start; sealpost %s; %.0f s\n\n",
		dash(m.Processor), m.Cores, m.System, dash(m.Kernel), m.Go, dash(m.FileSystem), m.Load, r.Version, r.Seconds)
	fmt.Fprintf(out, "%-48s %10s %-4s %12s %8s\n", "", "value", "", "bare client", "ratio")
	part := ""
	for _, f := range r.Figures {
		if f.Part != part {
			part = f.Part
			fmt.Fprintln(out, part)
		}
		bare, ratio := "", ""
		if f.Bare > 0 {
			bare, ratio = number(f.Bare), fmt.Sprintf("%.3g", f.Ratio)
		}
		line := fmt.Sprintf("  %-46s %10s %-4s %12s %8s", f.Name, number(f.Value), f.Unit, bare, ratio)
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
	var published int
	var received int64
	for _, p := range r.Passes {
		published, received = published+p.Published, received+p.Received
	}
	_, err := fmt.Fprintf(out, "\n%d events were published and acknowledged; %d deliveries were due, and each came once.\n", published, received)
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// number has three digits that mean something.
func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// percentile is the nearest-rank one of values, which it sorts.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[max(1, (len(values)*p+99)/100)-1]
}
