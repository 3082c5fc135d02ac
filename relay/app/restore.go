package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealpost/sealpost/relay/internal/archive"
	"github.com/sealpost/sealpost/relay/internal/folder"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

// RestoreOptions say what Restore makes of what.
type RestoreOptions struct {
	// Data is the folder to make; it must not be there, or be empty.
	Data string
	// From is an archive as Backup wrote it.
	From io.Reader
	// Erasures is a later archive of the same relay, or nil: what was erased until then is erased here too.
	Erasures io.Reader
	Version  string       // this build's
	Logger   *slog.Logger // default discards
	// Fsync is for tests of disks that fail; default (*os.File).Sync.
	Fsync func(*os.File) error
}

// Restored is what an archive held.
type Restored struct {
	WrittenBy string
	Events    map[int]uint64 // by partition: the sequence of the last
	Erasures  int            // subjects that the first start begins to erase
}

// ErrNotEmpty is for a folder that holds something already.
var ErrNotEmpty = errors.New("is not empty: give a folder that is not there yet")

// Restore makes a data folder of an archive. It is made beside its place and moved there when it is whole and durable: before that
// nothing is there, and after a failure nothing is left. kill -9 leaves a hidden folder beside the place, which can be removed.
//
// The relay that is started in it goes on from the moment when the backup was begun: what was settled since is sent again, under the same
// ids, and what was accepted since is not there. The relay that was backed up must not run beside it.
func Restore(ctx context.Context, o RestoreOptions) (r Restored, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fsync == nil {
		o.Fsync = (*os.File).Sync
	}
	place, err := filepath.Abs(o.Data)
	if err != nil {
		return r, err
	}
	if err := vacant(place); err != nil {
		return r, err
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return r, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(place), "."+filepath.Base(place)+".restoring-*") // 0700
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if r, err = rebuild(ctx, o, temp); err != nil {
		return r, err
	}
	// A folder that was filled meanwhile can neither be removed nor renamed over.
	if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if err := os.Rename(temp, place); err != nil {
		return r, err
	}
	return r, folder.Sync(filepath.Dir(place), o.Fsync)
}

