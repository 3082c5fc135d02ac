package signer

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
)

// ErrKey reports a key that breaks a rule of its scheme. The error names the rule
// and never holds any part of the key.
var ErrKey = errors.New("invalid key")

// Bounds of keys. Standard Webhooks 1.0.0 asks for 24 to 64 bytes of HMAC secret.
const (
	minSecretBytes  = 24
	maxSecretBytes  = 64
	newSecretBytes  = 32
	minSecretChars  = 43 // 32 random bytes as base64url
	maxSecretChars  = 256
	minRSABits      = 2048
	maxRSABits      = 8192
	newRSABits      = 2048
	maxKeyTextBytes = 16 << 10

	prefixSecret  = "whsec_"
	prefixPrivate = "whsk_"
	prefixPublic  = "whpk_"
)

// strict64 is padded standard base64 of which each value has one text.
var strict64 = base64.StdEncoding.Strict()

// Key is what a sender signs with: an HMAC secret, or a private key together with
// its public half. Its secret shows only through Reveal; printed, logged or
// marshalled in any way it shows its id. Keys are immutable; Equal compares them. The zero Key holds nothing and is refused everywhere.
//
// The second pointer is what keeps the secret from fmt where Format cannot be
// called, in another struct's unexported field: fmt follows one pointer to a
// struct there (under %s, say), and never two.
type Key struct{ sealed **key }

func seal(k *key) Key { return Key{&k} }

// open returns what the Key holds, nil for the zero Key.
func (k Key) open() *key {
	if k.sealed == nil {
		return nil
	}
	return *k.sealed
}

// PublicKey is the public half of a Key: what a receiver of an asymmetric scheme holds.
type PublicKey struct{ k *key }

// VerifyingKey is what a Verifier checks with: a Key (any scheme) or a PublicKey
// (asymmetric schemes). No other type can be one.
type VerifyingKey interface {
	ID() string
	verifying() *key
}

type key struct {
	scheme    Scheme
	algorithm algorithm
	id        string

	secret []byte // HMAC: the key's bytes
	text   string // HMAC: the secret as it was given

	private    ed25519.PrivateKey
	public     ed25519.PublicKey
	rsaPrivate *rsa.PrivateKey
	rsaPublic  *rsa.PublicKey
}

// KeyOption changes what GenerateKey makes.
type KeyOption func(*keyOptions)

type keyOptions struct{ hmac bool }

// WithHMAC asks for an HMAC-SHA256 secret where the scheme has a choice (RFC9421).
func WithHMAC() KeyOption { return func(o *keyOptions) { o.hmac = true } }

// GenerateKey makes a new random key for the scheme, of its default algorithm:
// 32 bytes for HMAC, Ed25519 for StandardEd25519 and RFC9421, 2048 bits for RSA.
func GenerateKey(s Scheme, opts ...KeyOption) (Key, error) {
	f, err := formatOf(s)
	if err != nil {
		return Key{}, err
	}
	var o keyOptions
	for _, opt := range opts {
		opt(&o)
	}
	alg := f.algorithms[0]
	if o.hmac {
		alg = hmacSHA256
	}
	if !f.uses(alg) {
		return Key{}, fmt.Errorf("%w: %s does not use HMAC", ErrKey, s)
	}
	switch alg {
	case ed25519Sig:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return Key{}, fmt.Errorf("generate Ed25519 key: %w", err)
		}
		return newEd25519Key(s, private)
	case rsaV15:
		private, err := rsa.GenerateKey(rand.Reader, newRSABits)
		if err != nil {
			return Key{}, fmt.Errorf("generate RSA key: %w", err)
		}
		return newRSAKey(s, private)
	}
	random := make([]byte, newSecretBytes)
	rand.Read(random)
	if f.secret == secretText {
		text := base64.RawURLEncoding.EncodeToString(random)
		return newHMACKey(s, []byte(text), text)
	}
	return newHMACKey(s, random, prefixSecret+strict64.EncodeToString(random))
}

// ParseKey reads a secret in the form that Reveal gives and the scheme's senders use:
//
//   - Standard, RFC9421: "whsec_" and padded base64 of 24 to 64 bytes (HMAC)
//   - StandardEd25519, RFC9421: "whsk_" and base64 of the 64 bytes seed‖public key,
//     or a PKCS #8 PEM block with an Ed25519 key
//   - TimestampHMAC, TimestampHMAC256 and those of vendors: 43 to 256 characters of
//     A-Z a-z 0-9 - _, whose bytes are the key; for Stripe "whsec_" may be the first
//     of them
//   - RSASHA256: a PKCS #8 or PKCS #1 PEM block with an RSA key of 2048 to 8192 bits
//
// Anything else is ErrKey with the rule that was broken.
func ParseKey(s Scheme, text string) (Key, error) {
	f, err := formatOf(s)
	if err != nil {
		return Key{}, err
	}
	if len(text) > maxKeyTextBytes {
		return Key{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKeyTextBytes)
	}
	switch {
	case f.secret == secretText:
		return f.parseTextSecret(text)
	case strings.HasPrefix(text, prefixSecret) && f.uses(hmacSHA256):
		return parseStandardSecret(s, text)
	case strings.HasPrefix(text, prefixPrivate) && f.uses(ed25519Sig):
		return parseStandardPrivate(s, text)
	case strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN") && f.algorithms[0] != hmacSHA256:
		return parsePrivatePEM(f, text)
	}
	return Key{}, fmt.Errorf("%w: a key for %s is %s", ErrKey, s, f.keyRule())
}

