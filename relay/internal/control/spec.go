package control

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/filter"
	"github.com/sealpost/sealpost/relay/internal/pki"
	"github.com/sealpost/sealpost/relay/internal/redact"
	"github.com/sealpost/sealpost/relay/internal/registry"
	"github.com/sealpost/sealpost/signer"
)

// Spec is what an endpoint's owner asks for. Zero fields have the default that is named, outside and with --dev the
// same unless said.
type Spec struct {
	Tenant      string
	URL         string
	Owner       string // required
	Purpose     string // required outside --dev
	Description string

	EventTypes  []string
	Filter      string
	Scheme      string // standard
	ContentMode string // envelope
	// Redaction.Mode is required outside --dev, and NONE with it.
	Redaction relay.Redaction

	// Environment is relay.Sandbox; with --dev, and in the reserved tenant, relay.Production.
	Environment relay.Environment `json:",omitempty"`
	DataScope   []string          `json:",omitempty"`

	ChunkBytes  int // relay.DefaultChunkBytes
	ChunkArray  string
	Concurrency int // relay.DefaultConcurrency
	Ordered     bool
	RateLimit   float64       // requests a second; 0: none
	Timeout     time.Duration // relay.DefaultTimeout
	RetryFor    time.Duration // relay.DefaultRetryFor
	HTTP2       bool
	// TLS.ClientCertificate is REQUIRED by default; with --dev OFFERED for https and NONE for http.
	TLS relay.TLS
	// Rotation.Every is 0 by default: keys are replaced on demand only.
	Rotation relay.Rotation

	// Headers' values are kept where an update leaves one empty.
	Headers   []relay.Header
	BasicUser string
	BasicPass relay.Secret
	Bearer    relay.Secret
	// Secret is the signing secret in the scheme's form; only at creation. Empty: one is made.
	Secret relay.Secret
}

// Bounds of an endpoint's texts, in bytes, and of its numbers.
const (
	maxOwner       = 256
	maxPurpose     = 1024
	maxDescription = 1024
	maxChunkArray  = 256
	maxHeaderName  = 128
	maxHeaderValue = 4096
	maxCredential  = 4096
	maxPins        = 16
	minRetryFor    = time.Minute
	maxRetryFor    = 30 * 24 * time.Hour
	maxRateLimit   = 10_000
)

// withDefaults fills in what was left out.
func (s Spec) withDefaults(dev bool) Spec {
	s.Scheme = cmp.Or(s.Scheme, string(signer.Standard))
	s.ContentMode = cmp.Or(s.ContentMode, string(relay.ContentEnvelope))
	s.ChunkBytes = cmp.Or(s.ChunkBytes, relay.DefaultChunkBytes)
	s.Concurrency = cmp.Or(s.Concurrency, relay.DefaultConcurrency)
	s.Timeout = cmp.Or(s.Timeout, relay.DefaultTimeout)
	if dev || s.Tenant == relay.ReservedTenant { // there is no approval, or no data of a tenant
		s.Environment = cmp.Or(s.Environment, relay.Production)
	}
	s.Environment = cmp.Or(s.Environment, relay.Sandbox)
	s.RetryFor = cmp.Or(s.RetryFor, relay.DefaultRetryFor)
	if dev {
		s.Redaction.Mode = cmp.Or(s.Redaction.Mode, relay.RedactionNone)
		if strings.HasPrefix(strings.ToLower(s.URL), "http:") {
			s.TLS.ClientCertificate = cmp.Or(s.TLS.ClientCertificate, relay.ClientCertificateNone)
		}
		s.TLS.ClientCertificate = cmp.Or(s.TLS.ClientCertificate, relay.ClientCertificateOffered)
	}
	s.TLS.ClientCertificate = cmp.Or(s.TLS.ClientCertificate, relay.ClientCertificateRequired)
	return s
}

