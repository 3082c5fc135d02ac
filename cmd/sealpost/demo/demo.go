// Package demo shows the main job in one go, and checks it: a server, partners on mutual TLS, the events of a made-up CRM, and at the
// end an account of what each partner got.
//
// It promises that Report.Problems is empty only if every delivery that the events' file calls for was verified by the
// partner's receiver, with exactly the content that policy leaves, no sensitive value came in any request, and the
// API says the same. What should come is worked out from the file by code of its own; nothing that the server says is taken for
// granted. It trusts the machine it runs on, and leaves nothing behind but the folder it was given.
package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/signer"
)

// Options of a demo. App.OpenView is required; of the others' zero values Data is a folder that is removed at the end.
type Options struct {
	// App says how the server runs; its addresses, Dev and retries are the demo's.
	App app.Options
	// Progress gets a line for each step.
	Progress io.Writer
}

const (
	// within bounds the whole demo.
	within = 50 * time.Second
	// attemptTimeout is the endpoints' own.
	attemptTimeout = 10 * time.Second
	// repeats is how many events are published twice.
	repeats = 12
)

// stage is what the steps of a demo share.
type stage struct {
	Options
	events   []event
	partners []partner
	patience time.Duration
	leak     finder
	server   *partnerServer
	client   *client.Client
	ids      map[string]string // endpoint id -> partner
	report   *Report
	accepted map[string]time.Time // event -> when it was handed over for publishing
}

// Run runs the demo. The error is for what kept it from being run; what it found is in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	return run(ctx, o, partners(), within-15*time.Second)
}

// run is Run with partners of the caller's, and how long to wait for what they should get.
func run(ctx context.Context, o Options, partners []partner, patience time.Duration) (*Report, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if o.App.Data == "" {
		folder, err := os.MkdirTemp("", "sealpost-demo-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		o.App.Data = folder
	}
	events, err := readEvents(eventsFile)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	leak, err := newFinder(secrets(events))
	if err != nil {
		return nil, err
	}
	d := &stage{
		Options: o, events: events, partners: partners, patience: patience, leak: leak, server: newPartnerServer(leak), ids: map[string]string{},
		report: &Report{}, accepted: map[string]time.Time{},
	}
	err = d.run(ctx)
	d.report.Seconds = time.Since(began).Seconds()
	d.report.finish()
	return d.report, err
}

func (d *stage) say(format string, args ...any) { fmt.Fprintf(d.Progress, format+"\n", args...) }

// run starts everything, and stops it again whatever happens.
func (d *stage) run(ctx context.Context) (err error) {
	o := d.App
	o.GRPC, o.HTTP, o.Admin, o.Dev = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", true
	o.Delivery.RetryIntervals = []time.Duration{300 * time.Millisecond, time.Second}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	a, err := app.New(ctx, o)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() { ended <- a.Run(running, func() { close(ready) }) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	select {
	case <-ready:
	case failed := <-ended:
		ended <- nil
		return failed
	}
	d.say("server     gRPC on %s, journal, keys and view embedded, ready in %d ms", a.Addresses()["grpc"], time.Since(began).Milliseconds())

	stopPartners, err := d.server.serve(ctx, a.ClientRootsPEM())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopPartners()) }()
	if err := d.server.refusesStrangers(ctx); err != nil {
		d.report.problem("%v", err)
	}
	d.say("partners   https://%s, TLS 1.3; callers without a certificate of Sealpost's CA are refused", d.server.address)

	token, err := os.ReadFile(a.OperatorTokenFile())
	if err != nil {
		return err
	}
	if d.client, err = client.New(client.Options{Target: a.Addresses()["grpc"].String(), Token: strings.TrimSpace(string(token))}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.client.Close()) }()
	for _, step := range []func(context.Context) error{d.register, d.publish, d.await, d.check} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// register makes the partners' endpoints.
