package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// talker serves connections request by request: what is said to each is up to say, which gets the number of the connection
// and of the request on it, both from 0, and ends the connection with false.
func talker(t testing.TB, config *tls.Config, say func(c net.Conn, conn, request int, body []byte) bool) string {
	var conns atomic.Int32
	return raw(t, config, func(c net.Conn) {
		conn, in := int(conns.Add(1))-1, bufio.NewReader(c)
		for request := 0; ; request++ {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil || !say(c, conn, request, body) {
				return
			}
		}
	})
}

// Which responses leave a connection that may be used again, over plain TCP and over TLS.
func TestReuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		reused bool
	}{
		"a length":                 {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks", true},
		"no body":                  {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		"204":                      {"HTTP/1.1 204 No Content\r\n\r\n", true},
		"hints before":             {"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		"100 Continue, not asked":  {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
		"chunks":                   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nthanks\r\n0\r\n\r\n", true},
		"chunks and a trailer":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nthanks\r\n0\r\nX: y\r\n\r\n", true},
		"a 500":                    {"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", true},
		"Connection: close":        {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false},
		"HTTP/1.0":                 {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		"a length and chunks":      {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false},
		"204 with a length":        {"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n", false},
		"more than the length":     {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks, and more", false},
		"another response after":   {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		"more, behind a long body": {"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + strings.Repeat("x", 9000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		"more after the trailer":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				p := w.talker(t, secure, func(to net.Conn, conn, request int, body []byte) bool {
					if conn == 0 && request == 0 {
						return said(to, c.answer)
					}
					return said(to, fmt.Sprintf("HTTP/1.1 299 Second\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
				})
				if r := w.post(t, p.to, p.url); r.err != nil {
					t.Fatal(r.err)
				}
				if r := w.post(t, p.to, p.url); r.err != nil || r.status != 299 || r.body != secretBody || r.facts.Reused != c.reused {
					t.Errorf("got status %d, %q, %v, reused %v", r.status, r.body, r.err, r.facts.Reused)
				}
			})
		}
	}
}

func said(c net.Conn, text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

// peer is where a talker is, and the trust for it.
type peer struct {
	to  *Prepared
	url string
}

func (w *world) talker(t testing.TB, secure bool, say func(c net.Conn, conn, request int, body []byte) bool) peer {
	if secure {
		return peer{w.trust(t, Required), "https://partner.test:" + port(talker(t, w.asking(tls.RequireAndVerifyClientCert), say)) + "/"}
	}
	return peer{plain(t), "http://" + talker(t, nil, say) + "/"}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// What a server does with a kept connection between two requests is seen before the second is written: it costs no attempt,
// and what it said unasked is not taken for the answer.
func TestKeptConnections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		between func(net.Conn)
		reused  bool
	}{
		"nothing":    {func(net.Conn) {}, true},
		"ended":      {func(c net.Conn) { c.Close() }, false},
		"half ended": {func(c net.Conn) { c.(interface{ CloseWrite() error }).CloseWrite() }, false},
		"spoke":      {func(c net.Conn) { said(c, fine) }, false},
		"reset": {func(c net.Conn) {
			if secure, ok := c.(*tls.Conn); ok {
				c = secure.NetConn()
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}, false},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				first := make(chan net.Conn, 1)
				p := w.talker(t, secure, func(to net.Conn, conn, request int, _ []byte) bool {
					if conn == 0 && request == 0 {
						defer func() { first <- to }()
						return said(to, fine)
					}
					return said(to, "HTTP/1.1 299 Second\r\nContent-Length: 0\r\n\r\n")
				})
				w.post(t, p.to, p.url).ok(t)
				c.between(<-first) // on loopback it has arrived when the call returns
				if r := w.post(t, p.to, p.url); r.err != nil || r.status != 299 || r.facts.Reused != c.reused {
					t.Errorf("got status %d, %v, reused %v", r.status, r.err, r.facts.Reused)
				}
			})
		}
	}
}

// The shelf closes what was ended by its server, or has lain too long, without being asked.
func TestShelfLooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.IdleConnTimeout = 50 * time.Millisecond })
	gone := make(chan struct{})
	address := raw(t, nil, func(c net.Conn) {
		defer close(gone)
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil && said(c, fine) {
			_, _ = io.Copy(io.Discard, c) // until the other side closes
		}
	})
	w.post(t, plain(t), "http://"+address).ok(t)
	<-gone
	w.pool.shelf.mu.Lock()
	defer w.pool.shelf.mu.Unlock()
	if w.pool.shelf.count != 0 {
		t.Errorf("%d are kept", w.pool.shelf.count)
	}

	longer := newWorld(t)
	ended := make(chan net.Conn, 1)
	p := longer.talker(t, false, func(to net.Conn, _, _ int, _ []byte) bool {
		defer func() { ended <- to }()
		return said(to, fine)
	})
	longer.post(t, p.to, p.url).ok(t)
	shelf := &longer.pool.shelf
	if shelf.look(); shelf.count != 1 {
		t.Errorf("%d are kept while one is alive", shelf.count)
	}
	(<-ended).Close()
	if shelf.look(); shelf.count != 0 || shelf.order.next != &shelf.order || len(shelf.places) != 0 {
		t.Errorf("%d are kept when it has ended", shelf.count)
	}
}

