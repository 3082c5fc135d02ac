package client

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
)

// maxIdentity bounds the file of an identity, in bytes.
const maxIdentity = 64 << 10

// Identity is a client certificate that the server issued to an account, with its key: what `sealpost account cert` writes. A client that
// has one renews it at two thirds of its life, for a new key, over the connection that it is known by. It may be shared by clients.
type Identity struct {
	file string // "": in memory alone

	renewing sync.Mutex // held by the one renewal under way
	mu       sync.Mutex // guards what follows
	cert     *tls.Certificate
	changed  chan struct{} // closed when cert is another one
}

// LoadIdentity reads an identity's file: the certificate, what is between it and the root, and the key, in PEM. Renewed, it is written there, whole
// or not at all. The file is for its owner's eyes alone.
func LoadIdentity(file string) (*Identity, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("client: identity: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("client: identity: %s has mode %#o and is open to others, want 0600", file, info.Mode().Perm())
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("client: identity: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIdentity+1))
	if err != nil {
		return nil, fmt.Errorf("client: identity: %w", err)
	}
	if len(text) > maxIdentity {
		return nil, fmt.Errorf("client: identity: %s is larger than %d bytes", file, maxIdentity)
	}
	id, err := ParseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, file)
	}
	id.file = file
	return id, nil
}

// ParseIdentity is LoadIdentity for text. Renewed, it is kept in memory alone.
func ParseIdentity(text []byte) (*Identity, error) {
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, errors.New("client: identity: want a certificate and its key in PEM") // not wrapped: nothing of a key may reach a log
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, fmt.Errorf("client: identity: %w", err)
	}
	return &Identity{cert: &cert, changed: make(chan struct{})}, nil
}

// Certificate is the one in force.
func (id *Identity) Certificate() *tls.Certificate {
	cert, _ := id.current()
	return cert
}

func (id *Identity) current() (*tls.Certificate, <-chan struct{}) {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cert, id.changed
}

// renewAt is when a certificate is due for renewal: at two thirds of its life.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// NewRequest makes a key and a certificate signing request for it (PKCS #10), in PEM. The server takes nothing of the request but the key.
func NewRequest() (key crypto.Signer, requestPEM string, err error) {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("client: make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, made)
	if err != nil {
		return nil, "", fmt.Errorf("client: make signing request: %w", err)
	}
	return made, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// IdentityPEM is the content of an identity's file.
func IdentityPEM(chainPEM string, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("client: identity: %w", err)
	}
	return append([]byte(chainPEM), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), nil
}

// WriteIdentity puts an identity's file in its place whole, for its owner's eyes.
func WriteIdentity(file string, text []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("client: identity: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Sync())
	if err = errors.Join(err, temp.Close()); err != nil {
		return fmt.Errorf("client: identity: %w", err)
	}
	if err := os.Rename(temp.Name(), file); err != nil {
		return fmt.Errorf("client: identity: %w", err)
	}
	return nil
}

// renew gets another certificate for a new key, if the one in force is still the one given. Killed before it is written, the old one is good for
// the last third of its life.
func (id *Identity) renew(ctx context.Context, access sealpostv1.AccessServiceClient, old *tls.Certificate) error {
	id.renewing.Lock()
	defer id.renewing.Unlock()
	if id.Certificate() != old {
		return nil // another client was faster
	}
	key, request, err := NewRequest()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := access.RenewCertificate(ctx, &sealpostv1.RenewCertificateRequest{RequestPem: request})
	if err != nil {
		return fmt.Errorf("client: renew certificate: %w", err)
	}
	text, err := IdentityPEM(answer.GetChainPem(), key)
	if err != nil {
		return err
	}
	fresh, err := ParseIdentity(text)
	if err != nil {
		return err
	}
	if id.file != "" {
		err = WriteIdentity(id.file, text) // it is used from memory even so
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.cert = fresh.cert
	close(id.changed)
	id.changed = make(chan struct{})
	return err
}

// Renew renews the client's identity now if it is due. Only a process that ends at once has to call it: others renew by themselves.
func (c *Client) Renew(ctx context.Context) error {
	if c.identity == nil {
		return nil
	}
	cert := c.identity.Certificate()
	if time.Now().Before(renewAt(cert.Leaf)) {
		return nil
	}
	return c.identity.renew(ctx, sealpostv1.NewAccessServiceClient(c.conn), cert)
}

// RenewNow renews the client's identity whether or not it is due, as before a server that issued it goes away for long.
func (c *Client) RenewNow(ctx context.Context) error {
	if c.identity == nil {
		return errors.New("client: there is no identity")
	}
	return c.identity.renew(ctx, sealpostv1.NewAccessServiceClient(c.conn), c.identity.Certificate())
}

// keepRenewed renews the identity when it is due, until ctx ends. told, where not nil, hears of each try.
func (c *Client) keepRenewed(ctx context.Context, told func(error)) {
	const least, most = time.Second, 10 * time.Minute
	wait := least
	for {
		cert, changed := c.identity.current()
		life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
		// A little early, each at another time: many clients may have got theirs at once.
		due := time.Until(renewAt(cert.Leaf)) - mathrand.N(max(1, life/50))
		select {
		case <-time.After(max(0, due)):
		case <-changed:
			continue
		case <-ctx.Done():
			return
		}
		err := c.identity.renew(ctx, sealpostv1.NewAccessServiceClient(c.conn), cert)
		if told != nil && ctx.Err() == nil {
			told(err)
		}
		// As often as it takes: what is left of its life is a third. One that is due again at once, as where a clock is wrong, is not
		// renewed in a circle.
		rest := wait
		if wait = min(2*wait, most, max(least, life/30)); c.identity.Certificate() != cert {
			rest, wait = max(least, life/10), least
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}
