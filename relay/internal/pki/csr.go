package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	requestBlock    = "CERTIFICATE REQUEST"
	oldRequestBlock = "NEW CERTIFICATE REQUEST" // RFC 7468 section 7: older tools write it

	// MaxRequestPEM bounds a certificate signing request, in bytes.
	MaxRequestPEM = 16 << 10

	minRSABits = 2048
	maxRSABits = 4096
)

// ErrRequest: a certificate signing request that is not signed for. The text says why.
var ErrRequest = errors.New("pki: invalid certificate signing request")

// ParseRequest reads a certificate signing request (PKCS #10, RFC 2986): one PEM block and nothing else, of at most
// MaxRequestPEM bytes. It refuses with ErrRequest what was not signed with its own key (so that nobody gets a certificate for
// the key of another), and keys other than ECDSA P-256 or P-384, Ed25519 and RSA of 2048 to 4096 bits.
func ParseRequest(text string) (*x509.CertificateRequest, error) {
	if len(text) > MaxRequestPEM {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrRequest, MaxRequestPEM)
	}
	block, rest, err := nextBlock([]byte(text))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	case block == nil:
		return nil, fmt.Errorf("%w: empty; want a PEM block %q", ErrRequest, requestBlock)
	case strings.HasSuffix(block.Type, keyBlock):
		return nil, fmt.Errorf("%w: a private key, which must stay with its owner", ErrRequest)
	case block.Type != requestBlock && block.Type != oldRequestBlock:
		return nil, fmt.Errorf("%w: the PEM block is not a %q", ErrRequest, requestBlock)
	case strings.TrimSpace(string(rest)) != "":
		return nil, fmt.Errorf("%w: text after the PEM block", ErrRequest)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkPublic(request.PublicKey); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: not signed with the key that it holds", ErrRequest)
	}
	return request, nil
}

func checkPublic(public any) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= minRSABits && bits <= maxRSABits {
			return nil
		}
	}
	return fmt.Errorf("the key must be ECDSA P-256 or P-384, Ed25519, or RSA of %d to %d bits", minRSABits, maxRSABits)
}

// SignClient signs a client certificate for the key of a request that ParseRequest returned. Of the request nothing but the key
// counts: the name is the caller's to decide, and is as in IssueClient, as are ttl and errors. The answer is the
// certificate, and in PEM with the intermediate after it, as servers and clients present it.
func (ca *CA) SignClient(request *x509.CertificateRequest, name string, ttl time.Duration) (leaf *x509.Certificate, chain []byte, err error) {
	template, err := clientTemplate(name)
	if err != nil {
		return nil, nil, err
	}
	if leaf, err = ca.sign(template, request.PublicKey, ttl); err != nil {
		return nil, nil, err
	}
	for _, der := range [][]byte{leaf.Raw, ca.intermediate.Raw} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})...)
	}
	return leaf, chain, nil
}
