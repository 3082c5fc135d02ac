package control

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sealpost/sealpost/relay/internal/access"
	"github.com/sealpost/sealpost/relay/internal/registry"
)

// What the audit log shows of things before and after an act. A field that is added to an endpoint's record or settings is shown by itself; what may hold a
// secret is shown as a keyed digest, which tells that it changed and nothing more.

// shownElsewhere are fields of a record that are told otherwise, or change with every act.
var shownElsewhere = []string{"ID", "Tenant", "CreateTime", "UpdateTime", "ApproveTime", "Inactive", "InactiveSince", "Settings", "Proposed", "Keys",
	"RequestID", "RequestDigest", "Revision"}

// shownDigested are fields of settings that may hold a secret, or are large.
var shownDigested = []string{"URL", "TLS", "Headers", "BasicPass", "Bearer"}

// shown is what an endpoint's record shows.
func (c *Control) shown(r *registry.Record) map[string]any {
	out := c.shownSettings(r, &r.Settings)
	fieldsOf(reflect.ValueOf(*r), shownElsewhere, out)
	var keys []string
	for _, k := range r.Keys {
		keys = append(keys, k.ID)
	}
	out["keys"] = keys
	if r.Proposed != nil {
		proposed := c.shownSettings(r, &r.Proposed.Settings)
		proposed["author"] = r.Proposed.Author
		for name, value := range proposed {
			if reflect.DeepEqual(out[name], value) {
				delete(proposed, name)
			}
		}
		out["proposed"] = proposed
	}
	return out
}

func (c *Control) shownSettings(r *registry.Record, s *registry.Settings) map[string]any {
	out := map[string]any{}
	fieldsOf(reflect.ValueOf(*s), shownDigested, out)
	digest := func(text string) string {
		return hex.EncodeToString(c.Sealer.Digest("audit of "+r.ID, []byte(text))[:8])
	}
	out["url"], out["urlDigest"] = bare(s.URL), digest(s.URL)
	out["tls"] = map[string]any{
		"clientCertificate": s.TLS.ClientCertificate, "spkiPins": s.TLS.SPKIPins, "allowTls12": s.TLS.AllowTLS12, "caSha256": sumOf(s.TLS.CAPEM),
	}
	secrets, err := registry.NewVault(c.Sealer, r.Tenant, r.ID).Open(s)
	if err != nil {
		out["secrets"] = "cannot be opened"
		return out
	}
	headers := map[string]string{}
	for _, h := range secrets.Headers {
		headers[h.Name] = digest(h.Value.Reveal())
	}
	out["headers"] = headers
	if !secrets.BasicPass.Empty() {
		out["basicPassDigest"] = digest(secrets.BasicPass.Reveal())
	}
	if !secrets.Bearer.Empty() {
		out["bearerDigest"] = digest(secrets.Bearer.Reveal())
	}
	return out
}

func sumOf(text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// fieldsOf are the fields of a struct by their names in JSON, but for some and for bytes, which are sealed.
func fieldsOf(v reflect.Value, except []string, out map[string]any) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || slices.Contains(except, f.Name) || f.Type == reflect.TypeFor[[]byte]() {
			continue
		}
		// What is empty is left out: nil and an empty list are the same.
		if value := v.Field(i); !value.IsZero() && !(value.Kind() == reflect.Slice && value.Len() == 0) {
			out[memberName(f.Name)] = value.Interface()
		}
	}
}

// memberName is a field's in JSON: EventTypes is eventTypes, HTTP2 is http2.
func memberName(field string) string {
	n := 0
	for n < len(field) && field[n] >= 'A' && field[n] <= 'Z' {
		n++
	}
	if n > 1 && n < len(field) && field[n] >= 'a' && field[n] <= 'z' {
		n-- // the last of them begins the next word
	}
	return strings.ToLower(field[:n]) + field[n:]
}

func shownToken(t *access.Token) map[string]any {
	out := map[string]any{
		"account": t.Account, "role": t.Role, "scopes": t.Scopes, "tenant": t.Tenant, "expireTime": t.ExpireTime.UTC().Format(time.RFC3339), "revoked": !t.RevokeTime.IsZero(),
	}
	if t.ExpireTime.IsZero() {
		delete(out, "expireTime")
	}
	return out
}

func shownGrant(g *access.Grant) map[string]any {
	out := map[string]any{}
	fieldsOf(reflect.ValueOf(*g), nil, out)
	if g.Lifetime > 0 {
		out["lifetime"] = g.Lifetime.String()
	}
	return out
}
