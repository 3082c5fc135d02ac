package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealpost/sealpost/relay/chunk"
	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
)

const target = "http://receiver.example/hook"

// partner is a sender and its receiver.
type partner struct {
	t        testing.TB
	signer   *signer.Signer
	receiver *receiver.Receiver

	mu     sync.Mutex
	got    []receiver.Delivery
	answer error
}

func newPartner(t testing.TB, scheme signer.Scheme, change func(*receiver.Options)) *partner {
	t.Helper()
	key, err := signer.GenerateKey(scheme)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := signer.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	p := &partner{t: t}
	if p.signer, err = signer.NewSigner(scheme, ring); err != nil {
		t.Fatal(err)
	}
	verifier, err := signer.NewVerifier(scheme, ring.VerifyingKeys())
	if err != nil {
		t.Fatal(err)
	}
	options := receiver.Options{Verifier: verifier, OnEvent: p.take}
	if change != nil {
		change(&options)
	}
	if p.receiver, err = receiver.New(options); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *partner) take(_ context.Context, d receiver.Delivery) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answer != nil {
		return p.answer
	}
	p.got = append(p.got, d)
	return nil
}

func (p *partner) request(m signer.Message) *http.Request {
	p.t.Helper()
	r := httptest.NewRequest(http.MethodPost, target, bytes.NewReader(m.Body))
	m.Method, m.URL, m.ContentType = http.MethodPost, target, "application/json"
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	if _, err := p.signer.Sign(r.Header, &m); err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *partner) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.receiver.ServeHTTP(w, r)
	return w
}

func (p *partner) send(id, body string) int {
	p.t.Helper()
	return p.serve(p.request(signer.Message{ID: id, Body: []byte(body)})).Code
}

func (p *partner) sendChunk(set *chunk.Set, i int, at time.Time) int {
	p.t.Helper()
	return p.serve(p.chunkRequest(set, i, at)).Code
}

func (p *partner) chunkRequest(set *chunk.Set, i int, at time.Time) *http.Request {
	p.t.Helper()
	return p.request(signer.Message{ID: set.ID(i), Chunk: set.Header(i).String(), Body: set.Chunk(i), Time: at})
}

func (p *partner) expect(what string, got, want int) {
	p.t.Helper()
	if got != want {
		p.t.Fatalf("%s: answered %d, want %d", what, got, want)
	}
}

func TestHandsOverOnce(t *testing.T) {
	t.Parallel()
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := newPartner(t, scheme, nil)
			now := time.Now()
			first := signer.Message{ID: "dlv_1", Body: []byte(`{"type":"contact.updated"}`), Time: now}
			replay, signed := http.StatusUnauthorized, now.Unix()
			if scheme.Facts().Replayable { // a retry is the same bytes
				replay, signed = http.StatusOK, time.Time{}.Unix()
			}
			p.expect("first", p.serve(p.request(first)).Code, http.StatusNoContent)
			p.expect("the very same", p.serve(p.request(first)).Code, replay)
			again := first
			again.Time = now.Add(2 * time.Second)
			p.expect("another attempt", p.serve(p.request(again)).Code, http.StatusOK)
			p.expect("the other attempt again", p.serve(p.request(again)).Code, replay)
			if scheme.Facts().Replayable {
				renamed := first
				renamed.ID = "dlv_other"
				p.expect("a replay under another id", p.serve(p.request(renamed)).Code, http.StatusOK)
			}
			p.expect("another delivery", p.send("dlv_2", `{}`), http.StatusNoContent)
			if len(p.got) != 2 || p.got[0].ID != "dlv_1" || string(p.got[0].Body) != `{"type":"contact.updated"}` ||
				p.got[0].ContentType != "application/json" || p.got[0].KeyID != p.signer.KeyID() || p.got[0].Chunks != 0 ||
				p.got[0].Time.Unix() != signed {
				t.Fatalf("handed over: %+v", p.got)
			}
		})
	}
}

