package signer

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Why a delivery was refused. Each error that Verify returns is one of these.
var (
	// ErrMissing: a header that the scheme needs is absent; the delivery is unsigned.
	ErrMissing = errors.New("unsigned")
	// ErrMalformed: a header is there but not in the one form that the scheme allows.
	ErrMalformed = errors.New("malformed signature header")
	// ErrStale: the signed time is outside the tolerance.
	ErrStale = errors.New("stale")
	// ErrSignature: no signature is that of the content by one of the keys.
	ErrSignature = errors.New("invalid signature")
)

// DefaultTolerance is how far the signed time may be from the receiver's clock, in
// either direction (five minutes, as in every Standard Webhooks library).
const DefaultTolerance = 5 * time.Minute

const (
	maxVerifyingKeys   = 8
	maxSignatures      = 8
	maxSignatureHeader = 8 << 10
	maxTolerance       = 24 * time.Hour
)

// Verifier checks deliveries in one scheme against a list of trusted keys. It is
// immutable and safe for concurrent use.
type Verifier struct {
	format    *format
	keys      []Key // public ones too, sealed as secret ones are
	tolerance time.Duration
	external  string // scheme and authority, empty to take the request's own
}

// VerifierOption changes a Verifier.
type VerifierOption func(*Verifier) error

// WithTolerance sets the tolerance: more than 0, at most 24 hours.
func WithTolerance(d time.Duration) VerifierOption {
	return func(v *Verifier) error {
		if d <= 0 || d > maxTolerance {
			return fmt.Errorf("tolerance is not between 0 and %v", maxTolerance)
		}
		v.tolerance = d
		return nil
	}
}

// WithExternalURL says under which scheme and host senders reach the receiver
// ("https://hooks.partner.example"), for VerifyRequest behind a proxy that ends TLS
// or rewrites Host. Without it they are those of the request.
func WithExternalURL(base string) VerifierOption {
	return func(v *Verifier) error {
		uri, err := targetURI(base)
		if err != nil {
			return fmt.Errorf("external URL: %w", err)
		}
		origin := strings.TrimSuffix(uri, "/")
		if strings.Count(origin, "/") != 2 || strings.Contains(origin, "?") {
			return errors.New("external URL: scheme and host only")
		}
		v.external = origin
		return nil
	}
}

// NewVerifier builds a verifier that trusts 1 to 8 keys, each of the scheme.
func NewVerifier(s Scheme, keys []VerifyingKey, opts ...VerifierOption) (*Verifier, error) {
	f, err := formatOf(s)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 || len(keys) > maxVerifyingKeys {
		return nil, fmt.Errorf("%w: a verifier has 1 to %d keys", ErrKey, maxVerifyingKeys)
	}
	v := &Verifier{format: f, tolerance: DefaultTolerance}
	for _, vk := range keys {
		if vk == nil || vk.verifying() == nil {
			return nil, fmt.Errorf("%w: a verifier's key is empty", ErrKey)
		}
		k := vk.verifying()
		if k.scheme != s {
			return nil, fmt.Errorf("%w: key %s is for %s, not %s", ErrKey, k.id, k.scheme, s)
		}
		v.keys = append(v.keys, seal(k))
	}
	for _, opt := range opts {
		if err := opt(v); err != nil {
			return nil, fmt.Errorf("new verifier: %w", err)
		}
	}
	return v, nil
}

// Verified is what a signature vouches for.
type Verified struct {
	// ID and Chunk are the values of HeaderID and HeaderChunk, empty where absent.
	// Only where the scheme covers them (Facts) does the signature vouch for them.
	ID, Chunk string
	// Time is the signed time of the attempt; zero where the scheme signs none (Facts.Replayable).
	Time time.Time
	// KeyID is the id of the key that verified.
	KeyID string
	// ReplayKey names the signed attempt: a second request with the same ReplayKey
	// is the same signed content again. It rests on covered values only and is at
	// most 300 bytes long. Where the scheme is replayable each attempt of a delivery
	// has the same one, and it has to be remembered for as long as the key is trusted.
	ReplayKey string
}

// Scheme is the scheme that the verifier checks.
func (v *Verifier) Scheme() Scheme { return v.format.scheme }

