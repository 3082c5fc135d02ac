// Package receiver is the other end of a delivery: an http.Handler that verifies what Sealpost sends, refuses
// replays, puts chunks together and hands each event over once.
//
// It promises:
//   - OnEvent is called with nothing that a trusted key has not signed: body, and where the scheme covers it id, chunk
//     framing and URL, fresh by the verifier's tolerance.
//   - A delivery is answered with success only after OnEvent returned nil for it, or, for a chunk that is not the last
//     one, after it is kept. So a failure of OnEvent is repeated by the sender, and nothing is lost between the two.
//   - OnEvent is called once for each id that it handled, within what Seen remembers; a sender that repeats a delivery
//     because an answer was lost gets a success without another call.
//   - Each input has a bound, also what is held of sets that never become whole.
//
// It trusts the verifier's keys and the holder of those, its Seen, and the clock. It trusts no byte of a request
// before the signature has been checked, and never the id, under a scheme that does not sign it, for more than telling
// repeats of the same sender apart.
//
// Under a replayable scheme (github, shopify: they sign no time) nothing tells a replay from a retry: what was handled is
// answered with 200 and not handed over again, whatever id comes with it, for as long as Seen remembers it (a [Memory]: 24
// hours). So two events whose bodies are the same bytes count as one; those in an envelope never are, since it holds their id.
//
// What it answers, and what Sealpost makes of it:
//
//	204  OnEvent handled it                                  delivered
//	202  a chunk was kept, others are to come                the next chunk
//	200  it was handled before                               delivered
//	400  not what a sender writes: a header or framing       dead
//	401  unsigned, stale, or no trusted key's signature      tried again (a clock or a key may be put right)
//	401  the very same signed request again: a replay        tried again
//	405  not a POST                                          -
//	413  larger than allowed                                 dead
//	422  OnEvent returned ErrRejected                        dead
//	424  a chunk whose predecessors are not here (any more)  the set from its first chunk
//	500  OnEvent failed                                      tried again
//	503  busy with the same delivery, full, or without keys  tried again, after Retry-After
package receiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/sealpost/sealpost/relay/chunk"
	"github.com/sealpost/sealpost/signer"
)

// Defaults of Options.
const (
	DefaultMaxBody     = 8<<20 + 64<<10 // the largest chunk that an endpoint can ask for, and its framing
	DefaultMaxInFlight = 256
	DefaultReadTimeout = 30 * time.Second

	// Before the body is read no more than this is set aside for it, whatever its declared length.
	trustedLength = 64 << 10
)

// ErrOptions reports Options that cannot hold; the text names the field.
var ErrOptions = errors.New("receiver: invalid options")

// ErrRejected is what OnEvent returns (wrapped, too) to refuse an event for good: the sender is told not to repeat it.
var ErrRejected = errors.New("rejected")

// Options of a Receiver. OnEvent and one of Verifier and Keys are required.
type Options struct {
	// Verifier holds the scheme, the keys and the tolerance.
	Verifier *signer.Verifier
	// Keys is in place of Verifier where the sender's public keys are followed; see Follow.
	Keys *KeySet

	// OnEvent takes a delivery. It is called from many goroutines, with a context that ends with the request. An error
	// makes the sender repeat the delivery later, unless it is ErrRejected.
	OnEvent func(ctx context.Context, d Delivery) error

	// Seen remembers what was handled. Nil: NewMemory(MemoryOptions{}), for one process and until it ends.
	Seen Seen

	MaxBody     int           // of one request, in bytes; 0: DefaultMaxBody
	MaxInFlight int           // requests at once; 0: DefaultMaxInFlight
	ReadTimeout time.Duration // for reading one body; 0: DefaultReadTimeout
	Chunks      ChunkOptions
}

// Delivery is what OnEvent gets: one event as its sender rendered it.
type Delivery struct {
	// ID is the delivery's, the same over all attempts and for all chunks: the key for one's own idempotency. It is
	// empty only where a sender of a scheme that does not sign the id sent none.
	ID string
	// Time is when the sender signed the attempt (the last chunk's, where it was chunked); zero under a replayable scheme.
	Time time.Time
	// KeyID is the id of the key that verified it.
	KeyID string
	// ContentType is the request's content-type; of a set of parts, which have no type of their own, it is
	// application/octet-stream.
	ContentType string
	// Body holds the exact bytes that the sender rendered, put together where they came in chunks. It is OnEvent's to keep.
	Body []byte
	// Header is the header of the request; only what the scheme signs is vouched for.
	Header http.Header
	// Chunks is the number of chunks; 0 where the delivery was whole.
	Chunks int
}

