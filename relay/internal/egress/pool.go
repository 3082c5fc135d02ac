package egress

import (
	"crypto/sha256"
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
	Idle            int           // connections kept idle over all hosts and trusts, and as many of HTTP/2; 0: 16384
	IdleConnTimeout time.Duration // 0: 90 s
}

const (
	maxResponseHeader = 64 << 10
	unusedFor         = 5 * time.Minute // longer than any attempt and any idle connection
)

// A Pool keeps the connections of each distinct Prepared. It is safe for concurrent use. Its memory grows with the number of
// trusts in use; one that was not used for five minutes is dropped when another is added.
type Pool struct {
	options   Options
	shelf     shelf
	exchanges sync.Pool    // of *exchange
	open      atomic.Int64 // connections of all transports

	mu         sync.RWMutex // guards transports
	transports map[[sha256.Size]byte]*kept
}

// kept is what belongs to one Prepared.
type kept struct {
	dialer    *dialer
	shelf     *shelf
	transport *http.Transport // only where HTTP/2 may be spoken
	open      atomic.Int64    // connections of the transport
	used      atomic.Int64    // unix nanoseconds
	retired   bool            // guarded by the shelf's mutex
}

func (k *kept) closeIdle() {
	k.shelf.close(k, false)
	if k.transport != nil {
		k.transport.CloseIdleConnections()
	}
}

// retire is closeIdle for good: what is in use now is closed when it comes back.
func (k *kept) retire() {
	k.shelf.close(k, true)
	if k.transport != nil {
		k.transport.CloseIdleConnections()
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
	if options.Idle <= 0 {
		options.Idle = 16 << 10
	}
	return &Pool{
		options:    options,
		shelf:      shelf{perPlace: options.IdlePerHost, most: options.Idle, longest: options.IdleConnTimeout},
		exchanges:  sync.Pool{New: func() any { return newExchange() }},
		transports: map[[sha256.Size]byte]*kept{},
	}
}

// Retire closes the idle connections made under the trust and forgets its transport; a request in flight ends as it
// would. The next request under an equal trust starts anew.
func (p *Pool) Retire(to *Prepared) {
	p.mu.Lock()
	gone := p.transports[to.key]
	delete(p.transports, to.key)
	p.mu.Unlock()
	if gone != nil {
		gone.retire()
	}
}

// Close retires every trust. Requests in flight end as they would; cancel their contexts to end them now.
func (p *Pool) Close() {
	p.mu.Lock()
	all := p.transports
	p.transports = map[[sha256.Size]byte]*kept{}
	p.mu.Unlock()
	for _, one := range all {
		one.retire()
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
			one.retire()
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
	made := &kept{dialer: d, shelf: &p.shelf}
	if to.trust.HTTP2 {
		made.transport = p.newTransport(made)
	}
	return made
}
