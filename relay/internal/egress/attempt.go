package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
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

// maxDead bounds how many kept connections may turn out to be dead before one request gives up. Each such try had
// written no byte of the body.
const maxDead = 8

// maxBodies bounds how often net/http takes the body up again by itself. It does so without a bound, and without a pause, where
// an HTTP/2 server ends each new connection with GOAWAY before it looks at the request: hundreds of handshakes a second.
const maxBodies = 3

var errRepeats = fmt.Errorf("egress: request not taken on any of %d connections: %w", maxBodies, io.EOF)

// RoundTrip makes one HTTP request under the trust and returns its response, whatever the status. Redirects are not
// followed. The request needs a body that can be read again (GetBody, as http.NewRequest sets it for bytes) or none; its
// own Expect header is ignored. It lasts at most until its context ends or the attempt timeout, the reading of the
// response body included; the caller reads as much of the body as it likes and must close it. Every error, of RoundTrip
// and of the body, is an *Error; Facts are returned with an error too.
//
// A request is repeated within RoundTrip only while no byte of its body was handed to the connection that broke: that is
// a kept connection found dead. net/http repeats by itself only where nothing was written, or where it takes the method
// or an Idempotency-Key header to mean that it may; that header is hidden from it.
func (p *Pool) RoundTrip(req *http.Request, to *Prepared) (*http.Response, Facts, error) {
	if err := acceptable(req, to); err != nil {
		return nil, Facts{}, &Error{Reason: TransportOther, Err: err}
	}
	ctx, cancel := context.WithTimeout(req.Context(), p.options.AttemptTimeout)
	kept := p.keep(to)
	transport := kept.transport
	for dead := 0; ; dead++ {
		a := &attempt{ctx: ctx, cancel: cancel, patience: p.options.ContinueWait, done: make(chan struct{})}
		a.mayGate = transport == kept.gated
		resp, err := a.run(transport, req)
		if err == nil {
			resp.Request = req
			resp.Body = &responseBody{ReadCloser: resp.Body, attempt: a}
			return resp, a.facts(nil), nil
		}
		if errors.Is(err, errSilent) && kept.gated != nil && transport != kept.gated {
			transport = kept.gated
			continue
		}
		if dead < maxDead && a.harmless() {
			continue
		}
		failure := a.explain(err)
		cancel()
		return nil, a.facts(failure), failure
	}
}

func acceptable(req *http.Request, to *Prepared) error {
	switch {
	case req.URL == nil || req.URL.Host == "":
		return fmt.Errorf("%w: no host", ErrRequest)
	case req.URL.User != nil:
		return fmt.Errorf("%w: user in the URL", ErrRequest)
	case req.URL.Scheme != "https" && !(req.URL.Scheme == "http" && to.trust.PlainHTTP):
		return fmt.Errorf("%w: scheme is not https", ErrRequest)
	case req.Body != nil && req.Body != http.NoBody && (req.GetBody == nil || req.ContentLength <= 0):
		return fmt.Errorf("%w: body of unknown length", ErrRequest)
	}
	return nil
}

// An attempt is one use of a connection. net/http calls its hooks from several goroutines.
type attempt struct {
	ctx      context.Context // of the whole request; the gate needs it below io.Reader
	cancel   context.CancelFunc
	patience time.Duration
	hasBody  bool
	mayGate  bool          // the body can be held back: the transport is the one for it
	done     chan struct{} // closed when the response is closed or the request has failed

	mu          sync.Mutex // guards all below
	conn        *conn
	reused      bool
	gated       bool          // the body waits for open
	open        chan struct{} // made where gated, closed when the server said "100 Continue"
	continued   bool
	impatient   bool // patience ran out
	bodyStarted bool
	wrote       bool
	connected   time.Time
	firstByte   time.Duration
	responding  bool
	finished    bool
}

