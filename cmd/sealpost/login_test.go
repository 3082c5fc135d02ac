package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/sealpost/sealpost/relay/app"
)

// provider is an OpenID provider: zitadel's, with its example's people, of whom the first is in a group.
type provider struct {
	*httptest.Server
	caFile string
	roots  *x509.CertPool

	mu     sync.Mutex
	groups map[string][]string // by subject
}

// people adds groups to what the provider tells of a person.
type people struct {
	*storage.Storage
	p *provider
}

func (s people) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	if err := s.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin); err != nil {
		return err
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	info.AppendClaims("groups", s.p.groups[subject])
	return nil
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{Server: httptest.NewUnstartedServer(nil), groups: map[string][]string{"id1": {"everyone", "sealpost-security"}}}
	issuer := "https://" + p.Listener.Addr().String()
	storage.RegisterClients(storage.NativeClient("sealpost", "http://127.0.0.1/callback"))
	p.Config.Handler = exampleop.SetupServer(issuer, people{storage.NewStorage(storage.NewUserStore(issuer)), p}, nil, false)
	p.StartTLS()
	t.Cleanup(p.Close)
	p.caFile, p.roots = filepath.Join(t.TempDir(), "idp.pem"), x509.NewCertPool()
	p.roots.AddCert(p.Certificate())
	if err := os.WriteFile(p.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// browse does what a person does in the browser: opens the page, signs in, and is sent back.
func (p *provider) browse(t *testing.T, where, user string) {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots}, DisableKeepAlives: true}}
	page, err := browser.Get(where)
	if err != nil {
		t.Error(err)
		return
	}
	page.Body.Close()
	id := page.Request.URL.Query().Get("authRequestID")
	back, err := browser.PostForm(p.URL+"/login/username", url.Values{"username": {user}, "password": {"verysecure"}, "id": {id}})
	if err != nil {
		t.Error(err)
		return
	}
	defer back.Body.Close()
	if text, _ := io.ReadAll(back.Body); back.Request.URL.Path != "/callback" || back.StatusCode != http.StatusOK {
		t.Errorf("sent back to %s: %d %.200s", back.Request.URL.Redacted(), back.StatusCode, text)
	}
}

// watched is what a command says, and tells of the address in it.
type watched struct {
	mu    sync.Mutex
	text  bytes.Buffer
	found chan string
}

var address = regexp.MustCompile(`(?m)^https://\S+$`)

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	if at := address.FindString(w.text.String()); at != "" {
		offer(w.found, at)
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// login runs the command, with a person in front of it.
func (p *provider) login(t *testing.T, clientFile, user string) (status int, out, said string) {
	t.Helper()
	var result bytes.Buffer
	errs := &watched{found: make(chan string, 1)}
	done := make(chan int, 1)
	go func() {
		done <- execute(t.Context(), []string{"login", "--no-browser", "--client-file", clientFile, "--output", "json"}, nil, &result, errs)
	}()
	select {
	case at := <-errs.found:
		p.browse(t, at, user)
		status = <-done
	case status = <-done:
	}
	return status, result.String(), errs.String()
}

// serveFor runs a server that knows the provider.
func serveFor(t *testing.T, p *provider, allow ...netip.Prefix) (clientFile string) {
	t.Helper()
	o := app.Options{
		Data: t.TempDir(), GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0", OpenView: openView,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	o.Journal.MinFreeDisk = -1
	o.Egress.Allow = allow
	o.Access.OIDC = app.OIDC{Issuer: p.URL, ClientID: "sealpost", CA: p.caFile, Roles: []app.GroupRole{
		{Group: "sealpost-operators", Role: "operator"}, {Group: "sealpost-security", Role: "security"},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, o)
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
	})
	<-ready
	if err := writeClientFiles(a, o); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(o.Data, clientFileName)
}

// TestLogin: a person signs in at a real provider, through the command and a browser, and is who their groups say; who is in none is nobody.
func TestLogin(t *testing.T) {
	p := newProvider(t)
	file := serveFor(t, p, netip.MustParsePrefix("127.0.0.0/8"))
	user := "test-user@127.0.0.1"
	status, out, said := p.login(t, file, user)
	var made struct {
		Token  struct{ Account, Role, Kind string }
		Secret string
	}
	if json.Unmarshal([]byte(out), &made); status != 0 || made.Token.Account != "test-user@zitadel.ch" || made.Token.Role != "SECURITY" || made.Token.Kind != "SESSION" || made.Secret != "" {
		t.Fatalf("%d\n%s\n%s", status, out, said)
	}
	if info, err := os.Stat(filepath.Join(filepath.Dir(file), loginTokenName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info, err)
	}
	// The other commands call as that person from then on.
	var me, errs bytes.Buffer
	if status := execute(t.Context(), []string{"whoami", "--client-file", file}, nil, &me, &errs); status != 0 || !strings.Contains(me.String(), "test-user@zitadel.ch") || !strings.Contains(me.String(), "SESSION") {
		t.Errorf("whoami: %d %s %s", status, me.String(), errs.String())
	}
	// What the person may do follows the groups.
	p.mu.Lock()
	p.groups["id1"] = []string{"sealpost-operators"}
	p.mu.Unlock()
	if status, out, said := p.login(t, file, user); status != 0 || !strings.Contains(out, `"OPERATOR"`) {
		t.Errorf("in another group: %d\n%s\n%s", status, out, said)
	}
	if status, out, said := p.login(t, file, "test-user2"); status != exitFailed || !strings.Contains(said, "no group") || out != "" {
		t.Errorf("in no group: %d\n%s\n%s", status, out, said)
	}
}

// TestLoginThroughTheGuard: the provider is not spoken to where the egress guard does not let us.
func TestLoginThroughTheGuard(t *testing.T) {
	p := newProvider(t)
	if status, _, said := p.login(t, serveFor(t, p), "test-user@127.0.0.1"); status != exitFailed || strings.Contains(said, "https://") || !strings.Contains(said, "unavailable") {
		t.Errorf("%d\n%s", status, said)
	}
}
