package courier

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/pki"
	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
)

// Each scheme and content mode over required mutual TLS: what arrives verifies, and the attempt says what happened.
func TestSend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			s, verifier := newSigner(t, scheme)
			type arrival struct {
				header http.Header
				body   []byte
				err    error
			}
			arrivals := make(chan arrival, 1)
			url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_, err := verifier.VerifyRequest(r, body)
				arrivals <- arrival{r.Header, body, err}
				rw.WriteHeader(http.StatusCreated)
				io.WriteString(rw, `{"ok":true}`)
			}), w.secure(tls.RequireAndVerifyClientCert))
			for _, mode := range []relay.ContentMode{relay.ContentEnvelope, relay.ContentData, relay.ContentCloudEvents, relay.ContentCloudEventsBinary} {
				d := w.delivery(t, url, func(d *relay.Delivery) {
					d.Endpoint.Signer, d.Endpoint.Scheme, d.Endpoint.ContentMode = s, scheme, mode
					d.Endpoint.Headers = []relay.Header{{Name: "X-Env", Value: relay.NewSecret("prod")}}
					d.Endpoint.BasicUser, d.Endpoint.BasicPass = "user", relay.NewSecret("pass")
				})
				a, v := w.Handle(t.Context(), d)
				if v != (relay.Verdict{Kind: relay.VerdictDone, Reason: relay.ReasonAccepted, Healthy: true}) {
					t.Fatalf("%s: %+v", mode, v)
				}
				got := <-arrivals
				want, contentType := render(d)
				if got.err != nil || !bytes.Equal(got.body, want) {
					t.Fatalf("%s: %v, body %s", mode, got.err, got.body)
				}
				sum := sha256.Sum256(want)
				if a.Verdict != v.Kind || a.Reason != v.Reason || a.StatusCode != 201 || a.Number != 3 || a.Chunk != 0 || a.ChunkTotal != 0 ||
					a.KeyID != s.KeyID() || a.BodySHA256 != hex.EncodeToString(sum[:]) || string(a.ResponseBody) != `{"ok":true}` ||
					a.ResponseSize != 11 || a.TLSVersion != "TLS 1.3" || !strings.HasPrefix(a.RemoteAddress, "127.0.0.1:") ||
					a.ServerCertificateSHA256 != pki.Fingerprint(w.server.Leaf) || a.ClientCertificateSHA256 != pki.Fingerprint(w.client.Leaf) ||
					a.Durations.Total <= 0 || a.Durations.FirstByte <= 0 || a.Durations.FirstByte > a.Durations.Total || a.StartTime.IsZero() {
					t.Errorf("%s: %+v", mode, a)
				}
				if got := got.header; got.Get("User-Agent") != "Sealpost/1.2.3" || got.Get("Content-Type") != contentType ||
					got.Get("Webhook-Id") != d.ID || got.Get("X-Env") != "prod" || got.Get("Authorization") != "Basic dXNlcjpwYXNz" ||
					got.Get("Content-Length") != strconv.Itoa(len(want)) || got.Get("Sealpost-Chunk") != "" || got.Get("Accept-Encoding") != "" {
					t.Errorf("%s: %v", mode, got)
				}
				if got := got.header; (mode == relay.ContentCloudEventsBinary) != (got.Get("Ce-Id") == "evt_1" && got.Get("Ce-Source") == "/tenants/acme" &&
					got.Get("Ce-Type") == "contact.updated" && got.Get("Ce-Specversion") == "1.0" && got.Get("Ce-Subject") == "contact/42" &&
					got.Get("Ce-Time") == "2026-01-02T02:04:05.6Z") {
					t.Errorf("%s: %v", mode, got)
				}
			}
		})
	}
}