// check reports every field of a spec with its defaults that breaks a rule. asked is the spec before its
// defaults: chunking that was not asked for is not refused.
func (c *Control) check(s *Spec, asked *Spec) relay.Invalid {
	var bad relay.Invalid
	if !relay.ValidTenant(s.Tenant) {
		bad.Add("tenant", "must be 1 to %d of a-z, 0-9 and '-', beginning with a letter or digit", relay.MaxTenantLength)
	}
	c.checkURL(s, &bad)
	text(&bad, "owner", s.Owner, maxOwner, true)
	text(&bad, "purpose", s.Purpose, maxPurpose, !c.Dev)
	text(&bad, "description", s.Description, maxDescription, false)
	c.checkEventTypes(s, &bad)
	if s.Environment != relay.Sandbox && s.Environment != relay.Production {
		bad.Add("environment", "must be SANDBOX or PRODUCTION")
	}
	checkScope(s, &bad)
	c.checkPolicy(s, &bad)
	checkFormat(s, asked, &bad)
	checkLimits(s, &bad)
	c.checkTLS(s, &bad)
	checkCredentials(s, &bad)
	checkRotation(s, &bad)
	return bad
}

func checkRotation(s *Spec, bad *relay.Invalid) {
	every, overlap := s.Rotation.Every, s.Rotation.Overlap
	if every != 0 && (every < relay.MinRotation || every > relay.MaxRotation) {
		bad.Add("rotation.every", "must be 1 to 730 days, or absent for no schedule")
	}
	if overlap != 0 && (overlap < relay.MinOverlap || overlap > relay.MaxOverlap) {
		bad.Add("rotation.overlap", "must be 1 minute to 30 days, or absent for 24 h")
	}
	if every >= relay.MinRotation && s.Rotation.OverlapOrDefault() > every/2 {
		bad.Add("rotation.overlap", "must be at most half of rotation.every")
	}
}

func (c *Control) checkURL(s *Spec, bad *relay.Invalid) {
	u, err := relay.ParseEndpointURL(s.URL, c.Dev)
	if err != nil {
		var broken relay.Invalid
		if errors.As(err, &broken) {
			*bad = append(*bad, broken...)
		} else {
			bad.Add("url", "is not a URL")
		}
		return
	}
	if err := signer.Scheme(s.Scheme).CheckURL(u.String()); err != nil && !errors.Is(err, signer.ErrScheme) {
		bad.Add("url", "cannot be signed: %s", err.Error())
	}
	host := strings.TrimSuffix(strings.ToLower(u.Host()), ".")
	addr, literal := u.Address()
	switch {
	case literal:
	case host == "localhost" || strings.HasSuffix(host, ".localhost"): // RFC 6761, section 6.3
		addr, literal = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	case endsInNumber(host):
		bad.Add("url", "must name a host, or hold an address in its usual form")
		return
	case !strings.Contains(host, ".") && !c.Dev:
		bad.Add("url", "must name a host with its domain")
		return
	}
	// Where a name leads is looked at when it is dialled: it can change at any time.
	if _, err := c.Guard.Check(addr); literal && err != nil {
		bad.Add("url", "must lead to a public address; this one is not open to deliveries")
	}
}

// endsInNumber tells whether some resolvers would take the host for an IPv4 address in one of its odd spellings, such as 127.1
// or 0x7f000001 (WHATWG URL, section 3.5).
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	if isHex {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func text(bad *relay.Invalid, field, s string, most int, required bool) {
	switch {
	case required && strings.TrimSpace(s) == "":
		bad.Add(field, "is required")
	case len(s) > most:
		bad.Add(field, "must be at most %d bytes", most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }):
		bad.Add(field, "must be valid UTF-8 without control characters")
	}
}

func (c *Control) checkEventTypes(s *Spec, bad *relay.Invalid) {
	if len(s.EventTypes) == 0 || len(s.EventTypes) > relay.MaxEventPatterns {
		bad.Add("eventTypes", "must be 1 to %d event types", relay.MaxEventPatterns)
		return
	}
	types := c.Registry.Snapshot().Types(s.Tenant)
	for i, p := range s.EventTypes {
		at := fmt.Sprintf("eventTypes[%d]", i)
		if !relay.ValidPattern(p) {
			bad.Add(at, "must be an event type, the beginning of some with '.*', or '*'")
		} else if leaving, none := types.None(p); none && leaving == relay.LeavingBulk {
			bad.Add(at, "%s is a bulk export, which no endpoint can have", p)
		} else if none {
			bad.Add(at, "%s must not leave, says the event type catalogue", p)
		}
	}
}

