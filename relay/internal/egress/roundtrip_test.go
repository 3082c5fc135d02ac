package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/internal/pki"
)

// Each spelling of an address inside is refused, and none reaches the resolver as a name it might take for an address.
func TestLiterals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Guard = Guard{} })
	w.names.answers["localhost"] = [][]netip.Addr{addrs("127.0.0.1")}
	w.names.answers["inside.partner.test"] = [][]netip.Addr{addrs("::ffff:10.0.0.1")}
	for _, c := range []struct {
		host  string
		class Class
	}{
		{"127.0.0.1", ClassLoopback}, {"0.0.0.0", ClassUnspecified}, {"10.1.2.3", ClassPrivate},
		{"169.254.169.254", ClassMetadata}, {"[fd00:ec2::254]", ClassMetadata}, {"100.64.0.1", ClassShared},
		{"[::1]", ClassLoopback}, {"[::]", ClassUnspecified}, {"[::ffff:127.0.0.1]", ClassLoopback}, {"[::ffff:7f00:1]", ClassLoopback},
		{"[::127.0.0.1]", ClassIPv4Compatible}, {"[64:ff9b::7f00:1]", ClassNAT64}, {"[64:ff9b:1::a00:1]", ClassNAT64},
		{"[2002:7f00:1::1]", Class6to4}, {"[2001:0:1::1]", ClassTeredo}, {"[fe80::1]", ClassLinkLocal}, {"[fe80::1%25lo]", ClassZone},
		{"[::1%25lo]", ClassZone}, {"[fec0::1]", ClassSiteLocal}, {"[fc00::1]", ClassUniqueLocal},
		{"0177.0.0.1", ClassInvalid}, {"127.1", ClassInvalid}, {"2130706433", ClassInvalid}, {"0x7f000001", ClassInvalid},
		{"0x7f.0.0.1", ClassInvalid}, {"127.0.0.01", ClassInvalid}, {"127.0.0.1.", ClassInvalid}, {"017700000001", ClassInvalid},
		{"0X7F.1", ClassInvalid}, {"127.0.0.0x1", ClassInvalid},
		{"１２７.0.0.1", ClassLoopback}, {"127。0。0。1", ClassLoopback},
		{"localhost", ClassLoopback}, {"inside.partner.test", ClassPrivate},
	} {
		r := w.post(t, w.trust(t, None), "https://"+c.host+"/")
		r.want(t, AddressForbidden, ErrForbiddenAddress)
		var forbidden *ForbiddenError
		if !errors.As(r.err, &forbidden) || forbidden.Class != c.class {
			t.Errorf("%s: %v, want %s", c.host, r.err, c.class)
		}
		if r.facts.RemoteAddress.IsValid() {
			t.Errorf("%s: dialled %s", c.host, r.facts.RemoteAddress)
		}
	}
	if w.names.asked != 2 {
		t.Errorf("%d look-ups", w.names.asked)
	}
}

// One forbidden answer refuses all, wherever it stands; the port that the public one would lead to sees nobody.
func TestEveryAnswerIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.NoClientCert))
	many := addrs(strings.Split(strings.Repeat("127.0.0.1 ", 20)+"10.0.0.1", " ")...)
	for name, answers := range map[string][]netip.Addr{
		"first.test": addrs("10.0.0.1", "127.0.0.1"), "last.test": addrs("127.0.0.1", "192.168.0.1"),
		"six.test": addrs("127.0.0.1", "fe80::1"), "many.test": many,
	} {
		w.names.answers[name] = [][]netip.Addr{answers}
		r := w.post(t, w.trust(t, None), "https://"+name+":"+port(in.address))
		r.want(t, AddressForbidden, ErrForbiddenAddress)
	}
	if in.received() != 0 || len(in.conns) != 0 {
		t.Error("the receiver was reached")
	}
}

// The address that was checked is the one that is dialled: a name whose second answer leads inside is asked once.
func TestRebinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.NoClientCert))
	w.names.answers["partner.test"] = [][]netip.Addr{addrs("127.0.0.1"), addrs("10.0.0.1")}
	to, url := w.trust(t, None), "https://partner.test:"+port(in.address)
	w.post(t, to, url).ok(t)
	if w.names.asked != 1 {
		t.Errorf("%d look-ups", w.names.asked)
	}
	w.pool.Retire(to)
	w.post(t, to, url).want(t, AddressForbidden, ErrForbiddenAddress)
}

