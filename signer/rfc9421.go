package signer

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// HTTP Message Signatures (RFC 9421). The scheme signs the components below, with
// the parameters created, keyid and nonce; the body is covered through its
// Content-Digest (RFC 9530). Each live key signs under a label of its own.

const (
	labelCurrent = "sealpost"
	labelOther   = "sealpost-other"

	nonceBytes = 18
)

// The components that the scheme covers and without which the verifier accepts no
// signature; the last only where the request carries that header.
var (
	coveredWhole = stringItems("@method", "@target-uri", "content-digest", "webhook-id")
	coveredChunk = stringItems("@method", "@target-uri", "content-digest", "webhook-id", "sealpost-chunk")
)

func covered(chunk string) []item {
	if chunk == "" {
		return coveredWhole
	}
	return coveredChunk
}

func stringItems(names ...string) []item {
	items := make([]item, len(names))
	for i, name := range names {
		items[i] = item{value: bareItem{kind: bareString, text: name}}
	}
	return items
}

// httpMessage is what components take their values from: a request, or where status
// is not 0 a response.
type httpMessage struct {
	header http.Header
	method string
	uri    string // absolute, in the form of targetURI
	status int
}

var errComponent = errors.New("component has no single value in this message")

// appendBase appends the signature base of RFC 9421 section 2.5.
func appendBase(dst []byte, m *httpMessage, list []item, ps params) ([]byte, error) {
	for i, it := range list {
		if it.value.kind != bareString {
			return nil, errComponent
		}
		if slices.ContainsFunc(list[:i], it.sameComponent) {
			return nil, fmt.Errorf("component %d is there twice", i+1)
		}
		dst = append(appendItem(dst, it), ": "...)
		value, err := m.value(it)
		if err != nil {
			return nil, fmt.Errorf("component %d: %w", i+1, err)
		}
		dst = append(dst, value...)
		dst = append(dst, '\n')
	}
	dst = append(dst, `"@signature-params": `...)
	return appendInnerList(dst, list, ps), nil
}

// sameComponent compares names and parameters, in any order of the latter (RFC 9421 section 2).
func (it item) sameComponent(other item) bool {
	if it.value != other.value || len(it.params) != len(other.params) {
		return false
	}
	for _, p := range it.params {
		if value, ok := other.params.get(p.name); !ok || value != p.value {
			return false
		}
	}
	return true
}

// value is the component's value (RFC 9421 sections 2.1 and 2.2). Only @query-param
// takes a parameter; sf, key, bs, tr and req are not supported and are errors.
func (m *httpMessage) value(it item) (string, error) {
	name := it.value.text
	if name == "@query-param" {
		return m.queryParam(it.params)
	}
	if len(it.params) > 0 {
		return "", errComponent
	}
	if !strings.HasPrefix(name, "@") {
		return m.field(name)
	}
	if name == "@status" {
		if m.status == 0 {
			return "", errComponent
		}
		return strconv.Itoa(m.status), nil
	}
	if m.status != 0 {
		return "", errComponent
	}
	switch name {
	case "@method":
		return m.method, nil
	case "@target-uri":
		return m.uri, nil
	}
	scheme, rest, _ := strings.Cut(m.uri, "://")
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return "", errComponent
	}
	path, query, _ := strings.Cut(rest[slash:], "?")
	switch name {
	case "@scheme":
		return scheme, nil
	case "@authority":
		return rest[:slash], nil
	case "@request-target":
		return rest[slash:], nil
	case "@path":
		return path, nil
	case "@query":
		return "?" + query, nil
	}
	return "", errComponent
}

// field is a header field's value, its lines joined (RFC 9421 section 2.1).
func (m *httpMessage) field(name string) (string, error) {
	for i := range len(name) {
		if !tokenChar(name[i]) || 'A' <= name[i] && name[i] <= 'Z' {
			return "", errComponent
		}
	}
	values := m.header[textproto.CanonicalMIMEHeaderKey(name)]
	if len(values) == 0 || name == "" {
		return "", errComponent
	}
	joined := strings.TrimSpace(values[0])
	for _, line := range values[1:] {
		joined += ", " + strings.TrimSpace(line)
	}
	// A line break here would let one value pass for two components.
	if strings.ContainsAny(joined, "\r\n\x00") || len(joined) > maxFieldBytes {
		return "", errComponent
	}
	return joined, nil
}

