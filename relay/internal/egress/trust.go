package egress

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Mode is what becomes of our client certificate. The zero value presents none.
type Mode uint8

const (
	// None: a server that asks for a certificate gets none.
	None Mode = iota
	// Offered: presented if the server asks.
	Offered
	// Required: no byte of a body leaves unless the server asked and took it. Always HTTP/1.1.
	Required
)

// MaxRoots and MaxPins bound a Trust.
const (
	MaxRoots = 32
	MaxPins  = 16
)

// Trust is how one partner is recognised and how we show ourselves to it. The zero value is TLS 1.3 with the system's
// roots, no client certificate, HTTP/1.1.
type Trust struct {
	Mode        Mode
	Certificate *tls.Certificate    // needed by Offered and Required; not to be changed afterwards
	Roots       []*x509.Certificate // at most MaxRoots; empty: the system's
	// Pins are SHA-256 of SubjectPublicKeyInfo; where there are any, one certificate of the verified chain must match
	// (RFC 7469 section 2.6). At most MaxPins.
	Pins       [][sha256.Size]byte
	MinVersion uint16 // 0 or tls.VersionTLS13; tls.VersionTLS12 for receivers that need it
	HTTP2      bool   // offer HTTP/2; without effect where the certificate is Required
	PlainHTTP  bool   // http:// URLs allowed, for development
}

// ErrTrust: a Trust that cannot hold. The text names the field.
var ErrTrust = errors.New("egress: invalid trust")

// A Prepared is a Trust that was checked and digested, ready for any number of requests. Two with the same content
// share their connections.
type Prepared struct {
	trust       Trust
	key         [sha256.Size]byte
	roots       *x509.CertPool
	certificate string // SHA-256 of our leaf, hex
}

// Prepare checks and digests the trust. Its cost is that of hashing the certificates; do it once per change of an
// endpoint, not per request. A renewed certificate is another Trust: connections made with the old one are kept apart.
func (t Trust) Prepare() (*Prepared, error) {
	switch {
	case t.Mode > Required:
		return nil, fmt.Errorf("%w: unknown mode", ErrTrust)
	case t.Mode != None && (t.Certificate == nil || len(t.Certificate.Certificate) == 0 || t.Certificate.PrivateKey == nil):
		return nil, fmt.Errorf("%w: the mode needs a client certificate", ErrTrust)
	case t.MinVersion != 0 && t.MinVersion != tls.VersionTLS12 && t.MinVersion != tls.VersionTLS13:
		return nil, fmt.Errorf("%w: minimum version is TLS 1.2 or 1.3", ErrTrust)
	case t.Mode == Required && t.PlainHTTP:
		return nil, fmt.Errorf("%w: a required client certificate and plain HTTP", ErrTrust)
	case len(t.Roots) > MaxRoots || len(t.Pins) > MaxPins:
		return nil, fmt.Errorf("%w: more than %d roots or %d pins", ErrTrust, MaxRoots, MaxPins)
	}
	if t.MinVersion == 0 {
		t.MinVersion = tls.VersionTLS13
	}
	if t.Mode == None {
		t.Certificate = nil
	}
	t.HTTP2 = t.HTTP2 && t.Mode != Required
	t.Pins = slices.Clone(t.Pins)
	t.Roots = slices.Clone(t.Roots)
	ready := &Prepared{trust: t, key: t.digest()}
	if len(t.Roots) > 0 {
		ready.roots = x509.NewCertPool()
		for _, root := range t.Roots {
			ready.roots.AddCert(root)
		}
	}
	if t.Certificate != nil {
		sum := sha256.Sum256(t.Certificate.Certificate[0])
		ready.certificate = hex.EncodeToString(sum[:])
	}
	return ready, nil
}

// CertificateSHA256 is the fingerprint of the client certificate that would be presented, "" without one.
func (p *Prepared) CertificateSHA256() string { return p.certificate }

// digest names the content, so that equal trusts find the same connections. Each part is preceded by its length.
func (t Trust) digest() [sha256.Size]byte {
	h := sha256.New()
	part := func(b []byte) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	flag := func(b bool) byte {
		if b {
			return 1
		}
		return 0
	}
	part([]byte{byte(t.Mode), flag(t.HTTP2), flag(t.PlainHTTP), byte(t.MinVersion >> 8), byte(t.MinVersion)})
	part([]byte{byte(len(t.Roots)), byte(len(t.Pins))})
	for _, root := range t.Roots {
		part(root.Raw)
	}
	for _, pin := range t.Pins {
		part(pin[:])
	}
	if t.Certificate != nil {
		for _, der := range t.Certificate.Certificate {
			part(der)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// verifyPins runs after the chain was verified, and only verified chains count: a server can append to what it presents
// whatever certificate it likes.
func (p *Prepared) verifyPins(state tls.ConnectionState) error {
	if len(p.trust.Pins) == 0 {
		return nil
	}
	for _, chain := range state.VerifiedChains {
		for _, cert := range chain {
			if slices.Contains(p.trust.Pins, sha256.Sum256(cert.RawSubjectPublicKeyInfo)) {
				return nil
			}
		}
	}
	return ErrPinMismatch
}
