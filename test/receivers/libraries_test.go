package receivers_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/receivers"
)

// TestLibraries holds the signer against the libraries of those whose formats it signs in.
func TestLibraries(t *testing.T) {
	t.Parallel()
	for _, language := range receivers.LibraryLanguages {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			receivers.Install(t, language)
			var requests []receivers.Stored
			var cases []libraryCase
			for _, scheme := range signer.Schemes() {
				if receivers.Libraries[scheme][language] == nil {
					continue
				}
				for _, c := range libraryCases(t, scheme) {
					cases = append(cases, c)
					requests = append(requests, c.stored)
				}
			}
			for i, said := range receivers.Ask(t, language, requests) {
				for _, s := range said {
					if s.Accepted != cases[i].good {
						t.Errorf("%s of %s, %s: accepted %v (%s)", s.Library, cases[i].stored.Scheme, cases[i].name, s.Accepted, s.Reason)
					}
				}
			}
		})
	}
}

// TestStandardWebhooksInGo is the same with the library that needs no process of its own.
func TestStandardWebhooksInGo(t *testing.T) {
	t.Parallel()
	for _, c := range libraryCases(t, signer.Standard) {
		w, err := standardwebhooks.NewWebhook(c.stored.Secret)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		for name, value := range c.stored.Fields {
			h.Set(name, value)
		}
		if err := w.Verify(c.stored.Body, h); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

type libraryCase struct {
	name   string
	stored receivers.Stored
	good   bool
}

// libraryCases are requests of a scheme, as they were signed and changed.
func libraryCases(t *testing.T, scheme signer.Scheme) []libraryCase {
	t.Helper()
	const url = "https://hooks.partner.example/crm?tenant=acme&x=%20"
	const text = `{"id":"evt_1","type":"contact.updated","data":{"z":1.50,"a":"Zoë 漢字 \u00e9","n":12345678901234567890}}`
	key, other := newKey(t, scheme), newKey(t, scheme)
	facts := scheme.Facts()
	signed := func(trusted signer.Key, age time.Duration, keys ...signer.Key) receivers.Stored {
		ring, err := signer.NewKeyring(keys[0], keys[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		s, err := signer.NewSigner(scheme, ring)
		if err != nil {
			t.Fatal(err)
		}
		// What Shopify's library asks for and is the same for all deliveries is a static header of the endpoint.
		h := http.Header{"X-Shopify-Shop-Domain": {"acme.example"}, "X-Shopify-Api-Version": {"2026-01"}}
		m := signer.Message{ID: "evt_1", Time: time.Now().Add(-age), Method: http.MethodPost, URL: url, Type: "contact.updated", Body: []byte(text)}
		if _, err := s.Sign(h, &m); err != nil {
			t.Fatal(err)
		}
		return receivers.NewStored(scheme, receivers.Half(trusted), url, h, []byte(text))
	}
	tampered := signed(key, 0, key)
	tampered.Body = []byte(strings.Replace(text, "1.50", "1.51", 1))
	cases := []libraryCase{
		{"signed", signed(key, 0, key), true},
		{"signed a minute ago", signed(key, time.Minute, key), true},
		{"in a rotation, with the current key", signed(key, 0, key, other), true},
		{"in a rotation, with the other key", signed(other, 0, key, other), facts.CarriesTwoSignatures},
		{"six minutes old", signed(key, 6*time.Minute, key), facts.Replayable},
		{"another partner's key", signed(key, 0, other), false},
		{"the body tampered", tampered, false},
	}
	retimed := signed(key, 0, key)
	h := http.Header{}
	for name, value := range retimed.Fields {
		h.Set(name, value)
	}
	if receivers.ChangeTime(scheme, h) {
		cases = append(cases, libraryCase{"the time tampered", receivers.NewStored(scheme, retimed.Secret, url, h, retimed.Body), false})
	}
	if facts.CoversTarget {
		moved := signed(key, 0, key)
		moved.URL += "x"
		cases = append(cases, libraryCase{"another URL", moved, false})
	}
	return cases
}
