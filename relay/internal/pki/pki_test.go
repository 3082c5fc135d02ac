package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func open(t testing.TB, dir string, now time.Time) *CA {
	t.Helper()
	ca, err := Open(dir, at(now))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOpenMakesOneCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "deep", "pki")
	first := open(t, dir, noon)
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if again := open(t, dir, noon.Add(time.Hour)); !bytes.Equal(first.RootsPEM(), again.RootsPEM()) {
		t.Error("another CA was made")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("files left: %v, %v", entries, err)
	}
}

func TestFirstStartsTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all sync.WaitGroup
	var mu sync.Mutex
	roots := map[string]int{}
	for range 8 {
		all.Go(func() {
			// A start may find its temporary file removed by another's cleaning; it then fails, and no CA is lost.
			if ca, err := Open(dir, at(noon)); err == nil {
				mu.Lock()
				defer mu.Unlock()
				roots[string(ca.RootsPEM())]++
			}
		})
	}
	all.Wait()
	if len(roots) != 1 {
		t.Errorf("%d CAs", len(roots))
	}
}

// A kill leaves, at each step of create, a folder like one of these.
func TestOpenAfterKill(t *testing.T) {
	t.Parallel()
	text, err := generate(noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func(dir string) error{
		"temporary file empty": func(dir string) error { return os.WriteFile(filepath.Join(dir, ".ca-1.tmp"), nil, 0o600) },
		"temporary file cut":   func(dir string) error { return os.WriteFile(filepath.Join(dir, ".ca-1.tmp"), text[:100], 0o600) },
		"temporary file whole": func(dir string) error { return os.WriteFile(filepath.Join(dir, ".ca-1.tmp"), text, 0o600) },
		"linked": func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, ".ca-1.tmp"), text, 0o600); err != nil {
				return err
			}
			return os.Link(filepath.Join(dir, ".ca-1.tmp"), filepath.Join(dir, fileName))
		},
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		ca := open(t, dir, noon)
		if _, err := ca.IssueClient("x", 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "linked" && !bytes.Contains(text, bytes.TrimSpace(ca.RootsPEM())) {
			t.Error("the linked CA was replaced")
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: files left: %v", name, entries)
		}
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	t.Parallel()
	text, err := generate(noon)
	if err != nil {
		t.Fatal(err)
	}
	other, err := generate(noon)
	if err != nil {
		t.Fatal(err)
	}
	blocks := func(text []byte) (list [][]byte) {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			list = append(list, pem.EncodeToMemory(block))
		}
		return list
	}
	mine, theirs := blocks(text), blocks(other)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	flipped := bytes.Clone(text)
	flipped[200] ^= 1
	cases := map[string][]byte{
		"empty":              {},
		"cut":                text[:len(text)-10],
		"no intermediate":    join(mine[0], mine[1]),
		"order":              join(mine[1], mine[0], mine[2], mine[3]),
		"another's key":      join(mine[0], mine[1], mine[2], theirs[3]),
		"another's issuing":  join(mine[0], mine[1], theirs[2], theirs[3]),
		"another's root":     join(theirs[0], theirs[1], mine[2], mine[3]),
		"text after":         join(text, []byte("x")),
		"text before":        join([]byte("x\n"), text),
		"too large":          bytes.Repeat([]byte("\n"), maxFile+1),
		"one bit":            flipped,
		"certificate as key": join(mine[0], mine[0], mine[2], mine[3]),
	}
	for name, damaged := range cases {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, at(noon)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, fileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, at(noon)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a folder in its place: %v", err)
	}
}

func TestOpenRefusesOpenFileAndWrongTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, noon)
	for _, now := range []time.Time{noon.Add(-time.Hour), noon.Add(authorityTTL + time.Hour)} {
		if _, err := Open(dir, at(now)); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: %v", now, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, fileName), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, at(noon)); !errors.Is(err, ErrPermissions) {
		t.Errorf("mode 0640: %v", err)
	}
}

