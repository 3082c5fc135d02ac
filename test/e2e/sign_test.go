package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// keyOf is the verifying key that a registration answered with.
func keyOf(t *testing.T, scheme signer.Scheme, ep rig.Endpoint) signer.VerifyingKey {
	t.Helper()
	if ep.PublicPEM != "" {
		if ep.Secret != "" {
			t.Errorf("%s: a private key was answered", scheme)
		}
		key, err := signer.ParsePublicKey(scheme, ep.PublicPEM)
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		return key
	}
	key, err := signer.ParseKey(scheme, ep.Secret)
	if err != nil {
		t.Fatalf("%s: %v", scheme, err)
	}
	return key
}

func verifier(t *testing.T, scheme signer.Scheme, keys ...signer.VerifyingKey) *signer.Verifier {
	t.Helper()
	v, err := signer.NewVerifier(scheme, keys)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchemes delivers under each scheme and verifies what arrived; what was changed, is old, unsigned, or signed for
// another partner, does not verify.
func TestSchemes(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			tenant := "t-" + string(scheme)
			partner, other := rig.NewPartner(t, nil, nil), rig.NewPartner(t, nil, nil)
			ep := p.Register(partner.URL, rig.Object{"scheme": scheme, "tenant": tenant})
			second := p.Register(other.URL, rig.Object{"scheme": scheme, "tenant": tenant})
			key, otherKey := keyOf(t, scheme, ep), keyOf(t, scheme, second)
			e := rig.Event("evt_1", `{"name":"Zoë","n":1.50}`)
			e["tenant"] = tenant
			p.Publish(e)
			got, others := partner.Await(t, 1)[0], other.Await(t, 1)[0]
			verify := func(key signer.VerifyingKey, h http.Header, target string, body []byte, at time.Time) error {
				_, err := verifier(t, scheme, key).Verify(h, signer.Request{Method: "POST", URL: target, Body: body}, at)
				return err
			}
			if err := verify(key, got.Header, partner.URL, got.Body, time.Now()); err != nil {
				t.Fatalf("%v\n%v", err, got.Header)
			}
			facts := scheme.Facts()
			for name, err := range map[string]error{
				"another partner's key":   verify(otherKey, got.Header, partner.URL, got.Body, time.Now()),
				"the other's delivery":    verify(key, others.Header, other.URL, others.Body, time.Now()),
				"a changed body":          verify(key, got.Header, partner.URL, append([]byte(" "), got.Body...), time.Now()),
				"without its signature":   verify(key, without(got.Header, facts.SignatureHeader), partner.URL, got.Body, time.Now()),
				"without all its headers": verify(key, without(got.Header, facts.Headers...), partner.URL, got.Body, time.Now()),
			} {
				if err == nil {
					t.Errorf("%s verifies", name)
				}
			}
			for name, away := range map[string]time.Duration{"six minutes later": 6 * time.Minute, "six minutes before": -6 * time.Minute} {
				if err := verify(key, got.Header, partner.URL, got.Body, time.Now().Add(away)); (err == nil) != facts.Replayable {
					t.Errorf("%s: %v", name, err)
				}
			}
			for when, shown := range map[string]rig.Object{"registered": ep.Object, "shown": p.Do("GET", ep.Path(), nil).Object} {
				if marked, _ := shown["replayable"].(bool); marked != facts.Replayable {
					t.Errorf("%s as replayable: %v", when, marked)
				}
			}
			for _, name := range facts.Headers {
				if got.Header.Get(name) == "" {
					t.Errorf("no %s", name)
				}
			}
			if facts.CoversID {
				changed := got.Header.Clone()
				changed.Set(signer.HeaderID, "dlv_other")
				if verify(key, changed, partner.URL, got.Body, time.Now()) == nil {
					t.Error("a changed id verifies")
				}
			}
			d := p.AwaitDelivery(ep, "evt_1", "DELIVERED")
			if id := got.ID(); id != "" && id != d.S("id") {
				t.Errorf("webhook-id %q, delivery %q", id, d.S("id"))
			}
			sum := sha256.Sum256(got.Body)
			if a := d.L("attempts")[0]; a.S("bodySha256") != hex.EncodeToString(sum[:]) || a.S("keyId") == "" {
				t.Errorf("the attempt's record: %v", a)
			}
		})
	}
}

