package receivers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
)

const (
	startTimeout   = 30 * time.Second
	installTimeout = 5 * time.Minute
)

// Start runs the receiver in a language ("node" or "python") and returns its URL. key is what a partner holds of it: the secret, or the
// public key in the form of its scheme's receivers.
func Start(t testing.TB, language string, scheme signer.Scheme, key string) string {
	t.Helper()
	var cmd *exec.Cmd
	if language == "node" {
		cmd = exec.Command(program(t, "node"), filepath.Join(folder(t), "node", "receiver.js"))
	} else {
		cmd = exec.Command(pythonWithPackages(t), filepath.Join(folder(t), "python", "receiver.py"))
	}
	cmd.Env = append(os.Environ(), "SCHEME="+string(scheme), "WEBHOOK_SECRET=", "PUBLIC_KEY_FILE=")
	if scheme.Facts().Asymmetric {
		file := filepath.Join(t.TempDir(), "vendor_pub.pem")
		if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "PUBLIC_KEY_FILE="+file)
	} else {
		cmd.Env = append(cmd.Env, "WEBHOOK_SECRET="+key)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		var port int
		if _, err := fmt.Sscanf(text, "listening %d", &port); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("%s said %q and not its port: %s", language, text, complaints.String())
		}
		return fmt.Sprintf("http://127.0.0.1:%d/webhook", port)
	case <-time.After(startTimeout):
		t.Fatalf("%s did not say its port within %v", language, startTimeout)
	}
	return ""
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install it to check that receivers in it accept our deliveries (%v)", name, err)
	}
	return path
}

// pythonWithPackages returns the Python of a virtual environment with the pinned
// packages. It is made once in the user's cache folder, under a name that changes
// with the pins, by one of the test processes that want it.
func pythonWithPackages(t testing.TB) string {
	t.Helper()
	pins, err := os.ReadFile(filepath.Join(folder(t), "python", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	python := program(t, "python3")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	version, err := exec.Command(python, "-c", "import sys; print(sys.executable, sys.version)").Output()
	if err != nil {
		t.Fatalf("python3 does not run: %v", err)
	}
	sum := sha256.Sum256(append(pins, version...))
	venv := filepath.Join(cache, "sealpost-test", "python-"+hex.EncodeToString(sum[:6]))
	defer lock(t, filepath.Dir(venv))()
	complete := filepath.Join(venv, "complete")
	found := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(complete); err == nil {
		return found
	}
	// A folder left by a run that was cut short has no mark: begin again.
	if err := os.RemoveAll(venv); err != nil {
		t.Fatal(err)
	}
	run(t, "python3 with its venv module is needed", python, "-m", "venv", venv)
	run(t, "pip could not install python/requirements.txt", found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", filepath.Join(folder(t), "python", "requirements.txt"))
	if err := os.WriteFile(complete, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return found
}

func run(t testing.TB, complaint string, command ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", complaint, err, out)
	}
}

// folder is where this package's source is.
func folder(t testing.TB) string {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where the receivers are, is not known")
	}
	return filepath.Dir(here)
}

// lock holds a folder for this process alone until the function it returns is called.
func lock(t testing.TB, dir string) (unlock func()) {
	t.Helper()
	err := os.MkdirAll(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { file.Close() }
}
