package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// Bounds of following a key set.
const (
	// RefetchAfter is the least time between two fetches, whatever is asked: a stranger's bad signatures cause no more.
	RefetchAfter = 10 * time.Second
	// DefaultMaxStale is for how long known keys are trusted while the set cannot be fetched.
	DefaultMaxStale = time.Hour
	maxFresh        = time.Hour
	defaultFresh    = 5 * time.Minute // where the answer does not say
	fetchWithin     = 5 * time.Second
)

// ErrKeysUnknown is for a delivery that came while no key was known: the set could not be fetched, or not for too long.
var ErrKeysUnknown = errors.New("the sender's keys are not known")

// KeySetOptions say whose keys are followed.
type KeySetOptions struct {
	// URL is the endpoint's key set, https://.../.well-known/jwks/<endpoint>.json; http only on a loopback address.
	URL string
	// Scheme is the endpoint's, one with key pairs.
	Scheme signer.Scheme
	// Verifier changes each verifier that is made, as for signer.NewVerifier.
	Verifier []signer.VerifierOption
	// Client fetches; nil: one of its own. Redirects are not followed.
	Client *http.Client
	// MaxStale is for how long known keys are trusted while the set cannot be fetched; 0: DefaultMaxStale.
	MaxStale time.Duration
	// Now is for tests; nil: time.Now.
	Now func() time.Time
}

// KeySet verifies with the keys that an endpoint's sender publishes (RFC 7517), and so goes along with every rotation. It fetches
// them when they are first needed, when the time that the answer gave them is over (at most an hour), and when a signature is by none
// of them, but never twice within RefetchAfter. What is fetched is at most signer.MaxJWKSBytes. A revoked key is trusted until the
// next fetch. It trusts the TLS of the URL with the keys. Safe for concurrent use; it starts nothing that outlives a call by
// more than a fetch.
type KeySet struct {
	o         KeySetOptions
	tolerance time.Duration

	mu       sync.Mutex // guards all below
	verifier *signer.Verifier
	got      time.Time     // when it was fetched
	fresh    time.Time     // until when it is taken as it is
	tried    time.Time     // when the last fetch began
	fetching chan struct{} // closed when the fetch under way has ended; nil: none is
}

// Follow makes a KeySet. It fetches nothing yet.
func Follow(o KeySetOptions) (*KeySet, error) {
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%w: URL is not that of a key set", ErrOptions)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return nil, fmt.Errorf("%w: URL must be https", ErrOptions)
	case o.MaxStale < 0:
		return nil, fmt.Errorf("%w: a bound is negative", ErrOptions)
	case !o.Scheme.Facts().Asymmetric:
		return nil, fmt.Errorf("%w: scheme %q has no public keys", ErrOptions, o.Scheme)
	}
	if o.MaxStale == 0 {
		o.MaxStale = DefaultMaxStale
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	client := http.Client{Timeout: fetchWithin}
	if o.Client != nil {
		client = *o.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = &client
	// The options are tried with a key that signs nothing, so that a wrong one is found out here.
	key, err := signer.GenerateKey(o.Scheme)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	v, err := signer.NewVerifier(o.Scheme, []signer.VerifyingKey{key}, o.Verifier...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return &KeySet{o: o, tolerance: v.Tolerance()}, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Scheme is the scheme that is verified.
func (k *KeySet) Scheme() signer.Scheme { return k.o.Scheme }

// Tolerance is that of signer.Verifier.
func (k *KeySet) Tolerance() time.Duration { return k.tolerance }

// VerifyRequest is that of signer.Verifier, with the keys that are published now. Its error may also be ErrKeysUnknown.
func (k *KeySet) VerifyRequest(r *http.Request, body []byte) (signer.Verified, error) {
	v, err := k.keys(r.Context(), nil)
	if err != nil {
		return signer.Verified{}, err
	}
	out, err := v.VerifyRequest(r, body)
	if !errors.Is(err, signer.ErrSignature) {
		return out, err
	}
	// The key may be newer than what is known.
	newer, unknown := k.keys(r.Context(), v)
	if unknown != nil || newer == v {
		return out, err
	}
	return newer.VerifyRequest(r, body)
}

// keys is the verifier of the keys known now, fetched anew where they are no longer fresh, or where they are the ones that failed.
func (k *KeySet) keys(ctx context.Context, failed *signer.Verifier) (*signer.Verifier, error) {
	k.mu.Lock()
	now := k.o.Now()
	if due := k.verifier == nil || k.verifier == failed || !now.Before(k.fresh); due && k.fetching == nil && (k.tried.IsZero() || now.Sub(k.tried) >= RefetchAfter) {
		k.tried, k.fetching = now, make(chan struct{})
		// Others wait for it too: it does not end with this request.
		go k.refresh(context.WithoutCancel(ctx), k.fetching)
	}
	wait := k.fetching
	k.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrKeysUnknown, ctx.Err())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.verifier == nil || k.o.Now().Sub(k.got) > max(k.o.MaxStale, k.fresh.Sub(k.got)) {
		return nil, ErrKeysUnknown
	}
	return k.verifier, nil
}

func (k *KeySet) refresh(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	v, fresh, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		now := k.o.Now()
		k.verifier, k.got, k.fresh = v, now, now.Add(fresh)
	}
	k.fetching = nil
	close(done)
}

func (k *KeySet) fetch(ctx context.Context) (*signer.Verifier, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.o.URL, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := k.o.Client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("key set: status %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, signer.MaxJWKSBytes+1))
	if err != nil {
		return nil, 0, err
	}
	public, err := signer.ParseJWKS(k.o.Scheme, text)
	if err != nil {
		return nil, 0, err
	}
	keys := make([]signer.VerifyingKey, len(public))
	for i := range public {
		keys[i] = public[i]
	}
	v, err := signer.NewVerifier(k.o.Scheme, keys, k.o.Verifier...)
	return v, freshFor(resp.Header), err
}

// freshFor is how long an answer may be taken as it is (RFC 9111 section 5.2.2.1), between RefetchAfter and maxFresh.
func freshFor(h http.Header) time.Duration {
	fresh := defaultFresh
	for _, part := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), "=")
		switch name {
		case "no-store", "no-cache":
			return RefetchAfter
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				fresh = time.Duration(n) * time.Second
			}
		}
	}
	return min(max(fresh, RefetchAfter), maxFresh)
}
