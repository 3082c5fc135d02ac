package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/audit"
	"github.com/sealpost/sealpost/relay/internal/journal"
	"github.com/sealpost/sealpost/relay/internal/operation"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// What a method's error can be, beside relay.Invalid for what was asked for against a rule, and a context's error. Whatever else it is, is a fault of
// ours.
var (
	// ErrNotFound is also what a caller gets for that which it may not know of.
	ErrNotFound = errors.New("not found")
	// ErrExists is for an id that is taken by other content.
	ErrExists = errors.New("already exists with other content")
	// ErrStale is for an etag that is not the latest.
	ErrStale = errors.New("has changed since: the etag is not the latest")
	// ErrUnavailable is for a part that cannot be reached or written to now; the act may or may not have taken place, and
	// can be repeated.
	ErrUnavailable = errors.New("unavailable")
	// ErrViewUnavailable, ErrJournalUnavailable and ErrOwnerUnavailable are ErrUnavailable that say of which part.
	ErrViewUnavailable    error = partError("the view cannot be read now; deliveries go on")
	ErrJournalUnavailable error = partError("the journal cannot be reached or written now")
	ErrOwnerUnavailable   error = partError("no relay answers for the tenant's partition now")
	// ErrUnreadable is for events refused, and for questions, while the disk does not give what was written to it.
	ErrUnreadable = errors.New("what was accepted before cannot be read now, and nothing more is accepted until it can")
	// ErrFull is for events refused for want of space; nothing of them was kept.
	ErrFull = errors.New("storage is full")
	// ErrUnauthenticated is for a caller whose credential ended while it was calling.
	ErrUnauthenticated = access.ErrUnauthenticated
)

// partError is an ErrUnavailable with the part that is.
type partError string

// Error names the part.
func (e partError) Error() string { return ErrUnavailable.Error() + ": " + string(e) }

// Is makes each an ErrUnavailable.
func (e partError) Is(target error) bool { return target == ErrUnavailable }

// ForbiddenError is for an act that the caller has no scope for, or not in this tenant, or that takes another
// account.
type ForbiddenError struct {
	Scope  access.Scope
	Reason string
}

// Error names the scope and the reason.
func (e *ForbiddenError) Error() string {
	if e.Scope == "" {
		return "not permitted: " + e.Reason
	}
	return fmt.Sprintf("not permitted: %s (scope %s)", e.Reason, e.Scope)
}

// StateError is for an act that the state of its object does not allow.
type StateError struct {
	Act   string
	State string
	// Reason says what would have to be.
	Reason string
}

// Error names the act and the state.
func (e *StateError) Error() string {
	return fmt.Sprintf("cannot %s in state %s: %s", e.Act, e.State, e.Reason)
}

// BusyError is for what was refused for the moment; nothing of it was kept.
type BusyError struct {
	RetryAfter time.Duration
	// Reason is what there is too much of; empty: the relay is behind.
	Reason string
}

// Error names the reason and the time.
func (e *BusyError) Error() string {
	return cmp.Or(e.Reason, "busy") + ", retry after " + e.RetryAfter.String()
}

// translated turns the errors of the packages below into the ones above. Those it does not know stay as they are.
func translated(err error) error {
	var busy *journal.BusyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &busy):
		return &BusyError{RetryAfter: busy.RetryAfter}
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, access.ErrNotFound), errors.Is(err, relay.ErrNotFound), errors.Is(err, operation.ErrNotFound):
		return ErrNotFound
	case errors.Is(err, registry.ErrExists), errors.Is(err, journal.ErrConflict), errors.Is(err, operation.ErrExists), errors.Is(err, access.ErrExists):
		return ErrExists
	case errors.Is(err, registry.ErrStale):
		return ErrStale
	case errors.Is(err, access.ErrTooMany):
		return &StateError{Act: "make a credential", State: "FULL", Reason: err.Error()}
	case errors.Is(err, journal.ErrFull):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, journal.ErrUnreadable):
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	case errors.Is(err, relay.ErrPageToken):
		return relay.Invalid{{Field: "pageToken", Rule: "is not one of this query's"}}
	case errors.Is(err, journal.ErrUnavailable), errors.Is(err, journal.ErrFailed), errors.Is(err, journal.ErrClosed),
		errors.Is(err, audit.ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrJournalUnavailable, err)
	}
	return err
}

// viewed is translated for an error of the view: that it cannot answer is no fault of the caller's, and passes.
func viewed(err error) error {
	switch {
	case err == nil, errors.Is(err, relay.ErrNotFound), errors.Is(err, relay.ErrPageToken),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return translated(err)
	}
	return fmt.Errorf("%w: %w", ErrViewUnavailable, err)
}
