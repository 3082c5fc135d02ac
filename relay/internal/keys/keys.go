// Package keys keeps the relay's root secret and what is derived from it: the sealing of secrets at rest and the
// key of each tenant's pseudonyms.
//
// It promises that a sealed value opens only at the place it was sealed for (tenant, object and field), that a
// changed one does not open at all, and that neither the root nor a derived key is ever printed. It
// trusts the file system to keep a file of mode 0600 from others, and whoever holds that file with everything
// sealed under it. A root kept elsewhere (a KMS, an HSM) is another type with Seal and Open; those who seal declare the
// two methods that they need.
package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Size is the length of the root and of each derived key, in bytes.
const Size = 32

// MaxPlain bounds what one value may hold, in bytes: the largest secret is an RSA private key.
const MaxPlain = 64 << 10

// The layout of a sealed value: "SPS", version, key id, nonce, then the AES-256-GCM ciphertext with its tag.
const (
	magic     = "SPS\x01"
	idSize    = 8
	headSize  = len(magic) + idSize
	nonceSize = 12
	tagSize   = 16
	overhead  = headSize + nonceSize + tagSize
)

// What Open answers for a value that it does not open.
var (
	// ErrSealed is for a value that was changed, cut, moved to another place, or never sealed.
	ErrSealed = errors.New("sealed value cannot be opened")
	// ErrOtherKey is for a value that was sealed under another root.
	ErrOtherKey = errors.New("sealed value belongs to another key")
	// ErrTooLarge is for a value above MaxPlain.
	ErrTooLarge = errors.New("value is too large to be sealed")
)

// Place names where a sealed value belongs. A value opens only with the place that it was sealed with, so that who can
// write the store cannot move one tenant's or endpoint's secret to another.
type Place struct {
	Tenant string
	Object string // such as an endpoint's id
	Field  string // such as "bearer"
}

// Root is a root secret with the keys derived from it. It is safe for concurrent use.
type Root struct {
	id   [idSize]byte
	aead cipher.AEAD
	root [Size]byte
}

// NewRoot derives the keys of a root secret of Size bytes.
func NewRoot(secret []byte) (*Root, error) {
	if len(secret) != Size {
		return nil, fmt.Errorf("root key must be %d bytes, not %d", Size, len(secret))
	}
	r := &Root{root: [Size]byte(secret)}
	id, err := hkdf.Key(sha256.New, secret, nil, "sealpost key id v1", idSize)
	if err != nil {
		return nil, fmt.Errorf("derive key id: %w", err)
	}
	r.id = [idSize]byte(id)
	sealing, err := hkdf.Key(sha256.New, secret, nil, "sealpost seal v1", Size)
	if err != nil {
		return nil, fmt.Errorf("derive sealing key: %w", err)
	}
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, fmt.Errorf("sealing cipher: %w", err)
	}
	// Random nonces of 96 bits bound one key to 2^32 values (NIST SP 800-38D, 8.3): far above what a registry writes.
	if r.aead, err = cipher.NewGCM(block); err != nil {
		return nil, fmt.Errorf("sealing cipher: %w", err)
	}
	return r, nil
}

// String and GoString show the key's id, and nothing of the key.
func (r *Root) String() string { return fmt.Sprintf("key %x", r.id) }

// GoString is for %#v.
func (r *Root) GoString() string { return r.String() }

// Fingerprint tells whether two processes have the same root. Nothing of the root can be had back from it.
func (r *Root) Fingerprint() string { return hex.EncodeToString(r.Digest("fingerprint", nil)) }

// Seal encrypts plain, at most MaxPlain bytes, for one place.
func (r *Root) Seal(plain []byte, at Place) ([]byte, error) {
	if len(plain) > MaxPlain {
		return nil, ErrTooLarge
	}
	out := make([]byte, headSize+nonceSize, overhead+len(plain))
	copy(out, magic)
	copy(out[len(magic):], r.id[:])
	nonce := out[headSize : headSize+nonceSize]
	rand.Read(nonce) // crypto/rand.Read ends the process rather than fail
	return r.aead.Seal(out, nonce, plain, associated(out[:headSize], at)), nil
}

// Open decrypts what Seal made for the same place, or answers ErrSealed or ErrOtherKey.
func (r *Root) Open(sealed []byte, at Place) ([]byte, error) {
	if len(sealed) < overhead || len(sealed) > overhead+MaxPlain || string(sealed[:len(magic)]) != magic {
		return nil, ErrSealed
	}
	if [idSize]byte(sealed[len(magic):headSize]) != r.id {
		return nil, ErrOtherKey
	}
	nonce, text := sealed[headSize:headSize+nonceSize], sealed[headSize+nonceSize:]
	plain, err := r.aead.Open(nil, nonce, text, associated(sealed[:headSize], at))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// Pseudonym is the key of one tenant's pseudonyms: the same value gets the same pseudonym within a tenant, and nothing
// can be matched between tenants.
func (r *Root) Pseudonym(tenant string) []byte { return r.derive("sealpost pseudonym v1\x00" + tenant) }

// Digest is the HMAC-SHA256 of data under a key of its own for each purpose: it tells equal data, and who has no root
// can't try out what the data may be.
func (r *Root) Digest(purpose string, data []byte) []byte {
	sum := r.Digester(purpose)(data)
	return sum[:]
}

// Digester is Digest for many data of one purpose.
func (r *Root) Digester(purpose string) func(data []byte) [32]byte {
	key := r.derive("sealpost digest v1\x00" + purpose)
	return func(data []byte) (sum [32]byte) {
		mac := hmac.New(sha256.New, key)
		mac.Write(data)
		mac.Sum(sum[:0])
		return sum
	}
}

func (r *Root) derive(info string) []byte {
	key, err := hkdf.Key(sha256.New, r.root[:], nil, info, Size)
	if err != nil {
		panic(fmt.Sprintf("derive key: %v", err)) // only for a length above 255 hashes
	}
	return key
}

// associated is the header and the place, each part with its length before it, so that no two places share bytes.
func associated(head []byte, at Place) []byte {
	out := append(make([]byte, 0, len(head)+len(at.Tenant)+len(at.Object)+len(at.Field)+12), head...)
	for _, part := range []string{at.Tenant, at.Object, at.Field} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}
