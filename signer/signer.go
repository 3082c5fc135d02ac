package signer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
)

// Signer signs messages in one scheme with the keys of one keyring. Build one per
// endpoint and keep it: it holds the prepared HMAC states. Safe for concurrent use.
type Signer struct {
	format *format
	keys   []Key // in the order of their signatures, the current one last

	pool   sync.Pool // of *scratch
	target atomic.Pointer[target]
}

// target remembers the last URL, which is the same for all of an endpoint's messages.
type target struct{ raw, uri string }

// scratch is what one call of Sign needs and the next can use again.
type scratch struct {
	macs    []hash.Hash // beside Signer.keys; nil for keys that are not HMAC
	sum     hash.Hash
	part    []byte
	text    []byte
	sig     []byte
	time    []byte
	content bytes.Buffer
}

// maxKeptContent bounds the memory that an Ed25519 signer keeps between calls.
const maxKeptContent = 1 << 20

// NewSigner builds the signer of one endpoint. The keyring's keys are the scheme's.
func NewSigner(s Scheme, ring Keyring) (*Signer, error) {
	f, err := formatOf(s)
	if err != nil {
		return nil, err
	}
	if ring.current.IsZero() {
		return nil, fmt.Errorf("%w: the keyring is empty", ErrKey)
	}
	if ring.current.Scheme() != s {
		return nil, fmt.Errorf("%w: the keyring is for %s, not %s", ErrKey, ring.current.Scheme(), s)
	}
	signer := &Signer{format: f, keys: ring.signing(f)}
	signer.pool.New = func() any { return newScratch(signer.keys) }
	return signer, nil
}

func newScratch(keys []Key) *scratch {
	sc := &scratch{macs: make([]hash.Hash, len(keys)), sum: sha256.New()}
	for i, k := range keys {
		if !k.Asymmetric() {
			sc.macs[i] = hmac.New(sha256.New, k.open().secret)
		}
	}
	return sc
}

// Scheme is the scheme that the signer signs in.
func (s *Signer) Scheme() Scheme { return s.format.scheme }

// KeyID is the id of the current key, which Sign returns too.
func (s *Signer) KeyID() string { return s.keys[len(s.keys)-1].ID() }

// Sign sets the signature headers of m on h, in place of any that were there, and
// also HeaderID, and HeaderChunk where m is a chunk. It returns the id of the
// current key. The error is ErrMessage where a rule of Message is broken; h is then
// unchanged.
func (s *Signer) Sign(h http.Header, m *Message) (keyID string, err error) {
	if err := m.check(); err != nil {
		return "", err
	}
	sc := s.pool.Get().(*scratch)
	defer s.put(sc)
	if s.format.scheme == RFC9421 {
		err = s.signRFC9421(sc, h, m)
	} else {
		err = s.signFormat(sc, h, m)
	}
	if err != nil {
		return "", err
	}
	if m.ContentType != "" {
		h["Content-Type"] = []string{m.ContentType}
	}
	return s.KeyID(), nil
}

func (s *Signer) put(sc *scratch) {
	if sc.content.Cap() <= maxKeptContent {
		s.pool.Put(sc)
	}
}

func (s *Signer) signFormat(sc *scratch, h http.Header, m *Message) error {
	f := s.format
	c := content{id: m.ID, method: m.Method, time: f.timeUnit.count(m.Time), body: m.Body}
	if f.coversTarget {
		var err error
		if c.target, err = s.checkTarget(m); err != nil {
			return err
		}
	}
	sc.time = strconv.AppendInt(sc.time[:0], c.time, 10)
	c.timeText = sc.time
	sc.text = append(sc.text[:0], sc.time...)
	if f.timeLead != "" {
		sc.text = append(append(append(sc.text, f.timeLead...), sc.time...), f.separator...)
	}
	for i := range s.keys {
		if i > 0 {
			sc.text = append(sc.text, f.separator...)
		}
		sig, err := s.signature(sc, i, &c)
		if err != nil {
			return err
		}
		sc.text = append(sc.text, f.prefix...)
		sc.text = f.encoding.append(sc.text, sig)
	}
	// One string and one slice hold the values of all headers.
	text := string(sc.text)
	values := [...]string{m.ID, text[:len(sc.time)], text[len(sc.time):], m.Chunk, m.Type}
	h[HeaderID] = values[0:1:1]
	set(h, f.idHeader, values[0:1:1])
	set(h, f.timeHeader, values[1:2:2])
	h[f.signatureHeader] = values[2:3:3]
	set(h, HeaderChunk, values[3:4:4])
	set(h, f.typeHeader, values[4:5:5])
	return nil
}

// set sets a header that the format may not have, and that is absent where its value is empty.
func set(h http.Header, name string, value []string) {
	switch {
	case name == "":
	case value[0] == "":
		delete(h, name)
	default:
		h[name] = value
	}
}

// checkTarget is the form of the message's URL that is signed, and checks the method that is signed with it.
func (s *Signer) checkTarget(m *Message) (string, error) {
	uri, err := s.targetURI(m.URL)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if !validMethod(m.Method) {
		return "", fmt.Errorf("%w: method has up to %d characters A-Z - _", ErrMessage, maxMethod)
	}
	return uri, nil
}

// targetURI remembers the last URL's form, since an endpoint has one URL.
func (s *Signer) targetURI(raw string) (string, error) {
	if t := s.target.Load(); t != nil && t.raw == raw {
		return t.uri, nil
	}
	uri, err := s.format.target(raw)
	if err != nil {
		return "", err
	}
	s.target.Store(&target{raw, uri})
	return uri, nil
}

// signature signs c with the i-th key. The result is valid until the next call.
func (s *Signer) signature(sc *scratch, i int, c *content) ([]byte, error) {
	k := s.keys[i].open()
	switch k.algorithm {
	case hmacSHA256:
		mac := sc.macs[i]
		mac.Reset()
		sc.part = s.format.feed(mac, c, sc.part)
		sc.sig = mac.Sum(sc.sig[:0])
		return sc.sig, nil
	case ed25519Sig:
		sc.content.Reset()
		sc.part = s.format.feed(&sc.content, c, sc.part)
		return ed25519.Sign(k.private, sc.content.Bytes()), nil
	}
	sc.sum.Reset()
	sc.part = s.format.feed(sc.sum, c, sc.part)
	sc.sig = sc.sum.Sum(sc.sig[:0])
	sig, err := rsa.SignPKCS1v15(nil, k.rsaPrivate, crypto.SHA256, sc.sig)
	if err != nil {
		return nil, fmt.Errorf("sign with RSA: %w", err)
	}
	return sig, nil
}

func (e encoding) append(dst, sig []byte) []byte {
	if e == hexText {
		return hex.AppendEncode(dst, sig)
	}
	return strict64.AppendEncode(dst, sig)
}

// decode reads a signature of which there is one text only.
func (e encoding) decode(text string) ([]byte, bool) {
	if e == base64Text {
		sig, err := decode64(text)
		return sig, err == nil
	}
	for i := range len(text) {
		if 'A' <= text[i] && text[i] <= 'F' {
			return nil, false
		}
	}
	sig, err := hex.DecodeString(text)
	return sig, err == nil
}