func (f *format) keyRule() string {
	switch {
	case f.secret == secretPEM:
		return "a PEM block with an RSA private key"
	case f.scheme == RFC9421:
		return `text that begins with "whsk_" or "whsec_", or a PEM block with an Ed25519 private key`
	case f.uses(ed25519Sig):
		return `text that begins with "whsk_", or a PEM block with an Ed25519 private key`
	}
	return `text that begins with "whsec_"`
}

func (f *format) parseTextSecret(text string) (Key, error) {
	s := f.scheme
	for _, prefix := range []string{prefixSecret, prefixPrivate, prefixPublic} {
		if prefix != f.secretPrefix && strings.HasPrefix(text, prefix) {
			return Key{}, fmt.Errorf("%w: a secret for %s is plain text, not %q with base64", ErrKey, s, prefix)
		}
	}
	if len(text) < minSecretChars || len(text) > maxSecretChars {
		return Key{}, fmt.Errorf("%w: a secret for %s has %d to %d characters, this one %d", ErrKey, s, minSecretChars, maxSecretChars, len(text))
	}
	for i := range len(text) {
		if !urlSafe(text[i]) {
			return Key{}, fmt.Errorf("%w: a secret for %s holds only A-Z a-z 0-9 - _, character %d is another", ErrKey, s, i+1)
		}
	}
	return newHMACKey(s, []byte(text), text)
}

func urlSafe(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

func parseStandardSecret(s Scheme, text string) (Key, error) {
	secret, err := decode64(text[len(prefixSecret):])
	if err != nil {
		return Key{}, fmt.Errorf("%w: after %q comes padded standard base64", ErrKey, prefixSecret)
	}
	if len(secret) < minSecretBytes || len(secret) > maxSecretBytes {
		return Key{}, fmt.Errorf("%w: a %q secret has %d to %d bytes, this one %d", ErrKey, prefixSecret, minSecretBytes, maxSecretBytes, len(secret))
	}
	return newHMACKey(s, secret, text)
}

func parseStandardPrivate(s Scheme, text string) (Key, error) {
	raw, err := decode64(text[len(prefixPrivate):])
	if err != nil {
		return Key{}, fmt.Errorf("%w: after %q comes padded standard base64", ErrKey, prefixPrivate)
	}
	if len(raw) != ed25519.PrivateKeySize {
		return Key{}, fmt.Errorf("%w: a %q key has 64 bytes (seed and public key), this one %d", ErrKey, prefixPrivate, len(raw))
	}
	private := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	// A public half that is not the seed's would sign with a leak of the private key.
	if subtle.ConstantTimeCompare(private, raw) != 1 {
		return Key{}, fmt.Errorf("%w: the public half of the %q key is not that of its seed", ErrKey, prefixPrivate)
	}
	return newEd25519Key(s, private)
}

// decode64 reads padded standard base64. The decoder skips line breaks; here they
// are errors, so that each value has one text.
func decode64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("line break in base64")
	}
	return strict64.DecodeString(text)
}

func parsePrivatePEM(f *format, text string) (Key, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		return Key{}, fmt.Errorf("%w: one PEM block and nothing else", ErrKey)
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return Key{}, fmt.Errorf("%w: the PEM block is encrypted", ErrKey)
	default:
		return Key{}, fmt.Errorf(`%w: the PEM block is not a "PRIVATE KEY" or "RSA PRIVATE KEY"`, ErrKey)
	}
	if err != nil {
		// The parser's error is left out: it may quote what it could not read.
		return Key{}, fmt.Errorf("%w: the PEM block holds no well-formed private key", ErrKey)
	}
	switch private := parsed.(type) {
	case *rsa.PrivateKey:
		if f.uses(rsaV15) {
			return newRSAKey(f.scheme, private)
		}
	case ed25519.PrivateKey:
		if f.uses(ed25519Sig) {
			return newEd25519Key(f.scheme, private)
		}
	}
	return Key{}, fmt.Errorf("%w: a key for %s is %s", ErrKey, f.scheme, f.keyRule())
}

