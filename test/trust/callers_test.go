package trust_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/store"
	"github.com/sealpost/sealpost/test/rig"
)

// office is a Sealpost in this process, behind TLS on real sockets, with a clock that a test can put forward, and two operators who were
// appointed with the bootstrap token.
type office struct {
	t          *testing.T
	http, grpc string // host:port
	roots      *x509.CertPool
	ca         *rig.CA
	data       string
	ahead      *atomic.Int64 // of the clock
	log        *lines
	bootstrap  string // token
	ann, bob   string // tokens
}

// lines is a log that can be read.
type lines struct{ all atomic.Pointer[string] }

func (l *lines) Write(b []byte) (int, error) {
	for {
		old := l.all.Load()
		text := string(b)
		if old != nil {
			text = *old + text
		}
		if l.all.CompareAndSwap(old, &text) {
			return len(b), nil
		}
	}
}

func (l *lines) text() string {
	if s := l.all.Load(); s != nil {
		return *s
	}
	return ""
}

func openOffice(t *testing.T, more func(*app.Options)) *office {
	t.Helper()
	o := openBranch(t, more)
	token, err := os.ReadFile(filepath.Join(o.data, "operator.token"))
	if err != nil {
		t.Fatal(err)
	}
	o.bootstrap = strings.TrimSpace(string(token))
	o.ann, o.bob = o.token(o.bootstrap, object{"account": "ann", "role": "OPERATOR"}), o.token(o.bootstrap, object{"account": "bob", "role": "OPERATOR"})
	return o
}

// openBranch is an office without operators of its own.
func openBranch(t *testing.T, more func(*app.Options)) *office {
	t.Helper()
	o := &office{t: t, ca: rig.NewCA(t), data: t.TempDir(), ahead: &atomic.Int64{}, log: &lines{}, roots: x509.NewCertPool()}
	o.roots.AppendCertsFromPEM([]byte(o.ca.PEM()))
	options := app.Options{
		Data: o.data, GRPC: "127.0.0.1:0", HTTP: freeAddress(t), Admin: "127.0.0.1:0",
		Clock:  func() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) },
		Logger: slog.New(slog.NewTextHandler(o.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
		OpenView: func(ctx context.Context, url string, log *slog.Logger) (relay.Ledger, error) {
			return store.Open(ctx, url, store.Options{Logger: log})
		},
	}
	pair := t.TempDir()
	writePair(t, pair, o.ca.Issue(time.Now().Add(24*time.Hour)))
	options.TLS.Cert, options.TLS.Key = filepath.Join(pair, "tls.crt"), filepath.Join(pair, "tls.key")
	options.Journal.MinFreeDisk = -1
	options.Egress.Allow = loopback
	options.Onboarding.Proof = app.ProofOff // nobody is behind the endpoints of these tests
	if more != nil {
		more(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, options)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("it said:\n%s", o.log.text())
		}
	})
	<-ready
	o.http, o.grpc = a.Addresses()["http"].String(), a.Addresses()["grpc"].String()
	return o
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// object is a JSON object.
type object = rig.Object

// web is an HTTP client that shows a certificate, or none.
func (o *office) web(cert *tls.Certificate) *http.Client {
	conf := &tls.Config{RootCAs: o.roots}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: time.Minute}
}

