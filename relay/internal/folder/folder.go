// Package folder keeps a data folder for one process and one format at a time.
//
// It promises that two processes never hold one folder; that a folder of a newer format than this process knows is refused
// before a byte of it is changed; that an older one is brought up to date step by step, each step whole before the folder is
// said to be of the next format; and that what the folder says of itself is durable before anything else is written into it. It trusts
// the file system to keep flock(2) locks and what fsync(2) confirmed; on a network file system without locks it promises nothing.
package folder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Files that the folder is held and known by. No other package writes them.
const (
	LockFile    = "LOCK"    // flocked by its holder, whose process id is in it
	VersionFile = "VERSION" // JSON: the format, and who wrote it
)

// What callers branch on; the errors say more.
var (
	// ErrHeld is for a folder that another process holds.
	ErrHeld = errors.New("is in use")
	// ErrNewer is for a folder of a format that this process does not know.
	ErrNewer = errors.New("is of a newer format")
)

// Layout is what the process knows of the folder's format.
type Layout struct {
	Format  int    // the present one; 1 is the first
	Version string // the binary's, for messages
	// Upgrades[n] turns a folder of format n into one of n+1. A crash may leave it half done, and then it is run again: it must
	// do the rest. It answers when what it did is durable.
	Upgrades map[int]func(dir string) error
	// Fsync replaces (*os.File).Sync: tests give a slow or failing disk here.
	Fsync func(*os.File) error
}

// Version is what a folder says of itself.
type Version struct {
	Format int `json:"format"`
	// WrittenBy is the version of the binary that gave the folder this format.
	WrittenBy string    `json:"writtenBy"`
	Time      time.Time `json:"time"`
}

// Folder is a data folder that this process holds until Close.
type Folder struct {
	dir  string
	lock *flock.Flock
}

// Open makes the folder if it is missing, locks it, and brings it to the layout's format. On an error nothing is held, and where
// that is ErrHeld or ErrNewer nothing was changed. A folder without a version is new, or from before there were versions: of format 1.
func Open(dir string, l Layout) (_ *Folder, err error) {
	if l.Fsync == nil {
		l.Fsync = (*os.File).Sync
	}
	if err := Make(dir, l.Fsync); err != nil {
		return nil, err
	}
	f := &Folder{dir: dir}
	if err := f.take(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	v, found, err := Read(dir)
	switch {
	case err != nil:
		return nil, err
	case !found:
		v.Format = l.Format
		if !fresh(dir) {
			v.Format = 1
		}
		if err := write(dir, v.Format, l); err != nil {
			return nil, err
		}
	}
	if v.Format > l.Format {
		return nil, newer(dir, v, l)
	}
	for ; v.Format < l.Format; v.Format++ {
		up := l.Upgrades[v.Format]
		if up == nil {
			return nil, fmt.Errorf("%s is of format %d, which sealpost %s cannot bring to format %d", dir, v.Format, l.Version, v.Format+1)
		}
		if err := up(dir); err != nil {
			return nil, fmt.Errorf("%s: from format %d to %d: %w", dir, v.Format, v.Format+1, err)
		}
		if err := write(dir, v.Format+1, l); err != nil {
			return nil, err
		}
	}
	if err := f.sign(); err != nil {
		return nil, err
	}
	return f, nil
}

func newer(dir string, v Version, l Layout) error {
	return fmt.Errorf("%s %w: %d, written by sealpost %s; this is sealpost %s, which knows formats up to %d: run %s or a later one, or restore a backup that was made before",
		dir, ErrNewer, v.Format, v.WrittenBy, l.Version, l.Format, v.WrittenBy)
}

// take locks the folder, or says who holds it.
func (f *Folder) take() error {
	name := filepath.Join(f.dir, LockFile)
	f.lock = flock.New(name, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	locked, err := f.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if !locked {
		return fmt.Errorf("%s %w%s: stop that process, or give another folder", f.dir, ErrHeld, holder(name))
	}
	return nil
}

// holder says which process wrote its id into a lock file.
func holder(name string) string {
	text, err := readBounded(name, 32)
	pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || bad != nil || pid <= 0 {
		return " by another process"
	}
	return fmt.Sprintf(" by process %d", pid)
}

// sign leaves this process's id in the lock file. The lock is the kernel's; the id is for people alone.
func (f *Folder) sign() error {
	return os.WriteFile(filepath.Join(f.dir, LockFile), fmt.Appendln(nil, os.Getpid()), 0o600)
}

// Close gives the folder up. It may be called more than once.
func (f *Folder) Close() error { return f.lock.Close() }

// Held is ErrHeld, with its holder, where a process holds the folder. It makes nothing.
func Held(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, LockFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f := &Folder{dir: dir}
	if err := f.take(); err != nil {
		return err
	}
	return f.Close()
}

const maxVersion = 4 << 10

// Read is what a folder says of itself, and false where it says nothing. It takes no lock.
func Read(dir string) (v Version, found bool, err error) {
	text, err := readBounded(filepath.Join(dir, VersionFile), maxVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	} else if err != nil {
		return v, false, err
	}
	if v, err = parse(text); err != nil {
		return v, false, fmt.Errorf("%s: %s cannot be read: %w; put back the file that was there, or restore a backup", dir, VersionFile, err)
	}
	return v, true, nil
}

func parse(text []byte) (v Version, err error) {
	// A later version may say more of itself; its format is what counts here.
	if err := json.Unmarshal(text, &v); err != nil {
		return Version{}, errors.New("not a version")
	}
	if v.Format < 1 {
		return Version{}, fmt.Errorf("format %d", v.Format)
	}
	return v, nil
}

// write says durably which format the folder has: the whole file is there after a crash, or the former one.
func write(dir string, format int, l Layout) error {
	text, err := json.Marshal(Version{Format: format, WrittenBy: l.Version, Time: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := replace(dir, VersionFile, append(text, '\n'), l.Fsync); err != nil {
		return fmt.Errorf("write %s: %w", VersionFile, err)
	}
	return nil
}

func replace(dir, name string, text []byte, fsync func(*os.File) error) error {
	temp, err := os.CreateTemp(dir, "."+name+"-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = io.Copy(temp, bytes.NewReader(text))
	if err == nil {
		err = fsync(temp)
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return Sync(dir, fsync)
}

// Sync makes a file, or the names in a folder, durable; fsync may be nil.
func Sync(name string, fsync func(*os.File) error) error {
	if fsync == nil {
		fsync = (*os.File).Sync
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(fsync(f), f.Close())
}

// fresh tells whether there is nothing in the folder but its lock and what a crash left of its version.
func fresh(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name() != LockFile && !strings.HasPrefix(e.Name(), "."+VersionFile+"-") {
			return false
		}
	}
	return true
}

func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d bytes", filepath.Base(name), most)
	}
	return text, err
}
