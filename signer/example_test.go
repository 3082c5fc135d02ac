package signer_test

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// Secrets of these examples; a real one is handed over once, at registration.
const (
	exampleSecret = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
	exampleText   = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"
)

func ExampleSigner_Sign() {
	key, err := signer.ParseKey(signer.Standard, exampleSecret)
	if err != nil {
		panic(err)
	}
	ring, err := signer.NewKeyring(key)
	if err != nil {
		panic(err)
	}
	s, err := signer.NewSigner(signer.Standard, ring)
	if err != nil {
		panic(err)
	}
	header := http.Header{}
	_, err = s.Sign(header, &signer.Message{
		ID:   "evt_1",
		Time: time.Unix(1767323045, 0),
		Body: []byte(`{"type":"contact.updated"}`),
	})
	fmt.Println(err)
	fmt.Println("webhook-id:", header.Get("webhook-id"))
	fmt.Println("webhook-timestamp:", header.Get("webhook-timestamp"))
	fmt.Println("webhook-signature:", header.Get("webhook-signature"))
	// Output:
	// <nil>
	// webhook-id: evt_1
	// webhook-timestamp: 1767323045
	// webhook-signature: v1,86XB2lHhQ22XMjFaf7O/M9E13yczxETVGF6DROi8GDo=
}

func ExampleSigner_Sign_rotation() {
	previous, _ := signer.GenerateKey(signer.Standard)
	current, _ := signer.GenerateKey(signer.Standard)
	ring, err := signer.NewKeyring(current, previous)
	if err != nil {
		panic(err)
	}
	s, _ := signer.NewSigner(signer.Standard, ring)
	m := signer.Message{ID: "evt_1", Time: time.Now(), Body: []byte("{}")}
	header := http.Header{}
	s.Sign(header, &m)
	// A receiver verifies with whichever key it holds.
	for _, key := range ring.Keys() {
		v, _ := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})
		_, err := v.Verify(header, signer.Request{Body: m.Body}, time.Now())
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
}

// A receiver of the scheme "standard".
func ExampleVerifier_Verify_standard() {
	key, _ := signer.ParseKey(signer.Standard, exampleSecret)
	v, _ := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})

	header, body := received(signer.Standard, key)
	delivery, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(delivery.ID, err)

	_, err = v.Verify(header, signer.Request{Body: []byte("{}")}, time.Now())
	fmt.Println(errors.Is(err, signer.ErrSignature))
	// Output:
	// evt_1 <nil>
	// true
}

// A receiver of the scheme "standard-ed25519" holds the public key only.
func ExampleVerifier_Verify_standardEd25519() {
	private, _ := signer.GenerateKey(signer.StandardEd25519)

	public, _ := signer.ParsePublicKey(signer.StandardEd25519, private.PublicText())
	v, _ := signer.NewVerifier(signer.StandardEd25519, []signer.VerifyingKey{public})
	header, body := received(signer.StandardEd25519, private)
	delivery, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(delivery.ID, err)
	// Output: evt_1 <nil>
}

// A receiver of the scheme "rfc9421" also gives the method and the URL.
func ExampleVerifier_Verify_rfc9421() {
	private, _ := signer.GenerateKey(signer.RFC9421)

	public, _ := signer.ParsePublicKey(signer.RFC9421, private.PublicPEM())
	v, _ := signer.NewVerifier(signer.RFC9421, []signer.VerifyingKey{public})
	header, body := received(signer.RFC9421, private)
	request := signer.Request{Method: "POST", URL: "https://hooks.partner.example/crm", Body: body}
	delivery, err := v.Verify(header, request, time.Now())
	fmt.Println(delivery.ID, err)
	// Output: evt_1 <nil>
}

