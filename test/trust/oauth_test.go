package trust_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/app"
	"github.com/sealpost/sealpost/relay/client"
	"github.com/sealpost/sealpost/test/rig"
)

// issue has the server sign a certificate for an account.
func (o *office) issue(account, tenant string, ttl time.Duration) tls.Certificate {
	o.t.Helper()
	text := o.issuePEM(account, tenant, ttl)
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		o.t.Fatal(err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		o.t.Fatal(err)
	}
	return cert
}

func (o *office) issuePEM(account, tenant string, ttl time.Duration) []byte {
	o.t.Helper()
	key, request, err := client.NewRequest()
	if err != nil {
		o.t.Fatal(err)
	}
	answer := o.ok(o.ann, "POST", "/v1/certificates", object{"account": account, "tenant": tenant, "requestPem": request, "ttl": fmt.Sprintf("%ds", int(ttl.Seconds()))})
	text, err := client.IdentityPEM(answer.S("chainPem"), key)
	if err != nil {
		o.t.Fatal(err)
	}
	return text
}

// TestOAuth: a client known by its certificate gets a token that is good over that certificate alone; an independent client library does it.
func TestOAuth(t *testing.T) {
	t.Parallel()
	o := openOffice(t, func(c *app.Options) { c.Access.AccessTokenLife = 10 * time.Minute })
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "crm", "tenant": "acme", "role": "PUBLISHER"})
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "other", "tenant": "acme", "role": "PUBLISHER"})
	mine, others := o.issue("crm", "acme", time.Hour), o.issue("other", "acme", time.Hour)

	status, about := o.call(o.web(nil), "", "GET", "/.well-known/oauth-authorization-server", nil)
	if status != http.StatusOK || about.S("issuer") != "https://"+o.http || about["tls_client_certificate_bound_access_tokens"] != true {
		t.Fatalf("metadata: %d %v", status, about)
	}
	conf := clientcredentials.Config{ClientID: "acme/crm", TokenURL: about.S("token_endpoint"), Scopes: []string{"events.publish"}, AuthStyle: oauth2.AuthStyleInParams}
	got, err := conf.Token(context.WithValue(t.Context(), oauth2.HTTPClient, o.web(&mine)))
	if err != nil || got.TokenType != "Bearer" || !strings.HasPrefix(got.AccessToken, "spt_") || got.Extra("scope") != "events.publish" {
		t.Fatalf("%+v, %v", got, err)
	}
	if left := time.Until(got.Expiry); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("it lives for %v", left)
	}
	me := o.who(got.AccessToken, &mine)
	if me.S("account") != "crm" || me.S("credentialKind") != "ACCESS_TOKEN" || fmt.Sprint(me["scopes"]) != "[events.publish]" {
		t.Errorf("%v", me)
	}
	// RFC 8705, section 3: refused over another certificate, and over none; on both faces.
	for name, cert := range map[string]*tls.Certificate{"another certificate": &others, "none": nil} {
		if status, out := o.call(o.web(cert), got.AccessToken, "GET", "/v1/caller", nil); status != http.StatusUnauthorized || !strings.Contains(fmt.Sprint(out), "bound") {
			t.Errorf("REST over %s: %d %v", name, status, out)
		}
		if _, err := sealpostv1.NewAccessServiceClient(o.dial(got.AccessToken, cert)).GetCaller(t.Context(), &sealpostv1.GetCallerRequest{}); err == nil || !strings.Contains(err.Error(), "bound") {
			t.Errorf("gRPC over %s: %v", name, err)
		}
	}
	form := func(more ...string) url.Values {
		v := url.Values{"grant_type": {"client_credentials"}, "client_id": {"acme/crm"}}
		for i := 0; i < len(more); i += 2 {
			v[more[i]] = append(v[more[i]], more[i+1])
		}
		return v
	}
	with := func(v url.Values, name, value string) url.Values { v.Set(name, value); return v }
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		form   url.Values
		status int
		kind   string
	}{
		{"no certificate", nil, form(), 401, "invalid_client"},
		{"another's client_id", &others, form(), 401, "invalid_client"},
		{"a secret", &mine, form("client_secret", "x"), 401, "invalid_client"},
		{"no grant", &mine, with(form(), "grant_type", ""), 400, "invalid_request"},
		{"another grant", &mine, with(form(), "grant_type", "password"), 400, "unsupported_grant_type"},
		{"a parameter twice", &mine, form("grant_type", "client_credentials"), 400, "invalid_request"},
		{"a scope beyond the account's", &mine, form("scope", "endpoints.approve"), 400, "invalid_scope"},
		{"all scopes", &mine, form(), 200, ""},
	} {
		resp, err := o.web(c.cert).PostForm("https://"+o.http+"/oauth2/token", c.form)
		if err != nil {
			t.Fatal(err)
		}
		out := decode(t, resp)
		if resp.StatusCode != c.status || out.S("error") != c.kind || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", c.name, resp.StatusCode, out)
		}
	}
	// The certificate's end is the end of what is bound to it.
	o.ok(o.ann, "POST", "/v1/certificates/"+fingerprint(mine)+":revoke", object{"tenant": "acme"})
	if status, out := o.call(o.web(&mine), got.AccessToken, "GET", "/v1/caller", nil); status != http.StatusUnauthorized || !strings.Contains(fmt.Sprint(out), "revoked") {
		t.Errorf("the certificate is revoked: %d %v", status, out)
	}
}

