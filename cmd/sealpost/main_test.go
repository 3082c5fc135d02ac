package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sealpost": main})
}

// TestScripts runs the binary as its users do, against servers that really run.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values["processes"] = processes{}
			env.Setenv("FREE", "--grpc 127.0.0.1:0 --http 127.0.0.1:0 --admin 127.0.0.1:0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "start": start, "stop": stop, "join": joinProcess, "until": until, "json": jsonField,
			"certificate": certificate,
		},
	})
}

// exits runs a command line and holds it to its exit status: exits STATUS COMMAND...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var status *exec.ExitError
		if !errors.As(err, &status) {
			ts.Fatalf("%v", err)
		}
		got = status.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}

// process is a command in the background.
type process struct {
	cmd  *exec.Cmd
	done chan error
}

// processes are kept with each script's values, by name.
type processes map[string]*process

// start runs sealpost in the background and returns when it says that it is ready: start NAME ARGS... Its output is in
// NAME.out and NAME.err; where it listens as a receiver is in $NAME_URL. A "-" before the name: without waiting.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME ARGS...")
	}
	name, waits := strings.CutPrefix(args[0], "-")
	binary := ""
	for _, folder := range filepath.SplitList(ts.Getenv("PATH")) {
		if info, err := os.Stat(filepath.Join(folder, "sealpost")); err == nil && !info.IsDir() {
			binary = filepath.Join(folder, "sealpost")
			break
		}
	}
	var split []string
	for _, a := range args[1:] {
		split = append(split, strings.Fields(a)...)
	}
	out, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	errs, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	cmd := exec.Command(binary, split...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, errs
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	ts.Check(cmd.Start())
	p := &process{cmd, make(chan error, 1)}
	go func() {
		err := cmd.Wait()
		p.done <- errors.Join(err, out.Close(), errs.Close())
	}()
	ts.Value("processes").(processes)[name] = p
	ts.Defer(func() {
		cmd.Process.Kill()
		err := <-p.done
		p.done <- err
	})
	if waits {
		return
	}
	ready := regexp.MustCompile(`(?m)^ready$`)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(errs.Name())
		ts.Check(err)
		if at := regexp.MustCompile(`(?m)^listening on (\S+)$`).FindSubmatch(text); at != nil {
			ts.Setenv(name+"_URL", string(at[1]))
		}
		if ready.Match(text) {
			return
		}
		select {
		case err := <-p.done:
			p.done <- err
			ts.Fatalf("%s ended: %v\n%s", name, err, text)
		default:
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not ready:\n%s", name, text)
		}
	}
}

// patience bounds every wait of a script.
const patience = 30 * time.Second

// stop asks a process to end, as an operator does, and holds it to a clean exit: stop NAME.
func stop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stop NAME")
	}
	ts.Check(ts.Value("processes").(processes)[args[0]].cmd.Process.Signal(syscall.SIGTERM))
	joinProcess(ts, false, args)
}

// joinProcess waits until a process has ended well: join NAME.
func joinProcess(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: join NAME")
	}
	p := ts.Value("processes").(processes)[args[0]]
	select {
	case err := <-p.done:
		p.done <- err
		if err != nil {
			ts.Fatalf("%s: %v\n%s", args[0], err, ts.ReadFile(args[0]+".err"))
		}
	case <-time.After(patience):
		ts.Fatalf("%s does not end", args[0])
	}
}

// until repeats a command until a file, or stdout, matches: until FILE REGEXP COMMAND... What is asked for is on its way, and nobody
// says when it has come.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: until FILE REGEXP COMMAND...")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec(args[2], args[3:]...))
		if pattern.MatchString(ts.ReadFile(args[0])) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match for %s in:\n%s", pattern, ts.ReadFile(args[0]))
		}
	}
}

// jsonField takes a value out of a JSON file, or stdout, into a variable: json FILE PATH VARIABLE. The path is of names and numbers with
// dots between them.
func jsonField(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH VARIABLE")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for part := range strings.SplitSeq(args[1], ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(in) {
				ts.Fatalf("%s: no element %s", args[1], part)
			}
			v = in[i]
		default:
			v = nil
		}
	}
	if v == nil {
		ts.Fatalf("%s is not there in:\n%s", args[1], ts.ReadFile(args[0]))
	}
	ts.Setenv(args[2], fmt.Sprint(v))
}

// certificate makes NAME.pem and NAME.key, which vouches for itself: certificate NAME HOST.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate NAME HOST")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if ip := net.ParseIP(args[1]); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{args[1]}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for name, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+name), pem.EncodeToMemory(block), 0o600))
	}
}

// TestHelp holds the help of every command to its form: what it does, and an example at the end.
func TestHelp(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())
		var out, errs bytes.Buffer
		if status := execute(context.Background(), append(path[1:], "--help"), nil, &out, &errs); status != exitDone || errs.Len() > 0 {
			t.Errorf("%v --help: status %d, %s", path, status, &errs)
		}
		_, example, ok := strings.Cut(out.String(), "\n\nExamples:\n")
		if !ok || !strings.Contains(example, "sealpost") || strings.Contains(example, "\n\n") {
			t.Errorf("the help of %v does not end in an example:\n%s", path, &out)
		}
		if cmd.Short == "" {
			t.Errorf("%v says not what it does", path)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

// TestExamples runs no example, but holds each to commands and flags that there are.
func TestExamples(t *testing.T) {
	t.Parallel()
	flag := regexp.MustCompile(`(?:^| )--([a-z0-9-]+)`)
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.SplitSeq(strings.ReplaceAll(cmd.Example, "\\\n", " "), "\n") {
			_, after, ok := strings.Cut(line, "sealpost ")
			if !ok {
				t.Errorf("%s: %q calls something else", cmd.CommandPath(), line)
				continue
			}
			found, _, err := newRoot().Find(strings.Fields(strings.TrimSuffix(after, ")")))
			if err != nil {
				t.Errorf("%s: %v", cmd.CommandPath(), err)
				continue
			}
			if found.HasSubCommands() {
				t.Errorf("%s: %q names no command", cmd.CommandPath(), line)
			}
			for _, name := range flag.FindAllStringSubmatch(after, -1) {
				if found.Flag(name[1]) == nil && found.InheritedFlags().Lookup(name[1]) == nil {
					t.Errorf("%s: %q has a flag --%s that %s has not", cmd.CommandPath(), line, name[1], found.CommandPath())
				}
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}
