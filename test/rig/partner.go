package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Receipt is one request that a partner got.
type Receipt struct {
	N      int // from 1, of this partner
	At     time.Time
	Method string
	Path   string
	Header http.Header
	Body   []byte
	TLS    *tls.ConnectionState
}

// ID is the request's webhook-id.
func (r *Receipt) ID() string { return r.Header.Get("Webhook-Id") }

// Reply is what a partner answers; the zero value is 200 without a body.
type Reply struct {
	Status int
	Header map[string]string
	Body   string
}

// Partner is a receiver that keeps what it got and answers by a script.
type Partner struct {
	URL    string // with a path
	server *httptest.Server

	mu       sync.Mutex
	receipts []Receipt
	answer   func(Receipt) Reply
	wake     chan struct{}     // closed and replaced with each receipt
	files    map[string]string // what it hands out to GET, by path
}

// NewPartner serves plain HTTP where conf is nil. answer may be nil: everything is accepted.
func NewPartner(tb testing.TB, conf *tls.Config, answer func(Receipt) Reply) *Partner {
	tb.Helper()
	p := &Partner{answer: answer, wake: make(chan struct{})}
	p.server = httptest.NewUnstartedServer(p)
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if conf == nil {
		p.server.Start()
	} else {
		p.server.TLS = conf
		p.server.StartTLS()
	}
	p.URL = p.server.URL + "/hook"
	tb.Cleanup(func() { p.server.CloseClientConnections(); p.server.Close() })
	return p
}

// Serve serves a handler of the test's own over plain HTTP and returns its URL.
func Serve(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// Answer changes what is answered from now on.
func (p *Partner) Answer(answer func(Receipt) Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// HandOut has a file handed out, which is no receipt; an empty text takes it away.
func (p *Partner) HandOut(path, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.files == nil {
		p.files = map[string]string{}
	}
	p.files[path] = text
}

// Prove has the endpoint's host proven as the partner's, by a file; the endpoint must be the partner's.
func (c *Client) Prove(e Endpoint, p *Partner) Object {
	c.tb.Helper()
	asked := c.OK("POST", "/v1/endpoints/"+e.ID+":verify", Object{"tenant": e.Tenant, "instructionsOnly": true}).O("challenge")
	at, err := url.Parse(asked.S("fileUrl"))
	if err != nil {
		c.tb.Fatal(err)
	}
	p.HandOut(at.Path, asked.S("fileContent"))
	v := c.MustAct(e, "verify")
	if proven, _ := v["proven"].(bool); !proven {
		c.tb.Fatalf("not proven: %v", v)
	}
	return v
}

func (p *Partner) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/.well-known/") {
		p.mu.Lock()
		text := p.files[req.URL.Path]
		p.mu.Unlock()
		if text == "" {
			http.NotFound(w, req)
			return
		}
		io.WriteString(w, text)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // it was never whole
	}
	p.mu.Lock()
	r := Receipt{N: len(p.receipts) + 1, At: time.Now(), Method: req.Method, Path: req.URL.RequestURI(), Header: req.Header.Clone(), Body: body, TLS: req.TLS}
	r.Header.Set("Host", req.Host)
	p.receipts = append(p.receipts, r)
	close(p.wake)
	p.wake = make(chan struct{})
	answer := p.answer
	p.mu.Unlock()
	var reply Reply
	if answer != nil {
		reply = answer(r)
	}
	for name, value := range reply.Header {
		w.Header().Set(name, value)
	}
	if reply.Status != 0 {
		w.WriteHeader(reply.Status)
	}
	io.WriteString(w, reply.Body)
}

// Receipts are all so far.
func (p *Partner) Receipts() []Receipt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Receipt(nil), p.receipts...)
}

// Await waits for n receipts and returns all there are then.
func (p *Partner) Await(tb testing.TB, n int) []Receipt {
	tb.Helper()
	late := time.After(Within)
	for {
		p.mu.Lock()
		got, wake := append([]Receipt(nil), p.receipts...), p.wake
		p.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-wake:
		case <-late:
			tb.Fatalf("the partner got %d requests within %v, not %d", len(got), Within, n)
		}
	}
}

// Count is how many receipts there are.
func (p *Partner) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.receipts)
}

// Unavailable answers 503 to the first n requests.
func Unavailable(n int) func(Receipt) Reply {
	return func(r Receipt) Reply {
		if r.N <= n {
			return Reply{Status: http.StatusServiceUnavailable}
		}
		return Reply{}
	}
}

// Status answers all with one status.
func Status(code int) func(Receipt) Reply {
	return func(Receipt) Reply { return Reply{Status: code} }
}

// Raw is a TLS server that never answers: it shakes hands, reads, and keeps what it could decrypt.
type Raw struct {
	URL string

	mu         sync.Mutex
	bytes      bytes.Buffer
	handshakes int
}

// NewRaw starts a Raw with conf.
func NewRaw(tb testing.TB, conf *tls.Config) *Raw {
	tb.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		tb.Fatal(err)
	}
	r := &Raw{URL: "https://" + l.Addr().String() + "/hook"}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(func() { cancel(); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			go r.take(conn.(*tls.Conn))
		}
	}()
	return r
}

func (r *Raw) take(conn *tls.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	err := conn.Handshake()
	r.mu.Lock()
	if err == nil {
		r.handshakes++
	}
	r.mu.Unlock()
	for buf := make([]byte, 4096); err == nil; {
		var n int
		n, err = conn.Read(buf)
		r.mu.Lock()
		r.bytes.Write(buf[:n])
		r.mu.Unlock()
	}
}

// Got is how many handshakes were completed, and what was sent after them.
func (r *Raw) Got() (handshakes int, sent string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.handshakes, r.bytes.String()
}

// Localhost is a partner's URL with the name localhost for the address.
func Localhost(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }

func (r Receipt) String() string {
	return fmt.Sprintf("#%d %s %s, %d bytes", r.N, r.Method, r.Path, len(r.Body))
}