// vacant refuses a folder that holds anything, and first one that a process holds.
func vacant(place string) error {
	entries, err := os.ReadDir(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if err := folder.Held(place); err != nil {
		return err
	}
	return fmt.Errorf("%s %w", place, ErrNotEmpty)
}

// rebuild fills a folder of its own and answers when all of it is durable.
func rebuild(ctx context.Context, o RestoreOptions, dir string) (r Restored, err error) {
	b := &builder{ctx: ctx, o: o, dir: dir, checkpoints: map[int][]byte{}}
	err = archive.Read(o.From, b)
	if err == nil {
		err = b.finish()
	}
	err = errors.Join(err, b.close())
	if err != nil {
		return r, err
	}
	return b.restored, syncTree(dir, o.Fsync)
}

// builder makes a data folder of what is read of an archive.
type builder struct {
	ctx context.Context
	o   RestoreOptions
	dir string

	held        *folder.Folder
	journal     *journal.Journal
	loader      *journal.Loader // of the section that is open
	checkpoints map[int][]byte
	restored    Restored
}

// Header makes the folder's journal.
func (b *builder) Header(h archive.Header) (err error) {
	if h.DataFormat > dataFormat {
		return fmt.Errorf("the archive's data are of format %d, written by sealpost %s; this is sealpost %s, which knows formats up to %d: restore it with %s or a later one",
			h.DataFormat, h.WrittenBy, b.o.Version, dataFormat, h.WrittenBy)
	}
	b.restored = Restored{WrittenBy: h.WrittenBy, Events: map[int]uint64{}}
	if b.held, err = folder.Open(b.dir, folder.Layout{Format: h.DataFormat, Version: b.o.Version, Fsync: b.o.Fsync}); err != nil {
		return err
	}
	b.journal, err = journal.Open(b.ctx, journal.Options{
		Dir: filepath.Join(b.dir, folderJournal), Partitions: h.Partitions, EventsMaxBytes: h.EventsMaxBytes, OutcomesMaxBytes: h.OutcomesMaxBytes,
		DedupWindow: h.DedupWindow, MaxEventBytes: archive.MaxValue - 1<<20, MinFreeDisk: -1, Logger: b.o.Logger, Fsync: b.o.Fsync,
	})
	return err
}

// File writes one of the folder's own files.
func (b *builder) File(name string, content []byte) error {
	at := filepath.Join(b.dir, filepath.FromSlash(name))
	first, _, _ := strings.Cut(name, "/")
	for _, own := range notCopied {
		if first == own {
			return fmt.Errorf("%w: file %q", archive.ErrDamaged, name)
		}
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

// Section begins a log, a bucket or a checkpoint.
func (b *builder) Section(name string) (err error) {
	if err := b.endSection(); err != nil {
		return err
	}
	kind, of := path.Split(name)
	switch kind {
	case sectionLog:
		log := b.journal.Logs()[of]
		if log == nil {
			return fmt.Errorf("%w: a log %q", archive.ErrDamaged, of)
		}
		b.loader, err = log.Load(b.ctx)
	case sectionBucket:
		var bucket *journal.Bucket
		if bucket, err = b.journal.Bucket(b.ctx, of); err == nil {
			b.loader, err = bucket.Load(b.ctx)
		}
	case sectionCheckpoint:
		_, _, err = b.checkpoint(name)
	}
	return err
}

// checkpoint is the partition that a section is the checkpoint of.
func (b *builder) checkpoint(section string) (partition int, is bool, err error) {
	number, is := strings.CutPrefix(section, sectionCheckpoint)
	if !is {
		return 0, false, nil
	}
	p, err := strconv.Atoi(number)
	if err != nil || p < 0 || p >= b.journal.Partitions() {
		return 0, true, fmt.Errorf("%w: a checkpoint of partition %q", archive.ErrDamaged, number)
	}
	return p, true, nil
}

// Record adds to the section that is open.
func (b *builder) Record(section string, r archive.Record) error {
	p, is, err := b.checkpoint(section)
	if err != nil {
		return err
	}
	if is {
		b.checkpoints[p] = append(b.checkpoints[p], r.Value...)
		return nil
	}
	if events, is := strings.CutPrefix(section, sectionLog+"EVENTS_"); is {
		if p, err := strconv.Atoi(events); err == nil {
			b.restored.Events[p] = r.Seq
		}
	}
	return b.loader.Add(b.ctx, journal.Stored{Seq: r.Seq, ID: r.ID, Deleted: r.Deleted, Data: r.Value})
}

func (b *builder) endSection() error {
	if b.loader == nil {
		return nil
	}
	defer func() { b.loader = nil }()
	return b.loader.Close(b.ctx)
}

// finish saves the checkpoints, last: they speak of the logs.
func (b *builder) finish() error {
	if err := b.endSection(); err != nil {
		return err
	}
	for p, data := range b.checkpoints {
		if err := b.journal.SaveCheckpoint(b.ctx, p, data); err != nil {
			return fmt.Errorf("checkpoint of partition %d: %w", p, err)
		}
	}
	if b.o.Erasures == nil {
		return nil
	}
	n, err := carryErasures(b.ctx, b.o.Erasures, b.journal, b.o.Logger)
	if err != nil {
		return fmt.Errorf("erasures: %w", err)
	}
	b.restored.Erasures = n
	return nil
}

func (b *builder) close() error {
	var errs []error
	if b.journal != nil {
		errs = append(errs, b.journal.Close(context.WithoutCancel(b.ctx)))
	}
	if b.held != nil {
		errs = append(errs, b.held.Close())
	}
	return errors.Join(errs...)
}

// syncTree makes every file of a folder and every name in it durable, what is deepest first.
func syncTree(dir string, fsync func(*os.File) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if e.IsDir() {
			err = syncTree(at, fsync)
		} else if e.Type().IsRegular() {
			err = folder.Sync(at, fsync)
		}
		if err != nil {
			return err
		}
	}
	return folder.Sync(dir, fsync)
}
