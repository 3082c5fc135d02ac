package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/archive"
	"github.com/sealpost/sealpost/relay/internal/control"
	"github.com/sealpost/sealpost/relay/internal/folder"
	"github.com/sealpost/sealpost/relay/internal/journal"
)

// Sections of an archive, and what stands in none.
const (
	sectionLog        = "logs/"
	sectionBucket     = "buckets/"
	sectionCheckpoint = "checkpoints/"

	bucketErasures = "ERASURES"
	bucketLeases   = "LEASES" // who owns what now, which is nobody after a restore
)

// bucketsFirst are copied before the logs: what an operation or an erasure says to be done is in the logs then, and what it
// did since is done again.
var bucketsFirst = []string{"OPERATIONS", bucketErasures}

// checkpointPart is how much of a checkpoint is one record of an archive.
const checkpointPart = 1 << 20

// backup writes everything that a start needs as an archive, while the relay goes on. The logs are cut in an order that makes the
// copy a state that the relay could have been killed in: a checkpoint, then the outcomes, of which a later end does no harm, then the
// events, so that no outcome is of an event that the copy does not have. Nothing is trimmed meanwhile, so that what the
// checkpoint needs is still there. The view is left out: it is derived.
func (a *App) backup(ctx context.Context, to io.Writer) (map[string]string, error) {
	if a.o.NATS.URL != "" {
		return nil, &control.StateError{Act: "back up", State: "EXTERNAL", Reason: "the journal is on a NATS server of its own; back that up with its own tools (nats account backup), and the data folder's keys"}
	}
	if !a.copying.TryLock() {
		return nil, &control.StateError{Act: "back up", State: "BUSY", Reason: "another backup is under way"}
	}
	defer a.copying.Unlock()
	defer a.journal.HoldTrims()()
	j := a.o.Journal
	logs := a.journal.Logs()
	sums := archive.NewSums()
	w, err := archive.NewWriter(io.MultiWriter(to, sums), archive.Header{
		WrittenBy: a.o.Version, Time: time.Now().UTC(), DataFormat: dataFormat, Partitions: a.journal.Partitions(), DedupWindow: j.DedupWindow,
		EventsMaxBytes: logs["EVENTS_0"].MaxBytes(), OutcomesMaxBytes: logs["OUTCOMES_0"].MaxBytes(),
	})
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, *archive.Writer) error{a.copyBuckets(true), a.copyPartitions, a.copyBuckets(false), a.copyAudit, a.copyFiles} {
		if err := step(ctx, w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return map[string]string{"bytes": strconv.FormatInt(sums.Bytes, 10), "sha256": sums.String()}, nil
}

// copyBuckets copies those that come before the logs, or all others.
func (a *App) copyBuckets(first bool) func(context.Context, *archive.Writer) error {
	return func(ctx context.Context, w *archive.Writer) error {
		names, err := a.journal.BucketNames(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			if name == bucketLeases || slices.Contains(bucketsFirst, name) != first {
				continue
			}
			bucket, err := a.journal.Bucket(ctx, name)
			if err != nil {
				return err
			}
			if err := w.Section(sectionBucket + name); err != nil {
				return err
			}
			if err := bucket.Copy(ctx, func(s journal.Stored) error { return w.Record(archived(s)) }); err != nil {
				return fmt.Errorf("bucket %s: %w", name, err)
			}
		}
		return nil
	}
}

// copyPartitions copies each partition's checkpoint and logs. Where the logs end is settled before any of them is read: a copy is of
// the moment when it was begun, however long it takes.
func (a *App) copyPartitions(ctx context.Context, w *archive.Writer) error {
	logs := a.journal.Logs()
	type cut struct {
		name string
		upTo uint64
	}
	var cuts []cut
	for p := range a.journal.Partitions() {
		if err := a.copyCheckpoint(ctx, w, p); err != nil {
			return fmt.Errorf("checkpoint of partition %d: %w", p, err)
		}
		for _, kind := range []string{"OUTCOMES_", "EVENTS_"} {
			name := kind + strconv.Itoa(p)
			upTo, err := logs[name].Synced(ctx)
			if err != nil {
				return err
			}
			cuts = append(cuts, cut{name, upTo})
		}
	}
	for _, c := range cuts {
		if err := copyLog(ctx, w, c.name, logs[c.name], c.upTo); err != nil {
			return err
		}
	}
	return nil
}

func (a *App) copyAudit(ctx context.Context, w *archive.Writer) error {
	audit := a.journal.Logs()["AUDIT"]
	upTo, err := audit.Synced(ctx)
	if err != nil {
		return err
	}
	return copyLog(ctx, w, "AUDIT", audit, upTo)
}

func copyLog(ctx context.Context, w *archive.Writer, name string, log *journal.Log, upTo uint64) error {
	if err := w.Section(sectionLog + name); err != nil || upTo == 0 {
		return err
	}
	if err := log.Copy(ctx, upTo, func(s journal.Stored) error { return w.Record(archived(s)) }); err != nil {
		return fmt.Errorf("log %s: %w", name, err)
	}
	return nil
}

// Checkpoints that are saved while one is read can take it away: then the newer one is read.
const (
	checkpointTries = 20
	checkpointAgain = 100 * time.Millisecond
)

var errNoCheckpoint = errors.New("none could be read, and there must be one: outcomes were trimmed already")

func (a *App) copyCheckpoint(ctx context.Context, w *archive.Writer, p int) error {
	var data []byte
	for try := 1; ; try++ {
		found, ok, err := a.journal.LoadCheckpoint(ctx, p)
		if err != nil {
			return err
		}
		if ok {
			data = found
			break
		}
		if try == checkpointTries {
			st, err := a.journal.Outcomes(p).State(ctx)
			if err != nil {
				return err
			}
			if st.First > 1 {
				return errNoCheckpoint
			}
			return nil // none was saved yet: the logs are whole, and tell it all
		}
		select {
		case <-time.After(checkpointAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := w.Section(sectionCheckpoint + strconv.Itoa(p)); err != nil {
		return err
	}
	for n := uint64(1); len(data) > 0; n++ {
		part := data[:min(len(data), checkpointPart)]
		if err := w.Record(archive.Record{Seq: n, Value: part}); err != nil {
			return err
		}
		data = data[len(part):]
	}
	return nil
}

func archived(s journal.Stored) archive.Record {
	return archive.Record{Seq: s.Seq, ID: s.ID, Deleted: s.Deleted, Value: s.Data}
}

// notCopied are the folder's own files that an archive does not hold: they are made anew, or derived.
var notCopied = []string{folderJournal, folderView, folder.LockFile, folder.VersionFile}

// copyFiles copies the keys, the CA and whatever else of ours is in the folder.
func (a *App) copyFiles(_ context.Context, w *archive.Writer) error {
	root, err := os.OpenRoot(a.o.Data)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case slices.Contains(notCopied, name) || strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		case !e.Type().IsRegular():
			a.log.Warn("not backed up: it is no file", "name", filepath.Join(a.o.Data, name))
			return nil
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		content, err := io.ReadAll(io.LimitReader(f, archive.MaxFile+1))
		if err != nil {
			return err
		}
		if len(content) > archive.MaxFile || !archive.ValidName(name) {
			a.log.Warn("not backed up: it is none of Sealpost's files", "name", filepath.Join(a.o.Data, name))
			return nil
		}
		return w.File(name, content)
	})
}