// Tolerance is how far the signed time may be from the clock. A receiver that
// refuses replays remembers a ReplayKey for twice as long.
func (v *Verifier) Tolerance() time.Duration { return v.tolerance }

// Verify checks a received delivery. Its error is one of ErrMissing, ErrMalformed,
// ErrStale and ErrSignature; without an error the signature is that of one of the keys.
func (v *Verifier) Verify(h http.Header, r Request, now time.Time) (Verified, error) {
	var out Verified
	var err error
	if out.ID, err = optional(h, HeaderID, maxID); err != nil {
		return Verified{}, err
	}
	if out.ID != "" && !validID(out.ID) {
		return Verified{}, fmt.Errorf("%w: webhook-id", ErrMalformed)
	}
	if out.Chunk, err = optional(h, HeaderChunk, maxChunk); err != nil {
		return Verified{}, err
	}
	if v.format.coversID && out.ID == "" {
		return Verified{}, fmt.Errorf("%w: no webhook-id", ErrMissing)
	}
	if v.format.scheme == RFC9421 {
		err = v.verifyRFC9421(&out, h, r, now)
	} else {
		err = v.verifyFormat(&out, h, r, now)
	}
	if err != nil {
		return Verified{}, err
	}
	return out, nil
}

// VerifyRequest checks a request as a server got it, at the present time. The body
// is given apart, because reading it, with a bound, is the caller's part.
func (v *Verifier) VerifyRequest(r *http.Request, body []byte) (Verified, error) {
	return v.Verify(r.Header, Request{Method: r.Method, URL: v.requestURL(r), Body: body}, time.Now())
}

func (v *Verifier) requestURL(r *http.Request) string {
	path := r.RequestURI // as it came, also where a router has changed r.URL
	if !strings.HasPrefix(path, "/") {
		path = r.URL.RequestURI()
	}
	switch {
	case v.external != "":
		return v.external + path
	case r.TLS != nil:
		return "https://" + r.Host + path
	}
	return "http://" + r.Host + path
}

func (v *Verifier) verifyFormat(out *Verified, h http.Header, r Request, now time.Time) error {
	f := v.format
	timeText, list, err := f.parts(h)
	if err != nil {
		return err
	}
	c := content{id: out.ID, method: r.Method, timeText: []byte(timeText), body: r.Body}
	if f.coversTarget {
		if c.target, err = v.target(r); err != nil {
			return err
		}
	}
	given, err := f.parseSignatures(list)
	if err != nil {
		return err
	}
	if !f.replayable {
		var ok bool
		if c.time, ok = f.parseTime(timeText); !ok {
			return fmt.Errorf("%w: the time is not a whole number of %s", ErrMalformed, f.timeUnit)
		}
		out.Time = f.timeUnit.time(c.time)
		if err := v.fresh(out.Time, now); err != nil {
			return err
		}
	}
	for _, trusted := range v.keys {
		k := trusted.open()
		if k.verify(f, &c, given) {
			out.KeyID = k.id
			out.ReplayKey = replayKey(f, &c)
			return nil
		}
	}
	return ErrSignature
}

// parts are the text of the signed time, empty where the format has none, and the signatures, as the headers have them.
func (f *format) parts(h http.Header) (timeText, list string, err error) {
	if f.timeHeader != "" {
		if timeText, err = required(h, f.timeHeader, maxTimeDigits); err != nil {
			return "", "", err
		}
	}
	list, err = required(h, f.signatureHeader, maxSignatureHeader)
	if err != nil || f.timeLead == "" {
		return timeText, list, err
	}
	timeText, list, ok := strings.Cut(list, f.separator)
	if timeText, led := strings.CutPrefix(timeText, f.timeLead); ok && led {
		return timeText, list, nil
	}
	return "", "", fmt.Errorf("%w: %s does not begin with a time and a signature", ErrMalformed, lower(f.signatureHeader))
}

// target is the form of the request's URL that was signed, and checks the method that was signed with it.
func (v *Verifier) target(r Request) (string, error) {
	uri, err := v.format.target(r.URL)
	if err != nil || !validMethod(r.Method) {
		return "", fmt.Errorf("%w: the request's method or URL is not one that can be signed", ErrMalformed)
	}
	return uri, nil
}

