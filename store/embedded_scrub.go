package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Scrub is part of relay.Ledger. It compacts the tables that hold records and attempts of that time, hour by hour where
// there are any: what was written over is in none of them then, and the logs that had it are deleted (see cleaner). The
// indexes hold nothing of an attempt.
func (s *embedded) Scrub(ctx context.Context, from, to time.Time) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	// What is in memory alone has no table yet, and its log holds all of it.
	if err := s.db.Flush(); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	last := hourOf(sortable(to))
	for hour := hourOf(sortable(from)); hour <= last; hour++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !s.has(hour) {
			continue
		}
		for _, kind := range []byte{keyRecord, keyAttempt} {
			begin, end := hourKey(kind, hour), hourKey(kind, hour+1)
			if err := s.db.Compact(ctx, begin, end, false); err != nil {
				return fmt.Errorf("scrub: %w", err)
			}
		}
	}
	return nil
}

func (s *embedded) has(hour uint64) bool {
	s.write.Lock()
	defer s.write.Unlock()
	_, has := s.bytes.by[hour]
	return has
}

func hourKey(kind byte, hour uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, hour*uint64(time.Hour))
}

// cleaner deletes files that are of no use any more. Pebble would keep some of its logs to write over them later; until
// then they hold what was scrubbed. It leaves that be where a cleaner wants to see each file, as the one embedded here does,
// which would put them into an archive. K is Pebble's kind of file, a type without a name here.
type cleaner[K any] struct{ pebble.ArchiveCleaner }

// Clean deletes one file.
func (cleaner[K]) Clean(fs vfs.FS, _ K, path string) error { return fs.Remove(path) }

// String is the cleaner's name in Pebble's options file.
func (cleaner[K]) String() string { return "delete" }

func newCleaner[K any](func(pebble.ArchiveCleaner, vfs.FS, K, string) error) pebble.Cleaner {
	return any(cleaner[K]{}).(pebble.Cleaner)
}
