package faults_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	endian "encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// fault is one way in which a receiver misbehaves, and what the record of an attempt has to say of it.
type fault struct {
	name string
	// serve does it to one connection: a *tls.Conn with conf, otherwise a *net.TCPConn.
	serve  func(net.Conn)
	conf   *tls.Config
	spec   rig.Object // of the endpoint, beside the URL
	scheme string     // default http, or https with conf

	verdict string
	reason  string // or several: HTTP/2 requests that were not taken are made again within the attempt, and end where its time does
	status  int    // of the response; 0: there was none
}

const (
	attemptTimeout = 2 * time.Second
	// mayLast is what an attempt may take in all, on a machine with little to spare: its timeout, and the reading of a body
	// within it.
	mayLast = attemptTimeout + 2*time.Second
	// maxConnections is how many connections one attempt may make where a receiver has it come again.
	maxConnections = 4
	// maxRead is how much of a response's body may be read.
	maxRead = 64 << 10
)

// faults is the matrix.
func faults(t *testing.T) []fault {
	ca, other := rig.NewCA(t), rig.NewCA(t)
	day := time.Now().Add(24 * time.Hour)
	good := ca.Issue(day)
	server := func(c tls.Certificate, protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS13, NextProtos: protocols}
	}
	trusts := func(more rig.Object) rig.Object {
		conf := rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}
		for k, v := range more {
			conf[k] = v
		}
		return rig.Object{"tls": conf}
	}
	h2 := func(code uint32, answers bool) fault {
		return fault{serve: func(c net.Conn) { goAway(c, code, answers) }, conf: server(good, "h2"), spec: rig.Object{"http2": true, "tls": trusts(nil)["tls"]}}
	}
	named := func(name string, f fault, verdict, reason string, status int) fault {
		f.name, f.verdict, f.reason, f.status = name, verdict, reason, status
		return f
	}
	plain := func(serve func(net.Conn)) fault { return fault{serve: serve} }
	secure := func(serve func(net.Conn), conf *tls.Config, spec rig.Object) fault {
		return fault{serve: serve, conf: conf, spec: spec}
	}
	asking := server(good)
	asking.ClientAuth = tls.RequireAnyClientCert
	bomb := gzipBomb(t)
	return []fault{
		// Nothing, or never the whole of it.
		named("hang before the request is read", plain(hang), "LATER", "RESPONSE_TIMEOUT", 0),
		named("hang before headers", plain(after("")), "LATER", "RESPONSE_TIMEOUT", 0),
		named("hang within headers", plain(after("HTTP/1.1 200 OK\r\nContent-Le")), "LATER", "RESPONSE_TIMEOUT", 0),
		named("hang after headers", plain(after("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")), "DONE", "ACCEPTED", 200),
		named("hang after headers of a 503", plain(after("HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\n")), "LATER", "UNAVAILABLE", 503),
		named("trickled headers", plain(trickle("", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")), "LATER", "RESPONSE_TIMEOUT", 0),
		named("trickled body", plain(trickle("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", strings.Repeat("x", 1000))), "DONE", "ACCEPTED", 200),
		// Broken off.
		named("reset before headers", plain(reset("")), "LATER", "CONNECTION_RESET CONNECTION_CLOSED", 0),
		named("reset within headers", plain(reset("HTTP/1.1 200 OK\r\nX-A: b\r\n")), "LATER", "CONNECTION_RESET CONNECTION_CLOSED", 0),
		named("reset within the body", plain(reset("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nxx")), "DONE", "ACCEPTED", 200),
		named("closed before headers", plain(closed("")), "LATER", "CONNECTION_CLOSED CONNECTION_RESET", 0),
		named("closed within headers", plain(closed("HTTP/1.1 200 OK\r\nX-A: b\r\n")), "LATER", "CONNECTION_CLOSED CONNECTION_RESET", 0),
		// Not HTTP.
		named("garbage", plain(closed("\x00\xff\x17SSH-2.0-what?\r\n\r\n\r\n")), "LATER", "RESPONSE_INVALID", 0),
		named("garbage for a status", plain(closed("HTTP/1.1 2x0 OK\r\n\r\n")), "LATER", "RESPONSE_INVALID", 0),
		named("two lengths", plain(closed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")), "LATER", "RESPONSE_INVALID", 0),
		named("garbage for a chunk", plain(closed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nwhat\r\n")), "DONE", "ACCEPTED", 200),
		// Without an end.
		named("endless headers", plain(endless("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n")), "LATER", "RESPONSE_INVALID", 0),
		named("an endless header", plain(endless("HTTP/1.1 200 OK\r\nX-More: ", "and more ")), "LATER", "RESPONSE_INVALID", 0),
		named("endless early hints", plain(endless("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")), "LATER", "RESPONSE_INVALID", 0),
		named("an endless body", plain(endless("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("more ", 2000))), "DONE", "ACCEPTED", 200),
		named("an endless body of a 500", plain(endless("HTTP/1.1 500 No\r\n\r\n", strings.Repeat("more ", 2000))), "LATER", "SERVER_ERROR", 500),
		named("endless trailers", plain(endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X-More: and more\r\n")), "DONE", "ACCEPTED", 200),
		named("gzip bomb", plain(closed("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: "+fmt.Sprint(len(bomb))+"\r\n\r\n"+bomb)), "DONE", "ACCEPTED", 200),
		// HTTP/2.
		named("GOAWAY with an error", h2(2, false), "LATER", "CONNECTION_CLOSED CONNECTION_RESET RESPONSE_TIMEOUT", 0),
		named("GOAWAY to come again", h2(0, false), "LATER", "CONNECTION_CLOSED CONNECTION_RESET RESPONSE_TIMEOUT", 0),
		named("GOAWAY after headers", h2(0, true), "DONE", "ACCEPTED", 200),
		// TLS.
		named("a hanging handshake", fault{serve: hang, scheme: "https", spec: trusts(nil)}, "LATER", "CONNECT_TIMEOUT", 0),
		named("garbage for a handshake", fault{serve: insteadOfHandshake([]byte("HTTP/1.1 400 What?\r\n\r\n")), scheme: "https", spec: trusts(nil)}, "LATER", "TLS_HANDSHAKE", 0),
		named("an alert for a handshake", fault{serve: insteadOfHandshake([]byte{21, 3, 3, 0, 2, 2, 40}), scheme: "https", spec: trusts(nil)}, "LATER", "TLS_HANDSHAKE", 0),
		named("reset within the handshake", fault{serve: resetHandshake, scheme: "https", spec: trusts(nil)}, "LATER", "TLS_HANDSHAKE", 0),
		named("a record that cannot be deciphered", secure(garbled, server(good), trusts(nil)), "LATER", "RESPONSE_INVALID", 0),
		// The end of the connection can overtake the alert.
		named("an alert after the handshake", secure(after(""), asking, trusts(nil)), "LATER", "CLIENT_CERTIFICATE_REFUSED CONNECTION_CLOSED CONNECTION_RESET", 0),
		named("an expired certificate", secure(after(""), server(ca.Issue(time.Now().Add(-time.Hour))), trusts(nil)), "LATER", "TLS_EXPIRED", 0),
		named("another CA's certificate", secure(after(""), server(other.Issue(day)), trusts(nil)), "LATER", "TLS_CERTIFICATE", 0),
		named("another name's certificate", secure(after(""), server(ca.Issue(day, "elsewhere.example")), trusts(nil)), "LATER", "TLS_HOSTNAME", 0),
		named("another key's certificate", secure(after(""), server(ca.Issue(day)), trusts(rig.Object{"spkiPins": []string{rig.Pin(good.Leaf)}})), "LATER", "TLS_PIN_MISMATCH", 0),
	}
}

// hang reads nothing and says nothing.
func hang(c net.Conn) { untilClosed(c) }

// after says something once the request has come, and then hangs.
func after(say string) func(net.Conn) {
	return func(c net.Conn) {
		if request(c) {
			io.WriteString(c, say)
			untilClosed(c)
		}
	}
}

func closed(say string) func(net.Conn) {
	return func(c net.Conn) {
		if request(c) {
			io.WriteString(c, say)
		}
	}
}

func reset(say string) func(net.Conn) {
	return func(c net.Conn) {
		if request(c) {
			io.WriteString(c, say)
			time.Sleep(20 * time.Millisecond) // what is said arrives before the reset takes it away
			c.(*net.TCPConn).SetLinger(0)
		}
	}
}

func trickle(first, rest string) func(net.Conn) {
	return func(c net.Conn) {
		if !request(c) {
			return
		}
		io.WriteString(c, first)
		for i := range len(rest) {
			time.Sleep(100 * time.Millisecond)
			if _, err := io.WriteString(c, rest[i:i+1]); err != nil {
				return
			}
		}
	}
}

func endless(first, more string) func(net.Conn) {
	return func(c net.Conn) {
		if !request(c) {
			return
		}
		_, err := io.WriteString(c, first)
		for block := strings.Repeat(more, max(1, 4096/len(more))); err == nil; {
			_, err = io.WriteString(c, block)
		}
	}
}

// insteadOfHandshake answers a ClientHello; 21 3 3 0 2 2 40 is the fatal alert handshake_failure (RFC 8446, section 6).
func insteadOfHandshake(say []byte) func(net.Conn) {
	return func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write(say)
	}
}

func resetHandshake(c net.Conn) {
	c.Read(make([]byte, 1))
	c.(*net.TCPConn).SetLinger(0)
}

// garbled takes the request, and answers with what cannot be deciphered.
func garbled(c net.Conn) {
	if request(c) {
		c.(*tls.Conn).NetConn().Write([]byte{23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
		untilClosed(c)
	}
}

// goAway speaks HTTP/2 (RFC 9113) up to the first request, and then sends GOAWAY; answers says whether the request's headers
// are answered before it, without an end.
func goAway(c net.Conn, code uint32, answers bool) {
	frame := func(kind, flags byte, stream uint32, payload ...byte) []byte {
		head := endian.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
		return append(endian.BigEndian.AppendUint32(append(head, flags), stream), payload...)
	}
	// A connection that was made for an attempt which ended meanwhile is the pool's, and idle.
	c.SetDeadline(time.Now().Add(2 * attemptTimeout))
	in := bufio.NewReader(c)
	if _, err := io.ReadFull(in, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return
	}
	c.Write(frame(4, 0, 0)) // SETTINGS
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		if _, err := in.Discard(int(endian.BigEndian.Uint32(head) >> 8)); err != nil {
			return
		}
		if head[3] != 1 { // HEADERS
			continue
		}
		stream, last := endian.BigEndian.Uint32(head[5:]), uint32(0)
		if answers {
			last = stream
			c.Write(frame(1, 4, stream, 0x88)) // :status 200
		}
		c.Write(frame(7, 0, 0, endian.BigEndian.AppendUint32(endian.BigEndian.AppendUint32(nil, last), code)...))
		if answers {
			untilClosed(c)
		}
		io.Copy(io.Discard, io.LimitReader(in, 1<<10))
		return
	}
}

// gzipBomb is a quarter of a megabyte that would be a quarter of a gigabyte.
func gzipBomb(t *testing.T) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	zeros := make([]byte, 1<<20)
	for range 256 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func untilClosed(c net.Conn) { io.Copy(io.Discard, c) }

// request reads one request to its end.
func request(c net.Conn) bool {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// ill is a server of one fault. It counts the connections that it has, which are for the relay to close.
type ill struct {
	fault
	url  string
	open atomic.Int64
	came atomic.Int64
}

func (f fault) start(t *testing.T) *ill {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &ill{fault: f}
	switch {
	case f.scheme != "":
		s.url = f.scheme
	case f.conf != nil:
		s.url = "https"
	default:
		s.url = "http"
	}
	s.url += "://" + l.Addr().String() + "/"
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.came.Add(1)
			s.open.Add(1)
			all.Go(func() {
				defer s.open.Add(-1)
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(30 * time.Second)) // far beyond what an attempt may last
				if f.conf != nil {
					secure := tls.Server(conn, f.conf)
					f.serve(secure)
					if !secure.ConnectionState().HandshakeComplete {
						io.Copy(io.Discard, conn) // closed with something unread, TCP would take our alert back
					}
					return
				}
				f.serve(conn)
			})
		}
	})
	return s
}

// TestReceivers has receivers misbehave in every way of the matrix at once, wave after wave: each attempt has the verdict and the
// reason of its row, ends in its time, and leaves nothing behind: no goroutine, no socket, no memory.
func TestReceivers(t *testing.T) {
	t.Parallel()
	// An endpoint's breaker opens at its tenth failure, so each has fewer, and each wave has endpoints of its own.
	const endpoints, events = 2, 5
	matrix := faults(t)
	waves := max(3, *attempts/(len(matrix)*endpoints*events))
	if *long {
		waves = max(waves, 10000/(len(matrix)*endpoints*events))
	}
	conf := rig.Dev()
	conf["delivery"] = rig.Config{"retryIntervals": []string{"1h"}, "checkpointEvery": "500ms"}
	conf["log"] = rig.Config{"level": "warn"}
	p := rig.Start(t, binary, conf)
	var first footprint
	made := 0
	for wave := range waves {
		// The first one, of twice as many endpoints, makes what is made once: couriers, pools of buffers, transports.
		n := endpoints
		if wave == 0 {
			n = 2 * endpoints
		}
		made += runWave(t, p, matrix, wave, n, events)
		now := settled(t, p, first)
		if wave == 0 {
			first = now
		}
		t.Logf("wave %d: %d attempts so far; %v", wave+1, made, now)
		now.holds(t, first)
	}
	t.Logf("%d ways to misbehave, %d attempts, each with its verdict and reason; at first %v, at the end %v", len(matrix), made, first, measure(t, p))
}

func runWave(t *testing.T, p *rig.Process, matrix []fault, wave, endpoints, events int) (attempts int) {
	tenant := fmt.Sprintf("wave-%d", wave)
	type sick struct {
		*ill
		rig.Endpoint
	}
	var all []sick
	for _, f := range matrix {
		for range endpoints {
			spec := rig.Object{"tenant": tenant, "timeout": fmt.Sprint(attemptTimeout), "concurrency": 1}
			maps.Copy(spec, f.spec)
			s := f.start(t)
			all = append(all, sick{s, p.Register(s.url, spec)})
		}
	}
	ids := p.PublishMany(tenant, tenant, events)
	for _, s := range all {
		var list []rig.Object
		rig.Eventually(t, fmt.Sprintf("all deliveries to one that does %q have been attempted", s.name), func() bool {
			list = p.Deliveries("tenant=" + tenant + "&endpointId=" + s.ID)
			done := 0
			for _, d := range list {
				if d.S("state") == "DELIVERED" || d.S("state") == "RETRYING" {
					done++
				}
			}
			return done == len(ids)
		}, func() string { return fmt.Sprint(list) })
		for _, one := range list {
			d := p.Delivery(one.S("id"), tenant)
			attempts += len(d.L("attempts"))
			s.check(t, d)
		}
		if n := s.came.Load(); n > int64(events*maxConnections) {
			t.Errorf("%s: %d connections for %d attempts", s.name, n, events)
		}
	}
	for _, s := range all {
		p.OK("DELETE", s.Path(), nil)
	}
	for _, s := range all {
		rig.Eventually(t, "the relay has closed every connection to one that does "+s.name, func() bool { return s.open.Load() == 0 },
			func() string { return fmt.Sprintf("%d of %d are open", s.open.Load(), s.came.Load()) })
	}
	return attempts
}

func (f fault) gives(reason string) bool { return slices.Contains(strings.Fields(f.reason), reason) }

// check holds the record of one delivery's one attempt against the fault's row.
func (s *ill) check(t *testing.T, d rig.Object) {
	state := "RETRYING"
	if s.verdict == "DONE" {
		state = "DELIVERED"
	}
	if d.S("state") != state || !s.gives(d.S("reason")) || len(d.L("attempts")) != 1 {
		t.Errorf("%s: %s %s after %d attempts, want %s %s after one", s.name, d.S("state"), d.S("reason"), len(d.L("attempts")), state, s.reason)
	}
	for _, a := range d.L("attempts") {
		if a.S("verdict") != s.verdict || !s.gives(a.S("reason")) || a.N("statusCode") != s.status {
			t.Errorf("%s: %s %s %d, want %s %s %d", s.name, a.S("verdict"), a.S("reason"), a.N("statusCode"), s.verdict, s.reason, s.status)
		}
		if n := a.N("responseSize"); n > maxRead {
			t.Errorf("%s: %d bytes of the response were read", s.name, n)
		}
		if took, err := time.ParseDuration(a.S("durations", "total")); err != nil || took > mayLast {
			t.Errorf("%s: an attempt took %v, with a timeout of %v; %v", s.name, took, attemptTimeout, err)
		}
	}
}

// footprint is what a process holds of its machine.
type footprint struct {
	goroutines, files float64
	resident          float64 // bytes
}

func measure(t *testing.T, p *rig.Process) footprint {
	return footprint{p.Metric("go_goroutines", ""), p.Metric("process_open_fds", ""), p.Metric("process_resident_memory_bytes", "")}
}

func (f footprint) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f files, %.0f MiB", f.goroutines, f.files, f.resident/(1<<20))
}

// What a process may hold more than after its first wave. One goroutine or socket left behind by each attempt of one single way
// to misbehave would be more than that after all waves.
const (
	moreGoroutines = 15
	moreFiles      = 15
	moreResident   = 96 << 20
)

// settled is the footprint once what was going on has ended, or does not seem to.
func settled(t *testing.T, p *rig.Process, want footprint) footprint {
	var now footprint
	for range 50 {
		now = measure(t, p)
		if want.goroutines > 0 && now.goroutines <= want.goroutines+moreGoroutines && now.files <= want.files+moreFiles {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return now
}

func (f footprint) holds(t *testing.T, first footprint) {
	t.Helper()
	if f.goroutines > first.goroutines+moreGoroutines || f.files > first.files+moreFiles || f.resident > first.resident+moreResident {
		t.Errorf("left behind: %v, after the first wave %v", f, first)
	}
}
