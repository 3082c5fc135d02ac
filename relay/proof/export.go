package proof

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// An export is the records of a log, a JSON object a line. The first says what it is of:
//
//	{"format":"sealpost-audit-export@v1","checkpoint":"<signed note>","first":0,"tops":[]}
//	{"index":0,"record":"<base64>"}
//	...
//
// "first" is the index of the first record in it. Where earlier ones are gone, as after their retention, "tops" are the hashes that
// stand for them (see Range), so that the rest can be shown to belong to the checkpoint all the same.

const exportFormat = "sealpost-audit-export@v1"

type exportHead struct {
	Format     string `json:"format"`
	Checkpoint string `json:"checkpoint"`
	First      int64  `json:"first"`
	Tops       []Hash `json:"tops"`
}

type exportLine struct {
	Index  int64  `json:"index"`
	Record []byte `json:"record"`
}

// maxLine bounds a line of an export or of a file of checkpoints, in bytes.
const maxLine = MaxRecord/3*4 + 64<<10

// ExportWriter writes an export.
type ExportWriter struct {
	w    *bufio.Writer
	next int64
}

// NewExportWriter begins an export of the records from first on.
func NewExportWriter(w io.Writer, checkpoint []byte, first int64, tops []Hash) (*ExportWriter, error) {
	if tops == nil {
		tops = []Hash{}
	}
	e := &ExportWriter{bufio.NewWriter(w), first}
	return e, e.line(exportHead{exportFormat, string(checkpoint), first, tops})
}

func (e *ExportWriter) line(v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		_, err = e.w.Write(append(text, '\n'))
	}
	return err
}

// Add adds the next record.
func (e *ExportWriter) Add(record []byte) error {
	e.next++
	return e.line(exportLine{e.next - 1, record})
}

// Close writes what is left; an export that is not closed is not whole.
func (e *ExportWriter) Close() error { return e.w.Flush() }

// Exported is what an export was found to hold.
type Exported struct {
	Checkpoint Checkpoint
	First      int64 // index of the first record in it
	// Known are the checkpoints compared with, and Unknown those of a size that the export has no records of.
	Known, Unknown int
}

// VerifyExport reads an export, recomputes the tree, and compares it with the signed checkpoint and with the known ones, which may be of any earlier
// size. It calls each, if it is not nil, with every record; the records are shown to be the log's only once VerifyExport has returned without an
// error.
func VerifyExport(from io.Reader, k Key, known []Checkpoint, each func(index int64, record []byte) error) (out Exported, err error) {
	in := newLineReader(from)
	text, err := in.next()
	if err != nil {
		return out, fmt.Errorf("export: %w", noLine(err))
	}
	var head exportHead
	if err := strict(text, &head); err != nil || head.Format != exportFormat {
		return out, fmt.Errorf("export: %w: the first line is not of %s", ErrFormat, exportFormat)
	}
	if out.Checkpoint, err = ParseCheckpoint([]byte(head.Checkpoint), k); err != nil {
		return out, fmt.Errorf("export: %w", err)
	}
	tree, err := NewRange(head.First, head.Tops)
	if err != nil {
		return out, fmt.Errorf("export: %w", err)
	}
	out.First = head.First
	at := comparer{known: slices.Clone(known)}
	slices.SortFunc(at.known, func(a, b Checkpoint) int { return int(min(1, max(-1, a.Size-b.Size))) })
	if err := at.reach(tree, out.Checkpoint.Origin); err != nil {
		return out, err
	}
	for tree.Size() < out.Checkpoint.Size {
		text, err := in.next()
		if err != nil {
			return out, fmt.Errorf("export: record %d: %w", tree.Size(), noLine(err))
		}
		var line exportLine
		if err := strict(text, &line); err != nil || len(line.Record) > MaxRecord {
			return out, fmt.Errorf("export: %w: line of record %d", ErrFormat, tree.Size())
		}
		if line.Index != tree.Size() {
			return out, fmt.Errorf("export: %w: record %d stands where %d is to", ErrMismatch, line.Index, tree.Size())
		}
		tree.Add(RecordHash(line.Record))
		if err := at.reach(tree, out.Checkpoint.Origin); err != nil {
			return out, err
		}
		if each != nil {
			if err := each(line.Index, line.Record); err != nil {
				return out, err
			}
		}
	}
	if _, err := in.next(); !errors.Is(err, io.EOF) {
		return out, fmt.Errorf("export: %w: more records than the %d that were signed", ErrMismatch, out.Checkpoint.Size)
	}
	if tree.Size() != out.Checkpoint.Size || tree.Root() != out.Checkpoint.Root {
		return out, fmt.Errorf("export: %w: a record was changed, moved or taken out", ErrMismatch)
	}
	out.Known, out.Unknown = at.compared, at.passed
	return out, at.rest(out.Checkpoint)
}

