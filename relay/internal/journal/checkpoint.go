package journal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// A checkpoint is a generation of parts, then a seal that holds their number and
// the digest of the whole:
//
//	'P' | generation (8 bytes) | data, at most 1 MiB
//	'S' | generation (8 bytes) | parts (4, big endian) | SHA-256 of all data (32)
//
// The newest generation whose seal fits its parts is the checkpoint. A process
// that dies before its seal is durable leaves parts without a seal, and the
// former generation in force, which is given up only after that point; one that
// dies while the former is given up leaves two, of which the newer is in force.
const (
	checkpointPart  = 'P'
	checkpointSeal  = 'S'
	checkpointChunk = 1 << 20 // far below any server's max_payload less our margin
	checkpointHead  = 1 + 8
)

// maxCheckpoint bounds one checkpoint; the log has room for three.
const maxCheckpoint = 512 << 20

// Checkpoints saves one owner's checkpoints of a partition. It is for one caller
// at a time.
type Checkpoints struct {
	l *Log
	a *Appender
}

// Checkpoints begins where the log of checkpoints ends now: once another owner
// has saved one, this one's are refused.
func (j *Journal) Checkpoints(ctx context.Context, p int) (*Checkpoints, error) {
	a, err := j.saves[p].windowed(ctx, saveWindow)
	if err != nil {
		return nil, err
	}
	return &Checkpoints{j.saves[p], a}, nil
}

// Close gives up what it holds. It does not wait.
func (c *Checkpoints) Close() { c.a.Close() }

// SaveCheckpoint is Save for who saves once.
func (j *Journal) SaveCheckpoint(ctx context.Context, p int, data []byte) error {
	c, err := j.Checkpoints(ctx, p)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Save(ctx, data)
}

// Save replaces the partition's checkpoint; it returns when the new one
// is durable. kill -9 at any moment leaves the former or the new one, whole.
// ErrFenced: another owner saved one. After an error nothing more can be saved
// with this one.
func (c *Checkpoints) Save(ctx context.Context, data []byte) error {
	l, a := c.l, c.a
	if len(data) > maxCheckpoint {
		return fmt.Errorf("%w: checkpoint of %d bytes, at most %d", ErrTooLarge, len(data), maxCheckpoint)
	}
	chunk := min(checkpointChunk, l.j.limit-checkpointHead)
	gen := make([]byte, 8)
	rand.Read(gen) // never fails
	first, parts := a.Last()+1, uint32(0)
	for rest := data; len(rest) > 0; parts++ {
		n := min(chunk, len(rest))
		record := bytes.Join([][]byte{{checkpointPart}, gen, rest[:n]}, nil)
		if _, err := a.Append(ctx, record); err != nil {
			return err
		}
		rest = rest[n:]
	}
	sum := sha256.Sum256(data)
	seal := bytes.Join([][]byte{{checkpointSeal}, gen, binary.BigEndian.AppendUint32(nil, parts), sum[:]}, nil)
	// Parts need not be durable before their seal: without one of them it does
	// not fit, and the former generation is still there.
	if _, err := a.Append(ctx, seal); err != nil {
		return err
	}
	if _, err := a.Sync(ctx); err != nil {
		return err
	}
	return l.trim(ctx, first-1)
}

// LoadCheckpoint returns partition p's checkpoint, and false if there is none.
func (j *Journal) LoadCheckpoint(ctx context.Context, p int) (data []byte, ok bool, err error) {
	l := j.saves[p]
	st, err := l.State(ctx)
	if err != nil {
		return nil, false, err
	}
	var gen []byte
	var parts uint32
	var body []byte
	read := uint64(0)
	err = l.Range(ctx, st.First, st.Last, func(m Message) error {
		read = m.Seq
		if len(m.Payload) < checkpointHead {
			return nil
		}
		kind, g, rest := m.Payload[0], m.Payload[1:checkpointHead], m.Payload[checkpointHead:]
		if !bytes.Equal(g, gen) {
			gen, parts, body = g, 0, nil
		}
		switch kind {
		case checkpointPart:
			parts++
			body = append(body, rest...)
		case checkpointSeal:
			if sealed(rest, parts, body) {
				data, ok = body, true
			}
			gen, parts, body = nil, 0, nil
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	if l.disk == nil && st.First <= st.Last && read != st.Last {
		// The server that answered lags behind: an older checkpoint, or none, may not go with what was trimmed since.
		return nil, false, fmt.Errorf("%w: checkpoints go to %d and were read to %d", ErrUnavailable, st.Last, read)
	}
	return data, ok, nil
}

func sealed(seal []byte, parts uint32, body []byte) bool {
	sum := sha256.Sum256(body)
	return len(seal) == 4+sha256.Size && binary.BigEndian.Uint32(seal) == parts && bytes.Equal(seal[4:], sum[:])
}
