package faults_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/sealpost/sealpost/test/rig"
)

// names is a name server that answers what it is told to, over UDP.
type names struct {
	address string

	mu      sync.Mutex
	answers map[string]answer
}

// answer is what is said of a name; one that nothing is said of does not exist.
type answer struct {
	code   dnsmessage.RCode
	at     []netip.Addr
	silent bool
}

func newNames(t *testing.T) *names {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{address: c.LocalAddr().String(), answers: map[string]answer{}}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		for buffer := make([]byte, 4096); ; {
			size, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			if reply := n.reply(buffer[:size]); reply != nil {
				c.WriteTo(reply, from)
			}
		}
	}()
	return n
}

func (n *names) say(name string, a answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name+"."] = a
}

func (n *names) reply(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	n.mu.Lock()
	a, known := n.answers[q.Name.String()]
	n.mu.Unlock()
	if a.silent {
		return nil
	}
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: a.code}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	m.Additionals = nil
	for _, at := range a.at {
		if q.Type == dnsmessage.TypeA && at.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: at.As4()},
			})
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// fickle is a receiver on two addresses of the loopback interface that answers the first request with 503, calls then, and takes
// all others. It keeps no connection.
type fickle struct {
	port string
	then func()

	mu   sync.Mutex
	came []string // the addresses that were called
}

var here, there = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")

// start listens with TLS where conf is not nil.
func (f *fickle) start(t *testing.T, conf *tls.Config) {
	t.Helper()
	s := &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}
	s.SetKeepAlivesEnabled(false)
	var serving sync.WaitGroup
	t.Cleanup(func() { s.Close(); serving.Wait() })
	f.port = "0"
	for _, at := range []netip.Addr{here, there} {
		l, err := net.Listen("tcp", net.JoinHostPort(at.String(), f.port))
		if err != nil {
			t.Fatal(err)
		}
		if _, f.port, err = net.SplitHostPort(l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if conf != nil {
			l = tls.NewListener(l, conf)
		}
		serving.Go(func() { s.Serve(l) })
	}
}

func (f *fickle) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	at, _, _ := net.SplitHostPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	f.came = append(f.came, at)
	if len(f.came) > 1 {
		return
	}
	f.then()
	w.WriteHeader(http.StatusServiceUnavailable)
}

