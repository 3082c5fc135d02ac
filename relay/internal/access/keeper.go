package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

// BucketName is the journal's bucket that accounts and credentials are kept in.
const BucketName = "TOKENS"

// Bucket is the journal's, as far as it is used here; *journal.Bucket is one, and tells what each method promises.
type Bucket interface {
	Get(ctx context.Context, key string) (journal.Item, error)
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context, fn func(journal.Item) error) error
}

// Options configure Open. The zero value of a field is its default.
type Options struct {
	// Roots are the CAs whose certificates may be mapped by their SPIFFE IDs; nil: none.
	Roots      *x509.CertPool
	Now        func() time.Time      // default time.Now
	Registerer prometheus.Registerer // default keeps the figures to itself
	Logger     *slog.Logger          // default discards
}

// Keeper keeps accounts and credentials; its methods may be called concurrently.
type Keeper struct {
	bucket  Bucket
	roots   *x509.CertPool
	log     *slog.Logger
	now     func() time.Time
	cancel  context.CancelFunc
	done    sync.WaitGroup
	usage   usage
	chains  chains
	metrics *metrics

	mu           sync.RWMutex // guards all below; the rows' values are immutable
	accounts     table[Account]
	tokens       table[Token]
	certificates table[Certificate]
	uses         table[use]
	lost         error     // why changes are not heard at present
	lostSince    time.Time // of the process's own clock
}

// Open loads the records of a bucket and follows their changes until ctx ends or Close is called.
func Open(ctx context.Context, b Bucket, o Options) (*Keeper, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	run, cancel := context.WithCancel(ctx)
	k := &Keeper{
		bucket: b, roots: o.Roots, log: o.Logger, now: o.Now, cancel: cancel,
		accounts:     table[Account]{"account/", decodeAccount, map[string]row[Account]{}},
		tokens:       table[Token]{"token/", decodeToken, map[string]row[Token]{}},
		certificates: table[Certificate]{"certificate/", decodeCertificate, map[string]row[Certificate]{}},
		uses:         table[use]{"use/", decodeUse, map[string]row[use]{}},
	}
	var err error
	if k.metrics, err = newMetrics(o.Registerer, k); err != nil {
		cancel()
		return nil, fmt.Errorf("access: register metrics: %w", err)
	}
	first := make(chan error, 1)
	k.done.Go(func() { k.listen(run, first) })
	select {
	case err := <-first:
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("access: %w", err)
		}
		return k, nil
	case <-ctx.Done():
		k.Close()
		return nil, fmt.Errorf("access: %w", ctx.Err())
	}
}

// Close stops following changes and waits for it.
func (k *Keeper) Close() {
	k.cancel()
	k.done.Wait()
}

// Err is nil while changes are heard, and else why not: a credential revoked elsewhere could then still be taken here, so that after
// unheardGrace none is.
func (k *Keeper) Err() error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.lost
}

// unheardGrace is for how long credentials are taken while changes are not heard: a watch that broke off is there again by then where
// its server is.
const unheardGrace = 2 * time.Second

