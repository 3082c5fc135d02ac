// Package operation keeps what takes longer than a call: each operation is a record in a bucket of the journal, run by the
// process that owns its tenant's partition.
//
// It promises that an operation that was answered for is kept, and is run until it succeeds, fails or is cancelled, over
// kill -9, by whichever process then owns the partition; that it goes on where its runner last said it was; that a
// request repeated with the same id makes one operation; that two processes that both take themselves for the owner do not both
// go on for longer than the next saving, which one of them loses; and that an operation is told of its cancelling at once, in
// every process. What an operation does between two savings it may do again: its runner has to know what it did. It trusts
// the journal to compare revisions, and its runners to stop when their context ends.
package operation

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"
)

// BucketName is the journal's bucket that operations are kept in.
const BucketName = "OPERATIONS"

// Kind is what is being done.
type Kind string

// The kinds.
const (
	Replay  Kind = "REPLAY"  // deliveries are sent again
	Erasure Kind = "ERASURE" // the events of one subject are erased
)

// State is where an operation stands.
type State string

// The states. Pending waits for the owner of its partition, or for others of its tenant to end; the last three end it.
const (
	Pending   State = "PENDING"
	Running   State = "RUNNING"
	Succeeded State = "SUCCEEDED"
	Failed    State = "FAILED"
	Cancelled State = "CANCELLED"
)

// Ended tells whether nothing more happens to an operation in this state.
func (s State) Ended() bool { return s == Succeeded || s == Failed || s == Cancelled }

// Valid tells whether s is one of the states.
func (s State) Valid() bool { return s == Pending || s == Running || s.Ended() }

// Progress is how far an operation has come.
type Progress struct {
	Examined int64 // events or deliveries that it has looked at
	Done     int64 // those that it sent again or erased
	Skipped  int64 // those that it left alone
	Fraction float64
}

// Operation is what is kept of one.
type Operation struct {
	ID         string
	Tenant     string
	Kind       Kind
	State      State
	Author     string // the account that began it
	Reason     string
	CreateTime time.Time
	UpdateTime time.Time
	EndTime    time.Time // zero until it has ended
	// Error is why it failed, or what keeps it from going on now.
	Error    string
	Progress Progress
	// Request is what was asked for, and Cursor where it goes on, both in the kind's own form.
	Request []byte
	Cursor  []byte
	// Cancel tells that a caller asked for its end.
	Cancel bool

	requestID string
	digest    [sha256.Size]byte
	turn      uint64
	revision  uint64
}

// Runner does the work of one kind.
type Runner interface {
	// Run goes on with an operation from its cursor, and returns nil when all of it is done. It saves where it is by
	// job, and ends soon after ctx does, or with the error of a saving that failed. What a *Failure says ends the operation as FAILED;
	// after any other error it is run again, after a wait.
	Run(ctx context.Context, job *Job) error
}

// Failure is what ends an operation for good. Its text is shown to callers.
type Failure struct{ Reason string }

// Error is the reason.
func (f *Failure) Error() string { return f.Reason }

// What a caller can be refused for.
var (
	ErrNotFound = errors.New("no such operation")
	// ErrExists is for a request id that was used for something else.
	ErrExists = errors.New("the request id was used for another operation")
	// ErrTooMany is for a tenant with as many as it may have that are not done.
	ErrTooMany = errors.New("too many operations of the tenant are not done yet")
	// ErrEnded is for the cancelling of what succeeded or failed.
	ErrEnded = errors.New("the operation has ended")
	// ErrKept is for the cancelling of what cannot be cancelled.
	ErrKept = errors.New("an operation of this kind cannot be cancelled")
)

// Request asks for an operation.
type Request struct {
	Tenant string
	Kind   Kind
	Author string
	Reason string // at most MaxReason bytes
	Body   []byte // what is asked for, in the kind's own form; at most MaxBody bytes
	// RequestID makes repeats of the author's safe; at most MaxRequestID bytes, may be empty.
	RequestID string
	// Digest is over what was asked for, as far as a repeat must be equal in it; zero: Body and Reason.
	Digest [sha256.Size]byte
}

// Bounds of a request, in bytes.
const (
	MaxReason    = 512
	MaxRequestID = 128
	MaxBody      = 64 << 10
)

// limit bounds the operations of one kind.
type limit struct {
	open      int  // not ended, of one tenant
	kept      int  // ended, of one tenant
	perTenant int  // running at once, of one tenant
	atOnce    int  // running at once, of one partition
	cancels   bool // whether it can be cancelled
	trims     bool // whether the oldest ended ones make room for new ones; otherwise new ones are refused
}

func limitOf(k Kind) limit {
	switch k {
	case Replay:
		return limit{open: 20, kept: 200, perTenant: 2, atOnce: 32, cancels: true, trims: true}
	case Erasure:
		return limit{open: 1000, kept: 20_000, perTenant: 1, atOnce: 4}
	}
	return limit{}
}

const (
	idPrefix = "op_"
	idLength = 26
)

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newID is made from the request id where there is one, so that a repeat meets the first one's key.
func newID(r *Request) string {
	var id [16]byte
	if r.RequestID == "" {
		rand.Read(id[:])
	} else {
		sum := sha256.Sum256([]byte(strings.Join([]string{r.Tenant, string(r.Kind), r.Author, r.RequestID}, "\x00")))
		copy(id[:], sum[:])
	}
	return idPrefix + idEncoding.EncodeToString(id[:])
}

// ValidID tells whether s can be an operation's id.
func ValidID(s string) bool {
	rest, ok := strings.CutPrefix(s, idPrefix)
	return ok && len(rest) == idLength && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

func (r *Request) digest() [sha256.Size]byte {
	if r.Digest != ([sha256.Size]byte{}) {
		return r.Digest
	}
	return sha256.Sum256(append(append([]byte(r.Reason), 0), r.Body...))
}

func (r *Request) check() error {
	switch {
	case limitOf(r.Kind) == (limit{}):
		return fmt.Errorf("operation: unknown kind %q", r.Kind)
	case r.Tenant == "" || r.Author == "":
		return errors.New("operation: without tenant or author")
	case len(r.Reason) > MaxReason || len(r.RequestID) > MaxRequestID || len(r.Body) > MaxBody:
		return errors.New("operation: a part of the request is too large")
	}
	return nil
}
