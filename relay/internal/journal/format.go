package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNewer is for a journal of a format that this process does not know.
var ErrNewer = errors.New("journal: is of a newer format")

// Format is what a journal on an external server says of itself, as the data folder does of the embedded one: in a bucket of
// its own, so that a process that does not know the format changes nothing before it knows.
type Format struct {
	Number int `json:"format"` // 1 is the first
	// WrittenBy is the version of the binary that gave the journal this format.
	WrittenBy string `json:"writtenBy"`
}

const (
	formatBucket = "FORMAT"
	formatKey    = "format"

	formatMaxBytes = 64 << 10
)

// checkFormat refuses an external journal of a newer format, and marks a new one or an older one with ours. Of two
// processes that mark at once the second goes by what the first wrote.
func (j *Journal) checkFormat(ctx context.Context) error {
	ours := j.opt.Format
	if j.srv != nil || ours.Number == 0 {
		return nil
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	kv, err := j.formatKV(ctx)
	if err != nil {
		return fmt.Errorf("journal: format: %w", unavailable(reserved(err)))
	}
	text, err := json.Marshal(ours)
	if err != nil {
		return err
	}
	for {
		it, err := kv.Get(ctx, formatKey)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			_, err = kv.Create(ctx, formatKey, text)
		case err == nil:
			var have Format
			if have, err = parseFormat(it.Value()); err != nil {
				return err
			}
			if have.Number > ours.Number {
				return fmt.Errorf("%w: %d, written by sealpost %s; this is sealpost %s, which knows formats up to %d: run %s or a later one",
					ErrNewer, have.Number, have.WrittenBy, ours.WrittenBy, ours.Number, have.WrittenBy)
			}
			if have.Number == ours.Number {
				return nil
			}
			_, err = kv.Update(ctx, formatKey, text, it.Revision())
		}
		if err = bucketError(err); !errors.Is(err, ErrRevision) {
			return err
		}
	}
}

// formatKV opens the mark's bucket, and makes it only where there is none: an older process must not change a newer one's.
func (j *Journal) formatKV(ctx context.Context) (jetstream.KeyValue, error) {
	name := j.opt.Name + "_" + formatBucket
	kv, err := j.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return j.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: name, History: 1, MaxBytes: formatMaxBytes, Storage: jetstream.FileStorage, Replicas: j.opt.Replicas,
		})
	}
	return kv, err
}

func parseFormat(text []byte) (f Format, err error) {
	// A later version may say more; its number is what counts here.
	if err := json.Unmarshal(text, &f); err != nil || f.Number < 1 {
		return Format{}, errors.New("journal: its format cannot be read")
	}
	return f, nil
}