func TestIssueClient(t *testing.T) {
	t.Parallel()
	ca := open(t, t.TempDir(), noon)
	name, err := EndpointName("acme", "ep_1")
	if err != nil || name != "spiffe://sealpost/tenant/acme/endpoint/ep_1" {
		t.Fatalf("%q, %v", name, err)
	}
	for _, c := range []struct {
		name string
		ttl  time.Duration
		life time.Duration
		err  error
	}{
		{name, 0, DefaultTTL, nil}, {"relay 1", time.Hour, time.Hour, nil}, {"", 0, 0, ErrName}, {"a\nb", 0, 0, ErrName}, {strings.Repeat("x", 65), 0, 0, ErrName},
		{"spiffe://", 0, 0, ErrName}, {"spiffe://a b", 0, 0, ErrName}, {"spiffe://u@h/x", 0, 0, ErrName}, {"spiffe://h/x?q", 0, 0, ErrName}, {"spiffe://h/x#f", 0, 0, ErrName},
		{name, time.Second, 0, ErrTTL}, {name, MaxTTL + 1, 0, ErrTTL}, {name, -time.Hour, 0, ErrTTL},
	} {
		cert, err := ca.IssueClient(c.name, c.ttl)
		if !errors.Is(err, c.err) {
			t.Errorf("%q, %s: %v, want %v", c.name, c.ttl, err, c.err)
		}
		if err != nil || c.err != nil {
			continue
		}
		leaf := cert.Leaf
		if got := leaf.NotAfter.Sub(noon); got != c.life {
			t.Errorf("%q lives %s", c.name, got)
		}
		below := x509.NewCertPool()
		for _, der := range cert.Certificate[1:] {
			one, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			below.AddCert(one)
		}
		options := x509.VerifyOptions{Roots: ca.Roots(), Intermediates: below, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if _, err := leaf.Verify(options); err != nil {
			t.Error(err)
		}
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if _, err := leaf.Verify(options); err == nil {
			t.Error("a client certificate serves as a server's")
		}
		if leaf.IsCA || (c.name == name) != (len(leaf.URIs) == 1 && leaf.URIs[0].String() == name) || (c.name != name) != (leaf.Subject.CommonName == c.name) {
			t.Errorf("%q: %v %v", c.name, leaf.URIs, leaf.Subject)
		}
		if c.name == name && !strings.HasSuffix(name, "/"+leaf.Subject.CommonName) {
			t.Errorf("%q has common name %q", name, leaf.Subject.CommonName)
		}
		if due := RenewAt(leaf); due.Before(noon.Add(c.life/2)) || !due.Before(leaf.NotAfter) {
			t.Errorf("renew at %s", due)
		}
	}
	for _, parts := range [][2]string{{"", "e"}, {"t", ""}, {"a/b", "e"}, {"..", "e"}, {"t", "e%2f"}, {"t", strings.Repeat("e", 129)}} {
		if _, err := EndpointName(parts[0], parts[1]); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", parts, err)
		}
	}
}

func TestCertificatesEndWithTheCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, noon)
	ca := open(t, dir, noon.Add(authorityTTL-time.Hour))
	cert, err := ca.IssueClient("x", 0)
	if err != nil || cert.Leaf.NotAfter.After(noon.Add(authorityTTL)) {
		t.Errorf("valid to %s, %v", cert.Leaf.NotAfter, err)
	}
	ca.clock = at(noon.Add(authorityTTL + time.Hour))
	if _, err := ca.IssueClient("x", 0); !errors.Is(err, ErrExpired) {
		t.Errorf("after the CA's end: %v", err)
	}
}