func (a *attempt) run(transport *http.Transport, req *http.Request) (*http.Response, error) {
	header := outgoing(req.Header)
	var patience *time.Timer
	out := req.WithContext(httptrace.WithClientTrace(a.ctx, &httptrace.ClientTrace{
		// Called on this goroutine, before net/http looks at the headers: what is set here is what is sent.
		GotConn: func(info httptrace.GotConnInfo) {
			header.Del("Expect")
			if a.got(info) {
				header.Set("Expect", "100-continue")
				if patience == nil {
					patience = time.AfterFunc(a.patience, a.tire)
				}
			}
		},
		WroteHeaders:         a.begun,
		Got100Continue:       a.goOn,
		WroteRequest:         a.written,
		GotFirstResponseByte: a.first,
	}))
	out.Header = header
	if req.Body != nil && req.Body != http.NoBody {
		a.hasBody = true
		bodies := 0
		out.GetBody = func() (io.ReadCloser, error) {
			if bodies++; bodies > maxBodies {
				return nil, errRepeats
			}
			body, err := req.GetBody()
			if a.mayGate && err == nil {
				body = &gatedBody{body: body, attempt: a}
			}
			return body, err
		}
		body, err := out.GetBody()
		if err != nil {
			a.finish()
			return nil, fmt.Errorf("%w: %w", ErrRequest, err)
		}
		out.Body = body
	}
	resp, err := transport.RoundTrip(out)
	if patience != nil {
		patience.Stop()
	}
	if err == nil {
		if err = a.judge(resp); err == nil {
			return resp, nil
		}
		a.finish()
		resp.Body.Close()
	}
	a.finish()
	return nil, err
}

// outgoing copies the headers, with the two that make net/http repeat a POST of its own accord under a spelling that it
// does not look for; on the wire names have no case (RFC 9110 section 5.1).
func outgoing(header http.Header) http.Header {
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Del("Expect")
	for _, name := range [...][2]string{{"Idempotency-Key", "idempotency-key"}, {"X-Idempotency-Key", "x-idempotency-key"}} {
		if values, ok := header[name[0]]; ok {
			delete(header, name[0])
			header[name[1]] = values
		}
	}
	return header
}

// got notes the connection and tells whether the body must wait for "100 Continue" on it.
func (a *attempt) got(info httptrace.GotConnInfo) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn, a.reused, a.connected = connOf(info.Conn), info.Reused, time.Now()
	if a.conn == nil {
		a.conn = &conn{required: true} // not one of ours, which cannot be
	}
	// Called once more where net/http goes to another connection, having written nothing: what was true of the first
	// must not open the gate of the second.
	a.bodyStarted, a.wrote, a.continued = false, false, false
	a.gated = a.hasBody && a.mayGate && a.conn.required && !a.conn.confirmed.Load()
	a.open = make(chan struct{})
	return a.gated
}

// begun is called before the first byte of the body is read.
func (a *attempt) begun() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodyStarted = a.hasBody && !a.gated
}

func (a *attempt) goOn() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gated && !a.continued {
		a.continued = true
		a.conn.confirmed.Store(true)
		close(a.open)
	}
}

func (a *attempt) written(info httptrace.WroteRequestInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrote = info.Err == nil
}

func (a *attempt) first() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.responding = true
	if a.firstByte == 0 {
		a.firstByte = time.Since(a.connected)
	}
}

// tire ends a request whose body was not asked for in time.
func (a *attempt) tire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.continued && !a.finished {
		a.impatient = true
		a.cancel()
	}
}

// finish lets go of a body that still waits at the gate.
func (a *attempt) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.finished {
		a.finished = true
		close(a.done)
	}
}

// judge refuses a response that cannot be one to our request: the body never left, and yet the server calls it a success
// or says that it does not know "100 Continue".
func (a *attempt) judge(resp *http.Response) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gated && !a.continued && (resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusExpectationFailed) {
		return fmt.Errorf("%w: status %d without 100 Continue", ErrClientCertificateUnconfirmed, resp.StatusCode)
	}
	return nil
}

// harmless is whether the request failed on a kept connection before any of its body was handed over, for no reason of
// ours: the receiver cannot have it.
func (a *attempt) harmless() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conn != nil && a.reused && !a.gated && !a.bodyStarted && !a.wrote && !a.responding && a.ctx.Err() == nil
}

