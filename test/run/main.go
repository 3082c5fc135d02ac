// Command run installs what the tests need and runs them: formatting, vet, unit and property tests, the store suite against a
// real Redis, end to end over real TCP and TLS, all under the race detector, and the crash tests on the real binary.
//
//	go run ./test/run            everything that a change must pass
//	go run ./test/run -long      also longer rounds of crash and fault tests, and fuzzing
//	go run ./test/run -no-install   install nothing; a missing program fails the tests that need it
//
// A test that needs something that is missing fails; none is skipped.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	long := flag.Bool("long", false, "also longer rounds of crash and fault tests, and fuzzing")
	noInstall := flag.Bool("no-install", false, "install nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *long, !*noInstall); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

type step struct {
	name string
	do   func(context.Context) error
}

func run(ctx context.Context, long, install bool) error {
	steps := []step{
		{"formatting", unformatted},
		{"vet", command("go", "vet", "./...")},
		{"build without cgo", releaseBuild},
		{"generated code is what proto/ makes", regenerate},
		{"tests, race detector on", func(ctx context.Context) error { return tests(ctx, long, false) }},
		{"tests that load the machine, one package after the other", func(ctx context.Context) error { return tests(ctx, long, true) }},
	}
	if install {
		steps = append([]step{{"programs that tests need", installMissing}}, steps...)
	}
	if long {
		steps = append(steps, step{"fuzzing", fuzzAll})
	}
	began := time.Now()
	for i, s := range steps {
		fmt.Printf("=== %d/%d %s\n", i+1, len(steps), s.name)
		at := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("=== %s: %s\n", s.name, time.Since(at).Round(100*time.Millisecond))
	}
	fmt.Printf("=== all passed in %s\n", time.Since(began).Round(time.Second))
	return nil
}

// loading are the packages whose tests run real processes under load and look at how long things take: they are not run
// beside others.
var loading = []string{"/test/bench", "/test/cluster", "/test/crash", "/test/faults"}

// tests runs the packages' tests: those that load the machine, or all others.
func tests(ctx context.Context, long, load bool) error {
	listed, err := output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	args := []string{"test", "-race", "-timeout", "40m"}
	if load {
		args = append(args, "-p", "1")
	}
	if long {
		os.Setenv("SEALPOST_TEST_LONG", "1")
	}
	for pkg := range strings.FieldsSeq(listed) {
		if load == slices.ContainsFunc(loading, func(end string) bool { return strings.HasSuffix(pkg, end) }) {
			args = append(args, pkg)
		}
	}
	return command("go", args...)(ctx)
}

// command runs a program with its output shown.
func command(name string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
		}
		return nil
	}
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(out)), err
}

func unformatted(ctx context.Context) error {
	out, err := output(ctx, "gofmt", "-l", "cmd", "proto", "relay", "signer", "store", "test")
	if err != nil {
		return err
	}
	if out != "" {
		return fmt.Errorf("run gofmt -w on:\n%s", out)
	}
	return nil
}

// releaseBuild makes the binary as it is released: without cgo.
func releaseBuild(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sealpost-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/sealpost", "./cmd/sealpost")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// regenerate makes the code of proto/ anew in a folder of its own and compares.
func regenerate(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sealpost-proto-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	buf := []string{"tool", "-modfile=proto/tools.mod", "buf"}
	if err := command("go", append(buf, "lint")...)(ctx); err != nil {
		return err
	}
	if err := command("go", append(buf, "generate", "--template", "proto/buf.gen.yaml", "-o", dir)...)(ctx); err != nil {
		return err
	}
	made := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		made++
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fresh, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if committed, err := os.ReadFile(name); err != nil || !bytes.Equal(fresh, committed) {
			return fmt.Errorf("%s is not what proto/ makes: run make generate", name)
		}
		return nil
	})
	if err == nil && made == 0 {
		return errors.New("nothing was generated")
	}
	return err
}

// fuzzFor is how long each target is fuzzed.
const fuzzFor = "30s"

// fuzzAll finds the fuzz targets and runs each for a while.
func fuzzAll(ctx context.Context) error {
	packages, err := output(ctx, "go", "list", "./...")
	if err != nil {
		return err
	}
	for pkg := range strings.FieldsSeq(packages) {
		targets, err := output(ctx, "go", "test", "-list", "^Fuzz", pkg)
		if err != nil {
			return fmt.Errorf("%s: %w", pkg, err)
		}
		for target := range strings.FieldsSeq(targets) {
			if !strings.HasPrefix(target, "Fuzz") {
				continue
			}
			if err := command("go", "test", "-run=^$", "-fuzz=^"+target+"$", "-fuzztime="+fuzzFor, pkg)(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}
