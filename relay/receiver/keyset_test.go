package receiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// issuer publishes keys, and can be made to fail.
type issuer struct {
	mu      sync.Mutex
	keys    []signer.Key
	header  string
	status  int
	body    string // in place of the keys
	fetches int
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	var set struct {
		Keys []signer.JWK `json:"keys"`
	}
	for _, k := range i.keys {
		jwk, _ := k.JWK()
		set.Keys = append(set.Keys, jwk)
	}
	if i.header != "" {
		w.Header().Set("Cache-Control", i.header)
	}
	if i.status != 0 {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(i.status)
		return
	}
	if i.body != "" {
		fmt.Fprint(w, i.body)
		return
	}
	json.NewEncoder(w).Encode(set)
}

func (i *issuer) set(change func(*issuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

type followed struct {
	*KeySet
	t      *testing.T
	issuer *issuer
	ahead  atomic.Int64
}

func follow(t *testing.T) *followed {
	t.Helper()
	f := &followed{t: t, issuer: &issuer{}}
	server := httptest.NewServer(f.issuer)
	t.Cleanup(server.Close)
	var err error
	f.KeySet, err = Follow(KeySetOptions{URL: server.URL + "/keys.json", Scheme: signer.StandardEd25519, Now: func() time.Time {
		return time.Now().Add(time.Duration(f.ahead.Load()))
	}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *followed) wait(d time.Duration) { f.ahead.Add(int64(d)) }

func newKey(t *testing.T) signer.Key {
	t.Helper()
	k, err := signer.GenerateKey(signer.StandardEd25519)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signed is a request by a key.
func signed(t *testing.T, k signer.Key) (*http.Request, []byte) {
	t.Helper()
	ring, err := signer.NewKeyring(k)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.NewSigner(signer.StandardEd25519, ring)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"type":"contact.updated"}`)
	r := httptest.NewRequest("POST", "https://hooks.example/crm", bytes.NewReader(body))
	if _, err := s.Sign(r.Header, &signer.Message{ID: "dlv_1", Time: time.Now(), Method: "POST", URL: "https://hooks.example/crm", Body: body}); err != nil {
		t.Fatal(err)
	}
	return r, body
}

func (f *followed) verify(k signer.Key, want error) {
	f.t.Helper()
	r, body := signed(f.t, k)
	v, err := f.VerifyRequest(r, body)
	if !errors.Is(err, want) || want == nil && (err != nil || v.KeyID != k.ID()) {
		f.t.Errorf("verified by %q, %v; expected %v", v.KeyID, err, want)
	}
}

// TestKeySetFollowsRotation: fetched once while fresh, anew when a signature is by no known key, and not more often than is allowed.
func TestKeySetFollowsRotation(t *testing.T) {
	t.Parallel()
	f := follow(t)
	old, next, stranger := newKey(t), newKey(t), newKey(t)
	f.issuer.set(func(i *issuer) { i.keys, i.header = []signer.Key{old}, "public, max-age=300" })
	for range 5 {
		f.verify(old, nil)
	}
	for range 5 {
		f.verify(stranger, signer.ErrSignature)
	}
	if n := f.issuer.count(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	f.issuer.set(func(i *issuer) { i.keys = []signer.Key{old, next} })
	f.verify(next, signer.ErrSignature) // too soon to ask again
	f.wait(RefetchAfter)
	f.verify(next, nil)
	f.verify(old, nil)
	if n := f.issuer.count(); n != 2 {
		t.Errorf("fetched %d times", n)
	}
	f.issuer.set(func(i *issuer) { i.keys = []signer.Key{next} })
	f.wait(299 * time.Second)
	f.verify(old, nil)
	f.wait(time.Second)
	f.verify(old, signer.ErrSignature) // it is gone, once what was kept is no longer fresh
	f.verify(next, nil)
}

// TestKeySetFailures: known keys are trusted for a while when the set cannot be had, and then nothing is; a set that cannot be had
// from the start verifies nothing.
func TestKeySetFailures(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, broken := range map[string]func(*issuer){
		"gone": func(i *issuer) { i.status = 404 }, "redirected": func(i *issuer) { i.status = 302 }, "no keys": func(i *issuer) { i.keys = nil },
		"not JSON": func(i *issuer) { i.body = "hello" }, "endless": func(i *issuer) { i.body = `{"keys":[` + strings.Repeat(" ", signer.MaxJWKSBytes) + `]}` },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := follow(t)
			f.issuer.set(func(i *issuer) { i.keys = []signer.Key{key}; broken(i) })
			f.verify(key, ErrKeysUnknown)
			f.verify(key, ErrKeysUnknown)
			if n := f.issuer.count(); n != 1 {
				t.Errorf("fetched %d times", n)
			}
			f.issuer.set(func(i *issuer) { i.keys, i.status, i.body = []signer.Key{key}, 0, "" })
			f.wait(RefetchAfter)
			f.verify(key, nil)
			f.issuer.set(broken)
			f.wait(DefaultMaxStale - time.Second)
			f.verify(key, nil)
			f.wait(2 * time.Second)
			f.verify(key, ErrKeysUnknown)
		})
	}
}

// TestManyAtOnce: one fetch serves all who wait for it.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	f := follow(t)
	key := newKey(t)
	f.issuer.set(func(i *issuer) { i.keys = []signer.Key{key} })
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { f.verify(key, nil) })
	}
	all.Wait()
	if n := f.issuer.count(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// TestReceiverWithKeys answers 503 while it knows no key, so that the delivery comes again.
func TestReceiverWithKeys(t *testing.T) {
	t.Parallel()
	f := follow(t)
	key := newKey(t)
	hook, err := New(Options{Keys: f.KeySet, OnEvent: func(context.Context, Delivery) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	post := func() int {
		r, _ := signed(t, key)
		w := httptest.NewRecorder()
		hook.ServeHTTP(w, r)
		return w.Code
	}
	f.issuer.set(func(i *issuer) { i.status = 500 })
	if code := post(); code != http.StatusServiceUnavailable {
		t.Errorf("without keys: %d", code)
	}
	f.issuer.set(func(i *issuer) { i.keys, i.status, i.body = []signer.Key{key}, 0, "" })
	f.wait(RefetchAfter)
	if code := post(); code != http.StatusNoContent {
		t.Errorf("with keys: %d", code)
	}
	if _, err := New(Options{OnEvent: func(context.Context, Delivery) error { return nil }}); !errors.Is(err, ErrOptions) {
		t.Errorf("no verifier: %v", err)
	}
}

func TestFollowRefuses(t *testing.T) {
	t.Parallel()
	for _, o := range []KeySetOptions{
		{}, {URL: "http://sealpost.example/keys.json", Scheme: signer.RSASHA256}, {URL: "ftp://127.0.0.1/", Scheme: signer.RSASHA256},
		{URL: "https://u:p@sealpost.example/", Scheme: signer.RSASHA256}, {URL: "https://sealpost.example/#x", Scheme: signer.RSASHA256},
		{URL: "https://sealpost.example/", Scheme: signer.Standard}, {URL: "https://sealpost.example/", Scheme: "none"},
		{URL: "https://sealpost.example/", Scheme: signer.RSASHA256, MaxStale: -1}, {URL: "http://127.0.0.1.example/", Scheme: signer.RSASHA256},
		{URL: "https://sealpost.example/", Scheme: signer.RSASHA256, Verifier: []signer.VerifierOption{signer.WithTolerance(-1)}},
	} {
		if _, err := Follow(o); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for text, want := range map[string]time.Duration{
		"": defaultFresh, "public, max-age=300": 300 * time.Second, "max-age=1": RefetchAfter, "max-age=999999": maxFresh, "no-store": RefetchAfter,
		"max-age=-1": defaultFresh, "max-age=x": defaultFresh, `max-age="60"`: time.Minute, "max-age=99999999999999": defaultFresh,
	} {
		if got := freshFor(http.Header{"Cache-Control": {text}}); got != want {
			t.Errorf("%q: %v, not %v", text, got, want)
		}
	}
}
