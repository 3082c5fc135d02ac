package operation

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
)

// recordVersion is that of the records written here, and the newest that can be read.
const recordVersion = 1

var errRecord = errors.New("not an operation's record that this version can read")

func (o *Operation) encode() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(&sealpostv1.OperationRecord{
		Version: recordVersion, Id: o.ID, Tenant: o.Tenant, Kind: string(o.Kind), State: string(o.State), Author: o.Author, Reason: o.Reason,
		CreateTime: nanos(o.CreateTime), UpdateTime: nanos(o.UpdateTime), EndTime: nanos(o.EndTime), Error: o.Error,
		Examined: o.Progress.Examined, Done: o.Progress.Done, Skipped: o.Progress.Skipped, Fraction: o.Progress.Fraction,
		RequestId: o.requestID, RequestDigest: o.digest[:], Request: o.Request, Cursor: o.Cursor, Cancel: o.Cancel, Turn: o.turn,
	})
}

func decode(b []byte) (*Operation, error) {
	var r sealpostv1.OperationRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	o := &Operation{
		ID: r.Id, Tenant: r.Tenant, Kind: Kind(r.Kind), State: State(r.State), Author: r.Author, Reason: r.Reason,
		CreateTime: at(r.CreateTime), UpdateTime: at(r.UpdateTime), EndTime: at(r.EndTime), Error: r.Error,
		Progress: Progress{Examined: r.Examined, Done: r.Done, Skipped: r.Skipped, Fraction: r.Fraction},
		Request:  r.Request, Cursor: r.Cursor, Cancel: r.Cancel, requestID: r.RequestId, turn: r.Turn,
	}
	switch {
	case r.Version == 0 || r.Version > recordVersion:
		return nil, fmt.Errorf("%w: version %d, known up to %d", errRecord, r.Version, recordVersion)
	case !ValidID(o.ID) || o.Tenant == "" || limitOf(o.Kind) == (limit{}) || !o.State.Valid():
		return nil, fmt.Errorf("%w: id, tenant, kind or state", errRecord)
	case len(r.RequestDigest) != sha256.Size:
		return nil, fmt.Errorf("%w: digest of %d bytes", errRecord, len(r.RequestDigest))
	case !(o.Progress.Fraction >= 0 && o.Progress.Fraction <= 1):
		return nil, fmt.Errorf("%w: fraction", errRecord)
	}
	o.digest = [sha256.Size]byte(r.RequestDigest)
	return o, nil
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func at(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
