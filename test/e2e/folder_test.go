package e2e_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestSecondProcess: a second serve on a folder ends at once, says who holds it, and changes nothing; the first goes on.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	p := start(t)
	partner := rig.NewPartner(t, nil, nil)
	ep := p.Register(partner.URL, nil)
	// Each file of the folder with its time; the first process's own go on changing in the journal and the view.
	files := func() map[string]string {
		all := map[string]string{}
		err := filepath.WalkDir(p.Data, func(path string, e fs.DirEntry, err error) error {
			name, _ := filepath.Rel(p.Data, path)
			if err != nil || name == "." {
				return err
			}
			if e.IsDir() && (name == "journal" || name == "view") {
				return fs.SkipDir
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			all[name] = fmt.Sprint(info.Size(), info.ModTime(), info.Mode())
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := files()
	second := rig.New(t, binary, rig.Dev())
	second.Data = p.Data
	if second.Begin() == nil {
		t.Fatal("a second process runs in the folder")
	}
	pid, err := os.ReadFile(filepath.Join(p.Data, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{p.Data, "in use by process " + strings.TrimSpace(string(pid))} {
		if said := second.Output(); !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if after := files(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("it changed the folder from\n%v to\n%v", before, after)
	}
	p.Publish(rig.Event("evt_1", `{}`))
	p.AwaitDelivery(ep, "evt_1", "DELIVERED")
}

// TestNewerFolder: a folder that a later version wrote is refused, with both versions.
func TestNewerFolder(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.Stop()
	name := filepath.Join(p.Data, "VERSION")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil || v["format"] != 1.0 || v["writtenBy"] == "" {
		t.Fatalf("%s: %v", text, err)
	}
	if err := os.WriteFile(name, []byte(`{"format":2,"writtenBy":"99.1.0","time":"2099-01-01T00:00:00Z","more":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if p.Begin() == nil {
		t.Fatal("it runs")
	}
	for _, want := range []string{"newer format: 2", "sealpost 99.1.0", "formats up to 1"} {
		if said := p.Tail(); !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
}