// ParsePublicKey reads the public half of a key: "whpk_" and base64 of 32 bytes, or
// a PKIX ("PUBLIC KEY") PEM block with an Ed25519 or RSA key, as the scheme uses.
func ParsePublicKey(s Scheme, text string) (PublicKey, error) {
	f, err := formatOf(s)
	if err != nil {
		return PublicKey{}, err
	}
	if len(text) > maxKeyTextBytes {
		return PublicKey{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKeyTextBytes)
	}
	if f.algorithms[0] == hmacSHA256 {
		return PublicKey{}, fmt.Errorf("%w: %s has no public keys, its receivers share the secret", ErrKey, s)
	}
	if strings.HasPrefix(text, prefixPublic) && f.uses(ed25519Sig) {
		raw, err := decode64(text[len(prefixPublic):])
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return PublicKey{}, fmt.Errorf("%w: after %q comes padded standard base64 of 32 bytes", ErrKey, prefixPublic)
		}
		return newPublicKey(f, ed25519.PublicKey(raw))
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return PublicKey{}, fmt.Errorf(`%w: a public key for %s is one PEM block "PUBLIC KEY"%s`, ErrKey, s, orPublicText(f))
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: the PEM block holds no well-formed public key", ErrKey)
	}
	return newPublicKey(f, parsed)
}

func orPublicText(f *format) string {
	if f.uses(ed25519Sig) {
		return ` or text that begins with "whpk_"`
	}
	return ""
}

func newPublicKey(f *format, parsed any) (PublicKey, error) {
	switch public := parsed.(type) {
	case ed25519.PublicKey:
		if f.uses(ed25519Sig) {
			return PublicKey{&key{scheme: f.scheme, algorithm: ed25519Sig, id: publicID(public), public: public}}, nil
		}
	case *rsa.PublicKey:
		if f.uses(rsaV15) {
			if err := checkRSA(public); err != nil {
				return PublicKey{}, err
			}
			return PublicKey{&key{scheme: f.scheme, algorithm: rsaV15, id: publicID(public), rsaPublic: public}}, nil
		}
	}
	return PublicKey{}, fmt.Errorf("%w: %s does not use this kind of public key", ErrKey, f.scheme)
}

func newHMACKey(s Scheme, secret []byte, text string) (Key, error) {
	// Derived, so that the id gives nothing away that helps to find the secret's bytes.
	id, err := hkdf.Key(sha256.New, secret, nil, "sealpost signer key id", idBytes)
	if err != nil {
		return Key{}, fmt.Errorf("derive key id: %w", err)
	}
	return seal(&key{scheme: s, algorithm: hmacSHA256, id: hex.EncodeToString(id), secret: secret, text: text}), nil
}

func newEd25519Key(s Scheme, private ed25519.PrivateKey) (Key, error) {
	public := private.Public().(ed25519.PublicKey)
	return seal(&key{scheme: s, algorithm: ed25519Sig, id: publicID(public), private: private, public: public}), nil
}

func newRSAKey(s Scheme, private *rsa.PrivateKey) (Key, error) {
	if err := checkRSA(&private.PublicKey); err != nil {
		return Key{}, err
	}
	if err := private.Validate(); err != nil {
		return Key{}, fmt.Errorf("%w: the RSA key's numbers do not belong together", ErrKey)
	}
	private.Precompute()
	public := private.PublicKey // a copy, so that a PublicKey keeps no private key alive
	return seal(&key{scheme: s, algorithm: rsaV15, id: publicID(&public), rsaPrivate: private, rsaPublic: &public}), nil
}

func checkRSA(public *rsa.PublicKey) error {
	if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("%w: an RSA key has %d to %d bits, this one %d", ErrKey, minRSABits, maxRSABits, bits)
	}
	return nil
}

const idBytes = 8

// publicID is the start of the SHA-256 of the key's SubjectPublicKeyInfo.
func publicID(public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic("signer: Ed25519 or RSA public key without a PKIX form")
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:idBytes])
}

func (k Key) verifying() *key       { return k.open() }
func (p PublicKey) verifying() *key { return p.k }

// IsZero reports whether the Key holds nothing.
func (k Key) IsZero() bool { return k.open() == nil }

// IsZero reports whether the PublicKey holds nothing.
func (p PublicKey) IsZero() bool { return p.k == nil }

// Equal reports whether both hold the same secret for the same scheme.
func (k Key) Equal(other Key) bool {
	if k.IsZero() || other.IsZero() {
		return k.IsZero() && other.IsZero()
	}
	return k.open().scheme == other.open().scheme && subtle.ConstantTimeCompare([]byte(k.Reveal()), []byte(other.Reveal())) == 1
}

// ID is the key's short stable name, 16 hex digits: of the hash of the public half,
// or for HMAC derived from the secret one-way. It is no secret.
func (k Key) ID() string { return idOf(k.open()) }

