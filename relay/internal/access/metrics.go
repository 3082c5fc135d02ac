package access

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries bounds the credentials that have series of their own; the others are counted together as "other".
const maxSeries = 500

// unusedAfter is from when on a credential that is good counts as unused.
const unusedAfter = 30 * 24 * time.Hour

// metrics are what is counted here, and tell of the keeper when they are asked.
type metrics struct {
	k        *Keeper
	refusals *prometheus.CounterVec

	mu    sync.Mutex
	named map[string]bool // credentials that have series of their own: they keep them while they are known
	gone  uint64          // calls of credentials that are known no more and had none
}

var (
	callsDesc = prometheus.NewDesc("sealpost_access_calls_total",
		"Calls that were authenticated, by account and credential; beyond 500 credentials as \"other\".", []string{"tenant", "account", "kind", "credential"}, nil)
	credentialsDesc = prometheus.NewDesc("sealpost_access_credentials",
		"Tokens and certificates that are good now; unused: not used for 30 days, or made 30 days ago and never used.", []string{"kind", "state"}, nil)
	accountsDesc = prometheus.NewDesc("sealpost_access_accounts", "Accounts, by role.", []string{"role", "state"}, nil)
)

func newMetrics(reg prometheus.Registerer, k *Keeper) (*metrics, error) {
	m := &metrics{k: k, named: map[string]bool{}, refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sealpost_access_refusals_total", Help: "Calls whose credential was not taken, by reason.",
	}, []string{"reason"})}
	for _, r := range refusals {
		m.refusals.WithLabelValues(r.label)
	}
	m.refusals.WithLabelValues("rate")
	for _, c := range []prometheus.Collector{m.refusals, m} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) refused(err error) {
	label := "rate"
	for _, r := range refusals {
		if errors.Is(err, r.err) && err.Error() == r.err.Error() {
			label = r.label
			break
		}
	}
	m.refusals.WithLabelValues(label).Inc()
}

// Describe names the series.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	to <- callsDesc
	to <- credentialsDesc
	to <- accountsDesc
}

// Collect counts.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.calls(to)
	now := m.k.now()
	type group struct{ kind, state string }
	credentials := map[group]int{}
	for _, kind := range []Kind{KindToken, KindAccess, KindSession, KindCertificate} {
		credentials[group{string(kind), "used"}], credentials[group{string(kind), "unused"}] = 0, 0
	}
	count := func(kind Kind, id string, made time.Time) {
		state := "used"
		if unusedSince(m.k.LastUse(id), made, now) >= unusedAfter {
			state = "unused"
		}
		credentials[group{string(kind), state}]++
	}
	for _, t := range m.k.List() {
		if m.k.Good(&t) {
			count(t.Kind, t.ID, t.CreateTime)
		}
	}
	for _, c := range m.k.Certificates() {
		if m.k.GoodCertificate(&c) {
			count(KindCertificate, c.ID, c.CreateTime)
		}
	}
	for g, n := range credentials {
		to <- prometheus.MustNewConstMetric(credentialsDesc, prometheus.GaugeValue, float64(n), g.kind, g.state)
	}
	accounts := map[group]int{}
	for _, r := range Roles() {
		accounts[group{string(r), "enabled"}], accounts[group{string(r), "disabled"}] = 0, 0
	}
	for _, a := range m.k.Accounts() {
		state := "enabled"
		if !a.DisableTime.IsZero() {
			state = "disabled"
		}
		accounts[group{string(a.Role), state}]++
	}
	for g, n := range accounts {
		to <- prometheus.MustNewConstMetric(accountsDesc, prometheus.GaugeValue, float64(n), g.kind, g.state)
	}
}

func (m *metrics) calls(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	other := m.gone
	m.k.usage.counts.Range(func(key, value any) bool {
		id, n := key.(string), value.(*count).calls.Load()
		tenant, account, kind, ok := m.k.whose(id)
		if !ok || kind == KindAccess || !m.named[id] && len(m.named) >= maxSeries {
			other += n
			return true
		}
		m.named[id] = true
		to <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(n), tenant, account, string(kind), id)
		return true
	})
	to <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(other), "", "", "", "other")
}

// forget lets go of a credential that is not known any more.
func (m *metrics) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found, ok := m.k.usage.counts.LoadAndDelete(id); ok && !m.named[id] {
		m.gone += found.(*count).calls.Load()
	}
	delete(m.named, id)
	m.k.usage.limits.Delete(id)
}

// whose credential an id is.
func (k *Keeper) whose(id string) (tenant, account string, kind Kind, ok bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if t := k.tokens.get(id); t != nil {
		return t.Tenant, t.Account, t.Kind, true
	}
	if c := k.certificates.get(id); c != nil {
		return c.Tenant, c.Account, KindCertificate, true
	}
	return "", "", "", false
}

// Good tells whether a token would be taken now, from the right place.
func (k *Keeper) Good(t *Token) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, err := k.tokenHolds(t)
	return err == nil
}

// GoodCertificate tells the same of a certificate, as far as is known without it.
func (k *Keeper) GoodCertificate(c *Certificate) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, err := k.certificateHolds(c)
	return err == nil
}

// Unused tells whether a credential that was made at a time was not used for so long.
func (k *Keeper) Unused(id string, made time.Time, d time.Duration) bool {
	return unusedSince(k.LastUse(id), made, k.now()) >= d
}

func unusedSince(last Use, made, now time.Time) time.Duration {
	if last.Time.After(made) {
		made = last.Time
	}
	return now.Sub(made)
}
