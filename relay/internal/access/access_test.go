package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/keys"
)

var home = netip.MustParseAddr("::ffff:192.0.2.1")

// clock is moved by the tests.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}
func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func openBucket(t testing.TB) *journal.Bucket {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), MinFreeDisk: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	b, err := j.Bucket(t.Context(), BucketName)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openKeeper(t testing.TB, b Bucket, c *clock) *Keeper {
	t.Helper()
	k, err := Open(t.Context(), b, Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

var form = regexp.MustCompile(`^spt_[a-z2-7]{16}_[A-Za-z0-9_-]{43}$`)

func TestTokenLife(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	k, other := openKeeper(t, b, c), openKeeper(t, b, c)
	ctx := t.Context()
	token, secret, err := k.Create(ctx, Grant{Account: "crm", Role: Publisher, Tenant: "acme", Creator: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	text := secret.Reveal()
	if !form.MatchString(text) || token.ExpireTime.Sub(token.CreateTime) != DefaultLifetime {
		t.Fatalf("token of form %t, expires %v", form.MatchString(text), token.ExpireTime)
	}
	who, err := k.Authenticate(ctx, Presented{Token: text, Address: home})
	if err != nil || who.Account != "crm" || who.Role != Publisher || who.Tenant != "acme" || who.CredentialID != token.ID ||
		who.Address.String() != "192.0.2.1" || !who.May(EventsPublish) || who.May(EndpointsWrite) || who.Sees("globex") {
		t.Fatalf("caller %+v, %v", who, err)
	}
	items := 0
	err = b.Watch(ctx, func(item journal.Item) error {
		if item.Key == "" {
			return errors.New("all seen")
		}
		if !strings.HasPrefix(item.Key, "token/") {
			return nil
		}
		items++
		if bytes.Contains(item.Value, []byte(text)) || bytes.Contains(item.Value, []byte(text[len(text)-secretLength:])) {
			t.Error("the token itself is kept")
		}
		return nil
	})
	if err == nil || items != 1 {
		t.Fatalf("%d items, %v", items, err)
	}
	if _, err := k.Revoke(ctx, token.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Authenticate(ctx, Presented{Token: text, Address: home}); !errors.Is(err, ErrRevoked) || !errors.Is(err, ErrUnauthenticated) {
		t.Fatalf("revoked: %v", err)
	}
	if err := k.Live(who); !errors.Is(err, ErrRevoked) {
		t.Fatalf("caller of a revoked token: %v", err)
	}
	for err = error(nil); !errors.Is(err, ErrRevoked); _, err = other.Authenticate(ctx, Presented{Token: text, Address: home}) {
		if ctx.Err() != nil {
			t.Fatal("the other process never hears of it")
		}
	}
	again, err := k.Revoke(ctx, token.ID)
	if err != nil || again.RevokeTime.IsZero() {
		t.Fatalf("again: %+v, %v", again, err)
	}
	if _, err := k.Revoke(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("unknown: %v", err)
	}
	if _, err := openKeeper(t, b, c).Authenticate(ctx, Presented{Token: text, Address: home}); !errors.Is(err, ErrRevoked) {
		t.Fatalf("after a restart: %v", err)
	}
}

func TestTokenExpiry(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	k := openKeeper(t, b, c)
	_, secret, err := k.Create(t.Context(), Grant{Account: "p", Role: Partner, Tenant: "acme", Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour - 1)
	if _, err := k.Authenticate(t.Context(), Presented{Token: secret.Reveal(), Address: home}); err != nil {
		t.Fatalf("one nanosecond before: %v", err)
	}
	c.advance(1)
	if _, err := k.Authenticate(t.Context(), Presented{Token: secret.Reveal(), Address: home}); !errors.Is(err, ErrExpired) {
		t.Fatalf("at its end: %v", err)
	}
	if n, err := k.Purge(t.Context(), c.now()); n != 0 || err != nil {
		t.Fatalf("purged too early: %d, %v", n, err)
	}
	if n, err := k.Purge(t.Context(), c.now().Add(1)); n != 1 || err != nil {
		t.Fatalf("purge: %d, %v", n, err)
	}
	if left := openKeeper(t, b, c).List(); len(left) != 0 {
		t.Fatalf("left: %v", left)
	}
}

func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), newClock())
	_, secret, err := k.Create(t.Context(), Grant{Account: "p", Role: Partner, Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	good := secret.Reveal()
	other := "spt_" + strings.Repeat("a", idLength) + good[len(tokenPrefix)+idLength:]
	cases := []struct {
		token string
		want  error
	}{
		{"", ErrNoToken}, {" " + good, ErrToken}, {good + "\n", ErrToken}, {good[:len(good)-1], ErrToken}, {good + "A", ErrToken},
		{other, ErrToken}, {strings.ToUpper(good), ErrToken}, {"Bearer " + good, ErrToken}, {strings.Repeat("x", 1<<16), ErrToken},
		{strings.Replace(good, "spt_", "spx_", 1), ErrToken},
	}
	for i := range good {
		changed := []byte(good)
		changed[i] ^= 1
		cases = append(cases, struct {
			token string
			want  error
		}{string(changed), ErrToken})
	}
	for _, c := range cases {
		if who, err := k.Authenticate(t.Context(), Presented{Token: c.token, Address: home}); !errors.Is(err, c.want) || who.May(EndpointsRead) {
			t.Errorf("%.80q: %v", c.token, err)
		}
	}
}

func TestGrantRules(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), newClock())
	cases := []struct {
		grant Grant
		field string
	}{
		{Grant{Role: Partner, Tenant: "acme"}, "account"},
		{Grant{Account: "a b", Role: Partner, Tenant: "acme"}, "account"},
		{Grant{Account: "relay", Role: Operator}, "account"},
		{Grant{Account: "a", Tenant: "acme"}, "role"},
		{Grant{Account: "a", Role: "ADMIN", Tenant: "acme"}, "role"},
		{Grant{Account: "a", Role: Partner}, "tenant"},
		{Grant{Account: "a", Role: Publisher}, "tenant"},
		{Grant{Account: "a", Role: Operator, Tenant: "A"}, "tenant"},
		{Grant{Account: "a", Role: Partner, Tenant: "acme", Scopes: []Scope{EndpointsRead, EndpointsApprove}}, "scopes[1]"},
		{Grant{Account: "a", Role: Partner, Tenant: "acme", Lifetime: MaxLifetime + 1}, "ttl"},
		{Grant{Account: "a", Role: Partner, Tenant: "acme", Lifetime: -1}, "ttl"},
		{Grant{Account: "a", Role: Partner, Tenant: "acme", Lifetime: time.Second}, "ttl"},
	}
	for _, c := range cases {
		_, _, err := k.Create(t.Context(), c.grant)
		var bad relay.Invalid
		if !errors.As(err, &bad) || len(bad) != 1 || bad[0].Field != c.field {
			t.Errorf("%+v: %v, want %s", c.grant, err, c.field)
		}
	}
}

// Every role and scope: what is not named here is not allowed.
func TestRolesAndScopes(t *testing.T) {
	t.Parallel()
	all := Operator.Scopes()
	want := map[Role][]Scope{
		Operator:  all,
		Publisher: {EventsPublish, EventsRead, EventsPreview, DeliveriesRead},
		Partner:   {EndpointsRead, EndpointsWrite, EndpointsOperate, DeliveriesRead, DeliveriesSteer},
		Security: {EventsPreview, EndpointsRead, EndpointsOperate, EndpointsApprove, IncidentsContain, DeliveriesRead,
			AccountsRead, AccountsDisable, TokensRead, TokensRevoke, AuditRead, PolicyRead, PolicyWrite},
		Auditor: {EndpointsRead, DeliveriesRead, AccountsRead, TokensRead, AuditRead, PolicyRead},
		"":      nil, "ADMIN": nil,
	}
	for role, scopes := range want {
		for _, s := range all {
			who := Caller{Account: "a", Role: role, Scopes: all, Tenant: "acme"}
			if may := slices.Contains(scopes, s); who.May(s) != may {
				t.Errorf("%s may %s: %v", role, s, !may)
			}
			who.Scopes = nil
			if who.May(s) {
				t.Errorf("%s may %s without having it", role, s)
			}
		}
	}
	if (Caller{}).May(EventsRead) || (Caller{}).Sees("acme") || (Caller{}).AllTenants() {
		t.Error("nobody may something")
	}
	if (Caller{Account: "a", Role: Partner}).Sees("acme") {
		t.Error("a partner without a tenant sees one")
	}
	if !(Caller{Account: "a", Role: Operator}).Sees("acme") || (Caller{Account: "a", Role: Operator, Tenant: "globex"}).Sees("acme") {
		t.Error("an operator's tenants")
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	path := filepath.Join(t.TempDir(), OperatorFile)
	k := openKeeper(t, b, c)
	if made, err := k.Bootstrap(t.Context(), path); !made || err != nil {
		t.Fatal(made, err)
	}
	content, err := os.ReadFile(path)
	if err != nil || !form.MatchString(strings.TrimSuffix(string(content), "\n")) || strings.Count(string(content), "\n") != 1 {
		t.Fatalf("file of %d bytes, %v", len(content), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	c.advance(10 * MaxLifetime)
	again := openKeeper(t, b, c)
	if made, err := again.Bootstrap(t.Context(), path); made || err != nil {
		t.Fatal(made, err)
	}
	if _, err := again.Authenticate(t.Context(), Presented{Token: strings.TrimSpace(string(content)), Address: home}); !errors.Is(err, ErrAddress) {
		t.Fatalf("from another machine: %v", err)
	}
	who, err := again.Authenticate(t.Context(), Presented{Token: strings.TrimSpace(string(content)), Address: loopback})
	if err != nil || !who.AllTenants() || who.Account != OperatorAccount {
		t.Fatalf("%+v, %v", who, err)
	}
	if _, err := again.Revoke(t.Context(), who.CredentialID); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Bootstrap(t.Context(), path); !errors.Is(err, ErrRevoked) {
		t.Fatalf("with a revoked token in the file: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Bootstrap(t.Context(), path); !errors.Is(err, keys.ErrFile) {
		t.Fatalf("readable by others: %v", err)
	}
}

func TestUnreadableRecordsAreRefused(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	token, secret := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme"}, c.now())
	token.ExpireTime = c.now().Add(time.Hour)
	data, err := token.encode()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme"}, c.now())
	for key, value := range map[string][]byte{
		"token/" + token.ID: append(data, 0xfa, 0x7f, 0), // an unknown field: of a newer release
		"token/" + other.ID: data,                        // another token's record
	} {
		if _, err := b.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	k, err := Open(t.Context(), b, Options{Now: c.now, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Authenticate(t.Context(), Presented{Token: secret.Reveal(), Address: home}); !errors.Is(err, ErrToken) {
		t.Fatalf("got %v", err)
	}
	if len(k.List()) != 0 || strings.Count(log.String(), "cannot be used") != 2 {
		t.Fatalf("known: %v; log: %s", k.List(), log.String())
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	t.Parallel()
	token, secret := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme"}, time.Now())
	text := secret.Reveal()
	for _, v := range []any{token, *token, secret, []any{secret}} {
		if s := fmt.Sprintf("%v %+v %#v", v, v, v); strings.Contains(s, text[len(text)-secretLength:]) {
			t.Errorf("%T prints the token", v)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	_, secret := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme"}, time.Now())
	f.Add(secret.Reveal())
	f.Add("")
	f.Add("spt_" + strings.Repeat("a", 60))
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := parseToken(text)
		if ok != form.MatchString(text) && !strings.Contains(text, "\n") {
			t.Fatalf("%q: %v", text, ok)
		}
		if ok && id != text[4:20] {
			t.Fatalf("id %q of %q", id, text)
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	token, _ := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme", Creator: "b"}, time.Unix(1, 2))
	token.ExpireTime = time.Unix(3, 4)
	data, err := token.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.ID, data)
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		token, err := decodeToken(id, data)
		if err != nil {
			if !errors.Is(err, errToken) {
				t.Fatal(err)
			}
			return
		}
		once, err := token.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeToken(id, once)
		if err != nil || back.hash != token.hash || back.Role != token.Role || back.Tenant != token.Tenant || !back.ExpireTime.Equal(token.ExpireTime) {
			t.Fatalf("changes when written again: %+v, %v", back, err)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	k := openKeeper(b, openBucket(b), newClock())
	_, secret, err := k.Create(b.Context(), Grant{Account: "crm", Role: Publisher, Tenant: "acme"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Authenticate(b.Context(), Presented{Token: secret.Reveal(), Address: home}); err != nil {
			b.Fatal(err)
		}
	}
}
