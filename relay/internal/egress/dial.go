package egress

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Resolver finds the addresses of a host name. *net.Resolver is one.
type Resolver interface {
	// LookupNetIP returns the addresses of host for network "ip". A name that does not exist is a *net.DNSError with
	// IsNotFound.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// systemResolver asks the name servers with Go's own resolver, for the very name: the C library's would take
// "2130706433" for an address, and the system's search list would turn a partner's name into one of ours. localhost is
// never asked for (RFC 6761 section 6.3).
type systemResolver struct{ resolver net.Resolver }

func (s *systemResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	return s.resolver.LookupNetIP(ctx, network, name+".")
}

// LookupTXT returns the TXT records of the very name.
func (s *systemResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return s.resolver.LookupTXT(ctx, strings.TrimSuffix(name, ".")+".")
}

// NameServer is a Resolver that asks the one server at an address, host:port, in place of the system's.
func NameServer(address string) Resolver {
	s := &systemResolver{}
	s.resolver.PreferGo = true
	s.resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	return s
}

const (
	maxTried     = 8 // addresses of one name that are tried; all are checked
	minimumSlice = time.Second
)

// A conn is one TCP connection with what is known of it. All but what stands below the line is written while it is being
// made, and only read afterwards.
type conn struct {
	net.Conn
	dns, connect, handshake time.Duration
	remote                  netip.AddrPort
	tlsVersion              uint16
	subject, fingerprint    string // of the server's certificate
	asked                   bool   // the server asked for a client certificate
	presented               string // the fingerprint of the one it got
	required                bool   // no body before confirmed

	confirmed atomic.Bool // the server has shown that it took our certificate
	sent      int64       // bytes that the kernel has taken; for whoever writes
	glance    *glance     // not nil: Read does not wait; for whoever reads
	closed    func()      // not nil: called once, when it is
	once      sync.Once
}

func (c *conn) Read(p []byte) (int, error) {
	if c.glance != nil {
		return c.glance.read(p)
	}
	return c.Conn.Read(p)
}

func (c *conn) Close() error {
	if c.closed != nil {
		c.once.Do(c.closed)
	}
	return c.Conn.Close()
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent += int64(n)
	return n, err
}

func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*conn)
	return own
}

// A dialer makes the connections of one Prepared.
type dialer struct {
	to       *Prepared
	guard    *Guard
	resolver Resolver
	timeout  time.Duration // for all of resolving, connecting and the handshake
	wait     time.Duration // for a session ticket
	silent   silentHosts
}

// dialPlain makes a connection for an http:// URL.
func (d *dialer) dialPlain(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c := &conn{}
	if err := d.open(ctx, c, address); err != nil {
		return nil, err
	}
	return c, nil
}

// dialTLS makes a connection for an https:// URL: handshake done, pins checked, and our certificate taken where it is
// required. It fails with errSilent where the server does not show by a ticket that it took the certificate.
func (d *dialer) dialTLS(ctx context.Context, _, address string) (net.Conn, error) {
	if d.to.trust.Mode == Required && d.silent.known(address) {
		return nil, &Error{Reason: ClientCertificateUnconfirmed, Err: errSilent}
	}
	return d.dialSecure(ctx, address, d.wait)
}

// dialGated is dialTLS for servers that send no tickets: the connection is not confirmed yet, and what is written on it
// must be gated.
func (d *dialer) dialGated(ctx context.Context, _, address string) (net.Conn, error) {
	return d.dialSecure(ctx, address, 0)
}

var errSilent = fmt.Errorf("%w: no session ticket", ErrClientCertificateUnconfirmed)

func (d *dialer) dialSecure(ctx context.Context, address string, wait time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	c := &conn{required: d.to.trust.Mode == Required}
	if err := d.open(ctx, c, address); err != nil {
		return nil, err
	}
	secure, err := d.secure(ctx, c, address, wait)
	if err != nil {
		c.Close() // the TCP connection; there is nothing to say goodbye to
		return nil, err
	}
	return secure, nil
}