// To the receiver of relay/receiver: pages and parts, a failure in between, a receiver that restarts, a replay.
func TestSendChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, data := range map[string][]byte{"pages": export(200), "parts": []byte(`"` + strings.Repeat("é", 10000) + `"`)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, verifier := newSigner(t, signer.Standard)
			var mu sync.Mutex
			var got []receiver.Delivery
			var refuse int // requests until one is refused
			hook := func() *receiver.Receiver {
				rc, err := receiver.New(receiver.Options{Verifier: verifier, OnEvent: func(_ context.Context, d receiver.Delivery) error {
					got = append(got, d)
					return nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				return rc
			}
			current := hook()
			url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if refuse--; refuse == 0 {
					rw.WriteHeader(http.StatusBadGateway)
					return
				}
				current.ServeHTTP(rw, r)
			}), nil)
			d := w.delivery(t, url, func(d *relay.Delivery) {
				d.Endpoint.Signer, d.Endpoint.ChunkBytes, d.Data = s, relay.MinChunkBytes, data
			})
			// run makes attempts as an owner does, and returns how many it took to the end or the next failure.
			run := func() (attempts int, last relay.Verdict) {
				p, _ := w.Pack(d)
				before := d.Attempts
				for i := p.Next(); i < p.Chunks(); i++ {
					a, v := w.Send(t.Context(), p, i)
					attempts++
					d.Attempts++
					d.Progress = p.After(i, v)
					if a.Number != before+attempts || a.Chunk != i+1 || a.ChunkTotal != p.Chunks() {
						t.Fatalf("chunk %d of %d: attempt %+v", i, p.Chunks(), a)
					}
					sum := sha256.Sum256(p.set.Chunk(i + 1))
					if a.BodySHA256 != hex.EncodeToString(sum[:]) {
						t.Fatalf("chunk %d: another body's digest", i)
					}
					if last = v; v.Kind != relay.VerdictDone {
						return attempts, last
					}
					if (v.Reason == relay.ReasonAccepted) != (i+1 == p.Chunks()) || (v.Reason == relay.ReasonChunkAccepted) != (i+1 < p.Chunks()) {
						t.Fatalf("chunk %d of %d: %+v", i, p.Chunks(), v)
					}
				}
				return attempts, last
			}
			total := func() int { p, _ := w.Pack(d); return p.Chunks() }()
			mu.Lock()
			refuse = 3
			mu.Unlock()
			if n, v := run(); n != 3 || v.Reason != relay.ReasonServerError || d.Progress.Next != 2 {
				t.Fatalf("refused after %d: %+v, next %d", n, v, d.Progress.Next)
			}
			mu.Lock()
			current = hook() // it has lost the first two
			mu.Unlock()
			if n, v := run(); n != 1 || v.Reason != relay.ReasonChunkFailed || v.Kind != relay.VerdictLater || d.Progress.Next != 0 {
				t.Fatalf("lost set after %d: %+v, next %d", n, v, d.Progress.Next)
			}
			if n, v := run(); n != total || v.Kind != relay.VerdictDone {
				t.Fatalf("%d attempts: %+v", n, v)
			}
			body, _ := render(d)
			if len(got) != 1 || !bytes.Equal(got[0].Body, body) || got[0].ID != d.ID {
				t.Fatalf("handed over %d", len(got))
			}
			// Sent again within the second, the last chunk cannot be told from a replay; later, it can.
			d.Progress = relay.Progress{Digest: d.Progress.Digest, Total: total, Next: total - 1}
			if _, v := run(); v.Kind == relay.VerdictDead || len(got) != 1 {
				t.Fatalf("sent again at once: %+v, handed over %d", v, len(got))
			}
			options := w.options
			options.Clock = func() time.Time { return time.Now().Add(2 * time.Second) }
			w := &world{Courier: &Courier{options: options, userAgent: w.userAgent}}
			run = func() (int, relay.Verdict) { _, v := w.Handle(t.Context(), d); return 1, v }
			if _, v := run(); v.Kind != relay.VerdictDone || len(got) != 1 {
				t.Fatalf("sent again: %+v, handed over %d", v, len(got))
			}
		})
	}
}

// 424 has its meaning for a chunk after the first only.
func TestSetLostElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(424) }), nil)
	want := relay.Verdict{Kind: relay.VerdictDead, Reason: relay.ReasonRejected}
	d := w.delivery(t, url)
	if _, v := w.Handle(t.Context(), d); v != want {
		t.Errorf("a whole one: %+v", v)
	}
	d.Endpoint.ChunkBytes, d.Data = relay.MinChunkBytes, export(200)
	if _, v := w.Handle(t.Context(), d); v != want {
		t.Errorf("the first chunk: %+v", v)
	}
}

