package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrNewer is for a journal of a format that this process does not know.
	ErrNewer = errors.New("journal: is of a newer format")
	// ErrForeign is for a journal whose processes have other secrets: what they seal this one could not open, and the other way round.
	ErrForeign = errors.New("journal: is that of processes with other secrets")
)

// Format is what a journal on an external server says of itself, as the data folder does of the embedded one: in a bucket of
// its own, so that a process that does not know the format changes nothing before it knows.
type Format struct {
	Number int `json:"format"` // 1 is the first
	// WrittenBy is the version of the binary that gave the journal this format.
	WrittenBy string `json:"writtenBy"`
	// Shared is a fingerprint of each thing that all processes on this journal must have alike, by its name: of the first that came.
	// Nothing can be had back from a fingerprint.
	Shared map[string]string `json:"shared,omitempty"`
}

// foreign says what of ours is not what the journal's processes have.
func (have Format) foreign(ours Format) error {
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(ours.Shared)) {
		if there := have.Shared[name]; there != "" && there != ours.Shared[name] {
			differ = append(differ, fmt.Sprintf("%s (fingerprint %.12s there, %.12s here)", name, there, ours.Shared[name]))
		}
	}
	if differ == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrForeign, strings.Join(differ, " and "))
}

// after is what is to stand in the journal once a process of format ours has opened it.
func (have Format) after(ours Format) Format {
	out := have
	if ours.Number > have.Number {
		out.Number, out.WrittenBy = ours.Number, ours.WrittenBy
	}
	out.Shared = map[string]string{}
	maps.Copy(out.Shared, ours.Shared)
	maps.Copy(out.Shared, have.Shared)
	return out
}

const (
	formatBucket = "FORMAT"
	formatKey    = "format"

	formatMaxBytes = 64 << 10
)

// checkFormat refuses an external journal of a newer format or of processes with other secrets, and marks a new one or an older one
// with ours. Of two processes that mark at once the second goes by what the first wrote.
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
	for {
		it, err := kv.Get(ctx, formatKey)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			_, err = kv.Create(ctx, formatKey, ours.text())
		case err == nil:
			var have Format
			if have, err = parseFormat(it.Value()); err != nil {
				return err
			}
			if have.Number > ours.Number {
				return fmt.Errorf("%w: %d, written by sealpost %s; this is sealpost %s, which knows formats up to %d: run %s or a later one",
					ErrNewer, have.Number, have.WrittenBy, ours.WrittenBy, ours.Number, have.WrittenBy)
			}
			if err = have.foreign(ours); err != nil {
				return err
			}
			marked := have.after(ours).text()
			if bytes.Equal(marked, have.text()) {
				return nil
			}
			_, err = kv.Update(ctx, formatKey, marked, it.Revision())
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

func (f Format) text() []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic("journal: format: " + err.Error()) // of numbers and strings
	}
	return b
}

func parseFormat(text []byte) (f Format, err error) {
	// A later version may say more; its number is what counts here.
	if err := json.Unmarshal(text, &f); err != nil || f.Number < 1 {
		return Format{}, errors.New("journal: its format cannot be read")
	}
	return f, nil
}
