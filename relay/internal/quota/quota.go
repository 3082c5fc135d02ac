// Package quota bounds what a tenant may publish, in events and bytes a second. It promises that a tenant which keeps its quota
// is never refused for another's sake, and that all processes together hold it where they share a counter; while that cannot be
// reached, each goes by its own part of the quota and says so. It trusts its caller to name the tenant that the events are of.
package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Limit is a tenant's quota. Zero is no bound.
type Limit struct {
	EventsPerSecond int64
	BytesPerSecond  int64 // of data
}

// Shared is a counter that several processes have in common. Spend takes n from a bucket that fills at rate a second and holds
// burst, or takes nothing and says when there will be so much.
type Shared interface {
	Spend(ctx context.Context, bucket string, rate, burst, n int64) (taken bool, when time.Duration, err error)
}

// Options of New. Those without a default may be left out.
type Options struct {
	Default   Limit            // of tenants that have none of their own
	Tenants   map[string]Limit // by name
	Burst     time.Duration    // for how long a quota can be saved up; default 1 s
	MaxEvent  int64            // bytes of data: the largest event must fit into every quota's burst
	Shared    Shared           // nil: this process is alone
	Processes int              // that share the quota, while Shared cannot be reached; default 1
	Now       func() time.Time // default time.Now
	Logger    *slog.Logger     // default discards
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Check says what is wrong with the limits.
func (o Options) Check() error {
	if o.Burst < 0 || o.Burst > time.Hour {
		return fmt.Errorf("burst: %v is not between 0s and 1h", o.Burst)
	}
	if o.Processes < 0 {
		return errors.New("processes: must not be negative")
	}
	for name, l := range o.Tenants {
		if l.EventsPerSecond < 0 || l.BytesPerSecond < 0 {
			return fmt.Errorf("tenants: %s: must not be negative", name)
		}
	}
	if o.Default.EventsPerSecond < 0 || o.Default.BytesPerSecond < 0 {
		return errors.New("must not be negative")
	}
	return nil
}

// Publish is what tenants may publish. Its methods may be called concurrently.
type Publish struct {
	o       Options
	refused prometheus.Counter

	mu    sync.Mutex               // guards the rest
	local map[string]*rate.Limiter // of this process, by tenant and what they count
	away  time.Time                // when Shared could not be reached last; zero: it can be
}

const (
	// sharedWithin bounds how long events wait for the shared counter, and sharedAgain is when one that could not be reached is
	// asked again.
	sharedWithin = 250 * time.Millisecond
	sharedAgain  = time.Second
	// maxLocal bounds the buckets kept in memory: where there are more, all begin full again.
	maxLocal = 20_000
	// shortest and longest bound the time after which a refused event may come again.
	shortest = 10 * time.Millisecond
	longest  = time.Second
)

// New is nil where there are no quotas.
func New(o Options) (*Publish, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Default == (Limit{}) && len(o.Tenants) == 0 {
		return nil, nil
	}
	o.Burst, o.Processes = cmp.Or(o.Burst, time.Second), cmp.Or(o.Processes, 1)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Publish{o: o, local: map[string]*rate.Limiter{}, refused: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "sealpost_publish_quota_refused_total", Help: "Events that were refused because their tenant's publish quota was used up.",
	})}
	if o.Registerer != nil {
		o.Registerer.MustRegister(p.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sealpost_publish_quota_shared", Help: "1 while all processes hold publish quotas together; 0 while this one goes by its own part.",
		}, func() float64 {
			if o.Shared == nil || p.Degraded() {
				return 0
			}
			return 1
		}))
	}
	return p, nil
}

// Degraded tells that processes are to share the quotas and cannot.
func (p *Publish) Degraded() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.away.IsZero()
}