// Over the wire, each status that a server can give is read and told; none is followed.
func TestEveryStatusOverTheWire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	asked := 0
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked++
		mu.Unlock()
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		rw.Header().Set("Location", "/hook?status=200")
		rw.Header().Set("Retry-After", "60")
		rw.WriteHeader(status)
	}), nil)
	base, _, _ := strings.Cut(url, "?")
	want := 0
	for status := 200; status <= 999; status++ {
		d := w.delivery(t, base+"?status="+strconv.Itoa(status))
		a, v := w.Handle(t.Context(), d)
		want++
		if v != wanted(status) || a.StatusCode != status {
			t.Errorf("%d: %+v, status %d", status, v, a.StatusCode)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if asked != want {
		t.Errorf("%d requests for %d attempts", asked, want)
	}
}

// A receiver can do what it likes with the connection: the attempt ends in time and is told right.
func TestUnrulyReceivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	say := func(text string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, text) } }
	hang := func(c net.Conn) { io.Copy(io.Discard, c) }
	done := relay.Verdict{Kind: relay.VerdictDone, Reason: relay.ReasonAccepted, Healthy: true}
	for name, c := range map[string]struct {
		talk func(net.Conn)
		want relay.Verdict
		kept int // bytes of the response
		size int64
	}{
		"hangs":                    {hang, OfFailure(egress.ResponseTimeout), 0, 0},
		"hangs in the status":      {func(c net.Conn) { say("HTTP/1.1 20")(c); hang(c) }, OfFailure(egress.ResponseTimeout), 0, 0},
		"hangs in the header":      {func(c net.Conn) { say("HTTP/1.1 200 OK\r\nA: b\r\n")(c); hang(c) }, OfFailure(egress.ResponseTimeout), 0, 0},
		"only goes on":             {func(c net.Conn) { say("HTTP/1.1 100 Continue\r\n\r\n")(c); hang(c) }, OfFailure(egress.ResponseTimeout), 0, 0},
		"hangs before the body":    {func(c net.Conn) { say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")(c); hang(c) }, done, 0, 0},
		"hangs in the body":        {func(c net.Conn) { say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")(c); hang(c) }, done, 2, 2},
		"ends in the body":         {say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), done, 3, 3},
		"breaks its chunks":        {say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz"), done, 2, 2},
		"closes":                   {func(net.Conn) {}, OfFailure(egress.ConnectionClosed), 0, 0},
		"closes in the header":     {say("HTTP/1.1 200 OK\r\nA: b\r\n"), OfFailure(egress.ConnectionClosed), 0, 0},
		"resets":                   {func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, OfFailure(egress.ConnectionReset), 0, 0},
		"speaks another language":  {say("SSH-2.0-OpenSSH_9.6\r\n\r\n"), OfFailure(egress.ResponseInvalid), 0, 0},
		"redirects":                {say("HTTP/1.1 302 Found\r\nLocation: http://partner.test:1/\r\nContent-Length: 0\r\n\r\n"), wanted(302), 0, 0},
		"switches protocols":       {say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), wanted(101), 0, 0},
		"an endless header":        {endless("HTTP/1.1 200 OK\r\n", "A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"), OfFailure(egress.ResponseInvalid), 0, 0},
		"an endless line":          {endless("HTTP/1.1 200 OK\r\nA: ", "bbbbbbbbbbbbbbbbbbbbbbbbbb"), OfFailure(egress.ResponseInvalid), 0, 0},
		"an endless body":          {endless("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef"), done, relay.MaxResponseKept, MaxResponseRead},
		"a zip bomb":               {zipBomb, done, 0, MaxResponseRead},
		"text in no known charset": {say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd"), done, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := w.delivery(t, raw(t, c.talk), func(d *relay.Delivery) { d.Endpoint.Timeout = 2 * time.Second })
			begin := time.Now()
			a, v := w.Handle(t.Context(), d)
			if v != c.want || len(a.ResponseBody) != c.kept || a.ResponseSize != c.size {
				t.Errorf("%+v, kept %d of %d", v, len(a.ResponseBody), a.ResponseSize)
			}
			if took := time.Since(begin); took > 10*time.Second || a.Durations.Total > took {
				t.Errorf("took %s, says %s", took, a.Durations.Total)
			}
		})
	}
}

func endless(begin, more string) func(net.Conn) {
	return func(c net.Conn) {
		io.WriteString(c, begin)
		lot := strings.Repeat(more, 1000)
		for {
			if _, err := io.WriteString(c, lot); err != nil {
				return
			}
		}
	}
}

// zipBomb is 256 MiB of zeros in 256 members (RFC 1952, section 2.2), a kilobyte each.
func zipBomb(c net.Conn) {
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	z.Write(make([]byte, 1<<20))
	z.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
	for range 256 {
		if _, err := c.Write(member.Bytes()); err != nil {
			return
		}
	}
}

// A body that trickles holds the attempt for a second, not for its whole time.
func TestTrickle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url := raw(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond) // the receiver's own pace, not a wait for something
		}
	})
	d := w.delivery(t, url, func(d *relay.Delivery) { d.Endpoint.Timeout = time.Minute })
	a, v := w.Handle(t.Context(), d)
	if v.Kind != relay.VerdictDone || a.Durations.Total > 20*time.Second || a.ResponseSize == 0 {
		t.Errorf("%+v after %s", v, a.Durations.Total)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := address(closed, false)
	closed.Close()
	for url, want := range map[string]egress.Reason{
		refused:                    egress.ConnectRefused,
		"http://nobody.test/":      egress.DNSNotFound,
		"http://10.0.0.1/":         egress.AddressForbidden,
		"http://169.254.169.254/":  egress.AddressForbidden,
		"http://[::ffff:10.0.0.1]": egress.AddressForbidden,
	} {
		a, v := w.Handle(t.Context(), w.delivery(t, url))
		if v != OfFailure(want) || a.StatusCode != 0 || a.BodySHA256 == "" || a.KeyID == "" {
			t.Errorf("%s: %+v %+v", url, v, a)
		}
	}
}

