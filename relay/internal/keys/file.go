package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the name of the root's file in the data folder.
const FileName = "secrets.key"

// ErrFile is for a root's file that is not as it has to be.
var ErrFile = errors.New("unfit key file")

// OpenFile reads the root at path, and makes a new one there first if there is none; made tells which. What was
// sealed under a file that was lost stays closed: a new one opens nothing of it.
func OpenFile(path string) (root *Root, made bool, err error) {
	root, err = ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, false, err
	}
	secret := make([]byte, Size)
	rand.Read(secret)
	err = WriteNew(path, secret)
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may have been first: then its file counts
		return nil, false, err
	}
	made = err == nil
	root, err = ReadFile(path)
	return root, made, err
}

// ReadFile reads the root at path: a regular file of Size bytes that nobody but its owner can read or write.
func ReadFile(path string) (*Root, error) {
	secret, err := ReadPrivate(path, Size)
	if err != nil {
		return nil, err
	}
	if len(secret) != Size {
		return nil, fmt.Errorf("%w: %s must hold %d bytes, not %d", ErrFile, path, Size, len(secret))
	}
	return NewRoot(secret)
}

// ReadPrivate reads a file of at most limit bytes, and refuses it where it is no regular file, larger, or where
// others than its owner can read or write it.
func ReadPrivate(path string, limit int) ([]byte, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("private file: %w", err)
	}
	if !before.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrFile, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("private file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat() // of what was opened: the name may have been given to another file meanwhile
	if err != nil {
		return nil, fmt.Errorf("private file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrFile, path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o; it must be 0600", ErrFile, path, perm)
	}
	content, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("private file: %w", err)
	}
	if len(content) > limit {
		return nil, fmt.Errorf("%w: %s holds more than %d bytes", ErrFile, path, limit)
	}
	return content, nil
}

// WriteNew makes a file of mode 0600 with content, durably and all at once: a crash leaves the whole file or none. It
// never replaces a file, and answers fs.ErrExist where there is one.
func WriteNew(path string, content []byte) error {
	folder := filepath.Dir(path)
	f, err := os.CreateTemp(folder, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("new private file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(f.Name(), path) // a rename would replace what is there
	}
	if err != nil {
		return fmt.Errorf("new private file: %w", err)
	}
	return syncFolder(folder)
}

func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
