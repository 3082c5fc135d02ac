package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay/chunk"
	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// export is a bulk export of n contacts, with a smaller array beside them.
func export(n int) string {
	var b strings.Builder
	b.WriteString(`{"job":"export-7","columns":["id","name","email"],"contacts":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"Zoë %d","score":%d.50}`, i, i, i)
	}
	b.WriteString(`],"total":`)
	fmt.Fprint(&b, n)
	b.WriteString(`}`)
	return b.String()
}

// TestChunks delivers what is too large in pages and in parts under each scheme that can, and has relay/receiver put it together.
func TestChunks(t *testing.T) {
	t.Parallel()
	p := start(t)
	prose := `"` + strings.Repeat("Zoë 漢字 😀 ", 2000) + `"`
	for _, c := range []struct {
		name  string
		data  string
		array string
		paged bool
	}{
		{"pages", export(1500), "", true},
		{"named", `{"a":[` + strings.Repeat(`"x",`, 20) + `"x"],"big":[` + strings.Repeat(`"yyyyyyyyyyyyyyyy",`, 1000) + `"z"]}`, "big", true},
		{"parts", prose, "", false},
	} {
		for _, scheme := range signer.Schemes() {
			for _, mode := range []string{"envelope", "data"} {
				facts := scheme.Facts()
				if !facts.CoversID && (mode == "data" || !c.paged) {
					continue // see TestUncoveredChunks
				}
				t.Run(c.name+"/"+string(scheme)+"/"+mode, func(t *testing.T) {
					t.Parallel()
					p := p.In(t)
					r := newReceiver(t)
					tenant := strings.ToLower(c.name + "-" + string(scheme) + "-" + mode)
					more := rig.Object{"tenant": tenant, "scheme": scheme, "contentMode": mode, "chunkBytes": 8192}
					if c.array != "" {
						more["chunkArray"] = c.array
					}
					ep := p.Register(r.url, more)
					r.trust(t, scheme, keyOf(t, scheme, ep), receiver.Options{})
					e := rig.Event("evt_1", c.data)
					e["tenant"] = tenant
					p.Publish(e)
					d := p.AwaitDelivery(ep, "evt_1", "DELIVERED", "WITHHELD", "DEAD")
					if d.S("state") != "DELIVERED" {
						t.Fatalf("%v", d)
					}
					got := r.receipts()
					total := d.N("chunkCount")
					if total < 3 || d.N("chunksDelivered") != total || len(got) != total || d.N("attemptCount") != total {
						t.Errorf("%d requests, delivery %v", len(got), d)
					}
					checkSet(t, got, c.paged, mode, d.S("id"))
					r.mu.Lock()
					defer r.mu.Unlock()
					if len(r.bodies) != 1 {
						t.Fatalf("%d events were handed over", len(r.bodies))
					}
					for id, whole := range r.bodies {
						if r.chunks[id] != total {
							t.Errorf("%d chunks", r.chunks[id])
						}
						data := whole
						if mode == "envelope" {
							var env struct{ Data json.RawMessage }
							if err := json.Unmarshal(whole, &env); err != nil {
								t.Fatal(err)
							}
							data = env.Data
						}
						if string(data) != c.data {
							t.Error("what was put together is not what was published")
						}
						digest, _ := chunk.ParseHeader(got[0].Header.Get(chunk.HeaderName))
						if sha256.Sum256(whole) != digest.Digest {
							t.Error("the set's digest is not the whole's")
						}
					}
				})
			}
		}
	}
}

// checkSet holds the requests of one set against the contract: ids, headers, media types, pages that are JSON on their own.
func checkSet(t *testing.T, got []rig.Receipt, paged bool, mode, delivery string) {
	t.Helper()
	for i, r := range got {
		h := r.Header.Get(chunk.HeaderName)
		header, err := chunk.ParseHeader(h)
		if err != nil {
			t.Fatalf("header %q: %v", h, err)
		}
		digest := base64.StdEncoding.EncodeToString(header.Digest[:])
		if want := fmt.Sprintf(`%d/%d; set=%q; digest=sha-256=:%s:`, i+1, len(got), delivery, digest); !strings.HasPrefix(h, want) {
			t.Errorf("chunk %d: header %q, want it to begin with %q", i+1, h, want)
		}
		// The schemes with headers of their own send no webhook-id; those that sign one have the set's facts in it.
		if id := r.ID(); id != "" && id != delivery {
			if want := fmt.Sprintf("%s_%d_%d_%s", delivery, i+1, len(got), hex.EncodeToString(header.Digest[:])[:16]); id != want {
				t.Errorf("chunk %d: id %q, want %q", i+1, id, want)
			}
		}
		if len(r.Body) > 8192 {
			t.Errorf("chunk %d has %d bytes", i+1, len(r.Body))
		}
		media := r.Header.Get("Content-Type")
		if !paged {
			if media != "application/octet-stream" || !bytes.ContainsAny(r.Body, "Zo") || !strings.Contains(string(r.Body), " ") || !json.Valid([]byte(fmt.Sprintf("%q", r.Body))) {
				t.Errorf("part %d: %s", i+1, media)
			}
			if strings.ContainsRune(string(r.Body), '\uFFFD') || !bytes.Equal(bytes.ToValidUTF8(r.Body, nil), r.Body) {
				t.Errorf("part %d is cut inside a character", i+1)
			}
			continue
		}
		var page map[string]json.RawMessage
		if media != "application/json" || json.Unmarshal(r.Body, &page) != nil {
			t.Fatalf("page %d is no JSON: %s %.80s", i+1, media, r.Body)
		}
		if mode == "envelope" && (page["chunk"] == nil || page["type"] == nil || page["id"] == nil) {
			t.Errorf("page %d of an envelope lacks facts: %.200s", i+1, r.Body)
		}
	}
}

