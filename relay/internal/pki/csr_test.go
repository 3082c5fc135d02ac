package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// request is a request for the key in PEM, with a name of its own wish.
func request(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "operator"}, DNSNames: []string{"wish.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der}))
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSignClient: the certificate is for the request's key, under our name and none of the request's wishes, and verifies
// for clients against the root alone.
func TestSignClient(t *testing.T) {
	t.Parallel()
	now := noon
	ca, err := Open(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ed, long} {
		asked, err := ParseRequest(request(t, key))
		if err != nil {
			t.Fatal(err)
		}
		leaf, chain, err := ca.SignClient(asked, "spiffe://sealpost/account/crm", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(leaf.PublicKey) {
			t.Error("the certificate is for another key")
		}
		if len(leaf.DNSNames) > 0 || leaf.Subject.CommonName != "crm" || len(leaf.URIs) != 1 || !leaf.NotAfter.Equal(now.Add(time.Hour)) {
			t.Errorf("certificate of %v %v %v until %v", leaf.Subject, leaf.URIs, leaf.DNSNames, leaf.NotAfter)
		}
		between := x509.NewCertPool()
		first, rest := pem.Decode(chain)
		if !bytes.Equal(first.Bytes, leaf.Raw) || !between.AppendCertsFromPEM(rest) {
			t.Fatal("the chain is not certificate and intermediate")
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: ca.Roots(), Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
	}
	asked, err := ParseRequest(request(t, ed))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.SignClient(asked, "", time.Hour); !errors.Is(err, ErrName) {
		t.Errorf("no name: %v", err)
	}
	if _, _, err := ca.SignClient(asked, "crm", MaxTTL+1); !errors.Is(err, ErrTTL) {
		t.Errorf("too long a life: %v", err)
	}
}

func TestParseRequestRefuses(t *testing.T) {
	t.Parallel()
	good := request(t, ecKey(t, elliptic.P256()))
	block, _ := pem.Decode([]byte(good))
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-1] ^= 1 // in the signature
	der, err := x509.MarshalPKCS8PrivateKey(ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	if _, err := ParseRequest(encode(oldRequestBlock, block.Bytes)); err != nil {
		t.Errorf("older spelling: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "text": "hello", "text before": "x\n" + good, "text after": good + "x", "two": good + good,
		"large": good + strings.Repeat("\n", MaxRequestPEM), "key": encode(keyBlock, der), "other block": encode(certificateBlock, block.Bytes),
		"not DER": encode(requestBlock, []byte("x")), "forged": encode(requestBlock, forged),
		"P-224": request(t, ecKey(t, elliptic.P224())), "P-521": request(t, ecKey(t, elliptic.P521())),
	} {
		if _, err := ParseRequest(text); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Keys that this machine makes none of any more.
	for bits, want := range map[uint]bool{1024: false, 2047: false, 2048: true, 4096: true, 4097: false, 8192: false} {
		if err := checkPublic(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}); (err == nil) != want {
			t.Errorf("RSA of %d bits: %v", bits, err)
		}
	}
}

// FuzzParseRequest: what is accepted is signed by its own key and of the kinds that are signed for.
func FuzzParseRequest(f *testing.F) {
	f.Add(request(f, ecKey(f, elliptic.P256())))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		asked, err := ParseRequest(text)
		if err != nil {
			return
		}
		if asked.CheckSignature() != nil || checkPublic(asked.PublicKey) != nil {
			t.Fatal("accepted what must not be signed for")
		}
		again := string(pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: asked.Raw}))
		if same, err := ParseRequest(again); err != nil || !bytes.Equal(same.Raw, asked.Raw) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}
