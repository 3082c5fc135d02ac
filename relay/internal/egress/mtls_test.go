package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/internal/pki"
)

// taken is all that a raw receiver read.
type taken struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (k *taken) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.buf.Write(p)
}

func (k *taken) noBody(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if strings.Contains(k.buf.String(), "body that") {
		t.Errorf("the body left: %q", k.buf.String())
	}
}

func TestRequiredAndAccepted(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, tickets := range []bool{true, false} {
			w := newWorld(t)
			config := w.asking(tls.RequireAndVerifyClientCert)
			config.MaxVersion, config.SessionTicketsDisabled = version, !tickets
			in := newInbox(t, config)
			to := w.trust(t, Required, func(t *Trust) { t.MinVersion = tls.VersionTLS12 })
			url := "https://partner.test:" + port(in.address) + "/hook"
			r := w.post(t, to, url)
			r.ok(t)
			leaf, own := pki.Fingerprint(w.server.Leaf), pki.Fingerprint(w.client.Leaf)
			f := r.facts
			if f.Reused || f.TLSVersion != tls.VersionName(version) || f.ServerCertificateSHA256 != leaf || f.ClientCertificateSHA256 != own ||
				f.RemoteAddress.String() != in.address || f.TLS <= 0 || f.Connect <= 0 || f.FirstByte <= 0 || !f.BodyStarted {
				t.Errorf("facts %+v", f)
			}
			r = w.post(t, to, url)
			r.ok(t)
			if !r.facts.Reused || r.facts.TLS != 0 || r.facts.ServerCertificateSHA256 != leaf {
				t.Errorf("second: facts %+v", r.facts)
			}
			if in.received() != 2 || in.bodies[0] != secretBody || in.bodies[1] != secretBody {
				t.Errorf("received %q", in.bodies)
			}
		}
	}
}

// A host that sent no ticket is waited for once: its next connections are for 100 Continue from the start, and a
// connection whose server said so once needs it no more.
func TestRequiredRemembersHostsWithoutTickets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.asking(tls.RequireAndVerifyClientCert)
	config.SessionTicketsDisabled = true
	var expected, connections atomic.Int32
	config.VerifyConnection = func(tls.ConnectionState) error { connections.Add(1); return nil }
	address := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Expect") != "" {
			expected.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}), config)
	to := w.trust(t, Required)
	url := "https://partner.test:" + port(address)
	for i, want := range []struct{ connections, expected int32 }{{2, 1}, {2, 1}, {3, 2}} {
		if i == 2 {
			w.pool.keep(to).closeIdle()
		}
		w.post(t, to, url).ok(t)
		if got := connections.Load(); got != want.connections || expected.Load() != want.expected {
			t.Errorf("post %d: %d connections, %d times 100 Continue; want %+v", i, got, expected.Load(), want)
		}
	}
}

func TestRequiredButNotAsked(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w := newWorld(t)
		var k taken
		config := w.asking(tls.NoClientCert)
		config.MaxVersion = version
		address := raw(t, config, func(c net.Conn) { _, _ = io.Copy(&k, c) })
		to := w.trust(t, Required, func(t *Trust) { t.MinVersion = tls.VersionTLS12 })
		r := w.post(t, to, "https://partner.test:"+port(address))
		r.want(t, ClientCertificateNotRequested, ErrClientCertificateNotRequested)
		k.mu.Lock()
		if k.buf.Len() != 0 || r.facts.BodyStarted {
			t.Errorf("sent %q", k.buf.String())
		}
		k.mu.Unlock()
		if r.facts.TLSVersion == "" || r.facts.ServerCertificateSHA256 == "" {
			t.Errorf("facts %+v", r.facts)
		}
	}
}

func TestRequiredAndRefused(t *testing.T) {
	t.Parallel()
	foreign := newWorld(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, change := range map[string]func(*tls.Config){
			"by the application": func(c *tls.Config) {
				c.ClientAuth = tls.RequireAnyClientCert
				c.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("not you") }
			},
			"unknown authority": func(c *tls.Config) { c.ClientCAs = foreign.ca.Roots() },
			"without tickets":   func(c *tls.Config) { c.ClientCAs, c.SessionTicketsDisabled = foreign.ca.Roots(), true },
		} {
			w := newWorld(t)
			config := w.asking(tls.RequireAndVerifyClientCert)
			config.MaxVersion = version
			change(config)
			in := newInbox(t, config)
			to := w.trust(t, Required, func(t *Trust) { t.MinVersion = tls.VersionTLS12 })
			for range 3 {
				r := w.post(t, to, "https://partner.test:"+port(in.address))
				if r.want(t, ClientCertificateRefused, ErrClientCertificateRefused); t.Failed() {
					t.Fatalf("%s, %s", tls.VersionName(version), name)
				}
				if r.facts.BodyStarted || r.facts.ClientCertificateSHA256 == "" {
					t.Errorf("facts %+v", r.facts)
				}
			}
			if in.received() != 0 {
				t.Errorf("%s: received %q", name, in.bodies)
			}
		}
	}
}

