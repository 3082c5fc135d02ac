package receiver_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// exampleDelivery sends what Sealpost would send, and returns the status of the answer.
func exampleDelivery(to http.Handler, key signer.Key) int {
	body := `{"type":"contact.updated","timestamp":"2026-01-02T03:04:05Z","id":"evt_1","tenant":"acme","data":{}}`
	r := httptest.NewRequest(http.MethodPost, "https://partner.example/crm", strings.NewReader(body))
	ring, _ := signer.NewKeyring(key)
	s, _ := signer.NewSigner(key.Scheme(), ring)
	s.Sign(r.Header, &signer.Message{ID: "dlv_example", Time: time.Now(), ContentType: "application/json", Body: []byte(body)})
	w := httptest.NewRecorder()
	to.ServeHTTP(w, r)
	return w.Code
}
