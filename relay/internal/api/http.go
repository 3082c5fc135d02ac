package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// Bounds of the REST face.
const (
	maxPlainBody  = 256 << 10 // bytes; of every body that holds no events
	bodySlack     = 64 << 10  // bytes around an event's data
	maxHTTPHeader = 32 << 10  // bytes
	headerTime    = 5 * time.Second
	bodyTime      = 30 * time.Second
	answerTime    = 90 * time.Second // longer than a test attempt can last
	idleTime      = 2 * time.Minute
	bodiesInAll   = 256 << 20 // bytes of bodies being read or worked on at once
)

// NewHTTPServer serves handler within the bounds of time and size that the REST face rests on. Whoever listens sets TLSConfig.
func NewHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHTTPHeader,
	}
}

// HTTP serves the REST face under /v1/ and its description at /openapi.json. Serve it with NewHTTPServer, whose bounds
// it does not have itself.
func (s *Server) HTTP() http.Handler { return s.handler }

func (s *Server) newHandler() (http.Handler, error) {
	gateway := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{}),
		runtime.WithMarshalerOption(mediaCSV, csvMarshaler{}),
		runtime.WithErrorHandler(s.gatewayError),
		runtime.WithRoutingErrorHandler(s.routingError),
		runtime.WithStreamErrorHandler(func(_ context.Context, err error) *status.Status { return statusOf(err) }),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	ctx := context.Background()
	for _, err := range []error{
		sealpostv1.RegisterEventServiceHandlerClient(ctx, gateway, sealpostv1.NewEventServiceClient(s.local)),
		sealpostv1.RegisterEndpointServiceHandlerClient(ctx, gateway, sealpostv1.NewEndpointServiceClient(s.local)),
		sealpostv1.RegisterIncidentServiceHandlerClient(ctx, gateway, sealpostv1.NewIncidentServiceClient(s.local)),
		sealpostv1.RegisterPolicyServiceHandlerClient(ctx, gateway, sealpostv1.NewPolicyServiceClient(s.local)),
		sealpostv1.RegisterDeliveryServiceHandlerClient(ctx, gateway, sealpostv1.NewDeliveryServiceClient(s.local)),
		sealpostv1.RegisterOperationServiceHandlerClient(ctx, gateway, sealpostv1.NewOperationServiceClient(s.local)),
		sealpostv1.RegisterAccessServiceHandlerClient(ctx, gateway, sealpostv1.NewAccessServiceClient(s.local)),
		sealpostv1.RegisterAuditServiceHandlerClient(ctx, gateway, sealpostv1.NewAuditServiceClient(s.local)),
	} {
		if err != nil {
			return nil, fmt.Errorf("register REST: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, sealpostv1.OpenAPI())
	})
	mux.Handle("/v1/", s.admitHTTP(gateway))
	mux.HandleFunc(tokenPath, s.oauthToken)
	mux.HandleFunc("GET "+metadataPath, s.oauthMetadata)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, status.Error(codes.NotFound, http.StatusText(http.StatusNotFound)), s.log)
	})
	return s.harden(mux), nil
}

// StrictTransportSecurity is what every answer over TLS says: a year without plain text (RFC 6797).
const StrictTransportSecurity = "max-age=31536000"

// harden sets the headers of every answer and catches what panics outside of a method.
func (s *Server) harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", StrictTransportSecurity)
		}
		defer func() {
			if p := recover(); p != nil {
				writeError(w, s.guard.panicked(r.Pattern, p), s.log)
			}
		}()
		bound(w, r)
		next.ServeHTTP(challenge{w}, r)
	})
}

// challenge names the way to authenticate on every 401 (RFC 9110, section 11.6.1).
type challenge struct{ http.ResponseWriter }

