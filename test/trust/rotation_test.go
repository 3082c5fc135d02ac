package trust_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// strict is a receiver that trusts just the keys that it was last told, refuses all else, and counts.
type strict struct {
	url    string
	scheme signer.Scheme
	keys   atomic.Pointer[[]signer.VerifyingKey]

	mu      sync.Mutex
	seen    map[string]int // by webhook-id: how often it was accepted
	byKey   map[string]int // by key id: what it verified
	refused []string
}

func newStrict(t *testing.T, scheme signer.Scheme) *strict {
	t.Helper()
	s := &strict{scheme: scheme, seen: map[string]int{}, byKey: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL + "/hook"
	return s
}

func (s *strict) trust(keys ...signer.VerifyingKey) { s.keys.Store(&keys) }

func (s *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was never whole
	}
	verified, err := signer.Verified{}, signer.ErrSignature
	if keys := s.keys.Load(); keys != nil {
		var v *signer.Verifier
		if v, err = signer.NewVerifier(s.scheme, *keys); err == nil {
			verified, err = v.VerifyRequest(r, body)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.refused = append(s.refused, fmt.Sprint(r.Header.Get("Webhook-Id"), ": ", err))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.seen[r.Header.Get("Webhook-Id")]++
	s.byKey[verified.KeyID]++
}

// report is how many deliveries were accepted, what was refused, and what each key verified.
func (s *strict) report() (accepted int, refused []string, byKey map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byKey = map[string]int{}
	for k, n := range s.byKey {
		byKey[k] = n
	}
	return len(s.seen), slices.Clone(s.refused), byKey
}

func (s *strict) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// keyOf is the verifying key that an answer holds: a secret, or a public key.
func keyOf(t *testing.T, scheme signer.Scheme, secret, pem string) signer.VerifyingKey {
	t.Helper()
	if pem != "" {
		key, err := signer.ParsePublicKey(scheme, pem)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, err := signer.ParseKey(scheme, secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rotate rotates the secret of an endpoint and returns the new key.
func rotate(t *testing.T, p *rig.Client, scheme signer.Scheme, ep rig.Endpoint, more rig.Object) signer.VerifyingKey {
	t.Helper()
	asked := rig.Object{"tenant": ep.Tenant}
	for k, v := range more {
		asked[k] = v
	}
	made := p.OK("POST", "/v1/endpoints/"+ep.ID+":rotateSecret", asked)
	key := keyOf(t, scheme, made.S("secret"), made.S("publicKeyPem"))
	if key.ID() != made.S("keyId") {
		t.Fatalf("the answer names key %s, and holds %s", made.S("keyId"), key.ID())
	}
	return key
}

func secretAct(p *rig.Client, ep rig.Endpoint, verb string, more rig.Object) rig.Object {
	asked := rig.Object{"tenant": ep.Tenant}
	for k, v := range more {
		asked[k] = v
	}
	return p.OK("POST", "/v1/endpoints/"+ep.ID+":"+verb+"Secret", asked)
}

// maxAhead is how many events are published before they came, at most: a backlog would be delivered at the same speed, and only take
// longer to end.
const maxAhead = 1000

// publisher publishes to a tenant as fast as came is delivered, until stop is called, which returns how many events it were.
func publisher(t *testing.T, p *rig.Client, tenant string, came func() int) (stop func() int) {
	t.Helper()
	ended, done, n := make(chan struct{}), make(chan struct{}), 0
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			default:
			}
			if n-came() > maxAhead {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			var events []rig.Object
			for range 100 {
				e := rig.Event(fmt.Sprintf("%s-%d", tenant, n+len(events)), `{"name":"Zoë"}`)
				e["tenant"] = tenant
				events = append(events, e)
			}
			body, err := json.Marshal(rig.Object{"events": events})
			if err != nil {
				t.Error(err)
				return
			}
			a, err := p.Send("POST", "/v1/events:batch", "application/json", body)
			if err != nil || a.Status != http.StatusOK {
				t.Errorf("publish: %d %s %v", a.Status, a.Raw, err)
				return
			}
			for _, r := range a.L("results") {
				if r["error"] != nil {
					t.Errorf("publish: %v", r)
					return
				}
			}
			n += len(events)
		}
	}()
	return sync.OnceValue(func() int { close(ended); <-done; return n })
}

// TestRotationUnderLoad rotates a key 20 times while events are delivered as fast as they are published, to a receiver that trusts no
// key a moment longer than it was told to: nothing is refused, nothing lost, nothing sent twice. Each old key is taken back before
// the next rotation, and its receiver stops trusting it with the answer; some go by themselves at the end of a short overlap.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const rotations = 20
	p := rig.Start(t, binary, quiet())
	for _, scheme := range []signer.Scheme{signer.Standard, signer.RFC9421, signer.TimestampHMAC, signer.RSASHA256} {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p, to, tenant := p.In(t), newStrict(t, scheme), "r-"+string(scheme)
			ep := p.Register(to.url, rig.Object{"tenant": tenant, "scheme": scheme})
			current := keyOf(t, scheme, ep.Secret, ep.PublicPEM)
			to.trust(current)
			stop := publisher(t, p, tenant, to.count)
			defer stop()
			used := map[string]bool{current.ID(): true}
			for i := range rotations {
				before := to.count()
				rig.Eventually(t, "deliveries go on", func() bool { return to.count() > before })
				asked := rig.Object{}
				alone := i%7 == 6 // its overlap ends by itself
				if alone {
					asked["overlap"] = "2s"
				}
				// Until the answer is here nobody has the new key.
				next := rotate(t, p, scheme, ep, asked)
				to.trust(current, next)
				if !scheme.Facts().CarriesTwoSignatures && !alone {
					secretAct(p, ep, "activate", nil)
				}
				if alone {
					rig.Eventually(t, "the overlap ends", func() bool {
						keys := p.OK("GET", ep.Path(), nil).L("signingKeys")
						return len(keys) == 1 && keys[0].S("id") == next.ID()
					})
				} else {
					secretAct(p, ep, "revoke", rig.Object{"keyId": current.ID()})
				}
				to.trust(next)
				current = next
				used[current.ID()] = true
			}
			published := stop()
			if len(used) != rotations+1 {
				t.Errorf("%d keys", len(used))
			}
			rig.Eventually(t, "all is delivered", func() bool { return to.count() >= published })
			p.AwaitCount("tenant="+tenant+"&state=DELIVERED&eventId="+fmt.Sprintf("%s-%d", tenant, published-1), 1)
			accepted, refused, byKey := to.report()
			if accepted != published || len(refused) > 0 {
				t.Errorf("%d published, %d accepted, %d refused: %v", published, accepted, len(refused), refused[:min(len(refused), 5)])
			}
			if len(byKey) < rotations/2 {
				t.Errorf("only %d keys signed something", len(byKey))
			}
			t.Logf("%s: %d deliveries over %d keys, none refused, none lost", scheme, accepted, len(used))
		})
	}
}