// TestMappedCertificates: certificates of another CA, by fingerprint and by SPIFFE ID.
func TestMappedCertificates(t *testing.T) {
	t.Parallel()
	corp := newAuthority(t)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: corp.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := openOffice(t, func(c *app.Options) { c.Access.Roots = roots })
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "crm", "tenant": "acme", "role": "PUBLISHER"})
	const id = "spiffe://corp.example/crm"
	o.ok(o.ann, "POST", "/v1/certificates:map", object{"account": "crm", "tenant": "acme", "spiffeId": id})
	stranger := newAuthority(t)
	pinned := stranger.client(t, "spiffe://elsewhere.example/x")
	o.ok(o.ann, "POST", "/v1/certificates:map", object{"account": "crm", "tenant": "acme", "sha256": fingerprint(pinned)})
	for name, c := range map[string]struct {
		cert tls.Certificate
		want int
	}{
		"SPIFFE ID": {corp.client(t, id), 200}, "pinned": {pinned, 200}, "another SPIFFE ID": {corp.client(t, id+"2"), 401},
		"the SPIFFE ID of another CA": {stranger.client(t, id), 401},
	} {
		if status, out := o.call(o.web(&c.cert), "", "GET", "/v1/caller", nil); status != c.want {
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
}

// TestIdentityRenews: a publisher with a certificate of five minutes goes on over several renewals, and no event is refused or lost.
func TestIdentityRenews(t *testing.T) {
	t.Parallel()
	o := openOffice(t, nil)
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "crm", "tenant": "acme", "role": "PUBLISHER"})
	file := filepath.Join(t.TempDir(), "crm.pem")
	if err := client.WriteIdentity(file, o.issuePEM("crm", "acme", 5*time.Minute)); err != nil {
		t.Fatal(err)
	}
	identity, err := client.LoadIdentity(file)
	if err != nil {
		t.Fatal(err)
	}
	first := identity.Certificate()
	renewed := make(chan error, 100)
	c, err := client.New(client.Options{Target: o.grpc, TLS: &tls.Config{RootCAs: o.roots}, Identity: identity, OnRenew: func(err error) { renewed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	publisher := c.NewPublisher(client.PublisherOptions{})
	var kept, failed, sent atomic.Int64
	stop := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			err := publisher.Publish(context.Background(), relay.Event{Tenant: "acme", ID: fmt.Sprintf("e%d", i), Type: "contact.updated", Subject: "contact/1", Data: []byte(`{}`)}, func(_ client.Receipt, err error) {
				if err != nil {
					failed.Add(1)
					t.Errorf("refused: %v", err)
					return
				}
				kept.Add(1)
			})
			if err != nil {
				return
			}
			sent.Add(1)
		}
	}()
	before := identity.Certificate()
	for round := range 3 {
		mark := kept.Load()
		if err := c.RenewNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if identity.Certificate() == before {
			t.Fatalf("round %d: not renewed", round)
		}
		before = identity.Certificate()
		for kept.Load() < mark+200 {
			time.Sleep(time.Millisecond)
		}
	}
	// The first is of no use any more; who stayed with it would be refused.
	o.ok(o.ann, "POST", "/v1/certificates/"+fingerprint(*first)+":revoke", object{"tenant": "acme"})
	mark := kept.Load()
	for kept.Load() < mark+200 && failed.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	<-over
	if err := publisher.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept.Load() != sent.Load() || failed.Load() != 0 {
		t.Errorf("sent %d, kept %d, failed %d", sent.Load(), kept.Load(), failed.Load())
	}
	again, err := client.LoadIdentity(file)
	if err != nil || fingerprint(*again.Certificate()) != fingerprint(*before) {
		t.Errorf("the file has another one: %v", err)
	}
}

// TestIdentityRenewsByItself: what is past two thirds of its life is renewed without being asked for, once, and the file has the new one.
func TestIdentityRenewsByItself(t *testing.T) {
	t.Parallel()
	o := openOffice(t, nil)
	o.ok(o.ann, "POST", "/v1/accounts", object{"name": "crm", "tenant": "acme", "role": "PUBLISHER"})
	o.ahead.Store(int64(-3 * time.Minute)) // so what is issued is three minutes old
	file := filepath.Join(t.TempDir(), "crm.pem")
	if err := client.WriteIdentity(file, o.issuePEM("crm", "acme", 5*time.Minute)); err != nil {
		t.Fatal(err)
	}
	o.ahead.Store(0)
	identity, err := client.LoadIdentity(file)
	if err != nil {
		t.Fatal(err)
	}
	first := *identity.Certificate()
	renewed := make(chan error, 10)
	c, err := client.New(client.Options{Target: o.grpc, TLS: &tls.Config{RootCAs: o.roots}, Identity: identity, OnRenew: func(err error) { renewed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-renewed; err != nil {
		t.Fatal(err)
	}
	again, err := client.LoadIdentity(file)
	if err != nil || fingerprint(*again.Certificate()) == fingerprint(first) || fingerprint(*again.Certificate()) != fingerprint(*identity.Certificate()) {
		t.Fatalf("the file: %v", err)
	}
	if again.Certificate().Leaf.NotAfter.Before(first.Leaf.NotAfter) {
		t.Error("it does not live longer")
	}
	rig.Eventually(t, "it calls with the new one", func() bool {
		me, err := sealpostv1.NewAccessServiceClient(c.Conn()).GetCaller(t.Context(), &sealpostv1.GetCallerRequest{})
		return err == nil && me.GetCredentialId() == fingerprint(*identity.Certificate())
	})
}