// checkScope holds a data scope to the rules of a policy's paths. Paths that are allowed by themselves must be within it.
func checkScope(s *Spec, bad *relay.Invalid) {
	if len(s.DataScope) > redact.MaxPaths {
		bad.Add("dataScope", "must be at most %d paths", redact.MaxPaths)
		return
	}
	var broken *redact.PolicyError
	if _, err := redact.Compile(redact.Policy{Mode: redact.AllowListed, Allow: s.DataScope}, nil); errors.As(err, &broken) {
		bad.Add(strings.Replace(broken.Field, "allow", "dataScope", 1), "column %d: %s", broken.Column, broken.Rule)
		return
	}
	if len(s.DataScope) == 0 || s.Redaction.Mode != relay.RedactionAllowListed {
		return
	}
	for i, path := range s.Redaction.Allow {
		in := path == "$subject" || slices.ContainsFunc(s.DataScope, func(scope string) bool {
			rest, under := strings.CutPrefix(path, scope)
			return under && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
		if !in {
			bad.Add(fmt.Sprintf("redaction.allow[%d]", i), "%s is outside of dataScope", path)
		}
	}
}

func (c *Control) checkPolicy(s *Spec, bad *relay.Invalid) {
	if s.Redaction.Mode == "" {
		bad.Add("redaction.mode", "is required: ALLOW_LISTED, DENY_LISTED or NONE")
	} else if _, err := redact.Compile(registry.Policy(s.Redaction, s.DataScope), make([]byte, redact.MinKeyBytes)); err != nil {
		var broken *redact.PolicyError
		switch {
		case !errors.As(err, &broken):
			bad.Add("redaction", "is not a policy")
		case broken.Field == "policy":
			bad.Add("redaction", "%s", broken.Rule)
		case broken.Column > 0:
			bad.Add("redaction."+broken.Field, "column %d: %s", broken.Column, broken.Rule)
		default:
			bad.Add("redaction."+broken.Field, "%s", broken.Rule)
		}
	}
	if s.Filter == "" {
		return
	}
	if _, err := c.filters.Compile(s.Filter); err != nil {
		var broken *filter.SyntaxError
		if errors.As(err, &broken) {
			bad.Add("filter", "%s", broken.Error())
		} else {
			bad.Add("filter", "is not a filter")
		}
	}
}

func checkFormat(s *Spec, asked *Spec, bad *relay.Invalid) {
	scheme, err := signer.ParseScheme(s.Scheme)
	if err != nil {
		bad.Add("scheme", "must be one of %s", joined(signer.Schemes()))
	}
	mode := relay.ContentMode(s.ContentMode)
	switch mode {
	case relay.ContentEnvelope, relay.ContentData, relay.ContentCloudEvents, relay.ContentCloudEventsBinary:
	default:
		bad.Add("contentMode", "must be envelope, data, cloudevents or cloudevents-binary")
		return
	}
	// What makes chunks a set (index, total, digest) must be under the signature: in the signed id, or in the body.
	if err == nil && !scheme.Facts().CoversID && mode != relay.ContentEnvelope {
		const rule = "cannot be had: scheme %s does not sign the id, and contentMode %s has no place for a chunk's facts; use contentMode envelope"
		if asked.ChunkBytes != 0 {
			bad.Add("chunkBytes", rule, s.Scheme, s.ContentMode)
		}
		if asked.ChunkArray != "" {
			bad.Add("chunkArray", rule, s.Scheme, s.ContentMode)
		}
	}
}

func joined(schemes []signer.Scheme) string {
	names := make([]string, len(schemes))
	for i, s := range schemes {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

func checkLimits(s *Spec, bad *relay.Invalid) {
	if s.ChunkBytes < relay.MinChunkBytes || s.ChunkBytes > relay.MaxChunkBytes {
		bad.Add("chunkBytes", "must be %d to %d bytes", relay.MinChunkBytes, relay.MaxChunkBytes)
	}
	text(bad, "chunkArray", s.ChunkArray, maxChunkArray, false)
	if s.Concurrency < 1 || s.Concurrency > relay.MaxConcurrency {
		bad.Add("concurrency", "must be 1 to %d", relay.MaxConcurrency)
	}
	if math.IsNaN(s.RateLimit) || s.RateLimit < 0 || s.RateLimit > maxRateLimit || s.RateLimit > 0 && s.RateLimit < 0.001 {
		bad.Add("rateLimit.requestsPerSecond", "must be 0 (none), or 0.001 to %d", maxRateLimit)
	}
	if s.Timeout < relay.MinTimeout || s.Timeout > relay.MaxTimeout {
		bad.Add("timeout", "must be %v to %v", relay.MinTimeout, relay.MaxTimeout)
	}
	if s.RetryFor < minRetryFor || s.RetryFor > maxRetryFor {
		bad.Add("retryFor", "must be 1 minute to 30 days")
	}
}

func (c *Control) checkTLS(s *Spec, bad *relay.Invalid) {
	secure := !strings.HasPrefix(strings.ToLower(s.URL), "http:")
	switch s.TLS.ClientCertificate {
	case relay.ClientCertificateRequired, relay.ClientCertificateOffered:
		if !secure {
			bad.Add("tls.clientCertificate", "must be NONE with an http URL")
		}
	case relay.ClientCertificateNone:
	default:
		bad.Add("tls.clientCertificate", "must be NONE, OFFERED or REQUIRED")
	}
	if s.TLS.CAPEM != "" {
		if _, _, err := pki.ParseRoots(s.TLS.CAPEM, c.now()); err != nil {
			bad.Add("tls.caPem", "%s", strings.TrimPrefix(err.Error(), "pki: "))
		}
		if !secure {
			bad.Add("tls.caPem", "needs an https URL")
		}
	}
	if len(s.TLS.SPKIPins) > maxPins {
		bad.Add("tls.spkiPins", "must be at most %d", maxPins)
		return
	}
	for i, pin := range s.TLS.SPKIPins {
		if _, err := pki.ParsePin(pin); err != nil {
			bad.Add(fmt.Sprintf("tls.spkiPins[%d]", i), "must be sha256/ and the base64 of 32 bytes")
		}
	}
	if len(s.TLS.SPKIPins) > 0 && !secure {
		bad.Add("tls.spkiPins", "needs an https URL")
	}
}

// ownHeaders are the fields that the relay, HTTP's framing or a signature sets (RFC 9110, section 7.6.1; RFC 9112, section 6).
func ownHeaders() map[string]bool {
	names := map[string]bool{}
	for _, name := range []string{
		"Host", "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "Expect", "User-Agent", "Accept-Encoding", "Date",
		signer.HeaderID, signer.HeaderChunk,
	} {
		names[name] = true
	}
	for _, scheme := range signer.Schemes() {
		for _, name := range scheme.Facts().Headers {
			names[name] = true
		}
	}
	return names
}

func checkCredentials(s *Spec, bad *relay.Invalid) {
	if len(s.Headers) > relay.MaxStaticHeaders {
		bad.Add("headers", "must be at most %d", relay.MaxStaticHeaders)
		return
	}
	own, seen := ownHeaders(), map[string]bool{}
	for i, h := range s.Headers {
		at, name := fmt.Sprintf("headers[%d]", i), textproto.CanonicalMIMEHeaderKey(h.Name)
		switch {
		case !isToken(h.Name) || len(h.Name) > maxHeaderName:
			bad.Add(at+".name", "must be a field name (RFC 9110, section 5.1) of at most %d bytes", maxHeaderName)
		case own[name], strings.HasPrefix(name, "Content-"), strings.HasPrefix(name, "Webhook-"),
			strings.HasPrefix(name, "Ce-"), strings.HasPrefix(name, "Sealpost-"):
			bad.Add(at+".name", "is a field that the relay sets itself")
		case name == "Authorization" && (s.BasicUser != "" || !s.BasicPass.Empty() || !s.Bearer.Empty()):
			bad.Add(at+".name", "is set by basicAuth and bearerToken")
		case seen[name]:
			bad.Add(at+".name", "is there twice")
		}
		seen[name] = true
		if h.Value.Empty() {
			bad.Add(at+".value", "is required")
		} else if !isFieldValue(h.Value.Reveal()) || len(h.Value.Reveal()) > maxHeaderValue {
			bad.Add(at+".value", "must be visible ASCII (RFC 9110, section 5.5) of at most %d bytes", maxHeaderValue)
		}
	}
	checkBasic(s, bad)
	if token := s.Bearer.Reveal(); token != "" && (!isFieldValue(token) || strings.ContainsAny(token, " \t") || len(token) > maxCredential) {
		bad.Add("bearerToken", "must be visible ASCII without spaces (RFC 6750, section 2.1) of at most %d bytes", maxCredential)
	}
}

func checkBasic(s *Spec, bad *relay.Invalid) {
	if s.BasicUser == "" && s.BasicPass.Empty() {
		return
	}
	if !s.Bearer.Empty() {
		bad.Add("bearerToken", "excludes basicAuth")
	}
	if s.BasicUser == "" || strings.ContainsRune(s.BasicUser, ':') {
		bad.Add("basicAuth.username", "is required, and must not hold a colon (RFC 7617, section 2)")
	}
	text(bad, "basicAuth.username", s.BasicUser, maxOwner, false)
	text(bad, "basicAuth.password", s.BasicPass.Reveal(), maxCredential, false)
}

// isToken tells whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c > '~' {
			return false
		}
	}
	return s == strings.Trim(s, " \t")
}

// settings are a spec with its secrets sealed.
func settings(s *Spec, vault registry.Vault) (registry.Settings, error) {
	out := registry.Settings{
		URL: s.URL, Owner: s.Owner, Purpose: s.Purpose, Description: s.Description,
		EventTypes: s.EventTypes, Filter: s.Filter, Scheme: signer.Scheme(s.Scheme), ContentMode: relay.ContentMode(s.ContentMode),
		Redaction: s.Redaction, ChunkBytes: s.ChunkBytes, ChunkArray: s.ChunkArray, Concurrency: s.Concurrency, Ordered: s.Ordered,
		RateLimit: s.RateLimit, Timeout: s.Timeout, RetryFor: s.RetryFor, HTTP2: s.HTTP2, TLS: s.TLS, Rotation: s.Rotation, Environment: s.Environment, DataScope: s.DataScope,
	}
	err := vault.Seal(registry.Credentials{Headers: s.Headers, BasicUser: s.BasicUser, BasicPass: s.BasicPass, Bearer: s.Bearer}, &out)
	return out, err
}

// specOf is the inverse of settings.
func specOf(tenant string, s *registry.Settings, vault registry.Vault) (Spec, error) {
	credentials, err := vault.Open(s)
	if err != nil {
		return Spec{}, fmt.Errorf("its secrets cannot be opened: %w", err)
	}
	return Spec{
		Tenant: tenant, URL: s.URL, Owner: s.Owner, Purpose: s.Purpose, Description: s.Description,
		EventTypes: s.EventTypes, Filter: s.Filter, Scheme: string(s.Scheme), ContentMode: string(s.ContentMode),
		Redaction: s.Redaction, ChunkBytes: s.ChunkBytes, ChunkArray: s.ChunkArray, Concurrency: s.Concurrency, Ordered: s.Ordered,
		RateLimit: s.RateLimit, Timeout: s.Timeout, RetryFor: s.RetryFor, HTTP2: s.HTTP2, TLS: s.TLS, Rotation: s.Rotation, Environment: s.Environment, DataScope: s.DataScope,
		Headers: credentials.Headers, BasicUser: credentials.BasicUser, BasicPass: credentials.BasicPass, Bearer: credentials.Bearer,
	}, nil
}
