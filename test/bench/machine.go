package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Machine is what figures depend on beside the code. What the system does not tell is empty.
type Machine struct {
	System     string `json:"system"`
	Kernel     string `json:"kernel"`
	Processor  string `json:"processor"`
	Cores      int    `json:"cores"`
	Go         string `json:"go"`
	FileSystem string `json:"fileSystem"` // under the data folder; on tmpfs a sync costs nothing
	// Load is the system's load average of the last minute, when the run began: above zero, others used the machine.
	Load float64 `json:"load"`
}

func machine(data string) Machine {
	m := Machine{
		System: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(),
		Kernel: firstLine("/proc/sys/kernel/osrelease"), FileSystem: fileSystem(data),
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	load, _, _ := strings.Cut(firstLine("/proc/loadavg"), " ")
	m.Load, _ = strconv.ParseFloat(load, 64)
	return m
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}

// fileSystem is the type of the mount that holds a folder.
func fileSystem(dir string) string {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	longest, kind := -1, ""
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		under := f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/")
		if under && len(f[1]) >= longest {
			longest, kind = len(f[1]), f[2]
		}
	}
	return kind
}

// usage is what a process has used since it began.
type usage struct {
	cpu     float64 // seconds, user and system
	written int64   // bytes handed to storage
	read    int64   // bytes that it read, from files, cached or not, and from sockets
}

func (u usage) since(before usage) usage {
	return usage{cpu: u.cpu - before.cpu, written: u.written - before.written, read: u.read - before.read}
}

// errNoUsage is a system that does not tell what processes use.
var errNoUsage = errors.New("bench: what a process uses is read from /proc, which is not here")

// ticks a second, in which Linux counts a process's time: the same on every architecture that Go knows.
const ticks = 100

// used reads what a process has used. errNoUsage where the system does not tell.
func used(pid int) (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return usage{}, errNoUsage
	}
	if err != nil {
		return usage{}, err
	}
	// The name, in parentheses, may hold anything; after it utime and stime are the 12th and 13th field.
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 13 {
		return usage{}, fmt.Errorf("bench: /proc/%d/stat has %d fields", pid, len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return usage{}, fmt.Errorf("bench: /proc/%d/stat: %w", pid, err)
	}
	u := usage{cpu: float64(user+system) / ticks}
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return usage{}, err
	}
	for name, field := range map[string]*int64{"write_bytes: ": &u.written, "rchar: ": &u.read} {
		for line := range strings.Lines(string(io)) {
			if value, ok := strings.CutPrefix(line, name); ok {
				if *field, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil {
					return usage{}, fmt.Errorf("bench: /proc/%d/io: %w", pid, err)
				}
			}
		}
	}
	return u, nil
}