// Idle connections are bounded for each place and over all of them; the one that is idle for longest goes first.
func TestShelfBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.IdlePerHost, o.Idle = 2, 3 })
	var open, arrived atomic.Int32
	all := make(chan struct{})
	var once sync.Once
	serve := func() string {
		return raw(t, nil, func(c net.Conn) {
			open.Add(1)
			defer open.Add(-1)
			in := bufio.NewReader(c)
			for {
				req, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				if arrived.Add(1) == 4 {
					once.Do(func() { close(all) })
				}
				<-all
				if !said(c, fine) {
					return
				}
			}
		})
	}
	busy, others := "http://"+serve(), []string{"http://" + serve(), "http://" + serve()}
	to := plain(t)
	var posts sync.WaitGroup
	for range 4 {
		posts.Go(func() { w.post(t, to, busy).ok(t) })
	}
	posts.Wait()
	shelf := &w.pool.shelf
	if shelf.count != 2 {
		t.Errorf("%d of one place are kept", shelf.count)
	}
	oldest := shelf.order.next
	for _, url := range others {
		w.post(t, to, url).ok(t)
	}
	if shelf.count != 3 {
		t.Errorf("%d are kept in all", shelf.count)
	}
	for l := shelf.order.next; l != &shelf.order; l = l.next {
		if l == oldest {
			t.Error("the oldest is still kept")
		}
	}
	w.post(t, to, others[0]).ok(t)
	if r := w.post(t, to, busy); !r.facts.Reused || shelf.count != 3 || shelf.order.previous.place.address != strings.TrimPrefix(busy, "http://") {
		t.Errorf("reused %v, %d are kept", r.facts.Reused, shelf.count)
	}
}

// What net/http keeps is bounded over all trusts, too.
func TestTransportBounds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Idle = 3 })
	config := w.asking(tls.NoClientCert)
	config.NextProtos = []string{"h2", "http/1.1"}
	in := newInbox(t, config)
	for i := range 6 {
		to := w.trust(t, None, func(t *Trust) {
			t.HTTP2, t.Roots = true, append(t.Roots, slices.Repeat(t.Roots, i)...) // a trust of its own
		})
		for range 2 {
			w.post(t, to, "https://partner.test:"+port(in.address)).ok(t)
		}
	}
	if n := w.pool.open.Load(); n > 3 || len(in.conns) != 6 {
		t.Errorf("%d of %d connections are open", n, len(in.conns))
	}
}

// Whichever way it goes, reading a response's body has a time of its own.
func TestBodyTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "begun")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	}), w.asking(tls.NoClientCert))
	target, err := url.Parse("https://partner.test:" + port(address))
	if err != nil {
		t.Fatal(err)
	}
	for _, http2 := range []bool{false, true} {
		to := w.trust(t, None, func(t *Trust) { t.HTTP2 = http2 })
		at, err := NewTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		resp, _, err := w.pool.Post(t.Context(), &Post{Target: at, Body: []byte("x"), BodyTime: 100 * time.Millisecond}, to)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "begun" || Classify(err) != Timeout {
			t.Errorf("HTTP/2 %v: %q, %v", http2, body, err)
		}
	}
}

