package receivers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const installTimeout = 20 * time.Minute

// cached is a folder of the user's cache that make has filled. It is made once, under a name that changes with what it is made
// of, by one of the test processes that want it.
func cached(t testing.TB, name string, of []byte, make func(folder string)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(of)
	folder := filepath.Join(cache, "sealpost-test", name+"-"+hex.EncodeToString(sum[:6]))
	defer lock(t, filepath.Dir(folder))()
	complete := filepath.Join(folder, "complete")
	if _, err := os.Stat(complete); err == nil {
		return folder
	}
	// A folder left by a run that was cut short has no mark: begin again.
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	make(folder)
	if err := os.WriteFile(complete, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// built is what a compiler makes of one source file.
func built(t testing.TB, language, source, result string, compiler ...string) string {
	t.Helper()
	file := filepath.Join(folder(t), language, source)
	text := read(t, file)
	made := cached(t, language, append(append(text, version(t, compiler[0])...), strings.Join(compiler, " ")...), func(into string) {
		run(t, into, language+"/"+source+" does not compile", append(compiler, file)...)
	})
	return filepath.Join(made, result)
}

// pythonWithPackages is the Python of a virtual environment with the pinned packages.
func pythonWithPackages(t testing.TB) string {
	t.Helper()
	pins := filepath.Join(folder(t), "python", "requirements.txt")
	python := program(t, "python3")
	venv := cached(t, "python", append(read(t, pins), version(t, python)...), func(into string) {
		run(t, into, "python3 with its venv module is needed", python, "-m", "venv", into)
		run(t, into, "pip could not install python/requirements.txt", filepath.Join(into, "bin", "python"), "-m", "pip", "install",
			"--quiet", "--disable-pip-version-check", "-r", pins)
	})
	return filepath.Join(venv, "bin", "python")
}

// nodePackages is a folder with the pinned packages of node/package.json.
func nodePackages(t testing.TB) string {
	t.Helper()
	pins := read(t, filepath.Join(folder(t), "node", "package.json"))
	npm := program(t, "npm")
	return cached(t, "node", append(pins, version(t, npm)...), func(into string) {
		if err := os.WriteFile(filepath.Join(into, "package.json"), pins, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, into, "npm could not install node/package.json", npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
	})
}

// javaLibraryPin is the official library of Standard Webhooks.
const javaLibraryPin = "com.standardwebhooks:standardwebhooks:1.1.0"

// javaLibrary is its jar.
func javaLibrary(t testing.TB) string {
	t.Helper()
	maven := program(t, "mvn")
	into := cached(t, "jar", []byte(javaLibraryPin), func(into string) {
		run(t, into, "Maven could not fetch "+javaLibraryPin, maven, "--batch-mode", "--quiet", "dependency:copy", "-Dartifact="+javaLibraryPin, "-DoutputDirectory="+into)
	})
	jars, err := filepath.Glob(filepath.Join(into, "*.jar"))
	if err != nil || len(jars) != 1 {
		t.Fatalf("%s holds %v and not one jar (%v)", into, jars, err)
	}
	return jars[0]
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install it to check that receivers in it accept our deliveries (%v)", name, err)
	}
	return path
}

// version is what a program says of itself.
func version(t testing.TB, path string) []byte {
	t.Helper()
	argument := "--version"
	if filepath.Base(path) == "go" {
		argument = "version"
	}
	out, err := exec.Command(path, argument).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", path, argument, err)
	}
	return append(out, path...)
}

func run(t testing.TB, in, complaint string, command ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", complaint, err, out)
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
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
