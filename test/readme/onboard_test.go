package readme_test

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealpost/sealpost/test/rig"
)

// TestOnboard goes from the first start to the first verified production delivery with the README's lines, over mutual TLS: a partner, an
// approver and a publisher with an account each, and nothing but the command line.
func TestOnboard(t *testing.T) {
	t.Parallel()
	file := snippets(t)["onboard.sh"]
	if file == "" {
		t.Fatal("the README has no snippet onboard.sh")
	}
	const host = "hooks.partner.example"
	p := rig.Start(t, binary, rig.Dev().With(rig.Config{
		"dev": false, "egress": rig.Config{"allow": []string{"127.0.0.0/8"}, "nameServer": rig.NewZone(t).Address},
	}))
	dir, ca := t.TempDir(), rig.NewCA(t)
	pair := ca.Issue(time.Now().Add(time.Hour), host)
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"ca.pem": ca.PEM(), "hooks.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})),
		"hooks.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	strict := filepath.Join(dir, "strict.sh")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(strict, append([]byte("set -eu\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, strict, "URL=https://"+host+":"+port+"/crm", "ADDR="+address, "SEALPOST=http://"+p.HTTP,
		"SEALPOST_CLIENT_FILE="+filepath.Join(p.Data, "client.yaml"), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	cmd.Dir = dir
	out, err := cmd.Output()
	said := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, what := range []string{
		"BULK_EXPORT", "the key of the server's certificate signed the nonce", host, "sha256", "ACTIVE", "verdict", "ann@example.com",
	} {
		if !strings.Contains(said, what) {
			t.Errorf("nothing is said of %q:\n%s", what, said)
		}
	}
	received, err := os.ReadFile(filepath.Join(dir, "received"))
	if err != nil || strings.Contains(string(received), "078-05-1120") || !strings.Contains(string(received), "ann@example.com") {
		t.Errorf("received: %v\n%s", err, received)
	}
}
