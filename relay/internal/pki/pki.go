// Package pki is the relay's built-in certificate authority, and the strict reader of the certificates and pins that
// partners hand in.
//
// It promises that a CA is made at most once in a folder: a kill between any two steps of making it leaves either no CA
// or a whole one, and a CA file that is there but cannot be read, parsed or trusted is an error, never a reason to make
// another. Certificates are short-lived and bounded by the CA's own.
//
// It trusts the file system to keep the CA file (private keys, mode 0600) from other users, the system's random source,
// and the clock it is given. It trusts nothing of what a partner hands in. It holds no state but the CA's keys.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// DefaultTTL is the life of a client certificate for which no other was asked.
	DefaultTTL = 14 * 24 * time.Hour
	// MinTTL and MaxTTL bound the life of every certificate issued.
	MinTTL = time.Minute
	MaxTTL = 397 * 24 * time.Hour

	authorityTTL = 10 * 365 * 24 * time.Hour
	backdate     = 5 * time.Minute // for peers whose clock is behind ours
	fileName     = "ca.pem"
	tempPattern  = ".ca-*.tmp"
	maxFile      = 64 << 10
)

// What Open and the issuing methods refuse with, for a caller that branches on it.
var (
	// ErrCorrupt: the CA file is there but is not a whole, consistent CA.
	ErrCorrupt = errors.New("pki: CA file is damaged")
	// ErrPermissions: the CA file can be read or written by others than its owner.
	ErrPermissions = errors.New("pki: CA file is open to other users")
	// ErrExpired: the CA's own certificates are not valid now.
	ErrExpired = errors.New("pki: CA is not valid at this time")
	// ErrName: a name that no certificate can carry.
	ErrName = errors.New("pki: invalid name")
	// ErrTTL: a life outside MinTTL and MaxTTL.
	ErrTTL = errors.New("pki: life out of bounds")
)

// A CA issues certificates from an intermediate below its root, both ECDSA P-256. It is immutable after Open and safe
// for concurrent use.
type CA struct {
	clock        func() time.Time
	root         *x509.Certificate
	intermediate *x509.Certificate
	rootKey      *ecdsa.PrivateKey // kept for a later intermediate; signs nothing after the first start
	key          *ecdsa.PrivateKey // the intermediate's
}

// Open reads the CA in dir, and makes one where there is none. The folder is made (0700) if need be. An existing file
// that is damaged, open to others or expired is ErrCorrupt, ErrPermissions or ErrExpired, and stays as it is.
//
// A kill while the CA is being made is harmless at every step, because everything is in one file: a temporary file is
// written and synced under a name that no start reads (killed here: there is no CA, the next start removes the
// leftover); it is then linked to its final name, which either happens or does not, and never replaces a file (killed
// here: the CA is whole, and if the link was lost with the power, no certificate had been issued yet, because Open
// returns only after the folder is synced); at last the temporary name is removed (killed here: the next start does it).
func Open(dir string, clock func() time.Time) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: make folder: %w", err)
	}
	path := filepath.Join(dir, fileName)
	ca, err := load(path, clock)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, path, clock()); err != nil {
			return nil, err
		}
		ca, err = load(path, clock)
	}
	if err != nil {
		return nil, err
	}
	removeLeftovers(dir)
	return ca, nil
}

func load(path string, clock func() time.Time) (*CA, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("pki: look at CA file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%w: %s: not a regular file of at most %d bytes", ErrCorrupt, path, maxFile)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o, want 0600", ErrPermissions, path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("pki: read CA file: %w", err)
	}
	ca, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	ca.clock = clock
	now := clock()
	for _, cert := range []*x509.Certificate{ca.root, ca.intermediate} {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return nil, fmt.Errorf("%w: %s: valid from %s to %s", ErrExpired, path, cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
		}
	}
	return ca, nil
}

// The order of the blocks of a CA file.
var layout = [...]string{certificateBlock, keyBlock, certificateBlock, keyBlock}