// ID is that of the Key whose public half this is.
func (p PublicKey) ID() string { return idOf(p.k) }

func idOf(k *key) string {
	if k == nil {
		return ""
	}
	return k.id
}

// Scheme is the scheme that the key was made or parsed for.
func (k Key) Scheme() Scheme {
	if k.open() == nil {
		return ""
	}
	return k.open().scheme
}

// Algorithm is "hmac-sha256", "ed25519" or "rsa-v1_5-sha256" (RFC 9421 section 6.2).
func (k Key) Algorithm() string {
	if k.open() == nil {
		return ""
	}
	return string(k.open().algorithm)
}

// Asymmetric reports whether the key has a public half.
func (k Key) Asymmetric() bool { return k.open() != nil && k.open().algorithm != hmacSHA256 }

// Public returns the public half; false for an HMAC key, which has none.
func (k Key) Public() (PublicKey, bool) {
	if !k.Asymmetric() {
		return PublicKey{}, false
	}
	public := *k.open()
	public.private, public.rsaPrivate = nil, nil
	return PublicKey{&public}, true
}

// Reveal returns the secret as text, in a form that ParseKey reads. It is the only
// way to see it: call it where the secret is handed to its owner or encrypted, and
// nowhere else.
func (k Key) Reveal() string {
	if k.open() == nil {
		return ""
	}
	switch k.open().algorithm {
	case ed25519Sig:
		return prefixPrivate + strict64.EncodeToString(k.open().private)
	case rsaV15:
		der, err := x509.MarshalPKCS8PrivateKey(k.open().rsaPrivate)
		if err != nil {
			panic("signer: RSA private key without a PKCS #8 form")
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return k.open().text
}

// PublicPEM is the public half as a PKIX "PUBLIC KEY" PEM block; empty for HMAC.
func (k Key) PublicPEM() string { return publicPEM(k.open()) }

// PEM is the key as a PKIX "PUBLIC KEY" PEM block.
func (p PublicKey) PEM() string { return publicPEM(p.k) }

func publicPEM(k *key) string {
	public := k.publicPart()
	if public == nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic("signer: Ed25519 or RSA public key without a PKIX form")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (k *key) publicPart() any {
	switch {
	case k == nil:
		return nil
	case k.public != nil:
		return k.public
	case k.rsaPublic != nil:
		return k.rsaPublic
	}
	return nil
}

// PublicText is the public half in the form that the scheme's receivers use:
// "whpk_" and base64 for Ed25519, PEM for RSA, empty for HMAC. ParsePublicKey reads it.
func (k Key) PublicText() string { return publicText(k.open()) }

// Text is the key in the form that the scheme's receivers use.
func (p PublicKey) Text() string { return publicText(p.k) }

func publicText(k *key) string {
	if k != nil && k.public != nil {
		return prefixPublic + strict64.EncodeToString(k.public)
	}
	return publicPEM(k)
}

// JWK is a public key as an entry of a JSON Web Key Set (RFC 7517, RFC 8037 for Ed25519).
type JWK struct {
	KeyType   string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
}

// JWK returns the public half for a JWKS; false for HMAC, which has none.
func (k Key) JWK() (JWK, bool) { return jwkOf(k.open()) }

// JWK returns the key for a JWKS; false for the zero PublicKey.
func (p PublicKey) JWK() (JWK, bool) { return jwkOf(p.k) }

func jwkOf(k *key) (JWK, bool) {
	text := base64.RawURLEncoding.EncodeToString
	switch public := k.publicPart().(type) {
	case ed25519.PublicKey:
		return JWK{KeyType: "OKP", Use: "sig", Algorithm: "EdDSA", KeyID: k.id, Curve: "Ed25519", X: text(public)}, true
	case *rsa.PublicKey:
		return JWK{KeyType: "RSA", Use: "sig", Algorithm: "RS256", KeyID: k.id,
			N: text(public.N.Bytes()), E: text(big.NewInt(int64(public.E)).Bytes())}, true
	}
	return JWK{}, false
}

// String shows the id and never the secret; so do all the methods below.
func (k Key) String() string { return describe("Key", k.open()) }

// GoString shows the id under %#v.
func (k Key) GoString() string { return k.String() }

// Format shows the id under every verb and flag.
func (k Key) Format(w fmt.State, _ rune) { io.WriteString(w, k.String()) }

// MarshalText gives the id to any text encoding.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalJSON gives the id as a JSON string.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"` + k.String() + `"`), nil }

// LogValue gives the id to slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// String shows the id.
func (p PublicKey) String() string { return describe("PublicKey", p.k) }

func describe(kind string, k *key) string {
	if k == nil {
		return "signer." + kind + "(none)"
	}
	return "signer." + kind + "(" + k.id + ")"
}
