// Package trust_test holds what Sealpost promises about who may do what, and what of it can be proven, against the real binary over real
// sockets.
package trust_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// binary is the sealpost that all tests run; TestMain builds it.
var binary string

// quiet is a configuration for partners on loopback that logs no single deliveries: the tests here make many.
func quiet() rig.Config { return rig.Dev().With(rig.Config{"log": rig.Config{"level": "info"}}) }

func TestMain(m *testing.M) { os.Exit(rig.Main(m, &binary)) }

// run runs the binary as a person would, and answers its standard output, and all of it with its end where it failed.
func run(args ...string) (out string, failed *failure) {
	cmd := exec.Command(binary, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), &failure{cmd.ProcessState.ExitCode(), stdout.String() + stderr.String()}
	}
	return stdout.String(), nil
}

// failure is how a command failed.
type failure struct {
	code int
	said string
}

// as runs a command against a process, as its operator.
func as(p *rig.Process, args ...string) (string, *failure) {
	return run(append(args, "--client-file", filepath.Join(p.Data, "client.yaml"))...)
}

// must is as where the command must succeed.
func must(t *testing.T, p *rig.Process, args ...string) string {
	t.Helper()
	out, failed := as(p, args...)
	if failed != nil {
		t.Fatalf("sealpost %v: %d %s", args, failed.code, failed.said)
	}
	return out
}

// file writes a file of the test's own.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
