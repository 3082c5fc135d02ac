package signer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Scheme names a signature format that a receiver can verify. The set is closed:
// a value is one of the constants below, and [ParseScheme] refuses any other.
type Scheme string

const (
	// Standard is Standard Webhooks 1.0.0 with HMAC-SHA256 ("v1").
	Standard Scheme = "standard"
	// StandardEd25519 is Standard Webhooks 1.0.0 with Ed25519 ("v1a").
	StandardEd25519 Scheme = "standard-ed25519"
	// RFC9421 is HTTP Message Signatures over the method, the target URI, the
	// content digest (RFC 9530), the id and the chunk header.
	RFC9421 Scheme = "rfc9421"
	// TimestampHMAC is HMAC-SHA256 over "seconds.body", in hex.
	TimestampHMAC Scheme = "timestamp-hmac"
	// TimestampHMAC256 is HMAC-SHA256 over "milliseconds.body", in hex after "sha256=".
	TimestampHMAC256 Scheme = "timestamp-hmac-256"
	// RSASHA256 is RSA PKCS #1 v1.5 with SHA-256 over the time as eight bytes and the body.
	RSASHA256 Scheme = "rsa-sha256"

	// The formats of vendors whose receivers exist already, each as its vendor documents it
	// and its library checks it.

	// HubSpotV3 is HMAC-SHA256 over the method, the URL, the body and milliseconds, in base64.
	HubSpotV3 Scheme = "hubspot-v3"
	// Stripe is HMAC-SHA256 over "seconds.body", in hex, with the time in the signature header.
	Stripe Scheme = "stripe"
	// GitHub is HMAC-SHA256 over the body alone, in hex after "sha256=". It is replayable.
	GitHub Scheme = "github"
	// Shopify is HMAC-SHA256 over the body alone, in base64. It is replayable.
	Shopify Scheme = "shopify"
	// Slack is HMAC-SHA256 over "v0:seconds:body", in hex after "v0=".
	Slack Scheme = "slack"
)

// ErrScheme reports a scheme that is not one of the constants.
var ErrScheme = errors.New("unknown signature scheme")

// The header names that Sign sets under every scheme, so that any receiver can
// recognise a delivery it has already had. Whether a scheme's signature covers
// them is a fact of the scheme.
const (
	HeaderID    = "Webhook-Id"
	HeaderChunk = "Sealpost-Chunk"
)

// Facts are what the rest of a system needs to know about a scheme.
type Facts struct {
	Scheme Scheme
	// Headers are the scheme's own header names, in canonical form, beside
	// HeaderID and HeaderChunk. TimeHeader and SignatureHeader are among them;
	// TimeHeader is empty where the time is a parameter of the signature, or not signed.
	Headers                     []string
	TimeHeader, SignatureHeader string
	// Replayable: no time is signed, so that a recorded delivery verifies for as long
	// as the key is trusted. A receiver has to remember what it has handled.
	Replayable bool
	// CoversID: the signature covers the value of HeaderID.
	CoversID bool
	// CoversChunk: the signature covers the value of HeaderChunk.
	CoversChunk bool
	// CoversTarget: the signature covers the method and the URL.
	CoversTarget bool
	// CarriesTwoSignatures: during a rotation both live keys can sign.
	CarriesTwoSignatures bool
	// Asymmetric: keys of the scheme's default algorithm have a public half, and a
	// receiver holds only that. RFC9421 can also use HMAC; Key.Asymmetric decides.
	Asymmetric bool
	// TextSecret: the bytes of the secret as text are the HMAC key.
	TextSecret bool
}

// Schemes lists every scheme, the default first.
func Schemes() []Scheme {
	out := make([]Scheme, len(formats))
	for i := range formats {
		out[i] = formats[i].scheme
	}
	return out
}

// ParseScheme returns the scheme of that exact name, or ErrScheme.
func ParseScheme(name string) (Scheme, error) {
	if _, err := formatOf(Scheme(name)); err != nil {
		return "", err
	}
	return Scheme(name), nil
}

// Facts returns what the scheme covers and carries; the zero Facts if the scheme
// is not one of the constants.
func (s Scheme) Facts() Facts {
	f, err := formatOf(s)
	if err != nil {
		return Facts{}
	}
	facts := Facts{
		Scheme:               f.scheme,
		TimeHeader:           f.timeHeader,
		SignatureHeader:      f.signatureHeader,
		Replayable:           f.replayable,
		CoversID:             f.coversID,
		CoversChunk:          f.coversChunk,
		CoversTarget:         f.coversTarget,
		CarriesTwoSignatures: f.separator != "",
		Asymmetric:           f.algorithms[0] != hmacSHA256,
		TextSecret:           f.secret == secretText,
	}
	for _, name := range []string{f.timeHeader, f.signatureHeader, f.idHeader, f.typeHeader} {
		if name != "" {
			facts.Headers = append(facts.Headers, name)
		}
	}
	facts.Headers = append(facts.Headers, f.moreHeaders...)
	return facts
}

