// Package archive writes a copy of a data folder as one tar stream, and reads it back.
//
//	sealpost-backup.json          what it is: versions, time, and what a journal needs to be made again
//	files/...                     the folder's own files: keys, CA, tokens
//	logs/<name>/<n>               records of a log, in order
//	buckets/<name>/<n>            values of a bucket, in order of their revisions
//	checkpoints/<partition>/<n>   a partition's checkpoint, in parts
//	SHA256SUMS                    the SHA-256 of everything before it, as sha256sum(1) writes and checks it
//
// It promises that Read answers nil only for an archive that is whole and as it was written; that neither end holds more than one
// entry in memory; and that whatever a reader is given, no name in it leads out of where it is unpacked to. It hands on what it reads
// before it knows the end: whoever takes it makes it take effect only when Read has answered nil. The sums show damage and
// truncation, not forgery: who can write the archive can write its sums. It holds the keys, and is to be kept as they are.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Format is that of the archives written here, and the newest that can be read.
const Format = 1

// ErrDamaged is for what is no archive, or not all of it, or not as it was written.
var ErrDamaged = errors.New("the archive is damaged")

// Header says what an archive is.
type Header struct {
	Format     int       `json:"format"`
	WrittenBy  string    `json:"writtenBy"` // the version of the binary
	Time       time.Time `json:"time"`      // when it was begun: everything accepted before is in it
	DataFormat int       `json:"dataFormat"`
	// What the journal was made with.
	Partitions       int           `json:"partitions"`
	EventsMaxBytes   int64         `json:"eventsMaxBytes"`
	OutcomesMaxBytes int64         `json:"outcomesMaxBytes"`
	DedupWindow      time.Duration `json:"dedupWindow"`
}

// Record is one record of a log, one value of a bucket, or one part of a checkpoint.
type Record struct {
	Seq uint64 // its sequence or revision; sections have them in ascending order
	// ID is a log record's id for deduplication, where it still counts; or a bucket's key.
	ID string
	// Deleted is a bucket's: the key was deleted at this revision.
	Deleted bool
	Value   []byte
}

const (
	headerName = "sealpost-backup.json"
	sumsName   = "SHA256SUMS"
	filesName  = "files"
)

// Bounds of what is read; writers keep to them.
const (
	MaxFile    = 16 << 20
	MaxID      = 1 << 10
	MaxValue   = 33 << 20 // more than any record of a journal
	segment    = 4 << 20  // from what size on a segment is not added to
	maxEntry   = segment + MaxValue + MaxID + 64
	maxHeader  = 64 << 10
	maxEntries = 1 << 20
	maxName    = 200
)

// Writer writes an archive. It is not safe for concurrent use.
type Writer struct {
	tar     *tar.Writer
	sums    bytes.Buffer
	time    time.Time
	section string
	n       int // of the section's next segment
	pending []byte
}

// NewWriter begins an archive.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format = Format
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	out := &Writer{tar: tar.NewWriter(w), time: h.Time}
	return out, out.entry(headerName, append(text, '\n'))
}

// File adds a file of the folder, at most MaxFile bytes.
func (w *Writer) File(name string, content []byte) error {
	if err := w.flush(); err != nil {
		return err
	}
	name = filesName + "/" + name
	if !validName(name) || len(content) > MaxFile {
		return fmt.Errorf("archive: file %q of %d bytes cannot be kept", name, len(content))
	}
	return w.entry(name, content)
}

// Section begins the records of one log, bucket or checkpoint, such as logs/EVENTS_0. It is there also if it gets no record.
func (w *Writer) Section(name string) error {
	if err := w.flush(); err != nil {
		return err
	}
	if kind, _, ok := strings.Cut(name, "/"); !ok || !isSection(kind) || !validName(name+"/0") {
		return fmt.Errorf("archive: %q is no section", name)
	}
	w.section, w.n = name, 0
	return nil
}