// TestEmergencyRotation: when a rotation without overlap answers, nothing more comes that the old key signed.
func TestEmergencyRotation(t *testing.T) {
	t.Parallel()
	p := rig.Start(t, binary, quiet())
	for _, scheme := range []signer.Scheme{signer.Standard, signer.RSASHA256} {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p, to, tenant := p.In(t), newStrict(t, scheme), "e-"+string(scheme)
			ep := p.Register(to.url, rig.Object{"tenant": tenant, "scheme": scheme})
			old := keyOf(t, scheme, ep.Secret, ep.PublicPEM)
			to.trust(old)
			stop := publisher(t, p, tenant, to.count)
			defer stop()
			rig.Eventually(t, "deliveries go on", func() bool { return to.count() > 200 })
			next := rotate(t, p, scheme, ep, rig.Object{"revoke": true, "reason": "it was in a log"})
			_, _, then := to.report()
			to.trust(old, next) // the old one too, so that what it signed would be counted
			rig.Eventually(t, "the new key signs", func() bool { _, _, by := to.report(); return by[next.ID()] > 200 })
			if _, _, by := to.report(); by[old.ID()] != then[old.ID()] {
				t.Errorf("%d deliveries of the revoked key after the answer", by[old.ID()]-then[old.ID()])
			}
			n := stop()
			rig.Eventually(t, "all is delivered", func() bool { return to.count() == n })
		})
	}
}

// TestRotationSurvivesKill kills the process at random moments of rotations. What was answered holds afterwards; a rotation whose answer
// was lost can be taken back, and the key from before signs again.
func TestRotationSurvivesKill(t *testing.T) {
	t.Parallel()
	p := rig.Start(t, binary, quiet())
	to := newStrict(t, signer.Standard)
	ep := p.Register(to.url, nil)
	current := keyOf(t, signer.Standard, ep.Secret, ep.PublicPEM)
	lost := 0
	for round := range 8 {
		var next signer.VerifyingKey
		rotated := make(chan rig.Answer, 1)
		go func() {
			a, err := p.Send("POST", "/v1/endpoints/"+ep.ID+":rotateSecret", "application/json", []byte(`{"tenant":"acme"}`))
			if err != nil {
				a = rig.Answer{}
			}
			rotated <- a
		}()
		time.Sleep(rand.N(40 * time.Millisecond))
		p.Kill()
		if a := <-rotated; a.Status == http.StatusOK {
			next = keyOf(t, signer.Standard, a.S("secret"), "")
		}
		p.Restart(nil)
		keys := p.OK("GET", ep.Path(), nil).L("signingKeys")
		switch {
		case next != nil:
			if len(keys) != 2 || keys[0].S("id") != next.ID() || keys[1].S("id") != current.ID() {
				t.Fatalf("round %d: a rotation was answered and is not there: %v", round, keys)
			}
			secretAct(p.Client, ep, "revoke", rig.Object{"keyId": current.ID()})
			current = next
		case len(keys) == 2: // it was done, and nobody has the secret
			lost++
			secretAct(p.Client, ep, "revoke", rig.Object{"keyId": keys[0].S("id"), "reason": "the answer was lost"})
		}
		to.trust(current)
		id := fmt.Sprintf("evt_%d", round)
		p.Publish(rig.Event(id, `{}`))
		p.AwaitDelivery(ep, id, "DELIVERED")
	}
	if _, refused, _ := to.report(); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	t.Logf("%d of 8 answers were lost", lost)
}