// Servers that ask for our certificate and then neither send a ticket nor answer as RFC 9110 says.
func TestRequiredAndUnconfirmed(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, text)
			}
		}
	}
	for name, c := range map[string]struct {
		talk   func(net.Conn)
		reason Reason
		status int
	}{
		"silent":                  {func(net.Conn) {}, ClientCertificateUnconfirmed, 0},
		"success without 100":     {answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), ClientCertificateUnconfirmed, 0},
		"success, kept":           {answer("HTTP/1.1 204 No Content\r\n\r\n"), ClientCertificateUnconfirmed, 0},
		"unknown expectation":     {answer("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"), ClientCertificateUnconfirmed, 0},
		"forbidden, kept":         {answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), "", 403},
		"forbidden, no body":      {answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), "", 403},
		"forbidden, closed":       {answer("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"), "", 403},
		"early hints, then never": {answer("HTTP/1.1 103 Early Hints\r\n\r\n"), ClientCertificateUnconfirmed, 0},
		"speaks first":            {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n") }, ClientCertificateUnconfirmed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.ContinueWait = time.Second })
			config := w.asking(tls.RequireAnyClientCert)
			config.SessionTicketsDisabled = true
			var k taken
			address := raw(t, config, func(conn net.Conn) {
				both := struct {
					io.Reader
					net.Conn
				}{io.TeeReader(conn, &k), conn}
				c.talk(readFrom{both.Conn, both.Reader})
				_, _ = io.Copy(&k, conn) // whatever else comes, until the client goes
			})
			r := w.post(t, w.trust(t, Required), "https://partner.test:"+port(address))
			if r.reason != c.reason || r.status != c.status {
				t.Errorf("got %s (%v), status %d", r.reason, r.err, r.status)
			}
			if r.facts.BodyStarted {
				t.Error("the body was started")
			}
			w.pool.Close()
			k.noBody(t)
		})
	}
}

type readFrom struct {
	net.Conn
	r io.Reader
}

func (c readFrom) Read(p []byte) (int, error) { return c.r.Read(p) }

// The attempt's own end comes before patience does: the body stays here then too.
func TestRequiredUnconfirmedUntilTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.AttemptTimeout, o.ContinueWait = 2*time.Second, time.Minute })
	config := w.asking(tls.RequireAnyClientCert)
	config.SessionTicketsDisabled = true
	var k taken
	address := raw(t, config, func(c net.Conn) { _, _ = io.Copy(&k, c) })
	r := w.post(t, w.trust(t, Required), "https://partner.test:"+port(address))
	r.want(t, ClientCertificateUnconfirmed, nil)
	k.noBody(t)
}

func TestOfferedAndNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asks := newInbox(t, w.asking(tls.VerifyClientCertIfGiven))
	demands := newInbox(t, w.asking(tls.RequireAndVerifyClientCert))
	silent := newInbox(t, w.asking(tls.NoClientCert))
	for _, c := range []struct {
		mode      Mode
		in        *inbox
		presented bool
		reason    Reason
	}{
		{None, asks, false, ""},
		{None, demands, false, ClientCertificateRefused},
		{None, silent, false, ""},
		{Offered, asks, true, ""},
		{Offered, demands, true, ""},
		{Offered, silent, false, ""},
	} {
		r := w.post(t, w.trust(t, c.mode), "https://partner.test:"+port(c.in.address))
		// A server that refuses closes at once, and the reset may overtake its alert.
		if r.reason != c.reason && !(c.reason == ClientCertificateRefused && (r.reason == ConnectionReset || r.reason == ConnectionClosed)) {
			t.Errorf("mode %d: %s (%v)", c.mode, r.reason, r.err)
		}
		if (r.facts.ClientCertificateSHA256 != "") != c.presented {
			t.Errorf("mode %d: facts %+v", c.mode, r.facts)
		}
	}
	if demands.received() != 1 {
		t.Errorf("received %d", demands.received())
	}
}

// No session is resumed, or a server's question for our certificate would not be seen.
func TestNoResumption(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	resumed, handshakes := 0, 0
	config := w.asking(tls.RequireAndVerifyClientCert)
	config.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		handshakes++
		if s.DidResume {
			resumed++
		}
		return nil
	}
	in := newInbox(t, config)
	for _, mode := range []Mode{Offered, Required} {
		to := w.trust(t, mode)
		for range 3 {
			w.post(t, to, "https://partner.test:"+port(in.address)).ok(t)
			w.pool.Retire(to)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if resumed != 0 || handshakes != 6 {
		t.Errorf("%d of %d resumed", resumed, handshakes)
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	var protos []string
	address := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		protos = append(protos, r.Proto)
	}), w.asking(tls.RequestClientCert))
	for _, c := range []struct {
		mode  Mode
		http2 bool
		want  string
	}{{Offered, true, "HTTP/2.0"}, {Offered, false, "HTTP/1.1"}, {Required, true, "HTTP/1.1"}} {
		r := w.post(t, w.trust(t, c.mode, func(t *Trust) { t.HTTP2 = c.http2 }), "https://partner.test:"+port(address))
		r.ok(t)
		mu.Lock()
		if got := protos[len(protos)-1]; got != c.want || r.facts.TLSVersion != "TLS 1.3" {
			t.Errorf("mode %d: %s, facts %+v", c.mode, got, r.facts)
		}
		mu.Unlock()
	}
}
