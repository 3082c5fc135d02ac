package egress

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// This file is the way of endpoints that may speak HTTP/2: net/http's. No client certificate is ever required on it.

// maxDead bounds how many kept connections may turn out to be dead before one request gives up. Each such try had
// written no byte of the body.
const maxDead = 8

// maxBodies bounds how often net/http takes the body up again by itself. It does so without a bound, and without a pause, where
// an HTTP/2 server ends each new connection with GOAWAY before it looks at the request: hundreds of handshakes a second.
const maxBodies = 3

var errRepeats = fmt.Errorf("egress: request not taken on any of %d connections: %w", maxBodies, io.EOF)

// newTransport is net/http's transport, used below http.Client, so that nothing follows redirects, keeps cookies or
// turns the URL's user into a header. It uses no proxy, because Proxy is nil.
func (p *Pool) newTransport(d *dialer) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		DialContext:            d.dialPlain,
		DialTLSContext:         d.dialTLS,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConns:           p.options.Idle,
		MaxIdleConnsPerHost:    p.options.IdlePerHost,
		IdleConnTimeout:        p.options.IdleConnTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// overTransport makes the request through net/http. It repeats by itself only where nothing was written, or where it takes
// the method or an Idempotency-Key header to mean that it may; that header is hidden from it.
func (p *Pool) overTransport(req *http.Request, kept *kept) (*Response, Facts, error) {
	ctx, cancel := context.WithTimeout(req.Context(), p.options.AttemptTimeout)
	for dead := 0; ; dead++ {
		a := &attempt{ctx: ctx, cancel: cancel, hasBody: hasBody(req)}
		resp, err := a.run(kept.transport, req)
		if err == nil {
			return &Response{
				StatusCode: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After"), ContentLength: resp.ContentLength,
				Body: &transportBody{ReadCloser: resp.Body, attempt: a},
			}, a.facts(nil), nil
		}
		if dead < maxDead && a.harmless() {
			continue
		}
		failure := a.explain(err)
		cancel()
		return nil, a.facts(failure), failure
	}
}

// An attempt is one use of a connection of net/http, which calls its hooks from several goroutines.
type attempt struct {
	ctx     context.Context // of the whole request
	cancel  context.CancelFunc
	hasBody bool

	mu       sync.Mutex
	progress progress // guarded by mu
}

func (a *attempt) run(transport *http.Transport, req *http.Request) (*http.Response, error) {
	out := req.WithContext(httptrace.WithClientTrace(a.ctx, &httptrace.ClientTrace{
		GotConn:              a.got,
		WroteHeaders:         a.begun,
		WroteRequest:         a.written,
		GotFirstResponseByte: a.first,
	}))
	out.Header = outgoing(req.Header)
	if a.hasBody {
		bodies := 0
		out.GetBody = func() (io.ReadCloser, error) {
			if bodies++; bodies > maxBodies {
				return nil, errRepeats
			}
			return req.GetBody()
		}
		body, err := out.GetBody()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRequest, err)
		}
		out.Body = body
	}
	return transport.RoundTrip(out)
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

// got is called once more where net/http goes to another connection, having written nothing.
func (a *attempt) got(info httptrace.GotConnInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := connOf(info.Conn)
	if c == nil {
		c = &conn{} // not one of ours, which cannot be
	}
	a.progress.on(c, info.Reused)
}

// begun is called before the first byte of the body is read.
func (a *attempt) begun() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress.bodyStarted = a.hasBody
}

func (a *attempt) written(info httptrace.WroteRequestInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress.wrote = info.Err == nil
}

func (a *attempt) first() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.progress.first()
}

// harmless is whether the request failed on a kept connection before any of its body was handed over, for no reason of
// ours: the receiver cannot have it.
func (a *attempt) harmless() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := &a.progress
	return g.conn != nil && g.reused && !g.bodyStarted && !g.wrote && !g.responding && a.ctx.Err() == nil
}

func (a *attempt) explain(err error) *Error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.progress.explain(err, a.ctx.Err())
}

func (a *attempt) facts(failure *Error) Facts {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.progress.facts(failure)
}

// transportBody gives the errors of reading the body their reasons, and ends the request when it is closed.
type transportBody struct {
	io.ReadCloser
	attempt *attempt
}

func (b *transportBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = explainBody(err, b.attempt.ctx.Err())
	}
	return n, err
}

func (b *transportBody) Close() error {
	err := b.ReadCloser.Close()
	b.attempt.cancel()
	return err
}