// open resolves, checks every answer, and connects to the first address that takes the connection, one after the other,
// each with its share of the time left.
func (d *dialer) open(ctx context.Context, c *conn, address string) error {
	start := time.Now()
	targets, err := d.targets(ctx, address)
	c.dns = time.Since(start)
	if err != nil {
		return err
	}
	start = time.Now()
	var first error
	for i, target := range targets {
		raw, err := d.connect(ctx, target, len(targets)-i)
		c.connect = time.Since(start)
		c.remote = target
		if err == nil {
			c.Conn = raw
			return nil
		}
		if first == nil {
			first = &Error{Reason: connectReason(err), Err: err, conn: c}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return first
}

func (d *dialer) targets(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &Error{Reason: TransportOther, Err: fmt.Errorf("%w: %w", ErrRequest, err)}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, &Error{Reason: TransportOther, Err: fmt.Errorf("%w: port: %w", ErrRequest, err)}
	}
	answers, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	targets := make([]netip.AddrPort, 0, len(answers))
	for _, answer := range answers {
		// One bad answer refuses them all: a name that leads inside as well as outside is not a partner's.
		target, err := d.guard.CheckPort(netip.AddrPortFrom(answer, uint16(port)))
		if err != nil {
			return nil, &Error{Reason: AddressForbidden, Err: err}
		}
		targets = append(targets, target)
	}
	return targets[:min(len(targets), maxTried)], nil
}

func (d *dialer) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	// netip.ParseAddr takes one spelling of an IPv4 address only: four decimal parts without leading zeros.
	if literal, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{literal}, nil
	}
	if !isName(host) {
		return nil, &Error{Reason: AddressForbidden, Err: &ForbiddenError{ClassInvalid}}
	}
	answers, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &Error{Reason: dnsReason(err), Err: fmt.Errorf("resolve: %w", err)}
	}
	if len(answers) == 0 {
		return nil, &Error{Reason: DNSNotFound, Err: errors.New("resolve: no address")}
	}
	return answers, nil
}

// isName is whether host can be a DNS name. A last label that is a number is not one (URL Standard, "ends in a
// number"): "0177.0.0.1", "2130706433" and "0x7f.1" are addresses to some resolvers.
func isName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, r := range []byte(label) {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	last := strings.ToLower(labels[len(labels)-1])
	if digits, hex := strings.CutPrefix(last, "0x"); hex {
		return strings.Trim(digits, "0123456789abcdef") != ""
	}
	return strings.Trim(last, "0123456789") != ""
}

func (d *dialer) connect(ctx context.Context, target netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		slice := max(time.Until(deadline)/time.Duration(left), minimumSlice)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, slice)
		defer cancel()
	}
	plain := net.Dialer{
		KeepAlive: 30 * time.Second,
		// The same check once more on what the kernel is about to be given, whatever happened on the way.
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return &ForbiddenError{ClassInvalid}
			}
			_, err = d.guard.CheckPort(to)
			return err
		},
	}
	return plain.DialContext(ctx, "tcp", target.String())
}

func (d *dialer) secure(ctx context.Context, c *conn, address string, wait time.Duration) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &Error{Reason: TransportOther, Err: fmt.Errorf("%w: %w", ErrRequest, err), conn: c}
	}
	start := time.Now()
	watch := &ticketWatch{conn: c, seen: func() { d.silent.forget(address) }}
	secure := tls.Client(c, d.config(c, host, watch))
	err = secure.HandshakeContext(ctx)
	c.handshake = time.Since(start)
	if err != nil {
		reason, err := handshakeError(err, c.asked)
		return nil, &Error{Reason: reason, Err: err, conn: c}
	}
	c.learn(secure.ConnectionState())
	if c.required {
		err = d.confirm(ctx, c, secure, watch, address, wait)
		c.handshake = time.Since(start)
		if err != nil {
			return nil, err
		}
	}
	return secure, nil
}

func (d *dialer) config(c *conn, host string, watch *ticketWatch) *tls.Config {
	protocols := []string{"http/1.1"}
	if d.to.trust.HTTP2 {
		protocols = []string{"h2", "http/1.1"}
	}
	return &tls.Config{
		ServerName:       strings.TrimSuffix(host, "."),
		RootCAs:          d.to.roots,
		MinVersion:       d.to.trust.MinVersion,
		NextProtos:       protocols,
		VerifyConnection: d.to.verifyPins,
		// Without a cache the client tells the server that it takes no tickets; see ticketWatch.
		ClientSessionCache: watch,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c.asked = true
			if d.to.trust.Certificate == nil {
				return &tls.Certificate{}, nil
			}
			// Presented whatever authorities the server names: many name none or the wrong ones, and it is for the
			// server to refuse.
			c.presented = d.to.certificate
			return d.to.trust.Certificate, nil
		},
	}
}

