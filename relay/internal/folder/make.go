package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Make makes a folder, with those above it that are missing, so that it is still there after a loss of power: a sync of what
// is in a folder does not keep the folder's own name. A folder that is there may have been made by a start that was killed before
// its sync, so its name is synced too; whoever may not read the folder above did not make one in it.
func Make(dir string, fsync func(*os.File) error) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	above := filepath.Dir(dir)
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && above != dir {
		if err := Make(above, fsync); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	made := err == nil
	if info, statErr := os.Stat(dir); errors.Is(err, fs.ErrExist) && statErr == nil && info.IsDir() {
		err = nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(above)
	if errors.Is(err, fs.ErrPermission) && !made {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := fsync(f); err != nil {
		return fmt.Errorf("sync %s: %w", above, err)
	}
	return nil
}