// queryParam is the one query parameter of that name (RFC 9421 section 2.2.8).
func (m *httpMessage) queryParam(ps params) (string, error) {
	name, ok := ps.get("name")
	if !ok || len(ps) != 1 || name.kind != bareString || m.status != 0 {
		return "", errComponent
	}
	want, err := url.QueryUnescape(name.text)
	if err != nil {
		return "", errComponent
	}
	_, query, _ := strings.Cut(m.uri, "?")
	value, found := "", false
	for pair := range strings.SplitSeq(query, "&") {
		rawKey, rawValue, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(rawKey)
		if err != nil || key != want || pair == "" {
			continue
		}
		if found {
			return "", errComponent
		}
		found = true
		if value, err = url.QueryUnescape(rawValue); err != nil {
			return "", errComponent
		}
	}
	if !found {
		return "", errComponent
	}
	return formEscape.Replace(url.QueryEscape(value)), nil
}

// formEscape turns Go's query escaping into the form-urlencoded percent-encoding
// that section 2.2.8 asks for.
var formEscape = strings.NewReplacer("+", "%20", "~", "%7E", "%2A", "*")

func (s *Signer) signRFC9421(sc *scratch, h http.Header, m *Message) error {
	uri, err := s.checkTarget(m)
	if err != nil {
		return err
	}
	// Values go into a header of our own first: h stays as it is if signing fails.
	signed := make(http.Header, 5)
	signed[HeaderID] = []string{m.ID}
	if m.Chunk != "" {
		signed[HeaderChunk] = []string{m.Chunk}
	}
	signed["Content-Digest"] = []string{contentDigest(m.Body)}
	message := httpMessage{header: signed, method: m.Method, uri: uri}

	var nonce [nonceBytes]byte
	rand.Read(nonce[:])
	nonceText := base64.RawURLEncoding.EncodeToString(nonce[:])
	list := covered(m.Chunk)
	var inputs, sigs []byte
	for i, k := range s.keys {
		ps := params{
			{"created", bareItem{kind: bareInteger, num: m.Time.Unix()}},
			{"keyid", bareItem{kind: bareString, text: k.ID()}},
			{"nonce", bareItem{kind: bareString, text: nonceText}},
		}
		if sc.text, err = appendBase(sc.text[:0], &message, list, ps); err != nil {
			return fmt.Errorf("%w: %w", ErrMessage, err)
		}
		sig, err := s.signature(sc, i, &content{base: sc.text})
		if err != nil {
			return err
		}
		label := labelOther
		if i == len(s.keys)-1 {
			label = labelCurrent
		}
		if i > 0 {
			inputs, sigs = append(inputs, s.format.separator...), append(sigs, s.format.separator...)
		}
		inputs = appendInnerList(append(append(inputs, label...), '='), list, ps)
		sigs = append(append(sigs, label...), "=:"...)
		sigs = append(base64Text.append(sigs, sig), ':')
	}
	signed["Signature-Input"] = []string{string(inputs)}
	signed["Signature"] = []string{string(sigs)}
	delete(h, HeaderChunk)
	for name, values := range signed {
		h[name] = values
	}
	return nil
}

func contentDigest(body []byte) string {
	sum := sha256.Sum256(body)
	dst := append(make([]byte, 0, 60), "sha-256=:"...)
	return string(append(strict64.AppendEncode(dst, sum[:]), ':'))
}

func (v *Verifier) verifyRFC9421(out *Verified, h http.Header, r Request, now time.Time) error {
	inputs, err := dictionary(h, "Signature-Input")
	if err != nil {
		return err
	}
	sigs, err := dictionary(h, "Signature")
	if err != nil {
		return err
	}
	if err := checkDigest(h, r.Body); err != nil {
		return err
	}
	uri, err := v.target(r)
	if err != nil {
		return err
	}
	message := httpMessage{header: h, method: r.Method, uri: uri}
	// One good signature is enough; without one the first one's fault is the answer.
	var fault error
	for _, input := range inputs {
		sig, ok := signatureOf(sigs, input.name)
		if !ok || !input.isList {
			return fmt.Errorf("%w: signature-input and signature do not match", ErrMalformed)
		}
		err := v.candidate(out, &message, input, sig, now)
		if err == nil {
			return nil
		}
		if fault == nil {
			fault = err
		}
	}
	return fault
}

