package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Facts are what is known of one request's way, also of one that failed, as far as it got.
type Facts struct {
	// The phases of making the connection; all zero where a kept one was used. TLS includes waiting for the server to
	// confirm our certificate.
	DNS, Connect, TLS time.Duration
	// FirstByte is from having a connection to the first byte of the response (that of a 100 Continue included).
	FirstByte time.Duration

	RemoteAddress            netip.AddrPort // as dialled; the zero value where nothing was
	TLSVersion               string         // such as "TLS 1.3"; "" without TLS
	ServerCertificateSubject string
	ServerCertificateSHA256  string // lower-case hex
	ClientCertificateSHA256  string // of the certificate that the server asked for and got, "" if none
	Reused                   bool   // the connection had served a request before
	// BodyStarted is whether the body was handed to a connection: where it is false the receiver cannot have the request.
	BodyStarted bool
}

// A Response is what a server answered.
type Response struct {
	StatusCode int
	RetryAfter string // the header field of that name, "" without one; as the server wrote it
	// ContentLength is how long the body says that it is, in bytes; -1 where it does not say.
	ContentLength int64
	// Body is never nil, and has to be closed.
	Body io.ReadCloser
}

// Post makes one POST request under the trust and returns its response, whatever the status. Redirects are not followed. It
// lasts at most until ctx ends or its time is over, the reading of the response body included; the caller reads as much of
// the body as it likes and must close it. Every error, of Post and of the body, is an *Error; Facts are returned with an
// error too.
//
// A request is repeated within Post only while no byte of its body was handed to the connection that broke: that is a kept
// connection found dead.
func (p *Pool) Post(ctx context.Context, r *Post, to *Prepared) (*Response, Facts, error) {
	if err := r.check(&to.trust); err != nil {
		return nil, Facts{}, &Error{Reason: TransportOther, Err: err}
	}
	kept := p.keep(to)
	if kept.transport != nil {
		return p.overTransport(ctx, r, kept)
	}
	return p.overLine(ctx, r, kept)
}

// timeout is how long the request may last.
func (p *Pool) timeout(r *Post) time.Duration {
	if r.Timeout <= 0 {
		return p.options.AttemptTimeout
	}
	return min(r.Timeout, p.options.AttemptTimeout)
}

// progress is how far a request has got: what its facts and the reason of its failure are told from.
type progress struct {
	conn        *conn // nil: none yet
	reused      bool
	held        bool // the body waits for "100 Continue"
	bodyStarted bool
	wrote       bool // all of the request
	responding  bool
	connected   time.Time
	firstByte   time.Duration
}

// on notes the connection that the request is now on: what was true of another counts no more.
func (g *progress) on(c *conn, reused bool) {
	*g = progress{conn: c, reused: reused, connected: time.Now(), firstByte: g.firstByte}
}

func (g *progress) first() {
	g.responding = true
	if g.firstByte == 0 {
		g.firstByte = time.Since(g.connected)
	}
}

// explain gives a failure its reason, from the error's type, from how far the request had got, and from why its context
// has ended, if it has.
func (g *progress) explain(err, ended error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	failed := func(reason Reason, err error) *Error { return &Error{Reason: reason, Err: err, conn: g.conn} }
	switch {
	case errors.Is(err, ErrRequest):
		return failed(TransportOther, err)
	case errors.Is(err, ErrClientCertificateUnconfirmed):
		return failed(ClientCertificateUnconfirmed, err)
	case errors.Is(ended, context.Canceled):
		return failed(Cancelled, ended)
	case ended != nil || timedOut(err):
		return failed(g.timeoutReason(), err)
	case g.conn == nil:
		return failed(TransportOther, err)
	case remoteAlert(err) && g.conn.asked && !g.reused && !g.responding:
		return failed(ClientCertificateRefused, fmt.Errorf("%w: %w", ErrClientCertificateRefused, err))
	}
	if reason := connectionReason(err); reason != "" {
		return failed(reason, err)
	}
	if g.responding || localAlert(err) {
		return failed(ResponseInvalid, err) // bytes came, the connection held, and they could not be read as HTTP
	}
	return failed(ConnectionClosed, err)
}

func (g *progress) timeoutReason() Reason {
	switch {
	case g.conn == nil:
		return ConnectTimeout
	case g.held:
		return ClientCertificateUnconfirmed
	case g.wrote:
		return ResponseTimeout
	}
	return Timeout
}

// explainBody gives a failure to read a response's body its reason.
func explainBody(err, ended error) error {
	reason := connectionReason(err)
	switch {
	case errors.Is(ended, context.Canceled):
		reason = Cancelled
	case ended != nil || timedOut(err):
		reason = Timeout
	case reason == "":
		reason = ResponseInvalid // such as a malformed chunk
	}
	return &Error{Reason: reason, Err: err}
}

func (g *progress) facts(failure *Error) Facts {
	f := Facts{FirstByte: g.firstByte, Reused: g.reused, BodyStarted: g.bodyStarted}
	c := g.conn
	if c == nil && failure != nil {
		c = failure.conn
	}
	if c == nil {
		return f
	}
	if !g.reused {
		f.DNS, f.Connect, f.TLS = c.dns, c.connect, c.handshake
	}
	f.RemoteAddress = c.remote
	if c.tlsVersion != 0 {
		f.TLSVersion = tls.VersionName(c.tlsVersion)
	}
	f.ServerCertificateSubject, f.ServerCertificateSHA256 = c.subject, c.fingerprint
	f.ClientCertificateSHA256 = c.presented
	return f
}