func (v *Verifier) fresh(t, now time.Time) error {
	if age := now.Sub(t); age > v.tolerance || age < -v.tolerance {
		return fmt.Errorf("%w: signed %v from now, tolerance %v", ErrStale, age.Round(time.Second), v.tolerance)
	}
	return nil
}

// replayKey is the id and the time where they are covered; the body's digest stands for an id that is not.
func replayKey(f *format, c *content) string {
	key := c.id
	if !f.coversID {
		sum := sha256.Sum256(c.body)
		key = hex.EncodeToString(sum[:])
	}
	if f.replayable {
		return key
	}
	return key + "." + strconv.FormatInt(c.time, 10)
}

// parseSignatures reads the signature header into raw signatures. Where the scheme
// carries a list, items of another version are passed over.
func (f *format) parseSignatures(list string) ([][]byte, error) {
	malformed := fmt.Errorf("%w: %s", ErrMalformed, lower(f.signatureHeader))
	items := []string{list}
	if f.separator != "" {
		if strings.Count(list, f.separator) >= maxSignatures {
			return nil, malformed
		}
		items = strings.Split(list, f.separator)
	}
	var given [][]byte
	for _, item := range items {
		encoded, ok := strings.CutPrefix(item, f.prefix)
		if !ok {
			if f.separator != "" && f.otherVersion(item) {
				continue
			}
			return nil, malformed
		}
		sig, ok := f.encoding.decode(encoded)
		if !ok || len(sig) == 0 {
			return nil, malformed
		}
		given = append(given, sig)
	}
	if len(given) == 0 {
		return nil, fmt.Errorf("%w: no signature of version %s", ErrMissing, f.prefix[:len(f.prefix)-1])
	}
	return given, nil
}

// otherVersion tells whether the item is a signature of a version that is not this format's. A second time is none: of
// two, one reader takes the first and another the last.
func (f *format) otherVersion(item string) bool {
	version, value, ok := strings.Cut(item, f.prefix[len(f.prefix)-1:])
	notAlphanumeric := func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') }
	return ok && version != "" && value != "" && !strings.ContainsFunc(version, notAlphanumeric) && (f.timeLead == "" || !strings.HasPrefix(item, f.timeLead))
}

// verify reports whether one of the given signatures is the key's over c.
func (k *key) verify(f *format, c *content, given [][]byte) bool {
	switch k.algorithm {
	case hmacSHA256:
		mac := hmac.New(sha256.New, k.secret)
		f.feed(mac, c, nil)
		want := mac.Sum(nil)
		found := false
		for _, sig := range given {
			found = hmac.Equal(want, sig) || found
		}
		return found
	case ed25519Sig:
		var signed bytes.Buffer
		f.feed(&signed, c, nil)
		for _, sig := range given {
			if len(sig) == ed25519.SignatureSize && ed25519.Verify(k.public, signed.Bytes(), sig) {
				return true
			}
		}
	case rsaV15:
		sum := sha256.New()
		f.feed(sum, c, nil)
		digest := sum.Sum(nil)
		for _, sig := range given {
			if rsa.VerifyPKCS1v15(k.rsaPublic, crypto.SHA256, digest, sig) == nil {
				return true
			}
		}
	}
	return false
}

// required returns the one value of a header. A header that is there twice could be
// read differently by two readers and is refused.
func required(h http.Header, name string, max int) (string, error) {
	value, err := optional(h, name, max)
	if err == nil && value == "" {
		return "", fmt.Errorf("%w: no %s", ErrMissing, lower(name))
	}
	return value, err
}

func optional(h http.Header, name string, max int) (string, error) {
	values := h[name]
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", fmt.Errorf("%w: more than one %s", ErrMalformed, lower(name))
	}
	if !validFieldValue(values[0], max) {
		return "", fmt.Errorf("%w: %s", ErrMalformed, lower(name))
	}
	return values[0], nil
}

func lower(name string) string { return strings.ToLower(name) }

func (u timeUnit) String() string {
	if u == milliseconds {
		return "milliseconds"
	}
	return "seconds"
}
