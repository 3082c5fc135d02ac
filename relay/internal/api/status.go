package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/control"
)

// errBodyUnread is a body that broke off, or came too slowly.
var errBodyUnread = errors.New("the body could not be read")

// errMedia is a body of a form that is not taken.
var errMedia = errors.New("content-type must be application/json, or for an event " + cloudEventType)

// errEncoding is a compressed body: what it would grow to is not bounded.
var errEncoding = errors.New("content-encoding is not supported: send the body as it is")

// tooLarge is what passes a bound in bytes.
type tooLarge struct {
	what  string
	limit int64
}

func (e tooLarge) Error() string { return fmt.Sprintf("%s must be at most %d bytes", e.what, e.limit) }

// defaultRetry is the hint where who refused gave none.
const defaultRetry = time.Second

// refusals is the one table from an error to the code and the text of its answer. The first that errors.Is finds wins;
// what is not in it is INTERNAL, and its own text stays inside.
var refusals = []struct {
	is   error
	code codes.Code
	text string // the error's own where it is empty
}{
	{access.ErrNoToken, codes.Unauthenticated, ""},
	{access.ErrExpired, codes.Unauthenticated, ""},
	{access.ErrRevoked, codes.Unauthenticated, ""},
	{access.ErrAddress, codes.Unauthenticated, ""},
	{access.ErrBound, codes.Unauthenticated, ""},
	{access.ErrCertificate, codes.Unauthenticated, ""},
	{access.ErrCertExpired, codes.Unauthenticated, ""},
	{access.ErrCertRevoked, codes.Unauthenticated, ""},
	{access.ErrDisabled, codes.Unauthenticated, ""},
	{access.ErrBootstrapped, codes.Unauthenticated, ""},
	{access.ErrUnauthenticated, codes.Unauthenticated, "the token is not valid"},
	{access.ErrUnheard, codes.Unavailable, ""},
	{control.ErrNotFound, codes.NotFound, ""},
	{control.ErrExists, codes.AlreadyExists, ""},
	{control.ErrStale, codes.Aborted, ""},
	{control.ErrTooMany, codes.ResourceExhausted, ""},
	{control.ErrFull, codes.ResourceExhausted, ""},
	{control.ErrUnreadable, codes.Unavailable, ""},
	{control.ErrViewUnavailable, codes.Unavailable, ""},
	{control.ErrOwnerUnavailable, codes.Unavailable, ""},
	{control.ErrJournalUnavailable, codes.Unavailable, ""},
	{control.ErrUnavailable, codes.Unavailable, ""},
	{relay.ErrNotFound, codes.NotFound, ""},
	{relay.ErrPageToken, codes.InvalidArgument, ""},
	{errBodyUnread, codes.InvalidArgument, ""},
	{errMedia, codes.InvalidArgument, ""},
	{errEncoding, codes.InvalidArgument, ""},
	{context.Canceled, codes.Canceled, "the caller left"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "out of time"},
}

// statusOf translates err for the caller; nil for nil.
func statusOf(err error) *status.Status {
	var invalid relay.Invalid
	var large tooLarge
	var forbidden *control.ForbiddenError
	var state *control.StateError
	var busy *control.BusyError
	var limit *access.LimitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &limit):
		return retryIn(status.New(codes.ResourceExhausted, "the credential's rate limit is reached"), limit.RetryAfter)
	case errors.As(err, &busy):
		return retryIn(status.New(codes.ResourceExhausted, cmp.Or(busy.Reason, "busy")), busy.RetryAfter)
	case errors.As(err, &forbidden):
		return status.New(codes.PermissionDenied, forbidden.Error())
	case errors.As(err, &state):
		return status.New(codes.FailedPrecondition, state.Error())
	case errors.As(err, &invalid):
		return invalidStatus(invalid)
	case errors.As(err, &large):
		return invalidStatus(relay.Invalid{{Field: large.what, Rule: fmt.Sprintf("must be at most %d bytes", large.limit)}})
	}
	if s, ok := status.FromError(err); ok {
		return s
	}
	for _, r := range refusals {
		if !errors.Is(err, r.is) {
			continue
		}
		text := r.text
		if text == "" {
			text = r.is.Error()
		}
		return retryIn(status.New(r.code, text), 0)
	}
	return status.New(codes.Internal, "internal error")
}

// retryIn adds when to come again to the codes that are worth another try.
func retryIn(s *status.Status, after time.Duration) *status.Status {
	if s.Code() != codes.ResourceExhausted && s.Code() != codes.Unavailable {
		return s
	}
	if after <= 0 {
		after = defaultRetry
	}
	return withDetail(s, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

func invalidStatus(bad relay.Invalid) *status.Status {
	detail := &errdetails.BadRequest{}
	listed := bad[:min(len(bad), maxViolations)]
	for _, v := range listed {
		detail.FieldViolations = append(detail.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Rule})
	}
	return withDetail(status.New(codes.InvalidArgument, listed.Error()), detail)
}

func withDetail(s *status.Status, detail protoadapt.MessageV1) *status.Status {
	if full, err := s.WithDetails(detail); err == nil {
		return full
	}
	return s
}

// errorOf is a status as a part of an answer that otherwise went well.
func errorOf(s *status.Status) *sealpostv1.Error {
	p := s.Proto()
	return &sealpostv1.Error{Code: p.GetCode(), Message: p.GetMessage(), Details: p.GetDetails()}
}

// statusFrom is the inverse of errorOf.
func statusFrom(e *sealpostv1.Error) *status.Status {
	return status.FromProto(&spb.Status{Code: e.GetCode(), Message: e.GetMessage(), Details: e.GetDetails()})
}

// httpCode is the HTTP status for an error that a REST caller gets.
func httpCode(err error, s *status.Status) int {
	var large tooLarge
	var given *runtime.HTTPStatusError
	switch {
	case errors.As(err, &given):
		return given.HTTPStatus
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, errMedia), errors.Is(err, errEncoding):
		return http.StatusUnsupportedMediaType
	}
	return runtime.HTTPStatusFromCode(s.Code())
}

// writeError answers a REST call with google.rpc.Status in JSON, and the headers that HTTP has for the same facts.
func writeError(w http.ResponseWriter, err error, log *slog.Logger) {
	var given *runtime.HTTPStatusError
	cause := err
	if errors.As(err, &given) {
		cause = given.Err
	}
	s := statusOf(cause)
	if s.Code() == codes.Internal {
		log.Error("call failed", "error", cause)
	}
	out, merr := encodeJSON(s.Proto())
	if merr != nil {
		out = []byte(`{"code":13,"message":"internal error","details":[]}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if after, ok := retryAfter(s); ok {
		seconds := int64((after + time.Second - 1) / time.Second)
		h.Set("Retry-After", strconv.FormatInt(max(seconds, 1), 10))
	}
	w.WriteHeader(httpCode(err, s))
	w.Write(out) // a caller that left is told nothing
}

func retryAfter(s *status.Status) (time.Duration, bool) {
	for _, d := range s.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			return r.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}
