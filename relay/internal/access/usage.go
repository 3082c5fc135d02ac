package access

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
)

// Use is when and from where a credential was last used. The zero Use: never.
type Use struct {
	Time    time.Time
	Address netip.Addr
}

// usage counts what credentials do in this process.
type usage struct {
	counts sync.Map // credential id -> *count
	limits sync.Map // token id -> *rate.Limiter
}

// count is one credential's.
type count struct {
	calls   atomic.Uint64
	last    atomic.Int64 // unix nanoseconds
	address atomic.Pointer[netip.Addr]
}

// note counts a call. It allocates only where the address is another one than before.
func (u *usage) note(id string, now time.Time, from netip.Addr) {
	found, ok := u.counts.Load(id)
	if !ok {
		found, _ = u.counts.LoadOrStore(id, &count{})
	}
	c := found.(*count)
	c.calls.Add(1)
	c.last.Store(now.UnixNano())
	if have := c.address.Load(); have == nil || *have != from {
		c.address.Store(&from)
	}
}

func (u *usage) last(id string) Use {
	found, ok := u.counts.Load(id)
	if !ok {
		return Use{}
	}
	c := found.(*count)
	out := Use{Time: moment(c.last.Load())}
	if a := c.address.Load(); a != nil {
		out.Address = *a
	}
	return out
}

// limit takes one call of a credential's rate.
func (u *usage) limit(id string, perSecond float64, now time.Time) error {
	if perSecond <= 0 {
		return nil
	}
	found, ok := u.limits.Load(id)
	if !ok {
		found, _ = u.limits.LoadOrStore(id, newLimiter(perSecond))
	}
	r := found.(*rate.Limiter).ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return &LimitError{RetryAfter: wait}
	}
	return nil
}

// use is a Use as it is kept.
type use struct {
	id string
	Use
}

func (u *use) key() string { return u.id }

func (u *use) encode() ([]byte, error) {
	m := &sealpostv1.UseRecord{Version: recordVersion, Time: nanos(u.Time)}
	if u.Address.IsValid() {
		m.Address = u.Address.String()
	}
	return encode(m)
}

var errUse = errors.New("record of use cannot be read")

func decodeUse(id string, data []byte) (*use, error) {
	var m sealpostv1.UseRecord
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errUse, err)
	}
	u := &use{id, Use{Time: moment(m.Time)}}
	var err error
	if m.Address != "" {
		u.Address, err = netip.ParseAddr(m.Address)
	}
	if err != nil || m.Version != recordVersion {
		return nil, fmt.Errorf("%w: fields out of bounds", errUse)
	}
	return u, nil
}

// LastUse is when a credential was last used, by what this process saw and what was kept: others' uses show after saveEvery.
func (k *Keeper) LastUse(id string) Use {
	own := k.usage.last(id)
	k.mu.RLock()
	defer k.mu.RUnlock()
	if kept := k.uses.get(id); kept != nil && kept.Time.After(own.Time) {
		return kept.Use
	}
	return own
}

// saveEvery is how often uses are kept: what a kill loses of them, at most.
const saveEvery = 30 * time.Second

// SaveUses keeps the uses that are newer than what is kept by saveEvery or more, or all of them with all. An access token's is not kept: it
// lives for minutes, and its account's certificate was used to get it.
func (k *Keeper) SaveUses(ctx context.Context, all bool) error {
	var errs []error
	k.usage.counts.Range(func(id, _ any) bool {
		one := use{id.(string), k.usage.last(id.(string))}
		k.mu.RLock()
		kept := k.uses.get(one.id)
		t, c := k.tokens.get(one.id), k.certificates.get(one.id)
		k.mu.RUnlock()
		newer := kept == nil || one.Time.Sub(kept.Time) >= saveEvery || all && one.Time.After(kept.Time)
		switch {
		case t == nil && c == nil:
			k.metrics.forget(one.id) // it was purged
			return true
		case !newer || t != nil && t.Kind == KindAccess:
			return true
		}
		data, err := one.encode()
		if err == nil {
			var revision uint64
			if revision, err = k.bucket.Put(ctx, k.uses.prefix+one.id, data); err == nil {
				k.mu.Lock()
				k.uses.know(one.id, &one, revision)
				k.mu.Unlock()
			}
		}
		errs = append(errs, err)
		return ctx.Err() == nil
	})
	return errors.Join(errs...)
}

// Ended credentials are forgotten after these times; an access token soon: there are many.
const (
	purgeAfter       = 30 * 24 * time.Hour
	purgeAccessAfter = time.Hour
	purgeEvery       = 10 * time.Minute
)

// Run keeps uses and forgets what ended long ago, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	save, purge := time.NewTicker(saveEvery), time.NewTicker(purgeEvery)
	defer save.Stop()
	defer purge.Stop()
	for {
		var err error
		select {
		case <-save.C:
			err = k.SaveUses(ctx, false)
		case <-purge.C:
			if _, err = k.Purge(ctx, k.now().Add(-purgeAfter)); err == nil {
				err = k.purgeAccess(ctx, k.now().Add(-purgeAccessAfter))
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := k.SaveUses(last, true); err != nil {
				k.log.Warn("uses of credentials were not kept", "error", err)
			}
			return nil
		}
		if err != nil && ctx.Err() == nil {
			k.log.Warn("accounts: upkeep failed, will be tried again", "error", err)
		}
	}
}

func (k *Keeper) purgeAccess(ctx context.Context, before time.Time) error {
	for _, t := range k.List() {
		if t.Kind != KindAccess || !t.ExpireTime.Before(before) {
			continue
		}
		if err := k.bucket.Delete(ctx, k.tokens.prefix+t.ID, 0); err != nil {
			return fmt.Errorf("access: purge: %w", err)
		}
	}
	return nil
}
