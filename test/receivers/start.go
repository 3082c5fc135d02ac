package receivers

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// startTimeout is how long a receiver may take until it listens, on a machine that does much else.
const startTimeout = 5 * time.Minute

// Languages are those that there is a receiver in.
var Languages = []string{"go", "node", "python", "java"}

// Receiver is a running one, which trusts the keys that it was last given.
type Receiver struct {
	URL    string
	t      testing.TB
	config string
}

// Start runs the receiver in a language. It trusts no key yet. External is the URL's origin as senders see it, where another
// server is between.
func Start(t testing.TB, language string, scheme signer.Scheme, external string) *Receiver {
	t.Helper()
	r := &Receiver{t: t, config: t.TempDir()}
	if err := os.Mkdir(filepath.Join(r.config, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, language)
	cmd.Env = append(os.Environ(), "SCHEME="+string(scheme), "CONFIG="+r.config)
	if external != "" {
		cmd.Env = append(cmd.Env, "EXTERNAL_URL="+external)
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
		r.URL = fmt.Sprintf("http://127.0.0.1:%d/webhook", port)
	case <-time.After(startTimeout):
		t.Fatalf("%s did not say its port within %v", language, startTimeout)
	}
	return r
}

// Trust makes these keys the ones that the receiver trusts: the secret, or the public key in the form of its scheme's receivers.
func (r *Receiver) Trust(keys ...string) {
	r.t.Helper()
	folder := filepath.Join(r.config, "keys")
	next := folder + ".next"
	err := os.Mkdir(next, 0o700)
	for i, key := range keys {
		if err == nil {
			err = os.WriteFile(filepath.Join(next, strconv.Itoa(i)), []byte(key+"\n"), 0o600)
		}
	}
	if err == nil {
		err = os.RemoveAll(folder)
	}
	if err == nil {
		err = os.Rename(next, folder)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// Tolerate sets how old a delivery may be.
func (r *Receiver) Tolerate(d time.Duration) {
	r.t.Helper()
	text := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	if err := os.WriteFile(filepath.Join(r.config, "tolerance"), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// command is how a language's receiver is run.
func command(t testing.TB, language string) *exec.Cmd {
	t.Helper()
	source := filepath.Join(folder(t), language)
	switch language {
	case "go":
		return exec.Command(built(t, "go", "receiver.go", "receiver", program(t, "go"), "build", "-trimpath", "-o", "receiver"))
	case "node":
		return exec.Command(program(t, "node"), filepath.Join(source, "receiver.js"))
	case "python":
		return exec.Command(pythonWithPackages(t), filepath.Join(source, "receiver.py"))
	case "java":
		classes := built(t, "java", "Receiver.java", "Receiver.class", program(t, "javac"), "-d", ".")
		return exec.Command(program(t, "java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-cp", filepath.Dir(classes), "Receiver")
	}
	t.Fatalf("there is no receiver in %q", language)
	return nil
}

// Half is what a partner holds of a key: the secret, or the public key in the form of its scheme's receivers.
func Half(key signer.Key) string {
	if key.Asymmetric() {
		return key.PublicText()
	}
	return key.Reveal()
}
