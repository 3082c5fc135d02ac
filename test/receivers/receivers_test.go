package receivers_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/receivers"
)

// TestReceivers holds the signer against a receiver of each scheme in each language.
func TestReceivers(t *testing.T) {
	t.Parallel()
	for _, language := range receivers.Languages {
		for _, scheme := range signer.Schemes() {
			t.Run(language+"/"+string(scheme), func(t *testing.T) {
				t.Parallel()
				p := partner{
					scheme: scheme, key: newKey(t, scheme), other: newKey(t, scheme),
					receiver: receivers.Start(t, language, scheme, ""),
				}
				p.receiver.Trust(receivers.Half(p.key))
				p.check(t)
			})
		}
	}
}

func newKey(t *testing.T, scheme signer.Scheme) signer.Key {
	t.Helper()
	key, err := signer.GenerateKey(scheme)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// partner is a running receiver that holds key, and does not know other.
type partner struct {
	scheme     signer.Scheme
	key, other signer.Key
	receiver   *receivers.Receiver
}

// body has what breaks receivers that parse and write again: order, spacing, a number's form, characters beyond ASCII.
const body = `{"type":"contact.updated", "data":{"z":1.50,"a":"Zoë 漢字 \u00e9","n":12345678901234567890,"case":"`

func (p *partner) check(t *testing.T) {
	facts := p.scheme.Facts()
	signature := facts.SignatureHeader
	timed := !facts.Replayable
	for _, c := range []struct {
		name   string
		keys   []signer.Key
		age    time.Duration
		body   string
		change func(h http.Header, body *string)
		status int
		answer string
		off    bool // not under this scheme
	}{
		{name: "signed", status: 200, answer: "ok"},
		{name: "signed, empty body", body: "-", status: 200, answer: "ok"},
		{name: "signed, large body", body: `"` + strings.Repeat("é", 1<<20) + `"`, status: 200, answer: "ok"},
		{name: "signed two minutes ago", age: 2 * time.Minute, status: 200, answer: "ok"},
		{name: "during a rotation, our key is current", keys: []signer.Key{p.key, p.other}, status: 200, answer: "ok"},
		{name: "a year old", age: 365 * 24 * time.Hour, status: 200, answer: "ok", off: timed},
		{name: "stale", age: 6 * time.Minute, status: 400, answer: "stale", off: !timed},
		{name: "from the future", age: -6 * time.Minute, status: 400, answer: "stale", off: !timed},
		{name: "signed for another partner", keys: []signer.Key{p.other}, status: 401, answer: "invalid"},
		{name: "body tampered", change: func(_ http.Header, b *string) { *b = strings.Replace(*b, "1.50", "1.51", 1) }, status: 401, answer: "invalid"},
		{name: "body longer by a newline", change: func(_ http.Header, b *string) { *b += "\n" }, status: 401, answer: "invalid"},
		{name: "timestamp tampered", change: p.setTime(t, ""), status: 401, answer: "invalid", off: !timed},
		{name: "timestamp not a number", change: p.setTime(t, "soon"), status: 401, answer: "invalid", off: !timed},
		{name: "timestamp with a sign", change: p.setTime(t, "+1767323045"), status: 401, answer: "invalid", off: !timed},
		{name: "no timestamp", change: func(h http.Header, _ *string) { h.Del(facts.TimeHeader) }, status: 401, answer: "invalid", off: facts.TimeHeader == ""},
		{name: "unsigned", change: func(h http.Header, _ *string) { h.Del(signature) }, status: 401, answer: "invalid"},
		{name: "no header at all", change: func(h http.Header, _ *string) { clear(h) }, status: 401, answer: "invalid"},
		{name: "signature cut short", change: func(h http.Header, _ *string) { h.Set(signature, h.Get(signature)[:18]) }, status: 401, answer: "invalid"},
		{name: "id tampered", change: func(h http.Header, _ *string) { h.Set(signer.HeaderID, "evt_2") }, status: 401, answer: "invalid", off: !facts.CoversID},
		{name: "another URL", change: func(h http.Header, _ *string) { h.Set("Host", "hooks.partner.example") }, status: 401, answer: "invalid", off: !facts.CoversTarget},
	} {
		if c.off {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sent := body + c.name + `"}}`
			if c.body != "" {
				sent = strings.TrimPrefix(c.body, "-")
			}
			keys := c.keys
			if keys == nil {
				keys = []signer.Key{p.key}
			}
			h := p.sign(t, "evt-"+strings.ReplaceAll(c.name, " ", "-"), keys, sent, time.Now().Add(-c.age))
			if c.change != nil {
				c.change(h, &sent)
			}
			p.expect(t, h, sent, c.status, c.answer)
			if c.status == 200 {
				p.expect(t, h, sent, 200, "duplicate")
			}
		})
	}
	// The other key's signature is beside ours only where the scheme can carry both.
	h := p.sign(t, "evt_both", []signer.Key{p.other, p.key}, body, time.Now())
	if facts.CarriesTwoSignatures {
		p.expect(t, h, body, 200, "ok")
	} else {
		p.expect(t, h, body, 401, "invalid")
	}
}

func (p *partner) setTime(t *testing.T, text string) func(http.Header, *string) {
	return func(h http.Header, _ *string) {
		if !receivers.SetTime(p.scheme, h, text) {
			t.Errorf("no time in %v", h)
		}
	}
}

func (p *partner) sign(t *testing.T, id string, keys []signer.Key, body string, at time.Time) http.Header {
	t.Helper()
	ring, err := signer.NewKeyring(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.NewSigner(p.scheme, ring)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	m := signer.Message{
		ID: strings.ReplaceAll(id, ",", ""), Time: at, Method: http.MethodPost, URL: p.receiver.URL, Type: "contact.updated", ContentType: "application/json", Body: []byte(body),
	}
	if _, err := s.Sign(h, &m); err != nil {
		t.Fatal(err)
	}
	return h
}

func (p *partner) expect(t *testing.T, h http.Header, body string, status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.receiver.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header, r.Host, r.Close = h, h.Get("Host"), true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil || resp.StatusCode != status || string(got) != answer {
		t.Errorf("%d %q, %v; want %d %q", resp.StatusCode, got, err, status, answer)
	}
}
