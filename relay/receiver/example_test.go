package receiver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"

	"github.com/sealpost/sealpost/relay/receiver"
	"github.com/sealpost/sealpost/signer"
)

// A partner's whole receiver: give it the secret that came with the endpoint, and serve it over TLS.
func Example() {
	key, err := signer.ParseKey(signer.Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=")
	if err != nil {
		log.Fatal(err)
	}
	verifier, err := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})
	if err != nil {
		log.Fatal(err)
	}
	hook, err := receiver.New(receiver.Options{
		Verifier: verifier,
		OnEvent: func(_ context.Context, d receiver.Delivery) error {
			var event struct {
				Type string          `json:"type"`
				Data json.RawMessage `json:"data"`
			}
			if err := json.Unmarshal(d.Body, &event); err != nil {
				return fmt.Errorf("%w: %w", receiver.ErrRejected, err) // repeating it would not help
			}
			fmt.Println("delivery", d.ID, "brings", event.Type)
			return nil // or an error, and Sealpost brings it again
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /crm", hook)

	fmt.Println(exampleDelivery(mux, key))
	// Output:
	// delivery dlv_example brings contact.updated
	// 204
}
