package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// guard keeps what is in the streams while the embedded server opens them. Where
// the server cannot read a block at its start it gives up the stream, and removes
// it from the disk: one bad sector, and one that another try might read, would
// take everything that was accepted along. So each block gets a second name
// first, which costs no copy. Once the server has opened all streams the second
// names go; where it has not, Open fails, and the next start puts back what is
// missing before it tries again.
//
// kill -9 or a loss of power at any moment leaves the second names, and then they
// are put back where the first are missing, or only names of blocks that have
// both. The folder of second names goes at once, by a rename.
type guard struct {
	dir   string // of the journal
	fsync func(*os.File) error
	kept  []string // streams
}

const (
	guardFolder = "opening"
	guardPast   = "opened"
)

func (g *guard) streams(of string) string { return filepath.Join(g.dir, of, "$G", "streams") }

// begin puts back what an earlier start lost, and keeps what there is.
func (g *guard) begin() error {
	if err := os.RemoveAll(filepath.Join(g.dir, guardPast)); err != nil {
		return err
	}
	if err := g.every(guardFolder, "jetstream"); err != nil {
		return fmt.Errorf("put back what an earlier start could not open: %w", err)
	}
	if err := g.drop(); err != nil { // it may hold an older form of a block
		return err
	}
	if err := g.every("jetstream", guardFolder); err != nil {
		return fmt.Errorf("keep the streams while they are opened: %w", err)
	}
	return nil
}

// every gives the files of every stream in one tree the same names in the other,
// where they are missing, durably.
func (g *guard) every(from, to string) error {
	all, err := os.ReadDir(g.streams(from))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	g.kept = nil
	for _, s := range all {
		if !s.IsDir() || strings.HasPrefix(s.Name(), ".") {
			continue
		}
		source, target := filepath.Join(g.streams(from), s.Name()), filepath.Join(g.streams(to), s.Name())
		if err := os.MkdirAll(filepath.Join(target, "msgs"), 0o750); err != nil {
			return err
		}
		blocks, err := filepath.Glob(filepath.Join(escape(source), "msgs", "*.blk"))
		if err != nil {
			return err
		}
		for _, file := range append(blocks, filepath.Join(source, "meta.inf"), filepath.Join(source, "meta.sum")) {
			name := strings.TrimPrefix(file, source)
			if err := os.Link(file, filepath.Join(target, name)); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		for _, dir := range []string{filepath.Join(target, "msgs"), target} {
			if err := syncDir(dir, g.fsync); err != nil {
				return err
			}
		}
		g.kept = append(g.kept, s.Name())
	}
	for dir := g.streams(to); len(dir) >= len(g.dir) && len(g.kept) > 0; dir = filepath.Dir(dir) {
		if err := syncDir(dir, g.fsync); err != nil {
			return err
		}
	}
	return nil
}

// escape makes a path one that Glob takes as it is.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// end gives up the second names, if the server has opened all that was kept.
func (g *guard) end(ctx context.Context, js jetstream.JetStream) error {
	for _, name := range g.kept {
		if empty, err := g.empty(name); err != nil {
			return err
		} else if empty {
			continue // its making may never have been finished
		}
		if _, err := js.Stream(ctx, name); errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w: stream %s: the server could not open it, see the log; nothing of it is lost, start again", ErrUnreadable, name)
		} else if err != nil {
			return fmt.Errorf("stream %s: %w", name, unavailable(err))
		}
	}
	return g.drop()
}

// empty tells whether nothing was ever written to a stream: before the first record its other files were synced.
func (g *guard) empty(name string) (bool, error) {
	blocks, err := os.ReadDir(filepath.Join(g.streams(guardFolder), name, "msgs"))
	for _, b := range blocks {
		info, err := b.Info()
		if err != nil || info.Size() > 0 {
			return false, err
		}
	}
	return true, err
}

// drop removes all second names at once.
func (g *guard) drop() error {
	past := filepath.Join(g.dir, guardPast)
	if err := os.Rename(filepath.Join(g.dir, guardFolder), past); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := syncDir(g.dir, g.fsync); err != nil {
		return err
	}
	return os.RemoveAll(past)
}
