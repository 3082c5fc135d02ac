package courier

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/chunk"
	"github.com/sealpost/sealpost/signer"
)

func TestBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for mode, want := range map[relay.ContentMode]string{
		"":                             `{"type":"contact.updated","timestamp":"2026-01-02T02:04:05.6Z","id":"evt_1","tenant":"acme","subject":"contact/42","data":{"n":1.50,"e":"ü"}}`,
		relay.ContentEnvelope:          `{"type":"contact.updated","timestamp":"2026-01-02T02:04:05.6Z","id":"evt_1","tenant":"acme","subject":"contact/42","data":{"n":1.50,"e":"ü"}}`,
		relay.ContentData:              `{"n":1.50,"e":"ü"}`,
		relay.ContentCloudEvents:       `{"specversion":"1.0","id":"evt_1","source":"/tenants/acme","type":"contact.updated","subject":"contact/42","time":"2026-01-02T02:04:05.6Z","datacontenttype":"application/json","data":{"n":1.50,"e":"ü"}}`,
		relay.ContentCloudEventsBinary: `{"n":1.50,"e":"ü"}`,
	} {
		d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) { d.Endpoint.ContentMode = mode })
		body, contentType := render(d)
		if string(body) != want {
			t.Errorf("%s: %s", mode, body)
		}
		wantType := "application/json"
		if mode == relay.ContentCloudEvents {
			wantType = "application/cloudevents+json"
		}
		if contentType != wantType {
			t.Errorf("%s: content type %s", mode, contentType)
		}
		d.Subject = ""
		if body, _ := render(d); bytes.Contains(body, []byte("subject")) {
			t.Errorf("%s: an absent subject is there: %s", mode, body)
		}
	}
}

// Whatever the subject: the body is one JSON document that says it, and the data is in it byte for byte.
func TestBodiesSayTheSubject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/")
	rapid.Check(t, func(t *rapid.T) {
		checkSubject(t, d, rapid.String().Draw(t, "subject"))
	})
}

func FuzzSubject(f *testing.F) {
	d := newWorld(f).delivery(f, "http://partner.test/")
	for _, seed := range []string{"contact/42", `"\`, "\x00\n\x1f\x7f", "ü\u2028", "\xff", "</script>", "a b%20\"c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subject string) { checkSubject(t, d, subject) })
}

type failer interface{ Fatalf(string, ...any) }

func checkSubject(t failer, like *relay.Delivery, subject string) {
	d, ep := *like, *like.Endpoint
	d.Endpoint, d.Subject = &ep, subject
	for _, mode := range []relay.ContentMode{relay.ContentEnvelope, relay.ContentCloudEvents} {
		ep.ContentMode = mode
		body, _ := render(&d)
		var got struct {
			Subject string
			Data    json.RawMessage
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s with subject %q: %v", mode, subject, err)
		}
		if got.Subject != strings.ToValidUTF8(subject, "\uFFFD") && utf8.ValidString(subject) || !bytes.Equal(got.Data, d.Data) {
			t.Fatalf("%s with subject %q says %q, %s", mode, subject, got.Subject, got.Data)
		}
	}
	h := http.Header{}
	addCloudEvent(h, &d)
	if subject == "" {
		return
	}
	encoded := h.Get("Ce-Subject")
	if !validValue(encoded) || strings.ContainsAny(encoded, " \"") {
		t.Fatalf("header for %q: %q", subject, encoded)
	}
	if decoded := percentDecode(encoded); decoded != subject {
		t.Fatalf("header for %q is read as %q", subject, decoded)
	}
}

func percentDecode(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			var c byte
			fmt.Sscanf(s[i+1:i+3], "%02X", &c)
			out = append(out, c)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

// export is data of n contacts.
func export(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"tags":["x","y"],"contacts":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"%s"}`, i, strings.Repeat("z", 100))
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func TestPackWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/")
	p, _ := w.Pack(d)
	if p.Chunks() != 1 || p.Next() != 0 || p.After(0, relay.Verdict{Kind: relay.VerdictDone}) != (relay.Progress{}) {
		t.Fatalf("a small delivery: %+v", p)
	}
	// Exactly as large as a chunk may be is whole; one byte more is not.
	d.Endpoint.ContentMode, d.Endpoint.ChunkBytes = relay.ContentData, relay.MinChunkBytes
	d.Data = []byte(`"` + strings.Repeat("x", relay.MinChunkBytes-2) + `"`)
	if p, _ := w.Pack(d); p.Chunks() != 1 {
		t.Fatal("split what fits")
	}
	d.Data = []byte(`"` + strings.Repeat("x", relay.MinChunkBytes-1) + `"`)
	if p, _ := w.Pack(d); p.Chunks() != 2 {
		t.Fatal("did not split what does not fit")
	}
}

func TestPackChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, mode := range []relay.ContentMode{relay.ContentEnvelope, relay.ContentData, relay.ContentCloudEvents, relay.ContentCloudEventsBinary} {
		for _, array := range []string{"", "contacts", "/contacts"} {
			d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) {
				d.Endpoint.ContentMode, d.Endpoint.ChunkArray, d.Endpoint.ChunkBytes = mode, array, relay.MinChunkBytes
				d.Data = export(200)
			})
			p, v := w.Pack(d)
			if p == nil || !p.set.Paged() || p.Chunks() < 5 {
				t.Fatalf("%s over %q: %+v %+v", mode, array, p, v)
			}
			var chunks []chunk.Chunk
			for i := 1; i <= p.Chunks(); i++ {
				if body := p.set.Chunk(i); len(body) > relay.MinChunkBytes || !json.Valid(body) {
					t.Fatalf("%s: page %d of %d bytes", mode, i, len(body))
				}
				chunks = append(chunks, chunk.Chunk{Header: p.set.Header(i), Body: p.set.Chunk(i)})
			}
			whole, err := chunk.Join(chunks)
			if body, _ := render(d); err != nil || !bytes.Equal(whole, body) {
				t.Fatalf("%s: joined: %v", mode, err)
			}
			if !strings.HasSuffix(p.set.Header(1).Array, "/contacts") {
				t.Errorf("%s: paged over %s", mode, p.set.Header(1).Array)
			}
		}
	}
}

func TestPackCoverage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := []byte(`"` + strings.Repeat("x", 3*relay.MinChunkBytes) + `"`)
	for _, scheme := range signer.Schemes() {
		s, _ := newSigner(t, scheme)
		for _, mode := range []relay.ContentMode{relay.ContentEnvelope, relay.ContentData, relay.ContentCloudEvents, relay.ContentCloudEventsBinary} {
			for name, data := range map[string][]byte{"pages": export(200), "parts": text} {
				d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) {
					d.Endpoint.Signer, d.Endpoint.Scheme = s, scheme
					d.Endpoint.ContentMode, d.Endpoint.ChunkBytes = mode, relay.MinChunkBytes
					d.Data = data
				})
				p, v := w.Pack(d)
				ok := scheme.Facts().CoversID || mode == relay.ContentEnvelope && name == "pages"
				if ok != (p != nil) || !ok && v != withhold(relay.ReasonChunkUncovered) {
					t.Errorf("%s, %s, %s: %+v", scheme, mode, name, v)
				}
				if p == nil {
					if a, v := w.Handle(t.Context(), d); v.Kind != relay.VerdictWithhold || a.Verdict != v.Kind || a.Reason != v.Reason || a.Number != 3 {
						t.Errorf("handled: %+v %+v", a, v)
					}
				}
			}
		}
	}
}

func TestPackRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/")
	d.Endpoint.Signer = nil
	if p, v := w.Pack(d); p != nil || v != park(relay.ReasonCredentialFailed) {
		t.Errorf("no signer: %+v", v)
	}
	long := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) {
		d.Endpoint.ContentMode, d.Endpoint.ChunkBytes = relay.ContentData, relay.MinChunkBytes
		d.Data = []byte(`{"` + strings.Repeat("n", 450) + `":` + string(export(200)) + `}`)
	})
	if p, v := w.Pack(long); p != nil || v != withhold(relay.ReasonChunkFailed) {
		t.Errorf("framing longer than a signer takes: %+v", v)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) {
		d.Endpoint.ChunkBytes, d.Data = relay.MinChunkBytes, export(200)
	})
	p, _ := w.Pack(d)
	done, later := relay.Verdict{Kind: relay.VerdictDone}, relay.Verdict{Kind: relay.VerdictLater, Reason: relay.ReasonServerError}
	d.Progress = p.After(2, done)
	if want := (relay.Progress{Digest: p.set.Digest(), Total: p.Chunks(), Next: 3}); d.Progress != want {
		t.Fatalf("after chunk 2: %+v", d.Progress)
	}
	if p, _ = w.Pack(d); p.Next() != 3 {
		t.Fatalf("goes on with %d", p.Next())
	}
	if got := p.After(3, later); got != d.Progress {
		t.Fatalf("a failure changed how far it has come: %+v", got)
	}
	if got := p.After(3, setLost.verdict()); got.Next != 0 {
		t.Fatalf("a lost set begins anew: %+v", got)
	}
	for name, change := range map[string]func(*relay.Delivery){
		"other data":    func(d *relay.Delivery) { d.Data = export(201) },
		"other size":    func(d *relay.Delivery) { d.Endpoint.ChunkBytes *= 2 },
		"nothing left":  func(d *relay.Delivery) { d.Progress.Next = d.Progress.Total },
		"beyond belief": func(d *relay.Delivery) { d.Progress.Next = -1 },
	} {
		changed, ep := *d, *d.Endpoint
		changed.Endpoint = &ep
		change(&changed)
		if p, _ := w.Pack(&changed); p.Next() != 0 {
			t.Errorf("%s: goes on with %d", name, p.Next())
		}
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	m := newMask("hunter2hunter2", `quo"te/slash`, "ab", "", "hunter2")
	edge := strings.Repeat("x", relay.MaxResponseKept-3)
	for in, want := range map[string]string{
		"":                                  "",
		"nothing":                           "nothing",
		"key hunter2hunter2 and hunter2.":   "key [secret] and [secret].",
		`{"a":"quo\"te\/slash"}`:            `{"a":"[secret]"}`,
		`{"a":"quo\"te/slash"}`:             `{"a":"[secret]"}`,
		`quo"te/slash quo"te\/slash`:        "[secret] [secret]",
		"ab stays, being short":             "ab stays, being short",
		"cut in the middle: hunter2hunt":    "cut in the middle: [secret][secret]",
		"cut in the middle: hunt":           "cut in the middle: [secret]",
		"not text \xff":                     "",
		"nor\x00this":                       "",
		"cut in a character \xf0\x9f\x98":   "cut in a character ",
		edge + "hunter2hunter2 and so on":   edge + "[se",
		edge + "\xf0\x9f\x98\x80 and so on": edge,
	} {
		if got := string(m.clean([]byte(in))); got != want {
			t.Errorf("%.40q: %.60q, want %.60q", in, got, want)
		}
	}
}

func TestStaticHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) {
		for _, name := range []string{
			"webhook-id", "Webhook-Signature", "webhook-whatever", "Sealpost-Chunk", "X-Signature", "signature", "Content-Type",
			"content-length", "HOST", "transfer-encoding", "user-agent", "expect", "ce-id", "authorization",
		} {
			d.Endpoint.Headers = append(d.Endpoint.Headers, relay.Header{Name: name, Value: relay.NewSecret("forged")})
		}
		d.Endpoint.Headers = append(d.Endpoint.Headers,
			relay.Header{Name: "x-env", Value: relay.NewSecret("a")}, relay.Header{Name: "X-Env", Value: relay.NewSecret("b")})
		d.Endpoint.Bearer = relay.NewSecret("token")
	})
	p, v := w.prepare(d.Endpoint)
	if p == nil {
		t.Fatalf("%+v", v)
	}
	got := p.header([]string{"ua"})
	if len(got) != 3 || len(got["X-Env"]) != 2 || got.Get("Authorization") != "Bearer token" || got.Get("User-Agent") != "ua" {
		t.Fatalf("%v", got)
	}
	for _, bad := range []relay.Header{
		{Name: "", Value: relay.NewSecret("a")}, {Name: "a b", Value: relay.NewSecret("a")}, {Name: "a:", Value: relay.NewSecret("a")},
		{Name: "x", Value: relay.NewSecret("a\r\nb: c")}, {Name: "x", Value: relay.NewSecret(" a")}, {Name: "x", Value: relay.NewSecret("ü")},
	} {
		d := w.delivery(t, "http://partner.test/", func(d *relay.Delivery) { d.Endpoint.Headers = []relay.Header{bad} })
		if p, v := w.prepare(d.Endpoint); p != nil || v != park(relay.ReasonCredentialFailed) {
			t.Errorf("%q: %+v", bad.Name, v)
		}
	}
}

// A header that is let through arrives as it is and brings no other.
func FuzzStaticHeader(f *testing.F) {
	w := newWorld(f)
	d := w.delivery(f, "http://partner.test/")
	for _, seed := range [][2]string{{"X-Env", "prod"}, {"x", "a\r\nb: c"}, {"Host", "evil"}, {"a:b", ""}, {"X-\x00", "\t"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		ep := *d.Endpoint
		ep.Headers = []relay.Header{{Name: name, Value: relay.NewSecret(value)}}
		fields, err := fixedHeader(&ep)
		if err != nil || len(fields) == 0 {
			return
		}
		p := prepared{fixed: fields}
		var wire bytes.Buffer
		if err := p.header([]string{"ua"}).Write(&wire); err != nil {
			t.Fatal(err)
		}
		if want := 2; bytes.Count(wire.Bytes(), []byte("\r\n")) != want || bytes.Count(wire.Bytes(), []byte("\n")) != want {
			t.Fatalf("%q: %q makes %q", name, value, wire.String())
		}
		if !strings.Contains(wire.String(), ": "+value+"\r\n") {
			t.Fatalf("%q: %q arrives as %q", name, value, wire.String())
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.delivery(t, "http://partner.test/")
	first, _ := w.prepare(d.Endpoint)
	if again, _ := w.prepare(d.Endpoint); again != first {
		t.Error("prepared twice")
	}
	changed := *d.Endpoint
	if other, _ := w.prepare(&changed); other == first {
		t.Error("a new version of the endpoint got the old one's")
	}
	var c cache
	for i := range 3 * maxPrepared {
		c.put(&prepared{endpoint: &relay.Endpoint{ID: fmt.Sprint(i)}})
	}
	held := 0
	c.byID.Range(func(any, any) bool { held++; return true })
	if held > maxPrepared {
		t.Errorf("holds %d", held)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]time.Duration{0: relay.DefaultTimeout, time.Second: time.Second, time.Hour: relay.MaxTimeout} {
		if got := timeout(&relay.Endpoint{Timeout: in}); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