// WriteHeader adds the header just before it is sent.
func (c challenge) WriteHeader(code int) {
	if code == http.StatusUnauthorized {
		c.Header().Set("WWW-Authenticate", `Bearer realm="sealpost"`)
	}
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (c challenge) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Flush is for the gateway's streams.
func (c challenge) Flush() { _ = http.NewResponseController(c.ResponseWriter).Flush() }

// restCall is what a method may need to know of the REST request that it answers.
type restCall struct {
	query        url.Values
	fieldsInBody bool // all of them: the methods with a verb of their own
	body         *body
}

type restKey struct{}

// presentFields are the paths that a REST body had, in JSON names.
func presentFields(ctx context.Context) ([]string, bool) {
	c, ok := ctx.Value(restKey{}).(*restCall)
	if !ok {
		return nil, false
	}
	return c.body.fields, true
}

// admitHTTP finds the caller before a byte of a body is read, and bounds the body.
func (s *Server) admitHTTP(next http.Handler) http.Handler {
	bodies := semaphore.NewWeighted(bodiesInAll)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := remote(r)
		var caller access.Caller
		if !openPath(r.URL.Path) {
			var err error
			if caller, err = s.guard.authenticate(r.Context(), r.Method+" "+r.URL.Path, r.Header.Values("Authorization"), from, clientChain(r)); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		limit, event, err := s.bodyLimit(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		if limit > 0 {
			weight := limit
			if r.ContentLength >= 0 {
				weight = min(limit, r.ContentLength)
			}
			if !bodies.TryAcquire(weight) {
				s.refuse(w, r, &control.BusyError{RetryAfter: time.Second})
				return
			}
			defer bodies.Release(weight)
		}
		b := &body{ReadCloser: http.MaxBytesReader(w, r.Body, limit+1), limit: limit}
		// Once the body is there, a read deadline would end the call when it passes: net/http goes on reading, to hear
		// the caller leave.
		b.complete = func() { _ = http.NewResponseController(w).SetReadDeadline(time.Time{}) }
		call := &restCall{query: r.URL.Query(), fieldsInBody: r.Method == http.MethodPost && strings.Contains(path.Base(r.URL.Path), ":"), body: b}
		ctx := context.WithValue(withCaller(r.Context(), caller), restKey{}, call)
		ctx = peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))})
		r = r.WithContext(ctx)
		r.Body = b
		if event {
			s.cloudEvent(w, r, b)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// openPath tells whether a path is of a method that anybody may call.
func openPath(path string) bool { return path == "/v1/signIns:begin" || path == "/v1/signIns:complete" }

// clientChain is the client certificate that a request's connection was made with, and what was sent with it.
func clientChain(r *http.Request) []*x509.Certificate {
	if r.TLS == nil {
		return nil
	}
	return r.TLS.PeerCertificates
}

// refuse answers before a body was read; what the caller still sends is not waited for.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
	writeError(w, err, s.log)
}

// bound sets how long a body may take to come and an answer to go. A stream of answers lasts as long as its caller
// stays. It is called for every request: net/http leaves a write deadline as it is for the next one of a
// connection. A writer without deadlines is left as it is.
func bound(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	now := time.Now()
	if r.ContentLength != 0 {
		_ = c.SetReadDeadline(now.Add(bodyTime))
	}
	var end time.Time
	if !strings.HasSuffix(r.URL.Path, ":watch") {
		end = now.Add(answerTime)
	}
	_ = c.SetWriteDeadline(end)
}

// bodyLimit is how large a request's body may be, and whether it is a CloudEvent.
func (s *Server) bodyLimit(r *http.Request) (limit int64, event bool, err error) {
	if r.ContentLength == 0 || r.Body == nil {
		return 0, false, nil
	}
	media := "application/json"
	if given := r.Header.Get("Content-Type"); given != "" {
		var params map[string]string
		media, params, err = mime.ParseMediaType(given)
		if err != nil || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
			return 0, false, errMedia
		}
	}
	switch enc := r.Header.Get("Content-Encoding"); {
	case enc != "" && !strings.EqualFold(enc, "identity"):
		return 0, false, errEncoding
	}
	limit = maxPlainBody
	switch r.URL.Path {
	case "/v1/events":
		limit = int64(s.maxData) + bodySlack
		if media == cloudEventType {
			limit = int64(s.maxData)/3*4 + bodySlack // data_base64
			event = true
			media = "application/json"
		}
	case "/v1/events:batch":
		limit = s.maxBatch
	}
	if media != "application/json" {
		return 0, false, errMedia
	}
	if r.ContentLength > limit {
		return 0, false, tooLarge{what: "body", limit: limit}
	}
	return limit, event, nil
}

