// Package erasure keeps the tombstones of subjects that were erased, and erases them: a person's right to be forgotten.
//
// An erasure is for one subject of one tenant, and for every event of it that its partition's EVENTS held when it began: up to
// a sequence, and not up to a time, for no clock is asked. What is accepted later is a new fact, and is delivered as any other.
// The subject itself is kept nowhere: a tombstone holds an HMAC of tenant and subject under a key of the data's root, which
// nobody without the root can try names against.
//
// It promises that nothing of an erased event leaves, from wherever it is read, once the owner of its partition goes by the
// tombstone, nor while nobody knows whether there is one (see [Set.Err]); that an erasure which has succeeded has left
// no record of its events in EVENTS, no answer of a receiver to them in OUTCOMES or the view, and no digest of what
// was sent; and that it comes to that end over kill -9 at any moment. Ids, types and times of the events stay, in OUTCOMES
// and the view, as long as retention says. What it cannot reach is said where it happens: [journal.Log.SecureDelete] for the disk's freed blocks and a
// cluster's Raft logs, relay.Ledger for the view, backups (see [Carry]), and events that had been trimmed before: of them there
// are outcomes without a subject, until their retention ends. It trusts the journal, and who holds the root key.
package erasure

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// BucketName is the journal's bucket that tombstones are kept in.
const BucketName = "ERASURES"

// Digest stands for a subject of a tenant.
type Digest [32]byte

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Keys make digests; *keys.Root is one.
type Keys interface {
	// Digester is the HMAC-SHA256 under a key of its own for each purpose.
	Digester(purpose string) func(data []byte) [32]byte
}

// digester is what subjects are digested with: neither a tenant's name nor a subject holds a zero byte.
func digester(k Keys) func(tenant, subject string) Digest {
	digest := k.Digester("erased subject")
	return func(tenant, subject string) Digest {
		b := make([]byte, 0, 256)
		b = append(append(append(b, tenant...), 0), subject...)
		return digest(b)
	}
}

// Tombstone says that no event of a subject up to a sequence of its partition's EVENTS leaves any more.
type Tombstone struct {
	Tenant  string
	Subject Digest
	Seq     uint64
	// Time is when it was set, and says how long it is kept.
	Time time.Time
	// Erased tells that everything it speaks of is gone from this journal.
	Erased bool
	// Operation is the id of the one that erases, or has erased.
	Operation string

	revision uint64
}

const keyPrefix = "subject/"

func (t *Tombstone) key() string { return keyPrefix + t.Tenant + "/" + t.Subject.String() }

const recordVersion = 1

var errRecord = errors.New("not a tombstone that this version can read")

func (t *Tombstone) encode() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&sealpostv1.ErasureRecord{
		Version: recordVersion, Tenant: t.Tenant, SubjectDigest: t.Subject[:], Time: t.Time.UnixNano(), Seq: t.Seq,
		Erased: t.Erased, OperationId: t.Operation,
	})
}

// parseKey is what a tombstone's key says of it. The rest is in its record.
func parseKey(key string) (t Tombstone, err error) {
	tenant, digest, _ := strings.Cut(strings.TrimPrefix(key, keyPrefix), "/")
	raw, err := hex.DecodeString(digest)
	if err != nil || len(raw) != len(t.Subject) || !relay.ValidTenant(tenant) {
		return t, fmt.Errorf("%w: key %q", errRecord, key)
	}
	t.Tenant, t.Subject = tenant, Digest(raw)
	return t, nil
}

func decode(key string, b []byte) (Tombstone, error) {
	t, err := parseKey(key)
	if err != nil {
		return t, err
	}
	var r sealpostv1.ErasureRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return t, fmt.Errorf("%w: %w", errRecord, err)
	}
	switch {
	case r.Version == 0 || r.Version > recordVersion:
		return t, fmt.Errorf("%w: version %d, known up to %d", errRecord, r.Version, recordVersion)
	case r.Tenant != t.Tenant || string(r.SubjectDigest) != string(t.Subject[:]):
		return t, fmt.Errorf("%w: it is another subject's", errRecord)
	}
	t.Seq, t.Time, t.Erased, t.Operation = r.Seq, time.Unix(0, r.Time).UTC(), r.Erased, r.OperationId
	return t, nil
}

// Body is the request of an operation that erases a subject: its digest, and nothing more.
func (d Digest) Body() []byte { return d[:] }

// Body is the request of an operation that erases once more what a tombstone speaks of, and nothing later.
func (t *Tombstone) Body() []byte { return binary.BigEndian.AppendUint64(t.Subject.Body(), t.Seq) }

// ParseBody reads the subject of an operation's request, and whether it is for what the subject's tombstone speaks of already.
func ParseBody(b []byte) (d Digest, again bool, err error) {
	if len(b) != len(d) && len(b) != len(d)+8 {
		return d, false, fmt.Errorf("the request of an erasure has %d bytes", len(b))
	}
	return Digest(b[:len(d)]), len(b) > len(d), nil
}

// cursor is where an erasure goes on: the first sequence of EVENTS that it has not dealt with.
type cursor uint64

func (c cursor) encode() []byte { return binary.AppendUvarint(nil, uint64(c)) }

func decodeCursor(b []byte) (cursor, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, width := binary.Uvarint(b)
	if width != len(b) || width > 1 && b[width-1] == 0 {
		return 0, errors.New("the cursor of an erasure cannot be read")
	}
	return cursor(n), nil
}