// call makes a REST call.
func (o *office) call(client *http.Client, token, method, path string, body any) (int, object) {
	o.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			o.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(o.t.Context(), method, "https://"+o.http+path, in)
	if err != nil {
		o.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		o.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	out := object{}
	json.Unmarshal(raw, &out)
	if len(out) == 0 {
		out["text"] = string(raw)
	}
	return resp.StatusCode, out
}

// ok makes a REST call that must be answered with 200.
func (o *office) ok(token, method, path string, body any) object {
	o.t.Helper()
	status, out := o.call(o.web(nil), token, method, path, body)
	if status != http.StatusOK {
		o.t.Fatalf("%s %s: %d %v", method, path, status, out)
	}
	return out
}

// token makes one.
func (o *office) token(by string, grant object) string {
	o.t.Helper()
	return o.ok(by, "POST", "/v1/tokens", grant).S("secret")
}

// dial makes a gRPC connection that shows a certificate, or none, and a token, or none.
func (o *office) dial(token string, cert *tls.Certificate) *grpc.ClientConn {
	o.t.Helper()
	conf := &tls.Config{RootCAs: o.roots}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	with := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(conf))}
	if token != "" {
		with = append(with, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient(o.grpc, with...)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { conn.Close() })
	return conn
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// endpoint registers one that nothing is listening at.
func (o *office) endpoint(by, tenant string) string {
	o.t.Helper()
	return o.ok(by, "POST", "/v1/endpoints", newEndpoint(tenant)).S("endpoint", "id")
}

func newEndpoint(tenant string) object {
	return object{"tenant": tenant, "url": "https://127.0.0.1:9/hook", "owner": "ops@partner.example", "purpose": "tests", "environment": "PRODUCTION", "eventTypes": []string{"contact.*"}, "redaction": object{"mode": "NONE"}}
}

func (o *office) approve(by, id, tenant string) (int, object) {
	o.t.Helper()
	return o.call(o.web(nil), by, "POST", "/v1/endpoints/"+id+":approve", object{"tenant": tenant})
}

// TestFourEyes: nobody approves what they could have registered themselves, whichever accounts they make tokens for.
func TestFourEyes(t *testing.T) {
	t.Parallel()
	o := openOffice(t, nil)
	if status, out := o.call(o.web(nil), o.bootstrap, "GET", "/v1/endpoints", nil); status != http.StatusUnauthorized {
		t.Errorf("the bootstrap token, with two operators there: %d %v", status, out)
	}
	puppet := o.token(o.ann, object{"account": "puppet", "role": "OPERATOR"})
	wires := o.token(o.ann, object{"account": "strings", "role": "OPERATOR"})
	deep := o.token(puppet, object{"account": "deep", "role": "SECURITY"})
	guest := o.token(o.ann, object{"account": "guest", "role": "PARTNER", "tenant": "acme"})
	rotatedID := o.ok(puppet, "GET", "/v1/caller", nil).S("credentialId")
	rotated := o.ok(puppet, "POST", "/v1/tokens/"+rotatedID+":rotate", object{"overlap": "600s"}).S("secret")
	for _, c := range []struct {
		name               string
		registers, approve string
		want               int
	}{
		{"the registrant", o.ann, o.ann, 403},
		{"who has a token that the registrant made", o.ann, puppet, 403},
		{"the other way round", puppet, o.ann, 403},
		{"two accounts of one operator", puppet, wires, 403},
		{"by another token of that account, which it rotated to", o.ann, rotated, 403},
		{"two steps on", o.ann, deep, 403},
		{"the operator who let the partner in", guest, o.ann, 403},
		{"an account of the one who let the partner in", guest, deep, 403},
		{"another operator", o.ann, o.bob, 200},
		{"another operator, of a puppet's", puppet, o.bob, 200},
		{"another operator, of a partner's", guest, o.bob, 200},
		{"a puppet, of another operator's", o.bob, puppet, 200},
	} {
		id := o.endpoint(c.registers, "acme")
		if status, out := o.approve(c.approve, id, "acme"); status != c.want {
			t.Errorf("%s: %d %v, want %d", c.name, status, out, c.want)
		}
	}
}

// TestIssuedCertificate: an account calls with a certificate of the built-in CA, over both faces, until it is revoked; and the key of the CSR alone counts.
func TestIssuedCertificate(t *testing.T) {
	t.Parallel()
	o := openOffice(t, nil)
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "crm", "tenant": "acme", "role": "PUBLISHER"})
	id := o.issue("crm", "acme", time.Hour)
	me := o.who("", &id)
	if me.S("account") != "crm" || me.S("credentialKind") != "CERTIFICATE" || me.S("certificateSha256") != me.S("credentialId") || !strings.Contains(me.S("certificateSubject"), "crm") {
		t.Errorf("over REST: %v", me)
	}
	caller, err := sealpostv1.NewAccessServiceClient(o.dial("", &id)).GetCaller(t.Context(), &sealpostv1.GetCallerRequest{})
	if err != nil || caller.GetAccount() != "crm" || caller.GetRole() != sealpostv1.Token_PUBLISHER {
		t.Errorf("over gRPC: %v, %v", caller, err)
	}
	if uris := id.Leaf.URIs; len(uris) != 1 || uris[0].String() != "spiffe://sealpost/tenant/acme/account/crm" {
		t.Errorf("its name: %v", uris)
	}
	list := o.ok(o.ann, "GET", "/v1/certificates?tenant=acme", nil).L("certificates")
	if len(list) != 1 || list[0].S("lastUseAddress") != "127.0.0.1" || list[0].S("lastUseTime") == "" {
		t.Errorf("listed: %v", list)
	}
	o.ok(o.ann, "POST", "/v1/certificates/"+me.S("credentialId")+":revoke", object{"tenant": "acme"})
	if status, out := o.call(o.web(&id), "", "GET", "/v1/caller", nil); status != http.StatusUnauthorized || !strings.Contains(fmt.Sprint(out), "revoked") {
		t.Errorf("revoked: %d %v", status, out)
	}
}