// Record adds to the section that was begun last.
func (w *Writer) Record(r Record) error {
	if len(r.ID) > MaxID || len(r.Value) > MaxValue {
		return fmt.Errorf("archive: record %d of %s is too large", r.Seq, w.section)
	}
	w.pending = appendRecord(w.pending, r)
	if len(w.pending) < segment {
		return nil
	}
	return w.segment()
}

// Close ends the archive with its sums. Without them it cannot be read.
func (w *Writer) Close() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.write(sumsName, w.sums.Bytes()); err != nil {
		return err
	}
	return w.tar.Close()
}

// flush ends the section that is open.
func (w *Writer) flush() error {
	if w.section == "" || len(w.pending) == 0 && w.n > 0 {
		return nil
	}
	err := w.segment()
	w.section = ""
	return err
}

func (w *Writer) segment() error {
	err := w.entry(fmt.Sprintf("%s/%08d", w.section, w.n), w.pending)
	w.n++
	w.pending = w.pending[:0]
	return err
}

func (w *Writer) entry(name string, content []byte) error {
	fmt.Fprintf(&w.sums, "%x  %s\n", sha256.Sum256(content), name)
	return w.write(name, content)
}

func (w *Writer) write(name string, content []byte) error {
	err := w.tar.WriteHeader(&tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(content)), ModTime: w.time.Truncate(time.Second), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	_, err = w.tar.Write(content)
	return err
}

// Taker takes what is read, in the order in which it was written. What it is given is its to keep. Its error ends the reading.
type Taker interface {
	Header(Header) error
	File(name string, content []byte) error
	Section(name string) error
	Record(section string, r Record) error
}

// Read reads a whole archive. Its error is ErrDamaged, or the reader's, or the taker's; what was taken is then of no use.
func Read(r io.Reader, to Taker) error {
	in := &reader{tar: tar.NewReader(bufio.NewReaderSize(r, 64<<10)), to: to}
	for n := 0; ; n++ {
		if n > maxEntries {
			return damaged("more than %d entries", maxEntries)
		}
		name, content, err := in.next(n)
		if err != nil {
			return err
		}
		if name == sumsName {
			return in.end(content)
		}
		fmt.Fprintf(&in.sums, "%x  %s\n", sha256.Sum256(content), name)
		if err := in.take(n, name, content); err != nil {
			return err
		}
	}
}

type reader struct {
	tar     *tar.Reader
	to      Taker
	sums    bytes.Buffer
	section string
	n       int
	last    uint64
}

func (r *reader) next(n int) (string, []byte, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return "", nil, damaged("it ends before its sums")
	} else if err != nil {
		return "", nil, unreadable(err)
	}
	most := int64(maxEntry)
	if n == 0 {
		most = maxHeader
	} else if h.Name == sumsName {
		most = maxEntries * (maxName + 2*sha256.Size + 3)
	}
	if h.Typeflag != tar.TypeReg || !validName(h.Name) || h.Size < 0 || h.Size > most {
		return "", nil, damaged("entry %d is none of this format", n)
	}
	// Not made at once: what a header claims need not be there.
	var b bytes.Buffer
	if _, err := io.Copy(&b, r.tar); err != nil {
		return "", nil, unreadable(err)
	}
	return h.Name, b.Bytes(), nil
}

// unreadable is damage, or what the source itself says.
func unreadable(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, tar.ErrInsecurePath) {
		return damaged("%v", err)
	}
	return fmt.Errorf("archive: %w", err)
}

func (r *reader) take(n int, name string, content []byte) error {
	if n == 0 {
		return r.header(name, content)
	}
	kind, rest, _ := strings.Cut(name, "/")
	switch {
	case kind == filesName:
		if len(content) > MaxFile || rest == "" {
			return damaged("file %q", rest)
		}
		r.section = ""
		return r.to.File(rest, content)
	case isSection(kind):
		return r.segment(name, content)
	}
	return damaged("an entry %q is none of this format", name)
}

