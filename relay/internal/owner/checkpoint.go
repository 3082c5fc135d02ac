package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealpost/sealpost/relay"
)

// checkpointVersion begins every checkpoint. A reader refuses another one.
const checkpointVersion = 1

// ErrCheckpoint is what Restore answers for bytes that are no checkpoint of this version. The state can then be had by
// folding OUTCOMES from its beginning.
var ErrCheckpoint = errors.New("not a checkpoint of this version")

// Checkpoint encodes the state: the cursor, and the recorded open deliveries. What is new or only deferred is
// left out: its events are above the cursor and will be routed again. Save it only after OUTCOMES is synced up to Folded.
func (s *State) Checkpoint() []byte {
	b := []byte{checkpointVersion}
	b = binary.AppendUvarint(b, s.Cursor())
	b = binary.AppendUvarint(b, s.FoldFrom())
	b = binary.AppendUvarint(b, s.folded)

	ids := s.Endpoints()
	slices.Sort(ids)
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendString(b, id)
		b = s.appendEntries(b, id)
	}
	return b
}

func (s *State) appendEntries(b []byte, id string) []byte {
	open := &s.endpoints[id].open
	count := uint64(0)
	open.ascend(0, func(e *entry) bool {
		if e.flags&flagUnrecorded == 0 {
			count++
		}
		return true
	})
	b = binary.AppendUvarint(b, count)
	last := uint64(0)
	open.ascend(0, func(e *entry) bool {
		if e.flags&flagUnrecorded != 0 {
			return true
		}
		k := Key{e.seq, id}
		b = binary.AppendUvarint(b, e.seq-last)
		last = e.seq
		b = binary.AppendUvarint(b, uint64(e.deadline))
		progress, chunked := s.progress[k]
		b = binary.AppendUvarint(b, uint64(e.attempts)<<3|flag(chunked)<<2|uint64(e.status()))
		if e.status() == Waiting {
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

// Restore decodes a checkpoint. Fold the outcomes after the state's FoldFrom next. What was in a lane or in flight is
// Ready again.
func Restore(b []byte) (*State, uint64, error) {
	d := decoder{b: b}
	if version := d.byte(); version != checkpointVersion {
		return nil, 0, fmt.Errorf("%w: version %d", ErrCheckpoint, version)
	}
	s := New(d.uvarint())
	foldFrom := d.uvarint()
	s.folded = d.uvarint()
	for range d.uvarint() {
		if d.failed {
			break
		}
		id := d.string()
		seq := uint64(0)
		for range d.uvarint() {
			if d.failed {
				break
			}
			seq = d.entry(s, id, seq)
		}
	}
	if d.failed || len(d.b) > 0 || foldFrom > s.folded {
		return nil, 0, ErrCheckpoint
	}
	return s, foldFrom, nil
}

func (d *decoder) entry(s *State, id string, last uint64) uint64 {
	e := entry{seq: last + d.uvarint(), deadline: uint32(d.uvarint())}
	k := Key{e.seq, id}
	packed := d.uvarint()
	e.attempts = uint16(packed >> 3)
	status := Status(packed & statusMask)
	if status == Busy {
		status = Ready
	}
	e.setStatus(status)
	if status == Waiting {
		s.wait(k, time.Unix(0, d.varint()))
	}
	if packed&(1<<2) != 0 {
		var p relay.Progress
		copy(p.Digest[:], d.take(len(p.Digest)))
		p.Next, p.Total = int(d.uvarint()), int(d.uvarint())
		s.progress[k] = p
	}
	if !d.failed {
		s.put(k, e)
	}
	return e.seq
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

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.failed = true
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.failed = true
		return 0
	}
	d.take(n)
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.failed = true
		return ""
	}
	return string(d.take(int(n)))
}