// What is in use when its trust is retired does not come back.
func TestRetiredInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	to := plain(t)
	p := w.talker(t, false, func(c net.Conn, _, _ int, _ []byte) bool {
		w.pool.Retire(to)
		return said(c, fine)
	})
	for range 2 {
		if r := w.post(t, to, p.url); r.err != nil || r.facts.Reused {
			t.Errorf("%v, reused %v", r.err, r.facts.Reused)
		}
	}
	if n := w.pool.shelf.count; n != 0 {
		t.Errorf("%d are kept", n)
	}
}

// A body that does not fit into the kernel's buffers goes out while the response is awaited: one that comes early is heard,
// a server that reads nothing is left in time, and nothing of it is left behind.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	const size = 16 << 20
	large := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	with := func(r *http.Request) {
		r.ContentLength = size
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(large)), nil }
	}
	for name, c := range map[string]struct {
		talk   func(*testing.T, net.Conn)
		reason Reason
		status int
	}{
		"refused, kept open": {func(t *testing.T, c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			said(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			<-t.Context().Done()
		}, "", 413},
		"refused, and no more is read": {func(_ *testing.T, c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			said(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.CopyN(io.Discard, c, size/2)
		}, "", 413},
		"nothing is read": {func(t *testing.T, _ net.Conn) { <-t.Context().Done() }, Timeout, 0},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(o *Options) { o.AttemptTimeout = time.Second })
				to, url := plain(t), ""
				talk := func(conn net.Conn) { c.talk(t, conn) }
				if secure {
					to, url = w.trust(t, Required), "https://partner.test:"+port(raw(t, w.asking(tls.RequireAndVerifyClientCert), talk))
				} else {
					url = "http://" + raw(t, nil, talk)
				}
				r := w.post(t, to, url, with)
				if r.reason != c.reason || r.status != c.status || !r.facts.BodyStarted {
					t.Errorf("got %s (%v), status %d, facts %+v", r.reason, r.err, r.status, r.facts)
				}
			})
		}
	}
	t.Run("taken", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		for _, secure := range []bool{false, true} {
			p := w.talker(t, secure, func(c net.Conn, _, _ int, body []byte) bool {
				return said(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nRetry-After: x\r\n\r\n%-6v", bytes.Equal(body, large)))
			})
			for i := range 3 {
				r := w.post(t, p.to, p.url, with)
				if r.err != nil || r.body != "true  " || r.facts.Reused != (i > 0) {
					t.Errorf("%q, %v, reused %v", r.body, r.err, r.facts.Reused)
				}
			}
		}
	})
	t.Run("held back", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		config := w.asking(tls.RequireAndVerifyClientCert)
		config.SessionTicketsDisabled = true
		address := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Header.Get("Expect") != "100-continue" || !bytes.Equal(body, large) {
				rw.WriteHeader(http.StatusBadRequest)
			}
		}), config)
		w.post(t, w.trust(t, Required), "https://partner.test:"+port(address), with).ok(t)
	})
}

// What a server says instead of "100 Continue" is heard; what it says after it, before it breaks off, too. A connection on which
// it may still wait for the body serves no other request.
func TestAnswersWhileHeld(t *testing.T) {
	t.Parallel()
	for name, talk := range map[string]func(net.Conn){
		"kept": func(c net.Conn) {
			if said(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") {
				_, _ = io.Copy(io.Discard, c)
			}
		},
		"broken off": func(c net.Conn) {
			said(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			tcp := c.(*tls.Conn).NetConn().(*net.TCPConn)
			_ = tcp.SetLinger(0)
			tcp.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.TicketWait = time.Millisecond })
			config := w.asking(tls.RequireAnyClientCert)
			config.SessionTicketsDisabled = true
			address := raw(t, config, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					talk(c)
				}
			})
			for range 20 {
				r := w.post(t, w.trust(t, Required), "https://partner.test:"+port(address))
				if r.err != nil || r.status != 403 || r.facts.Reused {
					t.Fatalf("status %d, %v, reused %v", r.status, r.err, r.facts.Reused)
				}
			}
		})
	}
}