func remote(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// gatewayError answers for the gateway. What a body's decoder found is worth more than the line that the gateway
// made of it.
func (s *Server) gatewayError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if b, ok := r.Body.(*body); ok && b.err != nil {
		err = b.err
	} else if bad := badQuery(err); bad != nil {
		err = bad
	}
	writeError(w, err, s.log)
}

// badQuery is the field of a query parameter that the gateway could not read; it says so in words alone.
func badQuery(err error) error {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.InvalidArgument || len(st.Details()) > 0 {
		return nil
	}
	rest, ok := strings.CutPrefix(st.Message(), `parsing field "`)
	if !ok {
		return nil
	}
	name, _, _ := strings.Cut(rest, `"`)
	words := strings.Split(name, "_") // the proto's name; JSON's is told
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:min(1, len(w))]) + w[min(1, len(w)):]
	}
	return relay.Invalid{{Field: shown(strings.Join(words, "")), Rule: "does not have a value of the form that the API documents"}}
}

func (s *Server) routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, code int) {
	st := status.New(codes.NotFound, http.StatusText(code))
	if code == http.StatusMethodNotAllowed {
		st = status.New(codes.Unimplemented, http.StatusText(code))
	} else if code == http.StatusBadRequest {
		st = status.New(codes.InvalidArgument, http.StatusText(code))
	}
	writeError(w, &runtime.HTTPStatusError{HTTPStatus: code, Err: st.Err()}, s.log)
}

// cloudEvent publishes a CloudEvent, through the same method as any other event.
func (s *Server) cloudEvent(w http.ResponseWriter, r *http.Request, b *body) {
	if r.Method != http.MethodPost {
		s.routingError(r.Context(), nil, nil, w, r, http.StatusMethodNotAllowed)
		return
	}
	req := &sealpostv1.PublishEventRequest{}
	answer := &sealpostv1.PublishEventResponse{}
	for _, name := range []string{"validateOnly", "validate_only"} {
		if r.URL.Query().Has(name) {
			yes, err := strconv.ParseBool(r.URL.Query().Get(name))
			if err != nil {
				writeError(w, relay.Invalid{{Field: name, Rule: "must be true or false"}}, s.log)
				return
			}
			req.ValidateOnly = yes
		}
	}
	raw, err := b.all()
	if err == nil {
		req.Event, err = parseCloudEvent(raw)
	}
	if err == nil {
		err = s.local.Invoke(r.Context(), sealpostv1.EventService_PublishEvent_FullMethodName, req, answer)
	}
	if err != nil {
		writeError(w, err, s.log)
		return
	}
	out, err := encodeJSON(answer)
	if err != nil {
		writeError(w, err, s.log)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(out)
}

// checkQuery refuses query parameters that a method does not have, and all of them where its fields stand in the body:
// a filter that is misspelt must not be taken for none. The gateway passes over both.
func checkQuery(ctx context.Context, msg proto.Message) error {
	c, ok := ctx.Value(restKey{}).(*restCall)
	if !ok {
		return nil
	}
	schema := msg.ProtoReflect().Descriptor()
	var bad relay.Invalid
	for _, name := range slices.Sorted(maps.Keys(c.query)) {
		switch {
		case len(bad) == maxViolations:
		case !queryField(schema, name):
			rule := "is not a query parameter here"
			if near := nearest(schema, name); near != "" {
				rule += "; the nearest is " + near
			}
			bad.Add(shown(name), "%s", rule)
		case c.fieldsInBody:
			bad.Add(shown(name), "must stand in the body, not in the query")
		}
	}
	return bad.Err()
}

// queryField tells whether a query parameter can name a field: only one that is no message of ours.
func queryField(schema protoreflect.MessageDescriptor, name string) bool {
	field := schema.Fields().ByJSONName(name)
	if field == nil {
		field = schema.Fields().ByTextName(name)
	}
	return field != nil && (field.Message() == nil || wellKnown(field.Message()))
}