// CheckURL reports whether deliveries to that URL can be signed so that every verifier
// of the scheme reads it alike. A scheme that does not cover the target takes any URL.
func (s Scheme) CheckURL(url string) error {
	f, err := formatOf(s)
	if err != nil || !f.coversTarget {
		return err
	}
	_, err = f.target(url)
	return err
}

// algorithm is a signature algorithm, named as in the registry of RFC 9421 section 6.2.
type algorithm string

const (
	hmacSHA256 algorithm = "hmac-sha256"
	ed25519Sig algorithm = "ed25519"
	rsaV15     algorithm = "rsa-v1_5-sha256"
)

// secretForm says how a scheme's keys are written as text.
type secretForm uint8

const (
	secretStandard secretForm = iota // whsec_ or whsk_ with base64, by algorithm
	secretText                       // 43 or more URL-safe characters whose bytes are the key
	secretPEM                        // PKCS #8 or PKCS #1
)

type timeUnit uint8

const (
	seconds timeUnit = iota
	milliseconds
)

func (u timeUnit) count(t time.Time) int64 {
	if u == milliseconds {
		return t.UnixMilli()
	}
	return t.Unix()
}

func (u timeUnit) time(n int64) time.Time {
	if u == milliseconds {
		return time.UnixMilli(n)
	}
	return time.Unix(n, 0)
}

type encoding uint8

const (
	base64Text encoding = iota
	hexText
)

// part is one piece of the signed content. A literal stands for itself.
type part struct {
	kind    partKind
	literal string
}

type partKind uint8

const (
	partLiteral    partKind = iota
	partMethod              // the request's method
	partTarget              // its URL, in the form of targetURI
	partID                  // the value of HeaderID
	partTime                // the time header's text
	partTimeUint64          // the time as eight bytes, big-endian
	partBody                // the body's bytes
	partBase                // the signature base of RFC 9421, built by rfc9421.go
)

var dot = part{literal: "."}

// format is one scheme as data. A new scheme is a new entry of formats.
type format struct {
	scheme       Scheme
	algorithms   []algorithm // the default first
	secret       secretForm
	secretPrefix string // that the vendor's own secrets have, as part of the text and of the key

	// The time is in a header of its own, or leads the signature header after timeLead, or is a parameter of the
	// signature (RFC9421); where the scheme is replayable it is nowhere.
	timeHeader string // canonical
	timeLead   string
	timeUnit   timeUnit
	replayable bool

	signatureHeader string // canonical
	moreHeaders     []string
	// Headers, canonical, in which the vendor's receivers look for the delivery's id and the event's type; not signed.
	idHeader, typeHeader string

	prefix    string // before the encoded signature; its last character ends the version
	separator string // between the signatures of two keys; empty where there can be but one
	encoding  encoding
	layout    []part

	coversID     bool
	coversChunk  bool
	coversTarget bool
	plainTarget  bool // the URL holds none of ambiguousEscapes
}

