package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

// Options say what is measured and with what. Program and SinkArgs are required.
type Options struct {
	// Program is the sealpost binary under test, and SinkArgs are the arguments with which it runs Sink.
	Program  string
	SinkArgs []string
	// Dir is a folder for what the relay keeps, removed afterwards; empty: the system's for temporary files.
	Dir string
	// Only are the names of the parts to run, of those in Parts; empty: all, or with Quick those that are quick.
	Only  []string
	Quick bool
	// Lasting is about how long is published for a figure; default DefaultLasting.
	Lasting time.Duration
	// Scale multiplies the numbers of endpoints and of parked deliveries, where they are large; default 1.
	Scale float64
	// Redis is the URL of a view to measure beside the embedded one; empty: none.
	Redis string
	// Version of the binary, for the report.
	Version string
	// Progress is told what is being done, line by line; may be nil.
	Progress io.Writer
}

// DefaultLasting is how long is published for a figure.
const DefaultLasting = 5 * time.Second

// ErrPart reports a part that there is none of, or not with these options.
var ErrPart = errors.New("bench: no such part")

// Part is something that a run can measure.
type Part struct {
	Name, What string
	Quick      bool // also measured in a quick run
	run        func(*bench, context.Context) error
}

// bench is a run.
type bench struct {
	o      Options
	dir    string
	ids    *identities
	sink   *sinkProcess
	report *Report
	runs   int // stages so far
	plain  string
	mutual string          // of the bare client
	tls    *http.Transport // of it, too
	half   float64         // of the deliveries a second that were reached; 0: not measured yet
	began  time.Time
}

// Run measures and reports. The error is ErrPart, or what kept it from measuring anything. A part that fails, as where events and
// deliveries do not add up, does not end the others: the report names it.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Lasting <= 0 {
		o.Lasting = DefaultLasting
	}
	if o.Scale <= 0 {
		o.Scale = 1
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	parts, err := chosen(o)
	if err != nil {
		return nil, err
	}
	b := &bench{o: o, began: time.Now()}
	if b.dir, err = os.MkdirTemp(o.Dir, "sealpost-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	b.report = &Report{Version: o.Version, Machine: machine(b.dir), Lasting: o.Lasting.Seconds(), Scale: o.Scale}
	if b.ids, err = newIdentities(); err != nil {
		return nil, err
	}
	b.tls = bareTransport(b.ids.client())
	defer b.tls.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if b.sink, err = startSink(ctx, o.Program, o.SinkArgs); err != nil {
		return nil, err
	}
	err = b.measure(ctx, parts)
	if err = errors.Join(err, b.sink.close()); err != nil {
		return nil, err
	}
	b.report.Seconds = time.Since(b.began).Seconds()
	return b.report, nil
}

// chosen are the parts to run, in their order.
func chosen(o Options) ([]Part, error) {
	all := Parts()
	for _, name := range o.Only {
		if !slices.ContainsFunc(all, func(p Part) bool { return p.Name == name }) {
			return nil, fmt.Errorf("%w %q", ErrPart, name)
		}
	}
	if o.Redis == "" {
		if slices.Contains(o.Only, redisPart) {
			return nil, fmt.Errorf("%w: %s needs the URL of one", ErrPart, redisPart)
		}
		all = slices.DeleteFunc(all, func(p Part) bool { return p.Name == redisPart })
	}
	return slices.DeleteFunc(all, func(p Part) bool {
		if len(o.Only) > 0 {
			return !slices.Contains(o.Only, p.Name)
		}
		return o.Quick && !p.Quick
	}), nil
}

func (b *bench) measure(ctx context.Context, parts []Part) error {
	var err error
	if b.plain, err = b.listen(overHTTP, "", false); err != nil {
		return err
	}
	if b.mutual, err = b.listen(overMutualTLS, "", false); err != nil {
		return err
	}
	for _, p := range parts {
		b.say("%s: %s", p.Name, p.What)
		err := p.run(b, ctx)
		if ended := ctx.Err(); ended != nil {
			return ended
		}
		if err != nil {
			b.report.Failures = append(b.report.Failures, Failure{Part: p.Name, Error: err.Error()})
			b.say("%s: FAILED: %v", p.Name, err)
		}
	}
	return nil
}

// listen opens an address of the sink's and returns it as a URL. Over mutual TLS it takes the bare client's certificate, and
// those of the roots given.
func (b *bench) listen(over transport, roots string, everywhere bool) (string, error) {
	o := order{Do: "listen", Everywhere: everywhere}
	if over != overHTTP {
		o.Certificate, o.Key = b.ids.certificate, b.ids.key
	}
	if over == overMutualTLS {
		o.ClientRoots = b.ids.roots + roots
	}
	a, err := b.sink.tell(o)
	return a.Address, err
}

// scaled is a number of endpoints or deliveries under the run's scale, and least at least.
func (b *bench) scaled(n, least int) int { return max(least, int(float64(n)*b.o.Scale)) }

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.o.Progress, "%6.1f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// bare is what the bare client did.
type bare struct {
	rate float64 // requests/s, of the best run
	cpu  float64 // seconds of its process for 10,000, of all runs; 0: not known
}

// bareRuns is how many short runs there are beside a figure, and bareShortest how long one lasts at least.
const (
	bareRuns     = 5
	bareShortest = 100 * time.Millisecond
)

// around measures the bare client before and after a figure is taken, and returns its best: machines drift.
func (b *bench) around(ctx context.Context, over transport, figure func() error) (bare, error) {
	var best bare
	var spent clientUse
	for i := range bareRuns {
		if i == (bareRuns+1)/2 {
			if err := figure(); err != nil {
				return best, err
			}
		}
		rate, used, err := b.bare(ctx, over)
		if err != nil {
			return best, fmt.Errorf("bench: bare client over %v: %w", over, err)
		}
		best.rate = max(best.rate, rate)
		spent.cpu, spent.sent = spent.cpu+used.cpu, spent.sent+used.sent
	}
	best.cpu = spent.cpu / float64(spent.sent) * 10_000
	return best, nil
}

// bare is one short run of the bare client: its rate, and what it used.
func (b *bench) bare(ctx context.Context, over transport) (float64, clientUse, error) {
	lasting := max(b.o.Lasting/10, bareShortest)
	before, err := b.clientUse()
	if err != nil {
		return 0, clientUse{}, err
	}
	var rate float64
	if over == overHTTP {
		rate, err = Bare(ctx, b.plain+"/bare", contact(0), lasting)
	} else {
		rate, err = bareTLS(ctx, b.tls, b.mutual+"/bare", contact(0), lasting)
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return 0, clientUse{}, err
	}
	after, err := b.clientUse()
	if err == nil && after.sent == before.sent {
		err = errors.New("the sink had no request")
	}
	return rate, clientUse{after.cpu - before.cpu, after.sent - before.sent}, err
}

// clientUse is what this process has used, and what the sink had of its bare client.
type clientUse struct {
	cpu  float64
	sent int64
}

func (b *bench) clientUse() (clientUse, error) {
	u, err := used(os.Getpid())
	if err != nil && !errors.Is(err, errNoUsage) {
		return clientUse{}, err
	}
	count, err := b.sink.count(0, 0)
	return clientUse{u.cpu, count.Untracked}, err
}
