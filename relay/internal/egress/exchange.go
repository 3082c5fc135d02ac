package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"time"
)

// This file is the way of HTTP/1.1: one goroutine, the caller's, writes the request and reads the response. There is a second
// one only while a body is on its way that may not fit into what the kernel buffers.

const (
	maxInline = 16 << 10 // the longest request that is written without a goroutine of its own
	// pushWait is how long a response that was read whole waits for word that its request was written whole.
	pushWait = 50 * time.Millisecond
)

// An exchange is one request and its response on a line. It has the buffers of both, and is used again.
type exchange struct {
	in    *bufio.Reader
	out   []byte
	heads headReader

	// Of the request under way.
	progress progress
	post     *Post
	headEnd  int // out is the head up to here, an empty line, and the body if that is inline
	inline   bool
	pool     *Pool
	ctx      context.Context
	deadline time.Time
	line     *line
	stop     func() bool // ends the watch over ctx
	pushed   chan error  // not nil: the body is being pushed
	last     bool        // the line is not to be used again
}

func newExchange() *exchange {
	return &exchange{in: bufio.NewReaderSize(nil, 4<<10), out: make([]byte, 0, 4<<10)}
}

// overLine makes the request on a kept line, or on a new one.
func (p *Pool) overLine(ctx context.Context, r *Post, k *kept) (*Response, Facts, error) {
	x := p.exchanges.Get().(*exchange)
	x.begin(ctx, p, r)
	h, err := x.run(place{kept: k, secure: r.Target.secure, address: r.Target.address})
	if err == nil {
		facts := x.progress.facts(nil)
		return x.respond(h), facts, nil
	}
	failure := x.progress.explain(err, x.ended())
	facts := x.progress.facts(failure)
	x.abort()
	x.release()
	return nil, facts, failure
}

func (x *exchange) begin(ctx context.Context, p *Pool, r *Post) {
	x.ctx, x.pool, x.post = ctx, p, r
	x.deadline = time.Now().Add(p.timeout(r))
	if until, ok := ctx.Deadline(); ok && until.Before(x.deadline) {
		x.deadline = until
	}
	x.heads = headReader{in: x.in, left: maxResponseHeader}
	x.out = r.appendHead(x.out[:0])
	x.headEnd = len(x.out)
	x.out = append(x.out, "\r\n"...)
	if x.inline = len(x.out)+len(r.Body) <= maxInline; x.inline {
		x.out = append(x.out, r.Body...)
	}
}