// formats is the closed set of schemes. It is read only.
var formats = [...]format{
	{
		scheme: Standard, algorithms: []algorithm{hmacSHA256}, secret: secretStandard,
		timeHeader: "Webhook-Timestamp", signatureHeader: "Webhook-Signature", prefix: "v1,",
		layout:    []part{{kind: partID}, dot, {kind: partTime}, dot, {kind: partBody}},
		separator: " ", coversID: true,
	},
	{
		scheme: StandardEd25519, algorithms: []algorithm{ed25519Sig}, secret: secretStandard,
		timeHeader: "Webhook-Timestamp", signatureHeader: "Webhook-Signature", prefix: "v1a,",
		layout:    []part{{kind: partID}, dot, {kind: partTime}, dot, {kind: partBody}},
		separator: " ", coversID: true,
	},
	{
		scheme: RFC9421, algorithms: []algorithm{ed25519Sig, hmacSHA256}, secret: secretStandard,
		signatureHeader: "Signature", moreHeaders: []string{"Signature-Input", "Content-Digest"},
		layout:    []part{{kind: partBase}},
		separator: ", ", coversID: true, coversChunk: true, coversTarget: true,
	},
	{
		scheme: TimestampHMAC, algorithms: []algorithm{hmacSHA256}, secret: secretText,
		timeHeader: "X-Timestamp", signatureHeader: "X-Signature", encoding: hexText,
		layout: []part{{kind: partTime}, dot, {kind: partBody}},
	},
	{
		scheme: TimestampHMAC256, algorithms: []algorithm{hmacSHA256}, secret: secretText,
		timeHeader: "X-Timestamp", timeUnit: milliseconds,
		signatureHeader: "X-Signature-256", prefix: "sha256=", encoding: hexText,
		layout: []part{{kind: partTime}, dot, {kind: partBody}},
	},
	{
		scheme: RSASHA256, algorithms: []algorithm{rsaV15}, secret: secretPEM,
		timeHeader: "X-Timestamp", signatureHeader: "X-Signature",
		layout: []part{{kind: partTimeUint64}, {kind: partBody}},
	},
	{
		scheme: HubSpotV3, algorithms: []algorithm{hmacSHA256}, secret: secretText,
		timeHeader: "X-Hubspot-Request-Timestamp", timeUnit: milliseconds,
		signatureHeader: "X-Hubspot-Signature-V3",
		layout:          []part{{kind: partMethod}, {kind: partTarget}, {kind: partBody}, {kind: partTime}},
		coversTarget:    true, plainTarget: true,
	},
	{
		scheme: Stripe, algorithms: []algorithm{hmacSHA256}, secret: secretText, secretPrefix: prefixSecret,
		timeLead: "t=", signatureHeader: "Stripe-Signature", prefix: "v1=", separator: ",", encoding: hexText,
		layout: []part{{kind: partTime}, dot, {kind: partBody}},
	},
	{
		scheme: GitHub, algorithms: []algorithm{hmacSHA256}, secret: secretText, replayable: true,
		signatureHeader: "X-Hub-Signature-256", prefix: "sha256=", encoding: hexText,
		idHeader: "X-Github-Delivery", typeHeader: "X-Github-Event",
		layout: []part{{kind: partBody}},
	},
	{
		scheme: Shopify, algorithms: []algorithm{hmacSHA256}, secret: secretText, replayable: true,
		signatureHeader: "X-Shopify-Hmac-Sha256",
		idHeader:        "X-Shopify-Webhook-Id", typeHeader: "X-Shopify-Topic",
		layout: []part{{kind: partBody}},
	},
	{
		scheme: Slack, algorithms: []algorithm{hmacSHA256}, secret: secretText,
		timeHeader: "X-Slack-Request-Timestamp", signatureHeader: "X-Slack-Signature", prefix: "v0=", encoding: hexText,
		layout: []part{{literal: "v0:"}, {kind: partTime}, {literal: ":"}, {kind: partBody}},
	},
}

func formatOf(s Scheme) (*format, error) {
	for i := range formats {
		if formats[i].scheme == s {
			return &formats[i], nil
		}
	}
	// The name may come from outside: quoted and cut, it can break no log line.
	name := string(s)
	if len(name) > 40 {
		name = name[:40] + "..."
	}
	return nil, fmt.Errorf("%w %q", ErrScheme, name)
}

func (f *format) uses(a algorithm) bool {
	for _, known := range f.algorithms {
		if known == a {
			return true
		}
	}
	return false
}

// content holds the values that a layout names.
type content struct {
	id       string
	method   string
	target   string
	timeText []byte
	time     int64 // in the format's unit
	body     []byte
	base     []byte
}

// feed writes the signed content to w. The scratch avoids an allocation per part.
func (f *format) feed(w io.Writer, c *content, scratch []byte) []byte {
	for _, p := range f.layout {
		switch p.kind {
		case partBody:
			w.Write(c.body)
			continue
		case partBase:
			w.Write(c.base)
			continue
		case partLiteral:
			scratch = append(scratch[:0], p.literal...)
		case partMethod:
			scratch = append(scratch[:0], c.method...)
		case partTarget:
			scratch = append(scratch[:0], c.target...)
		case partID:
			scratch = append(scratch[:0], c.id...)
		case partTime:
			scratch = append(scratch[:0], c.timeText...)
		case partTimeUint64:
			scratch = binary.BigEndian.AppendUint64(scratch[:0], uint64(c.time))
		}
		w.Write(scratch)
	}
	return scratch
}

// maxTimeDigits holds milliseconds until the year 5138.
const maxTimeDigits = 14

// parseTime reads a time header: decimal digits with no sign, space or leading
// zero, so that there is one text for each time.
func (f *format) parseTime(text string) (int64, bool) {
	if len(text) == 0 || len(text) > maxTimeDigits || text[0] == '0' {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}
