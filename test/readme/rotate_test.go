package readme_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealpost/sealpost/signer"
	"github.com/sealpost/sealpost/test/rig"
)

// TestRotate replaces a key with the README's lines; the last secret is the one that signs.
func TestRotate(t *testing.T) {
	t.Parallel()
	file := snippets(t)["rotate.sh"]
	if file == "" {
		t.Fatal("the README has no snippet rotate.sh")
	}
	p := rig.Start(t, binary, rig.Dev())
	partner := rig.NewPartner(t, nil, nil)
	e := p.Register(partner.URL, nil)
	cmd := command(t, file, "ENDPOINT="+e.ID, "SEALPOST_CLIENT_FILE="+filepath.Join(p.Data, "client.yaml"),
		"PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "PREVIOUS") || !strings.Contains(string(out), "every 2160h0m0s") || strings.Contains(string(out), "whsec_") {
		t.Fatalf("%v: %s", err, out)
	}
	secret, err := os.ReadFile(filepath.Join(cmd.Dir, "newer.secret"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.ParseKey(signer.Standard, strings.TrimSpace(string(secret)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signer.NewVerifier(signer.Standard, []signer.VerifyingKey{key})
	if err != nil {
		t.Fatal(err)
	}
	p.Publish(rig.Event("evt_1", `{}`))
	p.AwaitDelivery(e, "evt_1", "DELIVERED")
	got := partner.Await(t, 1)[0]
	if _, err := v.Verify(got.Header, signer.Request{Method: "POST", URL: partner.URL, Body: got.Body}, got.At); err != nil {
		t.Error(err)
	}
}