// verifier checks requests; *signer.Verifier and *KeySet do.
type verifier interface {
	Scheme() signer.Scheme
	Tolerance() time.Duration
	VerifyRequest(r *http.Request, body []byte) (signer.Verified, error)
}

// Receiver is an http.Handler. It is safe for concurrent use.
type Receiver struct {
	options Options
	verify  verifier
	facts   signer.Facts
	slots   chan struct{} // one for each request that may be read
	sets    *sets
}

// New returns a Receiver. It starts nothing.
func New(options Options) (*Receiver, error) {
	var verify verifier = options.Verifier
	if options.Keys != nil {
		verify = options.Keys
	}
	switch {
	case (options.Verifier == nil) == (options.Keys == nil):
		return nil, fmt.Errorf("%w: one of Verifier and Keys is required", ErrOptions)
	case options.OnEvent == nil:
		return nil, fmt.Errorf("%w: OnEvent is required", ErrOptions)
	case options.MaxBody < 0 || options.MaxInFlight < 0 || options.ReadTimeout < 0:
		return nil, fmt.Errorf("%w: a bound is negative", ErrOptions)
	}
	if options.MaxBody == 0 {
		options.MaxBody = DefaultMaxBody
	}
	if options.MaxInFlight == 0 {
		options.MaxInFlight = DefaultMaxInFlight
	}
	if options.ReadTimeout == 0 {
		options.ReadTimeout = DefaultReadTimeout
	}
	if options.Seen == nil {
		options.Seen = NewMemory(MemoryOptions{Tolerance: verify.Tolerance()})
	}
	facts := verify.Scheme().Facts()
	kept, err := newSets(options.Chunks, !facts.CoversID && !facts.CoversChunk)
	if err != nil {
		return nil, err
	}
	return &Receiver{options: options, verify: verify, facts: facts, slots: make(chan struct{}, options.MaxInFlight), sets: kept}, nil
}

// answer is one line of the table above.
type answer struct {
	status int
	text   string
	after  int // Retry-After in seconds, 0 for none
}

// The answers. They tell a caller no more than its own request did. A replay gets a status that its sender repeats:
// two attempts within the unit of the scheme's time, such as a second, look alike, and the one after them must find out
// that the delivery was handled.
var (
	handled    = answer{status: http.StatusNoContent}
	kept       = answer{http.StatusAccepted, "chunk kept", 0}
	duplicate  = answer{http.StatusOK, "handled before", 0}
	malformed  = answer{http.StatusBadRequest, "malformed", 0}
	unverified = answer{http.StatusUnauthorized, "not verified", 0}
	notPost    = answer{http.StatusMethodNotAllowed, "only POST", 0}
	replayed   = answer{http.StatusUnauthorized, "replayed", 0}
	tooLarge   = answer{http.StatusRequestEntityTooLarge, "too large", 0}
	rejected   = answer{http.StatusUnprocessableEntity, "rejected", 0}
	setLost    = answer{http.StatusFailedDependency, "earlier chunks are missing", 0}
	failed     = answer{http.StatusInternalServerError, "not handled", 0}
	busy       = answer{http.StatusServiceUnavailable, "being handled", 1}
	keyless    = answer{http.StatusServiceUnavailable, "keys not known", 10}
	full       = answer{http.StatusServiceUnavailable, "full", 5}
)

// ServeHTTP answers one request of a sender.
func (rc *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := rc.serve(w, r)
	if a.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.after))
	}
	switch a.status {
	case http.StatusNoContent:
		w.WriteHeader(a.status)
		return
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(a.status)
	io.WriteString(w, a.text+"\n")
}