// TestReceiverChanges has what a receiver's name leads to, and the certificate that it shows, be another at the second attempt.
func TestReceiverChanges(t *testing.T) {
	t.Parallel()
	dns := newNames(t)
	conf := rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"}, "egress": rig.Config{"nameServer": dns.address}})
	p := rig.Start(t, binary, conf)
	ca, other := rig.NewCA(t), rig.NewCA(t)
	day := time.Now().Add(24 * time.Hour)
	first := ca.Issue(day, "partner.test")
	private := netip.MustParseAddr("10.0.0.1")
	pinned := rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM(), "spkiPins": []string{rig.Pin(first.Leaf)}}
	plain := rig.Object{"clientCertificate": "NONE", "caPem": ca.PEM()}
	unavailable := "LATER UNAVAILABLE 503"
	for _, c := range []struct {
		name        string
		before      answer // default: here
		after       answer // default: as before
		certificate *tls.Certificate
		tls         rig.Object
		want        []string // the first attempts
		goesOn      bool     // once everything is as it was at first
		reaches     []string // addresses that were called meanwhile
	}{
		{name: "does not exist", before: answer{code: dnsmessage.RCodeNameError}, want: []string{"LATER DNS_NOT_FOUND 0"}},
		{name: "has no address", before: answer{at: []netip.Addr{}}, want: []string{"LATER DNS_NOT_FOUND 0"}},
		{name: "fails", before: answer{code: dnsmessage.RCodeServerFailure}, want: []string{"LATER DNS_FAILURE 0"}},
		{name: "is not answered", before: answer{silent: true}, want: []string{"LATER CONNECT_TIMEOUT 0"}},
		{name: "fails later", after: answer{code: dnsmessage.RCodeServerFailure}, want: []string{unavailable, "LATER DNS_FAILURE 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "moves", after: answer{at: []netip.Addr{there}}, want: []string{unavailable, "DONE ACCEPTED 200"}, reaches: []string{"127.0.0.1", "127.0.0.2"}},
		{name: "becomes private", after: answer{at: []netip.Addr{private}}, want: []string{unavailable, "LATER ADDRESS_FORBIDDEN 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "becomes the cloud's metadata", after: answer{at: []netip.Addr{netip.MustParseAddr("169.254.169.254")}}, want: []string{unavailable, "LATER ADDRESS_FORBIDDEN 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "becomes private beside public", after: answer{at: []netip.Addr{here, private}}, want: []string{unavailable, "LATER ADDRESS_FORBIDDEN 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "renews its certificate", certificate: ptr(ca.Issue(day, "partner.test")), tls: plain, want: []string{unavailable, "DONE ACCEPTED 200"}, reaches: []string{"127.0.0.1", "127.0.0.1"}},
		{name: "renews its certificate, pinned, with another key", certificate: ptr(ca.Issue(day, "partner.test")), tls: pinned, want: []string{unavailable, "LATER TLS_PIN_MISMATCH 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "shows another CA's certificate", certificate: ptr(other.Issue(day, "partner.test")), tls: plain, want: []string{unavailable, "LATER TLS_CERTIFICATE 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "shows another CA's certificate, pinned", certificate: ptr(other.Issue(day, "partner.test")), tls: pinned, want: []string{unavailable, "LATER TLS_CERTIFICATE 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "shows another name's certificate", certificate: ptr(ca.Issue(day, "elsewhere.test")), tls: plain, want: []string{unavailable, "LATER TLS_HOSTNAME 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
		{name: "lets its certificate expire", certificate: ptr(ca.Issue(time.Now().Add(-time.Hour), "partner.test")), tls: plain, want: []string{unavailable, "LATER TLS_EXPIRED 0"}, goesOn: true, reaches: []string{"127.0.0.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := &rig.Process{Client: p.In(t)}
			name, tenant := "partner.test", strings.Map(func(r rune) rune {
				if 'a' <= r && r <= 'z' {
					return r
				}
				return '-'
			}, strings.ToLower(c.name))
			if c.tls == nil {
				name = tenant + ".test"
			}
			start := c.before
			if start.at == nil && start.code == 0 && !start.silent {
				start.at = []netip.Addr{here}
			}
			dns.say(name, start)
			var mu sync.Mutex
			shown := &first
			f := &fickle{then: func() {
				if c.after.at != nil || c.after.code != 0 {
					dns.say(name, c.after)
				}
				if c.certificate != nil {
					mu.Lock()
					defer mu.Unlock()
					shown = c.certificate
				}
			}}
			var secure *tls.Config
			scheme := "http://"
			if c.tls != nil {
				scheme = "https://"
				secure = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					mu.Lock()
					defer mu.Unlock()
					return shown, nil
				}}
			}
			f.start(t, secure)
			spec := rig.Object{"tenant": tenant, "timeout": "5s"}
			if c.tls != nil {
				spec["tls"] = c.tls
			}
			ep := p.Register(scheme+name+":"+f.port+"/", spec)
			id := p.PublishMany(tenant, "e", 1)[0]
			var got []string
			rig.Eventually(t, "it is attempted", func() bool {
				got = attemptsOf(p, ep, id)
				return len(got) >= len(c.want)
			}, func() string { return fmt.Sprint(got) })
			if s := strings.Join(got[:len(c.want)], ", "); s != strings.Join(c.want, ", ") {
				t.Errorf("attempts: %s, want %s", s, strings.Join(c.want, ", "))
			}
			f.mu.Lock()
			if came := strings.Join(f.came, " "); came != strings.Join(c.reaches, " ") {
				t.Errorf("requests came to %s, want %s", came, strings.Join(c.reaches, " "))
			}
			f.mu.Unlock()
			if c.goesOn {
				dns.say(name, start)
				mu.Lock()
				shown = &first
				mu.Unlock()
				p.AwaitDelivery(ep, id, "DELIVERED")
			}
			t.Logf("%s", strings.Join(attemptsOf(p, ep, id), ", "))
			p.OK("DELETE", ep.Path(), nil)
		})
	}
}

func ptr[T any](v T) *T { return &v }

// attemptsOf are the attempts of an event's delivery: verdict, reason and status of each.
func attemptsOf(p *rig.Process, ep rig.Endpoint, event string) (out []string) {
	for _, d := range p.Deliveries("tenant=" + ep.Tenant + "&eventId=" + event + "&endpointId=" + ep.ID) {
		for _, a := range p.Delivery(d.S("id"), ep.Tenant).L("attempts") {
			out = append(out, fmt.Sprintf("%s %s %d", a.S("verdict"), a.S("reason"), a.N("statusCode")))
		}
	}
	return out
}
