package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/client"
)

// maxLine bounds a line of events: the largest data and the fields beside it.
const maxLine = relay.DefaultMaxDataSize + 64<<10

const publishHelp = `Publish events, one JSON object a line, from a file or standard input:

  {"tenant":"acme","id":"evt_1","type":"contact.updated","time":"2026-01-02T03:04:05Z","subject":"contact/42","data":{...}}

What the server kept is on its disk. An event without an id is given one, so only events that name theirs can be published
again without being kept twice. Lines that are refused are named on standard error with their numbers, and the rest goes on;
the exit status is 1 where there was any.`

func newPublish(conn *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "publish [FILE|-]",
		Short:   "Publish events from NDJSON",
		Long:    publishHelp,
		Args:    cobra.MaximumNArgs(1),
		Example: "  sealpost publish events.ndjson\n  generate-events | sealpost publish --tenant acme --rate 100 -",
	}
	tenant := cmd.Flags().String("tenant", "", "tenant of the events that name none")
	limit := cmd.Flags().Float64("rate", 0, "events a second at most (default no limit)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asJSON, err := wantsJSON(cmd)
		if err != nil {
			return err
		}
		if *limit < 0 {
			return usagef("--rate: must not be negative")
		}
		in, end, err := input(cmd, args)
		if err != nil {
			return err
		}
		defer end()
		made, err := conn.dial()
		if err != nil {
			return err
		}
		defer made.Close()
		p := &publishing{errs: cmd.ErrOrStderr(), tenant: *tenant}
		if *limit > 0 {
			p.pace = rate.NewLimiter(rate.Limit(*limit), 1)
		}
		err = p.run(cmd.Context(), made, in)
		return errors.Join(p.report(cmd.OutOrStdout(), asJSON), err, p.failure())
	}
	return cmd
}

