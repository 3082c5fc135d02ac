package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

func mustCreate(t testing.TB, k *Keeper, g Grant) (Token, string) {
	t.Helper()
	token, secret, err := k.Create(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	return token, secret.Reveal()
}

func from(text string) netip.Addr { return netip.MustParseAddr(text) }

// A token is good from its addresses, within its rate, over its certificate and with an account that is enabled; each alone ends it.
func TestTokenBounds(t *testing.T) {
	t.Parallel()
	c := newClock()
	k := openKeeper(t, openBucket(t), c)
	ctx := t.Context()
	_, local := mustCreate(t, k, Grant{Account: "a", Role: Publisher, Tenant: "acme", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("2001:db8::/64")}})
	for address, want := range map[string]error{
		"192.0.2.1": nil, "::ffff:192.0.2.15": nil, "192.0.2.16": ErrAddress, "2001:db8::9": nil, "2001:db8:0:1::": ErrAddress, "127.0.0.1": ErrAddress,
	} {
		if _, err := k.Authenticate(ctx, Presented{Token: local, Address: from(address)}); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("from %s: %v, want %v", address, err, want)
		}
	}
	_, slow := mustCreate(t, k, Grant{Account: "b", Role: Publisher, Tenant: "acme", RateLimit: 2})
	for i, want := range []bool{true, true, false} {
		_, err := k.Authenticate(ctx, Presented{Token: slow, Address: home})
		var limit *LimitError
		if (err == nil) != want || err != nil && (!errors.As(err, &limit) || limit.RetryAfter <= 0 || limit.RetryAfter > time.Second) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	c.advance(time.Second)
	if _, err := k.Authenticate(ctx, Presented{Token: slow, Address: home}); err != nil {
		t.Errorf("a second later: %v", err)
	}
	mine, other := newCert(t, c, nil, ""), newCert(t, c, nil, "")
	_, bound := mustCreate(t, k, Grant{Account: "c", Role: Publisher, Tenant: "acme", Bound: Fingerprint(mine.leaf)})
	for name, chain := range map[string][]*x509.Certificate{"none": nil, "another": {other.leaf}} {
		if _, err := k.Authenticate(ctx, Presented{Token: bound, Address: home, Chain: chain}); !errors.Is(err, ErrBound) {
			t.Errorf("bound, over %s: %v", name, err)
		}
	}
	who, err := k.Authenticate(ctx, Presented{Token: bound, Address: home, Chain: []*x509.Certificate{mine.leaf}})
	if err != nil || who.CertificateSHA256 != Fingerprint(mine.leaf) || who.CertificateSubject == "" {
		t.Errorf("bound, over its own: %+v, %v", who, err)
	}
	if _, err := k.SetDisabled(ctx, "acme", "c", true); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Authenticate(ctx, Presented{Token: bound, Address: home, Chain: []*x509.Certificate{mine.leaf}}); !errors.Is(err, ErrDisabled) || !errors.Is(k.Live(who), ErrDisabled) {
		t.Errorf("disabled: %v, %v", err, k.Live(who))
	}
	if _, _, err := k.Create(ctx, Grant{Account: "c", Tenant: "acme"}); !fieldOf(err, "account") {
		t.Errorf("a token of a disabled account: %v", err)
	}
	if _, err := k.SetDisabled(ctx, "acme", "c", false); err != nil || k.Live(who) != nil {
		t.Errorf("enabled: %v, %v", err, k.Live(who))
	}
}

func fieldOf(err error, field string) bool {
	var bad relay.Invalid
	return errors.As(err, &bad) && slices.ContainsFunc(bad, func(v relay.Violation) bool { return v.Field == field })
}