// Whatever is wrong with the server's or our certificate, it gets no byte of the body.
func TestTLSFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := newWorld(t)
	wrongName, err := w.ca.IssueServer([]string{"other.test"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	required := w.secure(tls.RequireAndVerifyClientCert)
	strangers := required.Clone()
	strangers.ClientCAs = other.ca.Roots()
	misnamed := required.Clone()
	misnamed.Certificates = []tls.Certificate{wrongName}
	old := required.Clone()
	old.MaxVersion = tls.VersionTLS12
	for name, c := range map[string]struct {
		config *tls.Config
		change func(*relay.Endpoint)
		want   egress.Reason // "": accepted
	}{
		"asks and takes":           {required, func(*relay.Endpoint) {}, ""},
		"does not ask":             {w.secure(tls.NoClientCert), func(*relay.Endpoint) {}, egress.ClientCertificateNotRequested},
		"does not ask, if offered": {w.secure(tls.NoClientCert), func(ep *relay.Endpoint) { ep.TLS.ClientCertificate = relay.ClientCertificateOffered }, ""},
		"takes others' only":       {strangers, func(*relay.Endpoint) {}, egress.ClientCertificateRefused},
		"another name":             {misnamed, func(*relay.Endpoint) {}, egress.TLSHostname},
		"another CA":               {required, func(ep *relay.Endpoint) { ep.TLS.CAPEM = string(other.ca.RootsPEM()) }, egress.TLSCertificateInvalid},
		"the system's CAs":         {required, func(ep *relay.Endpoint) { ep.TLS.CAPEM = "" }, egress.TLSCertificateInvalid},
		"pinned": {required, func(ep *relay.Endpoint) {
			ep.TLS.SPKIPins = []string{pki.FormatPin(pki.Pin(w.server.Leaf))}
		}, ""},
		"pinned to another": {required, func(ep *relay.Endpoint) {
			ep.TLS.SPKIPins = []string{pki.FormatPin(pki.Pin(other.server.Leaf))}
		}, egress.TLSPinMismatch},
		"TLS 1.2":          {old, func(*relay.Endpoint) {}, egress.TLSHandshake},
		"TLS 1.2, allowed": {old, func(ep *relay.Endpoint) { ep.TLS.AllowTLS12 = true }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan int, 1)
			url := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				arrived <- len(body)
			}), c.config)
			d := w.delivery(t, url, func(d *relay.Delivery) { c.change(d.Endpoint) })
			a, v := w.Handle(t.Context(), d)
			if c.want == "" {
				if v.Kind != relay.VerdictDone || <-arrived == 0 {
					t.Errorf("%+v", v)
				}
				return
			}
			if v != OfFailure(c.want) || a.StatusCode != 0 {
				t.Errorf("%+v, want %s", v, c.want)
			}
			select {
			case n := <-arrived:
				t.Errorf("a request with %d bytes arrived", n)
			default:
			}
		})
	}
}

