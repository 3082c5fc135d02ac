package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// Error is why an event was not kept, as the server or the way to it said.
type Error struct {
	EventID string
	// Code is gRPC's: INVALID_ARGUMENT, ALREADY_EXISTS (the id is taken by other content), RESOURCE_EXHAUSTED,
	// UNAVAILABLE, UNAUTHENTICATED, PERMISSION_DENIED, ...
	Code codes.Code
	Text string
	// Invalid names the fields that broke a rule, with INVALID_ARGUMENT.
	Invalid relay.Invalid
	// RetryAfter is the least time to wait, where the server named one.
	RetryAfter time.Duration
}

// Error names the event, the code and the reason.
func (e *Error) Error() string {
	return fmt.Sprintf("event %s was not kept: %s: %s", e.EventID, e.Code, e.Text)
}

// Unwrap gives Invalid, for errors.As.
func (e *Error) Unwrap() error { return e.Invalid.Err() }

// GRPCStatus is for status.Code and the like.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }

// Temporary tells whether the same event may be kept on another try; one that ran out of time may have been. gRPC itself says RESOURCE_EXHAUSTED for a message
// that is too large, which no waiting makes smaller; the server's own comes with a time to wait.
func (e *Error) Temporary() bool {
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded || e.Code == codes.ResourceExhausted && e.RetryAfter > 0
}

func errorOf(id string, err error) *Error {
	s := status.Convert(err)
	if s.Code() == codes.Unknown || s.Code() == codes.OK {
		s = status.FromContextError(err)
	}
	return refusal(id, s)
}

func errorIn(id string, e *sealpostv1.Error) *Error {
	return refusal(id, status.FromProto(&spb.Status{Code: e.GetCode(), Message: e.GetMessage(), Details: e.GetDetails()}))
}

func refusal(id string, s *status.Status) *Error {
	e := &Error{EventID: id, Code: s.Code(), Text: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Invalid = append(e.Invalid, relay.Violation{Field: v.GetField(), Rule: v.GetDescription()})
			}
		}
	}
	return e
}

// try is the repeating of one publishing.
type try struct {
	steps *backoff.ExponentialBackOff
	until time.Time
}

func (c *Client) newTry() *try {
	return &try{steps: newSteps(), until: time.Now().Add(c.retryFor)}
}

// newSteps is 100 ms doubling to 10 s, each within half of itself.
func newSteps() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(10*time.Second), backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxElapsedTime(0),
	)
}

// wait returns nil when it is time for another try, and else why there is none.
func (t *try) wait(ctx context.Context, failed *Error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !failed.Temporary() {
		return failed
	}
	delay := pause(t.steps, failed.RetryAfter)
	if time.Now().Add(delay).After(t.until) {
		return failed
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pause is the next step, and not before the server asked for: after that, spread over half as long again, so that those who were
// refused together do not come back together.
func pause(steps *backoff.ExponentialBackOff, least time.Duration) time.Duration {
	next := steps.NextBackOff()
	if least > 0 {
		least += rand.N(least/2 + 1)
	}
	return max(next, least)
}