// who is the caller as the server sees it.
func (o *office) who(token string, cert *tls.Certificate) object {
	o.t.Helper()
	status, out := o.call(o.web(cert), token, "GET", "/v1/caller", nil)
	if status != http.StatusOK {
		o.t.Fatalf("who: %d %v", status, out)
	}
	return out
}

// TestEndedEverywhere: what ends a credential at one process ends it at another that shares the journal, without its being asked.
func TestEndedEverywhere(t *testing.T) {
	t.Parallel()
	nats, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true,
		MaxPayload: 12 << 20, JetStreamMaxStore: 64 << 30, // it reserves what streams may take
	})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not come up")
	}
	shared := func(c *app.Options) {
		c.NATS.URL, c.NATS.Durability = nats.ClientURL(), "fsync"
		c.Journal.EventsMaxBytes, c.Journal.OutcomesMaxBytes, c.Journal.AuditMaxBytes = 1<<30, 1<<30, 1<<28
	}
	here, there := openOffice(t, shared), (*office)(nil)
	there = openBranch(t, func(c *app.Options) {
		shared(c)
		// Processes on one journal have their secrets in common.
		for _, name := range []string{"secrets.key", "ca"} {
			if err := copyAll(filepath.Join(here.data, name), filepath.Join(c.Data, name)); err != nil {
				t.Fatal(err)
			}
		}
	})
	if _, err := os.Stat(filepath.Join(there.data, "operator.token")); err == nil {
		t.Error("the second process made a bootstrap token, with two operators there")
	}
	status := func(token string) int {
		code, _ := there.call(there.web(nil), token, "GET", "/v1/caller", nil)
		return code
	}
	ends := map[string]func(id, token string){
		"revoked": func(id, _ string) { here.ok(here.ann, "POST", "/v1/tokens/"+id+":revoke", object{}) },
		"by hand": func(id, token string) { here.ok(token, "POST", "/v1/tokens/"+id+":revoke", object{}) },
		"disabled": func(string, string) {
			here.ok(here.ann, "POST", "/v1/accounts/disabled:disable", object{"tenant": "acme"})
		},
		"rotated": func(id, _ string) { here.ok(here.ann, "POST", "/v1/tokens/"+id+":rotate", object{"overlap": "0s"}) },
	}
	for name, end := range ends {
		made := here.ok(here.ann, "POST", "/v1/tokens", object{"account": strings.ReplaceAll(name, " ", "-"), "role": "PUBLISHER", "tenant": "acme"})
		token := made.S("secret")
		rig.Eventually(t, name+": the token is taken there", func() bool { return status(token) == http.StatusOK })
		end(made.S("token", "id"), token)
		began := time.Now()
		rig.Eventually(t, name+": it is refused there", func() bool { return status(token) == http.StatusUnauthorized })
		t.Logf("%s: refused by the other process after %v", name, time.Since(began))
	}
}

// copyAll copies a file, or a folder of files, for its owner's eyes.
func copyAll(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		text, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, text, 0o600)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, one := range names {
		if err := copyAll(filepath.Join(from, one.Name()), filepath.Join(to, one.Name())); err != nil {
			return err
		}
	}
	return nil
}