// input is the named file, or standard input.
func input(cmd *cobra.Command, args []string) (io.Reader, func() error, error) {
	if len(args) == 0 || args[0] == "-" {
		return cmd.InOrStdin(), func() error { return nil }, nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

// publishing is one run of the command.
type publishing struct {
	errs   io.Writer
	tenant string
	pace   *rate.Limiter // nil: none

	mu     sync.Mutex // guards errs and what follows
	counts publishCounts
	drawn  bool // a line of progress is on the terminal
}

// publishCounts is what became of the lines.
type publishCounts struct {
	Read      int `json:"read"`
	Published int `json:"published"`
	Duplicate int `json:"duplicate"`
	Failed    int `json:"failed"`
}

func (p *publishing) run(ctx context.Context, c *client.Client, in io.Reader) (err error) {
	if terminal(p.errs) {
		ctx, end := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); p.draw(ctx) }()
		defer func() { end(); <-done; p.clear() }()
	}
	out := c.NewPublisher(client.PublisherOptions{})
	// What was handed over when the caller had enough is still answered, for a while.
	defer func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), client.DefaultRetryFor)
		defer cancel()
		err = errors.Join(err, out.Close(grace))
	}()
	lines := bufio.NewReaderSize(in, 64<<10)
	for number := 1; ; number++ {
		line, err := readLine(lines, maxLine)
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, errLongLine) {
			p.refuse(number, "", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("read line %d: %w", number, err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		e, err := p.parse(line)
		if err != nil {
			p.refuse(number, e.ID, err)
			continue
		}
		if p.pace != nil {
			if err := p.pace.Wait(ctx); err != nil {
				return fmt.Errorf("stopped before line %d: %w", number, err)
			}
		}
		err = out.Publish(ctx, e, func(r client.Receipt, err error) { p.settle(number, r, err) })
		if err != nil {
			return fmt.Errorf("stopped before line %d: %w", number, err)
		}
		p.count(func(n *publishCounts) { n.Read++ })
	}
}

// parse reads one event. Names are exact, none may come twice, and none may be unknown.
func (p *publishing) parse(line []byte) (relay.Event, error) {
	var e struct {
		Tenant  string         `json:"tenant"`
		ID      string         `json:"id"`
		Type    string         `json:"type"`
		Time    time.Time      `json:"time"`
		Subject string         `json:"subject"`
		Data    jsontext.Value `json:"data"`

		Synthetic bool `json:"synthetic"`
	}
	if err := jsonv2.Unmarshal(line, &e, jsonv2.RejectUnknownMembers(true)); err != nil {
		return relay.Event{}, errors.New(syntaxOf(err))
	}
	if e.Tenant == "" {
		e.Tenant = p.tenant
	}
	return relay.Event{Tenant: e.Tenant, ID: e.ID, Type: e.Type, Time: e.Time, Subject: e.Subject, Data: e.Data, Synthetic: e.Synthetic}, nil
}

// syntaxOf says what is wrong with a line and where, without repeating what it holds.
func syntaxOf(err error) string {
	var bad *jsontext.SyntacticError
	if errors.As(err, &bad) {
		return fmt.Sprintf("is not valid JSON at byte %d", bad.ByteOffset)
	}
	var wrong *jsonv2.SemanticError
	if errors.As(err, &wrong) {
		if errors.Is(wrong.Err, jsonv2.ErrUnknownName) {
			return fmt.Sprintf("has a field that events have not: %s", wrong.JSONPointer)
		}
		return fmt.Sprintf("has a value of the wrong form: %s", wrong.JSONPointer)
	}
	return "is not an event"
}

func (p *publishing) settle(number int, r client.Receipt, err error) {
	if err != nil {
		p.fail(number, r.ID, err)
		return
	}
	p.count(func(n *publishCounts) {
		if r.Duplicate {
			n.Duplicate++
		} else {
			n.Published++
		}
	})
}

// refuse is for a line that was not handed over.
func (p *publishing) refuse(number int, id string, err error) {
	p.count(func(n *publishCounts) { n.Read++ })
	p.fail(number, id, err)
}

func (p *publishing) fail(number int, id string, err error) {
	text := explain(err)
	var answer *client.Error
	if errors.As(err, &answer) {
		text = answer.Code.String() + ": " + plain(answer.Text)
	}
	if id != "" {
		text = "event " + plain(id) + ": " + text
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Failed++
	p.wipe()
	fmt.Fprintf(p.errs, "line %d: %s\n", number, text)
}

func (p *publishing) count(change func(*publishCounts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

// draw keeps one line of progress on a terminal.
func (p *publishing) draw(ctx context.Context) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.mu.Lock()
		p.wipe()
		fmt.Fprintf(p.errs, "%d read, %d published, %d duplicates, %d failed", p.counts.Read, p.counts.Published, p.counts.Duplicate, p.counts.Failed)
		p.drawn = true
		p.mu.Unlock()
	}
}

// wipe takes the line of progress away. The caller holds mu.
func (p *publishing) wipe() {
	if p.drawn {
		fmt.Fprint(p.errs, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *publishing) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

func (p *publishing) report(out io.Writer, asJSON bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.counts
	if asJSON {
		return json.NewEncoder(out).Encode(n)
	}
	_, err := fmt.Fprintf(out, "%d published, %d duplicates, %d failed\n", n.Published, n.Duplicate, n.Failed)
	return err
}

func (p *publishing) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts.Failed > 0 {
		return fmt.Errorf("%d of %d events were not kept", p.counts.Failed, p.counts.Read)
	}
	return nil
}

// terminal tells whether somebody is looking.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

var errLongLine = fmt.Errorf("is longer than %d bytes", maxLine)

// readLine reads a line without its end. Of one that is too long it reads past the end and says errLongLine.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if long = long || len(line)+len(part) > most; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case long && (err == nil || err == io.EOF):
			return nil, errLongLine
		case err == io.EOF && len(line) > 0:
			return line, nil
		case err != nil:
			return nil, err
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
}
