// Package client publishes events to Sealpost from Go.
//
// It promises that an event whose publishing returned no error is on the relay's disk, and that a publishing which is
// repeated, by the client itself or by a caller who names the event's id, is kept once: each event has its id before
// the first try, and every try carries the same. It repeats what the server could not take for the moment, with
// jittered back-off and not before the time that the server named. What it holds in memory is bounded.
//
// It trusts the server that Options.TLS accepts with the events and the token. Without TLS it talks to a loopback
// address and to nothing else.
package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// Bounds of one call. The server's are at least as wide.
const (
	batchEvents    = 500
	batchBytes     = 8 << 20 // unless one event is larger
	maxMessage     = 64 << 20
	attemptTimeout = 30 * time.Second
	// DefaultRetryFor is how long a publishing is repeated.
	DefaultRetryFor = time.Minute
)

// Options say where the server is and who calls. Target and one of Token, TokenSource and Identity are required.
type Options struct {
	// Target is the host and port of the server's gRPC face.
	Target string
	// Token is sent as a bearer token with each call.
	Token string
	// TokenSource gives the token for each call in Token's place, so that one can be replaced before it expires. It is
	// called concurrently.
	TokenSource func(context.Context) (string, error)
	// Identity is a client certificate to call with, in place of a token or beside one; it takes TLS. It is renewed before it ends, and
	// connections go over to the new one without a call being dropped.
	Identity *Identity
	// Anonymous is a client that nobody calls with: for a person who has yet to sign in.
	Anonymous bool
	// OnRenew, where set, is told of each try to renew Identity: nil where it went well.
	OnRenew func(error)
	// TLS is how the server is trusted. nil is plain text, which New refuses unless Target is a loopback address.
	TLS *tls.Config
	// RetryFor bounds how long one event's publishing is repeated; default DefaultRetryFor, negative for one try.
	// The caller's context bounds it too.
	RetryFor time.Duration
	// UserAgent is put before gRPC's own.
	UserAgent string
}

// Receipt is the server's answer to an event that it keeps.
type Receipt struct {
	// ID is the event's, also where the client assigned it.
	ID string
	// Duplicate tells that it was kept before.
	Duplicate bool
}

// Client publishes. It may be used concurrently.
type Client struct {
	conn     *switched
	events   sealpostv1.EventServiceClient
	retryFor time.Duration
	identity *Identity // nil: none
	stop     context.CancelFunc
	renewing sync.WaitGroup
}

// ErrInsecure is New's answer to a target that is not loopback without TLS.
var ErrInsecure = errors.New("client: a target that is not a loopback address needs TLS")

// New makes a client. It connects when it is first used.
func New(o Options) (*Client, error) {
	if o.Target == "" || o.Token == "" && o.TokenSource == nil && o.Identity == nil && !o.Anonymous {
		return nil, errors.New("client: Target and a token or an identity are required")
	}
	if o.Identity != nil && o.TLS == nil {
		return nil, errors.New("client: an identity takes TLS")
	}
	transport := insecure.NewCredentials()
	if o.TLS != nil {
		conf := o.TLS
		if o.Identity != nil {
			conf = conf.Clone()
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Identity.Certificate(), nil }
		}
		transport = credentials.NewTLS(conf)
	} else if !loopback(o.Target) {
		return nil, ErrInsecure
	}
	if o.RetryFor == 0 {
		o.RetryFor = DefaultRetryFor
	}
	with := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent(o.UserAgent),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // repeats are made here, where the ids are
	}
	source := o.TokenSource
	if source == nil && o.Token != "" {
		source = func(context.Context) (string, error) { return o.Token, nil }
	}
	if source != nil {
		with = append(with, grpc.WithPerRPCCredentials(bearer{source, o.TLS != nil}))
	}
	conn, err := newSwitched(func() (*grpc.ClientConn, error) { return grpc.NewClient(o.Target, with...) })
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	run, stop := context.WithCancel(context.Background())
	c := &Client{conn: conn, events: sealpostv1.NewEventServiceClient(conn), retryFor: o.RetryFor, identity: o.Identity, stop: stop}
	if o.Identity != nil {
		c.renewing.Go(func() { c.keepRenewed(run, o.OnRenew) })
		c.renewing.Go(func() { c.follow(run) })
	}
	return c, nil
}

// follow moves to a connection of the new certificate each time that the identity was renewed, by this client or another.
func (c *Client) follow(ctx context.Context) {
	_, changed := c.identity.current()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		_, changed = c.identity.current()
		if c.conn.replace() != nil {
			return // the options were good once: there is nothing else to do, and the old connection goes on
		}
	}
}

// Conn is the connection, with its credentials, for the services that this package has no methods for.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// Close ends the connection. Calls under way fail.
func (c *Client) Close() error {
	c.stop()
	c.renewing.Wait()
	return c.conn.Close()
}

