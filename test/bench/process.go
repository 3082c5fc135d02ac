package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/sealpost/sealpost/relay/client"
)

// Bounds of the processes that a run starts.
const (
	startWithin = time.Minute
	stopWithin  = 30 * time.Second
	keptOutput  = 8 << 10
)

// child is a process of ours.
type child struct {
	cmd   *exec.Cmd
	said  *tail
	ended chan struct{}
	err   error // of its end; read after ended
}

// begin starts the binary under test. Its environment configures nothing: what is measured is what the flags say.
func begin(ctx context.Context, program string, said *tail, prepare func(*exec.Cmd) error, args ...string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, program, args...), said: said, ended: make(chan struct{})}
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(one string) bool { return strings.HasPrefix(one, "SEALPOST_") })
	c.cmd.Stderr = said
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.WaitDelay = stopWithin
	if err := prepare(c.cmd); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// stop ends the process, by force where it does not end by itself.
func (c *child) stop() error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
		return c.err
	case <-time.After(stopWithin):
		c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("bench: a process did not end within %v", stopWithin)
	}
}

// tail keeps the end of what a process says, and knows whether it said that it is ready.
type tail struct {
	mu    sync.Mutex
	text  []byte
	ready chan struct{}
	once  sync.Once
}

// Write keeps the end of what comes.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if bytes.HasPrefix(t.text, []byte("ready\n")) || bytes.Contains(t.text, []byte("\nready\n")) {
		t.once.Do(func() { close(t.ready) })
	}
	t.text = t.text[max(0, len(t.text)-keptOutput):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// relayProcess is a running server with an empty data folder of its own.
type relayProcess struct {
	*child
	client      *client.Client
	admin       string // where its metrics are
	roots       []byte // of the certificates that it shows to partners, PEM
	data        string
	program     string
	environment []string
}

// startRelay starts a server, embedded but for the view where a Redis is named.
func startRelay(ctx context.Context, program, dir string, s setting) (*relayProcess, error) {
	data, err := os.MkdirTemp(dir, "relay-")
	if err != nil {
		return nil, err
	}
	// What is measured is removed afterwards: it need not leave a twentieth of the disk free.
	p := &relayProcess{data: data, program: program, environment: append([]string{"SEALPOST_JOURNAL_MIN_FREE_DISK=-1"}, s.configure...)}
	if s.redis != "" {
		p.environment = append(p.environment, "SEALPOST_REDIS="+s.redis) // it may hold a password
	}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// start runs the server on its folder.
func (p *relayProcess) start(ctx context.Context) error {
	args := []string{
		"serve", "--dev", "--data", p.data, "--log-level", "warn",
		"--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0",
	}
	said := &tail{ready: make(chan struct{})}
	c, err := begin(ctx, p.program, said, func(cmd *exec.Cmd) error {
		cmd.Env = append(cmd.Env, p.environment...)
		return nil
	}, args...)
	if err != nil {
		return err
	}
	p.child = c
	select {
	case <-said.ready:
		return p.connect()
	case <-c.ended:
		return fmt.Errorf("bench: the server ended before it was ready: %s", said)
	case <-time.After(startWithin):
		return fmt.Errorf("bench: the server was not ready within %v: %s", startWithin, said)
	}
}

func (p *relayProcess) pid() int { return p.cmd.Process.Pid }

// connect makes the client, and learns the roots, from the files that the server left.
func (p *relayProcess) connect() (err error) {
	if p.roots, err = os.ReadFile(filepath.Join(p.data, "client-ca.pem")); err != nil {
		return err
	}
	p.client, err = p.dial()
	return err
}

// dial makes a client with a connection of its own.
func (p *relayProcess) dial() (*client.Client, error) {
	var file struct {
		Server    string `yaml:"server"`
		Admin     string `yaml:"admin"`
		TokenFile string `yaml:"tokenFile"`
	}
	text, err := os.ReadFile(filepath.Join(p.data, "client.yaml"))
	if err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, errors.New("bench: the server's client file cannot be read")
	}
	p.admin = "http://" + file.Admin
	token, err := os.ReadFile(filepath.Join(p.data, file.TokenFile))
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{Target: file.Server, Token: strings.TrimSpace(string(token))})
}

// close ends the server and removes its folder.
func (p *relayProcess) close() error {
	return errors.Join(p.disconnect(), p.end(), os.RemoveAll(p.data))
}

func (p *relayProcess) disconnect() error {
	if p.client == nil {
		return nil
	}
	defer func() { p.client = nil }()
	return p.client.Close()
}

// end ends the server in order, where it runs.
func (p *relayProcess) end() error {
	if p.child == nil {
		return nil
	}
	defer func() { p.child = nil }()
	if err := p.stop(); err != nil {
		return fmt.Errorf("bench: the server ended with %w: %s", err, p.said)
	}
	return nil
}

// restart kills the server as a crash would, and starts it anew on the same folder.
func (p *relayProcess) restart(ctx context.Context) error {
	err := p.disconnect()
	p.cmd.Process.Kill()
	<-p.ended
	p.child = nil
	return errors.Join(err, p.start(ctx))
}

// sinkProcess is a sink that is told what to do.
type sinkProcess struct {
	*child
	in      io.WriteCloser
	mu      sync.Mutex // over an order and its answer
	orders  *json.Encoder
	answers *json.Decoder
}

func startSink(ctx context.Context, program string, args []string) (*sinkProcess, error) {
	s := &sinkProcess{}
	// Not StdoutPipe, which the end of the process would close while it is read.
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.child, err = begin(ctx, program, &tail{ready: make(chan struct{})}, func(cmd *exec.Cmd) error {
		cmd.Stdout = writer
		var err error
		s.in, err = cmd.StdinPipe()
		return err
	}, args...)
	if err := errors.Join(err, writer.Close()); err != nil {
		return nil, errors.Join(err, reader.Close())
	}
	context.AfterFunc(ctx, func() { reader.Close() })
	s.orders, s.answers = json.NewEncoder(s.in), json.NewDecoder(bufio.NewReader(reader))
	return s, nil
}

// tell gives the sink an order and waits for its answer.
func (s *sinkProcess) tell(o order) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var a answer
	err := s.orders.Encode(o)
	if err == nil {
		err = s.answers.Decode(&a)
	}
	if err != nil {
		return a, fmt.Errorf("bench: the sink: %w: %s", err, s.said)
	}
	if a.Error != "" {
		return a, fmt.Errorf("bench: the sink: %s", a.Error)
	}
	return a, nil
}

// count is what the sink has counted of a run when all is there, or after a time.
func (s *sinkProcess) count(run int, within time.Duration) (tally, error) {
	a, err := s.tell(order{Do: "await", Run: run, For: within})
	return a.tally, err
}

// close ends the sink, which does so when it hears no more.
func (s *sinkProcess) close() error {
	s.in.Close()
	select {
	case <-s.ended:
		return s.err
	case <-time.After(stopWithin):
		return s.stop()
	}
}