func (c *conn) learn(state tls.ConnectionState) {
	c.tlsVersion = state.Version
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		sum := sha256.Sum256(leaf.Raw)
		c.subject, c.fingerprint = leaf.Subject.String(), hex.EncodeToString(sum[:])
	}
}

// confirm finds out whether the server took our certificate.
//
// In TLS 1.2 the server's Finished comes after it has judged our certificate (RFC 5246 section 7.3), so a completed
// handshake is the answer. In TLS 1.3 the client is done before the server has even seen the certificate (RFC 8446
// section 2); what tells is what comes next. A session ticket cannot be made before the server has our second flight,
// because its key depends on it (RFC 8446 section 4.6.1), so a ticket is acceptance; an alert or the end of the
// connection is refusal. Some servers send no tickets: to those the body goes only after a "100 Continue" to our
// headers, which are application data and so prove the same (RFC 9110 section 10.1.1). Their connections are kept apart,
// in a transport of their own, so that every connection of the first transport is confirmed. A wait of 0 makes one.
func (d *dialer) confirm(ctx context.Context, c *conn, secure *tls.Conn, watch *ticketWatch, address string, wait time.Duration) error {
	if !c.asked {
		return &Error{Reason: ClientCertificateNotRequested, Err: ErrClientCertificateNotRequested, conn: c}
	}
	if c.tlsVersion < tls.VersionTLS13 {
		c.confirmed.Store(true)
		return nil
	}
	if wait == 0 {
		return nil
	}
	read, err := watch.read(ctx, secure, wait)
	switch {
	case ctx.Err() != nil:
		reason, err := handshakeError(ctx.Err(), false)
		return &Error{Reason: reason, Err: err, conn: c}
	case read > 0:
		// Nothing was asked yet, and the byte cannot be put back for net/http to find.
		return &Error{Reason: ClientCertificateUnconfirmed, Err: fmt.Errorf("%w: it spoke first", ErrClientCertificateUnconfirmed), conn: c}
	case c.confirmed.Load():
		return nil
	case timedOut(err):
		d.silent.remember(address)
		return &Error{Reason: ClientCertificateUnconfirmed, Err: errSilent, conn: c}
	default:
		return &Error{Reason: ClientCertificateRefused, Err: fmt.Errorf("%w: %w", ErrClientCertificateRefused, err), conn: c}
	}
}

// A ticketWatch is a session cache that keeps no session and so resumes none: a resumed session would not show us the
// server asking for our certificate. crypto/tls calls Put, from within Read, for every ticket that arrives.
type ticketWatch struct {
	conn    *conn
	seen    func()
	waiting atomic.Bool
}

// Get never finds a session.
func (w *ticketWatch) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

// Put takes note of a ticket, and drops it.
func (w *ticketWatch) Put(_ string, state *tls.ClientSessionState) {
	if state == nil || !w.conn.required || !w.conn.asked || w.conn.tlsVersion < tls.VersionTLS13 {
		return
	}
	w.conn.confirmed.Store(true)
	if w.waiting.Load() {
		_ = w.conn.SetReadDeadline(time.Unix(1, 0)) // ends the Read that we are in; crypto/tls keeps no such error
		return
	}
	w.seen() // late, found by net/http's read: the host does send tickets
}

// read reads until a ticket has come, the connection ends, wait is over or ctx is done.
func (w *ticketWatch) read(ctx context.Context, secure *tls.Conn, wait time.Duration) (int, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	w.waiting.Store(true)
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
	var one [1]byte
	n, err := secure.Read(one[:])
	stop()
	w.waiting.Store(false)
	if resetErr := w.conn.SetReadDeadline(time.Time{}); resetErr != nil && err == nil {
		err = resetErr
	}
	return n, err
}

// silentHosts remembers which hosts sent no ticket, so that not each new connection waits for one. Forgotten after a
// while: a host that was merely slow once must not be asked for "100 Continue" for ever.
type silentHosts struct {
	mu    sync.Mutex
	until map[string]time.Time
}

const (
	silentFor = 10 * time.Minute
	maxSilent = 1024
)

func (s *silentHosts) known(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until[address])
}

func (s *silentHosts) remember(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil || len(s.until) >= maxSilent {
		s.until = map[string]time.Time{}
	}
	s.until[address] = time.Now().Add(silentFor)
}

func (s *silentHosts) forget(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, address)
}