func decode(text []byte) (*CA, error) {
	var blocks [len(layout)][]byte
	rest := text
	for i, kind := range layout {
		block, after, err := nextBlock(rest)
		if err != nil {
			return nil, err
		}
		if block == nil || block.Type != kind {
			return nil, fmt.Errorf("block %d is not a %s", i+1, kind)
		}
		blocks[i], rest = block.Bytes, after
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("text after the last block")
	}
	root, rootKey, err := pair(blocks[0], blocks[1])
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	intermediate, key, err := pair(blocks[2], blocks[3])
	if err != nil {
		return nil, fmt.Errorf("intermediate: %w", err)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if err := intermediate.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("intermediate: %w", err)
	}
	return &CA{root: root, rootKey: rootKey, intermediate: intermediate, key: key}, nil
}

func pair(certificate, key []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, errors.New("private key cannot be parsed") // not wrapped: nothing of a key may reach a log
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("private key does not belong to the certificate")
	}
	if !cert.IsCA || !cert.BasicConstraintsValid {
		return nil, nil, errors.New("not a CA certificate")
	}
	return cert, private, nil
}

func create(dir, path string, now time.Time) (err error) {
	text, err := generate(now)
	if err != nil {
		return fmt.Errorf("pki: make CA: %w", err)
	}
	temp, err := os.CreateTemp(dir, tempPattern) // mode 0600
	if err != nil {
		return fmt.Errorf("pki: make CA: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Sync()
	}
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("pki: write CA: %w", err)
	}
	// Link instead of rename: of two first starts in one folder, one makes the CA and the other uses it.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("pki: publish CA: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("pki: sync CA folder: %w", err)
	}
	// The folder itself may be new; its name is durable only with its parent.
	if err := syncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return fmt.Errorf("pki: sync parent of CA folder: %w", err)
	}
	return nil
}

func generate(now time.Time) ([]byte, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := authority("Sealpost root CA", now)
	root.MaxPathLen = 1
	root.Raw, err = x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	signed, err := x509.ParseCertificate(root.Raw)
	if err != nil {
		return nil, err
	}
	below := authority("Sealpost issuing CA", now)
	below.MaxPathLenZero = true
	below.Raw, err = x509.CreateCertificate(rand.Reader, below, signed, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, one := range []struct {
		certificate []byte
		key         *ecdsa.PrivateKey
	}{{root.Raw, rootKey}, {below.Raw, key}} {
		der, err := x509.MarshalPKCS8PrivateKey(one.key)
		if err != nil {
			return nil, err
		}
		if err := pem.Encode(&text, &pem.Block{Type: certificateBlock, Bytes: one.certificate}); err != nil {
			return nil, err
		}
		if err := pem.Encode(&text, &pem.Block{Type: keyBlock, Bytes: der}); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

func authority(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: name, Organization: []string{"Sealpost"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// removeLeftovers removes what a kill during create left: keys that signed nothing. That it fails is no harm.
func removeLeftovers(dir string) {
	names, err := filepath.Glob(filepath.Join(dir, tempPattern))
	if err != nil {
		return
	}
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// RootsPEM returns the root certificate in PEM: what partners trust. It holds no key.
func (ca *CA) RootsPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: ca.root.Raw})
}

// Fingerprint tells whether two processes have the same CA: the SHA-256 of both its certificates, in hex.
func (ca *CA) Fingerprint() string {
	sum := sha256.Sum256(append(bytes.Clone(ca.root.Raw), ca.intermediate.Raw...))
	return hex.EncodeToString(sum[:])
}

// Certificates are the CA's own, to be read only.
func (ca *CA) Certificates() (root, issuing *x509.Certificate) { return ca.root, ca.intermediate }

// Roots returns a fresh pool with the root certificate.
func (ca *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// EndpointName is the name of the client certificate of one endpoint, a URI in the form of SPIFFE-ID section 2. Both
// parts are of letters, digits, '.', '-' and '_' (SPIFFE-ID 2.2), anything else is ErrName.
func EndpointName(tenant, endpoint string) (string, error) {
	for _, part := range []string{tenant, endpoint} {
		if part == "" || part == "." || part == ".." || len(part) > 128 || strings.Trim(part, segment) != "" {
			return "", fmt.Errorf("%w: %q in an endpoint's certificate", ErrName, part)
		}
	}
	return "spiffe://sealpost/tenant/" + tenant + "/endpoint/" + endpoint, nil
}

const segment = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_"

// IssueClient makes a key and a certificate for client authentication. A name that begins with "spiffe://" is carried
// as the only URI name (X.509-SVID section 2), with its last segment as the common name for receivers that look there; any other as the common name, of at most 64 bytes (RFC 5280 appendix A).
// A ttl of 0 is DefaultTTL; the certificate never outlives the CA. Errors are ErrName, ErrTTL and ErrExpired.
func (ca *CA) IssueClient(name string, ttl time.Duration) (tls.Certificate, error) {
	template, err := clientTemplate(name)
	if err != nil {
		return tls.Certificate{}, err
	}
	return ca.issue(template, ttl)
}

// clientTemplate is a client certificate that carries a name.
func clientTemplate(name string) (*x509.Certificate, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if strings.HasPrefix(name, "spiffe://") {
		id, err := url.Parse(name)
		if err != nil || len(name) > 2048 || id.Host == "" || id.User != nil || id.Port() != "" || id.RawQuery != "" || id.Fragment != "" || id.String() != name {
			return nil, fmt.Errorf("%w: not a SPIFFE id", ErrName)
		}
		template.URIs = []*url.URL{id}
		template.Subject.Organization = []string{"Sealpost"}
		if last := path.Base(id.Path); len(last) <= 64 && last != "/" && last != "." {
			template.Subject.CommonName = last
		}
		return template, nil
	}
	if !printable(name) || len(name) > 64 {
		return nil, fmt.Errorf("%w: want 1 to 64 printable bytes", ErrName)
	}
	template.Subject.CommonName = name
	return template, nil
}

// IssueServer makes a key and a certificate for our own listeners and the demo's receivers. At least one name or
// address is needed; names are LDH host names, a leading "*." allowed. A ttl of 0 is DefaultTTL.
func (ca *CA) IssueServer(dnsNames []string, ips []netip.Addr, ttl time.Duration) (tls.Certificate, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if len(dnsNames)+len(ips) == 0 || len(dnsNames)+len(ips) > 100 {
		return tls.Certificate{}, fmt.Errorf("%w: want 1 to 100 host names and addresses", ErrName)
	}
	for _, name := range dnsNames {
		host := strings.TrimPrefix(name, "*.")
		if host == "" || len(host) > 253 || strings.Trim(host, segment) != "" {
			return tls.Certificate{}, fmt.Errorf("%w: %q is not a host name", ErrName, name)
		}
	}
	template.DNSNames = dnsNames
	for _, ip := range ips {
		if !ip.IsValid() || ip.Zone() != "" {
			return tls.Certificate{}, fmt.Errorf("%w: %q is not an address", ErrName, ip)
		}
		template.IPAddresses = append(template.IPAddresses, ip.Unmap().AsSlice())
	}
	return ca.issue(template, ttl)
}

func (ca *CA) issue(template *x509.Certificate, ttl time.Duration) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: make key: %w", err)
	}
	leaf, err := ca.sign(template, key.Public(), ttl)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.intermediate.Raw}, PrivateKey: crypto.PrivateKey(key), Leaf: leaf}, nil
}

