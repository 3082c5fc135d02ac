package app

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/api"
	"github.com/sealpost/sealpost/signer"
)

// withWellKnown puts what partners need, and may have without a token, in front of the API.
func (a *App) withWellKnown(rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	a.wellKnown(mux)
	mux.Handle("/", rest)
	return strict(mux)
}

// publicOnly serves what anybody may have, and nothing else.
func (a *App) publicOnly() http.Handler {
	mux := http.NewServeMux()
	a.wellKnown(mux)
	return strict(mux)
}

// strict has browsers come by TLS alone from now on, where this is TLS (RFC 6797).
func strict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			w.Header().Set("Strict-Transport-Security", api.StrictTransportSecurity)
		}
		next.ServeHTTP(w, r)
	})
}

// wellKnown serves what anybody may have: the CA of our client certificates, and the public keys that an endpoint's deliveries
// verify with (RFC 7517).
func (a *App) wellKnown(mux *http.ServeMux) {
	mux.HandleFunc("GET /.well-known/sealpost-ca.pem", func(w http.ResponseWriter, r *http.Request) {
		public(w, r, "application/x-pem-file", 5*time.Minute, a.ca.RootsPEM())
	})
	mux.HandleFunc("GET /.well-known/jwks/{file}", func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutSuffix(r.PathValue("file"), ".json")
		keys, age, err := a.control.EndpointKeys(id)
		if !ok || err != nil {
			http.NotFound(w, r)
			return
		}
		text, err := json.Marshal(struct {
			Keys []signer.JWK `json:"keys"`
		}{keys})
		if err != nil {
			http.Error(w, "keys cannot be shown", http.StatusInternalServerError)
			return
		}
		public(w, r, "application/jwk-set+json", age, text)
	})
}

// public answers with what anybody may read and keep for a while, or that what they kept is still the same (RFC 9110 section 13).
func public(w http.ResponseWriter, r *http.Request, contentType string, age time.Duration, content []byte) {
	sum := sha256.Sum256(content)
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(age.Seconds())))
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
