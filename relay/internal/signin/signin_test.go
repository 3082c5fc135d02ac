package signin

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay"
)

// A person is sent back to their own machine and nowhere else.
func TestLoopbackRedirect(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"http://127.0.0.1:1234/callback": true, "http://[::1]:65535/callback": true, "http://127.9.9.9:1/callback": true,
		"https://127.0.0.1:1234/callback": false, "http://localhost:1234/callback": false, "http://127.0.0.1/callback": false, "http://127.0.0.1:0/callback": false,
		"http://192.0.2.1:1234/callback": false, "http://127.0.0.1:1234/": false, "http://127.0.0.1:1234/callback?x=1": false, "http://127.0.0.1:1234/callback#": false,
		"http://a@127.0.0.1:1234/callback": false, "http://127.0.0.1.evil.example:1234/callback": false, "http://evil.example/callback": false, "": false,
		"http://127.0.0.1:1234/callback/..": false, "http://127.0.0.1:01234/callback": false, "http://0177.0.0.1:1234/callback": false, "http://[::ffff:192.0.2.1]:80/callback": false,
	} {
		if got := loopbackRedirect(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzLoopbackRedirect(f *testing.F) {
	f.Add("http://127.0.0.1:1234/callback")
	f.Fuzz(func(t *testing.T, text string) {
		if loopbackRedirect(text) && !strings.HasPrefix(text, "http://127.") && !strings.HasPrefix(text, "http://[::1]:") && !strings.HasPrefix(text, "http://[::ffff:127.") && !strings.HasPrefix(text, "http://[::ffff:7f") {
			t.Errorf("%q is taken for this machine", text)
		}
	})
}

// What a client brings is checked before anything is asked of the provider.
func TestFieldsAreChecked(t *testing.T) {
	t.Parallel()
	p := New(Options{}) // it has no client: it would panic
	good := strings.Repeat("a", 43)
	for field, c := range map[string][4]string{
		"redirectUri":   {"http://evil.example/callback", good, good, good},
		"state":         {"http://127.0.0.1:1/callback", "short", good, good},
		"nonce":         {"http://127.0.0.1:1/callback", good, good + "=", good},
		"codeChallenge": {"http://127.0.0.1:1/callback", good, good, good + "a"},
	} {
		_, err := p.AuthURL(t.Context(), c[0], c[1], c[2], c[3])
		var bad relay.Invalid
		if !errors.As(err, &bad) || len(bad) != 1 || bad[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	for field, c := range map[string][4]string{
		"redirectUri":  {"http://evil.example/callback", "code", good, good},
		"code":         {"http://127.0.0.1:1/callback", "", good, good},
		"codeVerifier": {"http://127.0.0.1:1/callback", "code", good[1:], good},
		"nonce":        {"http://127.0.0.1:1/callback", "code", good, "short"},
	} {
		_, err := p.Exchange(t.Context(), c[0], c[1], c[2], c[3])
		var bad relay.Invalid
		if !errors.As(err, &bad) || len(bad) != 1 || bad[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// Groups to roles: the first mapping that fits; a name that is not verified, or that no account can have, is not used.
func TestPerson(t *testing.T) {
	t.Parallel()
	p := New(Options{
		GroupsClaim: "groups", NameClaim: "email", ValidName: func(s string) bool { return s != "" && !strings.Contains(s, " ") },
		Mappings: []Mapping{{Group: "ops", Role: "operator"}, {Group: "eyes", Role: "auditor", Tenant: "acme"}},
	})
	for name, c := range map[string]struct {
		claims     map[string]any
		role, name string
		err        error
	}{
		"first":           {map[string]any{"groups": []any{"eyes", "ops"}, "email": "a@x", "email_verified": true}, "operator", "a@x", nil},
		"one, as text":    {map[string]any{"groups": "eyes", "email": "a@x", "email_verified": true}, "auditor", "a@x", nil},
		"none":            {map[string]any{"groups": []any{"staff"}, "email": "a@x", "email_verified": true}, "", "a@x", ErrNoRole},
		"no claim":        {map[string]any{"email": "a@x", "email_verified": true}, "", "a@x", ErrNoRole},
		"of another form": {map[string]any{"groups": []any{1, map[string]any{"ops": true}}}, "", "person-", ErrNoRole},
		"not verified":    {map[string]any{"groups": []any{"ops"}, "email": "a@x"}, "operator", "person-", nil},
		"denied":          {map[string]any{"groups": []any{"ops"}, "email": "a@x", "email_verified": false}, "operator", "person-", nil},
		"no account's":    {map[string]any{"groups": []any{"ops"}, "email": "a x", "email_verified": true}, "operator", "person-", nil},
	} {
		got, err := p.person("https://id.example", "1", c.claims)
		if !errors.Is(err, c.err) || got.Role != c.role || !strings.HasPrefix(got.Name, c.name) || c.name != "person-" && got.Name != c.name {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	a, _ := p.person("https://id.example", "1", map[string]any{"groups": "ops"})
	b, _ := p.person("https://other.example", "1", map[string]any{"groups": "ops"})
	if a.Name == b.Name {
		t.Error("two people have one name")
	}
}
