package egress

import (
	"context"
	"crypto/sha256"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a Pool. The zero value is complete: public addresses only, the system's name servers, the defaults below.
type Options struct {
	Guard    Guard
	Resolver Resolver // nil: Go's resolver, names taken as absolute

	ConnectTimeout  time.Duration // resolving, connecting and TLS together; 0: 5 s
	AttemptTimeout  time.Duration // the longest any request may last, its response body included; 0: 60 s
	TicketWait      time.Duration // how long a new connection waits for a session ticket; 0: 1 s
	ContinueWait    time.Duration // how long a gated request waits for "100 Continue"; 0: 5 s
	IdlePerHost     int           // connections kept idle per host and trust; 0: 64
	IdleConnTimeout time.Duration // 0: 90 s
}

const (
	maxResponseHeader = 64 << 10
	unusedFor         = 5 * time.Minute // longer than any attempt and any idle connection
)

// A Pool keeps one tuned transport per distinct Prepared, with its connections. It is safe for concurrent use. Its memory
// grows with the number of trusts in use; one that was not used for five minutes is dropped when another is added.
type Pool struct {
	options Options

	mu         sync.RWMutex // guards transports
	transports map[[sha256.Size]byte]*kept
}

type kept struct {
	transport *http.Transport // where a certificate is required, it holds confirmed connections only
	gated     *http.Transport // only where one is required: the connections of servers that send no tickets
	used      atomic.Int64    // unix nanoseconds
}

func (k *kept) closeIdle() {
	k.transport.CloseIdleConnections()
	if k.gated != nil {
		k.gated.CloseIdleConnections()
	}
}

// NewPool returns a Pool without connections. It starts nothing.
func NewPool(options Options) *Pool {
	if options.Resolver == nil {
		system := &systemResolver{}
		system.resolver.PreferGo = true
		options.Resolver = system
	}
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	or(&options.ConnectTimeout, 5*time.Second)
	or(&options.AttemptTimeout, 60*time.Second)
	or(&options.TicketWait, time.Second)
	or(&options.ContinueWait, 5*time.Second)
	or(&options.IdleConnTimeout, 90*time.Second)
	if options.IdlePerHost <= 0 {
		options.IdlePerHost = 64
	}
	return &Pool{options: options, transports: map[[sha256.Size]byte]*kept{}}
}

// Retire closes the idle connections made under the trust and forgets its transport; a request in flight ends as it
// would. The next request under an equal trust starts anew.
func (p *Pool) Retire(to *Prepared) {
	p.mu.Lock()
	gone := p.transports[to.key]
	delete(p.transports, to.key)
	p.mu.Unlock()
	if gone != nil {
		gone.closeIdle()
	}
}

// Close retires every trust. Requests in flight end as they would; cancel their contexts to end them now.
func (p *Pool) Close() {
	p.mu.Lock()
	all := p.transports
	p.transports = map[[sha256.Size]byte]*kept{}
	p.mu.Unlock()
	for _, one := range all {
		one.closeIdle()
	}
}

func (p *Pool) keep(to *Prepared) *kept {
	now := time.Now()
	p.mu.RLock()
	found := p.transports[to.key]
	p.mu.RUnlock()
	if found == nil {
		found = p.add(to, now)
	}
	found.used.Store(now.UnixNano())
	return found
}

func (p *Pool) add(to *Prepared, now time.Time) *kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := p.transports[to.key]; found != nil {
		return found
	}
	for key, one := range p.transports {
		if now.UnixNano()-one.used.Load() > int64(unusedFor) {
			one.closeIdle()
			delete(p.transports, key)
		}
	}
	made := p.newKept(to)
	made.used.Store(now.UnixNano())
	p.transports[to.key] = made
	return made
}

func (p *Pool) newKept(to *Prepared) *kept {
	d := &dialer{
		to:       to,
		guard:    &p.options.Guard,
		resolver: p.options.Resolver,
		timeout:  p.options.ConnectTimeout,
		wait:     p.options.TicketWait,
	}
	made := &kept{transport: p.newTransport(to, d.dialPlain, d.dialTLS)}
	if to.trust.Mode == Required {
		made.gated = p.newTransport(to, d.dialPlain, d.dialGated)
	}
	return made
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// newTransport is net/http's transport, used below http.Client, so that nothing follows redirects, keeps cookies or
// turns the URL's user into a header. It uses no proxy, because Proxy is nil.
func (p *Pool) newTransport(to *Prepared, plain, secure dial) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(to.trust.HTTP2)
	return &http.Transport{
		DialContext:            plain,
		DialTLSContext:         secure,
		Protocols:              protocols,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConns:           0, // without a bound of its own: lanes bound what is in flight, and the timeout what is idle
		MaxIdleConnsPerHost:    p.options.IdlePerHost,
		IdleConnTimeout:        p.options.IdleConnTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		// When this runs out net/http sends the body unasked, so it never does: an attempt ends long before. The body's
		// own gate would hold it even then.
		ExpectContinueTimeout: 24 * time.Hour,
	}
}
