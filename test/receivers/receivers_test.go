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

func TestReceivers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		language string
		scheme   signer.Scheme
	}{
		{"node", signer.TimestampHMAC},
		{"node", signer.TimestampHMAC256},
		{"node", signer.Standard},
		{"python", signer.TimestampHMAC},
		{"python", signer.RSASHA256},
		{"python", signer.Standard},
		{"python", signer.StandardEd25519},
	} {
		t.Run(c.language+"/"+string(c.scheme), func(t *testing.T) {
			t.Parallel()
			key, other := newKey(t, c.scheme), newKey(t, c.scheme)
			half := key.PublicText()
			if !key.Asymmetric() {
				half = key.Reveal()
			}
			p := partner{scheme: c.scheme, key: key, other: other, url: receivers.Start(t, c.language, c.scheme, half)}
			p.check(t)
		})
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
	url        string
}

// body has what breaks receivers that parse and write again: order, spacing, a
// number's form, characters beyond ASCII.
const body = `{"type":"contact.updated", "data":{"z":1.50,"a":"Zoë 漢字 \u00e9","n":12345678901234567890}}`

func (p *partner) check(t *testing.T) {
	facts := p.scheme.Facts()
	signature, stamp := facts.Headers[1], facts.Headers[0]
	for _, c := range []struct {
		name   string
		keys   []signer.Key
		age    time.Duration
		body   string
		change func(h http.Header, body *string)
		status int
		answer string
	}{
		{name: "signed", status: 200, answer: "ok"},
		{name: "signed, empty body", body: "-", status: 200, answer: "ok"},
		{name: "signed, large body", body: `"` + strings.Repeat("é", 1<<20) + `"`, status: 200, answer: "ok"},
		{name: "signed four minutes ago", age: 4 * time.Minute, status: 200, answer: "ok"},
		{name: "during a rotation, our key is current", keys: []signer.Key{p.key, p.other}, status: 200, answer: "ok"},
		{name: "stale", age: 6 * time.Minute, status: 400, answer: "stale"},
		{name: "from the future", age: -6 * time.Minute, status: 400, answer: "stale"},
		{name: "signed for another partner", keys: []signer.Key{p.other}, status: 401, answer: "invalid"},
		{name: "body tampered", change: func(_ http.Header, b *string) { *b = strings.Replace(*b, "1.50", "1.51", 1) }, status: 401, answer: "invalid"},
		{name: "body longer by a newline", change: func(_ http.Header, b *string) { *b += "\n" }, status: 401, answer: "invalid"},
		{name: "timestamp tampered", change: func(h http.Header, _ *string) { h.Set(stamp, later(h.Get(stamp))) }, status: 401, answer: "invalid"},
		{name: "timestamp not a number", change: func(h http.Header, _ *string) { h.Set(stamp, "soon") }, status: 401, answer: "invalid"},
		{name: "no timestamp", change: func(h http.Header, _ *string) { h.Del(stamp) }, status: 401, answer: "invalid"},
		{name: "unsigned", change: func(h http.Header, _ *string) { h.Del(signature) }, status: 401, answer: "invalid"},
		{name: "no header at all", change: func(h http.Header, _ *string) { clear(h) }, status: 401, answer: "invalid"},
		{name: "signature cut short", change: func(h http.Header, _ *string) { h.Set(signature, h.Get(signature)[:10]) }, status: 401, answer: "invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sent := body
			if c.body != "" {
				sent = strings.TrimPrefix(c.body, "-")
			}
			keys := c.keys
			if keys == nil {
				keys = []signer.Key{p.key}
			}
			h := p.sign(t, keys, sent, time.Now().Add(-c.age))
			if c.change != nil {
				c.change(h, &sent)
			}
			p.expect(t, h, sent, c.status, c.answer)
		})
	}
	// The other key's signature is beside ours only where the scheme can carry both.
	h := p.sign(t, []signer.Key{p.other, p.key}, body, time.Now())
	if facts.CarriesTwoSignatures {
		p.expect(t, h, body, 200, "ok")
	} else {
		p.expect(t, h, body, 401, "invalid")
	}
	if facts.CoversID {
		h := p.sign(t, []signer.Key{p.key}, body, time.Now())
		h.Set(signer.HeaderID, "evt_2")
		p.expect(t, h, body, 401, "invalid")
	}
}

// later is the timestamp with its last digit changed, well within the window.
func later(stamp string) string {
	digit := stamp[len(stamp)-1]
	if digit == '0' {
		return stamp[:len(stamp)-1] + "1"
	}
	return stamp[:len(stamp)-1] + string(digit-1)
}

func (p *partner) sign(t *testing.T, keys []signer.Key, body string, at time.Time) http.Header {
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
	m := signer.Message{ID: "evt_1", Time: at, Method: http.MethodPost, URL: p.url, ContentType: "application/json", Body: []byte(body)}
	if _, err := s.Sign(h, &m); err != nil {
		t.Fatal(err)
	}
	return h
}

func (p *partner) expect(t *testing.T, h http.Header, body string, status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = h
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
