package folder_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/relay/internal/folder"
)

const holdVariable = "SEALPOST_TEST_HOLD_FOLDER"

// TestMain holds a folder where a test started this binary for that, until its standard input ends.
func TestMain(m *testing.M) {
	dir := os.Getenv(holdVariable)
	if dir == "" {
		os.Exit(m.Run())
	}
	f, err := folder.Open(dir, folder.Layout{Format: 1, Version: "held"})
	fmt.Println("held", err)
	io.Copy(io.Discard, os.Stdin)
	if f != nil {
		f.Close()
	}
}

func open(t *testing.T, dir string, l folder.Layout) (*folder.Folder, error) {
	t.Helper()
	f, err := folder.Open(dir, l)
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// tree is every file of a folder with its content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNewFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := open(t, dir, folder.Layout{Format: 3, Version: "1.2.3"}); err != nil {
		t.Fatal(err)
	}
	v, found, err := folder.Read(dir)
	if err != nil || !found || v.Format != 3 || v.WrittenBy != "1.2.3" || v.Time.IsZero() {
		t.Errorf("%+v %v %v", v, found, err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"LOCK", "VERSION"}) {
		t.Errorf("%v", got)
	}
	if pid, _ := os.ReadFile(filepath.Join(dir, "LOCK")); strings.TrimSpace(string(pid)) != fmt.Sprint(os.Getpid()) {
		t.Errorf("the lock says %q", pid)
	}
}

// TestNewerIsRefused: both versions are named, and nothing is touched.
func TestNewerIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := folder.Open(dir, folder.Layout{Format: 2, Version: "2.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	before := tree(t, dir)
	_, err = open(t, dir, folder.Layout{Format: 1, Version: "1.9.0", Upgrades: map[int]func(string) error{
		1: func(string) error { t.Error("it was upgraded"); return nil }}})
	if !errors.Is(err, folder.ErrNewer) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{dir, "2.0.0", "1.9.0", "format"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("it was changed from %v to %v", before, after)
	}
	// Nothing is held either.
	if _, err := open(t, dir, folder.Layout{Format: 2, Version: "2.0.1"}); err != nil {
		t.Error(err)
	}
}

// TestUpgrade runs each step once, in order, and the one that failed again at the next start.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A folder from before there were versions.
	if err := os.WriteFile(filepath.Join(dir, "secrets.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var steps []int
	failing := true
	layout := folder.Layout{Format: 3, Version: "3.0.0", Upgrades: map[int]func(string) error{
		1: func(at string) error { steps = append(steps, 1); return nil },
		2: func(at string) error {
			steps = append(steps, 2)
			if failing {
				return errors.New("the disk is full")
			}
			return nil
		},
	}}
	if _, err := open(t, dir, layout); err == nil || !strings.Contains(err.Error(), "from format 2 to 3: the disk is full") {
		t.Fatalf("%v", err)
	}
	if v, _, _ := folder.Read(dir); v.Format != 2 {
		t.Errorf("after the first step it is of format %d", v.Format)
	}
	failing = false
	if _, err := open(t, dir, layout); err != nil {
		t.Fatal(err)
	}
	if v, _, _ := folder.Read(dir); v.Format != 3 || v.WrittenBy != "3.0.0" {
		t.Errorf("%+v", v)
	}
	if !slices.Equal(steps, []int{1, 2, 2}) {
		t.Errorf("steps %v", steps)
	}
	if _, err := open(t, t.TempDir(), folder.Layout{Format: 3}); err != nil {
		t.Error("a new folder needs no upgrade", err)
	}
}

func TestUpgradeUnknown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := folder.Open(dir, folder.Layout{Format: 1, Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := open(t, dir, folder.Layout{Format: 2, Version: "2"}); err == nil || !strings.Contains(err.Error(), "cannot bring to format 2") {
		t.Errorf("%v", err)
	}
}

// TestSynced: the folder's name and the version are on the disk, file first and name after, before Open answers; where that fails there is no folder.
func TestSynced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var synced []string
	_, err := open(t, dir, folder.Layout{Format: 1, Fsync: func(f *os.File) error {
		name := filepath.Base(f.Name())
		if strings.HasPrefix(name, ".VERSION-") {
			name = "file"
			if _, found, _ := folder.Read(dir); found {
				t.Error("it has its name before it is whole")
			}
		} else if f.Name() == dir {
			name = "folder"
			if _, found, _ := folder.Read(dir); !found {
				t.Error("the folder was synced before the file had its name")
			}
		} else if f.Name() == filepath.Dir(dir) {
			name = "the one above"
		}
		synced = append(synced, name)
		return f.Sync()
	}})
	if err != nil || !slices.Equal(synced, []string{"the one above", "file", "folder"}) {
		t.Errorf("%v %v", synced, err)
	}
	_, err = open(t, t.TempDir(), folder.Layout{Format: 1, Fsync: func(*os.File) error { return errors.New("bad disk") }})
	if err == nil || !strings.Contains(err.Error(), "bad disk") {
		t.Errorf("%v", err)
	}
}

// TestHeld: another process's folder is refused at once with its id, unchanged, until that process is gone, however it went.
func TestHeld(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"closed", "killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), holdVariable+"="+dir)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			if said, err := bufio.NewReader(out).ReadString('\n'); said != "held <nil>\n" {
				t.Fatalf("%q %v", said, err)
			}
			before := tree(t, dir)
			_, err = open(t, dir, folder.Layout{Format: 1, Version: "second"})
			if !errors.Is(err, folder.ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
				t.Fatalf("%v", err)
			}
			if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("it was changed from %v to %v", before, after)
			}
			if how == "killed" {
				cmd.Process.Kill()
			} else {
				in.Close()
			}
			cmd.Wait()
			if _, err := open(t, dir, folder.Layout{Format: 1, Version: "second"}); err != nil {
				t.Errorf("after its end: %v", err)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "no json": "one", "no format": "{}", "zero": `{"format":0}`, "negative": `{"format":-1}`,
		"a text": `{"format":"1"}`, "too long": `{"format":1}` + strings.Repeat(" ", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := open(t, dir, folder.Layout{Format: 1}); err == nil || !strings.Contains(err.Error(), "VERSION") {
				t.Errorf("%v", err)
			}
			if after, _ := os.ReadFile(filepath.Join(dir, "VERSION")); string(after) != text {
				t.Error("it was changed")
			}
		})
	}
}

// FuzzVersion: whatever is there, it is read as a format from 1 on or refused.
func FuzzVersion(f *testing.F) {
	f.Add([]byte(`{"format":1,"writtenBy":"1.2.3","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"format":99,"more":{}}`))
	f.Add([]byte(`{"format":1e99}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, "VERSION"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		v, found, err := folder.Read(dir)
		if err == nil && (!found || v.Format < 1) || err != nil && found {
			t.Errorf("%+v %v %v", v, found, err)
		}
	})
}
