package faults_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// ownMounts says, in a test process that has mounts of its own, that it may make some.
const ownMounts = "FAULTS_OWN_MOUNTS"

func mayMount() bool { return os.Getenv(ownMounts) != "" }

// inOwnMounts runs the test that calls it once more in a process with mounts of its own, which end with it. That needs no privilege
// where user namespaces are allowed; where they are not, and for who is not root, it is EPERM.
func inOwnMounts(t *testing.T) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprintf("-long=%v", *long), fmt.Sprintf("-rounds=%d", *rounds))
	cmd.Env = append(os.Environ(), ownMounts+"=1", rig.BinaryVariable+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	t.Logf("with mounts of its own:\n%s", out)
	if err == nil && !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		err = errors.New("the test did not run there")
	}
	return err
}

// private keeps what this process mounts from all others.
func private() error {
	return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
}