func without(h http.Header, names ...string) http.Header {
	h = h.Clone()
	for _, n := range names {
		h.Del(n)
	}
	return h
}

// TestReceiverPackage delivers to relay/receiver under each scheme: every event is handed over once, also when an answer is
// lost, and a request that is recorded and sent again is refused.
func TestReceiverPackage(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			r := newReceiver(t)
			tenant := "r-" + string(scheme)
			ep := p.Register(r.url, rig.Object{"scheme": scheme, "tenant": tenant})
			r.trust(t, scheme, keyOf(t, scheme, ep), receiver.Options{})
			r.loseAnswers(3)
			ids := p.PublishMany(tenant, "e", 20)
			p.AwaitCount("tenant="+tenant+"&state=DELIVERED", len(ids))
			handed := r.handed()
			if len(handed) != len(ids) {
				t.Errorf("%d events were handed over, %d published", len(handed), len(ids))
			}
			for id, n := range handed {
				if n != 1 {
					t.Errorf("%s was handed over %d times", id, n)
				}
			}
			if status := r.replayLast(t); status/100 == 2 && status != http.StatusOK {
				t.Errorf("a replay is answered with %d", status)
			}
			if n := len(r.handed()); n != len(ids) {
				t.Errorf("a replay was handed over: %d events of %d", n, len(ids))
			}
		})
	}
}

// rcv is a server with relay/receiver.
type rcv struct {
	url string

	mu      sync.Mutex
	handler http.Handler
	ready   chan struct{}
	lose    int
	lastReq *http.Request
	lastRaw []byte
	counts  map[string]int
	bodies  map[string][]byte
	chunks  map[string]int
	seen    []rig.Receipt
	refuse  func(r rig.Receipt) int // before the receiver sees it; 0: go on
}

func newReceiver(t *testing.T) *rcv {
	r := &rcv{ready: make(chan struct{}), counts: map[string]int{}, bodies: map[string][]byte{}, chunks: map[string]int{}}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.url = s.URL + "/hook"
	return r
}

func (r *rcv) trust(t *testing.T, scheme signer.Scheme, key signer.VerifyingKey, o receiver.Options) {
	t.Helper()
	base := strings.TrimSuffix(r.url, "/hook")
	v, err := signer.NewVerifier(scheme, []signer.VerifyingKey{key}, signer.WithExternalURL(base))
	if err != nil {
		t.Fatal(err)
	}
	o.Verifier = v
	o.OnEvent = func(_ context.Context, d receiver.Delivery) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		id := d.ID
		if id == "" {
			id = string(d.Body)
		}
		r.counts[id]++
		r.bodies[id], r.chunks[id] = d.Body, d.Chunks
		return nil
	}
	if r.handler, err = receiver.New(o); err != nil {
		t.Fatal(err)
	}
	close(r.ready)
}

func (r *rcv) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	<-r.ready
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	got := rig.Receipt{N: len(r.seen) + 1, At: time.Now(), Header: req.Header.Clone(), Body: body}
	r.seen = append(r.seen, got)
	r.lastReq, r.lastRaw = req.Clone(context.Background()), body
	lose, refuse := r.lose > 0, r.refuse
	if lose {
		r.lose--
	}
	r.mu.Unlock()
	if refuse != nil {
		if status := refuse(got); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	req.Body = io.NopCloser(strings.NewReader(string(body)))
	if lose {
		r.handler.ServeHTTP(httptest.NewRecorder(), req)
		panic(http.ErrAbortHandler)
	}
	r.handler.ServeHTTP(w, req)
}

