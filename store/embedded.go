package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/sealpost/sealpost/relay"
)

// The keys of the embedded store. Text in a key has its length before it, numbers are big-endian, at is the accept
// time as sortable:
//
//	r at id                    the record; in the order of time, so that new ones are always written at the end
//	i id                       at: where the record is. What it does not point at is of an earlier life and not listed
//	a at id number             an attempt that is not in the record
//	t tenant at id             by tenant          value of these: the state's code and the event type,
//	p endpoint at id           by endpoint        so that most filters need no record
//	y tenant type at id        by type
//	s tenant state at id       by state           only deliveries that are not DELIVERED, which nearly all are in the end:
//	q endpoint state at id     by both            a list of those reads t or p
//	x state at id              by state, over all tenants
//	e event at id              by event           value: the tenant
//	m schema | m position n | m bytes hour
const (
	keyRecord   = 'r'
	keyPointer  = 'i'
	keyAttempt  = 'a'
	keyTenant   = 't'
	keyEndpoint = 'p'
	keyType     = 'y'
	keyState    = 's'
	keyBoth     = 'q'
	keyAll      = 'x'
	keyEvent    = 'e'
)

const (
	schemaKey      = "mschema"
	schemaVersion  = "1"
	positionPrefix = "mposition"
	bytesPrefix    = "mbytes"
)

// Pebble's memory: a cache, and at most memtables of memtableSize that wait to be written out.
const (
	cacheSize    = 128 << 20
	memtableSize = 32 << 20
	// tableSize bounds a table file. Each has one filter block over all its keys, which a read of a key that may be in
	// it must have in the cache: with the default of up to 128 MiB a table, filters of a megabyte pushed each other out.
	tableSize    = 8 << 20
	maxOpenFiles = 512
)

// errClosed is what every method gives after Close.
var errClosed = errors.New("the store is closed")

// embedded is the view in a Pebble database. Apply and Trim exclude each other, so that nothing is trimmed on what
// was read before an outcome; readers read a snapshot and wait for nobody.
type embedded struct {
	db  *pebble.DB
	log *slog.Logger

	// life is held for reading during each call, and for writing by Close.
	life   sync.RWMutex
	closed bool

	write     sync.Mutex // guards the rest, and is held by Apply and by each step of Trim
	positions map[int]uint64
	bytes     *tally
	open      *sketch
}

func openEmbedded(dir string, log *slog.Logger) (_ *embedded, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open view: %w", err)
	}
	cache := pebble.NewCache(cacheSize)
	defer cache.Unref() // the database holds its own reference
	db, err := pebble.Open(dir, pebbleOptions(cache, log))
	if err != nil {
		return nil, openError(dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	s := &embedded{db: db, log: log, positions: map[int]uint64{}, bytes: newTally(), open: newSketch()}
	if err := s.checkSchema(); err != nil {
		return nil, fmt.Errorf("open view %s: %w", dir, err)
	}
	if err := s.load(); err != nil {
		return nil, openError(dir, err)
	}
	return s, nil
}

func openError(dir string, err error) error {
	if pebble.IsCorruptionError(err) || errors.Is(err, errRecord) {
		return fmt.Errorf("open view: %s is damaged; it is derived from the journal: stop the relay, delete the folder, and it will be rebuilt: %w", dir, err)
	}
	return fmt.Errorf("open view %s: %w", dir, err)
}

func pebbleOptions(cache *pebble.Cache, log *slog.Logger) *pebble.Options {
	o := &pebble.Options{
		Cache:                       cache,
		MemTableSize:                memtableSize,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                maxOpenFiles,
		BytesPerSync:                1 << 20,
		FormatMajorVersion:          pebble.FormatNewest,
		CompactionConcurrencyRange:  func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
		Logger:                      pebbleLogger{log},
		Cleaner:                     newCleaner(pebble.ArchiveCleaner.Clean),
		EventListener:               pebbleEvents(log),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.TargetFileSizes[i] = tableSize
	}
	return o
}

// pebbleLogger hands on what is wrong. Pebble's running commentary is left to the event listener.
type pebbleLogger struct{ log *slog.Logger }

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("view: " + fmt.Sprintf(format, args...))
}

// Fatalf may not return: Pebble calls it where a write to its own log failed, when what it has in memory is no longer what is
// on disk. Nothing is lost with the process: the view is derived, and the journal is synced on its own.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	text := "view: " + fmt.Sprintf(format, args...)
	l.log.Error(text)
	panic(text)
}

