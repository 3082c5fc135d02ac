package receiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealpost/sealpost/relay/chunk"
	"github.com/sealpost/sealpost/signer"
)

// ChunkOptions bound what is held of deliveries that come in chunks. What is held is held in memory: after a restart
// the sender is told (424) to begin its set again.
type ChunkOptions struct {
	MaxBytes int           // of one delivery put together; 0: 64 MiB
	MaxTotal int           // chunks of one delivery; 0: 4096
	MaxSets  int           // deliveries at once; 0: 64
	MaxHeld  int           // bytes of all of them; 0: 256 MiB
	MinIdle  time.Duration // how long a set is left alone by its sender before it gives way to another; 0: 1 min
}

// sets holds the deliveries of which not all chunks have come.
type sets struct {
	options ChunkOptions
	member  bool // only the bodies are signed: each must say its framing

	mu   sync.Mutex // guards all below, and each set's fields but for its joiner
	byID map[string]*set
	held int
}

// set is one delivery in the making. Its joiner and whole belong to the one request that has begun the delivery in Seen.
type set struct {
	of     chunk.Header // of its first chunk
	joiner *chunk.Joiner
	whole  []byte // once it is complete, until it was handed over
	kept   int    // chunks, in order from the first
	size   int    // bytes
	used   time.Time
}

func newSets(options ChunkOptions, member bool) (*sets, error) {
	for _, bound := range []struct {
		value     *int
		otherwise int
	}{{&options.MaxBytes, 64 << 20}, {&options.MaxTotal, 4096}, {&options.MaxSets, 64}, {&options.MaxHeld, 256 << 20}} {
		if *bound.value < 0 {
			return nil, fmt.Errorf("%w: a bound of Chunks is negative", ErrOptions)
		}
		if *bound.value == 0 {
			*bound.value = bound.otherwise
		}
	}
	if options.MinIdle < 0 || options.MaxTotal > chunk.MaxTotal {
		return nil, fmt.Errorf("%w: Chunks", ErrOptions)
	}
	if options.MinIdle == 0 {
		options.MinIdle = time.Minute
	}
	return &sets{options: options, member: member, byID: map[string]*set{}}, nil
}

// add takes a chunk into its set. With the last one it returns the whole; before that, what to answer. The caller
// makes sure that only one chunk of a set is added at a time.
func (ss *sets) add(h chunk.Header, body []byte) ([]byte, answer) {
	s, a := ss.place(h, len(body))
	if s == nil {
		return nil, a
	}
	if s.whole != nil { // handing it over failed: the last chunk has come again
		return s.whole, answer{}
	}
	done, whole, err := s.joiner.Add(h, body)
	switch {
	case errors.Is(err, chunk.ErrDuplicate):
		return nil, kept
	case err != nil:
		ss.undo(s, h.Set, len(body), errors.Is(err, chunk.ErrDigest))
		if errors.Is(err, chunk.ErrTooLarge) {
			return nil, tooLarge
		}
		return nil, malformed
	}
	ss.mu.Lock()
	s.kept, s.used = max(s.kept, h.Index), time.Now()
	ss.mu.Unlock()
	if !done {
		return nil, kept
	}
	s.whole = whole
	return whole, answer{}
}

// place finds the chunk's set, or begins it with the first chunk, and sets its bytes aside.
func (ss *sets) place(h chunk.Header, size int) (*set, answer) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	s := ss.byID[h.Set]
	if s != nil && (s.of.Digest != h.Digest || s.of.Total != h.Total) {
		// The delivery has changed since, and its sender begins again: what was kept of it is of no use.
		ss.remove(h.Set)
		s = nil
	}
	// Chunks come in order, so that a gap is a set that was lost, here or there.
	if s == nil && h.Index > 1 || s != nil && h.Index > s.kept+1 {
		return nil, setLost
	}
	if h.Total > ss.options.MaxTotal || size > ss.options.MaxBytes {
		return nil, tooLarge
	}
	if s != nil && (s.whole != nil || h.Index <= s.kept) {
		return s, answer{} // a repeat takes no room
	}
	if !ss.makeRoom(h.Set, size, s == nil) {
		return nil, full
	}
	if s == nil {
		s = &set{of: h, joiner: chunk.NewJoiner(chunk.JoinOptions{
			MaxBytes: ss.options.MaxBytes, MaxTotal: ss.options.MaxTotal, RequireMember: ss.member,
		})}
		ss.byID[h.Set] = s
	}
	s.size += size
	s.used = time.Now()
	ss.held += size
	return s, answer{}
}

// makeRoom lets sets go that their senders have left alone, the longest first, until there is room.
func (ss *sets) makeRoom(id string, size int, another bool) bool {
	for {
		if ss.held+size <= ss.options.MaxHeld && (!another || len(ss.byID) < ss.options.MaxSets) {
			return true
		}
		oldest := ""
		for other, s := range ss.byID {
			if other != id && (oldest == "" || s.used.Before(ss.byID[oldest].used)) {
				oldest = other
			}
		}
		if oldest == "" || time.Since(ss.byID[oldest].used) < ss.options.MinIdle {
			return false
		}
		ss.remove(oldest)
	}
}

// undo takes back what place set aside for a chunk that was not kept; lost also lets the set go.
func (ss *sets) undo(s *set, id string, size int, lost bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.byID[id] != s {
		return
	}
	if lost || s.kept == 0 {
		ss.remove(id)
		return
	}
	s.size -= size
	ss.held -= size
}

func (ss *sets) drop(id string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.remove(id)
}

func (ss *sets) remove(id string) {
	if s := ss.byID[id]; s != nil {
		ss.held -= s.size
		delete(ss.byID, id)
	}
}

// stripped tells whether a delivery that calls itself whole was signed as a chunk: somebody on the way took the
// header off, which not every scheme signs, to pass a page for the whole.
func (rc *Receiver) stripped(v signer.Verified, body []byte) bool {
	if rc.facts.CoversChunk {
		return false
	}
	if rc.facts.CoversID {
		_, err := chunk.ParseChunkID(v.ID)
		return err == nil
	}
	// The envelope's last member is all that says it.
	const member = `,"chunk":`
	at := bytes.LastIndex(body, []byte(member+`{"set":`))
	if at < 0 || body[len(body)-1] != '}' {
		return false
	}
	return json.Valid(body[at+len(member) : len(body)-1])
}
