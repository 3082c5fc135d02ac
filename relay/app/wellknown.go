package app

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/sealpost/sealpost/signer"
)

// withWellKnown puts what partners need, and may have without a token, in front of the API: the CA of our client
// certificates, and the public keys that an endpoint's deliveries verify with (RFC 7517).
func (a *App) withWellKnown(api http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/sealpost-ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		public(w, "application/x-pem-file")
		w.Write(a.ca.RootsPEM())
	})
	mux.HandleFunc("GET /.well-known/jwks/{file}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutSuffix(r.PathValue("file"), ".json")
		keys, err := a.control.EndpointKeys(id)
		if !ok || err != nil {
			http.NotFound(w, r)
			return
		}
		public(w, "application/jwk-set+json")
		json.NewEncoder(w).Encode(struct {
			Keys []signer.JWK `json:"keys"`
		}{keys})
	})
	mux.Handle("/", api)
	return mux
}

// public sets the headers of what anybody may read and keep for a while: much shorter than any overlap of keys.
func public(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
}