// What an account may is fixed; a token has no more of it.
func TestAccountBoundsItsTokens(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), newClock())
	ctx := t.Context()
	if _, err := k.CreateAccount(ctx, Account{Name: "a", Tenant: "acme", Role: Publisher, Scopes: []Scope{EventsRead, EventsPublish}, Environment: Sandbox}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.CreateAccount(ctx, Account{Name: "a", Tenant: "acme", Role: Operator}); !errors.Is(err, ErrExists) {
		t.Errorf("the same name again: %v", err)
	}
	if _, err := k.CreateAccount(ctx, Account{Name: "a", Tenant: "globex", Role: Partner}); err != nil {
		t.Errorf("another tenant's account of the name: %v", err)
	}
	for field, g := range map[string]Grant{
		"role":      {Account: "a", Tenant: "acme", Role: Operator},
		"scopes[1]": {Account: "a", Tenant: "acme", Scopes: []Scope{EventsRead, DeliveriesRead}},
		"rateLimit": {Account: "a", Tenant: "acme", RateLimit: -1},
		"cidrs[0]":  {Account: "a", Tenant: "acme", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
	} {
		if _, _, err := k.Create(ctx, g); !fieldOf(err, field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	_, secret := mustCreate(t, k, Grant{Account: "a", Tenant: "acme"})
	who, err := k.Authenticate(ctx, Presented{Token: secret, Address: home})
	if err != nil || !who.May(EventsPublish) || who.May(DeliveriesRead) || who.In(Production) || !who.In(Sandbox) || who.Role != Publisher {
		t.Errorf("%+v, %v", who, err)
	}
}

// Rotated: both are good until the overlap ends, and the new one goes on as long as the old one was to last.
func TestRotate(t *testing.T) {
	t.Parallel()
	c := newClock()
	k := openKeeper(t, openBucket(t), c)
	ctx := t.Context()
	old, oldSecret := mustCreate(t, k, Grant{Account: "a", Role: Publisher, Tenant: "acme", Lifetime: 48 * time.Hour, RateLimit: 1000, Hands: []string{"ann"}})
	c.advance(10 * time.Hour)
	fresh, secret, previous, err := k.Rotate(ctx, old.ID, "bob", []string{"bob", "ann"}, time.Hour)
	if err != nil || fresh.ExpireTime.Sub(fresh.CreateTime) != 48*time.Hour || fresh.RotatedFrom != old.ID || fresh.RateLimit != 1000 || !slices.Equal(fresh.Hands, []string{"ann", "bob"}) ||
		!previous.ExpireTime.Equal(c.now().Add(time.Hour)) {
		t.Fatalf("%+v, %+v, %v", fresh, previous, err)
	}
	c.advance(time.Hour - 1)
	for _, token := range []string{oldSecret, secret.Reveal()} {
		if _, err := k.Authenticate(ctx, Presented{Token: token, Address: home}); err != nil {
			t.Errorf("in the overlap: %v", err)
		}
	}
	c.advance(1)
	if _, err := k.Authenticate(ctx, Presented{Token: oldSecret, Address: home}); !errors.Is(err, ErrExpired) {
		t.Errorf("after the overlap: %v", err)
	}
	if _, err := k.Authenticate(ctx, Presented{Token: secret.Reveal(), Address: home}); err != nil {
		t.Errorf("the new one: %v", err)
	}
	if _, _, _, err := k.Rotate(ctx, old.ID, "bob", nil, time.Hour); !fieldOf(err, "id") {
		t.Errorf("an ended token rotated: %v", err)
	}
	for _, overlap := range []time.Duration{-1, MaxOverlap + 1} {
		if _, _, _, err := k.Rotate(ctx, fresh.ID, "bob", nil, overlap); !fieldOf(err, "overlap") {
			t.Errorf("overlap %v: %v", overlap, err)
		}
	}
}

// The bootstrap token ends with the credential of the second operator of all tenants, in every process, and stays ended.
func TestBootstrapEnds(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	path := filepath.Join(t.TempDir(), OperatorFile)
	k := openKeeper(t, b, c)
	ctx := t.Context()
	if _, err := k.Bootstrap(ctx, path); err != nil {
		t.Fatal(err)
	}
	token := readToken(t, path)
	works := func(k *Keeper) error {
		_, err := k.Authenticate(ctx, Presented{Token: token, Address: loopback})
		return err
	}
	mustCreate(t, k, Grant{Account: "tenants", Role: Operator, Tenant: "acme"})
	mustCreate(t, k, Grant{Account: "sec", Role: Security})
	mustCreate(t, k, Grant{Account: "ann", Role: Operator})
	mustCreate(t, k, Grant{Account: "ann"})
	for _, name := range []string{"bob", "eve"} {
		if _, err := k.CreateAccount(ctx, Account{Name: name, Role: Operator}); err != nil {
			t.Fatal(err)
		}
	}
	if err := works(k); err != nil {
		t.Fatalf("one operator has credentials: %v", err)
	}
	other := openKeeper(t, b, c)
	bob, _ := mustCreate(t, k, Grant{Account: "bob", Lifetime: time.Hour})
	if err := works(k); !errors.Is(err, ErrBootstrapped) {
		t.Fatalf("two have: %v", err)
	}
	for works(other) == nil {
		if ctx.Err() != nil {
			t.Fatal("the other process never hears of it")
		}
	}
	if _, err := k.Revoke(ctx, bob.ID); err != nil || !errors.Is(works(k), ErrBootstrapped) {
		t.Fatalf("it came back: %v", works(k))
	}
	again := openKeeper(t, b, c)
	if made, err := again.Bootstrap(ctx, path); made || err != nil {
		t.Fatalf("started again: %v, %v", made, err)
	}
	if made, err := again.Bootstrap(ctx, path+".gone"); made || err != nil {
		t.Fatalf("without its file, while an operator's token is good: %v, %v", made, err)
	}
	// Where nobody is left, who has the machine gets an hour to make new credentials, and nothing else.
	c.advance(DefaultLifetime)
	if made, err := again.Bootstrap(ctx, path+".gone"); !made || err != nil {
		t.Fatalf("nobody is left: %v, %v", made, err)
	}
	rescue := Presented{Token: readToken(t, path+".gone"), Address: loopback}
	who, err := again.Authenticate(ctx, rescue)
	if err != nil || !who.May(TokensWrite) || who.May(EndpointsApprove) || who.May(EventsPublish) || who.May(EndpointsWrite) {
		t.Fatalf("%+v, %v", who, err)
	}
	c.advance(recoveryLife)
	if _, err := again.Authenticate(ctx, rescue); !errors.Is(err, ErrExpired) {
		t.Fatalf("after its hour: %v", err)
	}
}

func readToken(t *testing.T, path string) string {
	t.Helper()
	text, err := readFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

// Whoever had a credential in hand is no second pair of eyes to it, however long the chain.
func TestHands(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), newClock())
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), OperatorFile)
	if _, err := k.Bootstrap(ctx, path); err != nil {
		t.Fatal(err)
	}
	root, err := k.Authenticate(ctx, Presented{Token: readToken(t, path), Address: loopback})
	if err != nil {
		t.Fatal(err)
	}
	mint := func(by Caller, account string, role Role, tenant string) Caller {
		t.Helper()
		_, secret := mustCreate(t, k, Grant{Account: account, Role: role, Tenant: tenant, Creator: by.Account, Hands: k.HandsFor(by, tenant, account)})
		who, err := k.Authenticate(ctx, Presented{Token: secret, Address: home})
		if err != nil {
			t.Fatal(err)
		}
		return who
	}
	early := mint(root, "early", Partner, "acme")
	ann, bob := mint(root, "ann", Operator, ""), mint(root, "bob", Operator, "")
	puppet := mint(ann, "puppet", Operator, "")
	second := mint(puppet, "second", Operator, "")
	third := mint(puppet, "third", Partner, "acme")
	guest := mint(bob, "guest", Partner, "acme")
	for _, c := range []struct {
		a, b  Caller
		apart bool
	}{
		{ann, bob, true}, {ann, puppet, false}, {ann, second, false}, {second, third, false}, {ann, third, false}, {puppet, third, false},
		{bob, third, true}, {bob, puppet, true}, {bob, guest, false}, {ann, guest, true}, {early, root, true}, {early, ann, true}, {root, ann, true},
	} {
		if got := Apart(k.Hands(c.a), k.Hands(c.b)); got != c.apart {
			t.Errorf("%s and %s: apart %v; hands %v and %v", c.a.Account, c.b.Account, got, k.Hands(c.a), k.Hands(c.b))
		}
	}
	// What an account makes for itself adds nobody.
	if got := k.HandsFor(puppet, "", "puppet"); !slices.Equal(got, []string{"ann"}) {
		t.Errorf("of its own: %v", got)
	}
}

