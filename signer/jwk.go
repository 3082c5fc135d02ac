package signer

import (
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strings"
)

// Bounds of a key set that is read.
const (
	MaxJWKSBytes = 64 << 10
	maxJWKSKeys  = 64 // of all kinds, those of other schemes included
)

// ErrKeySet reports a key set that cannot be read, or holds no key of the scheme.
var ErrKeySet = errors.New("invalid key set")

// ParseJWKS reads a JSON Web Key Set (RFC 7517, RFC 8037) of at most MaxJWKSBytes and returns the keys that a verifier of the
// scheme can use, in their order, at most as many as a Verifier trusts. As RFC 7517 section 5 asks, keys that are of another kind or
// not for signatures are passed over; one that is of the scheme's kind and broken is an error, as is a set without any.
func ParseJWKS(s Scheme, data []byte) ([]PublicKey, error) {
	f, err := formatOf(s)
	if err != nil {
		return nil, err
	}
	if len(data) > MaxJWKSBytes {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrKeySet, MaxJWKSBytes)
	}
	var set struct {
		Keys []JWK `json:"keys"`
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	if err := d.Decode(&set); err != nil {
		return nil, fmt.Errorf("%w: not JSON of a key set", ErrKeySet)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: text after the set", ErrKeySet)
	}
	if len(set.Keys) > maxJWKSKeys {
		return nil, fmt.Errorf("%w: more than %d keys", ErrKeySet, maxJWKSKeys)
	}
	var keys []PublicKey
	for i, j := range set.Keys {
		k, ours, err := f.parseJWK(&j)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: key %d: %w", ErrKeySet, i+1, err)
		case ours && len(keys) == maxVerifyingKeys:
			return nil, fmt.Errorf("%w: more than %d keys of %s", ErrKeySet, maxVerifyingKeys, s)
		case ours:
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: no key of %s", ErrKeySet, s)
	}
	return keys, nil
}

// parseJWK reads a key of the format's kind; false for another kind.
func (f *format) parseJWK(j *JWK) (_ PublicKey, ours bool, err error) {
	if j.Use != "" && j.Use != "sig" {
		return PublicKey{}, false, nil
	}
	switch {
	case f.uses(ed25519Sig) && j.KeyType == "OKP" && j.Curve == "Ed25519" && (j.Algorithm == "" || j.Algorithm == "EdDSA" || j.Algorithm == "Ed25519"):
		x, err := decodeURL64(j.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return PublicKey{}, true, errors.New(`"x" is not the base64url of 32 bytes`)
		}
		k, err := newPublicKey(f, ed25519.PublicKey(x))
		return k, true, err
	case f.uses(rsaV15) && j.KeyType == "RSA" && (j.Algorithm == "" || j.Algorithm == "RS256"):
		n, err := decodeURL64(j.N)
		if err != nil || len(n) == 0 {
			return PublicKey{}, true, errors.New(`"n" is not base64url`)
		}
		e, err := decodeURL64(j.E)
		exponent := new(big.Int).SetBytes(e)
		if err != nil || exponent.BitLen() > 31 || exponent.Int64() < 3 || exponent.Int64() > math.MaxInt32 || exponent.Bit(0) == 0 {
			return PublicKey{}, true, errors.New(`"e" is not the base64url of an exponent`)
		}
		k, err := newPublicKey(f, &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())})
		return k, true, err
	}
	return PublicKey{}, false, nil
}

// decodeURL64 reads base64url without padding (RFC 7515 section 2), of which each value has one text.
func decodeURL64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("line break in base64")
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}