// An address that takes no connection is followed by the next.
func TestNextAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.NoClientCert))
	w.names.answers["partner.test"] = [][]netip.Addr{addrs("127.0.0.77", "127.0.0.1")}
	r := w.post(t, w.trust(t, None), "https://partner.test:"+port(in.address))
	r.ok(t)
	if r.facts.RemoteAddress.String() != in.address {
		t.Errorf("facts %+v", r.facts)
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Guard.Ports = []uint16{443} })
	in := newInbox(t, w.asking(tls.NoClientCert))
	w.post(t, w.trust(t, None), "https://partner.test:"+port(in.address)).want(t, AddressForbidden, ErrForbiddenAddress)
}

func TestReasons(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, text)
			}
		}
	}
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	reset := func(c net.Conn) {
		var one [1]byte
		_, _ = c.Read(one[:])
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
	}
	closedPort := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	for name, c := range map[string]struct {
		talk   func(net.Conn)
		reason Reason
	}{
		"reset": {reset, ConnectionReset},
		"closed": {func(c net.Conn) {
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
			}
		}, ConnectionClosed},
		"garbage":           {answer("SSH-2.0-hello there\r\n\r\n"), ResponseInvalid},
		"bad status":        {answer("HTTP/1.1 abc\r\n\r\n"), ResponseInvalid},
		"bad header":        {answer("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"), ResponseInvalid},
		"large header":      {answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 70<<10) + "\r\n\r\n"), ResponseInvalid},
		"endless 1xx":       {answer(strings.Repeat("HTTP/1.1 102 Processing\r\nX: yyyyyyyyyyyyyyyyyyyy\r\n\r\n", 3000)), ResponseInvalid},
		"two lengths":       {answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), ResponseInvalid},
		"cut header":        {answer("HTTP/1.1 200 OK\r\nX: y"), ConnectionClosed},
		"cut body":          {answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), ConnectionClosed},
		"bad chunk":         {answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"), ResponseInvalid},
		"no header in time": {hang, ResponseTimeout},
		"no body in time": {func(c net.Conn) {
			answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")(c)
			hang(c)
		}, Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.AttemptTimeout = 2 * time.Second })
			r := w.post(t, plain(t), "http://"+raw(t, nil, c.talk))
			r.want(t, c.reason, nil)
			if !r.facts.RemoteAddress.IsValid() || r.facts.TLSVersion != "" {
				t.Errorf("facts %+v", r.facts)
			}
		})
	}
	for name, c := range map[string]struct {
		to       func(*testing.T, *world) *Prepared
		url      func(*testing.T, *world) string
		reason   Reason
		sentinel error
	}{
		"refused":      {nil, func(*testing.T, *world) string { return "https://" + closedPort }, ConnectRefused, nil},
		"no such name": {nil, func(*testing.T, *world) string { return "https://nowhere.test" }, DNSNotFound, nil},
		"no answer": {nil, func(_ *testing.T, w *world) string {
			w.names.err = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
			return "https://partner.test"
		}, DNSFailure, nil},
		"empty answer": {nil, func(_ *testing.T, w *world) string {
			w.names.answers["empty.test"] = [][]netip.Addr{nil}
			return "https://empty.test"
		}, DNSNotFound, nil},
		"handshake hangs":   {nil, func(t *testing.T, _ *world) string { return "https://" + raw(t, nil, hang) }, ConnectTimeout, nil},
		"handshake garbage": {nil, func(t *testing.T, _ *world) string { return "https://" + newInbox(t, nil).address }, TLSHandshake, nil},
		"handshake ends":    {nil, func(t *testing.T, _ *world) string { return "https://" + raw(t, nil, func(net.Conn) {}) }, TLSHandshake, nil},
		"old TLS": {nil, func(t *testing.T, w *world) string {
			config := w.asking(tls.NoClientCert)
			config.MaxVersion = tls.VersionTLS12
			return "https://" + newInbox(t, config).address
		}, TLSHandshake, nil},
		"other host": {nil, func(t *testing.T, w *world) string {
			w.names.answers["other.test"] = [][]netip.Addr{addrs("127.0.0.1")}
			return "https://other.test:" + port(newInbox(t, w.asking(tls.NoClientCert)).address)
		}, TLSHostname, nil},
		"unknown authority": {func(t *testing.T, _ *world) *Prepared { w := newWorld(t); return w.trust(t, None) }, nil, TLSCertificateInvalid, nil},
		"system roots only": {func(t *testing.T, w *world) *Prepared {
			return w.trust(t, None, func(t *Trust) { t.Roots = nil })
		}, nil, TLSCertificateInvalid, nil},
		"pin mismatch": {func(t *testing.T, w *world) *Prepared {
			return w.trust(t, None, func(t *Trust) { t.Pins = [][sha256.Size]byte{{1}} })
		}, nil, TLSPinMismatch, ErrPinMismatch},
		"expired": {nil, func(t *testing.T, w *world) string {
			past, err := pki.Open(t.TempDir(), func() time.Time { return time.Now().Add(-48 * time.Hour) })
			if err != nil {
				t.Fatal(err)
			}
			cert, err := past.IssueServer([]string{"partner.test"}, nil, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			w.ca = past
			return "https://partner.test:" + port(newInbox(t, &tls.Config{Certificates: []tls.Certificate{cert}}).address)
		}, TLSCertificateExpired, nil},
		"plain not allowed": {nil, func(t *testing.T, _ *world) string { return "http://" + newInbox(t, nil).address }, TransportOther, ErrRequest},
		"user in URL":       {nil, func(*testing.T, *world) string { return "https://user:pass@partner.test" }, TransportOther, ErrRequest},
		"other scheme":      {nil, func(*testing.T, *world) string { return "gopher://partner.test" }, TransportOther, ErrRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *Options) { o.ConnectTimeout = 1500 * time.Millisecond })
			url := ""
			if c.url != nil {
				url = c.url(t, w)
			} else {
				url = "https://partner.test:" + port(newInbox(t, w.asking(tls.NoClientCert)).address)
			}
			to := w.trust(t, None)
			if c.to != nil {
				to = c.to(t, w)
			}
			r := w.post(t, to, url)
			r.want(t, c.reason, c.sentinel)
			if r.facts.BodyStarted {
				t.Errorf("facts %+v", r.facts)
			}
		})
	}
}

func TestRequestsThatAreNotMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, change := range map[string]func(*http.Request){
		"unknown length": func(r *http.Request) { r.ContentLength = -1 },
		"body only once": func(r *http.Request) { r.GetBody = nil },
		"body not to be had": func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		},
		"bad header": func(r *http.Request) { r.Header.Set("X", "a\r\nb") },
		"no host":    func(r *http.Request) { r.URL.Host = "" },
	} {
		if r := w.post(t, w.trust(t, None), "https://partner.test", change); r.reason != TransportOther {
			t.Errorf("%s: %s %v", name, r.reason, r.err)
		}
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	arrived := make(chan struct{})
	address := raw(t, nil, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		close(arrived)
		_, _ = io.Copy(io.Discard, c)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(errors.New("contained"))
	}()
	r := w.post(t, plain(t), "http://"+address, func(r *http.Request) { *r = *r.WithContext(ctx) })
	r.want(t, Cancelled, context.Canceled)
}

func TestPins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.NoClientCert))
	for _, pin := range [][sha256.Size]byte{pki.Pin(w.server.Leaf), pki.Pin(w.roots(t)[0])} {
		to := w.trust(t, None, func(t *Trust) { t.Pins = [][sha256.Size]byte{{9}, pin} })
		w.post(t, to, "https://partner.test:"+port(in.address)).ok(t)
	}
	// A pin does not stand in for verification, nor does a certificate that is merely appended to the chain.
	other := newWorld(t)
	appended := w.server
	appended.Certificate = append([][]byte{}, w.server.Certificate...)
	appended.Certificate = append(appended.Certificate, other.server.Certificate[0])
	in = newInbox(t, &tls.Config{Certificates: []tls.Certificate{appended}})
	to := w.trust(t, None, func(t *Trust) { t.Pins = [][sha256.Size]byte{pki.Pin(other.server.Leaf)} })
	w.post(t, to, "https://partner.test:"+port(in.address)).want(t, TLSPinMismatch, ErrPinMismatch)
}

func TestRedirectsAreResponses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target := newInbox(t, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		address := serve(t, http.RedirectHandler("http://"+target.address+"/stolen", status), nil)
		if r := w.post(t, plain(t), "http://"+address); r.status != status || r.err != nil {
			t.Errorf("%d: got %d, %v", status, r.status, r.err)
		}
	}
	if target.received() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestEnvironmentProxyIsIgnored(t *testing.T) {
	var reached atomic.Int32
	proxy := raw(t, nil, func(net.Conn) { reached.Add(1) })
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://"+proxy)
	}
	t.Setenv("NO_PROXY", "")
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.NoClientCert))
	w.post(t, w.trust(t, None), "https://partner.test:"+port(in.address)).ok(t)
	w.post(t, plain(t), "http://partner.test:"+port(newInbox(t, nil).address)).ok(t)
	if reached.Load() != 0 {
		t.Error("the proxy was used")
	}
}