// loopback tells whether a target can only be this machine. A name other than localhost is not looked up: what it
// leads to can change.
func loopback(target string) bool {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// bearer puts the token on each call.
type bearer struct {
	source func(context.Context) (string, error)
	secure bool
}

// GetRequestMetadata asks for the token. Its error ends the call as UNAUTHENTICATED.
func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.source(ctx)
	if err != nil {
		return nil, fmt.Errorf("token source: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity keeps the token off a connection without TLS, but for loopback.
func (b bearer) RequireTransportSecurity() bool { return b.secure }

// Publish keeps one event and returns when it is on disk. An event without an id is given one; one without a time
// gets the server's. The error is a *Error, or the context's.
func (c *Client) Publish(ctx context.Context, e relay.Event) (Receipt, error) {
	request := &sealpostv1.PublishEventRequest{Event: wire(&e)}
	t := c.newTry()
	for {
		r, err := c.publish(ctx, request)
		if err == nil {
			return Receipt{ID: r.GetId(), Duplicate: r.GetDuplicate()}, nil
		}
		failed := errorOf(e.ID, err)
		if err := t.wait(ctx, failed); err != nil {
			return Receipt{ID: e.ID}, err
		}
	}
}

func (c *Client) publish(ctx context.Context, r *sealpostv1.PublishEventRequest) (*sealpostv1.PublishEventResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return c.events.PublishEvent(ctx, r)
}

// Result is what became of one event of a batch.
type Result struct {
	Receipt
	// Err is nil where the event is kept, else a *Error or the context's.
	Err error
}

// PublishBatch keeps each event on its own and gives a result for each, in order. It makes as many calls as the server's bounds
// ask for, one after the other, and repeats only the events that were refused for the moment.
func (c *Client) PublishBatch(ctx context.Context, events []relay.Event) []Result {
	results := make([]Result, len(events))
	for from := 0; from < len(events); {
		to, size := from, 0
		for to < len(events) && to-from < batchEvents && (to == from || size+len(events[to].Data) <= batchBytes) {
			size += len(events[to].Data)
			to++
		}
		c.publishGroup(ctx, events[from:to], results[from:to])
		from = to
	}
	return results
}

// publishGroup fills in results for the events of one call.
func (c *Client) publishGroup(ctx context.Context, events []relay.Event, results []Result) {
	open := make([]int, len(events)) // indexes without an answer
	sent := make([]*sealpostv1.Event, len(events))
	for i, e := range events {
		sent[i] = wire(&e)
		results[i].ID = e.ID
		open[i] = i
	}
	for t := c.newTry(); len(open) > 0; {
		var soonest *Error
		if open, soonest = c.tryGroup(ctx, sent, results, open); len(open) == 0 {
			return
		}
		if err := t.wait(ctx, soonest); err != nil {
			if ctx.Err() != nil {
				for _, i := range open {
					results[i].Err = err
				}
			}
			return
		}
	}
}

// tryGroup makes one call for the events at open. It gives those that are worth another, and the refusal among them that
// asks for the longest wait.
func (c *Client) tryGroup(ctx context.Context, sent []*sealpostv1.Event, results []Result, open []int) ([]int, *Error) {
	request := &sealpostv1.BatchPublishEventsRequest{Events: make([]*sealpostv1.Event, len(open))}
	for n, i := range open {
		request.Events[n] = sent[i]
	}
	attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := c.events.BatchPublishEvents(attempt, request)
	if err == nil && len(answer.GetResults()) != len(open) {
		err = errors.New("the answer has another number of results")
	}
	var again []int
	var longest *Error
	for n, i := range open {
		if err == nil && answer.GetResults()[n].GetError() == nil {
			r := answer.GetResults()[n]
			results[i] = Result{Receipt: Receipt{ID: r.GetId(), Duplicate: r.GetDuplicate()}}
			continue
		}
		failed := errorOf(results[i].ID, err)
		if err == nil {
			failed = errorIn(results[i].ID, answer.GetResults()[n].GetError())
		}
		results[i].Err = failed
		if failed.Temporary() {
			again = append(again, i)
			if longest == nil || failed.RetryAfter > longest.RetryAfter {
				longest = failed
			}
		}
	}
	return again, longest
}

// wire gives an event an id if it lacks one, so that every try is the same, and puts it in the API's form. A time that it
// lacks is the server's to give: the same event that is published again later must still be the same.
func wire(e *relay.Event) *sealpostv1.Event {
	if e.ID == "" {
		e.ID = newID()
	}
	w := &sealpostv1.Event{Tenant: e.Tenant, Id: e.ID, Type: e.Type, Subject: e.Subject, Data: e.Data, Synthetic: e.Synthetic}
	if !e.Time.IsZero() {
		w.Time = timestamppb.New(e.Time)
	}
	return w
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return "evt_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}