func (d *stage) register(ctx context.Context) error {
	for _, p := range d.partners {
		answer, err := sealpostv1.NewEndpointServiceClient(d.client.Conn()).CreateEndpoint(ctx, &sealpostv1.CreateEndpointRequest{
			Endpoint: p.registration("https://"+d.server.address+"/hooks/"+p.name, d.server.rootPEM),
		})
		if err != nil {
			return fmt.Errorf("register %s: %w", p.name, err)
		}
		key, err := verifyingKey(p.scheme, answer)
		if err != nil {
			return fmt.Errorf("register %s: %w", p.name, err)
		}
		id := answer.GetEndpoint().GetId()
		d.ids[id] = p.name
		if err := d.server.open(p, key, id); err != nil {
			return err
		}
		d.say("endpoint   %-13s %-17s %-12s %s", p.name, p.scheme, p.content, p.rules)
	}
	return nil
}

// verifyingKey is what the partner was told at registration.
func verifyingKey(scheme signer.Scheme, answer *sealpostv1.CreateEndpointResponse) (signer.VerifyingKey, error) {
	if pem := answer.GetPublicKeyPem(); pem != "" {
		return signer.ParsePublicKey(scheme, pem)
	}
	return signer.ParseKey(scheme, answer.GetSecret())
}

// publish hands all events over, some of them twice, and one more under an id that is taken.
func (d *stage) publish(ctx context.Context) error {
	type outcome struct {
		receipt client.Receipt
		err     error
	}
	round := func(events []event) ([]outcome, error) {
		out := d.client.NewPublisher(client.PublisherOptions{})
		outcomes := make([]outcome, len(events))
		for i, e := range events {
			if _, again := d.accepted[e.ID]; !again {
				d.accepted[e.ID] = time.Now()
			}
			if err := out.Publish(ctx, e.Event, func(r client.Receipt, err error) { outcomes[i] = outcome{r, err} }); err != nil {
				return nil, errors.Join(err, out.Close(ctx))
			}
		}
		return outcomes, out.Close(ctx)
	}
	began := time.Now()
	first, err := round(d.events)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for i, o := range first {
		switch {
		case o.err != nil:
			d.report.problem("event %s was not kept: %v", d.events[i].ID, o.err)
		case o.receipt.Duplicate:
			d.report.problem("event %s is called a repeat", d.events[i].ID)
		default:
			d.report.Published++
		}
	}
	d.say("published  %d events of %d types in %d ms, each on disk before its answer", d.report.Published, d.types(), time.Since(began).Milliseconds())

	again := d.events[:repeats]
	second, err := round(again)
	if err != nil {
		return fmt.Errorf("publish again: %w", err)
	}
	for i, o := range second {
		if o.err != nil || !o.receipt.Duplicate || o.receipt.ID != again[i].ID {
			d.report.problem("a repeat of event %s was not known for one", again[i].ID)
			continue
		}
		d.report.Repeats++
	}
	other := d.events[0]
	other.Data = []byte(`{"contact":{"id":"0"}}`)
	third, err := round([]event{other})
	if err != nil {
		return fmt.Errorf("publish other content: %w", err)
	}
	var refused *client.Error
	if !errors.As(third[0].err, &refused) || refused.Code != codes.AlreadyExists {
		d.report.problem("other content under the id of event %s was not refused", other.ID)
	}
	d.say("published  %d of them again: all known; and other content under a taken id: refused", d.report.Repeats)
	return nil
}

func (d *stage) types() int {
	types := map[string]bool{}
	for _, e := range d.events {
		types[e.Type] = true
	}
	return len(types)
}

// expected are the deliveries that the file calls for: event ids by partner, in the order of the file.
func (d *stage) expected() (map[string][]event, int) {
	out, n := map[string][]event{}, 0
	for _, p := range d.partners {
		for _, e := range d.events {
			if p.wants(e) {
				out[p.name] = append(out[p.name], e)
				n++
			}
		}
	}
	return out, n
}

// await returns when as many deliveries were verified as there should be, or time is up: what is missing then is for check to
// say.
func (d *stage) await(ctx context.Context) error {
	_, want := d.expected()
	d.report.Expected = want
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		have := d.server.count()
		if have >= want {
			d.say("delivered  %d of %d verified", have, want)
			return nil
		}
		select {
		case <-d.server.changed:
		case <-ticker.C:
			d.say("delivered  %d of %d verified; one partner answers 503 for a while", have, want)
		case <-ctx.Done():
			d.say("delivered  %d of %d verified, and time is up", have, want)
			return nil
		}
	}
}

// tlsVersion is what every attempt must have run over.
var tlsVersion = tls.VersionName(tls.VersionTLS13)