// Long after the tolerance a recorded delivery still verifies where no time is signed, and is known by its bytes, not by the id
// that comes with it.
func TestReplaysOfAReplayableScheme(t *testing.T) {
	t.Parallel()
	for _, scheme := range signer.Schemes() {
		if !scheme.Facts().Replayable {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			p := newPartner(t, scheme, nil)
			m := signer.Message{ID: "dlv_1", Body: []byte(`{"id":"evt_1"}`), Time: time.Now()}
			p.expect("first", p.serve(p.request(m)).Code, http.StatusNoContent)
			time.Sleep(time.Hour)
			m.ID = "dlv_other"
			p.expect("an hour later, under another id", p.serve(p.request(m)).Code, http.StatusOK)
			if len(p.got) != 1 {
				t.Errorf("%s: handed over %d times", scheme, len(p.got))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := newPartner(t, scheme, func(o *receiver.Options) { o.MaxBody = 1000 })
			good := signer.Message{ID: "dlv_1", Body: []byte(`{"a":1}`)}
			facts := scheme.Facts()
			for name, c := range map[string]struct {
				change func(*http.Request) *http.Request
				want   int
			}{
				"another method": {func(r *http.Request) *http.Request { r.Method = http.MethodGet; return r }, 405},
				"no signature": {func(r *http.Request) *http.Request {
					for _, name := range scheme.Facts().Headers {
						r.Header.Del(name)
					}
					return r
				}, 401},
				"two signatures headers": {func(r *http.Request) *http.Request {
					for _, name := range []string{facts.TimeHeader, facts.SignatureHeader} {
						r.Header.Add(name, r.Header.Get(name))
					}
					return r
				}, 400},
				"garbage": {func(r *http.Request) *http.Request { r.Header.Set(facts.SignatureHeader, "\x7f\x00"); return r }, 400},
				"another body": {func(r *http.Request) *http.Request {
					r.Body = io.NopCloser(strings.NewReader(`{"a":2}`))
					return r
				}, 401},
				"stale": {func(*http.Request) *http.Request {
					old := good
					old.Time = time.Now().Add(-6 * time.Minute)
					return p.request(old)
				}, 401},
				"from the future": {func(*http.Request) *http.Request {
					early := good
					early.Time = time.Now().Add(6 * time.Minute)
					return p.request(early)
				}, 401},
				"another's key": {func(*http.Request) *http.Request {
					return newPartner(t, scheme, nil).request(good)
				}, 401},
				"too large, declared": {func(r *http.Request) *http.Request { r.ContentLength = 1001; return r }, 413},
				"too large, undeclared": {func(r *http.Request) *http.Request {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat(" ", 1001))), -1
					return r
				}, 413},
				"a chunk header of nonsense": {func(*http.Request) *http.Request {
					odd := good
					odd.Chunk = "1/2"
					return p.request(odd)
				}, 400},
			} {
				if facts.Replayable && (name == "stale" || name == "from the future") {
					continue // it signs no time
				}
				p.expect(name, p.serve(c.change(p.request(good))).Code, c.want)
			}
			if len(p.got) != 0 {
				t.Fatalf("handed over what was refused: %+v", p.got)
			}
			p.expect("as large as allowed", p.send("dlv_9", strings.Repeat("1", 1000)), http.StatusNoContent)
		})
	}
}

func TestFailuresAreRepeated(t *testing.T) {
	t.Parallel()
	p := newPartner(t, signer.Standard, nil)
	now := time.Now()
	m := signer.Message{ID: "dlv_1", Body: []byte(`1`), Time: now}
	p.answer = errors.New("database away")
	w := p.serve(p.request(m))
	p.expect("a failure", w.Code, http.StatusInternalServerError)
	if strings.Contains(w.Body.String(), "database") {
		t.Fatal("the answer tells of our inside")
	}
	p.answer = fmt.Errorf("no such contact: %w", receiver.ErrRejected)
	p.expect("a rejection", p.serve(p.request(m)).Code, http.StatusUnprocessableEntity)
	p.answer = nil
	p.expect("the same attempt, after failures", p.serve(p.request(m)).Code, http.StatusNoContent)
	p.expect("and once it is handled", p.serve(p.request(m)).Code, http.StatusUnauthorized)
}

func TestPanicLeavesNothingBegun(t *testing.T) {
	t.Parallel()
	explode := true
	p := newPartner(t, signer.Standard, func(o *receiver.Options) {
		take := o.OnEvent
		o.OnEvent = func(ctx context.Context, d receiver.Delivery) error {
			if explode {
				panic("boom")
			}
			return take(ctx, d)
		}
	})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		p.send("dlv_1", `1`)
	}()
	explode = false
	p.expect("after a panic", p.send("dlv_1", `1`), http.StatusNoContent)
}

