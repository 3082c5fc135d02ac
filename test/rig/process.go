// Package rig runs the real sealpost binary for tests, and partners for it to deliver to: plain HTTP, TLS and mutual TLS with
// certificates made on the spot. It promises that what it starts ends with its test: processes are killed as groups, listeners
// closed, folders removed. It knows of Sealpost only what an outsider does: the command line, the configuration file, the API.
package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BinaryVariable names a sealpost binary to test in place of one that is built from this tree.
const BinaryVariable = "SEALPOST_TEST_BINARY"

// Build builds the sealpost binary into dir and returns its path.
func Build(dir string) (string, error) {
	if given := os.Getenv(BinaryVariable); given != "" {
		return filepath.Abs(given)
	}
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("rig: where the source is, is not known")
	}
	path := filepath.Join(dir, "sealpost")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/sealpost")
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("rig: go build: %w\n%s", err, out)
	}
	return path, nil
}

// Main runs a package's tests with a binary that is built once for all of them: func TestMain(m *testing.M) { os.Exit(rig.Main(m, &binary)) }
func Main(m *testing.M, binary *string) int {
	dir, err := os.MkdirTemp("", "sealpost-rig-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if *binary, err = Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := watch.begin(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// watch ends what a test process leaves behind when it dies without cleaning up, as after a panic or a timeout.
var watch watchdog

// watchdog is a shell that is told of process groups that begin and end, and kills what is left when nobody tells it any more.
type watchdog struct {
	mu sync.Mutex
	to io.Writer
}

const watchScript = `left=" "
while read -r what group; do
	if [ "$what" = begun ]; then left="$left$group "; else left="${left%% $group *} ${left#* $group }"; fi
done
for group in $left; do kill -9 "-$group" 2>/dev/null; done`

func (w *watchdog) begin() error {
	cmd := exec.Command("sh", "-c", watchScript)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	to, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	w.to = to
	return cmd.Start()
}

func (w *watchdog) tell(what string, group int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to != nil {
		fmt.Fprintln(w.to, what, group)
	}
}

// Config is a configuration file's content: keys as in the manual.
type Config map[string]any

// With is the configuration with more of it set.
func (c Config) With(more Config) Config {
	all := maps.Clone(c)
	if all == nil {
		all = Config{}
	}
	maps.Copy(all, more)
	return all
}

// Dev is a configuration for partners on loopback, with retries and syncs quick enough for tests.
func Dev() Config {
	return Config{"dev": true, "log": Config{"level": "debug"}, "journal": Config{"minFreeDisk": -1}, "delivery": Config{
		"retryIntervals": []string{"100ms", "200ms", "400ms"}, "checkpointEvery": "500ms",
	}}
}

// readyWithin bounds a start, StopWithin a stop.
const (
	readyWithin = 60 * time.Second
	StopWithin  = 60 * time.Second
)

// Process is a running sealpost serve, and its operator.
type Process struct {
	*Client
	Data string // its data folder

	tb     testing.TB
	binary string
	config Config

	HTTP, GRPC, Admin string // host:port

	output *output
	cmd    *exec.Cmd     // nil: it does not run
	ended  chan struct{} // closed when it has ended; then err is its end
	err    error
	pid    atomic.Int64 // 0: it does not run
}

// output is all that a process has written, over its restarts.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	wake chan struct{} // closed and replaced with each write
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.wake)
	o.wake = make(chan struct{})
	return o.text.Write(b)
}

func (o *output) since(from int) (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text.Bytes()[from:]), o.wake
}

// Start starts the binary in a data folder of its own and waits until it is ready. It is killed when the test ends.
func Start(tb testing.TB, binary string, config Config) *Process {
	tb.Helper()
	p := New(tb, binary, config)
	if err := p.Begin(); err != nil {
		tb.Fatalf("sealpost did not start: %v\n%s", err, p.Tail())
	}
	return p
}

// New is a process that is not started yet; see Begin.
func New(tb testing.TB, binary string, config Config) *Process {
	tb.Helper()
	p := &Process{tb: tb, binary: binary, config: config, Data: tb.TempDir(), output: &output{wake: make(chan struct{})}}
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("the process said:\n%s", p.Tail())
		}
	})
	return p
}

// Begin starts the process and returns when it is ready, or has ended before. A free port may be taken by another process
// between its being found and used: then others are tried.
func (p *Process) Begin() error {
	var err error
	for range 5 {
		mark := p.mark()
		if p.HTTP == "" {
			ports := freePorts(p.tb, 3)
			p.GRPC, p.HTTP, p.Admin = ports[0], ports[1], ports[2]
		}
		if err = p.begin(); err == nil {
			return p.login()
		}
		if said, _ := p.output.since(mark); !strings.Contains(said, "address already in use") {
			return err
		}
		p.HTTP = ""
	}
	return err
}

func (p *Process) mark() int {
	all, _ := p.output.since(0)
	return len(all)
}