// comparer compares a growing tree with checkpoints of known sizes.
type comparer struct {
	known            []Checkpoint // by size; those still to come
	compared, passed int
}

// reach compares those of the tree's present size.
func (c *comparer) reach(tree *Range, origin string) error {
	for len(c.known) > 0 && c.known[0].Size <= tree.Size() {
		one := c.known[0]
		c.known = c.known[1:]
		if one.Size < tree.Size() {
			c.passed++ // before the first record that is here
			continue
		}
		if one.Origin != origin || one.Root != tree.Root() {
			return fmt.Errorf("%w: the checkpoint of size %d is of other records", ErrMismatch, one.Size)
		}
		c.compared++
	}
	return nil
}

// rest are those of sizes that the log does not have.
func (c *comparer) rest(now Checkpoint) error {
	if len(c.known) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the log had %d records once, and has %d", ErrMismatch, c.known[0].Size, now.Size)
}

func noLine(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends here", ErrMismatch)
	}
	return err
}

// strict reads one JSON object without members that are not known.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return ErrFormat
	}
	return nil
}

// lineReader reads lines of bounded length.
type lineReader struct{ s *bufio.Scanner }

func newLineReader(r io.Reader) lineReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	return lineReader{s}
}

// next is the next line; io.EOF after the last.
func (l lineReader) next() ([]byte, error) {
	if l.s.Scan() {
		return l.s.Bytes(), nil
	}
	if errors.Is(l.s.Err(), bufio.ErrTooLong) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrFormat, maxLine)
	} else if l.s.Err() != nil {
		return nil, l.s.Err()
	}
	return nil, io.EOF
}

// Published is a checkpoint as it was written to a place outside: one line of its file.
type Published struct {
	Time       time.Time `json:"time"`
	Checkpoint string    `json:"checkpoint"` // the signed note
}

// FormatPublished is a line of a file of checkpoints, with its end.
func FormatPublished(p Published) ([]byte, error) {
	text, err := json.Marshal(p)
	return append(text, '\n'), err
}

// IsLines tells whether a text begins as an export or a file of checkpoints does.
func IsLines(text []byte) bool { return bytes.HasPrefix(text, []byte("{")) }

// IsExport tells whether a text begins as an export does.
func IsExport(text []byte) bool { return bytes.HasPrefix(text, []byte(`{"format":"`+exportFormat+`"`)) }

// ParsePublished reads a line of a file of checkpoints and verifies it.
func ParsePublished(line []byte, k Key) (p Published, c Checkpoint, err error) {
	if err := strict(line, &p); err != nil {
		return p, c, fmt.Errorf("published checkpoint: %w", ErrFormat)
	}
	c, err = ParseCheckpoint([]byte(p.Checkpoint), k)
	return p, c, err
}

// ReadPublished reads a file of checkpoints. Lines that cannot be read are passed over and counted: a process that was killed while it wrote
// leaves one. One that another key signed, or of a log that became shorter or other than it was, is an ErrSignature or ErrMismatch; what was read
// until then is returned with it. (That a log of another size goes on where an earlier one ended takes its records, or a consistency proof, to see.)
func ReadPublished(from io.Reader, k Key) (all []Checkpoint, damaged int, err error) {
	in := newLineReader(from)
	for n := 1; ; n++ {
		text, err := in.next()
		if errors.Is(err, io.EOF) {
			return all, damaged, nil
		} else if err != nil {
			return all, damaged, err
		}
		_, c, err := ParsePublished(text, k)
		switch {
		case errors.Is(err, ErrFormat):
			damaged++
			continue
		case err != nil:
			return all, damaged, fmt.Errorf("line %d: %w", n, err)
		}
		if len(all) > 0 {
			was := all[len(all)-1]
			if c.Size < was.Size {
				return all, damaged, fmt.Errorf("line %d: %w: the log had %d records and then %d", n, ErrMismatch, was.Size, c.Size)
			}
			if c.Size == was.Size && c.Root != was.Root {
				return all, damaged, fmt.Errorf("line %d: %w: two roots of size %d", n, ErrMismatch, c.Size)
			}
			if c == was {
				continue
			}
		}
		all = append(all, c)
	}
}

// FormatHash is a hash as texts have it.
func FormatHash(h Hash) string { return base64.StdEncoding.EncodeToString(h[:]) }
