package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"time"
)

// identities are the certificates of one run: the sink's, and the bare client's.
type identities struct {
	roots               string // PEM
	certificate, key    string // of the sink, PEM
	bare                tls.Certificate
	root                *x509.Certificate
	rootKey             *ecdsa.PrivateKey
	notBefore, notAfter time.Time
	serial              int64
}

func newIdentities() (*identities, error) {
	i := &identities{notBefore: time.Now().Add(-time.Hour), notAfter: time.Now().Add(24 * time.Hour)}
	var err error
	if i.rootKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sealpost bench"}, NotBefore: i.notBefore, NotAfter: i.notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &i.rootKey.PublicKey, i.rootKey)
	if err != nil {
		return nil, err
	}
	if i.root, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	i.roots = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if i.certificate, i.key, err = i.issue(x509.ExtKeyUsageServerAuth); err != nil {
		return nil, err
	}
	certificate, key, err := i.issue(x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	i.bare, err = tls.X509KeyPair([]byte(certificate), []byte(key))
	return i, err
}

// issue makes a certificate for 127.0.0.1 and its key, PEM.
func (i *identities) issue(use x509.ExtKeyUsage) (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	i.serial++
	der, err1 := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1 + i.serial), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: i.notBefore, NotAfter: i.notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, i.root, &private.PublicKey, i.rootKey)
	secret, err2 := x509.MarshalPKCS8PrivateKey(private)
	if err := errors.Join(err1, err2); err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})), nil
}

// client is the bare client's side of mutual TLS.
func (i *identities) client() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(i.root)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{i.bare}, MinVersion: tls.VersionTLS13}
}
