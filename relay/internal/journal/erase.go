package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
)

// eraseRoom is the free disk, in bytes, below which nothing is erased: the server writes a block anew for it, and where
// that fails it writes nothing to the stream any more.
const eraseRoom = 128 << 20

// SecureDelete overwrites records, on the disk too; it returns when that is durable. Those that are not there are no
// error. ErrFull: there is too little room on the disk for a block to be written anew, and some may not be erased yet.
//
// The embedded server writes the record's whole block (at most 8 MiB and a record) into a new file, with random bytes in
// the record's place, and renames it over the old one: no file holds the record any more, while the file system may keep the
// old one's freed blocks until it needs them. An external server does the same in each replica, unless its store is
// encrypted; a cluster's Raft logs hold the record until their next snapshot.
func (l *Log) SecureDelete(ctx context.Context, seqs ...uint64) error {
	before, err := l.disk.files()
	if err != nil {
		return err
	}
	for _, seq := range seqs {
		if err := l.eraseRoom(); err != nil {
			return err
		}
		if err := l.erase(ctx, seq); err != nil {
			return err
		}
	}
	return l.disk.replaced(before)
}

func (l *Log) erase(ctx context.Context, seq uint64) error {
	if err := l.j.Err(); err != nil {
		return err
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	m, err := l.j.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.DELETE."+l.name, getRequest(seq))
	if err != nil {
		return unavailable(err)
	}
	l.tail.erase(seq)
	if bytes.Contains(m.Data, []byte(`"success":true`)) {
		return nil
	}
	if err := refusal(m.Data); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

func (l *Log) eraseRoom() error {
	if l.disk == nil {
		return nil
	}
	free, _, err := diskFree(l.j.opt.Dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case free < eraseRoom:
		return fmt.Errorf("%w: %d MiB of disk free, and to erase takes %d", ErrFull, free>>20, int64(eraseRoom)>>20)
	}
	return nil
}

// files are the blocks as they are now; see replaced.
func (d *disk) files() (map[uint64]os.FileInfo, error) {
	if d == nil {
		return nil, nil
	}
	ns, err := d.blocks()
	if err != nil {
		return nil, err
	}
	files := make(map[uint64]os.FileInfo, len(ns))
	for _, n := range ns {
		if st, err := os.Stat(d.block(n)); err == nil {
			files[n] = st
		}
	}
	return files, nil
}

// replaced syncs what the server put in the place of blocks that were there before, then what is new, then the folder.
// A block that is half empty by an erasure is written once more without it, and that the server does not sync.
func (d *disk) replaced(before map[uint64]os.FileInfo) error {
	if d == nil {
		return nil
	}
	now, err := d.files()
	if err != nil {
		return err
	}
	for n, st := range now {
		// A file system may give the number of a file that is gone to the next one.
		if was := before[n]; was == nil || os.SameFile(was, st) && was.ModTime().Equal(st.ModTime()) {
			continue
		}
		if err := syncPath(d.block(n), d.fsync); err != nil && !os.IsNotExist(err) {
			return d.fail(err)
		}
	}
	if err := d.sync(); err != nil {
		return err
	}
	return d.folder()
}