// explain gives a failure its reason, from the error's type and from how far the request had got.
func (a *attempt) explain(err error) *Error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	failed := func(reason Reason, err error) *Error { return &Error{Reason: reason, Err: err, conn: a.conn} }
	switch ended := a.ctx.Err(); {
	case a.impatient:
		return failed(ClientCertificateUnconfirmed, fmt.Errorf("%w: no 100 Continue in time", ErrClientCertificateUnconfirmed))
	case errors.Is(err, ErrClientCertificateUnconfirmed):
		return failed(ClientCertificateUnconfirmed, err)
	case errors.Is(ended, context.Canceled):
		return failed(Cancelled, ended)
	case ended != nil || timedOut(err):
		return failed(a.timeoutReason(), err)
	case a.conn == nil:
		return failed(TransportOther, err)
	case remoteAlert(err) && a.conn.asked && !a.reused && !a.responding:
		return failed(ClientCertificateRefused, fmt.Errorf("%w: %w", ErrClientCertificateRefused, err))
	}
	if reason := connectionReason(err); reason != "" {
		return failed(reason, err)
	}
	if a.responding || localAlert(err) {
		return failed(ResponseInvalid, err) // bytes came, the connection held, and they could not be read as HTTP
	}
	return failed(ConnectionClosed, err)
}

func (a *attempt) timeoutReason() Reason {
	switch {
	case a.conn == nil:
		return ConnectTimeout
	case a.gated && !a.continued:
		return ClientCertificateUnconfirmed
	case a.wrote:
		return ResponseTimeout
	}
	return Timeout
}

func (a *attempt) facts(failure *Error) Facts {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := Facts{FirstByte: a.firstByte, Reused: a.reused, BodyStarted: a.bodyStarted}
	c := a.conn
	if c == nil && failure != nil {
		c = failure.conn
	}
	if c == nil {
		return f
	}
	if !a.reused {
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

// A gatedBody is the request's body on a transport for servers that send no tickets. (On the other the body is left as it
// is: net/http sends what it knows to be in memory together with the headers, in one write.) Where the server has not shown that it took our certificate, it holds back until
// "100 Continue". net/http's own wait is not enough: it sends the body also after a final status, as long as the
// connection can be kept (persistConn.readResponse), and after ExpectContinueTimeout.
type gatedBody struct {
	body    io.ReadCloser
	attempt *attempt
}

var errHeld = errors.New("egress: body held back")

func (b *gatedBody) Read(p []byte) (int, error) {
	if err := b.attempt.pass(); err != nil {
		return 0, err
	}
	return b.body.Read(p)
}

func (b *gatedBody) Close() error { return b.body.Close() }

// pass blocks rather than fails while the gate is shut: an error would make net/http drop the response that the server
// gave instead of "100 Continue".
func (a *attempt) pass() error {
	a.mu.Lock()
	free, open := !a.gated || a.continued, a.open
	a.bodyStarted = a.bodyStarted || free
	a.mu.Unlock()
	if free {
		return nil
	}
	select {
	case <-open:
		a.mu.Lock()
		a.bodyStarted = true
		a.mu.Unlock()
		return nil
	case <-a.done:
	case <-a.ctx.Done():
	}
	return errHeld
}

// responseBody gives the errors of reading the body their reasons, and ends the request when it is closed.
type responseBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.attempt.explainBody(err)
	}
	return n, err
}

func (b *responseBody) Close() error {
	b.attempt.finish()
	err := b.ReadCloser.Close()
	b.attempt.cancel()
	return err
}

func (a *attempt) explainBody(err error) error {
	reason := connectionReason(err)
	switch ended := a.ctx.Err(); {
	case errors.Is(ended, context.Canceled):
		reason = Cancelled
	case ended != nil || timedOut(err):
		reason = Timeout
	case reason == "":
		reason = ResponseInvalid // such as a malformed chunk
	}
	return &Error{Reason: reason, Err: err}
}
