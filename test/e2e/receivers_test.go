package e2e_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/receivers"
	"github.com/sealpost/sealpost/test/rig"
)

// TestReceiversInOtherLanguages delivers, under each scheme, to receivers in Go, Node, Python and Java, and sends them again what
// was delivered: as it was, changed, and too old. Then the key changes: a second endpoint with the new key stands for the
// relay after the change, and the receiver trusts first the old key, then both, then the new one.
func TestReceiversInOtherLanguages(t *testing.T) {
	t.Parallel()
	p := start(t)
	for _, language := range receivers.Languages {
		for _, scheme := range signer.Schemes() {
			t.Run(language+"/"+string(scheme), func(t *testing.T) {
				t.Parallel()
				newAudience(t, p.In(t), language, scheme).check(t)
			})
		}
	}
}

// audience is a receiver, what is between it and the relay, and the endpoints that lead there.
type audience struct {
	p        *rig.Client
	tenant   string
	scheme   signer.Scheme
	tap      *tap
	receiver *receivers.Receiver
	before   rig.Endpoint // signs with the old key
	after    rig.Endpoint // with the new one
	oldKey   string       // what a partner holds of them
	newKey   string
}

func newAudience(t *testing.T, p *rig.Client, language string, scheme signer.Scheme) *audience {
	t.Helper()
	a := &audience{p: p, tenant: language + "-" + string(scheme), scheme: scheme, tap: newTap(t)}
	a.before = p.Register(a.tap.url, rig.Object{"scheme": scheme, "tenant": a.tenant})
	a.after = p.Register(a.tap.url, rig.Object{"scheme": scheme, "tenant": a.tenant, "eventTypes": []string{"deal.*"}})
	a.oldKey, a.newKey = half(t, scheme, a.before), half(t, scheme, a.after)
	a.receiver = receivers.Start(t, language, scheme, strings.TrimSuffix(a.tap.url, "/webhook"))
	a.tap.forward(t, a.receiver.URL)
	return a
}

// half is what a partner holds of an endpoint's key.
func half(t *testing.T, scheme signer.Scheme, ep rig.Endpoint) string {
	t.Helper()
	if ep.PublicPEM == "" {
		return ep.Secret
	}
	key, err := signer.ParsePublicKey(scheme, ep.PublicPEM)
	if err != nil {
		t.Fatal(err)
	}
	return key.Text()
}

// deliver publishes an event of contact.*, for the old key's endpoint, or of deal.*, for the new key's, and awaits its delivery's state.
func (a *audience) deliver(t *testing.T, ep rig.Endpoint, id, state string) {
	t.Helper()
	e := rig.Event(id, `{"name":"Zoë 漢字 \u00e9","n":12345678901234567890,"x":[1.50, null]}`)
	e["tenant"] = a.tenant
	if ep.ID == a.after.ID {
		e["type"] = "deal.won"
	}
	a.p.Publish(e)
	if d := a.p.AwaitDelivery(ep, id, "DELIVERED", "RETRYING", "DEAD"); d.S("state") != state {
		t.Fatalf("%s is %s and not %s: %v", id, d.S("state"), state, d)
	}
}