// ended is why the request has to end now; nil: it has not.
func (x *exchange) ended() error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	if !time.Now().Before(x.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func (x *exchange) run(at place) (head, error) {
	for {
		if err := x.connect(at); err != nil {
			return head{}, err
		}
		h, err := x.speak()
		if err == nil || !x.untouched() {
			return h, err
		}
		x.abort()
		x.progress = progress{}
	}
}

// untouched is whether the request failed on a kept line before the kernel had taken a byte of it, for no reason of ours.
func (x *exchange) untouched() bool {
	return x.line != nil && x.line.served && x.line.conn.sent == 0 && x.ended() == nil
}

// connect finds a line that is alive, or makes one. Its deadline is set, and ctx watched, when it returns.
func (x *exchange) connect(at place) error {
	if err := x.ended(); err != nil {
		return err
	}
	for {
		l := x.pool.shelf.take(at)
		if l == nil {
			break
		}
		if !l.dead() {
			x.take(l)
			return nil
		}
		l.abort()
	}
	c, err := x.dial(at)
	if err != nil {
		return err
	}
	x.take(newLine(c, at))
	return nil
}

func (x *exchange) dial(at place) (net.Conn, error) {
	ctx, cancel := context.WithDeadline(x.ctx, x.deadline)
	defer cancel()
	d := at.kept.dialer
	var c net.Conn
	var err error
	if !at.secure {
		c, err = d.dialPlain(ctx, "tcp", at.address)
	} else if c, err = d.dialTLS(ctx, "tcp", at.address); errors.Is(err, errSilent) {
		c, err = d.dialGated(ctx, "tcp", at.address)
	}
	if err != nil && ctx.Err() != nil {
		// Whatever the dialer was at.
		var known *Error
		failure := &Error{Reason: ConnectTimeout, Err: ctx.Err()}
		if errors.As(err, &known) {
			failure.conn = known.conn
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			failure.Reason = Cancelled
		}
		return nil, failure
	}
	return c, err
}

func (x *exchange) take(l *line) {
	x.line = l
	x.progress.on(l.conn, l.served)
	l.conn.sent = 0
	_ = l.SetDeadline(x.deadline) // an error shows at the first write
	if x.ctx.Done() != nil {
		x.stop = context.AfterFunc(x.ctx, l.cut)
	}
	x.in.Reset(l)
}

// speak writes the request and reads the response's head.
func (x *exchange) speak() (head, error) {
	g, c := &x.progress, x.line.conn
	out := x.out
	if g.held = len(x.post.Body) > 0 && c.required && !c.confirmed.Load(); g.held {
		if h, err := x.awaitContinue(); err != nil || h.status != http.StatusContinue {
			return h, err
		}
		g.held, out = false, out[x.headEnd+len("\r\n"):]
		c.confirmed.Store(true)
	}
	if err := x.write(out); err != nil {
		return head{}, err
	}
	return x.final()
}

// awaitContinue writes the head alone and waits for "100 Continue", which comes as a head of that status. A final response can
// come instead: the body has not left then, and the server may wait for it still. One that cannot be a response to our
// request is none: where the server calls it a success, or says that it does not know "100 Continue".
func (x *exchange) awaitContinue() (head, error) {
	asking := append(slices.Clip(x.out[:x.headEnd]), "Expect: 100-continue\r\n\r\n"...)
	if _, err := x.line.Write(asking); err != nil {
		return head{}, err
	}
	patience := time.Now().Add(x.pool.options.ContinueWait)
	if patience.After(x.deadline) {
		patience = x.deadline
	}
	x.readUntil(patience)
	h, err := x.next()
	for err == nil && h.status < 200 && h.status != http.StatusContinue && h.status != http.StatusSwitchingProtocols {
		h, err = x.next()
	}
	switch {
	case err != nil && timedOut(err) && x.ctx.Err() == nil:
		return head{}, fmt.Errorf("%w: no 100 Continue in time", ErrClientCertificateUnconfirmed)
	case err != nil:
		return head{}, err
	case h.status/100 == 2, h.status == http.StatusExpectationFailed:
		return head{}, fmt.Errorf("%w: status %d without 100 Continue", ErrClientCertificateUnconfirmed, h.status)
	}
	x.readUntil(x.deadline)
	return h, nil
}

// readUntil sets how long reading may last, unless the request has been ended: the watch over ctx may have cut the line already.
func (x *exchange) readUntil(t time.Time) {
	_ = x.line.SetReadDeadline(t)
	if x.ctx.Err() != nil {
		x.line.cut()
	}
}

// write writes out, and the body that is not in it.
func (x *exchange) write(out []byte) error {
	x.progress.bodyStarted = len(x.post.Body) > 0
	if len(out) > 0 {
		if _, err := x.line.Write(out); err != nil {
			return x.unwritten(err)
		}
	}
	if x.inline {
		x.progress.wrote = true
		return nil
	}
	x.pushed = make(chan error, 1)
	go func(l *line, body []byte, pushed chan<- error) {
		_, err := l.Write(body)
		pushed <- err
	}(x.line, x.post.Body, x.pushed)
	return nil
}

// unwritten is what it means that the line broke while the request was written: a server may have answered before, and that is
// to be read.
func (x *exchange) unwritten(err error) error {
	if x.line.conn.sent == 0 {
		x.progress.bodyStarted = false
		return err
	}
	if connectionReason(err) == "" {
		return err
	}
	return nil
}

// final reads heads up to that of the response itself.
func (x *exchange) final() (head, error) {
	for {
		h, err := x.next()
		if err != nil {
			return head{}, x.broken(err)
		}
		if h.status >= 200 || h.status == http.StatusSwitchingProtocols {
			return h, nil
		}
	}
}

// next reads the next head.
func (x *exchange) next() (head, error) {
	if !x.progress.responding {
		if _, err := x.in.Peek(1); err != nil {
			return head{}, err
		}
		x.progress.first()
	}
	return x.heads.read()
}

// broken ends the pushing of a body to which no head came.
func (x *exchange) broken(err error) error {
	if x.pushed == nil {
		return err
	}
	x.abort()
	x.progress.wrote = <-x.pushed == nil
	x.pushed = nil
	return err
}

// respond makes the response of the head. Its body gives the line back.
func (x *exchange) respond(h head) *Response {
	x.last = x.last || h.last
	b := &lineBody{exchange: x, left: h.length}
	if h.chunked {
		b.chunks = httputil.NewChunkedReader(x.in)
	}
	b.response = Response{StatusCode: h.status, RetryAfter: h.retryAfter, ContentLength: h.length, Body: b}
	switch {
	case h.length == 0:
		b.end()
	case x.post.BodyTime > 0 && (h.length < 0 || h.length > int64(x.in.Buffered())):
		if late := time.Now().Add(x.post.BodyTime); late.Before(x.deadline) {
			x.readUntil(late)
		}
	}
	return &b.response
}

// A lineBody is the body of a response on a line.
type lineBody struct {
	response Response
	exchange *exchange // nil: given back
	left     int64     // -1: until the connection ends
	chunks   io.Reader // nil: not chunked
	err      error     // for good
}

// Read reads the body as it came.
func (b *lineBody) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.read(p)
	switch {
	case err == io.EOF:
		b.end()
		return n, io.EOF
	case err != nil:
		b.err = explainBody(err, b.exchange.ended())
		return n, b.err
	}
	return n, nil
}