// sign makes a certificate of a template for a public key, never valid beyond the CA's own.
func (ca *CA) sign(template *x509.Certificate, public crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return nil, fmt.Errorf("%w: %s, want %s to %s", ErrTTL, ttl, MinTTL, MaxTTL)
	}
	now := ca.clock()
	if now.After(ca.intermediate.NotAfter) || now.Before(ca.intermediate.NotBefore) {
		return nil, ErrExpired
	}
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(ttl)
	if template.NotAfter.After(ca.intermediate.NotAfter) {
		template.NotAfter = ca.intermediate.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true // an explicit CA:FALSE
	der, err := x509.CreateCertificate(rand.Reader, template, ca.intermediate, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("pki: sign certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: sign certificate: %w", err)
	}
	return leaf, nil
}

// RenewAt is when a certificate is due for renewal: at two thirds of its life.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// Fingerprint is the SHA-256 of the certificate's DER, in lower-case hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// LoadPair reads a certificate chain and its key, each a PEM file of at most 64 KiB. Leaf is set. Whether the
// certificate is valid now is for the caller to say: an expired one must not keep a relay from starting.
func LoadPair(certFile, keyFile string) (tls.Certificate, error) {
	certText, err := readBounded(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: certificate: %w", err)
	}
	keyText, err := readBounded(keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: key: %w", err)
	}
	cert, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: %s and %s: %w", certFile, keyFile, err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return tls.Certificate{}, fmt.Errorf("pki: %s: %w", certFile, err)
	}
	return cert, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

func printable(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return true
}