// A receiver of the scheme "timestamp-hmac".
func ExampleVerifier_Verify_timestampHMAC() {
	key, _ := signer.ParseKey(signer.TimestampHMAC, exampleText)
	v, _ := signer.NewVerifier(signer.TimestampHMAC, []signer.VerifyingKey{key})
	header, body := received(signer.TimestampHMAC, key)
	_, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// A receiver of the scheme "timestamp-hmac-256".
func ExampleVerifier_Verify_timestampHMAC256() {
	key, _ := signer.ParseKey(signer.TimestampHMAC256, exampleText)
	v, _ := signer.NewVerifier(signer.TimestampHMAC256, []signer.VerifyingKey{key})
	header, body := received(signer.TimestampHMAC256, key)
	_, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// A receiver of the scheme "rsa-sha256" holds the public key only.
func ExampleVerifier_Verify_rsaSHA256() {
	private, _ := signer.GenerateKey(signer.RSASHA256)

	public, _ := signer.ParsePublicKey(signer.RSASHA256, private.PublicPEM())
	v, _ := signer.NewVerifier(signer.RSASHA256, []signer.VerifyingKey{public})
	header, body := received(signer.RSASHA256, private)
	_, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// A receiver of the scheme "hubspot-v3".
func ExampleVerifier_Verify_hubSpotV3() {
	key, _ := signer.ParseKey(signer.HubSpotV3, exampleText)
	v, _ := signer.NewVerifier(signer.HubSpotV3, []signer.VerifyingKey{key})
	header, body := received(signer.HubSpotV3, key)
	_, err := v.Verify(header, signer.Request{Method: "POST", URL: "https://hooks.partner.example/crm", Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// A receiver of the scheme "stripe".
func ExampleVerifier_Verify_stripe() {
	key, _ := signer.ParseKey(signer.Stripe, exampleText)
	v, _ := signer.NewVerifier(signer.Stripe, []signer.VerifyingKey{key})
	header, body := received(signer.Stripe, key)
	_, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// A receiver of the scheme "github", which signs no time: remember the ReplayKey of what was handled.
func ExampleVerifier_Verify_gitHub() {
	key, _ := signer.ParseKey(signer.GitHub, exampleText)
	v, _ := signer.NewVerifier(signer.GitHub, []signer.VerifyingKey{key})
	header, body := received(signer.GitHub, key)
	delivery, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(delivery.ReplayKey[:8], delivery.Time.IsZero(), err)
	// Output: e06e146e true <nil>
}

// A receiver of the scheme "shopify", which signs no time: remember the ReplayKey of what was handled.
func ExampleVerifier_Verify_shopify() {
	key, _ := signer.ParseKey(signer.Shopify, exampleText)
	v, _ := signer.NewVerifier(signer.Shopify, []signer.VerifyingKey{key})
	header, body := received(signer.Shopify, key)
	delivery, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(delivery.ReplayKey[:8], delivery.Time.IsZero(), err)
	// Output: e06e146e true <nil>
}

// A receiver of the scheme "slack".
func ExampleVerifier_Verify_slack() {
	key, _ := signer.ParseKey(signer.Slack, exampleText)
	v, _ := signer.NewVerifier(signer.Slack, []signer.VerifyingKey{key})
	header, body := received(signer.Slack, key)
	_, err := v.Verify(header, signer.Request{Body: body}, time.Now())
	fmt.Println(err)
	// Output: <nil>
}

// received stands for the network: a delivery signed just now.
func received(scheme signer.Scheme, key signer.Key) (http.Header, []byte) {
	ring, err := signer.NewKeyring(key)
	if err != nil {
		panic(err)
	}
	s, err := signer.NewSigner(scheme, ring)
	if err != nil {
		panic(err)
	}
	header, body := http.Header{}, []byte(`{"type":"contact.updated"}`)
	_, err = s.Sign(header, &signer.Message{
		ID: "evt_1", Time: time.Now(), Method: "POST", URL: "https://hooks.partner.example/crm", Body: body,
	})
	if err != nil {
		panic(err)
	}
	return header, body
}