func TestNothingIsDecompressed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	address := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("compression was asked for")
		}
		rw.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(rw, "not gzip at all")
	}), nil)
	if r := w.post(t, plain(t), "http://"+address); r.body != "not gzip at all" || r.err != nil {
		t.Errorf("%q, %v", r.body, r.err)
	}
}

// A receiver that has read a request and hangs up is not sent it again, whatever headers the request has: that is for the
// retry schedule, which counts and records it.
func TestNoSilentReplay(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		for _, header := range []string{"X-Other", "Idempotency-Key", "X-Idempotency-Key"} {
			w := newWorld(t)
			config, to, scheme := (*tls.Config)(nil), plain(t), "http"
			if secure {
				config, to, scheme = w.asking(tls.RequireAndVerifyClientCert), w.trust(t, Required), "https"
			}
			in := newInbox(t, config)
			url := scheme + "://partner.test:" + port(in.address)
			w.post(t, to, url).ok(t) // so that the next one finds a kept connection
			in.cut.Store(true)
			r := w.post(t, to, url, func(r *http.Request) { r.Header.Set(header, "k") })
			if r.reason != ConnectionClosed && r.reason != ConnectionReset {
				t.Errorf("%s: %s (%v)", header, r.reason, r.err)
			}
			if !r.facts.Reused || !r.facts.BodyStarted {
				t.Errorf("%s: facts %+v", header, r.facts)
			}
			if in.received() != 2 {
				t.Errorf("%s: received %d times", header, in.received())
			}
		}
	}
}

func TestIdempotencyHeaderArrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := make(chan string, 1)
	address := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Idempotency-Key") }), nil)
	w.post(t, plain(t), "http://"+address, func(r *http.Request) {
		r.Header.Set("Idempotency-Key", "k1")
		r.Header.Set("Expect", "100-continue") // ours to set
	}).ok(t)
	if key := <-got; key != "k1" {
		t.Errorf("key %q", key)
	}
}

