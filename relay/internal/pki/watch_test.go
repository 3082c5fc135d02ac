package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPairFollowsItsFiles through the ways in which those who issue certificates replace them, and through what must not be taken.
func TestPairFollowsItsFiles(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca, err := Open(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := func() (cert, key []byte, print string) {
		t.Helper()
		made, err := ca.IssueServer([]string{"sealpost.example"}, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range made.Certificate {
			cert = append(cert, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: c})...)
		}
		return cert, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), Fingerprint(made.Leaf)
	}
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renamed := func(name string, text []byte) {
		t.Helper()
		write(name+".new", text)
		if err := os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	// As Kubernetes mounts a secret: tls.crt -> ..data/tls.crt, and ..data -> a folder that is replaced.
	swapped := func(version string, cert, key []byte) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(version+"/tls.crt", cert)
		write(version+"/tls.key", key)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	cert, key, print := pair()
	swapped("v1", cert, key)
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	p, err := Watch(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	force := func(what, want string) {
		t.Helper()
		p.look()
		p.look() // looking again changes and says nothing
		if got, err := p.GetCertificate(nil); err != nil || Fingerprint(got.Leaf) != want {
			t.Errorf("%s: another certificate is in force", what)
		}
	}
	force("nothing new", print)
	cert2, key2, print2 := pair()
	swapped("v2", cert2, key2)
	force("a symbolic link", print2)
	cert3, key3, print3 := pair()
	renamed("tls.crt", cert3)
	force("a certificate whose key is not there yet", print2)
	renamed("tls.key", key3)
	force("both renamed", print3)
	write("tls.crt", cert3[:len(cert3)/2])
	force("half written", print3)
	if n := strings.Count(log.String(), "not taken"); n != 2 {
		t.Errorf("said %d times, not twice:\n%s", n, log.String())
	}
	if err := os.Remove(filepath.Join(dir, "tls.crt")); err != nil {
		t.Fatal(err)
	}
	force("gone", print3)
	write("tls.crt", bytes.Repeat([]byte("x"), maxFile+1))
	force("too large", print3)
	write("tls.crt", cert2)
	write("tls.key", key2)
	force("written in place", print2)
	cert4, key4, _ := pair()
	now = now.Add(2 * time.Hour) // by now all have expired
	write("tls.crt", cert4)
	write("tls.key", key4)
	force("expired", print2)
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}
