package bench

import (
	"errors"
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
	Seconds float64 `json:"seconds"`
	Lasting float64 `json:"secondsPerFigure"`
	// Scale is what the numbers of endpoints and of parked deliveries were multiplied by; 1 where they are whole.
	Scale   float64  `json:"scale"`
	Figures []Figure `json:"figures"`
	// Passes are what was sent and received for the figures.
	Passes []Pass `json:"passes"`
	// Failures are the parts that could not be measured to the end.
	Failures []Failure `json:"failures,omitempty"`
}

// Failure is a part that ended with an error. Figures of it that came before stand.
type Failure struct {
	Part  string `json:"part"` // its name, as in Parts
	Error string `json:"error"`
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
	// Goal is what was to be reached; nil where nothing was set.
	Goal *Goal `json:"goal,omitempty"`
	// Note is what must be known to read the figure.
	Note string `json:"note,omitempty"`
}

// Goal is a bound of a figure.
type Goal struct {
	AtLeast float64 `json:"atLeast,omitempty"`
	AtMost  float64 `json:"atMost,omitempty"`
	OfBare  bool    `json:"ofBare,omitempty"` // it bounds the ratio, not the value
	Met     bool    `json:"met"`
}

// Of a figure's value or, with Bare, of its ratio.
func atLeast(v float64) *Goal     { return &Goal{AtLeast: v} }
func atMost(v float64) *Goal      { return &Goal{AtMost: v} }
func atLeastBare(v float64) *Goal { return &Goal{AtLeast: v, OfBare: true} }
func atMostBare(v float64) *Goal  { return &Goal{AtMost: v, OfBare: true} }

// hold says whether a figure reaches the goal.
func (g *Goal) hold(f *Figure) {
	v := f.Value
	if g.OfBare {
		v = f.Ratio
	}
	g.Met = v >= g.AtLeast && (g.AtMost == 0 || v <= g.AtMost)
}

func (g *Goal) String() string {
	if g == nil {
		return ""
	}
	bound := "<= " + number(g.AtMost)
	if g.AtMost == 0 {
		bound = ">= " + number(g.AtLeast)
	}
	if g.OfBare {
		bound += " of bare"
	}
	if g.Met {
		return bound + ": met"
	}
	return bound + ": NOT MET"
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

// add takes a figure into the report, and says it. goal may be nil.
func (b *bench) add(part, name string, value float64, unit string, bare float64, goal *Goal) {
	b.take(Figure{Part: part, Name: name, Value: value, Unit: unit, Bare: bare, Goal: goal})
}

func (b *bench) take(f Figure) {
	beside := ""
	if f.Bare > 0 {
		f.Ratio = f.Value / f.Bare
		beside = fmt.Sprintf(", %.3g of the bare client's", f.Ratio)
	}
	if f.Goal != nil {
		f.Goal.hold(&f)
		beside += "; " + f.Goal.String()
	}
	b.report.Figures = append(b.report.Figures, f)
	b.say("%s: %s %s %s%s", f.Part, f.Name, number(f.Value), f.Unit, beside)
}

// whole is a goal that is set for whole numbers of endpoints and deliveries alone.
func (b *bench) whole(g *Goal) *Goal {
	if b.o.Scale != 1 {
		return nil
	}
	return g
}

// Failed tells whether a part could not be measured.
func (r *Report) Failed() error {
	var err error
	for _, f := range r.Failures {
		err = errors.Join(err, fmt.Errorf("%s: %s", f.Part, f.Error))
	}
	return err
}

// Table writes the report for people.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "%s\n\n", r.heading())
	fmt.Fprintf(out, "%-56s %10s %-4s %12s %8s  %s\n", "", "value", "", "bare client", "ratio", "goal")
	part := ""
	for _, f := range r.Figures {
		if f.Part != part {
			part = f.Part
			fmt.Fprintln(out, part)
		}
		bare, ratio := f.beside()
		line := fmt.Sprintf("  %-54s %10s %-4s %12s %8s  %v", f.Name, number(f.Value), f.Unit, bare, ratio, f.Goal)
		fmt.Fprintln(out, strings.TrimRight(line, " "))
		if f.Note != "" {
			fmt.Fprintf(out, "    (%s)\n", f.Note)
		}
	}
	_, err := fmt.Fprintf(out, "\n%s\n", r.account())
	return err
}

// heading says what was measured, and where.
func (r *Report) heading() string {
	m := r.Machine
	s := fmt.Sprintf("%s, %d cores, %s, Linux %s, %s, data on %s, load %.2f at the start; sealpost %s; %.0f s, %s s for a figure",
		dash(m.Processor), m.Cores, m.System, dash(m.Kernel), m.Go, dash(m.FileSystem), m.Load, r.Version, r.Seconds, number(r.Lasting))
	if r.Scale != 1 {
		s += fmt.Sprintf("; numbers of endpoints and parked deliveries scaled by %s, goals that rest on them left out", number(r.Scale))
	}
	return s
}

// account sums up what was sent, and what was not measured.
func (r *Report) account() string {
	var published, met, goals int
	var received int64
	for _, p := range r.Passes {
		published, received = published+p.Published, received+p.Received
	}
	for _, f := range r.Figures {
		if f.Goal != nil {
			if goals++; f.Goal.Met {
				met++
			}
		}
	}
	s := fmt.Sprintf("%d events were published and acknowledged; %d deliveries were due, and each came once.", published, received)
	if goals > 0 {
		s += fmt.Sprintf(" %d of %d goals are met.", met, goals)
	}
	for _, f := range r.Failures {
		s += fmt.Sprintf("\nNOT MEASURED to the end: %s: %s", f.Part, f.Error)
	}
	return s
}

func (f *Figure) beside() (bare, ratio string) {
	if f.Bare > 0 {
		return number(f.Bare), fmt.Sprintf("%.3g", f.Ratio)
	}
	return "", ""
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
