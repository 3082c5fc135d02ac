package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
)

// Where OAuth clients look (RFC 6749 section 3.2, RFC 8414 section 3).
const (
	tokenPath    = "/oauth2/token"
	metadataPath = "/.well-known/oauth-authorization-server"
	maxForm      = 16 << 10 // bytes
)

// OAuth configures the token endpoint: client credentials alone (RFC 6749, section 4.4), for clients that authenticate by mutual TLS
// and get tokens bound to their certificates (RFC 8705).
type OAuth struct {
	// Issuer is the URL that clients know the REST face by, without a path; "" for no endpoint.
	Issuer string
	// Life of a token; 0 is control's default.
	Life time.Duration
}

// oauthError is RFC 6749, section 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// oauthToken answers a token request.
func (s *Server) oauthToken(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	var who access.Caller
	code, answer := s.grantToken(w, r, &who)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	outcome := codes.OK
	if code != http.StatusOK {
		outcome = codes.InvalidArgument
		h.Set("Connection", "close")
	}
	s.guard.metrics.call(tokenPath, outcome, time.Since(began))
	who.Address = remote(r)
	s.guard.note(withCaller(r.Context(), who), tokenPath, &access.Trace{}, outcome, time.Since(began))
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(answer) // who left is told nothing
}

func (s *Server) grantToken(w http.ResponseWriter, r *http.Request, known *access.Caller) (int, any) {
	bad := func(code int, kind, text string) (int, any) { return code, oauthError{kind, text} }
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch {
	case s.oauth.Issuer == "" || r.TLS == nil:
		return bad(http.StatusNotFound, "invalid_request", "there is no token endpoint without TLS")
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return bad(http.StatusMethodNotAllowed, "invalid_request", "POST it")
	case !strings.EqualFold(strings.TrimSpace(media), "application/x-www-form-urlencoded"):
		return bad(http.StatusBadRequest, "invalid_request", "content-type must be application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if r.ParseForm() != nil {
		return bad(http.StatusBadRequest, "invalid_request", "the form cannot be read, or is too large")
	}
	for name, values := range r.PostForm { // section 3.2: no parameter twice
		if len(values) > 1 {
			return bad(http.StatusBadRequest, "invalid_request", "a parameter is there twice: "+plainASCII(name))
		}
	}
	if len(r.URL.Query()) > 0 {
		return bad(http.StatusBadRequest, "invalid_request", "parameters must stand in the body")
	}
	if r.PostForm.Has("client_secret") || r.Header.Get("Authorization") != "" {
		return bad(http.StatusUnauthorized, "invalid_client", "clients authenticate by their certificate alone")
	}
	who, err := s.guard.authenticate(r.Context(), r.Method+" "+r.URL.Path, nil, remote(r), clientChain(r))
	if err != nil {
		if code := status.Code(statusOf(err).Err()); code != codes.Unauthenticated {
			return bad(http.StatusServiceUnavailable, "temporarily_unavailable", statusOf(err).Message())
		}
		return bad(http.StatusUnauthorized, "invalid_client", statusOf(err).Message())
	}
	*known = who
	// RFC 8705, section 2: client_id is required.
	if id := r.PostForm.Get("client_id"); id != clientID(who) {
		return bad(http.StatusUnauthorized, "invalid_client", "client_id is not that of the certificate's account, "+clientID(who))
	}
	switch kind := r.PostForm.Get("grant_type"); kind {
	case "client_credentials":
	case "":
		return bad(http.StatusBadRequest, "invalid_request", "grant_type is missing")
	default:
		return bad(http.StatusBadRequest, "unsupported_grant_type", "only client_credentials is")
	}
	scopes := scopesOf(strings.Fields(r.PostForm.Get("scope")))
	token, secret, err := s.access.GrantAccess(r.Context(), who, scopes, s.oauth.Life)
	var invalid relay.Invalid
	switch {
	case errors.As(err, &invalid):
		return bad(http.StatusBadRequest, "invalid_scope", "the account has no such scope")
	case err != nil:
		switch st := statusOf(err); st.Code() {
		case codes.ResourceExhausted:
			w.Header().Set("Retry-After", "1")
			return bad(http.StatusTooManyRequests, "temporarily_unavailable", st.Message())
		case codes.Unauthenticated, codes.PermissionDenied, codes.FailedPrecondition:
			return bad(http.StatusBadRequest, "unauthorized_client", st.Message())
		case codes.Unavailable:
			return bad(http.StatusServiceUnavailable, "temporarily_unavailable", st.Message())
		default:
			s.log.Error("token request failed", "error", err)
			return bad(http.StatusInternalServerError, "server_error", "internal error")
		}
	}
	granted := token.Scopes
	if len(granted) == 0 {
		granted = who.Scopes
	}
	return http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
		Scope       string `json:"scope"`
	}{secret.Reveal(), "Bearer", int64(token.ExpireTime.Sub(token.CreateTime) / time.Second), strings.Join(scopeTexts(granted), " ")}
}

// clientID is the account's name, with its tenant before it where it has one.
func clientID(c access.Caller) string {
	if c.Tenant == "" {
		return c.Account
	}
	return c.Tenant + "/" + c.Account
}

// plainASCII is text as an error description can hold it (RFC 6749, section 5.2).
func plainASCII(s string) string {
	if len(s) > 40 {
		s = s[:40]
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s)
}

// oauthMetadata describes the token endpoint (RFC 8414, and RFC 8705 section 3.3).
func (s *Server) oauthMetadata(w http.ResponseWriter, r *http.Request) {
	if s.oauth.Issuer == "" {
		writeError(w, status.Error(codes.NotFound, "no OAuth issuer is configured"), s.log)
		return
	}
	known := map[string]bool{}
	var scopes []string
	for _, role := range access.Roles() {
		for _, scope := range role.Scopes() {
			if !known[string(scope)] {
				known[string(scope)] = true
				scopes = append(scopes, string(scope))
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"issuer": s.oauth.Issuer, "token_endpoint": s.oauth.Issuer + tokenPath, "grant_types_supported": []string{"client_credentials"},
		"response_types_supported":                   []string{},
		"token_endpoint_auth_methods_supported":      []string{"tls_client_auth", "self_signed_tls_client_auth"},
		"tls_client_certificate_bound_access_tokens": true, "scopes_supported": scopes,
	})
}
