package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealpost/sealpost/relay/internal/access"
)

// A credential that may do little must not be able to fill the log that all acts depend on. An account's refusals have records of their own up to
// a burst and then one now and then, and so have those of all accounts together; what is beyond is counted, and the count stands in the account's
// next record, or after a while in one of its own. At some 300 bytes a record, refusals that never end take less than 4 GiB in 400 days: what the log
// has room for, and how long it keeps them.
const (
	accountBurst = 50
	accountEvery = 30 * time.Second
	allBurst     = 200
	allEvery     = 3 * time.Second
	// maxAccounts bounds the accounts that are told apart; the others count together.
	maxAccounts = 1000
	// maxFlushed bounds the records that one flush writes.
	maxFlushed = 20
	// flushEvery is how often what was left out is written down.
	flushEvery = 10 * time.Minute
)

// actOmitted is the act of a record that holds a count alone.
const actOmitted = "refusals.omitted"

type refusals struct {
	mu  *sync.Mutex
	all *rate.Limiter
	by  map[string]*refused // by account; "" is for those that are too many
}

type refused struct {
	limit   *rate.Limiter
	omitted uint64
	last    time.Time
}

func newRefusals() refusals {
	return refusals{mu: &sync.Mutex{}, all: rate.NewLimiter(rate.Every(allEvery), allBurst), by: map[string]*refused{}}
}

// take tells whether an account's refusal gets a record, and how many had none before it.
func (r *refusals) take(account string, now time.Time) (may bool, omitted uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.by[account]
	if one == nil && len(r.by) >= maxAccounts {
		for name, old := range r.by {
			if old.omitted == 0 && now.Sub(old.last) > accountBurst*accountEvery {
				delete(r.by, name) // its burst is full again: it would be made as it is
			}
		}
		if len(r.by) >= maxAccounts {
			account, one = "", r.by[""]
		}
	}
	if one == nil {
		one = &refused{limit: rate.NewLimiter(rate.Every(accountEvery), accountBurst)}
		r.by[account] = one
	}
	one.last = now
	if !one.limit.AllowN(now, 1) || !r.all.AllowN(now, 1) {
		one.omitted++
		return false, 0
	}
	omitted, one.omitted = one.omitted, 0
	return true, omitted
}

// back counts again what could not be written.
func (r *refusals) back(account string, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.by[account]
	if one == nil {
		one = &refused{limit: rate.NewLimiter(rate.Every(accountEvery), accountBurst)}
		r.by[account] = one
	}
	one.omitted += n
}

// outstanding takes out what was left out: of the accounts that have most of it, and of all others together.
func (r *refusals) outstanding() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for name, one := range r.by {
		if one.omitted > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return int(min(1, max(-1, int64(r.by[b].omitted)-int64(r.by[a].omitted)))) })
	out := map[string]uint64{}
	for i, name := range names {
		n := r.by[name].omitted
		r.by[name].omitted = 0
		if i >= maxFlushed {
			name = ""
		}
		out[name] += n
	}
	return out
}

// Refuse records that a caller may not do an act, and why, or counts it where there were too many.
func (l *Log) Refuse(ctx context.Context, c access.Caller, a Act, why string) error {
	may, omitted := l.refusals.take(c.Account, l.now())
	if !may {
		return nil
	}
	r := newRecord(c, a)
	r.Outcome, r.Reason, r.Omitted = Refused, why, omitted
	err := l.Append(ctx, r)
	if err != nil && omitted > 0 {
		l.refusals.back(c.Account, omitted)
	}
	return err
}

// Flush writes down how many refusals were left out. What was counted and not yet written is lost with the process.
func (l *Log) Flush(ctx context.Context) error {
	var errs []error
	for account, n := range l.refusals.outstanding() {
		err := l.Append(ctx, Record{
			Account: account, Act: actOmitted, Outcome: Refused, Omitted: n, Reason: fmt.Sprintf("%d refusals have no record of their own: there were too many", n),
		})
		if err != nil {
			l.refusals.back(account, n)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run flushes now and then, until ctx ends, and then once more.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = l.Flush(ctx) // what fails is counted again
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeTimeout)
			defer cancel()
			_ = l.Flush(last) // a journal that is gone has other things to tell
			return nil
		}
	}
}