func (r *reader) header(name string, content []byte) error {
	var h Header
	if name != headerName || json.Unmarshal(content, &h) != nil || h.Format < 1 {
		return damaged("it is no backup of Sealpost's")
	}
	if h.Format > Format {
		return fmt.Errorf("the archive is of format %d, written by sealpost %s; formats up to %d are known: restore it with %s or a later one", h.Format, h.WrittenBy, Format, h.WrittenBy)
	}
	return r.to.Header(h)
}

func (r *reader) segment(name string, content []byte) error {
	section, number := path.Split(name)
	section = strings.TrimSuffix(section, "/")
	if section != r.section {
		if strings.Count(section, "/") != 1 {
			return damaged("an entry %q is none of this format", name)
		}
		r.section, r.n, r.last = section, 0, 0
		if err := r.to.Section(section); err != nil {
			return err
		}
	}
	if number != fmt.Sprintf("%08d", r.n) {
		return damaged("%s has no part %d where it should", section, r.n)
	}
	r.n++
	for len(content) > 0 {
		one, rest, ok := parseRecord(content)
		if !ok || one.Seq <= r.last {
			return damaged("%s cannot be read after %d", section, r.last)
		}
		r.last, content = one.Seq, rest
		if err := r.to.Record(section, one); err != nil {
			return err
		}
	}
	return nil
}

// end compares the sums, and makes sure that nothing follows them.
func (r *reader) end(sums []byte) error {
	if !bytes.Equal(sums, r.sums.Bytes()) {
		return damaged("its parts are not what its sums say")
	}
	if _, err := r.tar.Next(); !errors.Is(err, io.EOF) {
		return damaged("more follows its sums")
	}
	return nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

func isSection(kind string) bool {
	return kind == "logs" || kind == "buckets" || kind == "checkpoints"
}

// ValidName tells whether a file can be kept under a name: a relative path of plain names, none of which is hidden, empty or leads
// upwards.
func ValidName(name string) bool { return validName(filesName + "/" + name) }

func validName(name string) bool {
	if len(name) > maxName {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.ContainsFunc(part, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		}) {
			return false
		}
	}
	return true
}

// A record is its sequence, what it is, its id and its value, each length as a uvarint.
const (
	kindSet     = 0
	kindDeleted = 1
)

func appendRecord(b []byte, r Record) []byte {
	b = binary.AppendUvarint(b, r.Seq)
	if r.Deleted {
		b = append(b, kindDeleted)
	} else {
		b = append(b, kindSet)
	}
	b = binary.AppendUvarint(b, uint64(len(r.ID)))
	b = append(b, r.ID...)
	b = binary.AppendUvarint(b, uint64(len(r.Value)))
	return append(b, r.Value...)
}

func parseRecord(b []byte) (r Record, rest []byte, ok bool) {
	seq, b, ok := uvarint(b)
	if !ok || seq == 0 || len(b) == 0 || b[0] > kindDeleted {
		return r, nil, false
	}
	r.Seq, r.Deleted, b = seq, b[0] == kindDeleted, b[1:]
	id, b, ok := text(b, MaxID)
	if !ok {
		return r, nil, false
	}
	value, b, ok := text(b, MaxValue)
	if !ok {
		return r, nil, false
	}
	r.ID, r.Value = string(id), value
	return r, b, true
}

func text(b []byte, most uint64) (t, rest []byte, ok bool) {
	n, b, ok := uvarint(b)
	if !ok || n > most || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// uvarint reads a number in its one shortest form.
func uvarint(b []byte) (n uint64, rest []byte, ok bool) {
	n, width := binary.Uvarint(b)
	if width <= 0 || width > 1 && b[width-1] == 0 {
		return 0, nil, false
	}
	return n, b[width:], true
}

// Sums is the SHA-256 of a whole archive as it passes, in hex.
type Sums struct {
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	Bytes int64
}

// NewSums counts from nothing.
func NewSums() *Sums { return &Sums{hash: sha256.New()} }

// Write counts b.
func (s *Sums) Write(b []byte) (int, error) {
	s.Bytes += int64(len(b))
	return s.hash.Write(b)
}

// String is the sum so far.
func (s *Sums) String() string { return hex.EncodeToString(s.hash.Sum(nil)) }
