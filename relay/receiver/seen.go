package receiver

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// Status is what Seen knows of a delivery that has come in.
type Status uint8

// The statuses. Any value that is none of these counts as Busy.
const (
	First    Status = iota + 1 // it may be handled, and is now begun
	Replayed                   // this very attempt was handled: somebody sends a recorded request again
	Handled                    // another attempt of the delivery was handled: an answer was lost
	Busy                       // an attempt of the delivery is begun and not ended
)

// Seen remembers which deliveries were handled. An implementation that several processes share makes them handle each
// delivery once between them; one that outlives a restart does so over restarts. It is called from many goroutines.
type Seen interface {
	// Begin tells what is known of the attempt and of the delivery, and where that is First marks the delivery as begun,
	// in one step. A delivery that was begun by a process that has died must become First again after a while. An error
	// refuses the request, and the sender repeats it.
	Begin(ctx context.Context, attempt, id string) (Status, error)
	// End ends what Begin called First. Where handled is true both are remembered, the attempt for at least twice the
	// verifier's tolerance, durably before End returns if at all; else the delivery is as if it had never been begun. Under a
	// replayable scheme no time ends what a recorded delivery is good for: remember the id, which is the body's digest there, for as
	// long as the key is trusted.
	End(ctx context.Context, attempt, id string, handled bool) error
}

// ErrSeenFull is the error of a Memory that could not refuse a replay of what it is about to handle.
var ErrSeenFull = errors.New("receiver: too many attempts within the tolerance")

// MemoryOptions bound a Memory.
type MemoryOptions struct {
	Tolerance   time.Duration // the verifier's; attempts are remembered for twice as long; 0: signer.DefaultTolerance
	Keep        time.Duration // how long ids are remembered; 0: 24 h
	MaxAttempts int           // past it, Begin fails until some have expired; 0: 1<<20. Some 80 bytes each
	MaxIDs      int           // past it, the oldest are forgotten early; 0: 1<<20. Some 80 bytes each
}

// Memory is a Seen for one process, in its memory.
type Memory struct {
	mu       sync.Mutex // guards all below
	begun    map[key]struct{}
	attempts window
	ids      window
}

// key stands for a text of any length: the first half of its SHA-256.
type key [16]byte

func keyOf(text string) key {
	sum := sha256.Sum256([]byte(text))
	return key(sum[:16])
}

// NewMemory returns an empty Memory. It starts nothing.
func NewMemory(options MemoryOptions) *Memory {
	if options.Tolerance <= 0 {
		options.Tolerance = signer.DefaultTolerance
	}
	if options.Keep <= 0 {
		options.Keep = 24 * time.Hour
	}
	if options.MaxAttempts <= 0 {
		options.MaxAttempts = 1 << 20
	}
	if options.MaxIDs <= 0 {
		options.MaxIDs = 1 << 20
	}
	return &Memory{
		begun:    map[key]struct{}{},
		attempts: newWindow(2*options.Tolerance+time.Second, options.MaxAttempts), // the signed time has whole seconds
		ids:      newWindow(options.Keep, options.MaxIDs),
	}
}

// Begin is as Seen has it. Its only error is ErrSeenFull.
func (m *Memory) Begin(_ context.Context, attempt, id string) (Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.attempts.expire(now)
	m.ids.expire(now)
	a, d := keyOf(attempt), keyOf(id)
	if m.attempts.has(a) {
		return Replayed, nil
	}
	if _, ok := m.begun[d]; ok {
		return Busy, nil
	}
	if m.ids.has(d) {
		if m.attempts.room(len(m.begun)) {
			m.attempts.add(a, now)
		}
		return Handled, nil
	}
	// What is begun will want to be remembered.
	if !m.attempts.room(len(m.begun)) {
		return 0, ErrSeenFull
	}
	m.begun[d] = struct{}{}
	return First, nil
}

// End is as Seen has it. It returns no error.
func (m *Memory) End(_ context.Context, attempt, id string, handled bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := keyOf(id)
	delete(m.begun, d)
	if !handled {
		return nil
	}
	now := time.Now()
	m.attempts.add(keyOf(attempt), now)
	if !m.ids.room(0) {
		m.ids.forget()
	}
	m.ids.add(d, now)
	return nil
}

// window is a set whose members leave it after a time. They all stay equally long, so that the order in which they came
// is that in which they go.
type window struct {
	stay  time.Duration
	max   int
	in    map[key]struct{}
	order []member // a queue; the first is at head
	head  int
}

type member struct {
	key   key
	until time.Time
}

func newWindow(stay time.Duration, max int) window {
	return window{stay: stay, max: max, in: map[key]struct{}{}}
}

func (w *window) has(k key) bool {
	_, ok := w.in[k]
	return ok
}

func (w *window) room(reserved int) bool { return len(w.in)+reserved < w.max }

func (w *window) add(k key, now time.Time) {
	if w.has(k) {
		return
	}
	w.in[k] = struct{}{}
	w.order = append(w.order, member{k, now.Add(w.stay)})
}

func (w *window) expire(now time.Time) {
	for w.head < len(w.order) && !now.Before(w.order[w.head].until) {
		w.forget()
	}
}

// forget drops the oldest. The queue's front is given back once it is the larger part.
func (w *window) forget() {
	delete(w.in, w.order[w.head].key)
	w.head++
	if w.head > len(w.order)/2 {
		w.order = append(w.order[:0], w.order[w.head:]...)
		w.head = 0
	}
}
