package relay

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealpost/sealpost/signer"
)

// EndpointState is where an endpoint stands. Only ACTIVE endpoints are sent to; the deliveries of the others are parked.
type EndpointState string

// The states of an endpoint.
const (
	EndpointUnverified EndpointState = "UNVERIFIED"
	EndpointPending    EndpointState = "PENDING" // waits for approval by a caller other than its registrant
	EndpointActive     EndpointState = "ACTIVE"
	EndpointPaused     EndpointState = "PAUSED"
	EndpointSuspended  EndpointState = "SUSPENDED" // by the relay, with a reason
	EndpointContained  EndpointState = "CONTAINED" // by an incident
	EndpointDeleted    EndpointState = "DELETED"
)

// Environment says which events an endpoint gets.
type Environment string

// The environments.
const (
	Sandbox    Environment = "SANDBOX"    // synthetic events alone
	Production Environment = "PRODUCTION" // real events alone
)

// ContentMode is the form of the body that an endpoint receives.
type ContentMode string

// The content modes.
const (
	ContentEnvelope          ContentMode = "envelope"           // {"type","timestamp","id","tenant","subject","data"}
	ContentData              ContentMode = "data"               // the data alone
	ContentCloudEvents       ContentMode = "cloudevents"        // CloudEvents 1.0, structured JSON
	ContentCloudEventsBinary ContentMode = "cloudevents-binary" // CloudEvents 1.0, attributes as ce- headers
)

// ClientCertificateMode says whether our client certificate is part of a connection.
type ClientCertificateMode string

// The zero value is REQUIRED: the safe end.
const (
	ClientCertificateRequired ClientCertificateMode = "REQUIRED" // no body byte unless the server asked and accepted
	ClientCertificateOffered  ClientCertificateMode = "OFFERED"  // presented if the server asks
	ClientCertificateNone     ClientCertificateMode = "NONE"
)

// RedactionMode says which fields of an event's data leave.
type RedactionMode string

// The redaction modes.
const (
	RedactionAllowListed RedactionMode = "ALLOW_LISTED" // only what Allow names
	RedactionDenyListed  RedactionMode = "DENY_LISTED"  // all but what Drop names
	RedactionNone        RedactionMode = "NONE"
)

// Redaction is an endpoint's field policy. Paths are relative to data; "$subject" names the event's subject.
type Redaction struct {
	Mode         RedactionMode
	Allow        []string
	Drop         []string
	Mask         []Mask
	Pseudonymize []string
}

// Mask hides a value but for its last KeepLast characters.
type Mask struct {
	Path     string
	KeepLast int
}

// Header is a static header of an endpoint's requests.
type Header struct {
	Name  string
	Value Secret
}

// TLS is how an endpoint is trusted.
type TLS struct {
	ClientCertificate ClientCertificateMode
	CAPEM             string   // roots to trust in place of the system's; empty: the system's
	SPKIPins          []string // "sha256/<base64>"; one of them must be in the server's chain
	AllowTLS12        bool
}

// Rotation is when an endpoint's signing key is replaced by itself. The zero value is never.
type Rotation struct {
	Every   time.Duration // the life of a key
	Overlap time.Duration // how long both keys are good; 0: DefaultOverlap
}

// OverlapOrDefault is the overlap that holds.
func (r Rotation) OverlapOrDefault() time.Duration {
	if r.Overlap <= 0 {
		return DefaultOverlap
	}
	return r.Overlap
}

// Bounds and defaults of an endpoint's settings.
const (
	DefaultConcurrency = 8
	MaxConcurrency     = 256
	DefaultChunkBytes  = 256 << 10
	MinChunkBytes      = 4 << 10
	MaxChunkBytes      = 8 << 20
	DefaultTimeout     = 15 * time.Second
	MinTimeout         = time.Second
	MaxTimeout         = 60 * time.Second
	DefaultRetryFor    = 72 * time.Hour
	MaxFilterLength    = 2 << 10
	MaxURLLength       = 2 << 10
	MaxEventPatterns   = 64
	MaxStaticHeaders   = 16
	DefaultOverlap     = 24 * time.Hour
	MaxOverlap         = 30 * 24 * time.Hour
	MinOverlap         = time.Minute // of a schedule: a receiver has to hear of a key before it signs
	MinRotation        = 24 * time.Hour
	MaxRotation        = 730 * 24 * time.Hour
)

