package rig

import (
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Zone is a name server on loopback: every name leads to 127.0.0.1, and has the TXT records that were set.
type Zone struct {
	Address string // host:port

	mu  sync.Mutex
	txt map[string][]string
}

// NewZone starts one; it ends with the test.
func NewZone(tb testing.TB) *Zone {
	tb.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	z := &Zone{Address: socket.LocalAddr().String(), txt: map[string][]string{}}
	ready, done := make(chan struct{}), make(chan error, 1)
	server := &dns.Server{PacketConn: socket, Handler: z, NotifyStartedFunc: func() { close(ready) }}
	go func() { done <- server.ActivateAndServe() }()
	<-ready
	tb.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			tb.Error(err)
		}
		<-done
	})
	return z
}

// TXT sets the TXT records of a name; none: it has none.
func (z *Zone) TXT(name string, texts ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.txt[name+"."] = texts
}

// ServeDNS answers a query.
func (z *Zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	head := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: 1, Rrtype: q.Question[0].Qtype}
	z.mu.Lock()
	texts := z.txt[head.Name]
	z.mu.Unlock()
	switch head.Rrtype {
	case dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
	case dns.TypeTXT:
		for _, text := range texts {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{text}})
		}
		if len(texts) == 0 {
			m.Rcode = dns.RcodeNameError
		}
	}
	_ = w.WriteMsg(m)
}
