package demo

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
)

// receipt is a delivery that the partner's receiver verified.
type receipt struct {
	receiver.Delivery
	partner string
	at      time.Time
}

// partnerServer is the partners' side: one HTTPS server that takes nobody without a certificate of Sealpost's CA, with a
// path and a receiver for each partner.
type partnerServer struct {
	address string
	rootPEM string // of the CA that made its certificate
	leak    finder
	changed chan struct{} // one token: there is a new receipt

	mu        sync.Mutex // guards what follows
	handlers  map[string]http.Handler
	identity  map[string]string // partner -> name that its client certificate must carry
	failing   map[string]int    // partner -> requests still to be refused
	receipts  []receipt
	requests  map[string]int // partner -> requests, chunks and refused ones too
	refused   int            // answered with 503 on purpose
	twice     int            // deliveries that came once more
	problems  []string
	leaksSeen int
}

// newPartnerServer takes a port; nothing is served before serve.
func newPartnerServer(leak finder) *partnerServer {
	return &partnerServer{
		leak: leak, changed: make(chan struct{}, 1), handlers: map[string]http.Handler{}, identity: map[string]string{},
		failing: map[string]int{}, requests: map[string]int{},
	}
}

// serve listens until ctx ends. clientRoots is Sealpost's CA.
func (s *partnerServer) serve(ctx context.Context, clientRoots []byte) (stopped func() error, err error) {
	certificate, root, err := serverCertificate()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(clientRoots) {
		return nil, errors.New("the built-in CA has no certificate to show")
	}
	socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.address, s.rootPEM = socket.Addr().String(), root
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second,
		// Refused handshakes are part of the demo, and are asked about where they are made.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	secured := tls.NewListener(socket, &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
	})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(secured) }()
	return func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}, nil
}

// refusesStrangers tells whether the server turns away a caller who knows its address and shows no certificate.
func (s *partnerServer) refusesStrangers(ctx context.Context) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.rootPEM))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+s.address+"/", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(r)
	if err == nil {
		answer.Body.Close()
		return fmt.Errorf("the partner took a request without a client certificate: %s", answer.Status)
	}
	// The refusal is an alert of TLS, which crypto/tls tells of so: a connection that failed otherwise would prove nothing.
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		return fmt.Errorf("the partner could not be asked without a client certificate: %w", err)
	}
	return nil
}

// open gives a partner its receiver.
func (s *partnerServer) open(p partner, key signer.VerifyingKey, endpointID string) error {
	verifier, err := signer.NewVerifier(p.scheme, []signer.VerifyingKey{key})
	if err != nil {
		return err
	}
	hook, err := receiver.New(receiver.Options{Verifier: verifier, OnEvent: func(_ context.Context, d receiver.Delivery) error {
		s.keep(receipt{d, p.name, time.Now()})
		return nil
	}})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[p.name] = hook
	s.identity[p.name] = "spiffe://sealpost/tenant/" + Tenant + "/endpoint/" + endpointID
	s.failing[p.name] = p.failFirst
	return nil
}

func (s *partnerServer) keep(r receipt) {
	s.mu.Lock()
	s.receipts = append(s.receipts, r)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// ServeHTTP looks at each request before anything is verified: whose certificate it has, and whether it carries
// what must not have left. That counts for requests that are then refused, too: their bytes have come.
func (s *partnerServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/hooks/")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, receiver.DefaultMaxBody))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	handler, fail := s.admit(name, r, body)
	if handler == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if fail {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	answer := &recorder{ResponseWriter: w}
	handler.ServeHTTP(answer, r)
	s.answered(name, answer.status)
}

func (s *partnerServer) admit(name string, r *http.Request, body []byte) (handler http.Handler, fail bool) {
	leaks := s.leak.inJSON(body)
	for _, values := range r.Header {
		leaks = leaks || s.leak.in([]byte(strings.Join(values, "\n")))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[name]++
	if leaks {
		s.leaksSeen++
	}
	if !carries(r.TLS, s.identity[name]) {
		s.problems = append(s.problems, name+": a request came with another endpoint's certificate")
	}
	if s.failing[name] > 0 {
		s.failing[name]--
		s.refused++
		return s.handlers[name], true
	}
	return s.handlers[name], false
}

// carries tells whether the client certificate, which the handshake has verified, is for that name.
func carries(state *tls.ConnectionState, name string) bool {
	if state == nil || len(state.VerifiedChains) == 0 {
		return false
	}
	for _, uri := range state.PeerCertificates[0].URIs {
		if uri.String() == name {
			return true
		}
	}
	return false
}

func (s *partnerServer) answered(name string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case status == http.StatusOK:
		s.twice++
	case status >= 300:
		s.problems = append(s.problems, fmt.Sprintf("%s: the receiver refused a request with %d", name, status))
	}
}

// count is how many deliveries were verified.
func (s *partnerServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.receipts)
}

// recorder remembers the status that was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// serverCertificate is a certificate for 127.0.0.1 by a CA that lives as long as the demo: the partner's own, which Sealpost is told to
// trust for its endpoints and for nothing else.
func serverCertificate() (certificate tls.Certificate, rootPEM string, err error) {
	now := time.Now()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate, "", err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Demo partner's CA"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return certificate, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate, "", err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "hooks.partner.example"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return certificate, "", err
	}
	rootPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}, rootPEM, nil
}