func (rc *Receiver) serve(w http.ResponseWriter, r *http.Request) answer {
	if r.Method != http.MethodPost {
		return notPost
	}
	select {
	case rc.slots <- struct{}{}:
		defer func() { <-rc.slots }()
	default:
		return full
	}
	body, refused := rc.read(w, r)
	if refused.status != 0 {
		return refused
	}
	v, err := rc.verify.VerifyRequest(r, body)
	switch {
	case errors.Is(err, signer.ErrMalformed):
		return malformed
	case errors.Is(err, ErrKeysUnknown):
		return keyless
	case err != nil:
		return unverified
	}
	d := Delivery{
		ID: v.ID, Time: v.Time, KeyID: v.KeyID, ContentType: r.Header.Get("Content-Type"), Body: body, Header: r.Header,
	}
	if v.Chunk != "" {
		return rc.chunk(r.Context(), v, d)
	}
	if rc.stripped(v, body) {
		return malformed
	}
	return rc.once(r.Context(), v.ReplayKey, rc.identity(v), func(ctx context.Context) answer { return rc.hand(ctx, d) })
}

// identity is what tells one delivery from another: its id; where a sender gives none, the attempt. Under a replayable
// scheme each attempt is the same signed content, and an id that nobody signed must not make another delivery of it.
func (rc *Receiver) identity(v signer.Verified) string {
	if v.ID == "" || rc.facts.Replayable {
		return v.ReplayKey
	}
	return v.ID
}

// read reads the body within its bounds of size and time.
func (rc *Receiver) read(w http.ResponseWriter, r *http.Request) ([]byte, answer) {
	if r.ContentLength > int64(rc.options.MaxBody) {
		return nil, tooLarge
	}
	control := http.NewResponseController(w)
	// A server that cannot set a deadline has its own, or is a test's recorder: then there is no other bound on time.
	bounded := control.SetReadDeadline(time.Now().Add(rc.options.ReadTimeout)) == nil
	body := make([]byte, 0, min(max(r.ContentLength, 512), trustedLength))
	in := http.MaxBytesReader(w, r.Body, int64(rc.options.MaxBody))
	for {
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
		n, err := in.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF {
			break
		}
		var over *http.MaxBytesError
		if errors.As(err, &over) {
			return nil, tooLarge
		}
		if err != nil {
			return nil, malformed // nobody is left to read the answer, as a rule
		}
	}
	if bounded {
		_ = control.SetReadDeadline(time.Time{}) // fails only where the connection is gone
	}
	return body, answer{}
}

// once runs do unless the delivery was handled before, and remembers if do handled it.
func (rc *Receiver) once(ctx context.Context, attempt, id string, do func(context.Context) answer) (a answer) {
	status, err := rc.options.Seen.Begin(ctx, attempt, id)
	switch {
	case err != nil:
		return full
	case status == Replayed && rc.facts.Replayable:
		return duplicate // a retry and a replay are the same bytes
	case status == Replayed:
		return replayed
	case status == Handled:
		return duplicate
	case status != First:
		return busy
	}
	done := false
	defer func() { // also where OnEvent panics
		// The memory of what was handled must not be lost because the sender has gone.
		if err := rc.options.Seen.End(context.WithoutCancel(ctx), attempt, id, done); err != nil && done {
			a = failed
		}
	}()
	a = do(ctx)
	done = a == handled
	return a
}

// hand gives a delivery to OnEvent.
func (rc *Receiver) hand(ctx context.Context, d Delivery) answer {
	err := rc.options.OnEvent(ctx, d)
	switch {
	case errors.Is(err, ErrRejected):
		return rejected
	case err != nil:
		return failed
	}
	return handled
}

// chunk takes one chunk, and hands the delivery over when it was the last.
func (rc *Receiver) chunk(ctx context.Context, v signer.Verified, d Delivery) answer {
	h, err := chunk.ParseHeader(v.Chunk)
	if err != nil {
		return malformed
	}
	if rc.facts.CoversID {
		// The id is signed and the header may not be: they must say the same.
		if id, err := chunk.ParseChunkID(v.ID); err != nil || !id.Names(h) {
			return malformed
		}
	}
	d.ID, d.Chunks = h.Set, h.Total
	// All chunks of a set share one id, so that only one of them is worked on at a time.
	return rc.once(ctx, v.ReplayKey, h.Set, func(ctx context.Context) answer {
		whole, a := rc.sets.add(h, d.Body)
		if whole == nil {
			return a
		}
		d.Body = whole
		if a = rc.hand(ctx, d); a == handled || a == rejected {
			rc.sets.drop(h.Set)
		}
		return a
	})
}
