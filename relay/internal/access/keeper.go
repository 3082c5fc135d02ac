package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
)

// BucketName is the journal's bucket that tokens are kept in.
const BucketName = "TOKENS"

// OperatorFile is the name of the bootstrap token's file in the data folder.
const OperatorFile = "operator.token"

// OperatorAccount is the account of the bootstrap token.
const OperatorAccount = "operator"

const tokenKey = "token/"

// ErrNotFound is for a token that is not kept.
var ErrNotFound = errors.New("no such token")

// Bucket is the journal's, as far as it is used here; *journal.Bucket is one, and tells what each method promises.
type Bucket interface {
	Get(ctx context.Context, key string) (journal.Item, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context, fn func(journal.Item) error) error
}

// Options configure Open. The zero value of a field is its default.
type Options struct {
	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default discards
}

// Keeper keeps the tokens; its methods may be called concurrently.
type Keeper struct {
	bucket Bucket
	log    *slog.Logger
	now    func() time.Time
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.RWMutex
	tokens map[string]*Token // by id; each immutable
	lost   error             // why changes are not heard at present
}

// Open loads the tokens of a bucket and follows their changes until ctx ends or Close is called.
func Open(ctx context.Context, b Bucket, o Options) (*Keeper, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	run, cancel := context.WithCancel(ctx)
	k := &Keeper{bucket: b, log: o.Logger, now: o.Now, cancel: cancel, tokens: map[string]*Token{}}
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

// Err is nil while changes are heard, and else why not: a token revoked elsewhere may then still be taken here.
func (k *Keeper) Err() error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.lost
}

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
		loading, whole, latest := map[string]*Token{}, false, uint64(0)
		err := k.bucket.Watch(ctx, func(item journal.Item) error {
			switch {
			case item.Key == "":
				k.mu.Lock()
				for id, t := range k.tokens {
					if t.revision > latest {
						loading[id] = t // a write of ours that the watch has yet to tell
					}
				}
				k.tokens, k.lost, whole, wait = loading, nil, true, least
				k.mu.Unlock()
				report(nil)
			case whole:
				k.mu.Lock()
				k.take(k.tokens, item)
				k.mu.Unlock()
			default:
				latest = max(latest, item.Revision)
				k.take(loading, item)
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("changes are not heard: %w", err)
		k.mu.Lock()
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

// take applies an item; one that cannot be read is not known, so that its token is refused.
func (k *Keeper) take(to map[string]*Token, item journal.Item) {
	id, ok := strings.CutPrefix(item.Key, tokenKey)
	if !ok {
		return
	}
	if have := to[id]; have != nil && have.revision > item.Revision {
		return // a write of ours that the watch has yet to tell
	}
	delete(to, id)
	if item.Deleted {
		return
	}
	t, err := decodeToken(item.Value)
	if err == nil && t.ID != id {
		err = fmt.Errorf("%w: it is another token's", errToken)
	}
	if err != nil {
		k.log.Error("token cannot be used", "token", id, "error", err)
		return
	}
	t.revision = item.Revision
	to[id] = t
}

// Authenticate says who holds a token. It does no I/O. The error is one of ErrNoToken, ErrToken, ErrExpired and ErrRevoked; the last
// two only for who knows the whole token.
func (k *Keeper) Authenticate(_ context.Context, token string, from netip.Addr) (Caller, error) {
	if token == "" {
		return Caller{}, ErrNoToken
	}
	id, ok := parseToken(token)
	if !ok {
		return Caller{}, ErrToken
	}
	t := k.token(id)
	hash := sha256.Sum256([]byte(token))
	if t == nil || subtle.ConstantTimeCompare(hash[:], t.hash[:]) != 1 {
		return Caller{}, ErrToken
	}
	if err := k.inForce(t); err != nil {
		return Caller{}, err
	}
	return Caller{Account: t.Account, Role: t.Role, Scopes: t.Scopes, Tenant: t.Tenant, CredentialID: t.ID, Address: from.Unmap()}, nil
}

// Live tells whether the credential that a caller came with is still good, for calls that last.
func (k *Keeper) Live(c Caller) error {
	t := k.token(c.CredentialID)
	if t == nil {
		return ErrToken
	}
	return k.inForce(t)
}

func (k *Keeper) inForce(t *Token) error {
	switch {
	case !t.RevokeTime.IsZero():
		return ErrRevoked
	case !t.ExpireTime.IsZero() && !k.now().Before(t.ExpireTime):
		return ErrExpired
	}
	return nil
}

func (k *Keeper) token(id string) *Token {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.tokens[id]
}

// Create makes a token for a grant. The secret is in the answer and nowhere else. A grant that breaks a rule is a
// relay.Invalid.
func (k *Keeper) Create(ctx context.Context, g Grant) (Token, relay.Secret, error) {
	if err := g.Check().Err(); err != nil {
		return Token{}, relay.Secret{}, err
	}
	now := k.now().UTC()
	t, secret := newToken(g, now)
	if g.Lifetime == 0 {
		g.Lifetime = DefaultLifetime
	}
	t.ExpireTime = now.Add(g.Lifetime)
	if err := k.keep(ctx, t); err != nil {
		return Token{}, relay.Secret{}, err
	}
	return *t, secret, nil
}

// keep stores a new token and knows it at once.
func (k *Keeper) keep(ctx context.Context, t *Token) error {
	data, err := t.encode()
	if err != nil {
		return err
	}
	if t.revision, err = k.bucket.Create(ctx, tokenKey+t.ID, data); err != nil {
		return fmt.Errorf("access: create token: %w", err)
	}
	k.know(t)
	return nil
}

func (k *Keeper) know(t *Token) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have := k.tokens[t.ID]; have == nil || have.revision < t.revision {
		k.tokens[t.ID] = t
	}
}

// Get is what is kept of a token, or ErrNotFound.
func (k *Keeper) Get(id string) (Token, error) {
	if t := k.token(id); t != nil {
		return *t, nil
	}
	return Token{}, ErrNotFound
}

// List is what is kept of all tokens, oldest first.
func (k *Keeper) List() []Token {
	k.mu.RLock()
	all := make([]Token, 0, len(k.tokens))
	for _, t := range k.tokens {
		all = append(all, *t)
	}
	k.mu.RUnlock()
	slices.SortFunc(all, func(a, b Token) int {
		if c := a.CreateTime.Compare(b.CreateTime); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Revoke ends a token. When it returns that is durable, and this process takes the token no more; the others follow as
// the bucket tells them. One that was revoked before stays as it is.
func (k *Keeper) Revoke(ctx context.Context, id string) (Token, error) {
	for {
		item, err := k.bucket.Get(ctx, tokenKey+id)
		if errors.Is(err, journal.ErrNotFound) {
			return Token{}, ErrNotFound
		} else if err != nil {
			return Token{}, fmt.Errorf("access: revoke: %w", err)
		}
		t, err := decodeToken(item.Value)
		if err != nil {
			return Token{}, err
		}
		if t.revision = item.Revision; !t.RevokeTime.IsZero() {
			k.know(t)
			return *t, nil
		}
		t.RevokeTime = k.now().UTC()
		data, err := t.encode()
		if err != nil {
			return Token{}, err
		}
		t.revision, err = k.bucket.Update(ctx, tokenKey+id, data, item.Revision)
		if errors.Is(err, journal.ErrRevision) {
			continue
		} else if err != nil {
			return Token{}, fmt.Errorf("access: revoke: %w", err)
		}
		k.know(t)
		return *t, nil
	}
}

// Purge forgets tokens that expired or were revoked before a time, and returns how many.
func (k *Keeper) Purge(ctx context.Context, before time.Time) (int, error) {
	n := 0
	for _, t := range k.List() {
		over := !t.ExpireTime.IsZero() && t.ExpireTime.Before(before) || !t.RevokeTime.IsZero() && t.RevokeTime.Before(before)
		if !over {
			continue
		}
		err := k.bucket.Delete(ctx, tokenKey+t.ID, t.revision)
		if errors.Is(err, journal.ErrRevision) {
			continue
		} else if err != nil {
			return n, fmt.Errorf("access: purge: %w", err)
		}
		n++
	}
	return n, nil
}

// Bootstrap makes the operator's token and its file at path, one line of mode 0600, if there is no file; made tells. A
// file that is there must hold a token that is known: it is not made anew behind an operator's back. The
// token is for all tenants and does not expire; revoking it and removing the file makes a new one at the next start.
func (k *Keeper) Bootstrap(ctx context.Context, path string) (made bool, err error) {
	err = k.checkFile(ctx, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	t, secret := newToken(Grant{Account: OperatorAccount, Role: Operator, Creator: OperatorAccount}, k.now().UTC())
	// The bucket first: killed in between, a token is left that nobody knows; the other way round, a file that does not work.
	if err := k.keep(ctx, t); err != nil {
		return false, err
	}
	if err := keys.WriteNew(path, []byte(secret.Reveal()+"\n")); err != nil {
		return false, fmt.Errorf("access: operator token: %w", err)
	}
	return true, nil
}

func (k *Keeper) checkFile(ctx context.Context, path string) error {
	text, err := keys.ReadPrivate(path, 2*tokenLength)
	if err != nil {
		return fmt.Errorf("access: operator token: %w", err)
	}
	_, err = k.Authenticate(ctx, strings.TrimSuffix(string(text), "\n"), netip.Addr{})
	if err != nil {
		return fmt.Errorf("access: operator token in %s: %w; remove the file to have a new one made", path, err)
	}
	return nil
}