// Take says how many of a tenant's events, of so many bytes each, may be published now: the first ones, and at least half of those
// that the quota has room for. The others may come again after a while.
func (p *Publish) Take(ctx context.Context, tenant string, sizes []int) (may int, again time.Duration) {
	if p == nil {
		return len(sizes), 0
	}
	l, own := p.o.Tenants[tenant]
	if !own {
		l = p.o.Default
	}
	may = len(sizes)
	if l.EventsPerSecond > 0 {
		burst := p.burst(l.EventsPerSecond, 1)
		may, again = p.first(ctx, bucket{tenant, "events", l.EventsPerSecond, burst}, may, func(n int) int64 { return int64(n) })
	}
	if l.BytesPerSecond > 0 && may > 0 {
		burst := p.burst(l.BytesPerSecond, p.o.MaxEvent)
		n, more := p.first(ctx, bucket{tenant, "bytes", l.BytesPerSecond, burst}, may, func(n int) (sum int64) {
			for _, size := range sizes[:n] {
				sum += int64(size)
			}
			return sum
		})
		may, again = n, max(again, more)
	}
	p.refused.Add(float64(len(sizes) - may))
	return may, min(max(again, shortest), longest)
}

func (p *Publish) burst(perSecond, least int64) int64 {
	return max(1, least, int64(min(float64(perSecond)*p.o.Burst.Seconds(), math.MaxInt32)))
}

// bucket is what one quota is counted in.
type bucket struct {
	tenant, counts string
	rate, burst    int64
}

// first pays for the first of n that there is enough for: all, or half, or a quarter ...
func (p *Publish) first(ctx context.Context, b bucket, n int, cost func(int) int64) (int, time.Duration) {
	var when time.Duration
	for k := n; k > 0; k /= 2 {
		taken, more := p.spend(ctx, b, cost(k))
		if taken {
			return k, when
		}
		when = more // for fewer it is sooner
	}
	return 0, when
}

// spend asks the shared counter, or where that cannot be reached, this process's own.
func (p *Publish) spend(ctx context.Context, b bucket, n int64) (bool, time.Duration) {
	if p.o.Shared == nil {
		return p.spendLocal(b, n, 1)
	}
	if p.askShared() {
		asking, cancel := context.WithTimeout(ctx, sharedWithin)
		taken, when, err := p.o.Shared.Spend(asking, b.tenant+":"+b.counts, b.rate, b.burst, n)
		cancel()
		if err == nil || ctx.Err() == nil {
			p.reached(err)
		}
		if err == nil {
			return taken, when
		}
	}
	return p.spendLocal(b, n, p.o.Processes)
}

func (p *Publish) askShared() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	if !p.away.IsZero() && now.Sub(p.away) < sharedAgain {
		return false
	}
	if !p.away.IsZero() {
		p.away = now // one asks, and the others go on meanwhile
	}
	return true
}

// reached notes whether the shared counter can be reached, and says so in the log when that changes.
func (p *Publish) reached(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil && p.away.IsZero():
		p.o.Logger.Warn("publish quotas: the shared counter cannot be reached; this process goes by its own part", "processes", p.o.Processes, "error", err)
	case err == nil && !p.away.IsZero():
		p.o.Logger.Info("publish quotas: all processes hold them together again")
		clear(p.local)
	}
	p.away = time.Time{}
	if err != nil {
		p.away = p.o.Now()
	}
}

// spendLocal goes by one part of so many of the quota. The burst is whole, for the largest event must fit.
func (p *Publish) spendLocal(b bucket, n int64, parts int) (bool, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := b.tenant + ":" + b.counts
	limiter := p.local[key]
	if limiter == nil {
		if len(p.local) >= maxLocal {
			clear(p.local)
		}
		limiter = rate.NewLimiter(rate.Limit(float64(b.rate)/float64(parts)), int(b.burst))
		p.local[key] = limiter
	}
	now := p.o.Now()
	if limiter.AllowN(now, int(n)) {
		return true, 0
	}
	lacks := min(float64(n), float64(b.burst)) - limiter.TokensAt(now)
	return false, time.Duration(lacks / float64(limiter.Limit()) * float64(time.Second))
}
