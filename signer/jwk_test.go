package signer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// setOf is a key set of public halves, as it is published.
func setOf(t testing.TB, keys ...Key) string {
	t.Helper()
	var set struct {
		Keys []JWK `json:"keys"`
	}
	for _, k := range keys {
		jwk, ok := k.JWK()
		if !ok {
			t.Fatal("no public half")
		}
		set.Keys = append(set.Keys, jwk)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newKeyOf(t testing.TB, s Scheme) Key {
	t.Helper()
	k, err := GenerateKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestParseJWKS(t *testing.T) {
	t.Parallel()
	for _, s := range []Scheme{StandardEd25519, RFC9421, RSASHA256} {
		one, two := newKeyOf(t, s), newKeyOf(t, s)
		keys, err := ParseJWKS(s, []byte(setOf(t, one, two)))
		if err != nil || len(keys) != 2 || keys[0].ID() != one.ID() || keys[1].PEM() != two.PublicPEM() {
			t.Errorf("%s: %v, %v", s, keys, err)
		}
	}
	// The example of RFC 8037, appendix A.2, and its thumbprint's key: others are passed over.
	const rfc = `{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"},{"kty":"OKP","crv":"X25519","x":"a"},{"kty":"oct","k":"a"},
		{"kty":"OKP","crv":"Ed25519","use":"enc","x":"a"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	keys, err := ParseJWKS(StandardEd25519, []byte(rfc))
	if err != nil || len(keys) != 1 || keys[0].Text() != "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=" {
		t.Errorf("%v, %v", keys, err)
	}
}

func TestParseJWKSRefuses(t *testing.T) {
	t.Parallel()
	x := func(x string) string { return fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q}]}`, x) }
	rsa := func(n, e string) string { return fmt.Sprintf(`{"keys":[{"kty":"RSA","n":%q,"e":%q}]}`, n, e) }
	long := strings.Repeat("_", 342) + "w" // 257 bytes
	for _, one := range []struct {
		scheme Scheme
		text   string
	}{
		{StandardEd25519, ""}, {StandardEd25519, "[]"}, {StandardEd25519, `{}`}, {StandardEd25519, `{"keys":[]}`}, {StandardEd25519, x("")},
		{StandardEd25519, x(strings.Repeat("A", 42))}, {StandardEd25519, x(strings.Repeat("A", 43) + "=")}, {StandardEd25519, x(strings.Repeat("A", 42) + "B")},
		{StandardEd25519, x(strings.Repeat("A", 20) + "\n" + strings.Repeat("A", 23))}, {StandardEd25519, x(strings.Repeat("A", 43)) + "{}"},
		{StandardEd25519, `{"keys":[` + strings.Repeat(`{},`, 64) + `{}]}`}, {StandardEd25519, strings.Repeat(" ", MaxJWKSBytes) + x(strings.Repeat("A", 43))},
		{RSASHA256, rsa("", "AQAB")}, {RSASHA256, rsa("AQAB", "AQAB")}, {RSASHA256, rsa(long, "")}, {RSASHA256, rsa(long, "AQ")}, {RSASHA256, rsa(long, "AQAA")},
		{RSASHA256, rsa(long, "_____w")}, {RSASHA256, setOf(t, newKeyOf(t, StandardEd25519))}, {Standard, setOf(t, newKeyOf(t, StandardEd25519))},
		{"none", x(strings.Repeat("A", 43))},
	} {
		if keys, err := ParseJWKS(one.scheme, []byte(one.text)); !errors.Is(err, ErrKeySet) && !errors.Is(err, ErrScheme) && !errors.Is(err, ErrKey) || len(keys) > 0 {
			t.Errorf("%s %.60s: %v, %v", one.scheme, one.text, keys, err)
		}
	}
}

// FuzzParseJWKS: the keys of an accepted set make a set that is read as the same.
func FuzzParseJWKS(f *testing.F) {
	f.Add(setOf(f, newKeyOf(f, StandardEd25519)))
	f.Add(setOf(f, newKeyOf(f, RSASHA256)))
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []Scheme{StandardEd25519, RSASHA256} {
			keys, err := ParseJWKS(s, []byte(text))
			if err != nil {
				continue
			}
			var set struct {
				Keys []JWK `json:"keys"`
			}
			for _, k := range keys {
				jwk, _ := k.JWK()
				set.Keys = append(set.Keys, jwk)
			}
			again, err := json.Marshal(set)
			if err != nil {
				t.Fatal(err)
			}
			same, err := ParseJWKS(s, again)
			if err != nil || len(same) != len(keys) {
				t.Fatalf("%d keys, then %d: %v", len(keys), len(same), err)
			}
			for i := range keys {
				if same[i].ID() != keys[i].ID() {
					t.Fatal("another key")
				}
			}
		}
	})
}
