package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/sealpost/sealpost/relay"
)

// checkpointVersion begins every checkpoint. A reader refuses another one.
const checkpointVersion = 1

// ErrCheckpoint is what Restore answers for bytes that are no checkpoint of this version. The state can then be had by
// folding OUTCOMES from its beginning.
var ErrCheckpoint = errors.New("not a checkpoint of this version")

// Checkpoint encodes the state: the cursor, and the recorded open deliveries. What is new or only deferred is
// left out: its events are above the cursor and will be routed again. Take it when the last record is Whole, and save it
// only after OUTCOMES is synced up to Folded.
func (s *State) Checkpoint() []byte {
	b := []byte{checkpointVersion}
	b = binary.AppendUvarint(b, s.Cursor())
	b = binary.AppendUvarint(b, s.FoldFrom())
	b = binary.AppendUvarint(b, s.folded)

	ids := make([]string, 0, len(s.endpoints))
	counts, all := make(map[string]uint64, len(s.endpoints)), uint64(0)
	for id, ep := range s.endpoints {
		if n := ep.recorded(); n > 0 {
			ids = append(ids, id)
			counts[id] = n
			all += n
		}
	}
	slices.Sort(ids)
	b = slices.Grow(b, int(8*all)) // nearly all entries are shorter
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendString(b, id)
		b = binary.AppendUvarint(b, counts[id])
		b = s.appendEntries(b, id)
	}
	return b
}

// recorded counts the entries that a checkpoint holds.
func (ep *endpoint) recorded() uint64 {
	count := uint64(0)
	ep.open.ascend(0, func(e *entry) bool {
		if e.flags&flagUnrecorded == 0 {
			count++
		}
		return true
	})
	return count
}

func (s *State) appendEntries(b []byte, id string) []byte {
	last := uint64(0)
	s.endpoints[id].open.ascend(0, func(e *entry) bool {
		if e.flags&flagUnrecorded != 0 {
			return true
		}
		k := Key{e.seq, id}
		b = binary.AppendUvarint(b, e.seq-last)
		last = e.seq
		b = binary.AppendUvarint(b, uint64(e.deadline))
		progress, chunked := s.progress[k]
		b = binary.AppendUvarint(b, uint64(e.attempts)<<3|flag(chunked)<<2|uint64(e.waits()))
		if e.waits() == Waiting {
			b = binary.AppendVarint(b, s.due[k])
		}
		if chunked {
			b = append(b, progress.Digest[:]...)
			b = binary.AppendUvarint(b, uint64(progress.Next))
			b = binary.AppendUvarint(b, uint64(progress.Total))
		}
		return true
	})
	return b
}

// Restore decodes a checkpoint, and nothing but what Checkpoint can have written. Fold the outcomes after foldFrom next.
// What was in a lane or in flight is again what it was before.
func Restore(b []byte) (s *State, foldFrom uint64, err error) {
	d := decoder{b: b}
	if version := d.byte(); version != checkpointVersion {
		return nil, 0, fmt.Errorf("%w: version %d", ErrCheckpoint, version)
	}
	s = New(d.uvarint(math.MaxInt64))
	s.floor = d.uvarint(math.MaxInt64)
	s.folded = d.uvarint(math.MaxInt64)
	s.whole = s.folded
	d.check(s.floor <= s.folded)
	last := ""
	for n := d.uvarint(math.MaxInt64); n > 0 && !d.failed; n-- {
		id := d.string()
		d.check(id > last) // so none is empty, and none comes twice
		last = id
		d.entries(s, id)
	}
	d.check(len(d.b) == 0)
	if d.failed {
		return nil, 0, ErrCheckpoint
	}
	return s, s.floor, nil
}

// entries reads an endpoint's open deliveries.
func (d *decoder) entries(s *State, id string) {
	last, n := uint64(0), d.uvarint(math.MaxInt64)
	d.check(n > 0)
	for ; n > 0 && !d.failed; n-- {
		e := entry{seq: last + d.uvarint(math.MaxInt64)}
		d.check(e.seq > last && e.seq <= math.MaxInt64)
		last = e.seq
		k := Key{e.seq, id}
		e.deadline = uint32(d.uvarint(math.MaxUint32))
		packed := d.uvarint(math.MaxUint16<<3 | 7)
		e.attempts = uint16(packed >> 3)
		e.setWaits(Status(packed & waitsMask))
		d.check(e.waits() != Busy)
		var due int64
		if e.waits() == Waiting {
			due = d.varint()
		}
		var p relay.Progress
		if packed&(1<<2) != 0 {
			copy(p.Digest[:], d.take(len(p.Digest)))
			p.Next, p.Total = int(d.uvarint(math.MaxInt32)), int(d.uvarint(math.MaxInt32))
			d.check(p.Next > 0)
		}
		if d.failed {
			return
		}
		s.put(k, e)
		if e.waits() == Waiting {
			s.wait(k, due)
		}
		if p.Next > 0 {
			s.progress[k] = p
		}
	}
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads a checkpoint; after the first failure everything reads as zero.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) take(n int) []byte {
	if d.failed || n < 0 || n > len(d.b) {
		d.failed = true
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

// check fails the decoder unless a rule holds.
func (d *decoder) check(holds bool) { d.failed = d.failed || !holds }

// uvarint reads a number of at most most, in its shortest form.
func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	d.check(n > 0 && (n == 1 || d.b[n-1] != 0) && v <= most)
	if d.failed {
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	d.check(n > 0 && (n == 1 || d.b[n-1] != 0))
	if d.failed {
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) string() string {
	n := d.uvarint(uint64(len(d.b)))
	return string(d.take(int(n)))
}
