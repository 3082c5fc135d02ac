package pki

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// WatchEvery is how often the files of a Pair are looked at.
const WatchEvery = 2 * time.Second

// A Pair is a certificate and its key in two files that something else keeps up to date: cert-manager, a Vault agent, an ACME client.
// Files are read, not watched for events: a rename, a new target of a symbolic link and a write in place all come to the same, on
// any file system.
//
// What is in force changes only to a pair that is whole, belongs together and is valid now. Half-written files, a certificate whose
// key is not there yet, and an expired one leave the last good pair in force, and are said once.
type Pair struct {
	certFile, keyFile string
	clock             func() time.Time
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	seen [sha256.Size]byte // of both files as they were last looked at; Run's alone once it runs
}

// Watch reads a pair; Run keeps it up to date. At first it need not be valid now: an expired certificate must not keep a relay from
// starting.
func Watch(certFile, keyFile string, clock func() time.Time, log *slog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, clock: clock, log: log}
	cert, sum, err := p.read()
	if err != nil {
		return nil, err
	}
	p.seen = sum
	p.current.Store(cert)
	return p, nil
}

// Current is the pair in force; never nil. Its Leaf is set.
func (p *Pair) Current() *tls.Certificate { return p.current.Load() }

// GetCertificate is for tls.Config: each handshake has the pair in force then.
func (p *Pair) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.Current(), nil
}

// Run looks at the files until ctx ends.
func (p *Pair) Run(ctx context.Context) error {
	ticker := time.NewTicker(WatchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			p.look()
		}
	}
}

// look takes what is in the files now, if it may be taken.
func (p *Pair) look() {
	cert, sum, err := p.read()
	if sum == p.seen && sum != ([sha256.Size]byte{}) {
		return
	}
	if err == nil {
		err = p.fit(cert.Leaf)
	}
	if err != nil {
		if sum != p.seen {
			p.log.Warn("new certificate not taken; the one before stays in force", "file", p.certFile, "error", err)
		}
		p.seen = sum
		return
	}
	p.seen = sum
	p.current.Store(cert)
	p.log.Info("new certificate in force", "file", p.certFile, "sha256", Fingerprint(cert.Leaf), "expires", cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
}

func (p *Pair) fit(leaf *x509.Certificate) error {
	switch now := p.clock(); {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("it expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// cut tells whether a file ends within a PEM block, as one that is being written: its chain would lack what comes after.
func cut(text []byte) bool {
	for block, rest := pem.Decode(text); ; block, rest = pem.Decode(rest) {
		if block == nil {
			return bytes.Contains(rest, []byte("-----BEGIN"))
		}
	}
}

// read reads both files; the sum is of what was there, also where it is no pair, and zero where it could not be read.
func (p *Pair) read() (*tls.Certificate, [sha256.Size]byte, error) {
	certText, certErr := readBounded(p.certFile)
	keyText, keyErr := readBounded(p.keyFile)
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, [sha256.Size]byte{}, fmt.Errorf("pki: certificate and key: %w", err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", len(certText))
	h.Write(certText)
	h.Write(keyText)
	sum := [sha256.Size]byte(h.Sum(nil))
	if cut(certText) {
		return nil, sum, fmt.Errorf("pki: %s: its last PEM block is cut", p.certFile)
	}
	cert, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return nil, sum, fmt.Errorf("pki: %s and %s: %w", p.certFile, p.keyFile, err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, sum, fmt.Errorf("pki: %s: %w", p.certFile, err)
	}
	return &cert, sum, nil
}