func TestBusy(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	p := newPartner(t, signer.Standard, func(o *receiver.Options) {
		o.MaxInFlight = 2
		o.OnEvent = func(context.Context, receiver.Delivery) error {
			entered <- struct{}{}
			<-leave
			return nil
		}
	})
	done := make(chan int, 2)
	go func() { done <- p.send("dlv_1", `1`) }()
	<-entered
	w := p.serve(p.request(signer.Message{ID: "dlv_1", Body: []byte(`1`), Time: time.Now().Add(2 * time.Second)}))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("beside its first attempt: %d", w.Code)
	}
	go func() { done <- p.send("dlv_2", `1`) }()
	<-entered
	if code := p.send("dlv_3", `1`); code != http.StatusServiceUnavailable {
		t.Errorf("beyond MaxInFlight: %d", code)
	}
	close(leave)
	for range 2 {
		p.expect("first of its id", <-done, http.StatusNoContent)
	}
}

func document(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"type":"contact.exported","data":{"contacts":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"Zoë %d"}`, i, i)
	}
	b.WriteString(`],"of":"2026"}}`)
	return b.Bytes()
}

func split(t testing.TB, doc []byte, size int) *chunk.Set {
	t.Helper()
	set, err := chunk.Split(doc, chunk.Options{Set: "dlv_1", MaxBytes: size, Envelope: true})
	if err != nil || set.Total() < 3 {
		t.Fatalf("split into %v: %v", set, err)
	}
	return set
}

func TestChunks(t *testing.T) {
	t.Parallel()
	doc := document(200)
	for _, scheme := range signer.Schemes() {
		t.Run(string(scheme), func(t *testing.T) {
			t.Parallel()
			p := newPartner(t, scheme, nil)
			set := split(t, doc, 1000)
			now := time.Now()
			for i := 1; i < set.Total(); i++ {
				p.expect("chunk", p.sendChunk(set, i, now), http.StatusAccepted)
				p.expect("chunk again", p.sendChunk(set, i, now.Add(2*time.Second)), http.StatusAccepted)
			}
			p.answer = errors.New("not now")
			p.expect("the last, with a failure", p.sendChunk(set, set.Total(), now), http.StatusInternalServerError)
			p.answer = nil
			p.expect("the last", p.sendChunk(set, set.Total(), now.Add(time.Second)), http.StatusNoContent)
			p.expect("the last again", p.sendChunk(set, set.Total(), now.Add(3*time.Second)), http.StatusOK)
			p.expect("the first again", p.sendChunk(set, 1, now.Add(3*time.Second)), http.StatusOK)
			replay := http.StatusUnauthorized
			if scheme.Facts().Replayable { // a retry is the same bytes
				replay = http.StatusOK
			}
			p.expect("a replay", p.sendChunk(set, set.Total(), now.Add(time.Second)), replay)
			if len(p.got) != 1 || !bytes.Equal(p.got[0].Body, doc) || p.got[0].ID != "dlv_1" || p.got[0].Chunks != set.Total() {
				t.Fatalf("handed over %d deliveries", len(p.got))
			}
		})
	}
}

// Parts have nothing in their body that says what they are.
func TestPartsNeedASignedID(t *testing.T) {
	t.Parallel()
	doc := []byte(`{"text":"` + strings.Repeat("é", 2000) + `"}`)
	for _, scheme := range signer.Schemes() {
		p := newPartner(t, scheme, nil)
		set := split(t, doc, 999)
		if !scheme.Facts().CoversID {
			p.expect(string(scheme), p.sendChunk(set, 1, time.Time{}), http.StatusBadRequest)
			continue
		}
		for i := 1; i < set.Total(); i++ {
			p.expect(string(scheme), p.sendChunk(set, i, time.Time{}), http.StatusAccepted)
		}
		p.expect(string(scheme), p.sendChunk(set, set.Total(), time.Time{}), http.StatusNoContent)
		if !bytes.Equal(p.got[0].Body, doc) {
			t.Fatal("put together wrongly")
		}
	}
}

func TestChunkHeaderTakenOffOrChanged(t *testing.T) {
	t.Parallel()
	for _, scheme := range signer.Schemes() {
		p := newPartner(t, scheme, nil)
		set := split(t, document(200), 1000)
		off := p.chunkRequest(set, 1, time.Time{})
		off.Header.Del(signer.HeaderChunk)
		if code := p.serve(off).Code; code != http.StatusBadRequest && code != http.StatusUnauthorized {
			t.Errorf("%s: a chunk without its header: %d", scheme, code)
		}
		other := p.chunkRequest(set, 1, time.Time{})
		h := set.Header(1)
		h.Total = 1
		other.Header.Set(signer.HeaderChunk, h.String())
		if code := p.serve(other).Code; code != http.StatusBadRequest && code != http.StatusUnauthorized {
			t.Errorf("%s: a chunk with another header: %d", scheme, code)
		}
		if len(p.got) != 0 {
			t.Errorf("%s: a page was taken for the whole", scheme)
		}
	}
}

func TestLostSetsBeginAgain(t *testing.T) {
	t.Parallel()
	p := newPartner(t, signer.Standard, nil)
	set := split(t, document(200), 1000)
	p.expect("the second without the first", p.sendChunk(set, 2, time.Time{}), http.StatusFailedDependency)
	p.expect("the first", p.sendChunk(set, 1, time.Time{}), http.StatusAccepted)
	p.expect("the third without the second", p.sendChunk(set, 3, time.Time{}), http.StatusFailedDependency)
	changed := split(t, document(210), 1000)
	p.expect("another set's second", p.sendChunk(changed, 2, time.Time{}), http.StatusFailedDependency)
	for i := 1; i < changed.Total(); i++ {
		p.expect("the other set", p.sendChunk(changed, i, time.Time{}), http.StatusAccepted)
	}
	p.expect("the other set", p.sendChunk(changed, changed.Total(), time.Time{}), http.StatusNoContent)
	if len(p.got) != 1 || !bytes.Equal(p.got[0].Body, document(210)) {
		t.Fatal("the changed set did not come through whole")
	}
}

func TestSetsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		set := func(id string, size int) *chunk.Set {
			s, err := chunk.Split(document(200), chunk.Options{Set: id, MaxBytes: size, Envelope: true})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		p := newPartner(t, signer.Standard, func(o *receiver.Options) {
			o.Chunks = receiver.ChunkOptions{MaxBytes: 5000, MaxTotal: 20, MaxSets: 2, MaxHeld: 6000}
		})
		p.expect("too many chunks", p.sendChunk(set("dlv_a", 400), 1, time.Time{}), http.StatusRequestEntityTooLarge)
		large := set("dlv_b", 3000)
		p.expect("large", p.sendChunk(large, 1, time.Time{}), http.StatusAccepted)
		p.expect("larger than allowed", p.sendChunk(large, 2, time.Time{}), http.StatusRequestEntityTooLarge)
		p.expect("no room", p.sendChunk(set("dlv_c", 4000), 1, time.Time{}), http.StatusServiceUnavailable)
		small := set("dlv_d", 1000)
		p.expect("room", p.sendChunk(small, 1, time.Time{}), http.StatusAccepted)
		p.expect("no third set", p.sendChunk(set("dlv_e", 1000), 1, time.Time{}), http.StatusServiceUnavailable)
		time.Sleep(2 * time.Minute)
		p.expect("the one still sent to", p.sendChunk(small, 2, time.Time{}), http.StatusAccepted)
		p.expect("the idle one gives way", p.sendChunk(set("dlv_e", 1000), 1, time.Time{}), http.StatusAccepted)
		p.expect("and must begin again", p.sendChunk(large, 2, time.Time{}), http.StatusFailedDependency)
		p.expect("the other is there", p.sendChunk(small, 3, time.Time{}), http.StatusAccepted)
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := receiver.NewMemory(receiver.MemoryOptions{Keep: time.Hour, MaxAttempts: 3, MaxIDs: 2})
		ctx := t.Context()
		begin := func(attempt, id string, want receiver.Status) {
			t.Helper()
			if got, err := m.Begin(ctx, attempt, id); err != nil || got != want {
				t.Fatalf("%s of %s: %d, %v; want %d", attempt, id, got, err, want)
			}
		}
		begin("a1", "a", receiver.First)
		begin("a2", "a", receiver.Busy)
		m.End(ctx, "a1", "a", false)
		begin("a1", "a", receiver.First)
		m.End(ctx, "a1", "a", true)
		begin("a1", "a", receiver.Replayed)
		begin("a2", "a", receiver.Handled)
		begin("b1", "b", receiver.First)
		if _, err := m.Begin(ctx, "c1", "c"); !errors.Is(err, receiver.ErrSeenFull) {
			t.Fatalf("a replay could not be refused: %v", err)
		}
		m.End(ctx, "b1", "b", true)
		time.Sleep(10*time.Minute + 2*time.Second)
		begin("a1", "a", receiver.Handled) // the attempt is forgotten, stale as it is by now; the id is not
		begin("c1", "c", receiver.First)
		m.End(ctx, "c1", "c", true) // one id too many: the oldest goes
		begin("a3", "a", receiver.First)
		m.End(ctx, "a3", "a", false)
		begin("b2", "b", receiver.Handled)
		time.Sleep(time.Hour)
		begin("b2", "b", receiver.First)
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	key, _ := signer.GenerateKey(signer.Standard)
	verifier, err := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	take := func(context.Context, receiver.Delivery) error { return nil }
	for name, o := range map[string]receiver.Options{
		"no verifier":     {OnEvent: take},
		"no handler":      {Verifier: verifier},
		"negative body":   {Verifier: verifier, OnEvent: take, MaxBody: -1},
		"negative sets":   {Verifier: verifier, OnEvent: take, Chunks: receiver.ChunkOptions{MaxSets: -1}},
		"too many chunks": {Verifier: verifier, OnEvent: take, Chunks: receiver.ChunkOptions{MaxTotal: chunk.MaxTotal + 1}},
	} {
		if _, err := receiver.New(o); !errors.Is(err, receiver.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Over a real server: a sender that stops in the middle of a body is let go.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	p := newPartner(t, signer.Standard, func(o *receiver.Options) { o.ReadTimeout = 50 * time.Millisecond })
	server := httptest.NewServer(p.receiver)
	defer server.Close()
	hang, stop := io.Pipe()
	defer stop.Close()
	r, _ := http.NewRequest(http.MethodPost, server.URL, hang)
	r.ContentLength = 100
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		resp.Body.Close()
		p.expect("half a body", resp.StatusCode, http.StatusBadRequest)
	}
	if len(p.got) != 0 {
		t.Fatal("handed over half a body")
	}
}

func FuzzServeHTTP(f *testing.F) {
	p := newPartner(f, signer.Standard, nil)
	set := split(f, document(60), 700)
	good := p.request(signer.Message{ID: "dlv_9", Body: []byte(`{"a":1}`)})
	for _, r := range []*http.Request{good, p.chunkRequest(set, 1, time.Time{}), p.chunkRequest(set, 2, time.Time{})} {
		body, _ := io.ReadAll(r.Body)
		f.Add(r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), r.Header.Get("Webhook-Signature"), r.Header.Get(signer.HeaderChunk), body)
	}
	f.Fuzz(func(t *testing.T, id, at, signature, chunked string, body []byte) {
		p := newPartner(t, signer.Standard, nil) // its key has signed nothing
		r := httptest.NewRequest(http.MethodPost, target, bytes.NewReader(body))
		r.Header["Webhook-Id"] = []string{id}
		r.Header["Webhook-Timestamp"] = []string{at}
		r.Header["Webhook-Signature"] = []string{signature}
		r.Header[signer.HeaderChunk] = []string{chunked}
		if code := p.serve(r).Code; code != 400 && code != 401 || len(p.got) != 0 {
			t.Fatalf("answered %d to what nobody signed", code)
		}
		// And whatever is signed gets one of the answers of the table.
		m := signer.Message{ID: id, Chunk: chunked, Body: body, Time: time.Now(), Method: http.MethodPost, URL: target}
		r = httptest.NewRequest(http.MethodPost, target, bytes.NewReader(body))
		if _, err := p.signer.Sign(r.Header, &m); err != nil {
			return
		}
		switch code := p.serve(r).Code; code {
		case 202, 204, 400, 413, 424:
		default:
			t.Fatalf("answered %d to what was signed", code)
		}
	})
}
