package egress

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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

// newTransport is net/http's transport for one kept, used below http.Client, so that nothing follows redirects, keeps cookies or
// turns the URL's user into a header. It uses no proxy, because Proxy is nil.
func (p *Pool) newTransport(k *kept) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Transport{
		DialContext:            p.counted(k, k.dialer.dialPlain),
		DialTLSContext:         p.counted(k, k.dialer.dialTLS),
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConns:           p.options.Idle,
		MaxIdleConnsPerHost:    p.options.IdlePerHost,
		IdleConnTimeout:        p.options.IdleConnTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// counted bounds what transports keep: each has a bound of its own for what is idle, and there is one for each trust. Where
// there are more connections than may be idle, those of the trust that was used longest ago have to go.
func (p *Pool) counted(k *kept, open dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := open(ctx, network, address)
		if err != nil {
			return nil, err
		}
		k.open.Add(1)
		connOf(c).closed = func() {
			k.open.Add(-1)
			p.open.Add(-1)
		}
		if p.open.Add(1) > int64(p.options.Idle) {
			if unused := p.leastUsed(k); unused != nil {
				unused.transport.CloseIdleConnections()
			}
		}
		return c, nil
	}
}

// leastUsed is what was used longest ago of all that have connections of a transport, but for one.
func (p *Pool) leastUsed(but *kept) (found *kept) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, k := range p.transports {
		if k != but && k.open.Load() > 0 && (found == nil || k.used.Load() < found.used.Load()) {
			found = k
		}
	}
	return found
}

// overTransport makes the request through net/http. It repeats by itself only where nothing was written, or where it takes
// the method or an Idempotency-Key header to mean that it may; that header is hidden from it.
func (p *Pool) overTransport(ctx context.Context, r *Post, kept *kept) (*Response, Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout(r))
	for dead := 0; ; dead++ {
		a := &attempt{ctx: ctx, cancel: cancel, hasBody: len(r.Body) > 0}
		resp, err := a.run(kept.transport, r)
		if err == nil {
			body := &transportBody{ReadCloser: resp.Body, attempt: a}
			if r.BodyTime > 0 && resp.ContentLength != 0 {
				body.late = time.AfterFunc(r.BodyTime, a.hurry)
			}
			return &Response{
				StatusCode: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After"), ContentLength: resp.ContentLength, Body: body,
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

	mu       sync.Mutex // guards all below
	progress progress
	hurried  bool // the time for the response's body is over
}

func (a *attempt) run(transport *http.Transport, r *Post) (*http.Response, error) {
	out := (&http.Request{
		Method: http.MethodPost, URL: r.Target.url, Host: r.Target.url.Host, Header: outgoing(r.Header),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(httptrace.WithClientTrace(a.ctx, &httptrace.ClientTrace{
		GotConn:              a.got,
		WroteHeaders:         a.begun,
		WroteRequest:         a.written,
		GotFirstResponseByte: a.first,
	}))
	if a.hasBody {
		bodies := 0
		out.ContentLength = int64(len(r.Body))
		out.GetBody = func() (io.ReadCloser, error) {
			if bodies++; bodies > maxBodies {
				return nil, errRepeats
			}
			return io.NopCloser(bytes.NewReader(r.Body)), nil
		}
		out.Body, _ = out.GetBody()
	}
	return transport.RoundTrip(out)
}

func (a *attempt) hurry() {
	a.mu.Lock()
	a.hurried = true
	a.mu.Unlock()
	a.cancel()
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

// ended is why the request has to end.
func (a *attempt) ended() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hurried {
		return context.DeadlineExceeded
	}
	return a.ctx.Err()
}

// transportBody gives the errors of reading the body their reasons, and ends the request when it is closed.
type transportBody struct {
	io.ReadCloser
	attempt *attempt
	late    *time.Timer // nil: no bound of its own
}

func (b *transportBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = explainBody(err, b.attempt.ended())
	}
	return n, err
}

func (b *transportBody) Close() error {
	if b.late != nil {
		b.late.Stop()
	}
	err := b.ReadCloser.Close()
	b.attempt.cancel()
	return err
}
