package journal

import (
	"encoding/binary"
	"errors"
	"time"
)

// frame is what an event's record carries before its payload: the digest of its
// content, by which a repeat is told from a conflict, and the time it was
// accepted, which a repeat is answered with.
//
//	version 1 (1 byte) | time, ns since 1970 (8, big endian) | digest (32) | payload
type frame struct {
	time   time.Time
	digest [32]byte
}

const (
	frameVersion = 1
	frameBytes   = 1 + 8 + 32
)

func appendFrame(b []byte, f frame, payload []byte) []byte {
	b = append(b, frameVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(f.time.UnixNano()))
	b = append(b, f.digest[:]...)
	return append(b, payload...)
}

func unframe(b []byte) (frame, []byte, error) {
	if len(b) < frameBytes || b[0] != frameVersion {
		return frame{}, nil, errors.New("not an event's frame")
	}
	f := frame{time: time.Unix(0, int64(binary.BigEndian.Uint64(b[1:]))).UTC()}
	copy(f.digest[:], b[9:])
	return f, b[frameBytes:], nil
}
