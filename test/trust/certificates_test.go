package trust_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// clientRoots are the roots by which a partner trusts us: those that serve leaves for partners.
func clientRoots(t *testing.T, p *rig.Process) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.Data, "client-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatal("client-ca.pem holds no certificate")
	}
	return roots
}

// TestClientCertificateRotationUnderLoad replaces the client certificate 20 times while events are delivered as fast as they are
// published, to a partner that demands one: nothing is refused, nothing lost, nothing sent twice, and after each answer what is
// begun presents the new one.
func TestClientCertificateRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const rotations = 20
	p := rig.Start(t, binary, quiet())
	ca := rig.NewCA(t)
	conf := ca.Server()
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, clientRoots(t, p)
	var mu sync.Mutex
	seen, by := map[string]int{}, map[string]int{}
	partner := newMutual(t, conf, func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Header.Get("Webhook-Id")]++
		by[fmt.Sprintf("%x", r.TLS.PeerCertificates[0].SerialNumber)]++
	})
	count := func() (deliveries, certificates int) {
		mu.Lock()
		defer mu.Unlock()
		return len(seen), len(by)
	}
	ep := p.Register(partner, rig.Object{"tls": rig.Object{"clientCertificate": "REQUIRED", "caPem": ca.PEM()}})
	stop := publisher(t, p.Client, "acme", func() int { n, _ := count(); return n })
	defer stop()
	rig.Eventually(t, "deliveries go on", func() bool { n, _ := count(); return n > 100 })
	for i := range rotations {
		now := p.MustAct(ep, "rotateClientCertificate")
		if now.S("clientCertificateRotateTime") == "" {
			t.Fatalf("answer: %v", now)
		}
		rig.Eventually(t, fmt.Sprintf("certificate %d is presented", i+2), func() bool { _, n := count(); return n >= i+2 })
	}
	n := stop()
	rig.Eventually(t, "all is delivered", func() bool { got, _ := count(); return got >= n })
	p.AwaitCount(fmt.Sprintf("tenant=acme&state=DELIVERED&eventId=acme-%d", n-1), 1)
	got, certificates := count()
	if got != n || certificates != rotations+1 {
		t.Errorf("%d published, %d delivered, %d certificates", n, got, certificates)
	}
	mu.Lock()
	defer mu.Unlock()
	for id, times := range seen {
		if times > 1 {
			t.Errorf("%s came %d times", id, times)
		}
	}
	if failed := p.Metric("sealpost_delivery_attempts_total", "") - p.Metric("sealpost_delivery_attempts_total", `verdict="DONE"`); failed > 0 {
		t.Errorf("%v attempts failed", failed)
	}
	t.Logf("%d deliveries over %d client certificates, none refused, none lost", got, certificates)
}

// newMutual serves TLS and tells of each request that came whole.
func newMutual(t *testing.T, conf *tls.Config, took func(*http.Request)) (url string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			took(r)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(l) }()
	t.Cleanup(func() { server.Close(); <-done })
	return "https://" + l.Addr().String() + "/hook"
}

// writePair writes a certificate and its key as what renews them does: each renamed into its place.
func writePair(t *testing.T, dir string, c tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: der}} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestListenerCertificateIsReloaded: our listeners show a new certificate as soon as it is in the files, without a restart, while
// connections that were made with the one before go on.
func TestListenerCertificateIsReloaded(t *testing.T) {
	t.Parallel()
	ca, dir := rig.NewCA(t), t.TempDir()
	first, second := ca.Issue(time.Now().Add(time.Hour)), ca.Issue(time.Now().Add(2*time.Hour))
	writePair(t, dir, first)
	p := rig.Start(t, binary, quiet().With(rig.Config{"public": "127.0.0.1:0", "tls": rig.Config{
		"cert": filepath.Join(dir, "tls.crt"), "key": filepath.Join(dir, "tls.key")}}))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.PEM()))
	listeners := map[string]string{"grpc": p.GRPC, "http": p.HTTP, "admin": p.Admin, "public": publicAddress(t, p)}
	shown := func(address string) string {
		t.Helper()
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return string(conn.ConnectionState().PeerCertificates[0].Raw)
	}
	kept, err := tls.Dial("tcp", p.HTTP, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	read := bufio.NewReader(kept)
	ask := func() {
		t.Helper()
		fmt.Fprintf(kept, "GET /.well-known/sealpost-ca.pem HTTP/1.1\r\nHost: localhost\r\n\r\n")
		resp, err := http.ReadResponse(read, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "CERTIFICATE") {
			t.Fatalf("%d %s %v", resp.StatusCode, body, err)
		}
		if resp.Header.Get("Strict-Transport-Security") == "" {
			t.Error("no Strict-Transport-Security")
		}
	}
	ask()
	for name, address := range listeners {
		if shown(address) != string(first.Certificate[0]) {
			t.Errorf("%s shows another certificate", name)
		}
		if _, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS12}); err == nil {
			t.Errorf("%s speaks TLS 1.2 unasked", name)
		}
	}
	writePair(t, dir, second)
	for name, address := range listeners {
		rig.Eventually(t, name+" shows the new certificate", func() bool { return shown(address) == string(second.Certificate[0]) })
	}
	ask() // on the connection from before
	if end := endOf(t, p, roots, "LISTENER"); end != second.Leaf.NotAfter.Unix() {
		t.Errorf("the metric says that the listeners' certificate ends at %d, not %d", end, second.Leaf.NotAfter.Unix())
	}
}

