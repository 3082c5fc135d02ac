package readme_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/test/rig"
)

// TestOperate looks at an endpoint, backs up and restores with the README's lines, and starts what was restored.
func TestOperate(t *testing.T) {
	t.Parallel()
	file := snippets(t)["operate.sh"]
	if file == "" {
		t.Fatal("the README has no snippet operate.sh")
	}
	p := rig.Start(t, binary, rig.Dev())
	e := p.Register(rig.NewPartner(t, nil, nil).URL, nil)
	p.Publish(rig.Event("evt_1", `{}`))
	p.AwaitDelivery(e, "evt_1", "DELIVERED")
	cmd := command(t, file, "ENDPOINT="+e.ID, "SEALPOST_CLIENT_FILE="+filepath.Join(p.Data, "client.yaml"),
		"PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "CLOSED") || !strings.Contains(string(out), "restored restored-data") {
		t.Fatalf("%v: %s", err, out)
	}
	q := rig.New(t, binary, rig.Dev())
	q.Data = filepath.Join(cmd.Dir, "restored-data")
	if err := q.Begin(); err != nil {
		t.Fatal(err)
	}
	q.AwaitDelivery(e, "evt_1", "DELIVERED")
}
