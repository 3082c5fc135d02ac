//go:build unix

package bench

import "syscall"

// openFiles is how many files a process may have open at most; 0: not known. Go programs raise their own limit to it.
func openFiles() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return uint64(l.Max)
}