func (p *Process) begin() error {
	file := filepath.Join(filepath.Dir(p.Data), filepath.Base(p.Data)+".yaml")
	text, err := json.MarshalIndent(Config{"data": p.Data, "grpc": p.GRPC, "http": p.HTTP, "admin": p.Admin}.With(p.config), "", " ")
	if err != nil {
		return err
	}
	// JSON is YAML.
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	mark := p.mark()
	cmd := exec.Command(p.binary, "serve", "--config", file)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	// The tests' own environment must not configure what is under test.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(one string) bool { return strings.HasPrefix(one, "SEALPOST_") })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.err = cmd, ended, nil
	p.pid.Store(int64(cmd.Process.Pid))
	watch.tell("begun", cmd.Process.Pid)
	go func() {
		p.err = cmd.Wait()
		watch.tell("ended", cmd.Process.Pid)
		p.pid.Store(0)
		close(ended)
	}()
	late := time.After(readyWithin)
	for {
		said, more := p.output.since(mark)
		if ready(said) {
			return nil
		}
		select {
		case <-more:
		case <-ended:
			return fmt.Errorf("it ended before it was ready: %w", orDone(p.err))
		case <-late:
			p.Kill()
			return fmt.Errorf("it was not ready within %v", readyWithin)
		}
	}
}

func orDone(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// ready tells whether a line of what a process said is the one that says so.
func ready(said string) bool {
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "ready") || strings.Contains(line, "msg=ready") {
			return true
		}
	}
	return false
}

func (p *Process) login() error {
	token, err := os.ReadFile(filepath.Join(p.Data, "operator.token"))
	if err != nil {
		return err
	}
	p.Client = &Client{tb: p.tb, http: "http://" + p.HTTP, grpc: p.GRPC, Token: strings.TrimSpace(string(token))}
	return nil
}

// Kill ends the process, if it runs, as kill -9 does.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
	p.cmd = nil
}

// KillNow sends SIGKILL while another goroutine is in Begin.
func (p *Process) KillNow() {
	if pid := p.pid.Load(); pid > 0 {
		syscall.Kill(-int(pid), syscall.SIGKILL)
	}
}

// Running tells whether the process was begun and not ended by the test.
func (p *Process) Running() bool { return p.cmd != nil }

// Owned are the partitions that the process says it owns now.
func (p *Process) Owned() (partitions []int) {
	for _, one := range p.Readiness().L("owners") {
		if here, _ := one["here"].(bool); here {
			partitions = append(partitions, one.N("partition"))
		}
	}
	return partitions
}

// Readiness is what /readyz says; empty where it does not answer.
func (p *Process) Readiness() Object {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + p.Admin + "/readyz")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var parts Object
	if json.NewDecoder(resp.Body).Decode(&parts) != nil {
		return nil
	}
	return parts
}

// Suspend stops the process in the middle of whatever it does, as SIGSTOP does, until Resume.
func (p *Process) Suspend() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGSTOP) }

// Resume lets a suspended process go on.
func (p *Process) Resume() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGCONT) }

// Join gives a process that has not begun what it shares with another one of the same installation: the secrets' key, the CA and the
// operator's token.
func (p *Process) Join(other *Process) {
	p.tb.Helper()
	if err := os.MkdirAll(filepath.Join(p.Data, "ca"), 0o700); err != nil {
		p.tb.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(other.Data, "ca", "*"))
	for _, name := range append(files, filepath.Join(other.Data, "secrets.key"), filepath.Join(other.Data, "operator.token")) {
		var text []byte
		if err == nil {
			text, err = os.ReadFile(name)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(p.Data, strings.TrimPrefix(name, other.Data)), text, 0o600)
		}
	}
	if err != nil {
		p.tb.Fatal(err)
	}
}

// Stop asks the process to end with SIGTERM and returns how long it took; the test fails if it did not end well.
func (p *Process) Stop() time.Duration {
	p.tb.Helper()
	began := time.Now()
	p.Terminate()
	if err := p.End(); err != nil {
		p.tb.Errorf("after SIGTERM it ended with %v\n%s", err, p.Tail())
	}
	return time.Since(began)
}

// Terminate sends SIGTERM.
func (p *Process) Terminate() { p.cmd.Process.Signal(syscall.SIGTERM) }

// End waits until the process has ended by itself and returns its end.
func (p *Process) End() error {
	p.tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(StopWithin):
		p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines are worth more than its silence
		<-p.ended
		p.tb.Fatalf("it did not end within %v\n%s", StopWithin, p.Tail())
	}
	p.cmd = nil
	return p.err
}

// Restart starts the process again in the same folder and on the same ports, with some of its configuration changed.
func (p *Process) Restart(changes Config) {
	p.tb.Helper()
	p.config = p.config.With(changes)
	if err := p.Begin(); err != nil {
		p.tb.Fatalf("sealpost did not start again: %v\n%s", err, p.Tail())
	}
}

// Output is all that the process has written to standard output and error.
func (p *Process) Output() string {
	all, _ := p.output.since(0)
	return all
}

// Tail is the end of Output.
func (p *Process) Tail() string {
	all := p.Output()
	return all[max(0, len(all)-16<<10):]
}

var portsMu sync.Mutex
var portsGiven = map[string]bool{}

// freePorts finds loopback addresses that are free, and that it has not given before.
func freePorts(tb testing.TB, n int) []string {
	tb.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	var out []string
	for len(out) < n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		if a := l.Addr().String(); !portsGiven[a] {
			portsGiven[a] = true
			out = append(out, a)
		}
	}
	return out
}