// candidate checks one labelled signature and fills in out if it is good.
func (v *Verifier) candidate(out *Verified, m *httpMessage, input member, sig string, now time.Time) error {
	created, err := signedTime(input.params, now)
	if err != nil {
		return err
	}
	for _, must := range covered(out.Chunk) {
		if !contains(input.list, must.value.text) {
			return fmt.Errorf("%w: the signature does not cover %s", ErrSignature, must.value.text)
		}
	}
	if err := v.fresh(created, now); err != nil {
		return err
	}
	base, err := appendBase(nil, m, input.list, input.params)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	c := content{base: base, id: out.ID, time: created.Unix()}
	for _, trusted := range v.keys {
		k := trusted.open()
		if k.allowedBy(input.params) && k.verify(v.format, &c, [][]byte{[]byte(sig)}) {
			out.Time, out.KeyID, out.ReplayKey = created, k.id, replayKey(v.format, &c)
			return nil
		}
	}
	return ErrSignature
}

// signedTime reads created, which must be there, and expires, which may be.
func signedTime(ps params, now time.Time) (time.Time, error) {
	created, ok := ps.get("created")
	if !ok || created.kind != bareInteger || created.num <= 0 || created.num >= maxTime {
		return time.Time{}, fmt.Errorf("%w: no parameter created", ErrMalformed)
	}
	if expires, ok := ps.get("expires"); ok {
		if expires.kind != bareInteger {
			return time.Time{}, fmt.Errorf("%w: parameter expires", ErrMalformed)
		}
		if now.Unix() > expires.num {
			return time.Time{}, fmt.Errorf("%w: expired", ErrStale)
		}
	}
	return time.Unix(created.num, 0), nil
}

// allowedBy reports whether the parameters keyid and alg, where present, are those
// of the key (RFC 9421 section 3.2). They choose among the trusted keys, no more.
func (k *key) allowedBy(ps params) bool {
	if id, ok := ps.get("keyid"); ok && (id.kind != bareString || id.text != k.id) {
		return false
	}
	alg, ok := ps.get("alg")
	return !ok || alg.kind == bareString && alg.text == string(k.algorithm)
}

// contains reports whether the component is covered as it is, without parameters.
func contains(list []item, name string) bool {
	for _, it := range list {
		if it.value.kind == bareString && it.value.text == name && len(it.params) == 0 {
			return true
		}
	}
	return false
}

func signatureOf(sigs []member, label string) (string, bool) {
	for _, m := range sigs {
		if m.name == label && !m.isList && m.item.kind == bareBytes {
			return m.item.text, true
		}
	}
	return "", false
}

// dictionary reads a dictionary field, whose lines are joined first (RFC 9651 section 4.2).
func dictionary(h http.Header, name string) ([]member, error) {
	joined := strings.Join(h[name], ", ")
	if strings.Trim(joined, " ,") == "" {
		return nil, fmt.Errorf("%w: no %s", ErrMissing, lower(name))
	}
	members, err := parseDictionary(joined)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is %w", ErrMalformed, lower(name), err)
	}
	return members, nil
}

// checkDigest holds the body against Content-Digest: at least one digest of SHA-256
// or SHA-512, and none of them another body's (RFC 9530 section 2).
func checkDigest(h http.Header, body []byte) error {
	digests, err := dictionary(h, "Content-Digest")
	if err != nil {
		return err
	}
	checked := false
	for _, d := range digests {
		var want []byte
		switch d.name {
		case "sha-256":
			sum := sha256.Sum256(body)
			want = sum[:]
		case "sha-512":
			sum := sha512.Sum512(body)
			want = sum[:]
		default:
			continue
		}
		if d.isList || d.item.kind != bareBytes {
			return fmt.Errorf("%w: content-digest", ErrMalformed)
		}
		if subtle.ConstantTimeCompare(want, []byte(d.item.text)) != 1 {
			return fmt.Errorf("%w: the body is not that of content-digest", ErrSignature)
		}
		checked = true
	}
	if !checked {
		return fmt.Errorf("%w: content-digest has neither sha-256 nor sha-512", ErrMalformed)
	}
	return nil
}