func pebbleEvents(log *slog.Logger) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { log.Error("view: background work failed", "error", err) },
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			log.Error("view: a file is damaged; delete the view's folder to have it rebuilt", "file", i.Path, "error", i.Details)
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			log.Warn("view: the disk is slow", "operation", i.OpType.String(), "duration", i.Duration)
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) { log.Warn("view: writes wait", "reason", i.Reason) },
		WriteStallEnd:   func() { log.Info("view: writes go on") },
		LowDiskSpace: func(i pebble.LowDiskSpaceInfo) {
			log.Warn("view: the disk is nearly full", "available_bytes", i.AvailBytes, "total_bytes", i.TotalBytes)
		},
	}
}

// checkSchema refuses a store that a newer version wrote, and marks a new one.
func (s *embedded) checkSchema() error {
	have, err := s.get(s.db, []byte(schemaKey))
	if err != nil {
		return err
	}
	if have == nil {
		it, err := s.db.NewIter(nil)
		if err != nil {
			return err
		}
		something := it.First()
		if err := it.Close(); err != nil {
			return err
		}
		if something {
			return errors.New("is not a view: it holds keys but no schema")
		}
		return s.db.Set([]byte(schemaKey), []byte(schemaVersion), pebble.Sync)
	}
	if string(have) != schemaVersion {
		return fmt.Errorf("has schema %q and this version reads %s: use the version that wrote it, or delete the folder and it will be rebuilt", have, schemaVersion)
	}
	return nil
}

// load reads the positions, the sizes and, up to a bound, what is in the state index.
func (s *embedded) load() error {
	err := s.each(positionPrefix, func(key, value []byte) error {
		if len(key) != 4 || len(value) != 8 {
			return errRecord
		}
		s.positions[int(binary.BigEndian.Uint32(key))] = binary.BigEndian.Uint64(value)
		return nil
	})
	if err != nil {
		return err
	}
	err = s.each(bytesPrefix, func(key, value []byte) error {
		if len(key) != 8 || len(value) != 8 {
			return errRecord
		}
		s.bytes.set(binary.BigEndian.Uint64(key), int64(binary.BigEndian.Uint64(value)))
		return nil
	})
	if err != nil {
		return err
	}
	n := 0
	err = s.each(string(keyAll), func(key, _ []byte) error {
		if len(key) < 9 {
			return errRecord
		}
		if n++; n > sketchLimit {
			s.open.blind = true
			return errStop
		}
		s.open.add(string(key[9:]))
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

var errStop = errors.New("stop")

// each calls f with each key that begins with prefix, less the prefix.
func (s *embedded) each(prefix string, f func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: successor([]byte(prefix))})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = f(it.Key()[len(prefix):], value)
		}
		if err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// successor is the least key that is above all that begin with prefix.
func successor(prefix []byte) []byte {
	next := append([]byte(nil), prefix...)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next[:i+1]
		}
	}
	return nil
}

// get is a copy of a key's value, nil where there is none.
func (s *embedded) get(from pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append([]byte{}, value...)
	return out, closer.Close()
}

// enter begins a call; leave ends it.
func (s *embedded) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return errClosed
	}
	return nil
}

func (s *embedded) leave() { s.life.RUnlock() }

// Position is part of relay.Ledger.
func (s *embedded) Position(ctx context.Context, partition int) (uint64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	s.write.Lock()
	defer s.write.Unlock()
	return s.positions[partition], nil
}

// Ping writes and syncs a key of its own.
func (s *embedded) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], sortable(time.Now()))
	return s.db.Set([]byte("mping"), now[:], pebble.Sync)
}

// Close waits for the calls under way. What was applied is on disk already.
func (s *embedded) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.db.Close()
}

// Apply is part of relay.Ledger. The outcomes and the position are one batch, synced before it returns: kill -9 leaves
// both or neither. This process holds the folder's lock, so the position cannot have moved under it.
func (s *embedded) Apply(ctx context.Context, partition int, upTo uint64, outcomes []relay.SequencedOutcome) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	s.write.Lock()
	defer s.write.Unlock()
	position := s.positions[partition]
	if upTo <= position {
		return nil
	}
	changes, err := fold(partition, position, upTo, outcomes)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	w := s.newWriter()
	defer w.close()
	for i := range changes {
		if err := w.put(&changes[i]); err != nil {
			return fmt.Errorf("apply: %w", err)
		}
	}
	at := binary.BigEndian.AppendUint32([]byte(positionPrefix), uint32(partition))
	if err := w.set(at, binary.BigEndian.AppendUint64(nil, upTo)); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := w.commit(pebble.Sync); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	s.positions[partition] = upTo
	return nil
}