func TestIssueServer(t *testing.T) {
	t.Parallel()
	ca := open(t, t.TempDir(), noon)
	cert, err := ca.IssueServer([]string{"localhost", "*.partner.test"}, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "a.partner.test", "127.0.0.1", "::1"} {
		if err := cert.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if len(Fingerprint(cert.Leaf)) != 64 {
		t.Error("fingerprint")
	}
	for _, names := range [][]string{nil, {""}, {"a b"}, {"*."}, {"a/b"}, make([]string, 101)} {
		if _, err := ca.IssueServer(names, nil, 0); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if _, err := ca.IssueServer(nil, []netip.Addr{{}}, 0); !errors.Is(err, ErrName) {
		t.Errorf("no address: %v", err)
	}
}

func TestLoadPair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := open(t, filepath.Join(dir, "ca"), noon)
	write := func(name string, blocks ...*pem.Block) string {
		var text bytes.Buffer
		for _, block := range blocks {
			if err := pem.Encode(&text, block); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pairOf := func(name string) (string, string, string) {
		cert, err := ca.IssueClient(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".pem", &pem.Block{Type: certificateBlock, Bytes: cert.Certificate[0]}, &pem.Block{Type: certificateBlock, Bytes: cert.Certificate[1]}),
			write(name+".key", &pem.Block{Type: keyBlock, Bytes: der}), Fingerprint(cert.Leaf)
	}
	certA, keyA, print := pairOf("a")
	_, keyB, _ := pairOf("b")
	cert, err := LoadPair(certA, keyA)
	if err != nil || Fingerprint(cert.Leaf) != print || len(cert.Certificate) != 2 {
		t.Errorf("%v", err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, files := range [][2]string{{certA, keyB}, {keyA, keyA}, {certA, certA}, {dir + "/none", keyA}, {certA, dir + "/none"}, {large, keyA}, {certA, large}, {dir, keyA}} {
		if _, err := LoadPair(files[0], files[1]); err == nil {
			t.Errorf("%v: accepted", files)
		}
	}
}

// certificate is a self-signed one with what change makes of it.
func certificate(t testing.TB, change func(*x509.Certificate)) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := authority("partner", noon)
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der}))
}

func TestParseRoots(t *testing.T) {
	t.Parallel()
	good := certificate(t, func(*x509.Certificate) {})
	second := certificate(t, func(*x509.Certificate) {})
	ca, err := generate(noon)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(good))
	withHeader := string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Headers: map[string]string{"Proc-Type": "4"}, Bytes: block.Bytes}))
	for name, c := range map[string]struct {
		text string
		want int // 0: refused
	}{
		"one": {good, 1}, "two": {good + "\r\n \t" + second, 2}, "space around": {"\n\n" + good + "\n\n", 1},
		"nothing": {"", 0}, "space": {" \n", 0}, "text": {"hello", 0}, "text before": {"CA:\n" + good, 0}, "text between": {good + "x\n" + second, 0}, "text after": {good + "x", 0},
		"private keys too": {string(ca), 0}, "headers": {withHeader, 0}, "cut": {good[:len(good)-20], 0}, "broken, then good": {good[:len(good)-60] + "\n" + second, 0},
		"other block":     {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes})), 0},
		"EC key":          {string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")})), 0},
		"not DER":         {string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: []byte("x")})), 0},
		"trailing DER":    {string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: append(bytes.Clone(block.Bytes), 0)})), 0},
		"not a CA":        {certificate(t, func(c *x509.Certificate) { c.IsCA = false }), 0},
		"no constraints":  {certificate(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }), 0},
		"key usage":       {certificate(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), 0},
		"expired":         {certificate(t, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon.Add(-2*time.Hour), noon.Add(-time.Second) }), 0},
		"not yet":         {certificate(t, func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) }), 0},
		"too many":        {strings.Repeat(good, MaxRoots+1), 0},
		"as many as may":  {strings.Repeat(good, MaxRoots), MaxRoots},
		"too large":       {good + strings.Repeat("\n", MaxRootsPEM), 0},
		"invalid in pool": {good + certificate(t, func(c *x509.Certificate) { c.IsCA = false }), 0},
	} {
		pool, roots, err := ParseRoots(c.text, noon)
		if len(roots) != c.want || (c.want == 0) != errors.Is(err, ErrRoots) || (pool != nil) != (c.want > 0) {
			t.Errorf("%s: %d roots, %v", name, len(roots), err)
		}
		if err != nil && strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: the error quotes the input: %v", name, err)
		}
	}
}

func TestParsePin(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode([]byte(certificate(t, func(*x509.Certificate) {})))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	good := FormatPin(Pin(cert))
	if pin, err := ParsePin(good); err != nil || pin != sha256.Sum256(cert.RawSubjectPublicKeyInfo) {
		t.Errorf("%s: %v", good, err)
	}
	zero := "sha256/" + strings.Repeat("A", 43) + "="
	for _, bad := range []string{"", "sha256/", strings.ToUpper(good[:7]) + good[7:], good[7:], good + "=", good[:len(good)-1], " " + good, good + "\n",
		zero[:20] + "\n" + zero[21:], strings.Replace(zero, "A=", "B=", 1), "sha256/" + strings.Repeat("-", 43) + "=", "sha1/" + good[7:], strings.Repeat("x", 1<<20)} {
		if _, err := ParsePin(bad); !errors.Is(err, ErrPin) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
}

func FuzzParseRoots(f *testing.F) {
	good := certificate(f, func(*x509.Certificate) {})
	ca, err := generate(noon)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, good + good, "\n" + good + " ", good[:200] + "\n" + good, string(ca), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, roots, err := ParseRoots(text, noon)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, root := range roots {
			again.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: root.Raw}))
		}
		_, same, err := ParseRoots(again.String(), noon)
		if err != nil || len(same) != len(roots) || strings.Count(text, "-----BEGIN ") != len(roots) {
			t.Fatalf("%d roots, then %d, %v", len(roots), len(same), err)
		}
		for i := range roots {
			if !same[i].Equal(roots[i]) {
				t.Fatal("another certificate")
			}
		}
	})
}

func FuzzParsePin(f *testing.F) {
	f.Add("sha256/" + strings.Repeat("A", 43) + "=")
	f.Add("sha256/" + strings.Repeat("A", 42) + "B=")
	f.Add("sha256/")
	f.Fuzz(func(t *testing.T, text string) {
		if pin, err := ParsePin(text); err == nil && FormatPin(pin) != text {
			t.Fatalf("%q has another spelling: %q", text, FormatPin(pin))
		}
	})
}
