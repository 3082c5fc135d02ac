// Package courier takes one redacted delivery to its partner and says what came of it. It is the part that talks to
// the Internet.
//
// It promises:
//   - The bytes that are signed are the bytes that are sent, and the attempt holds their digest.
//   - Nothing is sent unsigned, without the client certificate that its endpoint requires, or in chunks whose framing
//     no signature covers.
//   - Each attempt ends within its endpoint's timeout, whatever the receiver does, and gives exactly one verdict, from
//     the table in verdict.go.
//   - Of a response no more than 64 KiB is read and 4 KiB kept; the endpoint's own secrets are masked in it.
//
// It holds deliveries that are already redacted and never sees the raw event. It trusts the delivery and its endpoint,
// egress to decide where a connection may go, and nothing that a receiver says beyond what the table makes of it.
package courier

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/signer"
)

// readTime bounds the reading of a response's body, within the attempt's own time. The status has said what there was
// to say by then, and a body that trickles must not hold the endpoint's place.
const readTime = time.Second

// headerSynthetic marks the requests of synthetic events; the bodies that hold more than the data say so, too.
const headerSynthetic = "Sealpost-Synthetic"

var syntheticTrue = []string{"true"}

// ErrOptions reports Options without a part that has no default.
var ErrOptions = errors.New("courier: invalid options")

// Options are what a Courier works with.
type Options struct {
	Pool *egress.Pool // required

	// ClientCertificates gives the certificate to show to an endpoint. It is asked for each attempt whose endpoint
	// takes one, so it must be quick, and return the same pointer for as long as the certificate is the same. Nil:
	// there are none, and only endpoints that take none are sent to.
	ClientCertificates func(*relay.Endpoint) (*tls.Certificate, error)

	PlainHTTP bool             // allow http:// endpoints, for development
	Version   string           // for the user agent; empty: "dev"
	Clock     func() time.Time // of timestamps and Retry-After; nil: time.Now
	Logger    *slog.Logger     // one debug line an attempt, of ids and reasons; nil: none
}

// Courier sends deliveries. It is safe for concurrent use and keeps nothing of a delivery.
type Courier struct {
	options   Options
	userAgent []string
	ready     cache
}