func (b *lineBody) read(p []byte) (int, error) {
	x := b.exchange
	if b.chunks != nil {
		n, err := b.chunks.Read(p)
		if err == io.EOF {
			if failed := x.heads.trailer(); failed != nil {
				err = failed
			}
		}
		return n, err
	}
	if b.left < 0 {
		return x.in.Read(p)
	}
	n, err := x.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// end gives back the line of a body that was read to its end.
func (b *lineBody) end() {
	b.err = io.EOF
	b.exchange.finish()
	b.exchange = nil
}

// Close closes the line if there is more to read.
func (b *lineBody) Close() error {
	if x := b.exchange; x != nil {
		b.exchange = nil
		if b.err == nil {
			b.err = net.ErrClosed
		}
		x.abort()
		x.release()
	}
	return nil
}

// finish is the end of an exchange that went well as far as the response goes: the line may serve again where all of the
// request was written, and nothing came after the response.
func (x *exchange) finish() {
	l := x.line
	if x.last || x.in.Buffered() > 0 || !x.whole() {
		x.abort()
		x.release()
		return
	}
	x.line = nil
	if x.unwatch() {
		l.served = true
		x.pool.shelf.put(l)
	} else {
		_ = l.Close()
	}
	x.release()
}

// whole is whether all of the request was written.
func (x *exchange) whole() bool {
	if x.pushed == nil {
		return x.progress.wrote
	}
	wait := time.NewTimer(pushWait)
	defer wait.Stop()
	select {
	case err := <-x.pushed:
		x.pushed = nil
		return err == nil
	case <-wait.C:
		return false
	}
}

// unwatch is false where the line was cut, or is being cut.
func (x *exchange) unwatch() bool {
	stopped := x.stop == nil || x.stop()
	x.stop = nil
	return stopped
}

// abort closes the line, if there is one.
func (x *exchange) abort() {
	if x.line != nil {
		x.line.abort()
		x.unwatch()
		x.line = nil
	}
}

// release gives the exchange back, with nothing in it of this request. What pushes its body has an end, because its line is
// closed.
func (x *exchange) release() {
	if x.pushed != nil {
		<-x.pushed
	}
	p := x.pool
	x.in.Reset(nil)
	clear(x.out)
	*x = exchange{in: x.in, out: x.out[:0]}
	if cap(x.out) <= 2*maxInline {
		p.exchanges.Put(x)
	}
}
