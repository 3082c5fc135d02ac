package access

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	sealpostv1 "github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
)

// How long a certificate lives that the built-in CA issues to an account.
const (
	DefaultCertificateLife = 24 * time.Hour
	MinCertificateLife     = 5 * time.Minute
	MaxCertificateLife     = 14 * 24 * time.Hour
)

// Certificate lets an account call with a client certificate: one that we issued or that somebody named by its fingerprint, or
// every one of a trusted CA with a SPIFFE ID (X.509-SVID, section 2).
type Certificate struct {
	ID         string // the fingerprint, or "spiffe-" and a digest
	Account    string
	Tenant     string
	SHA256     string // of the DER, in hex; "" with SpiffeID
	SpiffeID   string
	Prefixes   []netip.Prefix
	Creator    string
	Hands      []string
	CreateTime time.Time
	ExpireTime time.Time // zero: when the certificate itself says
	RevokeTime time.Time
	Lifetime   time.Duration // of each one that is renewed from it; 0: it is not ours to renew

	holder string // its account's key
}

const spiffePrefix = "spiffe-"

// certificateID is the id of a certificate of this fingerprint or SPIFFE ID.
func certificateID(fingerprint, spiffe string) string {
	if spiffe == "" {
		return fingerprint
	}
	sum := sha256.Sum256([]byte(spiffe))
	return spiffePrefix + hex.EncodeToString(sum[:16])
}

// Check reports every field of a certificate to be mapped that breaks its rule.
func (c *Certificate) Check() relay.Invalid {
	var bad relay.Invalid
	if !ValidAccount(c.Account) {
		bad.Add("account", "must be an account's name")
	}
	_, isPrint := parseFingerprint(c.SHA256)
	switch {
	case (c.SHA256 == "") == (c.SpiffeID == ""):
		bad.Add("sha256", "is required, or spiffeId, and not both")
	case c.SHA256 != "" && !isPrint:
		bad.Add("sha256", "must be 64 characters of lower-case hex")
	case c.SpiffeID != "" && !validSpiffe(c.SpiffeID):
		bad.Add("spiffeId", "must be spiffe://trust-domain/path (SPIFFE-ID, section 2)")
	}
	checkPrefixes(&bad, c.Prefixes)
	return bad
}

// validSpiffe tells whether text is a SPIFFE ID with a path, in its one spelling.
func validSpiffe(text string) bool {
	id, err := url.Parse(text)
	if err != nil || len(text) > 2048 || id.Scheme != "spiffe" || id.Host == "" || id.User != nil || id.RawQuery != "" || id.Fragment != "" || id.String() != text {
		return false
	}
	if strings.Trim(id.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" || len(id.Path) < 2 || strings.ContainsAny(text, "%?#") {
		return false
	}
	for segment := range strings.SplitSeq(id.Path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// AccountSpiffeID is the name in the certificates that the built-in CA issues to an account. '@' and '+' are no characters of a SPIFFE ID
// (section 2.2) and are written as their own words.
func AccountSpiffeID(tenant, account string) string {
	account = strings.NewReplacer("@", ".at.", "+", ".plus.").Replace(account)
	if tenant == "" {
		return "spiffe://sealpost/account/" + account
	}
	return "spiffe://sealpost/tenant/" + tenant + "/account/" + account
}

// Fingerprint is the SHA-256 of a certificate in lower-case hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

var errCertificate = errors.New("certificate record cannot be read")

func (c *Certificate) key() string { return c.ID }

func (c *Certificate) encode() ([]byte, error) {
	sum, _ := hex.DecodeString(c.SHA256)
	return encode(&sealpostv1.CertificateRecord{
		Version: recordVersion, Id: c.ID, Account: c.Account, Tenant: c.Tenant, Sha256: sum, SpiffeId: c.SpiffeID, Cidrs: prefixTexts(c.Prefixes),
		Creator: c.Creator, Hands: c.Hands, CreateTime: nanos(c.CreateTime), ExpireTime: nanos(c.ExpireTime), RevokeTime: nanos(c.RevokeTime),
		Ttl: int64(c.Lifetime),
	})
}

func decodeCertificate(id string, data []byte) (*Certificate, error) {
	var m sealpostv1.CertificateRecord
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", errCertificate, err)
	}
	c := &Certificate{
		ID: m.Id, Account: m.Account, Tenant: m.Tenant, SHA256: hex.EncodeToString(m.Sha256), SpiffeID: m.SpiffeId, Creator: m.Creator, Hands: m.Hands,
		CreateTime: moment(m.CreateTime), ExpireTime: moment(m.ExpireTime), RevokeTime: moment(m.RevokeTime), Lifetime: time.Duration(m.Ttl),
	}
	var ok bool
	if c.Prefixes, ok = prefixes(m.Cidrs); !ok || m.Version != recordVersion || c.ID != id || certificateID(c.SHA256, c.SpiffeID) != id || c.Check() != nil {
		return nil, fmt.Errorf("%w: fields out of bounds", errCertificate)
	}
	c.holder = accountKey(c.Tenant, c.Account)
	return c, nil
}
