package courier

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/pki"
	"github.com/sealpost/sealpost/signer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var eventTime = time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.FixedZone("", 3600))

// names resolves partner.test to loopback, and nothing else.
type names struct{}

func (names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host != "partner.test" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// world is a CA, a pool that may go to loopback, and a courier on it.
type world struct {
	*Courier
	ca             *pki.CA
	client, server tls.Certificate
	pool           *egress.Pool
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	ca, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca}
	if w.client, err = ca.IssueClient("spiffe://sealpost/tenant/acme/endpoint/ep_1", 0); err != nil {
		t.Fatal(err)
	}
	if w.server, err = ca.IssueServer([]string{"partner.test"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	w.pool = egress.NewPool(egress.Options{
		Guard:      egress.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Resolver:   names{},
		TicketWait: 250 * time.Millisecond,
	})
	t.Cleanup(w.pool.Close)
	options := Options{
		Pool:               w.pool,
		PlainHTTP:          true,
		Version:            "1.2.3",
		ClientCertificates: func(*relay.Endpoint) (*tls.Certificate, error) { return &w.client, nil },
	}
	for _, f := range change {
		f(&options)
	}
	if w.Courier, err = New(options); err != nil {
		t.Fatal(err)
	}
	return w
}

// secure is the configuration of a server that asks for a client certificate.
func (w *world) secure(kind tls.ClientAuthType) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{w.server}, ClientAuth: kind, ClientCAs: w.ca.Roots()}
}

func newSigner(t testing.TB, scheme signer.Scheme) (*signer.Signer, *signer.Verifier) {
	t.Helper()
	key, err := signer.GenerateKey(scheme)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := signer.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.NewSigner(scheme, ring)
	if err != nil {
		t.Fatal(err)
	}
	v, err := signer.NewVerifier(scheme, ring.VerifyingKeys())
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// delivery is one to url, over plain HTTP or required mutual TLS as the URL says.
func (w *world) delivery(t testing.TB, url string, change ...func(*relay.Delivery)) *relay.Delivery {
	t.Helper()
	parsed, err := relay.ParseEndpointURL(url, true)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newSigner(t, signer.Standard)
	ep := &relay.Endpoint{
		ID: "ep_1", Tenant: "acme", URL: parsed, Scheme: signer.Standard, Signer: s, State: relay.EndpointActive,
		ContentMode: relay.ContentEnvelope, Timeout: 5 * time.Second,
	}
	if parsed.Secure() {
		ep.TLS.CAPEM = string(w.ca.RootsPEM())
	} else {
		ep.TLS.ClientCertificate = relay.ClientCertificateNone
	}
	d := &relay.Delivery{
		ID: relay.DeliveryID("acme", "evt_1", "ep_1"), Endpoint: ep, EventID: "evt_1", EventType: "contact.updated",
		EventTime: eventTime, Subject: "contact/42", Data: []byte(`{"n":1.50,"e":"ü"}`), Attempts: 2,
	}
	for _, f := range change {
		f(d)
	}
	return d
}

// serve runs handler on loopback, with TLS if config is not nil, and returns its URL.
func serve(t testing.TB, handler http.Handler, config *tls.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, TLSConfig: config.Clone(), ErrorLog: log.New(io.Discard, "", 0)} // ServeTLS writes into it
	var running sync.WaitGroup
	running.Go(func() {
		if config != nil {
			_ = server.ServeTLS(listener, "", "")
		} else {
			_ = server.Serve(listener)
		}
	})
	t.Cleanup(func() {
		server.Close()
		running.Wait()
	})
	return address(listener, config != nil)
}

func address(listener net.Listener, secure bool) string {
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	if secure {
		return "https://partner.test:" + port + "/hook?a=1"
	}
	return "http://partner.test:" + port + "/hook?a=1"
}

// raw hands each connection to talk, after its first request was read, and closes it after.
func raw(t testing.TB, talk func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			running.Go(func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				// To close with something unread would reset the connection.
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					talk(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return address(listener, false)
}
