package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// disk makes one stream of the embedded server durable: it syncs the block files
// that its records were written to. It rests on four facts of the server's file
// store, each pinned by a test of this package:
//
//   - a stream's records are in <dir>/jetstream/$G/streams/<name>/msgs/<n>.blk,
//     appended to the block of the highest n, and n only grows;
//   - a record is written, by write(2), before it is acknowledged;
//   - what deletes rewrite is a new file renamed over the old one (an erased
//     record's block is synced before; a bucket's, when superseded revisions are
//     swept out, only after: the file system must not let a rename overtake the
//     data, which ext4 by default and btrfs don't);
//   - the folder's other files (index.db) are rebuilt from the blocks if they
//     don't match.
//
// The newest block is held open between syncs. A kernel reports a failed
// write-back once to each descriptor that was open at the time, so a descriptor
// opened for each sync could miss an error that the server's own background sync
// had already been told.
type disk struct {
	stream string // folder of the stream
	msgs   string // folder of its blocks
	fsync  func(*os.File) error
	fail   func(error) error

	mu     sync.Mutex
	newest uint64 // block up to which, exclusive, nothing is unsynced
	file   *os.File
	stat   os.FileInfo
}

func newDisk(dir, stream string, fsync func(*os.File) error, fail func(error) error) *disk {
	s := filepath.Join(dir, "jetstream", "$G", "streams", stream)
	return &disk{stream: s, msgs: filepath.Join(s, "msgs"), fsync: fsync, fail: fail}
}

// sync returns when every record that was acknowledged before it was called is
// on the disk. Its first failure is the journal's last act.
func (d *disk) sync() error {
	if d == nil {
		return nil // an external server answers for itself
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.syncBlocks(); err != nil {
		return d.fail(err)
	}
	return nil
}

// rewritten is sync for a stream in which the server replaces old blocks as
// their records are superseded: it syncs every block.
func (d *disk) rewritten() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = 0
	if err := d.advance(); err != nil {
		return d.fail(err)
	}
	return nil
}

// syncBlocks syncs the newest known block and all after it. A record may be in
// the known one, acknowledged just before the server began the next.
func (d *disk) syncBlocks() error {
	if d.file != nil {
		now, err := os.Stat(d.file.Name())
		if err == nil && os.SameFile(now, d.stat) {
			if err := d.fsync(d.file); err != nil {
				return fmt.Errorf("sync %s: %w", filepath.Base(d.file.Name()), err)
			}
			switch _, err := os.Stat(d.block(d.newest + 1)); {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			}
		}
	}
	return d.advance()
}

// advance finds the blocks from the newest known one on, syncs them and their
// folder, and holds the last open. It starts over where a purge took a block
// away between listing and opening.
func (d *disk) advance() error {
	for {
		ns, err := d.blocks()
		if err != nil {
			return err
		}
		if ns, err = d.syncFrom(ns); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		return syncDir(d.msgs, d.fsync)
	}
}

func (d *disk) syncFrom(ns []uint64) ([]uint64, error) {
	for i, n := range ns {
		if n < d.newest {
			continue
		}
		f, err := os.OpenFile(d.block(n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err == nil {
			err = d.fsync(f)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("sync %d.blk: %w", n, err)
		}
		if i < len(ns)-1 {
			f.Close()
			continue
		}
		if d.file != nil {
			d.file.Close()
		}
		d.file, d.stat, d.newest = f, st, n
	}
	return ns, nil
}

func (d *disk) block(n uint64) string {
	return filepath.Join(d.msgs, strconv.FormatUint(n, 10)+".blk")
}

// blocks lists the numbers of the block files in order.
func (d *disk) blocks() ([]uint64, error) {
	es, err := os.ReadDir(d.msgs)
	if err != nil {
		return nil, err
	}
	var ns []uint64
	for _, e := range es {
		s, ok := strings.CutSuffix(e.Name(), ".blk")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(s, 10, 64); err == nil {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	if len(ns) == 0 {
		return nil, fmt.Errorf("no block files in %s: the server's file layout has changed", d.msgs)
	}
	return ns, nil
}

// all syncs the stream whole: its configuration, every block and the folders up
// to root. A process that was killed may have left written what it had not yet
// synced; a repeat of such an event is a duplicate, answered at once, and rests
// on this.
func (d *disk) all(root string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = 0
	es, err := os.ReadDir(d.stream)
	if err != nil {
		return d.fail(err)
	}
	for _, e := range es {
		if e.Type().IsRegular() {
			if err := syncPath(filepath.Join(d.stream, e.Name()), d.fsync); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return d.fail(err)
			}
		}
	}
	if err := d.advance(); err != nil {
		return d.fail(err)
	}
	for dir := d.stream; ; dir = filepath.Dir(dir) {
		if err := syncDir(dir, d.fsync); err != nil {
			return d.fail(err)
		}
		if dir == root || dir == filepath.Dir(dir) {
			break
		}
	}
	return nil
}

// folder syncs the names of the blocks, after the server replaced one.
func (d *disk) folder() error {
	if d == nil {
		return nil
	}
	if err := syncDir(d.msgs, d.fsync); err != nil {
		return d.fail(err)
	}
	return nil
}

// boundaries are the first sequences of the blocks. A purge up to one of them
// unlinks whole blocks and rewrites none, so that what stays is as durable as it
// was. What a record's head holds: length (4 bytes), sequence (8), both little
// endian; the sequence's high bits mark a tombstone or an erased record, whose
// block gives no boundary.
func (d *disk) boundaries() ([]uint64, error) {
	ns, err := d.blocks()
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, n := range ns {
		first, err := firstSeq(d.block(n))
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) || first >= 1<<62 {
			continue
		} else if err != nil {
			return nil, err
		}
		firsts = append(firsts, first)
	}
	return firsts, nil
}

func firstSeq(name string) (uint64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [12]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, io.EOF
	}
	return binary.LittleEndian.Uint64(head[4:]), nil
}

// close does not wait for a sync that hangs.
func (d *disk) close() {
	if !d.mu.TryLock() {
		return
	}
	defer d.mu.Unlock()
	if d.file != nil {
		d.file.Close()
		d.file = nil
	}
}

func syncDir(dir string, fsync func(*os.File) error) error { return syncPath(dir, fsync) }

func syncPath(name string, fsync func(*os.File) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fsync(f); err != nil {
		return fmt.Errorf("sync %s: %w", filepath.Base(name), err)
	}
	return nil
}
