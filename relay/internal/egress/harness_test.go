package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sealpost/sealpost/relay/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secretBody = `{"the":"body that must not leave"}`

// names is a resolver: each name's answers, one list per look-up, the last one for ever.
type names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	err     error
	asked   int
}

func (n *names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.err != nil {
		return nil, n.err
	}
	lists := n.answers[host]
	if len(lists) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(lists) > 1 {
		n.answers[host] = lists[1:]
	}
	return lists[0], nil
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

// world is a CA, a partner's name that leads to loopback, and a pool that may go there.
type world struct {
	ca     *pki.CA
	client tls.Certificate
	server tls.Certificate
	names  *names
	pool   *Pool
}

func newWorld(t testing.TB, change ...func(*Options)) *world {
	t.Helper()
	ca, err := pki.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca, names: &names{answers: map[string][][]netip.Addr{"partner.test": {addrs("127.0.0.1")}}}}
	if w.client, err = ca.IssueClient("spiffe://sealpost/tenant/acme/endpoint/ep_1", 0); err != nil {
		t.Fatal(err)
	}
	if w.server, err = ca.IssueServer([]string{"partner.test"}, addrs("127.0.0.1"), 0); err != nil {
		t.Fatal(err)
	}
	options := Options{
		Guard:      Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}},
		Resolver:   w.names,
		TicketWait: 250 * time.Millisecond,
	}
	for _, f := range change {
		f(&options)
	}
	w.pool = NewPool(options)
	t.Cleanup(w.pool.Close)
	return w
}

func (w *world) roots(t testing.TB) []*x509.Certificate {
	t.Helper()
	_, roots, err := pki.ParseRoots(string(w.ca.RootsPEM()), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func (w *world) trust(t testing.TB, mode Mode, change ...func(*Trust)) *Prepared {
	t.Helper()
	trust := Trust{Mode: mode, Certificate: &w.client, Roots: w.roots(t)}
	for _, f := range change {
		f(&trust)
	}
	ready, err := trust.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

func plain(t testing.TB) *Prepared {
	t.Helper()
	ready, err := Trust{PlainHTTP: true}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return ready
}

func (w *world) asking(kind tls.ClientAuthType) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{w.server}, ClientAuth: kind, ClientCAs: w.ca.Roots()}
}

type result struct {
	status int
	body   string
	facts  Facts
	err    error
	reason Reason
}

func (w *world) post(t testing.TB, to *Prepared, url string, change ...func(*http.Request)) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(secretBody)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(req)
	}
	resp, facts, err := w.pool.RoundTrip(req, to)
	r := result{facts: facts, err: err, reason: Classify(err)}
	if err != nil {
		var typed *Error
		if !errors.As(err, &typed) {
			t.Errorf("%v is not an *Error", err)
		}
		return r
	}
	r.status = resp.StatusCode
	body, err := io.ReadAll(resp.Body)
	r.body, r.err, r.reason = string(body), err, Classify(err)
	resp.Body.Close()
	return r
}

func (r result) want(t testing.TB, reason Reason, sentinel error) {
	t.Helper()
	if r.reason != reason || sentinel != nil && !errors.Is(r.err, sentinel) {
		t.Errorf("got %s (%v, status %d), want %s (%v)", r.reason, r.err, r.status, reason, sentinel)
	}
}

func (r result) ok(t testing.TB) {
	t.Helper()
	if r.err != nil || r.status != http.StatusOK {
		t.Errorf("got status %d, %v", r.status, r.err)
	}
}

// inbox is a receiver on net/http that keeps what it was sent.
type inbox struct {
	address string
	mu      sync.Mutex
	bodies  []string
	conns   map[string]bool
	cut     atomic.Bool // read the request whole, then hang up without an answer
}

func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	i.bodies = append(i.bodies, string(body))
	i.conns[r.RemoteAddr] = true
	i.mu.Unlock()
	if i.cut.Load() {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, "thanks")
}

func (i *inbox) received() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.bodies)
}

// serve runs handler on loopback, with TLS if config is not nil.
func serve(t testing.TB, handler http.Handler, config *tls.Config) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if config != nil {
			_ = server.ServeTLS(listener, "", "")
		} else {
			_ = server.Serve(listener)
		}
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return listener.Addr().String()
}

func newInbox(t testing.TB, config *tls.Config) *inbox {
	t.Helper()
	i := &inbox{conns: map[string]bool{}}
	i.address = serve(t, i, config)
	return i
}

func port(address string) string {
	_, p, _ := net.SplitHostPort(address)
	return p
}

// raw accepts connections and hands each to talk, which need not close it.
func raw(t testing.TB, config *tls.Config, talk func(net.Conn)) string {
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
				if config != nil {
					secure := tls.Server(c, config)
					if secure.Handshake() == nil {
						talk(secure)
					}
					return
				}
				talk(c)
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
	return listener.Addr().String()
}
