package signer

import "fmt"

// Keyring holds the current key and, during a rotation, at most one other live
// key: the previous one while receivers still check with it, or the next one while
// they are learning it. It is an immutable value; each change makes a new one.
type Keyring struct{ current, other Key }

// NewKeyring makes a keyring of the current key and at most one other, all of one
// scheme and all different.
func NewKeyring(current Key, other ...Key) (Keyring, error) {
	if current.IsZero() {
		return Keyring{}, fmt.Errorf("%w: a keyring needs a current key", ErrKey)
	}
	r := Keyring{current: current}
	switch len(other) {
	case 0:
		return r, nil
	case 1:
		return r.WithOther(other[0])
	}
	return Keyring{}, fmt.Errorf("%w: a keyring holds two live keys at most", ErrKey)
}

// Current is the active key: the only one that signs where the scheme carries one signature.
func (r Keyring) Current() Key { return r.current }

// Other is the second live key, if there is one.
func (r Keyring) Other() (Key, bool) { return r.other, !r.other.IsZero() }

// WithOther adds the second live key in place of any that was there.
func (r Keyring) WithOther(k Key) (Keyring, error) {
	switch {
	case k.IsZero():
		return Keyring{}, fmt.Errorf("%w: the other key is empty", ErrKey)
	case k.Scheme() != r.current.Scheme():
		return Keyring{}, fmt.Errorf("%w: the keys of a keyring are of one scheme", ErrKey)
	case k.ID() == r.current.ID():
		return Keyring{}, fmt.Errorf("%w: both keys of the keyring are the same", ErrKey)
	}
	return Keyring{current: r.current, other: k}, nil
}

// Promote makes the other key the current one, and the current one the other. With
// one key it changes nothing.
func (r Keyring) Promote() Keyring {
	if r.other.IsZero() {
		return r
	}
	return Keyring{current: r.other, other: r.current}
}

// Retire drops the other key.
func (r Keyring) Retire() Keyring { return Keyring{current: r.current} }

// Keys lists the live keys, the current one first.
func (r Keyring) Keys() []Key {
	switch {
	case r.current.IsZero():
		return nil
	case r.other.IsZero():
		return []Key{r.current}
	}
	return []Key{r.current, r.other}
}

// VerifyingKeys lists the live keys for NewVerifier.
func (r Keyring) VerifyingKeys() []VerifyingKey {
	var keys []VerifyingKey
	for _, k := range r.Keys() {
		keys = append(keys, k)
	}
	return keys
}

// signing lists the keys whose signatures a delivery carries. The current one comes
// last, because there are verifiers that compare only the last of a list.
func (r Keyring) signing(f *format) []Key {
	if f.separator != "" && !r.other.IsZero() {
		return []Key{r.other, r.current}
	}
	return []Key{r.current}
}
