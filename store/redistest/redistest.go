// Package redistest starts real redis-server processes for tests: one server, one over TLS, or a cluster of three.
// Each listens on a loopback port of its own, keeps nothing on disk, and is killed when its test ends. Where
// redis-server is missing the test fails and says how to install it: it is never skipped.
package redistest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// startTimeout bounds how long a server, or a cluster's agreement, may take.
const startTimeout = 30 * time.Second

// Server is a running redis-server.
type Server struct {
	tb       testing.TB
	dir      string
	port     int
	args     []string
	password string
	files    *tlsFiles

	mu      sync.Mutex
	process *exec.Cmd
	log     strings.Builder
}

// Start starts a server with a password.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), password: "s3cret pass/word"}
	s.args = []string{"--requirepass", s.password}
	s.run()
	return s
}

// StartTLS starts a server that speaks TLS alone and asks clients for a certificate.
func StartTLS(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, dir: tb.TempDir(), password: "s3cret"}
	s.files = writeTLS(tb, s.dir)
	s.args = []string{"--requirepass", s.password, "--tls-cert-file", s.files.cert, "--tls-key-file", s.files.key,
		"--tls-ca-cert-file", s.files.ca, "--tls-auth-clients", "yes"}
	s.run()
	return s
}

// Addr is the server's host:port; it stays over Restart.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Password is what the server requires.
func (s *Server) Password() string { return s.password }

// URL is the address for store.Open, with the given prefix for all keys.
func (s *Server) URL(prefix string) string {
	u := url.URL{Scheme: "redis", Host: s.Addr(), User: url.UserPassword("", s.password), RawQuery: url.Values{"prefix": {prefix}}.Encode()}
	if s.files != nil {
		u.Scheme = "rediss"
		u.RawQuery = url.Values{"prefix": {prefix}, "ca": {s.files.ca}, "cert": {s.files.cert}, "key": {s.files.key}}.Encode()
	}
	return u.String()
}

// Client is a client of a server without TLS, closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: s.password, DisableIdentity: true})
	s.tb.Cleanup(func() { c.Close() })
	return c
}

// Kill ends the server as kill -9 does; all that it held is lost.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	s.process.Process.Kill()
	s.process.Wait()
	s.process = nil
}

// Suspend stops the server where it is, with its connections open, until Resume or Kill.
func (s *Server) Suspend() { s.signal(syscall.SIGSTOP) }

// Resume lets a suspended server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.tb.Fatal("redis-server does not run")
	}
	if err := s.process.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// Restart starts the server again, empty, on its port, after Kill.
func (s *Server) Restart() {
	s.tb.Helper()
	if err := s.start(); err != nil {
		s.tb.Fatalf("redis-server: start again: %v\n%s", err, s.output())
	}
}

// run starts the server on a free port. Another process may take a port between its being found free and used: then the next
// is tried.
func (s *Server) run() {
	s.tb.Helper()
	s.tb.Cleanup(s.Kill)
	var err error
	for range 10 {
		s.port = freePort(s.tb)
		if err = s.start(); err == nil {
			return
		}
	}
	s.tb.Fatalf("redis-server: %v\n%s", err, s.output())
}

func (s *Server) start() error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		s.tb.Fatal("redis-server is missing, and this test needs a real one: install it (Debian, Ubuntu: apt-get install redis-server; Fedora: dnf install redis; macOS: brew install redis)")
	}
	port := "--port"
	args := []string{"--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no", "--daemonize", "no"}
	if s.files != nil {
		args = append(args, "--port", "0")
		port = "--tls-port"
	}
	args = append(append(args, port, strconv.Itoa(s.port)), s.args...)
	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	ready := make(chan bool, 1)
	go s.follow(out, ready)
	select {
	case ok := <-ready:
		if !ok {
			cmd.Wait()
			return fmt.Errorf("ended before it was ready")
		}
	case <-time.After(startTimeout):
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("was not ready in %v", startTimeout)
	}
	s.mu.Lock()
	s.process = cmd
	s.mu.Unlock()
	return nil
}

// follow keeps the server's output and tells when it accepts connections, or that it ended first.
func (s *Server) follow(out io.Reader, ready chan<- bool) {
	told := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		s.mu.Lock()
		if s.log.Len() < 64<<10 {
			s.log.WriteString(lines.Text() + "\n")
		}
		s.mu.Unlock()
		if !told && strings.Contains(strings.ToLower(lines.Text()), "ready to accept connections") {
			told = true
			ready <- true
		}
	}
	if !told {
		ready <- false
	}
}

func (s *Server) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Cluster is a Redis Cluster of three masters without replicas.
type Cluster struct {
	Nodes []*Server
}

const slots = 16384

// StartCluster starts three nodes and gives each a third of the slots.
func StartCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{}
	for range 3 {
		s := &Server{tb: tb, dir: tb.TempDir(), password: "s3cret"}
		s.args = []string{"--requirepass", s.password, "--masterauth", s.password, "--cluster-enabled", "yes",
			"--cluster-port", strconv.Itoa(freePort(tb)), "--cluster-node-timeout", "5000"}
		s.run()
		c.Nodes = append(c.Nodes, s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	first := c.Nodes[0].Client()
	for i, node := range c.Nodes {
		client := node.Client()
		if err := client.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
			tb.Fatalf("redis cluster: %v", err)
		}
		if err := first.Do(ctx, "cluster", "meet", "127.0.0.1", node.port, node.busPort()).Err(); err != nil {
			tb.Fatalf("redis cluster: %v", err)
		}
	}
	for _, node := range c.Nodes {
		await(ctx, tb, node.Client())
	}
	return c
}

func (s *Server) busPort() string {
	for i, arg := range s.args {
		if arg == "--cluster-port" {
			return s.args[i+1]
		}
	}
	return ""
}

// await asks a node until it says that all slots are served and that it knows all three.
func await(ctx context.Context, tb testing.TB, c *redis.Client) {
	tb.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := c.ClusterInfo(ctx).Result()
		if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("redis cluster: not formed in %v: %v\n%s", startTimeout, err, info)
		case <-tick.C:
		}
	}
}

// URL is the address for store.Open, with the given prefix for all keys.
func (c *Cluster) URL(prefix string) string {
	u := url.URL{Scheme: "redis+cluster", Host: c.Nodes[0].Addr(), User: url.UserPassword("", c.Nodes[0].password)}
	u.RawQuery = url.Values{"prefix": {prefix}, "addr": {c.Nodes[1].Addr(), c.Nodes[2].Addr()}}.Encode()
	return u.String()
}

// tlsFiles are the paths of a root and of a certificate of 127.0.0.1 for server and client.
type tlsFiles struct{ ca, cert, key string }

func writeTLS(tb testing.TB, dir string) *tlsFiles {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redistest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	f := &tlsFiles{cert: write("cert.pem", "CERTIFICATE", cert), key: write("key.pem", "PRIVATE KEY", private)}
	f.ca = f.cert
	return f
}