func (a *audience) check(t *testing.T) {
	facts := a.scheme.Facts()
	a.receiver.Trust(a.oldKey)
	a.deliver(t, a.before, "good", "DELIVERED")
	got := a.tap.last()
	want := func(what string, change func(h http.Header, body []byte) []byte, status int, answer string) {
		t.Helper()
		h := got.Header.Clone()
		body := change(h, slices.Clone(got.Body))
		if s, said := a.tap.replay(t, h, body); s != status || said != answer {
			t.Errorf("%s: %d %q, want %d %q", what, s, said, status, answer)
		}
	}
	same := func(_ http.Header, b []byte) []byte { return b }
	want("replayed", same, 200, "duplicate")
	want("body tampered", func(_ http.Header, b []byte) []byte { return []byte(strings.Replace(string(b), "1.50", "1.51", 1)) }, 401, "invalid")
	want("body longer", func(_ http.Header, b []byte) []byte { return append(b, '\n') }, 401, "invalid")
	want("unsigned", func(h http.Header, b []byte) []byte { h.Del(facts.SignatureHeader); return b }, 401, "invalid")
	if facts.CoversID {
		want("id tampered", func(h http.Header, b []byte) []byte { h.Set(signer.HeaderID, "dlv_other"); return b }, 401, "invalid")
	} else {
		want("replayed under another id", func(h http.Header, b []byte) []byte { h.Set(signer.HeaderID, "dlv_other"); return b }, 200, "duplicate")
	}
	if !facts.Replayable {
		want("time tampered", func(h http.Header, b []byte) []byte {
			if !receivers.ChangeTime(a.scheme, h) {
				t.Errorf("no time in %v", h)
			}
			return b
		}, 401, "invalid")
	}
	// What is older than a second is too old for a while: the wait makes it that old, however slow the machine is.
	a.receiver.Tolerate(time.Second)
	time.Sleep(time.Until(got.At.Add(2100 * time.Millisecond)))
	if facts.Replayable {
		want("stale, which nothing tells", same, 200, "duplicate")
	} else {
		want("stale", same, 400, "stale")
	}
	a.receiver.Tolerate(5 * time.Minute)

	a.deliver(t, a.after, "wrong-key", "RETRYING")
	a.receiver.Trust(a.oldKey, a.newKey)
	a.deliver(t, a.before, "old-key-in-the-overlap", "DELIVERED")
	a.deliver(t, a.after, "new-key-in-the-overlap", "DELIVERED")
	a.receiver.Trust(a.newKey)
	a.deliver(t, a.after, "new-key", "DELIVERED")
	a.deliver(t, a.before, "old-key-after-the-overlap", "RETRYING")
	want("of the old key, after the overlap", same, 401, "invalid")
}

// TestVendorsLibraries delivers under the schemes of Standard Webhooks and of vendors, and has their own libraries say what they
// think of it, as it was and changed.
func TestVendorsLibraries(t *testing.T) {
	t.Parallel()
	for _, language := range receivers.LibraryLanguages {
		receivers.Install(t, language)
	}
	p := start(t)
	var stored []receivers.Stored
	var good []bool
	for scheme := range receivers.Libraries {
		partner := rig.NewPartner(t, nil, nil)
		more := rig.Object{"scheme": scheme, "tenant": "v-" + string(scheme)}
		if scheme == signer.Shopify { // its library asks for what is the same for each delivery as well
			more["headers"] = []rig.Object{{"name": "X-Shopify-Shop-Domain", "value": "acme.example"}, {"name": "X-Shopify-API-Version", "value": "2026-01"}}
		}
		ep := p.Register(partner.URL, more)
		e := rig.Event("evt_1", `{"name":"Zoë","n":1.50}`)
		e["tenant"] = more["tenant"]
		p.Publish(e)
		got := partner.Await(t, 1)[0]
		for _, body := range [][]byte{got.Body, append([]byte(" "), got.Body...)} {
			good = append(good, len(body) == len(got.Body))
			stored = append(stored, receivers.NewStored(scheme, ep.Secret, partner.URL, got.Header, body))
		}
	}
	for _, language := range receivers.LibraryLanguages {
		var asked []receivers.Stored
		var want []bool
		for i, s := range stored {
			if receivers.Libraries[s.Scheme][language] != nil {
				asked, want = append(asked, s), append(want, good[i])
			}
		}
		for i, said := range receivers.Ask(t, language, asked) {
			for _, s := range said {
				if s.Accepted != want[i] {
					t.Errorf("%s in %s of %s: accepted %v (%s)", s.Library, language, asked[i].Scheme, s.Accepted, s.Reason)
				}
			}
		}
	}
}

// tap hands requests on to a receiver that is started later, and keeps the last.
type tap struct {
	url    string
	target string
	proxy  http.Handler
	mu     sync.Mutex
	got    rig.Receipt
	ready  chan struct{}
}

func newTap(t *testing.T) *tap {
	x := &tap{ready: make(chan struct{})}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-x.ready
		body, _ := io.ReadAll(r.Body)
		x.mu.Lock()
		x.got = rig.Receipt{At: time.Now(), Header: r.Header.Clone(), Body: body}
		x.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		x.proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	x.url = s.URL + "/webhook"
	return x
}

func (x *tap) forward(t *testing.T, target string) {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(u)
	// Node closes an idle connection after five seconds, perhaps as the next request goes out on it.
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	x.target, x.proxy = target, proxy
	close(x.ready)
}

func (x *tap) last() rig.Receipt {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.got
}

// replay sends a request straight to the receiver, and tells what it answered.
func (x *tap) replay(t *testing.T, h http.Header, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", x.target, strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header, req.Close = h, true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(said)
}
