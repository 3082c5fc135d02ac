package readme_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestAudit proves and verifies with the README's lines.
func TestAudit(t *testing.T) {
	t.Parallel()
	file := snippets(t)["audit.sh"]
	if file == "" {
		t.Fatal("the README has no snippet audit.sh")
	}
	p := rig.Start(t, binary, rig.Dev())
	e := p.Register(rig.NewPartner(t, nil, nil).URL, nil)
	cmd := command(t, file, "SEALPOST_CLIENT_FILE="+filepath.Join(p.Data, "client.yaml"), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil || strings.Count(string(out), "verified: ") != 2 || !strings.Contains(string(out), e.ID) {
		t.Fatalf("%v: %s", err, out)
	}
}