// TestKeySetIsFollowed: a receiver that knows nothing but the URL of the key set goes along with rotations, the next key is published
// before it signs, and what others may not have is not there.
func TestKeySetIsFollowed(t *testing.T) {
	t.Parallel()
	p := rig.Start(t, binary, quiet())
	for _, scheme := range []signer.Scheme{signer.StandardEd25519, signer.RFC9421, signer.RSASHA256} {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p, tenant, address := p.In(t), "j-"+string(scheme), p.HTTP
			var hook atomic.Pointer[receiver.Receiver]
			url := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hook.Load().ServeHTTP(w, r) }))
			ep := p.Register(url+"/hook", rig.Object{"tenant": tenant, "scheme": scheme})
			at := "http://" + address + "/.well-known/jwks/" + ep.ID + ".json"
			now := atomic.Int64{} // the receiver's clock runs ahead, so that it may fetch again
			keys, err := receiver.Follow(receiver.KeySetOptions{URL: at, Scheme: scheme, Now: func() time.Time { return time.Now().Add(time.Duration(now.Load())) }})
			if err != nil {
				t.Fatal(err)
			}
			by := make(chan string, 100)
			made, err := receiver.New(receiver.Options{Keys: keys, OnEvent: func(_ context.Context, d receiver.Delivery) error { by <- d.KeyID; return nil }})
			if err != nil {
				t.Fatal(err)
			}
			hook.Store(made)
			deliver := func(id string) string {
				t.Helper()
				e := rig.Event(id, `{}`)
				e["tenant"] = tenant
				p.Publish(e)
				p.AwaitDelivery(ep, id, "DELIVERED")
				return <-by
			}
			old := keyOf(t, scheme, "", ep.PublicPEM)
			if got := deliver("evt_1"); got != old.ID() {
				t.Errorf("verified by %s, not %s", got, old.ID())
			}
			before := published(t, at)
			next := rotate(t, p, scheme, ep, nil)
			set := published(t, at)
			if !slices.Contains(set.kids, next.ID()) || !slices.Contains(set.kids, old.ID()) || set.tag == before.tag || set.age <= 0 || set.age > 300 {
				t.Errorf("published: %+v, then %+v", before, set)
			}
			if again, err := http.NewRequest("GET", at, nil); err != nil {
				t.Fatal(err)
			} else {
				again.Header.Set("If-None-Match", set.tag)
				resp, err := http.DefaultClient.Do(again)
				if err != nil || resp.StatusCode != http.StatusNotModified {
					t.Errorf("asked again: %v, %v", resp, err)
				}
				resp.Body.Close()
			}
			if scheme == signer.RSASHA256 {
				if got := deliver("evt_2"); got != old.ID() {
					t.Errorf("verified by %s before it was activated", got)
				}
				secretAct(p, ep, "activate", nil)
			}
			now.Add(int64(receiver.RefetchAfter))
			deliver("evt_3")
			secretAct(p, ep, "revoke", rig.Object{"keyId": old.ID()})
			now.Add(int64(receiver.RefetchAfter))
			if got := deliver("evt_4"); got != next.ID() {
				t.Errorf("verified by %s, not by the new key %s", got, next.ID())
			}
			if set := published(t, at); !slices.Equal(set.kids, []string{next.ID()}) {
				t.Errorf("published after the revocation: %v", set.kids)
			}
		})
	}
	shared := p.Register("http://127.0.0.1:9/hook", rig.Object{"tenant": "j-shared"})
	for _, path := range []string{shared.ID + ".json", "ep_none.json", shared.ID, "..%2f..%2foperator.token"} {
		if a := p.As("").Do("GET", "/.well-known/jwks/"+path, nil); a.Status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.Status, a.Raw)
		}
	}
}

// keySet is what is published of an endpoint.
type keySet struct {
	kids []string
	tag  string
	age  int
}

func published(t *testing.T, url string) (set keySet) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v", resp.StatusCode, text, err)
	}
	for _, private := range []string{`"d"`, `"p"`, `"q"`, `"k"`} {
		if strings.Contains(string(text), private) {
			t.Fatalf("a private member %s is published", private)
		}
	}
	var keys struct {
		Keys []signer.JWK `json:"keys"`
	}
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys.Keys {
		set.kids = append(set.kids, k.KeyID)
	}
	set.tag = resp.Header.Get("ETag")
	if _, err := fmt.Sscanf(resp.Header.Get("Cache-Control"), "public, max-age=%d", &set.age); err != nil {
		t.Errorf("cache-control %q: %v", resp.Header.Get("Cache-Control"), errors.Unwrap(err))
	}
	return set
}