// New returns a Courier. It starts nothing.
func New(options Options) (*Courier, error) {
	if options.Pool == nil {
		return nil, errors.Join(ErrOptions, errors.New("no pool"))
	}
	if options.Version == "" {
		options.Version = "dev"
	}
	if options.Clock == nil {
		options.Clock = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Courier{options: options, userAgent: []string{"Sealpost/" + options.Version}}, nil
}

// Handle makes the next attempt of a delivery: of all of it, or of the first chunk that was not accepted yet. For a
// delivery of many chunks Pack once and Send each of them instead.
func (c *Courier) Handle(ctx context.Context, d *relay.Delivery) (relay.Attempt, relay.Verdict) {
	p, refused := c.Pack(d)
	if p == nil {
		return relay.Attempt{
			Number: d.Attempts + 1, StartTime: c.options.Clock(), Verdict: refused.Kind, Reason: refused.Reason,
		}, refused
	}
	return c.Send(ctx, p, p.Next())
}

// Send makes one attempt of a parcel: one POST of chunk i, counted from 0; a delivery that is whole has only chunk 0.
// It returns within the endpoint's timeout. The attempt's number counts on from what the delivery's Attempts were
// when it was packed, one for each chunk since the parcel's Next.
//
// The verdict of a chunk that was accepted, but is not the last, is Done with CHUNK_ACCEPTED: see Parcel.After.
// Where ctx ends the attempt it is Later with INTERRUPTED.
func (c *Courier) Send(ctx context.Context, p *Parcel, i int) (relay.Attempt, relay.Verdict) {
	a := relay.Attempt{Number: p.attempts + 1 + max(0, i-p.next), StartTime: c.options.Clock()}
	if p.set != nil {
		a.Chunk, a.ChunkTotal = i+1, p.set.Total()
	}
	v := c.attempt(ctx, p, i, &a)
	a.Verdict, a.Reason = v.Kind, v.Reason
	c.log(ctx, p.delivery, &a)
	return a, v
}

func (c *Courier) attempt(ctx context.Context, p *Parcel, i int, a *relay.Attempt) relay.Verdict {
	start := time.Now() // monotonic, whatever the Clock
	defer func() { a.Durations.Total = time.Since(start) }()
	ep := p.delivery.Endpoint
	ready, refused := c.prepare(ep)
	if ready == nil {
		return refused
	}
	to, refused := ready.trusted(c.options.ClientCertificates, ep)
	if to == nil {
		return refused
	}
	body, header, err := c.letter(p, i, ready, a)
	if err != nil {
		return park(relay.ReasonSigningFailed)
	}
	resp, facts, err := c.options.Pool.Post(ctx, &egress.Post{
		Target: ready.to, Header: header, Body: body, Timeout: timeout(ep), BodyTime: readTime,
	}, to)
	take(a, &facts)
	if err != nil {
		if ctx.Err() != nil {
			return OfFailure(egress.Cancelled)
		}
		return OfFailure(egress.Classify(err))
	}
	v := c.judge(resp, p, i)
	a.StatusCode = resp.StatusCode
	if resp.ContentLength != 0 {
		a.ResponseBody, a.ResponseSize = keep(resp.Body, ready.mask)
	}
	resp.Body.Close()
	return v
}

// letter is the body of chunk i and its signed header.
func (c *Courier) letter(p *Parcel, i int, ready *prepared, a *relay.Attempt) ([]byte, http.Header, error) {
	m := signer.Message{
		ID: p.delivery.ID, Time: a.StartTime, Method: http.MethodPost, URL: ready.url, Type: p.delivery.EventType,
		ContentType: p.contentType, Body: p.body,
	}
	if p.set != nil {
		if i < 0 || i >= p.set.Total() {
			return nil, nil, errors.New("courier: no such chunk")
		}
		m.ID, m.Chunk, m.Body = p.set.ID(i+1), p.set.Header(i+1).String(), p.set.Chunk(i+1)
		if !p.set.Paged() {
			m.ContentType = p.set.ContentType(i + 1)
		}
	}
	sum := sha256.Sum256(m.Body)
	a.BodySHA256 = string(hex.AppendEncode(make([]byte, 0, 2*len(sum)), sum[:])) // one allocation
	header := ready.header(c.userAgent)
	if p.delivery.Synthetic {
		header[headerSynthetic] = syntheticTrue
	}
	if p.delivery.Endpoint.ContentMode == relay.ContentCloudEventsBinary {
		addCloudEvent(header, p.delivery)
	}
	var err error
	a.KeyID, err = p.delivery.Endpoint.Signer.Sign(header, &m)
	return m.Body, header, err
}

func (c *Courier) judge(resp *egress.Response, p *Parcel, i int) relay.Verdict {
	if p.set != nil && i > 0 && resp.StatusCode == statusSetLost {
		return setLost.verdict()
	}
	v := OfStatus(resp.StatusCode, resp.RetryAfter, c.options.Clock())
	if v.Kind == relay.VerdictDone && p.set != nil && i+1 < p.set.Total() {
		v.Reason = relay.ReasonChunkAccepted
	}
	return v
}

// take records what is known of the connection.
func take(a *relay.Attempt, f *egress.Facts) {
	a.Durations = relay.Durations{DNS: f.DNS, Connect: f.Connect, TLS: f.TLS, FirstByte: f.FirstByte}
	if f.RemoteAddress.IsValid() {
		a.RemoteAddress = f.RemoteAddress.String()
	}
	a.TLSVersion = f.TLSVersion
	a.ServerCertificateSubject = f.ServerCertificateSubject
	a.ServerCertificateSHA256 = f.ServerCertificateSHA256
	a.ClientCertificateSHA256 = f.ClientCertificateSHA256
}

func timeout(ep *relay.Endpoint) time.Duration {
	if ep.Timeout <= 0 {
		return relay.DefaultTimeout
	}
	return min(ep.Timeout, relay.MaxTimeout)
}

func (c *Courier) log(ctx context.Context, d *relay.Delivery, a *relay.Attempt) {
	if !c.options.Logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	c.options.Logger.LogAttrs(ctx, slog.LevelDebug, "attempt",
		slog.String("delivery", d.ID), slog.String("endpoint", d.Endpoint.ID), slog.Int("attempt", a.Number),
		slog.Int("chunk", a.Chunk), slog.String("verdict", string(a.Verdict)), slog.String("reason", string(a.Reason)),
		slog.Int("status", a.StatusCode), slog.Duration("total", a.Durations.Total))
}
