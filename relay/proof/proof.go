// Package proof verifies what Sealpost's audit log says of itself, with the log's public key and nothing else: no server, no data
// folder, none of the engine's code.
//
// The audit log is a Merkle tree (RFC 6962, section 2) whose leaves are the stored records, in their order. The log signs its size and
// root as a checkpoint (c2sp.org/tlog-checkpoint, a signed note of c2sp.org/signed-note). An inclusion proof shows that a record
// stands at its place in the tree of a checkpoint, a consistency proof that one checkpoint's tree goes on where an earlier one's ended,
// and an export holds the records themselves.
//
// It promises that what Verify answers without an error was signed by the holder of the key, and is what was signed; and that no input
// makes it use more memory than a fixed number of bytes beside one record. It does not promise that a log shows everybody the same:
// whoever holds the key can sign two trees. That is found by who keeps checkpoints of their own, or by the file of checkpoints that
// the relay writes outside its data folder, and asks for consistency with them.
package proof

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What an error of this package is.
var (
	// ErrFormat is for a text that is not what it is taken for.
	ErrFormat = errors.New("not in the expected format")
	// ErrSignature is for a checkpoint that the key did not sign.
	ErrSignature = errors.New("not signed by this key")
	// ErrMismatch is for a proof, record or tree that is not what the checkpoint signs.
	ErrMismatch = errors.New("does not match what the log signed")
)

// Bounds of what is read, in bytes.
const (
	MaxCheckpoint = 4 << 10
	MaxRecord     = 1 << 20
	MaxProof      = 2*MaxRecord + 64<<10
	// maxPath is how many hashes a proof can have: a log has fewer than 2^62 records.
	maxPath = 2 * 62
)

// Hash is a node of the tree, SHA-256.
type Hash = tlog.Hash

// RecordHash is the leaf of a record as it is stored.
func RecordHash(record []byte) Hash { return tlog.RecordHash(record) }

// Key is a log's public key. The zero Key verifies nothing.
type Key struct {
	verifier note.Verifier
	text     string
}

// ParseKey reads a verifier key of c2sp.org/signed-note, name+hash+base64: what sealpost audit key prints.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if len(text) > MaxCheckpoint {
		return Key{}, fmt.Errorf("key: %w", ErrFormat)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return Key{}, fmt.Errorf("key: %w: want name+hash+base64", ErrFormat)
	}
	return Key{v, text}, nil
}

// Name is the log's, and the origin of its checkpoints.
func (k Key) Name() string {
	if k.verifier == nil {
		return ""
	}
	return k.verifier.Name()
}

// String is what ParseKey reads.
func (k Key) String() string { return k.text }

// Checkpoint is the state of a log at one size.
type Checkpoint struct {
	Origin string
	Size   int64 // records
	Root   Hash
}

// Text is what is signed: origin, size and root, a line each.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// Sign makes a checkpoint's signed note.
func (c Checkpoint) Sign(s note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.Text()}, s)
}

// ParseCheckpoint verifies a signed note and reads the checkpoint in it. Other signatures beside the key's, such as a witness's, are passed
// over.
func ParseCheckpoint(signed []byte, k Key) (Checkpoint, error) {
	if len(signed) > MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: larger than %d bytes", ErrFormat, MaxCheckpoint)
	}
	if k.verifier == nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", ErrSignature)
	}
	n, err := note.Open(signed, note.VerifierList(k.verifier))
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified), errors.As(err, &invalid):
		return Checkpoint{}, fmt.Errorf("checkpoint: %w (%s)", ErrSignature, k.Name())
	case err != nil:
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: no signed note", ErrFormat)
	}
	c, err := parseText(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != k.Name() {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w: it is of %q", ErrSignature, c.Origin)
	}
	return c, nil
}

// parseText reads what was signed. Extension lines, which Sealpost does not write, are refused.
func parseText(text string) (c Checkpoint, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] == "" {
		return c, fmt.Errorf("checkpoint: %w: want origin, size and root, a line each", ErrFormat)
	}
	c.Origin = lines[0]
	if c.Size, err = parseNumber(lines[1]); err != nil {
		return c, fmt.Errorf("checkpoint: size: %w", err)
	}
	if c.Root, err = parseHash(lines[2]); err != nil {
		return c, fmt.Errorf("checkpoint: root: %w", err)
	}
	return c, nil
}

// parseNumber reads a count in its one form.
func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 63)
	if err != nil || n < 0 || n >= 1<<62 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%w: %.40q is no number in decimal", ErrFormat, s)
	}
	return n, nil
}

func parseHash(s string) (h Hash, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != len(h) || base64.StdEncoding.EncodeToString(raw) != s {
		return h, fmt.Errorf("%w: %.80q is no base64 of 32 bytes", ErrFormat, s)
	}
	return Hash(raw), nil
}

// Range is the tree of the records from the first one on, kept as few hashes as it can be told by. The zero Range is the empty tree's.
type Range struct {
	size int64
	tops []Hash // of the complete subtrees from the left, the largest first: one for each bit of size
}

// NewRange begins with what stands for the first size records: the hashes that Tops of a Range of that size gives.
func NewRange(size int64, tops []Hash) (*Range, error) {
	if size < 0 || size >= 1<<62 || len(tops) != bits.OnesCount64(uint64(size)) {
		return nil, fmt.Errorf("%w: %d hashes cannot stand for %d records", ErrFormat, len(tops), size)
	}
	return &Range{size, append([]Hash(nil), tops...)}, nil
}

// Add adds the leaf of the next record.
func (r *Range) Add(leaf Hash) {
	for n := r.size; n&1 == 1; n >>= 1 {
		last := len(r.tops) - 1
		leaf = tlog.NodeHash(r.tops[last], leaf)
		r.tops = r.tops[:last]
	}
	r.tops = append(r.tops, leaf)
	r.size++
}

// Size is how many records there are.
func (r *Range) Size() int64 { return r.size }

// Tops stand for the records so far.
func (r *Range) Tops() []Hash { return append([]Hash(nil), r.tops...) }

// Root is the tree's.
func (r *Range) Root() Hash {
	if len(r.tops) == 0 {
		return emptyRoot
	}
	root := r.tops[len(r.tops)-1]
	for i := len(r.tops) - 2; i >= 0; i-- {
		root = tlog.NodeHash(r.tops[i], root)
	}
	return root
}

// emptyRoot is the root of a tree without records: the SHA-256 of nothing (RFC 6962, section 2.1).
var emptyRoot = Hash{
	0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
}

// EmptyRoot is the root of a log without records.
func EmptyRoot() Hash { return emptyRoot }

// lines cuts a text into its lines up to and without the first empty one, and what follows that.
func lines(text []byte) (head []string, rest []byte, ok bool) {
	at := bytes.Index(text, []byte("\n\n"))
	if at < 0 {
		return nil, nil, false
	}
	return strings.Split(string(text[:at]), "\n"), text[at+2:], true
}

func parsePath(text []string) ([]Hash, error) {
	if len(text) > maxPath {
		return nil, fmt.Errorf("%w: more than %d hashes", ErrFormat, maxPath)
	}
	path := make([]Hash, len(text))
	for i, line := range text {
		var err error
		if path[i], err = parseHash(line); err != nil {
			return nil, err
		}
	}
	return path, nil
}

func formatPath(b *strings.Builder, path []Hash) {
	for _, h := range path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]))
		b.WriteByte('\n')
	}
}