// Where our own side is not as it must be, nothing is even tried.
func TestNothingIsSent(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	w := newWorld(t)
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} })
	plain := serve(t, handler, nil)
	secure := serve(t, handler, w.secure(tls.RequireAndVerifyClientCert))
	credential := park(relay.ReasonCredentialFailed)
	for name, c := range map[string]struct {
		url     string
		options func(*Options)
		change  func(*relay.Endpoint)
		want    relay.Verdict
	}{
		"no signer":       {secure, nil, func(ep *relay.Endpoint) { ep.Signer = nil }, credential},
		"no certificates": {secure, func(o *Options) { o.ClientCertificates = nil }, nil, credential},
		"certificates fail": {secure, func(o *Options) {
			o.ClientCertificates = func(*relay.Endpoint) (*tls.Certificate, error) { return nil, errors.New("locked") }
		}, nil, credential},
		"no certificate for it": {secure, func(o *Options) {
			o.ClientCertificates = func(*relay.Endpoint) (*tls.Certificate, error) { return nil, nil }
		}, nil, credential},
		"a certificate without key": {secure, func(o *Options) {
			o.ClientCertificates = func(*relay.Endpoint) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		}, nil, credential},
		"no certificate to offer": {secure, func(o *Options) { o.ClientCertificates = nil },
			func(ep *relay.Endpoint) { ep.TLS.ClientCertificate = relay.ClientCertificateOffered }, credential},
		"roots of no use":       {secure, nil, func(ep *relay.Endpoint) { ep.TLS.CAPEM = "none" }, credential},
		"a pin of no use":       {secure, nil, func(ep *relay.Endpoint) { ep.TLS.SPKIPins = []string{"sha256/abc"} }, credential},
		"plain HTTP":            {plain, func(o *Options) { o.PlainHTTP = false }, nil, park(relay.ReasonForbidden)},
		"plain, mutual TLS":     {plain, nil, func(ep *relay.Endpoint) { ep.TLS = relay.TLS{} }, credential},
		"a header with a break": {plain, nil, func(ep *relay.Endpoint) { ep.Bearer = relay.NewSecret("a\r\nb: c") }, credential},
	} {
		t.Run(name, func(t *testing.T) {
			mine := *w
			options := w.options
			if c.options != nil {
				c.options(&options)
			}
			var err error
			if mine.Courier, err = New(options); err != nil {
				t.Fatal(err)
			}
			d := w.delivery(t, c.url, func(d *relay.Delivery) {
				if c.change != nil {
					c.change(d.Endpoint)
				}
			})
			a, v := mine.Handle(t.Context(), d)
			if v != c.want || a.Verdict != v.Kind || a.Reason != v.Reason || a.Number != 3 || a.StatusCode != 0 || a.RemoteAddress != "" {
				t.Errorf("%+v %+v", v, a)
			}
		})
	}
	select {
	case <-asked:
		t.Error("something was sent")
	default:
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	url := raw(t, func(c net.Conn) {
		cancel()
		io.Copy(io.Discard, c)
	})
	for _, when := range []string{"in flight", "before"} {
		_, v := w.Handle(ctx, w.delivery(t, url))
		if v != OfFailure(egress.Cancelled) || v.Reason != relay.ReasonInterrupted || Counts(v) {
			t.Errorf("%s: %+v", when, v)
		}
	}
	expired, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	if _, v := w.Handle(expired, w.delivery(t, url)); v.Reason != relay.ReasonInterrupted {
		t.Errorf("our own deadline: %+v", v)
	}
}

// Once the status is there, our breaking off does not change what it said.
func TestInterruptedAfterTheStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url := raw(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
		io.Copy(io.Discard, c)
	})
	if a, v := w.Handle(ctx, w.delivery(t, url)); v.Kind != relay.VerdictDone || string(a.ResponseBody) != "ab" {
		t.Errorf("%+v", v)
	}
}

