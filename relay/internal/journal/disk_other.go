//go:build !(linux || darwin || freebsd)

package journal

import (
	"errors"
	"os"
)

// The embedded journal needs flock(2) and the syncing of folders; elsewhere an
// external server can be used.
func lockDir(string) (*os.File, error) {
	return nil, errors.New("journal: the embedded journal runs on Linux, macOS and FreeBSD only; give a NATS server by URL")
}

func diskFree(string) (free, total int64, err error) { return 0, 0, errors.ErrUnsupported }
