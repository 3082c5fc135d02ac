package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"

	// MaxRootsPEM and MaxRoots bound what a partner may hand in as its CA.
	MaxRootsPEM = 64 << 10
	MaxRoots    = 32
)

// ErrRoots and ErrPin: what a partner handed in is not a set of CA certificates, or not a pin. The text says why.
var (
	ErrRoots = errors.New("pki: invalid CA certificates")
	ErrPin   = errors.New("pki: invalid pin")
)

// ParseRoots reads the CA certificates a partner hands in: 1 to MaxRoots PEM blocks of type CERTIFICATE (RFC 7468
// section 5), with nothing but white space around them. It refuses with ErrRoots: more than MaxRootsPEM bytes, any other
// block (a private key above all), PEM headers, text between blocks, and a certificate that is not a CA or not valid at
// now.
func ParseRoots(text string, now time.Time) (*x509.CertPool, []*x509.Certificate, error) {
	if len(text) > MaxRootsPEM {
		return nil, nil, fmt.Errorf("%w: more than %d bytes", ErrRoots, MaxRootsPEM)
	}
	pool := x509.NewCertPool()
	var roots []*x509.Certificate
	for rest := []byte(text); ; {
		block, after, err := nextBlock(rest)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: block %d: %w", ErrRoots, len(roots)+1, err)
		}
		if block == nil {
			break
		}
		if len(roots) == MaxRoots {
			return nil, nil, fmt.Errorf("%w: more than %d certificates", ErrRoots, MaxRoots)
		}
		root, err := parseRoot(block, now)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: block %d: %w", ErrRoots, len(roots)+1, err)
		}
		roots = append(roots, root)
		pool.AddCert(root)
		rest = after
	}
	if len(roots) == 0 {
		return nil, nil, fmt.Errorf("%w: no certificate", ErrRoots)
	}
	return pool, roots, nil
}

func parseRoot(block *pem.Block, now time.Time) (*x509.Certificate, error) {
	switch {
	case strings.HasSuffix(block.Type, keyBlock):
		return nil, errors.New("a private key, which must stay with its owner")
	case block.Type != certificateBlock:
		return nil, errors.New("not a certificate")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch {
	case !root.BasicConstraintsValid || !root.IsCA:
		return nil, errors.New("not a CA certificate (basic constraints)")
	case root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("not a CA certificate (key usage)")
	case now.After(root.NotAfter):
		return nil, fmt.Errorf("expired at %s", root.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(root.NotBefore):
		return nil, fmt.Errorf("not valid before %s", root.NotBefore.UTC().Format(time.RFC3339))
	}
	return root, nil
}

// nextBlock takes the PEM block that text begins with, white space aside; nil at the end. pem.Decode looks for the next
// block that it can read and passes over everything before it; here that is an error.
func nextBlock(text []byte) (*pem.Block, []byte, error) {
	text = bytes.TrimLeft(text, " \t\r\n")
	if len(text) == 0 {
		return nil, nil, nil
	}
	begin := []byte("-----BEGIN ")
	if !bytes.HasPrefix(text, begin) {
		return nil, nil, errors.New("text that is not PEM")
	}
	block, rest := pem.Decode(text)
	if block == nil || bytes.Count(text[:len(text)-len(rest)], begin) != 1 {
		return nil, nil, errors.New("broken PEM")
	}
	if len(block.Headers) != 0 {
		return nil, nil, errors.New("PEM headers")
	}
	return block, rest, nil
}

const pinPrefix = "sha256/"

// ParsePin reads a pin of a public key: "sha256/" and the standard, padded base64 of the SHA-256 of the
// SubjectPublicKeyInfo in DER (the pin-sha256 of RFC 7469 section 2.1.1). One pin has one spelling.
func ParsePin(text string) ([sha256.Size]byte, error) {
	var pin [sha256.Size]byte
	encoded, found := strings.CutPrefix(text, pinPrefix)
	if !found || len(encoded) != base64.StdEncoding.EncodedLen(len(pin)) {
		return pin, fmt.Errorf("%w: want %q and 44 characters of base64", ErrPin, pinPrefix)
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(sum) != len(pin) { // a line break is skipped by the decoder, so the length is looked at again
		return pin, fmt.Errorf("%w: not the base64 of 32 bytes", ErrPin)
	}
	return [sha256.Size]byte(sum), nil
}

// FormatPin is the inverse of ParsePin.
func FormatPin(pin [sha256.Size]byte) string {
	return pinPrefix + base64.StdEncoding.EncodeToString(pin[:])
}

// Pin is the pin of a certificate's public key.
func Pin(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}
