package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sealpost/sealpost/relay/proof"
)

// OutsideName is the file's where a folder was named.
const OutsideName = "sealpost-audit.checkpoints"

// outside is the file that checkpoints are appended to, a line each (proof.Published). It is opened for each line: it may stand on what is mounted
// and unmounted. Nothing but appending is asked of it: it may be append-only to us (chattr +a).
type outside struct {
	path  string
	fsync func(*os.File) error
}

// openOutside makes the file's folder its business to be there, and the file's to be readable where it is.
func openOutside(path string, fsync func(*os.File) error) (*outside, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, OutsideName)
	} else if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no folder", filepath.Dir(path))
	}
	return &outside{path, fsync}, nil
}

// tailBytes is how much of the end of the file is read for its last line.
const tailBytes = 4 * proof.MaxCheckpoint

// last is the last checkpoint in the file, with its line; a nil line where there is none. What follows the last whole line is what a process that
// was killed had begun to write.
func (o *outside) last(k proof.Key) (c proof.Checkpoint, line []byte, err error) {
	f, err := os.Open(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil, nil
	} else if err != nil {
		return c, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return c, nil, err
	}
	text := make([]byte, min(info.Size(), tailBytes))
	if _, err := f.ReadAt(text, info.Size()-int64(len(text))); err != nil && !errors.Is(err, io.EOF) {
		return c, nil, err
	}
	for len(text) > 0 {
		at := bytes.LastIndexByte(bytes.TrimSuffix(text, []byte("\n")), '\n') + 1
		line := text[at:]
		_, c, err := proof.ParsePublished(line, k)
		if !errors.Is(err, proof.ErrFormat) {
			return c, line, err
		}
		text = text[:at]
	}
	if info.Size() > 0 {
		return c, []byte("?"), fmt.Errorf("%s: %w: no checkpoint at its end", o.path, proof.ErrSignature)
	}
	return c, nil, nil
}

// append adds a checkpoint, durably.
func (o *outside) append(signed []byte, now time.Time) error {
	line, err := proof.FormatPublished(proof.Published{Time: now.UTC(), Checkpoint: string(signed)})
	if err != nil {
		return err
	}
	_, statErr := os.Stat(o.path)
	f, err := os.OpenFile(o.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if size := info.Size(); size > 0 {
		var end [1]byte
		if _, err := f.ReadAt(end[:], size-1); err != nil {
			return err
		}
		if end[0] != '\n' { // a line that was not written to its end is not to swallow this one
			line = append([]byte("\n"), line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	if err := o.fsync(f); err != nil {
		return err
	}
	if !errors.Is(statErr, fs.ErrNotExist) {
		return nil
	}
	dir, err := os.Open(filepath.Dir(o.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return o.fsync(dir)
}
