package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// defect is a line of the source, by its only occurrence in a file, and what stands there instead.
type defect struct{ file, line, instead string }

// broken builds a sealpost with defects. The source stays as it is.
func broken(t *testing.T, defects ...defect) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replaced := map[string]string{}
	for i, d := range defects {
		source, err := os.ReadFile(filepath.Join(root, d.file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(source), d.line) != 1 {
			t.Fatalf("%s does not have %q once: what is to be broken there now?", d.file, d.line)
		}
		changed := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(changed, []byte(strings.Replace(string(source), d.line, d.instead, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replaced[filepath.Join(root, d.file)] = changed
	}
	overlay, out := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sealpost")
	table, err := json.Marshal(map[string]any{"Replace": replaced})
	if err := errors.Join(err, os.WriteFile(overlay, table, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", out, "./cmd/sealpost")
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, said)
	}
	return out
}