// endOf is when a certificate ends, by the metric, in Unix seconds.
func endOf(t *testing.T, p *rig.Process, roots *x509.CertPool, certificate string) int64 {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + p.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var end float64
		if n, _ := fmt.Sscanf(line, "sealpost_certificate_expiry_timestamp_seconds{certificate=\""+certificate+"\"} %g", &end); n == 1 {
			return int64(end)
		}
	}
	return 0
}

var listening = regexp.MustCompile(`public=(127\.0\.0\.1:\d+)`)

// publicAddress is where the process says that its public listener is.
func publicAddress(t *testing.T, p *rig.Process) string {
	t.Helper()
	found := listening.FindStringSubmatch(p.Output())
	if found == nil {
		t.Fatalf("no public listener:\n%s", p.Tail())
	}
	return found[1]
}

// TestPublicListener serves what partners may have, and nothing else to anybody, whatever token they bring.
func TestPublicListener(t *testing.T) {
	t.Parallel()
	p := rig.Start(t, binary, quiet().With(rig.Config{"public": "127.0.0.1:0"}))
	ep := p.Register("http://127.0.0.1:9/hook", rig.Object{"scheme": "standard-ed25519"})
	base := "http://" + publicAddress(t, p)
	ask := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	status, text := ask("GET", "/.well-known/sealpost-ca.pem")
	ours, err := os.ReadFile(filepath.Join(p.Data, "client-ca.pem"))
	if err != nil || status != http.StatusOK || text != string(ours) {
		t.Errorf("CA: %d %v", status, err)
	}
	var set struct{ Keys []map[string]string }
	if status, text = ask("GET", "/.well-known/jwks/"+ep.ID+".json"); status != http.StatusOK || json.Unmarshal([]byte(text), &set) != nil || len(set.Keys) != 1 || set.Keys[0]["crv"] != "Ed25519" {
		t.Errorf("keys: %d %s", status, text)
	}
	for _, path := range []string{
		"/", "/v1/endpoints", "/v1/endpoints/" + ep.ID, "/v1/events", "/v1/deliveries", "/v1/tokens", "/openapi.json", "/metrics", "/healthz", "/readyz",
		"/debug/pprof/", "/.well-known/", "/.well-known/jwks/", "/.well-known/jwks/x.json", "/.well-known/sealpost-ca.pem/x", "//v1/endpoints", "/sealpost.v1.EndpointService/GetEndpoint",
	} {
		if status, text := ask("GET", path); status != http.StatusNotFound && status/100 != 3 || strings.Contains(text, ep.ID) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for _, path := range []string{"/.well-known/sealpost-ca.pem", "/v1/events", "/.well-known/jwks/" + ep.ID + ".json"} {
		if status, text := ask("POST", path); status != http.StatusMethodNotAllowed && status != http.StatusNotFound {
			t.Errorf("POST %s: %d %s", path, status, text)
		}
	}
	// One that is not loopback needs TLS, as every other does.
	q := rig.New(t, binary, rig.Config{"public": net.JoinHostPort("0.0.0.0", "0")})
	if err := q.Begin(); err == nil || !strings.Contains(q.Output(), "public:") {
		t.Errorf("started: %v\n%s", err, q.Tail())
	}
}
