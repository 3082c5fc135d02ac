package control

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/egress"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

func TestSpecRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := w.caller("ann", access.Operator, "")
	head := func(name, value string) []relay.Header {
		return []relay.Header{{Name: name, Value: relay.NewSecret(value)}}
	}
	url := func(u string) func(*Spec) { return func(s *Spec) { s.URL = u } }
	cases := []struct {
		change func(*Spec)
		fields []string
	}{
		{func(s *Spec) {}, nil},
		{func(s *Spec) { s.Tenant = "" }, []string{"tenant"}},
		{url(""), []string{"url"}}, {url("http://hooks.partner.example/"), []string{"url", "tls.clientCertificate"}},
		{url("https://u:p@hooks.partner.example/"), []string{"url"}}, {url("https://10.0.0.1/"), []string{"url"}},
		{url("https://[::1]/"), []string{"url"}}, {url("https://[::ffff:127.0.0.1]/"), []string{"url"}}, {url("https://169.254.169.254/"), []string{"url"}},
		{url("https://localhost/"), []string{"url"}}, {url("https://a.LOCALHOST./"), []string{"url"}}, {url("https://127.1/"), []string{"url"}},
		{url("https://0x7f000001/"), []string{"url"}}, {url("https://2130706433/"), []string{"url"}}, {url("https://intranet/"), []string{"url"}},
		{url("https://hooks.partner.example/#x"), []string{"url"}}, {url("ftp://hooks.partner.example/"), []string{"url"}},
		{url("https://8.8.8.8/hook"), nil},
		{func(s *Spec) { s.Owner = " " }, []string{"owner"}}, {func(s *Spec) { s.Purpose = "" }, []string{"purpose"}},
		{func(s *Spec) { s.Description = "a\x00" }, []string{"description"}},
		{func(s *Spec) { s.EventTypes = nil }, []string{"eventTypes"}},
		{func(s *Spec) { s.EventTypes = []string{"contact.*", "Contact", "*", "a.*.b"} }, []string{"eventTypes[1]", "eventTypes[3]"}},
		{func(s *Spec) { s.Filter = "event.data.(" }, []string{"filter"}}, {func(s *Spec) { s.Filter = strings.Repeat("x", 3000) }, []string{"filter"}},
		{func(s *Spec) { s.Redaction = relay.Redaction{} }, []string{"redaction.mode"}},
		{func(s *Spec) { s.Redaction.Mask = []relay.Mask{{Path: "a..b"}} }, []string{"redaction.mask[0].path"}},
		{func(s *Spec) { s.Redaction.Drop = []string{"a", ""} }, []string{"redaction.drop[1]"}},
		{func(s *Spec) { s.Redaction.Mode = relay.RedactionNone }, []string{"redaction.drop"}},
		{func(s *Spec) { s.Scheme = "md5" }, []string{"scheme"}}, {func(s *Spec) { s.ContentMode = "xml" }, []string{"contentMode"}},
		{func(s *Spec) { s.Scheme, s.ContentMode, s.ChunkBytes = "timestamp-hmac", "data", 8192 }, []string{"chunkBytes"}},
		{func(s *Spec) { s.Scheme, s.ContentMode, s.ChunkArray = "rsa-sha256", "cloudevents", "items" }, []string{"chunkArray"}},
		{func(s *Spec) { s.Scheme, s.ContentMode = "timestamp-hmac", "data" }, nil},
		{func(s *Spec) { s.Scheme, s.ChunkBytes = "timestamp-hmac-256", 8192 }, nil},
		{func(s *Spec) { s.ContentMode, s.ChunkBytes = "data", 8192 }, nil},
		{func(s *Spec) { s.ChunkBytes = 100 }, []string{"chunkBytes"}}, {func(s *Spec) { s.ChunkBytes = 9 << 20 }, []string{"chunkBytes"}},
		{func(s *Spec) { s.Concurrency = -1 }, []string{"concurrency"}}, {func(s *Spec) { s.Concurrency = 257 }, []string{"concurrency"}},
		{func(s *Spec) { s.RateLimit = math.NaN() }, []string{"rateLimit.requestsPerSecond"}}, {func(s *Spec) { s.RateLimit = -1 }, []string{"rateLimit.requestsPerSecond"}},
		{func(s *Spec) { s.Timeout = time.Millisecond }, []string{"timeout"}}, {func(s *Spec) { s.Timeout = 61 * time.Second }, []string{"timeout"}},
		{func(s *Spec) { s.RetryFor = time.Second }, []string{"retryFor"}}, {func(s *Spec) { s.RetryFor = 31 * 24 * time.Hour }, []string{"retryFor"}},
		{func(s *Spec) { s.TLS.ClientCertificate = "MAYBE" }, []string{"tls.clientCertificate"}},
		{func(s *Spec) { s.TLS.CAPEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n" }, []string{"tls.caPem"}},
		{func(s *Spec) { s.TLS.SPKIPins = []string{"sha256/x"} }, []string{"tls.spkiPins[0]"}},
		{func(s *Spec) { s.Headers = head("X Key", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("transfer-encoding", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("content-type", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("webhook-signature", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("x-signature", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("Host", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("sealpost-chunk", "v") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Headers = head("x-key", "a\r\nb: c") }, []string{"headers[0].value"}},
		{func(s *Spec) { s.Headers = head("x-key", "") }, []string{"headers[0].value"}},
		{func(s *Spec) { s.Headers = append(head("x-key", "v"), head("X-Key", "v")...) }, []string{"headers[1].name"}},
		{func(s *Spec) { s.Headers, s.Bearer = head("authorization", "v"), relay.NewSecret("t") }, []string{"headers[0].name"}},
		{func(s *Spec) { s.Bearer, s.BasicUser = relay.NewSecret("t"), "u" }, []string{"bearerToken"}},
		{func(s *Spec) { s.Bearer = relay.NewSecret("a b") }, []string{"bearerToken"}},
		{func(s *Spec) { s.BasicPass = relay.NewSecret("p") }, []string{"basicAuth.username"}},
		{func(s *Spec) { s.BasicUser = "a:b" }, []string{"basicAuth.username"}},
		{func(s *Spec) { s.Secret = relay.NewSecret("whsec_c2hvcnQ=") }, []string{"secret"}},
		{func(s *Spec) { s.URL, s.Owner, s.Concurrency = "", "", 999 }, []string{"url", "owner", "concurrency"}},
	}
	for i, c := range cases {
		s := goodSpec()
		c.change(&s)
		_, err := w.CreateEndpoint(t.Context(), ann, s, "")
		if c.fields == nil && err != nil || c.fields != nil && !isInvalid(err, c.fields...) {
			t.Errorf("%d: %v, want %v", i, err, c.fields)
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	plain, devs := newWorld(t), newWorld(t, dev, func(o *Options, _ *journal.Options) {
		o.Guard = &egress.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	})
	e := plain.create(plain.caller("ann", access.Partner, "acme"))
	if e.State != relay.EndpointPending || e.TLS.ClientCertificate != relay.ClientCertificateRequired || e.Scheme != signer.Standard ||
		e.ContentMode != relay.ContentEnvelope || e.ChunkBytes != relay.DefaultChunkBytes || e.Concurrency != relay.DefaultConcurrency ||
		e.Timeout != relay.DefaultTimeout || e.RetryFor != relay.DefaultRetryFor || e.Registrant != "ann" || e.Sendable() {
		t.Errorf("%+v", e.Endpoint)
	}
	bare := func(s *Spec) { s.Purpose, s.Redaction, s.URL = "", relay.Redaction{}, "http://localhost:8080/" }
	d := devs.create(devs.caller("ann", access.Partner, "acme"), bare)
	if d.State != relay.EndpointActive || d.TLS.ClientCertificate != relay.ClientCertificateNone || d.Redaction.Mode != relay.RedactionNone || !d.Sendable() {
		t.Errorf("with --dev: %+v, %v", d.Endpoint, d.Err)
	}
	if s := devs.create(devs.caller("ann", access.Partner, "acme")); s.TLS.ClientCertificate != relay.ClientCertificateOffered {
		t.Errorf("https with --dev: %s", s.TLS.ClientCertificate)
	}
}

// A URL that its scheme signs is one that all verifiers of the scheme read alike.
func TestURLsThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := w.caller("ann", access.Partner, "acme")
	for _, scheme := range signer.Schemes() {
		s := goodSpec()
		s.Scheme, s.URL = string(scheme), "https://hooks.partner.example/a%2Fb?x=%20"
		if _, err := w.CreateEndpoint(t.Context(), ann, s, ""); isInvalid(err, "url") != (scheme == signer.HubSpotV3) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestSecretIsShownOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := w.caller("ann", access.Partner, "acme")
	for _, scheme := range signer.Schemes() {
		s := goodSpec()
		s.Scheme = string(scheme)
		made, err := w.CreateEndpoint(t.Context(), ann, s, "")
		if err != nil {
			t.Fatal(err)
		}
		keys, _, err := w.EndpointKeys(made.Endpoint.ID)
		if scheme.Facts().Asymmetric {
			if !made.Secret.Empty() || !strings.Contains(made.PublicPEM, "PUBLIC KEY") || err != nil || len(keys) != 1 {
				t.Errorf("%s: secret %v, %q, %v", scheme, !made.Secret.Empty(), made.PublicPEM, err)
			}
		} else {
			key, parsed := signer.ParseKey(scheme, made.Secret.Reveal())
			if parsed != nil || key.ID() != made.Endpoint.Signer.KeyID() || made.PublicPEM != "" || !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v, %v, %v", scheme, parsed, keys, err)
			}
		}
	}
	if _, _, err := w.EndpointKeys("ep_none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	pair, err := signer.GenerateKey(signer.StandardEd25519)
	if err != nil {
		t.Fatal(err)
	}
	given := goodSpec()
	given.Scheme, given.Secret = string(signer.StandardEd25519), relay.NewSecret(pair.Reveal())
	if _, err := w.CreateEndpoint(t.Context(), ann, given, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateEndpoint(t.Context(), ann, given, ""); !isInvalid(err, "secret") {
		t.Errorf("a key pair of two endpoints: %v", err)
	}
}

func TestRepeatedCreation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, eve := w.caller("ann", access.Partner, "acme"), w.caller("eve", access.Partner, "acme")
	s := goodSpec()
	s.Bearer = relay.NewSecret("token-1")
	var wg sync.WaitGroup
	made := make([]Created, 6)
	for i := range made {
		wg.Go(func() {
			var err error
			if made[i], err = w.CreateEndpoint(ctx, ann, s, "req-1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	shown := 0
	for _, m := range made {
		if !m.Secret.Empty() {
			shown++
		}
		if m.Endpoint == nil || m.Endpoint.ID != made[0].Endpoint.ID || m.Repeat == !m.Secret.Empty() {
			t.Fatalf("%+v", m)
		}
	}
	if shown != 1 {
		t.Errorf("the secret was shown %d times", shown)
	}
	other := s
	other.Bearer = relay.NewSecret("token-2")
	if _, err := w.CreateEndpoint(ctx, ann, other, "req-1"); !errors.Is(err, ErrExists) {
		t.Errorf("another spec: %v", err)
	}
	if m, err := w.CreateEndpoint(ctx, eve, s, "req-1"); err != nil || m.Repeat {
		t.Errorf("another account's request id: %+v, %v", m, err)
	}
	if _, err := w.CreateEndpoint(ctx, ann, s, "no good"); !isInvalid(err, "requestId") {
		t.Errorf("got %v", err)
	}
}

func TestFourEyes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	op, op2, bob := w.caller("op", access.Operator, ""), w.caller("op", access.Operator, ""), w.caller("bob", access.Operator, "acme")
	e := w.create(op)
	for _, who := range []access.Caller{op, op2} { // another token is not another account
		if _, err := w.ApproveEndpoint(ctx, who, Ref{ID: e.ID}); !isForbidden(err) {
			t.Errorf("by its registrant: %v", err)
		}
	}
	if _, err := w.UpdateEndpoint(ctx, bob, Ref{ID: e.ID}, Spec{URL: "https://evil.example/"}, []string{"url"}); !isState(err) {
		t.Errorf("changed by the one who would approve: %v", err)
	}
	if _, err := w.UpdateEndpoint(ctx, op, Ref{ID: e.ID}, Spec{Concurrency: 4}, []string{"concurrency"}); err != nil {
		t.Errorf("changed by its registrant: %v", err)
	}
	if _, err := w.ApproveEndpoint(ctx, bob, Ref{ID: e.ID, ETag: e.Revision}); !errors.Is(err, ErrStale) {
		t.Errorf("a version that bob has not seen: %v", err)
	}
	ok, err := w.ApproveEndpoint(ctx, bob, Ref{ID: e.ID})
	if err != nil || !ok.Sendable() || ok.Approver != "bob" || ok.Concurrency != 4 || !ok.ApproveTime.Equal(start) {
		t.Fatalf("%+v, %v", ok, err)
	}
	// Again: nothing waits, its review is renewed.
	if again, err := w.ApproveEndpoint(ctx, bob, Ref{ID: e.ID}); err != nil || again.State != relay.EndpointActive || again.Reviewer != "bob" {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := w.ApproveEndpoint(ctx, op, Ref{ID: e.ID}); err == nil {
		t.Error("its registrant renews the review")
	}
	if trail := w.trail(); !slices.Contains(trail, "endpoint.approve REFUSED") || !slices.Contains(trail, "endpoint.approve FAILED") {
		t.Errorf("audit: %v", trail)
	}
}

func TestWideningWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op, bob := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, ""), w.caller("bob", access.Operator, "")
	e := w.active(ann, func(s *Spec) {
		s.EventTypes, s.Bearer = []string{"contact.*", "deal.won"}, relay.NewSecret("old-token")
	})
	ref := Ref{ID: e.ID}
	asked := Spec{
		URL: "https://new.partner.example/", EventTypes: []string{"contact.created", "deal.won"}, Bearer: relay.NewSecret("new-token"),
		Redaction: relay.Redaction{Mode: relay.RedactionDenyListed}, Description: "moved",
	}
	got, err := w.UpdateEndpoint(ctx, ann, ref, asked, []string{"url", "event_types", "bearerToken", "redaction", "description"})
	if err != nil {
		t.Fatal(err)
	}
	if got.State != relay.EndpointActive || got.URL.String() != e.URL.String() || got.Bearer.Reveal() != "old-token" ||
		!slices.Equal(got.Redaction.Drop, []string{"**.ssn"}) {
		t.Errorf("what widens is in force: %+v", got.Endpoint)
	}
	if !slices.Equal(got.EventTypes, asked.EventTypes) || got.Description != "moved" {
		t.Errorf("what narrows is not in force: %+v", got.Endpoint)
	}
	if p := got.Record.Proposed; p == nil || p.Author != "ann" || p.Settings.URL != asked.URL || len(p.Settings.Redaction.Drop) != 0 {
		t.Fatalf("proposed: %+v", p)
	}
	if !slices.Contains(w.owners.settled, got.Revision) {
		t.Error("answered before the owner confirmed the narrowing")
	}
	if _, err := w.UpdateEndpoint(ctx, op, ref, Spec{EventTypes: []string{"*"}}, []string{"eventTypes"}); !isState(err) {
		t.Errorf("another author on one proposal: %v", err)
	}
	narrowed, err := w.UpdateEndpoint(ctx, op, ref, Spec{EventTypes: []string{"deal.won"}}, []string{"eventTypes"})
	if err != nil || !slices.Equal(narrowed.EventTypes, []string{"deal.won"}) || narrowed.Record.Proposed.Author != "ann" ||
		!slices.Equal(narrowed.Record.Proposed.Settings.EventTypes, []string{"deal.won"}) {
		t.Errorf("narrowed by another: %+v, %v", narrowed, err)
	}
	selfmade := w.caller("ann", access.Operator, "")
	if _, err := w.ApproveEndpoint(ctx, selfmade, ref); !isForbidden(err) {
		t.Errorf("by its author: %v", err)
	}
	ok, err := w.ApproveEndpoint(ctx, bob, ref)
	if err != nil || ok.URL.String() != asked.URL || ok.Bearer.Reveal() != "new-token" || ok.Record.Proposed != nil || len(ok.Redaction.Drop) != 0 ||
		!slices.Equal(ok.EventTypes, []string{"deal.won"}) {
		t.Errorf("approved: %+v, %v", ok, err)
	}
	again, err := w.UpdateEndpoint(ctx, ann, ref, Spec{EventTypes: []string{"*"}}, []string{"eventTypes"})
	if err != nil || again.Record.Proposed == nil {
		t.Fatal(err)
	}
	rejected, err := w.RejectEndpoint(ctx, bob, ref, "too much")
	if err != nil || rejected.State != relay.EndpointActive || rejected.Record.Proposed != nil || !slices.Equal(rejected.EventTypes, []string{"deal.won"}) {
		t.Errorf("rejected: %+v, %v", rejected, err)
	}
}

func TestUpdateRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann := w.caller("ann", access.Partner, "acme")
	e := w.active(ann, func(s *Spec) { s.Headers = []relay.Header{{Name: "X-Key", Value: relay.NewSecret("v1")}} })
	for _, c := range []struct {
		mask  []string
		field string
	}{
		{nil, "updateMask"}, {[]string{"state"}, "updateMask"}, {[]string{"tenant"}, "tenant"}, {[]string{"scheme"}, "scheme"},
		{[]string{"secret"}, "secret"}, {[]string{"owner"}, "owner"}, {[]string{"redaction.mode"}, "redaction.mode"}, {[]string{"url"}, "url"},
	} {
		if _, err := w.UpdateEndpoint(ctx, ann, Ref{ID: e.ID}, Spec{}, c.mask); !isInvalid(err, c.field) {
			t.Errorf("%v: %v", c.mask, err)
		}
	}
	if _, err := w.UpdateEndpoint(ctx, ann, Ref{ID: e.ID, ETag: e.Revision + 1}, Spec{}, []string{"description"}); !errors.Is(err, ErrStale) {
		t.Errorf("etag: %v", err)
	}
	got, err := w.UpdateEndpoint(ctx, ann, Ref{ID: e.ID}, Spec{Headers: []relay.Header{{Name: "x-key"}, {Name: "X-B", Value: relay.NewSecret("b")}}}, []string{"headers"})
	if err != nil || len(got.Headers) != 2 || got.Headers[0].Value.Reveal() != "v1" || got.Headers[1].Value.Reveal() != "b" {
		t.Errorf("kept header: %+v, %v", got, err)
	}
}

func TestInForce(t *testing.T) {
	t.Parallel()
	deny := func(r relay.Redaction) func(*Spec) {
		return func(s *Spec) { r.Mode = relay.RedactionDenyListed; s.Redaction = r }
	}
	allow := func(paths ...string) func(*Spec) {
		return func(s *Spec) { s.Redaction = relay.Redaction{Mode: relay.RedactionAllowListed, Allow: paths} }
	}
	none := func(s *Spec) { s.Redaction = relay.Redaction{Mode: relay.RedactionNone} }
	mask := func(keep int) []relay.Mask { return []relay.Mask{{Path: "card", KeepLast: keep}} }
	tls := func(v relay.TLS) func(*Spec) { return func(s *Spec) { s.TLS = v } }
	required, offered := relay.ClientCertificateRequired, relay.ClientCertificateOffered
	same1, same2 := "sha256/a", "sha256/b"
	cases := []struct {
		name     string
		old, new func(*Spec)
		at1      bool // applies at once
	}{
		{"url", func(s *Spec) {}, func(s *Spec) { s.URL += "/x" }, false},
		{"fewer types", func(s *Spec) { s.EventTypes = []string{"a.*", "b.c"} }, func(s *Spec) { s.EventTypes = []string{"a.b.*"} }, true},
		{"more types", func(s *Spec) { s.EventTypes = []string{"a.b"} }, func(s *Spec) { s.EventTypes = []string{"a.b", "a.c"} }, false},
		{"wider pattern", func(s *Spec) { s.EventTypes = []string{"a.b"} }, func(s *Spec) { s.EventTypes = []string{"a.*"} }, false},
		{"new filter", func(s *Spec) {}, func(s *Spec) { s.Filter = "true" }, true},
		{"other filter", func(s *Spec) { s.Filter = "false" }, func(s *Spec) { s.Filter = "true" }, false},
		{"no filter", func(s *Spec) { s.Filter = "false" }, func(s *Spec) {}, false},
		{"none to deny", none, deny(relay.Redaction{}), true},
		{"deny to none", deny(relay.Redaction{}), none, false},
		{"deny to allow", deny(relay.Redaction{}), allow("a"), true},
		{"deny with drop to allow without", deny(relay.Redaction{Drop: []string{"a.b"}}), allow("a"), false},
		{"allow to deny", allow("a"), deny(relay.Redaction{}), false},
		{"allow less", allow("a", "b"), allow("a"), true},
		{"allow more", allow("a"), allow("a", "b"), false},
		{"drop more", deny(relay.Redaction{Drop: []string{"a"}}), deny(relay.Redaction{Drop: []string{"b", "a"}}), true},
		{"drop less", deny(relay.Redaction{Drop: []string{"a", "b"}}), deny(relay.Redaction{Drop: []string{"b"}}), false},
		{"drop to mask", deny(relay.Redaction{Drop: []string{"card"}}), deny(relay.Redaction{Mask: mask(0)}), false},
		{"mask to drop", deny(relay.Redaction{Mask: mask(4)}), deny(relay.Redaction{Drop: []string{"card"}}), true},
		{"mask keeps less", deny(relay.Redaction{Mask: mask(4)}), deny(relay.Redaction{Mask: mask(2)}), true},
		{"mask keeps more", deny(relay.Redaction{Mask: mask(4)}), deny(relay.Redaction{Mask: mask(5)}), false},
		{"mask to pseudonym", deny(relay.Redaction{Mask: mask(0)}), deny(relay.Redaction{Pseudonymize: []string{"card"}}), false},
		{"pseudonym over a mask", deny(relay.Redaction{Mask: mask(0)}), deny(relay.Redaction{Mask: mask(0), Pseudonymize: []string{"card"}}), false},
		{"pseudonym of what left", deny(relay.Redaction{}), deny(relay.Redaction{Pseudonymize: []string{"card"}}), true},
		{"pseudonym to nothing", deny(relay.Redaction{Pseudonymize: []string{"card"}}), deny(relay.Redaction{}), false},
		{"certificate asked for", tls(relay.TLS{ClientCertificate: offered}), tls(relay.TLS{ClientCertificate: required}), true},
		{"certificate no more asked for", tls(relay.TLS{ClientCertificate: required}), tls(relay.TLS{ClientCertificate: offered}), false},
		{"other roots", tls(relay.TLS{CAPEM: "a"}), tls(relay.TLS{CAPEM: "b"}), false},
		{"own roots", tls(relay.TLS{}), tls(relay.TLS{CAPEM: "b"}), false},
		{"first pin", tls(relay.TLS{}), tls(relay.TLS{SPKIPins: []string{same1}}), true},
		{"one pin less", tls(relay.TLS{SPKIPins: []string{same1, same2}}), tls(relay.TLS{SPKIPins: []string{same2}}), true},
		{"no pin", tls(relay.TLS{SPKIPins: []string{same1}}), tls(relay.TLS{}), false},
		{"another pin", tls(relay.TLS{SPKIPins: []string{same1}}), tls(relay.TLS{SPKIPins: []string{same1, same2}}), false},
		{"TLS 1.2", tls(relay.TLS{}), tls(relay.TLS{AllowTLS12: true}), false},
		{"no TLS 1.2", tls(relay.TLS{AllowTLS12: true}), tls(relay.TLS{}), true},
		{"limits and texts", func(s *Spec) {}, func(s *Spec) { s.Concurrency, s.Owner, s.Timeout = 2, "x", time.Minute }, true},
		{"credentials for the same URL", func(s *Spec) {}, func(s *Spec) { s.Bearer = relay.NewSecret("t") }, true},
	}
	for _, c := range cases {
		old := goodSpec().withDefaults(false)
		new := old
		c.old(&old)
		new.Redaction, new.TLS, new.Filter, new.EventTypes = old.Redaction, old.TLS, "", old.EventTypes
		c.new(&new)
		now := inForce(&old, &new)
		if same(&now, &new) != c.at1 {
			t.Errorf("%s: applies at once: %v", c.name, !c.at1)
		}
		if !c.at1 && !same(&now, &old) {
			t.Errorf("%s: something of it is in force", c.name)
		}
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	states := []relay.EndpointState{
		relay.EndpointUnverified, relay.EndpointPending, relay.EndpointActive, relay.EndpointPaused, relay.EndpointSuspended,
		relay.EndpointContained, relay.EndpointDeleted,
	}
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	type call func(access.Caller, Ref) (*registry.Endpoint, error)
	acts := []struct {
		name    string
		who     access.Caller
		do      call
		leads   map[relay.EndpointState]relay.EndpointState // what is not there is refused
		settles bool
	}{
		{"pause", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.PauseEndpoint(ctx, c, r, "why") },
			map[relay.EndpointState]relay.EndpointState{
				relay.EndpointActive: relay.EndpointPaused, relay.EndpointSuspended: relay.EndpointPaused, relay.EndpointPaused: relay.EndpointPaused,
			}, true},
		{"resume", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.ResumeEndpoint(ctx, c, r) },
			map[relay.EndpointState]relay.EndpointState{
				relay.EndpointActive: relay.EndpointActive, relay.EndpointSuspended: relay.EndpointActive, relay.EndpointPaused: relay.EndpointActive,
			}, false},
		{"suspend", Relay(), func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.SuspendEndpoint(ctx, c, r, "GONE") },
			map[relay.EndpointState]relay.EndpointState{
				relay.EndpointActive: relay.EndpointSuspended, relay.EndpointSuspended: relay.EndpointSuspended, relay.EndpointPaused: relay.EndpointPaused,
				relay.EndpointPending: relay.EndpointPending, relay.EndpointUnverified: relay.EndpointUnverified,
				relay.EndpointContained: relay.EndpointContained, relay.EndpointDeleted: relay.EndpointDeleted,
			}, false},
		{"approve", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.ApproveEndpoint(ctx, c, r) },
			map[relay.EndpointState]relay.EndpointState{ // where nothing waits, its review is renewed
				relay.EndpointPending: relay.EndpointActive, relay.EndpointActive: relay.EndpointActive, relay.EndpointPaused: relay.EndpointPaused,
				relay.EndpointSuspended: relay.EndpointSuspended,
			}, false},
		{"reject", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.RejectEndpoint(ctx, c, r, "no") },
			map[relay.EndpointState]relay.EndpointState{relay.EndpointPending: relay.EndpointDeleted, relay.EndpointUnverified: relay.EndpointDeleted}, true},
		{"contain", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) {
			return w.ContainEndpoint(ctx, c, r, "INC-42")
		},
			map[relay.EndpointState]relay.EndpointState{
				relay.EndpointUnverified: relay.EndpointContained, relay.EndpointPending: relay.EndpointContained, relay.EndpointActive: relay.EndpointContained,
				relay.EndpointPaused: relay.EndpointContained, relay.EndpointSuspended: relay.EndpointContained, relay.EndpointContained: relay.EndpointContained,
			}, true},
		{"release", op, func(c access.Caller, r Ref) (*registry.Endpoint, error) {
			return w.ReleaseEndpoint(ctx, c, r, "INC-42")
		},
			// Never approved, as all of these.
			map[relay.EndpointState]relay.EndpointState{relay.EndpointContained: relay.EndpointPending}, false},
		{"delete", ann, func(c access.Caller, r Ref) (*registry.Endpoint, error) { return w.DeleteEndpoint(ctx, c, r) },
			map[relay.EndpointState]relay.EndpointState{
				relay.EndpointActive: relay.EndpointDeleted, relay.EndpointSuspended: relay.EndpointDeleted, relay.EndpointPaused: relay.EndpointDeleted,
				relay.EndpointPending: relay.EndpointDeleted, relay.EndpointUnverified: relay.EndpointDeleted, relay.EndpointDeleted: relay.EndpointDeleted,
			}, true},
	}
	for _, a := range acts {
		for _, from := range states {
			e := w.create(ann)
			e, err := w.Registry.Change(ctx, e.ID, 0, func(r *registry.Record) error { r.State = from; return nil })
			if err != nil {
				t.Fatal(err)
			}
			asked := len(w.owners.settled)
			got, err := a.do(a.who, Ref{ID: e.ID})
			to, allowed := a.leads[from]
			switch {
			case !allowed && !isState(err):
				t.Errorf("%s from %s: %v", a.name, from, err)
			case !allowed && w.Registry.Snapshot().Endpoint(e.ID).State != from:
				t.Errorf("%s from %s was refused and done", a.name, from)
			case allowed && (err != nil || got.State != to):
				t.Errorf("%s from %s: %+v, %v", a.name, from, got, err)
			case allowed && a.settles != (len(w.owners.settled) > asked):
				t.Errorf("%s from %s: settled %v", a.name, from, !a.settles)
			case allowed && a.settles && w.owners.settled[len(w.owners.settled)-1] < got.Revision:
				t.Errorf("%s from %s settled at an older revision", a.name, from)
			}
			if allowed && to == relay.EndpointDeleted && from != to && (len(got.Record.Keys) != 0 || got.Signer != nil) {
				t.Errorf("%s from %s kept its keys", a.name, from)
			}
		}
	}
}

func TestPauseIsNotConfirmedWithoutTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := w.caller("ann", access.Partner, "acme")
	e := w.active(ann)
	w.owners.fail = errors.New("owner is away")
	if _, err := w.PauseEndpoint(t.Context(), ann, Ref{ID: e.ID}, ""); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if now := w.Registry.Snapshot().Endpoint(e.ID); now.State != relay.EndpointPaused {
		t.Errorf("state %s: nobody may go on sending", now.State)
	}
	w.owners.fail = nil
	if _, err := w.PauseEndpoint(t.Context(), ann, Ref{ID: e.ID}, ""); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestPartnerCannotUndoAnOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	ann, op := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, "")
	ref := Ref{ID: w.active(ann).ID}
	step := func(name string, want bool, err error) {
		t.Helper()
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := w.PauseEndpoint(ctx, ann, ref, "maintenance")
	step("own pause", true, err)
	_, err = w.ResumeEndpoint(ctx, ann, ref)
	step("own resume", true, err)
	_, err = w.PauseEndpoint(ctx, ann, ref, "")
	step("own pause", true, err)
	_, err = w.PauseEndpoint(ctx, op, ref, "by ann: really")
	step("taken over by an operator", true, err)
	_, err = w.PauseEndpoint(ctx, ann, ref, "mine again")
	step("paused twice", true, err)
	_, err = w.ResumeEndpoint(ctx, ann, ref)
	step("resume of an operator's pause", false, err)
	_, err = w.ResumeEndpoint(ctx, op, ref)
	step("operator's resume", true, err)
	_, err = w.SuspendEndpoint(ctx, Relay(), ref, "GONE")
	step("suspend", true, err)
	_, err = w.ResumeEndpoint(ctx, ann, ref)
	step("resume of a suspended one", true, err)
}

func TestLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	op := w.caller("op", access.Operator, "")
	var want []string
	for i := range 7 {
		want = append(want, w.create(op, func(s *Spec) { s.Tenant = []string{"acme", "globex"}[i%2]; s.Owner = fmt.Sprint("o", i%3) }).ID)
	}
	slices.Sort(want)
	var got []string
	q := EndpointQuery{PageSize: 2}
	for {
		page, err := w.ListEndpoints(ctx, op, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Endpoints {
			got = append(got, e.ID)
		}
		if q.PageToken = page.NextPageToken; q.PageToken == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages: %v, want %v", got, want)
	}
	if _, err := w.DeleteEndpoint(ctx, op, Ref{ID: want[0]}); err != nil {
		t.Fatal(err)
	}
	count := func(q EndpointQuery) int {
		page, err := w.ListEndpoints(ctx, op, q)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Endpoints)
	}
	if n := count(EndpointQuery{}); n != 6 {
		t.Errorf("%d left", n)
	}
	if n := count(EndpointQuery{State: relay.EndpointDeleted}); n != 1 {
		t.Errorf("%d deleted", n)
	}
	if n, m := count(EndpointQuery{Tenant: "acme"}), count(EndpointQuery{Tenant: "globex"}); n+m != 6 {
		t.Errorf("%d and %d", n, m)
	}
	for _, q := range []EndpointQuery{{PageSize: -1}, {PageSize: 1001}, {PageToken: "*"}} {
		if _, err := w.ListEndpoints(ctx, op, q); err == nil {
			t.Errorf("%+v", q)
		}
	}
	small := newWorld(t, func(o *Options, _ *journal.Options) { o.MaxEndpoints = 1 })
	full := small.caller("op", access.Operator, "")
	small.create(full)
	if _, err := small.CreateEndpoint(ctx, full, goodSpec(), ""); !isState(err) {
		t.Errorf("above the bound: %v", err)
	}
}

func TestDevIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, dev)
	ctx := t.Context()
	if err := w.EnterDev(ctx); err != nil {
		t.Fatal(err)
	}
	ann, bob := w.caller("ann", access.Operator, ""), w.caller("bob", access.Operator, "")
	good, bare := w.create(ann), w.create(ann, func(s *Spec) { s.URL = "http://hooks.partner.example/" })
	w.Dev = false
	if n, err := w.LeaveDev(ctx); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := w.LeaveDev(ctx); n != 0 || err != nil {
		t.Fatal("again", n, err)
	}
	if e, err := w.GetEndpoint(ctx, ann, Ref{ID: good.ID}); err != nil || e.State != relay.EndpointPending {
		t.Fatalf("%+v, %v", e, err)
	}
	if _, err := w.ApproveEndpoint(ctx, ann, Ref{ID: good.ID}); !isForbidden(err) {
		t.Errorf("by its registrant: %v", err)
	}
	if e, err := w.ApproveEndpoint(ctx, bob, Ref{ID: good.ID}); err != nil || !e.Sendable() {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := w.ApproveEndpoint(ctx, bob, Ref{ID: bare.ID}); !isInvalid(err, "url") {
		t.Errorf("http outside --dev: %v", err)
	}
	if trail := w.trail(); !slices.Contains(trail, "dev.enter DONE") || !slices.Contains(trail, "dev.leave DONE") {
		t.Errorf("audit: %v", trail)
	}
}

func FuzzListAndMask(f *testing.F) {
	f.Add(pageToken("ep_a"), "event_types")
	f.Add("", "tls.clientCertificate")
	f.Add("*", "headers[0]")
	f.Fuzz(func(t *testing.T, token, path string) {
		if last, err := pageStart(0, token); err == nil && pageToken(last) != token {
			t.Fatalf("page token %q is another spelling of %q", token, pageToken(last))
		}
		if name := camel(path); camel(name) != name {
			t.Fatalf("%q: %q, %q", path, name, camel(name))
		}
		to := goodSpec()
		before := to
		if err := overlay(&to, &Spec{}, []string{path}); err != nil && !same(&to, &before) {
			t.Fatalf("%q was refused and changed something", path)
		}
	})
}