func (r *rcv) loseAnswers(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = n
}

func (r *rcv) handed() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for id, n := range r.counts {
		out[id] = n
	}
	return out
}

func (r *rcv) receipts() []rig.Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]rig.Receipt(nil), r.seen...)
}

func (r *rcv) replayLast(t *testing.T) int {
	t.Helper()
	r.mu.Lock()
	h, body := r.lastReq.Header.Clone(), r.lastRaw
	r.mu.Unlock()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestContentModes looks at the body and headers of each mode, and at static headers and credentials.
func TestContentModes(t *testing.T) {
	t.Parallel()
	p := start(t)
	const data = `{"b":1,"a":[1.0,{"x":null}]}`
	for _, c := range []struct {
		mode, media, body string
		header            map[string]string
	}{
		{"", "application/json", `{"type":"contact.updated","timestamp":"2026-01-02T03:04:05Z","id":"evt_1","tenant":"%s","subject":"contact/42","data":` + data + `}`, nil},
		{"data", "application/json", data, nil},
		{"cloudevents", "application/cloudevents+json", `{"specversion":"1.0","id":"evt_1","source":"/tenants/%s","type":"contact.updated","subject":"contact/42","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":` + data + `}`, nil},
		{"cloudevents-binary", "application/json", data, map[string]string{"Ce-Id": "evt_1", "Ce-Type": "contact.updated", "Ce-Specversion": "1.0", "Ce-Subject": "contact/42", "Ce-Source": "/tenants/%s", "Ce-Time": "2026-01-02T03:04:05Z"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			tenant := "m-" + c.mode
			partner := rig.NewPartner(t, nil, nil)
			more := rig.Object{"tenant": tenant, "headers": []rig.Object{{"name": "X-Partner-Key", "value": "k-1234567"}}}
			if c.mode != "" {
				more["contentMode"] = c.mode
			}
			p.Register(partner.URL, more)
			e := rig.Event("evt_1", data)
			e["tenant"] = tenant
			p.Publish(e)
			got := partner.Await(t, 1)[0]
			want := strings.ReplaceAll(c.body, "%s", tenant)
			if string(got.Body) != want {
				t.Errorf("body\n%s\nwant\n%s", got.Body, want)
			}
			if got.Header.Get("Content-Type") != c.media || !strings.HasPrefix(got.Header.Get("User-Agent"), "Sealpost/") || got.Header.Get("X-Partner-Key") != "k-1234567" || got.Method != "POST" {
				t.Errorf("headers: %v", got.Header)
			}
			for name, value := range c.header {
				if got.Header.Get(name) != strings.ReplaceAll(value, "%s", tenant) {
					t.Errorf("%s: %q", name, got.Header.Get(name))
				}
			}
		})
	}
	for name, c := range map[string]struct {
		more rig.Object
		want string
	}{
		"basic":  {rig.Object{"basicAuth": rig.Object{"username": "u", "password": "p:w"}}, "Basic dTpwOnc="},
		"bearer": {rig.Object{"bearerToken": "tok-123456"}, "Bearer tok-123456"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := p.In(t)
			partner := rig.NewPartner(t, nil, nil)
			c.more["tenant"] = name
			ep := p.Register(partner.URL, c.more)
			e := rig.Event("evt_1", data)
			e["tenant"] = name
			p.Publish(e)
			if got := partner.Await(t, 1)[0].Header.Get("Authorization"); got != c.want {
				t.Errorf("authorization: %q", got)
			}
			shown := p.Do("GET", ep.Path(), nil)
			for _, secret := range []string{"p:w", "tok-123456", ep.Secret} {
				if strings.Contains(string(shown.Raw), secret) {
					t.Errorf("the endpoint shows a secret: %s", shown.Raw)
				}
			}
		})
	}
}