// Endpoint is a partner's registered URL in one tenant, with its subscription, keys, policy, limits and state: one
// immutable version of it. Registry snapshots share them; nobody writes to one.
type Endpoint struct {
	ID          string
	Tenant      string
	URL         EndpointURL
	Owner       string // who answers for it, such as a mail address
	Purpose     string
	Description string

	EventTypes  []string
	Filter      string // CEL over the redacted event; empty: all
	Scheme      signer.Scheme
	ContentMode ContentMode
	Redaction   Redaction
	Environment Environment
	// DataScope, where not empty, is all that can leave of an event's data, whatever Redaction says; see redact for its paths.
	DataScope []string

	ChunkBytes  int
	ChunkArray  string // the array to page over; empty: the largest
	Concurrency int
	Ordered     bool
	RateLimit   float64 // requests a second; 0: none
	Timeout     time.Duration
	RetryFor    time.Duration
	HTTP2       bool
	TLS         TLS
	Rotation    Rotation
	Headers     []Header
	BasicUser   string
	BasicPass   Secret
	Bearer      Secret

	State       EndpointState
	StateReason string
	Registrant  string // the account that registered it
	Approver    string
	CreateTime  time.Time
	UpdateTime  time.Time
	ApproveTime time.Time
	Reviewer    string    // who approved it last, or looked at it again and let it stay
	ReviewTime  time.Time // when
	// Revision grows with every change of the endpoint; it is the registry's.
	Revision uint64

	// Inactive is how long the endpoint had not been active between its creation and its last change of state, and
	// InactiveSince when the present spell began; zero while it is active.
	Inactive      time.Duration
	InactiveSince time.Time

	// CertificateTime is from when on client certificates may be that are presented; zero: any.
	CertificateTime time.Time

	// Signer signs for this endpoint with the keys in force. It is nil where they could not be had: then nothing
	// is sent.
	Signer *signer.Signer
}

// ActiveTime is the endpoint's active clock: it stands still while the endpoint is not active, so that a deadline on it
// does not come nearer while the endpoint is paused, suspended or contained. Compare such a deadline only with times of this
// clock.
func (e *Endpoint) ActiveTime(now time.Time) time.Time {
	active := now.Add(-e.Inactive)
	if !e.InactiveSince.IsZero() && now.After(e.InactiveSince) {
		active = active.Add(-now.Sub(e.InactiveSince))
	}
	return active
}

// EndpointURL is a URL that deliveries may be sent to: absolute, https (or http where that was allowed), without
// userinfo or fragment. The zero value is no URL.
type EndpointURL struct {
	text string
	url  *url.URL
}

// ParseEndpointURL checks raw; insecure allows http. The error is the rule that raw breaks, and never repeats its userinfo.
func ParseEndpointURL(raw string, insecure bool) (EndpointURL, error) {
	var bad Invalid
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		bad.Add("url", "is required")
	case len(raw) > MaxURLLength:
		bad.Add("url", "must be at most %d bytes", MaxURLLength)
	case err != nil:
		bad.Add("url", "is not a URL (RFC 3986)")
	case u.Scheme != "https" && (u.Scheme != "http" || !insecure):
		if u.Scheme == "http" {
			bad.Add("url", "must be https; http is allowed only with --dev")
		} else {
			bad.Add("url", "must begin with https://")
		}
	case u.User != nil:
		bad.Add("url", "must not hold userinfo; use headers, basic or bearer authentication of the endpoint")
	case u.Hostname() == "" || u.Opaque != "":
		bad.Add("url", "must name a host")
	case u.Fragment != "" || strings.HasSuffix(raw, "#"):
		bad.Add("url", "must not hold a fragment")
	case strings.ContainsRune(u.Hostname(), '%'):
		bad.Add("url", "must not hold a zone id")
	case !validPort(u):
		bad.Add("url", "port must be 1 to 65535")
	case !only(raw, func(c byte) bool { return c > 0x20 && c < 0x7f }):
		bad.Add("url", "must be ASCII without spaces; write other characters percent-encoded, hosts as punycode")
	}
	if err := bad.Err(); err != nil {
		return EndpointURL{}, err
	}
	return EndpointURL{text: u.String(), url: u}, nil
}

func validPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 1 && n <= 65535
}

// String is the URL's text.
func (u EndpointURL) String() string { return u.text }

// URL is a copy that the caller may change; nil for the zero value.
func (u EndpointURL) URL() *url.URL {
	if u.url == nil {
		return nil
	}
	c := *u.url
	return &c
}

// Host is the host without its port.
func (u EndpointURL) Host() string {
	if u.url == nil {
		return ""
	}
	return u.url.Hostname()
}

// Secure tells whether the scheme is https.
func (u EndpointURL) Secure() bool { return u.url != nil && u.url.Scheme == "https" }

// Address is the host as a literal address, if it is one.
func (u EndpointURL) Address() (netip.Addr, bool) {
	addr, err := netip.ParseAddr(u.Host())
	return addr, err == nil
}
