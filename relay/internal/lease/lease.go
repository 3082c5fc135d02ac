// Package lease spreads the partitions of a journal over the relays that live, so that each partition has one owner at a time.
//
// What is kept, in one bucket: a session for each relay (relay/<id>), renewed at a third of its life, and a lease for each
// partition (partition/<n>), which names the session that holds it. A lease is good as long as its session is. Every write
// is a compare-and-set on the key's revision, so that who was overtaken learns it.
//
// It promises that two relays never both believe to hold a partition, as far as their clocks run at about the same rate: a
// relay counts its life from before the renewal that was confirmed last and stops counting a tenth early (Held), and
// another may end its session only a whole life after it saw that renewal, by a compare-and-set that fails if there was
// a later one. No wall clock is compared with another machine's. A clock that stands still, as a suspended machine's may, is
// not covered: there the log's own fence stops the writer (journal.Appender), and this package only makes it rare.
//
// What a crash leaves: a session that nobody renews; after its life another relay ends it, and its leases are free. Whoever
// dies between ending a session and taking its leases leaves them free for the next. A relay that stops says so first
// (leaving), gives back each lease when its owner has ended, and then its session: nobody waits for anything then.
//
// It trusts the bucket to be linear: of two writes on one revision one fails.
package lease

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// BucketName is the journal's bucket that leases are kept in.
const BucketName = "LEASES"

// The bounds of a session's life.
const (
	MinLife     = time.Second
	MaxLife     = 5 * time.Minute
	DefaultLife = 5 * time.Second
)

// ErrRecord is for a record that this version did not write.
var ErrRecord = errors.New("lease: not a record of this version")

const (
	relayKey     = "relay/"
	partitionKey = "partition/"
	version      = 1
)

// session is what a relay says of itself.
type session struct {
	Version int    `json:"version"`
	Name    string `json:"name"` // for people
	LifeMS  int64  `json:"lifeMs"`
	// Leaving: it takes no more, and gives back what it has.
	Leaving bool `json:"leaving,omitempty"`
	// Routed is, by partition, how far its events were routed when this was written.
	Routed map[int]uint64 `json:"routed,omitempty"`
}

func (s *session) life() time.Duration { return time.Duration(s.LifeMS) * time.Millisecond }

// holding is what stands in a partition's lease; no holder: it was given back.
type holding struct {
	Version int    `json:"version"`
	Holder  string `json:"holder,omitempty"`
}

func encode(record any) []byte {
	b, err := json.Marshal(record)
	if err != nil {
		panic("lease: " + err.Error()) // of numbers and strings
	}
	return b
}

func decodeSession(b []byte) (s session, err error) {
	if err := strict(b, &s); err != nil {
		return s, err
	}
	if s.Version != version || s.life() < MinLife || s.life() > MaxLife {
		return s, fmt.Errorf("%w: version %d, life %v", ErrRecord, s.Version, s.life())
	}
	return s, nil
}

func decodeHolding(b []byte) (h holding, err error) {
	if err := strict(b, &h); err != nil {
		return h, err
	}
	if h.Version != version {
		return h, fmt.Errorf("%w: version %d", ErrRecord, h.Version)
	}
	return h, nil
}

// strict decodes one JSON value, and nothing beside it. Members that are not known are left to later versions.
func strict(b []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if d.More() {
		return fmt.Errorf("%w: more than one value", ErrRecord)
	}
	return nil
}

func partitionOf(key string, partitions int) (int, bool) {
	text, ok := strings.CutPrefix(key, partitionKey)
	if !ok {
		return 0, false
	}
	p, err := strconv.Atoi(text)
	return p, err == nil && p >= 0 && p < partitions && strconv.Itoa(p) == text
}

func keyOf(p int) string { return partitionKey + strconv.Itoa(p) }