// listen follows the bucket; first gets the end of the first loading.
func (k *Keeper) listen(ctx context.Context, first chan<- error) {
	const least, most = 100 * time.Millisecond, time.Second
	report := func(err error) {
		select {
		case first <- err:
		default:
		}
	}
	for wait := least; ctx.Err() == nil; wait = min(2*wait, most) {
		accounts, tokens, certificates, uses := k.accounts.fresh(), k.tokens.fresh(), k.certificates.fresh(), k.uses.fresh()
		whole, latest := false, uint64(0)
		err := k.bucket.Watch(ctx, func(item journal.Item) error {
			switch {
			case item.Key == "":
				k.mu.Lock()
				accounts.keep(&k.accounts, latest)
				tokens.keep(&k.tokens, latest)
				certificates.keep(&k.certificates, latest)
				uses.keep(&k.uses, latest)
				k.accounts, k.tokens, k.certificates, k.uses = accounts, tokens, certificates, uses
				k.lost, k.lostSince, whole, wait = nil, time.Time{}, true, least
				k.mu.Unlock()
				report(nil)
			case whole:
				k.mu.Lock()
				k.accounts.take(item, k.log)
				k.tokens.take(item, k.log)
				k.certificates.take(item, k.log)
				k.uses.take(item, k.log)
				k.mu.Unlock()
			default:
				latest = max(latest, item.Revision)
				accounts.take(item, k.log)
				tokens.take(item, k.log)
				certificates.take(item, k.log)
				uses.take(item, k.log)
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("changes are not heard: %w", err)
		k.mu.Lock()
		if k.lost == nil {
			k.lostSince = time.Now()
		}
		k.lost = err
		k.mu.Unlock()
		report(err)
		k.log.Error("access lost its watch", "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// Account is what is kept of an account, or ErrNotFound.
func (k *Keeper) Account(tenant, name string) (Account, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if a := k.accounts.get(accountKey(tenant, name)); a != nil {
		return *a, nil
	}
	return Account{}, ErrNotFound
}

// Accounts are all of them, in an order that stays.
func (k *Keeper) Accounts() []Account {
	k.mu.RLock()
	all := k.accounts.all()
	k.mu.RUnlock()
	slices.SortFunc(all, func(a, b Account) int {
		if c := strings.Compare(a.Tenant, b.Tenant); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// CreateAccount makes a service's account. One against the rules is a relay.Invalid; one that is there already is ErrExists.
func (k *Keeper) CreateAccount(ctx context.Context, a Account) (Account, error) {
	if err := a.Check().Err(); err != nil {
		return Account{}, err
	}
	a.Kind, a.CreateTime, a.DisableTime, a.enrolTime = Service, k.now().UTC(), time.Time{}, time.Time{}
	if err := create(ctx, k, &k.accounts, &a); err != nil {
		return Account{}, err
	}
	return a, nil
}

// SetDisabled refuses every credential of an account from now on, or takes them again. When it returns that is durable, and in
// force in this process; the others follow as the bucket tells them.
func (k *Keeper) SetDisabled(ctx context.Context, tenant, name string, disabled bool) (Account, error) {
	return change(ctx, k, &k.accounts, accountKey(tenant, name), func(a *Account) bool {
		if disabled == !a.DisableTime.IsZero() {
			return false
		}
		a.DisableTime = time.Time{}
		if disabled {
			a.DisableTime = k.now().UTC()
		}
		return true
	})
}

// enrol notes that an account has a credential, before it gets the first: killed in between, the account counts as one that has
// had one.
func (k *Keeper) enrol(ctx context.Context, a Account) error {
	if !a.enrolTime.IsZero() {
		return nil
	}
	_, err := change(ctx, k, &k.accounts, a.key(), func(a *Account) bool {
		a.enrolTime = k.now().UTC()
		return true
	})
	return err
}

// MaxCredentials bounds the credentials of an account that are good.
const MaxCredentials = 1000

// ErrTooMany is for a credential beyond MaxCredentials.
var ErrTooMany = fmt.Errorf("the account has %d credentials that are good: revoke some", MaxCredentials)

// Credentials counts those of an account that are good now.
func (k *Keeper) Credentials(tenant, name string) int { return k.credentials(accountKey(tenant, name)) }

func (k *Keeper) credentials(holder string) (n int) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, r := range k.tokens.rows {
		if r.value.holder == holder {
			if _, err := k.tokenHolds(r.value); err == nil {
				n++
			}
		}
	}
	for _, r := range k.certificates.rows {
		if r.value.holder == holder {
			if _, err := k.certificateHolds(r.value); err == nil {
				n++
			}
		}
	}
	return n
}

func (k *Keeper) room(holder string) error {
	if k.credentials(holder) >= MaxCredentials {
		return ErrTooMany
	}
	return nil
}

// SignIn gives a person who signed in a token, and the account that it is of, which is made at the first time. What the person may
// do follows the provider, with each sign-in. A name that is another's account is ErrExists.
func (k *Keeper) SignIn(ctx context.Context, person Account, life time.Duration) (Token, relay.Secret, error) {
	if err := person.Check().Err(); err != nil {
		return Token{}, relay.Secret{}, err
	}
	person.Kind, person.CreateTime = Person, k.now().UTC()
	person.enrolTime = person.CreateTime
	err := create(ctx, k, &k.accounts, &person)
	if errors.Is(err, ErrExists) {
		another := false
		_, err = change(ctx, k, &k.accounts, person.key(), func(have *Account) bool {
			if have.Kind != Person || have.Issuer != person.Issuer || have.Subject != person.Subject {
				another = true
				return false
			}
			same := have.Role == person.Role && have.Environment == person.Environment
			have.Role, have.Environment = person.Role, person.Environment
			return !same
		})
		if another {
			err = ErrExists
		}
	}
	if err != nil {
		return Token{}, relay.Secret{}, err
	}
	return k.Create(ctx, Grant{Account: person.Name, Tenant: person.Tenant, Lifetime: life, Creator: person.Name, Kind: KindSession})
}

// Create makes a token for a grant. The secret is in the answer and nowhere else. A grant that breaks a rule is a
// relay.Invalid. Where the account is not there yet and a role is given, it is made.
func (k *Keeper) Create(ctx context.Context, g Grant) (Token, relay.Secret, error) {
	account, err := k.Account(g.Tenant, g.Account)
	if err == nil && g.Role == "" {
		g.Role = account.Role
	}
	if err := g.Check().Err(); err != nil {
		return Token{}, relay.Secret{}, err
	}
	if errors.Is(err, ErrNotFound) {
		account, err = k.CreateAccount(ctx, Account{Name: g.Account, Tenant: g.Tenant, Role: g.Role, Environment: g.Environment, Creator: g.Creator})
		if errors.Is(err, ErrExists) { // by another at the same time
			account, err = k.Account(g.Tenant, g.Account)
		}
	}
	if err != nil {
		return Token{}, relay.Secret{}, err
	}
	if err := account.grants(&g); err != nil {
		return Token{}, relay.Secret{}, err
	}
	if err := k.room(account.key()); err != nil {
		return Token{}, relay.Secret{}, err
	}
	if err := k.enrol(ctx, account); err != nil {
		return Token{}, relay.Secret{}, err
	}
	now := k.now().UTC()
	t, secret := newToken(g, now)
	if g.Lifetime == 0 {
		g.Lifetime = DefaultLifetime
	}
	t.ExpireTime = now.Add(g.Lifetime)
	if err := create(ctx, k, &k.tokens, t); err != nil {
		return Token{}, relay.Secret{}, err
	}
	return *t, secret, nil
}

// grants reports what an account cannot give a token.
func (a *Account) grants(g *Grant) error {
	var bad relay.Invalid
	if g.Role != a.Role {
		bad.Add("role", "must be the account's, %s", a.Role)
	}
	for i, s := range g.Scopes {
		if len(a.Scopes) > 0 && !slices.Contains(a.Scopes, s) {
			bad.Add(indexed("scopes", i), "must be a scope of the account")
		}
	}
	if a.Kind == Person && g.Kind != KindSession {
		bad.Add("account", "is a person's, who signs in")
	}
	if !a.DisableTime.IsZero() {
		bad.Add("account", "is disabled")
	}
	return bad.Err()
}

// Get is what is kept of a token, or ErrNotFound.
func (k *Keeper) Get(id string) (Token, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if t := k.tokens.get(id); t != nil {
		return *t, nil
	}
	return Token{}, ErrNotFound
}

// List is what is kept of all tokens, oldest first.
func (k *Keeper) List() []Token {
	k.mu.RLock()
	all := k.tokens.all()
	k.mu.RUnlock()
	slices.SortFunc(all, func(a, b Token) int {
		if c := a.CreateTime.Compare(b.CreateTime); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Bounds of the time that a token is good beside the one that it was rotated to.
const (
	DefaultOverlap = time.Hour
	MaxOverlap     = 7 * 24 * time.Hour
)

// Rotate makes a token like another one that is good, of as long a life, and has that one end after the overlap, if it does not end before.
// hands are the accounts whose hands the new one goes through beside the old one's. The new one is made first: killed in between, both
// are good as long as they were to be.
func (k *Keeper) Rotate(ctx context.Context, id, creator string, hands []string, overlap time.Duration) (fresh Token, secret relay.Secret, previous Token, err error) {
	if overlap < 0 || overlap > MaxOverlap {
		return Token{}, secret, Token{}, relay.Invalid{{Field: "overlap", Rule: fmt.Sprintf("must be 0 to %v", MaxOverlap)}}
	}
	old, err := k.Get(id)
	if err != nil {
		return Token{}, secret, Token{}, err
	}
	if old.Kind != KindToken {
		return Token{}, secret, Token{}, relay.Invalid{{Field: "id", Rule: fmt.Sprintf("is of a token of kind %s, which is not rotated but got anew", old.Kind)}}
	}
	if err := k.inForce(&old); err != nil {
		return Token{}, secret, Token{}, relay.Invalid{{Field: "id", Rule: "is of a token that is not good any more: " + err.Error()}}
	}
	t, secret := newToken(Grant{
		Account: old.Account, Role: old.Role, Scopes: old.Scopes, Tenant: old.Tenant, Prefixes: old.Prefixes, RateLimit: old.RateLimit, Bound: old.Bound,
		Creator: creator, Hands: Joined(old.Hands, hands...),
	}, k.now().UTC())
	t.RotatedFrom, t.ExpireTime = old.ID, t.CreateTime.Add(old.ExpireTime.Sub(old.CreateTime))
	if err := create(ctx, k, &k.tokens, t); err != nil {
		return Token{}, relay.Secret{}, Token{}, err
	}
	previous, err = change(ctx, k, &k.tokens, id, func(old *Token) bool {
		end := k.now().UTC().Add(overlap)
		if !end.Before(old.ExpireTime) {
			return false
		}
		old.ExpireTime = end
		return true
	})
	return *t, secret, previous, err
}

// Revoke ends a token. When it returns that is durable, and this process takes the token no more; the others follow as
// the bucket tells them. One that was revoked before stays as it is.
func (k *Keeper) Revoke(ctx context.Context, id string) (Token, error) {
	return change(ctx, k, &k.tokens, id, func(t *Token) bool {
		if !t.RevokeTime.IsZero() {
			return false
		}
		t.RevokeTime = k.now().UTC()
		return true
	})
}

// Certificate is what is kept of one, or ErrNotFound.
func (k *Keeper) Certificate(id string) (Certificate, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if c := k.certificates.get(id); c != nil {
		return *c, nil
	}
	return Certificate{}, ErrNotFound
}

// Certificates are all of them, by id.
func (k *Keeper) Certificates() []Certificate {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.certificates.all()
}

// AddCertificate lets an account that is there call with a certificate. One against the rules is a relay.Invalid; one that is
// known already, whatever became of it, is ErrExists.
func (k *Keeper) AddCertificate(ctx context.Context, c Certificate) (Certificate, error) {
	bad := c.Check()
	account, err := k.Account(c.Tenant, c.Account)
	switch {
	case err != nil:
		bad.Add("account", "is not there: make it first")
	case account.Kind == Person:
		bad.Add("account", "is a person's, who signs in")
	case !account.DisableTime.IsZero():
		bad.Add("account", "is disabled")
	}
	if c.SpiffeID != "" && k.roots == nil {
		bad.Add("spiffeId", "needs the CAs that may issue it: access.certificates.roots names none")
	}
	if err := bad.Err(); err != nil {
		return Certificate{}, err
	}
	if err := k.room(account.key()); err != nil {
		return Certificate{}, err
	}
	if err := k.enrol(ctx, account); err != nil {
		return Certificate{}, err
	}
	c.holder = account.key()
	c.ID, c.CreateTime, c.RevokeTime = certificateID(c.SHA256, c.SpiffeID), k.now().UTC(), time.Time{}
	if err := create(ctx, k, &k.certificates, &c); err != nil {
		return Certificate{}, err
	}
	return c, nil
}

// RevokeCertificate ends one, as Revoke does a token.
func (k *Keeper) RevokeCertificate(ctx context.Context, id string) (Certificate, error) {
	return change(ctx, k, &k.certificates, id, func(c *Certificate) bool {
		if !c.RevokeTime.IsZero() {
			return false
		}
		c.RevokeTime = k.now().UTC()
		return true
	})
}

// Adopt makes the accounts of tokens from before there were accounts.
func (k *Keeper) Adopt(ctx context.Context) error {
	for _, t := range k.List() {
		if !t.old || t.Account == OperatorAccount {
			continue
		}
		if _, err := k.Account(t.Tenant, t.Account); err == nil {
			continue
		}
		a := Account{Name: t.Account, Tenant: t.Tenant, Role: t.Role, Kind: Service, Creator: t.Creator, CreateTime: t.CreateTime, enrolTime: t.CreateTime}
		if err := create(ctx, k, &k.accounts, &a); err != nil && !errors.Is(err, ErrExists) {
			return err
		}
	}
	return nil
}

// Purge forgets tokens and certificates that ended before a time, and returns how many. Those of a revoked certificate that is good by
// its own word stay, so that nobody maps it again.
func (k *Keeper) Purge(ctx context.Context, before time.Time) (n int, err error) {
	over := func(expire, revoke time.Time) bool {
		return !expire.IsZero() && expire.Before(before) || !revoke.IsZero() && revoke.Before(before)
	}
	drop := func(prefix, key string, revision uint64) error {
		err := k.bucket.Delete(ctx, prefix+key, revision)
		switch {
		case errors.Is(err, journal.ErrRevision):
			return nil
		case err != nil:
			return fmt.Errorf("access: purge: %w", err)
		}
		n++
		if err := k.bucket.Delete(ctx, k.uses.prefix+key, 0); err != nil && !errors.Is(err, journal.ErrNotFound) {
			return fmt.Errorf("access: purge: %w", err)
		}
		return nil
	}
	k.mu.RLock()
	tokens, certificates := maps.Clone(k.tokens.rows), maps.Clone(k.certificates.rows)
	k.mu.RUnlock()
	for id, r := range tokens {
		if over(r.value.ExpireTime, r.value.RevokeTime) {
			if err := drop("token/", id, r.revision); err != nil {
				return n, err
			}
		}
	}
	for id, r := range certificates {
		if c := r.value; !c.ExpireTime.IsZero() && over(c.ExpireTime, c.RevokeTime) {
			if err := drop("certificate/", id, r.revision); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}