// Kept connections that died while idle cost no attempt: they were written nothing.
func TestDeadIdleConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var served atomic.Int32
	address := raw(t, nil, func(c net.Conn) {
		// One answer, then the end, unannounced.
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		if string(body) == secretBody {
			served.Add(1)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	failed := 0
	for range 200 {
		if r := w.post(t, plain(t), "http://"+address); r.err != nil {
			// Written into a connection whose end had not arrived yet: nobody can tell, so it is not repeated.
			if r.reason != ConnectionClosed && r.reason != ConnectionReset || !r.facts.BodyStarted {
				t.Errorf("%s (%v), facts %+v", r.reason, r.err, r.facts)
			}
			failed++
		}
	}
	if int(served.Load())+failed != 200 {
		t.Errorf("served %d, failed %d of 200", served.Load(), failed)
	}
}

func TestTrustsShareByContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := newInbox(t, w.asking(tls.RequestClientCert))
	url := "https://partner.test:" + port(in.address)
	w.post(t, w.trust(t, Offered), url).ok(t)
	if r := w.post(t, w.trust(t, Offered), url); !r.facts.Reused {
		t.Error("an equal trust did not find the connection")
	}
	distinct := map[[sha256.Size]byte]string{}
	renewed, err := w.ca.IssueClient("spiffe://sealpost/tenant/acme/endpoint/ep_1", 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Trust){
		"same":     func(*Trust) {},
		"required": func(t *Trust) { t.Mode = Required },
		"none":     func(t *Trust) { t.Mode = None },
		"renewed":  func(t *Trust) { t.Certificate = &renewed },
		"pinned":   func(t *Trust) { t.Pins = [][sha256.Size]byte{{1}} },
		"two pins": func(t *Trust) { t.Pins = [][sha256.Size]byte{{1}, {2}} },
		"system":   func(t *Trust) { t.Roots = nil },
		"TLS 1.2":  func(t *Trust) { t.MinVersion = tls.VersionTLS12 },
		"HTTP/2":   func(t *Trust) { t.HTTP2 = true },
		"plain":    func(t *Trust) { t.PlainHTTP = true },
	} {
		key := w.trust(t, Offered, change).key
		if other, ok := distinct[key]; ok {
			t.Errorf("%s and %s have one key", name, other)
		}
		distinct[key] = name
	}
	to := w.trust(t, Offered)
	w.pool.Retire(to)
	if r := w.post(t, to, url); r.facts.Reused {
		t.Error("a retired trust found its connection")
	}
	if len(in.conns) != 2 {
		t.Errorf("%d connections", len(in.conns))
	}
}

func TestTrustRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, trust := range map[string]Trust{
		"no certificate":    {Mode: Required},
		"offered nothing":   {Mode: Offered},
		"empty certificate": {Mode: Required, Certificate: &tls.Certificate{}},
		"unknown mode":      {Mode: 3, Certificate: &w.client},
		"TLS 1.1":           {MinVersion: tls.VersionTLS11},
		"required, plain":   {Mode: Required, Certificate: &w.client, PlainHTTP: true},
		"too many pins":     {Pins: make([][sha256.Size]byte, MaxPins+1)},
	} {
		if _, err := trust.Prepare(); !errors.Is(err, ErrTrust) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Unused trusts are dropped when another comes; the time is set back by hand, as the pool runs no clock of its own.
func TestUnusedTrustsAreDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.trust(t, Offered)
	w.pool.keep(old)
	w.pool.transports[old.key].used.Store(time.Now().Add(-2 * unusedFor).UnixNano())
	w.pool.keep(w.trust(t, None))
	if _, found := w.pool.transports[old.key]; found || len(w.pool.transports) != 1 {
		t.Errorf("%d transports kept", len(w.pool.transports))
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, reason := range Reasons() {
		err := fmt.Errorf("attempt: %w", &Error{Reason: reason, Err: io.EOF})
		if got := Classify(err); got != reason {
			t.Errorf("%s: %s", reason, got)
		}
	}
	for _, c := range []struct {
		err  error
		want Reason
	}{
		{nil, ""}, {context.Canceled, Cancelled}, {context.DeadlineExceeded, Timeout}, {io.ErrUnexpectedEOF, ConnectionClosed},
		{&ForbiddenError{ClassLoopback}, AddressForbidden}, {errors.New("?"), TransportOther},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}

func TestRefusalTellsTheClassOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { o.Guard = Guard{} })
	w.names.answers["partner.test"] = [][]netip.Addr{addrs("10.20.30.40")}
	r := w.post(t, w.trust(t, None), "https://partner.test")
	if got, want := r.err.Error(), "ADDRESS_FORBIDDEN: egress: forbidden address: private"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func benchmarkPost(b *testing.B, secure bool, send func(*world, *Prepared, string) func() error) {
	w := newWorld(b)
	config, to, scheme := (*tls.Config)(nil), plain(b), "http"
	if secure {
		config, to, scheme = w.asking(tls.RequireAndVerifyClientCert), w.trust(b, Required), "https"
	}
	address := serve(b, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }), config)
	once := send(w, to, scheme+"://partner.test:"+port(address))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := once(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

var kilobyte = bytes.Repeat([]byte("x"), 1024)

func throughPool(w *world, to *Prepared, url string) func() error {
	return func() error {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(kilobyte))
		if err != nil {
			return err
		}
		resp, _, err := w.pool.RoundTrip(req, to)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return err
	}
}

// bare is net/http's transport, tuned alike, with none of this package's care.
func bare(w *world, _ *Prepared, url string) func() error {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port(address))
		},
		TLSClientConfig:     &tls.Config{RootCAs: w.ca.Roots(), Certificates: []tls.Certificate{w.client}},
		MaxIdleConnsPerHost: 64,
		DisableCompression:  true,
	}
	return func() error {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(kilobyte))
		if err != nil {
			return err
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return err
	}
}

func BenchmarkPost(b *testing.B) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "mTLS"}[secure]
		b.Run(name+"/pool", func(b *testing.B) { benchmarkPost(b, secure, throughPool) })
		b.Run(name+"/bare", func(b *testing.B) { benchmarkPost(b, secure, bare) })
	}
}

// The pool as it comes: localhost is this machine whatever its hosts file says, and nothing is allowed.
func TestZeroOptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *Options) { *o = Options{} })
	for _, host := range []string{"localhost", "LOCALHOST.", "a.localhost"} {
		w.post(t, w.trust(t, None), "https://"+host).want(t, AddressForbidden, ErrForbiddenAddress)
	}
	w.post(t, w.trust(t, None), "https://127.0.0.1").want(t, AddressForbidden, ErrForbiddenAddress)
}