// A renewed certificate is shown from the next attempt on.
func TestRenewedCertificate(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var current *tls.Certificate
	w := newWorld(t, func(o *Options) {
		o.ClientCertificates = func(*relay.Endpoint) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			return current, nil
		}
	})
	current = &w.client
	d := w.delivery(t, serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), w.secure(tls.RequireAndVerifyClientCert)))
	a, _ := w.Handle(t.Context(), d)
	renewed, err := w.ca.IssueClient("spiffe://sealpost/tenant/acme/endpoint/ep_1", 0)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	current = &renewed
	mu.Unlock()
	b, v := w.Handle(t.Context(), d)
	if v.Kind != relay.VerdictDone || a.ClientCertificateSHA256 != pki.Fingerprint(w.client.Leaf) || b.ClientCertificateSHA256 != pki.Fingerprint(renewed.Leaf) {
		t.Errorf("%+v: showed %s, then %s", v, a.ClientCertificateSHA256, b.ClientCertificateSHA256)
	}
}

// A receiver that echoes what it got does not bring our secrets into the records.
func TestEchoedSecretsAreMasked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusBadRequest)
		for name, values := range r.Header {
			io.WriteString(rw, name+": "+values[0]+"\n")
		}
	}), nil)
	d := w.delivery(t, url, func(d *relay.Delivery) {
		d.Endpoint.Headers = []relay.Header{{Name: "X-Api-Key", Value: relay.NewSecret("static-secret")}}
		d.Endpoint.BasicUser, d.Endpoint.BasicPass = "user", relay.NewSecret("basic-secret")
	})
	a, _ := w.Handle(t.Context(), d)
	d.Endpoint = func() *relay.Endpoint { ep := *d.Endpoint; return &ep }()
	d.Endpoint.BasicUser, d.Endpoint.BasicPass, d.Endpoint.Bearer = "", relay.Secret{}, relay.NewSecret("bearer-secret")
	b, _ := w.Handle(t.Context(), d)
	text := string(a.ResponseBody) + string(b.ResponseBody)
	for _, secret := range []string{"static-secret", "basic-secret", "bearer-secret", basicToken(&relay.Endpoint{BasicUser: "user", BasicPass: relay.NewSecret("basic-secret")})} {
		if strings.Contains(text, secret) {
			t.Errorf("the record holds %q", secret)
		}
	}
	if strings.Count(text, "X-Api-Key: [secret]") != 2 || !strings.Contains(text, "Basic [secret]") || !strings.Contains(text, "Bearer [secret]") {
		t.Errorf("masked more or less than that: %s", text)
	}
}

func TestLogsNoPayload(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	w := newWorld(t, func(o *Options) {
		o.Logger = slog.New(slog.NewJSONHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "answer-text") }), nil)
	d := w.delivery(t, url, func(d *relay.Delivery) {
		d.Data, d.Subject, d.Endpoint.Bearer = []byte(`"payload-text"`), "subject-text", relay.NewSecret("bearer-text")
	})
	w.Handle(t.Context(), d)
	if !strings.Contains(lines.String(), d.ID) || strings.Contains(lines.String(), "-text") {
		t.Errorf("logged %s", lines.String())
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("without a pool: %v", err)
	}
}

func TestOneExpiredRootLeavesTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	expired, err := pki.Open(t.TempDir(), func() time.Time { return time.Now().AddDate(-30, 0, 0) })
	if err != nil {
		t.Fatal(err)
	}
	both := string(expired.RootsPEM()) + string(w.ca.RootsPEM())
	url := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), w.secure(tls.RequireAndVerifyClientCert))
	d := w.delivery(t, url, func(d *relay.Delivery) { d.Endpoint.TLS.CAPEM = both })
	if _, v := w.Handle(t.Context(), d); v.Kind != relay.VerdictDone {
		t.Errorf("%+v", v)
	}
	none, err := roots("")
	if err != nil || none != nil {
		t.Error("no roots of its own: the system's")
	}
	if _, err := roots("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"); err == nil {
		t.Error("took a broken root")
	}
}