// TestChunkRetry fails in the middle of a set: the retry goes on with the chunk that was not accepted. A receiver that lost
// its chunks has the set begun again.
func TestChunkRetry(t *testing.T) {
	t.Parallel()
	p := start(t)
	setup := func(t *testing.T, tenant string, refuse func(rig.Receipt) int) (*rcv, rig.Object) {
		p := p.In(t)
		r := newReceiver(t)
		r.refuse = refuse
		ep := p.Register(r.url, rig.Object{"tenant": tenant, "chunkBytes": 8192})
		r.trust(t, signer.Standard, keyOf(t, signer.Standard, ep), receiver.Options{})
		e := rig.Event("evt_1", export(1500))
		e["tenant"] = tenant
		p.Publish(e)
		return r, p.AwaitDelivery(ep, "evt_1", "DELIVERED")
	}
	index := func(r rig.Receipt) int {
		h, _ := chunk.ParseHeader(r.Header.Get(chunk.HeaderName))
		return h.Index
	}
	t.Run("goes on", func(t *testing.T) {
		t.Parallel()
		failures := 2
		r, d := setup(t, "goes-on", func(r rig.Receipt) int {
			if index(r) == 4 && failures > 0 {
				failures--
				return http.StatusServiceUnavailable
			}
			return 0
		})
		var order []int
		for _, r := range r.receipts() {
			order = append(order, index(r))
		}
		want := []int{1, 2, 3, 4, 4, 4}
		for i := 5; i <= d.N("chunkCount"); i++ {
			want = append(want, i)
		}
		if fmt.Sprint(order) != fmt.Sprint(want) {
			t.Errorf("chunks were sent as %v, want %v", order, want)
		}
		ids := map[string]string{}
		for _, r := range r.receipts() {
			key := fmt.Sprint(index(r))
			if was := ids[key]; was != "" && was != r.ID() {
				t.Errorf("chunk %s has ids %s and %s", key, was, r.ID())
			}
			ids[key] = r.ID()
		}
		if n := d.N("attemptCount"); n != len(want) || len(d.L("attempts")) != len(want) {
			t.Errorf("%d attempts are counted, %d listed, %d made", n, len(d.L("attempts")), len(want))
		}
	})
	t.Run("set lost", func(t *testing.T) {
		t.Parallel()
		lost := false
		r, d := setup(t, "set-lost", func(r rig.Receipt) int {
			if index(r) == 3 && !lost {
				lost = true
				return http.StatusFailedDependency
			}
			return 0
		})
		if n := len(r.receipts()); n != d.N("chunkCount")+3 {
			t.Errorf("%d requests for %d chunks", n, d.N("chunkCount"))
		}
		if got := r.receipts(); index(got[3]) != 1 {
			t.Errorf("after 424 chunk %d was sent", index(got[3]))
		}
	})
}

// TestUncoveredChunks withholds what is too large where no signature would cover how it was split.
func TestUncoveredChunks(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	uncovered := slices.DeleteFunc(signer.Schemes(), func(s signer.Scheme) bool { return s.Facts().CoversID || s.Facts().CoversChunk })
	for i, scheme := range uncovered {
		// Asked for chunks that cannot be had, it is refused at registration.
		a := p.Do("POST", "/v1/endpoints", rig.Object{"tenant": "acme", "url": partner.URL, "owner": "o", "eventTypes": []string{"*"}, "scheme": scheme, "contentMode": "data", "chunkBytes": 8192})
		if a.Status != http.StatusBadRequest || !violated(a, "chunkBytes") {
			t.Errorf("%s: chunking in data mode: %d %s", scheme, a.Status, a.Raw)
		}
		tenant := fmt.Sprintf("unc-%d", i)
		data := p.Register(partner.URL, rig.Object{"tenant": tenant, "scheme": scheme, "contentMode": "data"})
		parts := p.Register(partner.URL, rig.Object{"tenant": tenant, "scheme": scheme, "eventTypes": []string{"deal.*"}})
		e := rig.Event("big", export(20000))
		e["tenant"] = tenant
		p.Publish(e)
		e = rig.Event("prose", `"`+strings.Repeat("x", 300<<10)+`"`)
		e["tenant"], e["type"] = tenant, "deal.won"
		p.Publish(e)
		for id, ep := range map[string]rig.Endpoint{"big": data, "prose": parts} {
			if d := p.AwaitDelivery(ep, id, "WITHHELD"); d.S("reason") != "CHUNK_UNCOVERED" {
				t.Errorf("%s: %v", scheme, d)
			}
		}
	}
	if n := partner.Count(); n != 0 {
		t.Errorf("%d requests of what had to be withheld", n)
	}
}
