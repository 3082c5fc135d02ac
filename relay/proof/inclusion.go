package proof

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Inclusion shows that a record stands in the log. Its text is a c2sp.org/tlog-proof with the record as its extra data:
//
//	c2sp.org/tlog-proof@v1
//	extra <base64 of the record as it is stored>
//	index <place in the log, from 0>
//	<base64 of a hash>, a line each
//
//	<signed checkpoint>
type Inclusion struct {
	Index      int64
	Record     []byte
	Path       []Hash
	Checkpoint []byte // the signed note
}

const inclusionMagic = "c2sp.org/tlog-proof@v1"

// IsInclusion tells whether a text begins as an inclusion proof does.
func IsInclusion(text []byte) bool { return bytes.HasPrefix(text, []byte(inclusionMagic+"\n")) }

// Format is the proof's text.
func (p Inclusion) Format() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", inclusionMagic, base64.StdEncoding.EncodeToString(p.Record), p.Index)
	formatPath(&b, p.Path)
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return []byte(b.String())
}

// ParseInclusion reads a proof's text. It verifies nothing.
func ParseInclusion(text []byte) (p Inclusion, err error) {
	fail := func(why string) (Inclusion, error) {
		return Inclusion{}, fmt.Errorf("inclusion proof: %w: %s", ErrFormat, why)
	}
	if len(text) > MaxProof {
		return fail(fmt.Sprintf("larger than %d bytes", MaxProof))
	}
	head, rest, ok := lines(text)
	if !ok || len(head) < 3 || head[0] != inclusionMagic || len(rest) == 0 || len(rest) > MaxCheckpoint {
		return fail("want " + inclusionMagic + ", extra, index, hashes, an empty line and a checkpoint")
	}
	record, ok := strings.CutPrefix(head[1], "extra ")
	if !ok {
		return fail("the second line is no extra")
	}
	if p.Record, err = base64.StdEncoding.Strict().DecodeString(record); err != nil || base64.StdEncoding.EncodeToString(p.Record) != record || len(p.Record) > MaxRecord {
		return fail("extra is no base64 of a record")
	}
	index, ok := strings.CutPrefix(head[2], "index ")
	if !ok {
		return fail("the third line is no index")
	}
	if p.Index, err = parseNumber(index); err != nil {
		return Inclusion{}, fmt.Errorf("inclusion proof: index: %w", err)
	}
	if p.Path, err = parsePath(head[3:]); err != nil {
		return Inclusion{}, fmt.Errorf("inclusion proof: %w", err)
	}
	p.Checkpoint = bytes.Clone(rest)
	return p, nil
}

// Verify answers the checkpoint in whose log the record stands at its index.
func (p Inclusion) Verify(k Key) (Checkpoint, error) {
	c, err := ParseCheckpoint(p.Checkpoint, k)
	if err != nil {
		return Checkpoint{}, err
	}
	if p.Index < 0 || p.Index >= c.Size {
		return Checkpoint{}, fmt.Errorf("inclusion proof: %w: the log has %d records, and none at index %d", ErrMismatch, c.Size, p.Index)
	}
	if err := tlog.CheckRecord(p.Path, c.Size, c.Root, p.Index, RecordHash(p.Record)); err != nil {
		return Checkpoint{}, fmt.Errorf("inclusion proof: %w: the record is not the one at index %d", ErrMismatch, p.Index)
	}
	return c, nil
}

// Consistency shows that a log goes on where an earlier checkpoint of it ended: nothing before was changed or taken out. Its text is that
// of a request to a witness (c2sp.org/tlog-witness):
//
//	old <size of the earlier checkpoint>
//	<base64 of a hash>, a line each
//
//	<signed checkpoint>
type Consistency struct {
	Old        int64
	Path       []Hash
	Checkpoint []byte // the signed note of the later one
}

// IsConsistency tells whether a text begins as a consistency proof does.
func IsConsistency(text []byte) bool { return bytes.HasPrefix(text, []byte("old ")) }

// Format is the proof's text.
func (p Consistency) Format() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "old %d\n", p.Old)
	formatPath(&b, p.Path)
	b.WriteByte('\n')
	b.Write(p.Checkpoint)
	return []byte(b.String())
}

// ParseConsistency reads a proof's text. It verifies nothing.
func ParseConsistency(text []byte) (p Consistency, err error) {
	head, rest, ok := lines(text)
	if len(text) > MaxProof || !ok || len(rest) == 0 || len(rest) > MaxCheckpoint {
		return p, fmt.Errorf("consistency proof: %w: want old, hashes, an empty line and a checkpoint", ErrFormat)
	}
	old, ok := strings.CutPrefix(head[0], "old ")
	if !ok {
		return p, fmt.Errorf("consistency proof: %w: the first line is no old", ErrFormat)
	}
	if p.Old, err = parseNumber(old); err != nil {
		return p, fmt.Errorf("consistency proof: old: %w", err)
	}
	if p.Path, err = parsePath(head[1:]); err != nil {
		return p, fmt.Errorf("consistency proof: %w", err)
	}
	p.Checkpoint = bytes.Clone(rest)
	return p, nil
}

// Verify answers the later checkpoint, whose log begins with all records of the earlier one.
func (p Consistency) Verify(k Key, old Checkpoint) (Checkpoint, error) {
	c, err := ParseCheckpoint(p.Checkpoint, k)
	if err != nil {
		return Checkpoint{}, err
	}
	switch {
	case old.Origin != c.Origin || old.Size != p.Old:
		err = fmt.Errorf("consistency proof: %w: it is for size %d, and the earlier checkpoint has size %d", ErrMismatch, p.Old, old.Size)
	case old.Size > c.Size:
		err = fmt.Errorf("consistency proof: %w: the log had %d records and has %d", ErrMismatch, old.Size, c.Size)
	case old.Size == 0:
		if old.Root != emptyRoot || len(p.Path) > 0 {
			err = fmt.Errorf("consistency proof: %w: the earlier root is not that of an empty log", ErrMismatch)
		}
	case old.Size == c.Size:
		if old.Root != c.Root || len(p.Path) > 0 {
			err = fmt.Errorf("consistency proof: %w: two roots of size %d", ErrMismatch, c.Size)
		}
	case tlog.CheckTree(p.Path, c.Size, c.Root, old.Size, old.Root) != nil:
		err = fmt.Errorf("consistency proof: %w: the log of %d records is not what the one of %d went on as", ErrMismatch, old.Size, c.Size)
	}
	if err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}
