package control

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/signer"
)

// Every secret and payload carries a text that is easy to find. After acts that succeed and acts that are refused,
// it is in no log, error, audit record or printed value; the endpoints' secrets are in no file either.
func TestNothingShowsSecrets(t *testing.T) {
	t.Parallel()
	var dir string
	w := newWorld(t, func(_ *Options, jo *journal.Options) { dir = jo.Dir })
	ctx := t.Context()
	ann, op, bob := w.caller("ann", access.Partner, "acme"), w.caller("op", access.Operator, ""), w.caller("bob", access.Operator, "")

	const mark = "recognisable"
	secret := mark + "-signing-" + strings.Repeat("k", 40)
	spec := goodSpec()
	spec.Scheme, spec.Secret = string(signer.TimestampHMAC), relay.NewSecret(secret)
	spec.URL = "https://hooks.partner.example/" + mark + "?key=" + mark
	spec.Headers = []relay.Header{{Name: "X-Api-Key", Value: relay.NewSecret(mark + "-header")}}
	spec.Bearer = relay.NewSecret(mark + "-bearer")
	basic := spec
	basic.Secret = relay.NewSecret(secret + "-2")
	basic.Bearer, basic.BasicUser, basic.BasicPass = relay.Secret{}, "user", relay.NewSecret(mark+"-password")

	var said []string // errors, and values as they print
	say := func(v any, err error) {
		said = append(said, fmt.Sprintf("%v", err))
		said = append(said, fmt.Sprintf("%v %+v %#v", v, v, v))
	}
	made, err := w.CreateEndpoint(ctx, ann, spec, "r1")
	if err != nil || made.Secret.Reveal() != secret {
		t.Fatal("the secret is shown once, to who made it", err)
	}
	say(made.Secret, nil)
	say(made.Endpoint.Signer, nil)
	say(made.Endpoint.Headers, nil)
	say(made.Endpoint.Bearer, nil)
	second, err := w.CreateEndpoint(ctx, ann, basic, "")
	say(second.Endpoint.BasicPass, err)
	_, err = w.CreateEndpoint(ctx, ann, basic, "r1")
	say(nil, err)
	for _, broken := range []func(*Spec){
		func(s *Spec) { s.Secret = relay.NewSecret(mark + " " + mark) },
		func(s *Spec) { s.Headers[0].Value = relay.NewSecret(mark + "\n") },
		func(s *Spec) { s.Bearer = relay.NewSecret(mark + " x") },
		func(s *Spec) { s.BasicPass = relay.NewSecret(mark + "\x00") },
		func(s *Spec) { s.URL = "https://" + mark + ":" + mark + "@hooks.partner.example/" },
		func(s *Spec) { s.URL = "https://hooks.partner.example/%zz" + mark },
	} {
		s := basic
		s.Headers = append([]relay.Header(nil), s.Headers...)
		broken(&s)
		_, err := w.CreateEndpoint(ctx, ann, s, "")
		if err == nil {
			t.Error("a broken spec was taken")
		}
		say(nil, err)
	}
	ref := Ref{ID: made.Endpoint.ID}
	_, err = w.ApproveEndpoint(ctx, ann, ref)
	say(nil, err)
	_, err = w.ApproveEndpoint(ctx, bob, ref)
	say(nil, err)
	_, err = w.UpdateEndpoint(ctx, ann, ref, Spec{Bearer: relay.NewSecret(mark + "-bearer-2")}, []string{"bearerToken"})
	say(nil, err)
	_, _, err = w.TestEndpoint(ctx, ann, ref)
	say(nil, err)
	rotated, err := w.RotateSecret(ctx, ann, ref, Rotation{Secret: relay.NewSecret(secret + "-3")})
	say(rotated.Secret, err)
	_, err = w.RotateSecret(ctx, ann, ref, Rotation{Secret: relay.NewSecret(secret + "-3"), Revoke: true})
	say(nil, err)
	_, err = w.ActivateSecret(ctx, ann, ref)
	say(nil, err)
	_, err = w.RevokeSecret(ctx, ann, ref, secret, "")
	say(nil, err)

	token, text, err := w.CreateToken(ctx, op, access.Grant{Account: "crm", Role: access.Publisher, Tenant: "acme"})
	say(token, err)
	say(text, nil)
	crm, err := w.Access.Authenticate(ctx, access.Presented{Token: text.Reveal(), Address: op.Address})
	say(crm, err)
	_, err = w.Access.Authenticate(ctx, access.Presented{Token: text.Reveal() + "x", Address: op.Address})
	say(nil, err)
	for _, data := range []string{`{"ssn":"` + mark + `"}`, `{"` + mark + `":1,"` + mark + `":2}`, `{"` + mark, `"` + mark + "\xff\""} {
		for _, r := range w.publish(crm, event("e", func(e *relay.Event) { e.Data = []byte(data) })) {
			say(nil, r.Err)
		}
	}
	_, previews, err := w.PreviewEvent(ctx, crm, event("e", func(e *relay.Event) { e.Data = []byte(`{"ssn":"` + mark + `"}`) }))
	say(previews, err)
	w.view.events = []relay.EventStatus{{Tenant: "acme", ID: "e", Seq: 1}}
	if got, err := w.GetEvent(ctx, crm, "", "e"); err != nil || !bytes.Contains(got.Data, []byte(mark)) {
		t.Errorf("the publisher reads its own event: %v", err)
	}
	_, err = w.RevokeToken(ctx, crm, "", crm.CredentialID)
	say(nil, err)
	_, err = w.DeleteEndpoint(ctx, ann, ref)
	say(nil, err)

	tokenSecret := text.Reveal()[len(text.Reveal())-43:]
	find := func(where, in string) {
		for _, s := range []string{mark, tokenSecret} {
			if strings.Contains(in, s) {
				t.Errorf("%s shows a secret: %.300s", where, in)
			}
		}
	}
	find("the log", w.log.String())
	for _, s := range said {
		find("an error or value", s)
	}
	records := w.records()
	if len(records) < 15 {
		t.Errorf("only %d audit records", len(records))
	}
	for _, r := range records {
		find("the audit log", fmt.Sprintf("%+v", r))
	}
	atRest(t, dir, mark+"-header", mark+"-bearer", mark+"-password", mark+"-signing", tokenSecret)
}

func atRest(t *testing.T, dir string, secrets ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte("hooks.partner.example")) {
			files++
		}
		for _, s := range secrets {
			if bytes.Contains(content, []byte(s)) {
				t.Errorf("%s holds %s in the open", filepath.Base(path), s)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("looked into %d files that hold endpoints, %v", files, err)
	}
}
