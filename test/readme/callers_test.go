package readme_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// TestCallers makes an account and its credentials with the README's lines, over TLS.
func TestCallers(t *testing.T) {
	t.Parallel()
	file := snippets(t)["callers.sh"]
	if file == "" {
		t.Fatal("the README has no snippet callers.sh")
	}
	dir := t.TempDir()
	pair := rig.NewCA(t).Issue(time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := rig.Start(t, binary, rig.Dev().With(rig.Config{"tls": rig.Config{"cert": filepath.Join(dir, "tls.crt"), "key": filepath.Join(dir, "tls.key")}}))
	cmd := command(t, file, "SEALPOST_CLIENT_FILE="+filepath.Join(p.Data, "client.yaml"), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"CERTIFICATE", "PUBLISHER", "disabled"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	for _, name := range []string{"crm.pem", "crm.token"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}