// Fields of the connection and of the framing are ours, however they are spelled.
func TestFramingIsOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := make(chan string, 1)
	address := raw(t, nil, func(c net.Conn) {
		b := make([]byte, 4<<10)
		n, _ := io.ReadAtLeast(c, b, 1)
		got <- string(b[:n])
		said(c, fine)
	})
	w.post(t, plain(t), "http://"+address+"/a%20b?c=d", func(r *http.Request) {
		for _, name := range []string{"content-length", "TRANSFER-ENCODING", "Host", "cOnnection", "keep-alive", "te", "Upgrade", "trailer", "expect", "Proxy-Connection"} {
			r.Header[name] = []string{"chunked"}
		}
		r.Header["X-One"] = []string{"1", "2"}
	}).ok(t)
	text := <-got
	if !strings.HasPrefix(text, "POST /a%20b?c=d HTTP/1.1\r\nHost: "+address+"\r\nContent-Length: "+strconv.Itoa(len(secretBody))+"\r\n") ||
		strings.Contains(text, "chunked") || !strings.HasSuffix(text, "X-One: 1\r\nX-One: 2\r\n\r\n"+secretBody) {
		t.Errorf("sent %q", text)
	}
	for name, change := range map[string]func(*http.Request){
		"name":  func(r *http.Request) { r.Header["X:"] = []string{"y"} },
		"query": func(r *http.Request) { r.URL.RawQuery = "a HTTP/1.1\r\nX: y" },
	} {
		if r := w.post(t, plain(t), "http://"+address, change); r.reason != TransportOther || !errors.Is(r.err, ErrRequest) {
			t.Errorf("%s: %s %v", name, r.reason, r.err)
		}
	}
}

// A response that was closed is gone: its reader cannot reach into the next one's.
func TestClosedBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.talker(t, false, func(c net.Conn, _, _ int, _ []byte) bool {
		return said(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks")
	})
	req := func() *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, _, err := w.pool.RoundTrip(req(), p.to)
	if err != nil {
		t.Fatal(err)
	}
	first.Body.Close()
	first.Body.Close()
	second, facts, err := w.pool.RoundTrip(req(), p.to)
	if err != nil || facts.Reused {
		t.Fatalf("%v, reused %v", err, facts.Reused)
	}
	defer second.Body.Close()
	if n, err := first.Body.Read(make([]byte, 6)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
	if b, err := io.ReadAll(second.Body); string(b) != "thanks" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// Whatever goes wrong on some, each request gets its own response: a thousand on the connections of a few, ended, cancelled and
// closed at every point.
func TestNoResponseIsAnothers(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.IdlePerHost = 4 })
			p := w.talker(t, secure, func(c net.Conn, _, _ int, body []byte) bool {
				switch rand.N(8) {
				case 0:
					return false
				case 1:
					return said(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+string(body)) && false
				case 2:
					return said(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body))
				case 3:
					return said(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, fine))
				}
				return said(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			})
			var next atomic.Int64
			var answered atomic.Int64
			var workers sync.WaitGroup
			for range 8 {
				workers.Go(func() {
					for n := next.Add(1); n <= 1000; n = next.Add(1) {
						if w.exchange(t, p, fmt.Sprintf("request %d", n)) {
							answered.Add(1)
						}
					}
				})
			}
			workers.Wait()
			if answered.Load() < 300 {
				t.Errorf("%d of 1000 were answered", answered.Load())
			}
		})
	}
}

func (w *world) exchange(t *testing.T, p peer, text string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if rand.N(10) == 0 {
		go cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(text))
	if err != nil {
		t.Error(err)
		return false
	}
	resp, _, err := w.pool.RoundTrip(req, p.to)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if rand.N(10) == 0 {
		return true
	}
	body, err := io.ReadAll(resp.Body)
	if !strings.HasPrefix(text, string(body)) || err == nil && string(body) != text {
		t.Errorf("%q was answered %q, %v", text, body, err)
	}
	return true
}