type cert struct {
	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newCert makes a client certificate, self-signed without an issuer, with a URI name where there is one.
func newCert(t testing.TB, c *clock, issuer *cert, uri string) cert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "client " + serial.String()}, NotBefore: c.now().Add(-time.Hour), NotAfter: c.now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if uri == "ca" {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	} else if uri != "" {
		for one := range strings.FieldsSeq(uri) {
			u, err := url.Parse(one)
			if err != nil {
				t.Fatal(err)
			}
			template.URIs = append(template.URIs, u)
		}
	}
	parent, signer := template, key
	if issuer != nil {
		parent, signer = issuer.leaf, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert{leaf, key}
}

// An account is known by a certificate's fingerprint, or by the SPIFFE ID in one that a trusted CA issued, and by nothing else of it.
func TestCertificates(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	ca, strangers := newCert(t, c, nil, "ca"), newCert(t, c, nil, "ca")
	roots := x509.NewCertPool()
	roots.AddCert(ca.leaf)
	k, err := Open(t.Context(), b, Options{Now: c.now, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	ctx := t.Context()
	if _, err := k.CreateAccount(ctx, Account{Name: "crm", Tenant: "acme", Role: Publisher}); err != nil {
		t.Fatal(err)
	}
	const id = "spiffe://corp.example/crm"
	pinned, ours := newCert(t, c, nil, ""), newCert(t, c, &ca, id)
	if _, err := k.AddCertificate(ctx, Certificate{Account: "crm", Tenant: "acme", SHA256: Fingerprint(pinned.leaf)}); err != nil {
		t.Fatal(err)
	}
	mapped, err := k.AddCertificate(ctx, Certificate{Account: "crm", Tenant: "acme", SpiffeID: id, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.AddCertificate(ctx, Certificate{Account: "crm", Tenant: "acme", SpiffeID: id}); !errors.Is(err, ErrExists) {
		t.Errorf("mapped twice: %v", err)
	}
	for field, bad := range map[string]Certificate{
		"account":  {Account: "nobody", Tenant: "acme", SHA256: strings.Repeat("a", 64)},
		"sha256":   {Account: "crm", Tenant: "acme"},
		"spiffeId": {Account: "crm", Tenant: "acme", SpiffeID: "spiffe://corp.example/../x"},
	} {
		if _, err := k.AddCertificate(ctx, bad); !fieldOf(err, field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	with := func(address string, chain ...*x509.Certificate) (Caller, error) {
		return k.Authenticate(ctx, Presented{Address: from(address), Chain: chain})
	}
	for name, one := range map[string]*x509.Certificate{"pinned": pinned.leaf, "by SPIFFE ID": ours.leaf, "another of the same id": newCert(t, c, &ca, id).leaf} {
		who, err := with("192.0.2.1", one)
		if err != nil || who.Account != "crm" || who.Tenant != "acme" || who.CredentialKind != string(KindCertificate) || !who.May(EventsPublish) || who.CertificateSHA256 != Fingerprint(one) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	for name, one := range map[string]*x509.Certificate{
		"of a strange CA": newCert(t, c, &strangers, id).leaf, "self-signed": newCert(t, c, nil, id).leaf, "of another id": newCert(t, c, &ca, id+"/x").leaf,
		"of two ids": newCert(t, c, &ca, id+" spiffe://corp.example/other").leaf, "without one": newCert(t, c, &ca, "").leaf, "the CA's own": ca.leaf,
	} {
		if _, err := with("192.0.2.1", one); !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := with("198.51.100.1", ours.leaf); !errors.Is(err, ErrAddress) {
		t.Errorf("from elsewhere: %v", err)
	}
	who, _ := with("192.0.2.1", ours.leaf)
	if _, err := k.RevokeCertificate(ctx, mapped.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := with("192.0.2.1", ours.leaf); !errors.Is(err, ErrCertRevoked) || !errors.Is(k.Live(who), ErrCertRevoked) {
		t.Errorf("revoked: %v, %v", err, k.Live(who))
	}
	who, _ = with("192.0.2.1", pinned.leaf)
	c.advance(time.Hour + time.Second)
	if _, err := with("192.0.2.1", pinned.leaf); !errors.Is(err, ErrCertExpired) || !errors.Is(k.Live(who), ErrCertExpired) {
		t.Errorf("expired: %v, %v", err, k.Live(who))
	}
}

// deaf is a bucket whose watch ends.
type deaf struct {
	Bucket
	cut chan struct{}
}

func (d *deaf) Watch(ctx context.Context, fn func(journal.Item) error) error {
	select {
	case <-d.cut:
		return errors.New("gone")
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-d.cut:
			cancel()
		case <-ctx.Done():
		}
	}()
	return d.Bucket.Watch(ctx, fn)
}

// A process that does not hear of revocations takes nobody.
func TestUnheardRefusesEverybody(t *testing.T) {
	t.Parallel()
	d := &deaf{openBucket(t), make(chan struct{})}
	k, err := Open(t.Context(), d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	_, secret := mustCreate(t, k, Grant{Account: "a", Role: Publisher, Tenant: "acme"})
	who, err := k.Authenticate(t.Context(), Presented{Token: secret, Address: home})
	if err != nil {
		t.Fatal(err)
	}
	close(d.cut)
	for ; !errors.Is(err, ErrUnheard); _, err = k.Authenticate(t.Context(), Presented{Token: secret, Address: home}) {
		if t.Context().Err() != nil {
			t.Fatal("it goes on without hearing")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := k.Live(who); !errors.Is(err, ErrUnheard) {
		t.Errorf("a call that lasts: %v", err)
	}
}

// A use shows at once here, is kept, and shows in another process; what was never used is told from what was.
func TestLastUse(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	reg := prometheus.NewRegistry()
	k, err := Open(t.Context(), b, Options{Now: c.now, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	ctx := t.Context()
	used, secret := mustCreate(t, k, Grant{Account: "a", Role: Publisher, Tenant: "acme", Lifetime: MaxLifetime})
	idle, _ := mustCreate(t, k, Grant{Account: "b", Role: Publisher, Tenant: "acme", Lifetime: MaxLifetime})
	c.advance(40 * 24 * time.Hour)
	if _, err := k.Authenticate(ctx, Presented{Token: secret, Address: home}); err != nil {
		t.Fatal(err)
	}
	if u := k.LastUse(used.ID); !u.Time.Equal(c.now()) || u.Address != home.Unmap() || !k.LastUse(idle.ID).Time.IsZero() {
		t.Errorf("%+v", u)
	}
	if k.Unused(used.ID, used.CreateTime, time.Hour) || !k.Unused(idle.ID, idle.CreateTime, 30*24*time.Hour) {
		t.Error("unused")
	}
	if err := k.SaveUses(ctx, false); err != nil {
		t.Fatal(err)
	}
	if u := openKeeper(t, b, c).LastUse(used.ID); !u.Time.Equal(c.now()) || u.Address != home.Unmap() {
		t.Errorf("in another process: %+v", u)
	}
	for metric, want := range map[string]float64{
		`sealpost_access_calls_total account=a credential=` + used.ID + ` kind=TOKEN tenant=acme`: 1,
		`sealpost_access_credentials kind=TOKEN state=unused`:                                     1,
		`sealpost_access_credentials kind=TOKEN state=used`:                                       1,
		`sealpost_access_accounts role=PUBLISHER state=enabled`:                                   2,
	} {
		if got := series(t, reg)[metric]; got != want {
			t.Errorf("%s: %v, want %v", metric, got, want)
		}
	}
	c.advance(MaxLifetime + purgeAfter)
	if n, err := k.Purge(ctx, c.now().Add(-time.Hour)); n != 2 || err != nil {
		t.Errorf("purged: %d, %v", n, err)
	}
}

// A record of before there were accounts is what it was: an unnarrowed one has all of its role, the operator's own is the bootstrap's.
func TestOldTokenRecords(t *testing.T) {
	t.Parallel()
	b, c := openBucket(t), newClock()
	ctx := t.Context()
	put := func(account string, role Role, tenant string, list []Scope, expires time.Time) string {
		token, secret := newToken(Grant{Account: account, Role: role, Tenant: tenant}, c.now())
		data, err := proto.Marshal(&sealpostv1.TokenRecord{
			Version: oldTokenVersion, Id: token.ID, Hash: token.hash[:], Account: account, Role: string(role), Tenant: tenant, Scopes: texts(list),
			CreateTime: nanos(c.now()), ExpireTime: nanos(expires), Creator: "operator",
		})
		if err == nil {
			_, err = b.Create(ctx, "token/"+token.ID, data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return secret.Reveal()
	}
	operator := put("operator", Operator, "", fullBefore[Operator], time.Time{})
	full := put("crm", Publisher, "acme", fullBefore[Publisher], c.now().Add(time.Hour))
	few := put("helper", Operator, "acme", []Scope{TokensWrite, EventsRead}, c.now().Add(time.Hour))
	k := openKeeper(t, b, c)
	if err := k.Adopt(ctx); err != nil {
		t.Fatal(err)
	}
	who, err := k.Authenticate(ctx, Presented{Token: operator, Address: loopback})
	if err != nil || who.CredentialKind != string(KindBootstrap) || !who.May(AccountsWrite) || !who.AllTenants() {
		t.Errorf("operator: %+v, %v", who, err)
	}
	if who, err = k.Authenticate(ctx, Presented{Token: full, Address: home}); err != nil || !who.May(EventsPublish) {
		t.Errorf("full: %+v, %v", who, err)
	}
	if who, err = k.Authenticate(ctx, Presented{Token: few, Address: home}); err != nil || !who.May(TokensRevoke) || !who.May(EventsRead) || who.May(EndpointsApprove) || who.May(AccountsWrite) {
		t.Errorf("few: %+v, %v", who, err)
	}
	if list := k.Accounts(); len(list) != 2 || list[0].Name != "crm" || list[1].Name != "helper" {
		t.Errorf("adopted: %+v", list)
	}
	if _, err := k.SetDisabled(ctx, "acme", "crm", true); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Authenticate(ctx, Presented{Token: full, Address: home}); !errors.Is(err, ErrDisabled) {
		t.Errorf("adopted and disabled: %v", err)
	}
}

// A person is who the provider says; a name that another has is not theirs.
func TestSignInAccounts(t *testing.T) {
	t.Parallel()
	k := openKeeper(t, openBucket(t), newClock())
	ctx := t.Context()
	ann := Account{Name: "ann@corp.example", Role: Auditor, Issuer: "https://id.example", Subject: "1"}
	token, secret, err := k.SignIn(ctx, ann, time.Hour)
	if err != nil || token.Kind != KindSession || len(token.Hands) != 0 {
		t.Fatalf("%+v, %v", token, err)
	}
	who, err := k.Authenticate(ctx, Presented{Token: secret.Reveal(), Address: home})
	if err != nil || who.Role != Auditor {
		t.Fatalf("%+v, %v", who, err)
	}
	ann.Role = Operator // the groups changed
	if _, _, err := k.SignIn(ctx, ann, time.Hour); err != nil {
		t.Fatal(err)
	}
	other := ann
	other.Subject = "2"
	if _, _, err := k.SignIn(ctx, other, time.Hour); !errors.Is(err, ErrExists) {
		t.Errorf("another person of the name: %v", err)
	}
	if _, _, err := k.Create(ctx, Grant{Account: ann.Name}); !fieldOf(err, "account") {
		t.Errorf("a token for a person: %v", err)
	}
	mustCreate(t, k, Grant{Account: "robot", Role: Operator})
	robot := ann
	robot.Name = "robot"
	if _, _, err := k.SignIn(ctx, robot, time.Hour); !errors.Is(err, ErrExists) {
		t.Errorf("a service's name: %v", err)
	}
}

func FuzzRecords(f *testing.F) {
	token, _ := newToken(Grant{Account: "a", Role: Partner, Tenant: "acme", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, time.Now())
	token.ExpireTime = time.Now()
	a := Account{Name: "a", Tenant: "acme", Role: Partner, Kind: Service}
	c := Certificate{Account: "a", Tenant: "acme", SpiffeID: "spiffe://a/b"}
	c.ID = certificateID("", c.SpiffeID)
	for _, one := range []interface{ encode() ([]byte, error) }{token, &a, &c} {
		data, err := one.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(token.ID, a.key(), c.ID, data)
	}
	f.Fuzz(func(t *testing.T, tokenID, account, certificate string, data []byte) {
		if got, err := decodeToken(tokenID, data); err == nil {
			again, err := got.encode()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := decodeToken(tokenID, again); err != nil || back.Account != got.Account || back.Kind != got.Kind || back.Bound != got.Bound || len(back.Prefixes) != len(got.Prefixes) {
				t.Fatalf("%+v became %+v, %v", got, back, err)
			}
		}
		if got, err := decodeAccount(account, data); err == nil {
			again, err := got.encode()
			if back, derr := decodeAccount(account, again); err != nil || derr != nil || back.Role != got.Role || back.Environment != got.Environment {
				t.Fatalf("%+v: %v, %v", got, err, derr)
			}
		}
		if got, err := decodeCertificate(certificate, data); err == nil {
			again, err := got.encode()
			if back, derr := decodeCertificate(certificate, again); err != nil || derr != nil || back.SpiffeID != got.SpiffeID || back.SHA256 != got.SHA256 {
				t.Fatalf("%+v: %v, %v", got, err, derr)
			}
		}
	})
}

func readFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	return string(text), err
}

// series are those of a registry by name and labels.
func series(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}
