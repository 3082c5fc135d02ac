// Command go is a webhook receiver with Go's standard library only, to the recipe of each scheme. Partners in Go have
// relay/receiver, which does more; this shows what it takes without, and holds our deliveries against code that is not ours.
//
//	SCHEME=timestamp-hmac-256 CONFIG=folder go run ./test/receivers/go
//
// folder/keys holds the keys that it trusts, a file each: the secret, or the public key of a scheme that has one. It is read
// for each request, so that a rotation is a file more and, after the overlap, a file less. folder/tolerance, where it is
// there, says how many seconds a delivery may be old (300). EXTERNAL_URL is how senders reach it, where that is not what
// Host says; some schemes sign the URL.
//
// It listens on a free loopback port, prints "listening <port>" and answers 200 ok, 200 duplicate (it was handled before),
// 400 stale, 401 invalid. Unsigned or malformed requests are invalid.
package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxBody       = 9 << 20
	maxRemembered = 100_000
)

// request is what is signed.
type request struct {
	header http.Header
	body   []byte
	url    string
}

// get is a header's one value; one that is there twice could be read in two ways.
func (r request) get(name string) string {
	if values := r.header.Values(name); len(values) == 1 {
		return values[0]
	}
	return ""
}

// recipe says when a request was signed, in seconds, and whether a key's signature is good. Where the id is signed it names
// the delivery; elsewhere the body does. A recipe without a time cannot tell a replay from a retry.
type recipe struct {
	signedID bool
	time     func(r request) float64
	good     func(key string, r request) bool
}

var recipes = map[string]recipe{
	"standard": {true, seconds("webhook-timestamp"), func(key string, r request) bool {
		return contains(r.get("webhook-signature"), " ", "v1,"+text64(mac(secretOf(key), standardContent(r))))
	}},
	"standard-ed25519": {true, seconds("webhook-timestamp"), func(key string, r request) bool {
		for item := range strings.SplitSeq(r.get("webhook-signature"), " ") {
			if signature, ok := strings.CutPrefix(item, "v1a,"); ok && verifyEd25519(key, standardContent(r), signature) {
				return true
			}
		}
		return false
	}},
	"rfc9421": {true, created, goodRFC9421},
	"timestamp-hmac": {false, seconds("x-timestamp"), func(key string, r request) bool {
		return same(r.get("x-signature"), hex.EncodeToString(mac([]byte(key), r.get("x-timestamp"), ".", string(r.body))))
	}},
	"timestamp-hmac-256": {false, milliseconds("x-timestamp"), func(key string, r request) bool {
		return same(r.get("x-signature-256"), "sha256="+hex.EncodeToString(mac([]byte(key), r.get("x-timestamp"), ".", string(r.body))))
	}},
	"rsa-sha256": {false, seconds("x-timestamp"), func(key string, r request) bool {
		signed := binary.BigEndian.AppendUint64(nil, uint64(number(r.get("x-timestamp"))))
		return verifyRSA(key, append(signed, r.body...), r.get("x-signature"))
	}},
	"hubspot-v3": {false, milliseconds("x-hubspot-request-timestamp"), func(key string, r request) bool {
		return same(r.get("x-hubspot-signature-v3"), text64(mac([]byte(key), "POST", r.url, string(r.body), r.get("x-hubspot-request-timestamp"))))
	}},
	"stripe": {false, func(r request) float64 { return number(stripeTime(r)) }, func(key string, r request) bool {
		return contains(r.get("stripe-signature"), ",", "v1="+hex.EncodeToString(mac([]byte(key), stripeTime(r), ".", string(r.body))))
	}},
	"github": {false, nil, func(key string, r request) bool {
		return same(r.get("x-hub-signature-256"), "sha256="+hex.EncodeToString(mac([]byte(key), string(r.body))))
	}},
	"shopify": {false, nil, func(key string, r request) bool {
		return same(r.get("x-shopify-hmac-sha256"), text64(mac([]byte(key), string(r.body))))
	}},
	"slack": {false, seconds("x-slack-request-timestamp"), func(key string, r request) bool {
		return same(r.get("x-slack-signature"), "v0="+hex.EncodeToString(mac([]byte(key), "v0:", r.get("x-slack-request-timestamp"), ":", string(r.body))))
	}},
}

func seconds(name string) func(request) float64 {
	return func(r request) float64 { return number(r.get(name)) }
}

func milliseconds(name string) func(request) float64 {
	return func(r request) float64 { return number(r.get(name)) / 1000 }
}

var digits = regexp.MustCompile(`^[1-9][0-9]{0,13}$`)

// number is not a number where the text is not all digits.
func number(text string) float64 {
	if !digits.MatchString(text) {
		return math.NaN()
	}
	n, _ := strconv.ParseInt(text, 10, 64) // 14 digits fit
	return float64(n)
}

func mac(key []byte, parts ...string) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		io.WriteString(m, p)
	}
	return m.Sum(nil)
}

func same(given, computed string) bool { return hmac.Equal([]byte(given), []byte(computed)) }

// contains looks for a signature in a list, as there is during a rotation: one good one is enough.
func contains(list, separator, computed string) bool {
	found := false
	for item := range strings.SplitSeq(list, separator) {
		found = same(item, computed) || found
	}
	return found
}

var strict = base64.StdEncoding.Strict()

func text64(raw []byte) string { return strict.EncodeToString(raw) }

func secretOf(key string) []byte {
	raw, _ := strict.DecodeString(strings.TrimPrefix(key, "whsec_")) // nil verifies nothing that anybody sends
	return raw
}

func standardContent(r request) string {
	return r.get("webhook-id") + "." + r.get("webhook-timestamp") + "." + string(r.body)
}

func verifyEd25519(key, content, signature string) bool {
	public, err := strict.DecodeString(strings.TrimPrefix(key, "whpk_"))
	sig, bad := strict.DecodeString(signature)
	return err == nil && bad == nil && len(public) == ed25519.PublicKeySize && ed25519.Verify(public, []byte(content), sig)
}

func verifyRSA(key string, content []byte, signature string) bool {
	sig, err := strict.DecodeString(signature)
	block, _ := pem.Decode([]byte(key))
	if err != nil || block == nil {
		return false
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return false
	}
	digest := sha256.Sum256(content)
	known, ok := public.(*rsa.PublicKey)
	return ok && rsa.VerifyPKCS1v15(known, crypto.SHA256, digest[:], sig) == nil
}

func stripeTime(r request) string {
	at, times := "", 0
	for item := range strings.SplitSeq(r.get("stripe-signature"), ",") {
		if text, ok := strings.CutPrefix(item, "t="); ok {
			at, times = text, times+1
		}
	}
	if times != 1 {
		return ""
	}
	return at
}

// The signatures of RFC 9421 in the form that Sealpost gives them: members of two dictionaries under the same labels.
var (
	inputMember     = regexp.MustCompile(`([a-z-]+)=(\(([^()]*)\);created=([0-9]+);keyid="[0-9a-f]+";nonce="[A-Za-z0-9_-]+")(?:, |$)`)
	signatureMember = regexp.MustCompile(`([a-z-]+)=:([A-Za-z0-9+/=]+):(?:, |$)`)
)

func created(r request) float64 {
	at := math.Inf(-1)
	for _, m := range inputMember.FindAllStringSubmatch(r.get("signature-input"), -1) {
		at = math.Max(at, number(m[4]))
	}
	return at
}

func goodRFC9421(key string, r request) bool {
	sum := sha256.Sum256(r.body)
	if !same(r.get("content-digest"), "sha-256=:"+text64(sum[:])+":") {
		return false
	}
	// What has to be covered is ours to say: a sender who covers less has signed less.
	covered := [][2]string{
		{"@method", "POST"}, {"@target-uri", r.url}, {"content-digest", r.get("content-digest")}, {"webhook-id", r.get("webhook-id")},
	}
	if r.header.Get("sealpost-chunk") != "" {
		covered = append(covered, [2]string{"sealpost-chunk", r.get("sealpost-chunk")})
	}
	var names []string
	base := ""
	for _, c := range covered {
		names = append(names, strconv.Quote(c[0]))
		base += strconv.Quote(c[0]) + ": " + c[1] + "\n"
	}
	values := map[string]string{}
	for _, m := range signatureMember.FindAllStringSubmatch(r.get("signature"), -1) {
		values[m[1]] = m[2]
	}
	for _, m := range inputMember.FindAllStringSubmatch(r.get("signature-input"), -1) {
		if m[3] != strings.Join(names, " ") {
			continue
		}
		signed := base + `"@signature-params": ` + m[2]
		if strings.HasPrefix(key, "whsec_") && same(values[m[1]], text64(mac(secretOf(key), signed))) || verifyEd25519(key, signed, values[m[1]]) {
			return true
		}
	}
	return false
}

// receiver answers requests of one scheme.
type receiver struct {
	recipe recipe
	config string

	// What was handled. In production: a table with a unique key, in the transaction that handles the event.
	mu      sync.Mutex
	handled map[string]bool
	order   []string
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The bytes as they came: a body that was parsed and written again has another signature.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	origin := os.Getenv("EXTERNAL_URL")
	if origin == "" {
		origin = "http://" + r.Host
	}
	status, text, err := rc.answer(request{r.Header, body, origin + r.RequestURI})
	if err != nil {
		status, text = http.StatusInternalServerError, err.Error()
	}
	w.WriteHeader(status)
	io.WriteString(w, text)
}

func (rc *receiver) answer(r request) (int, string, error) {
	if rc.recipe.time != nil {
		at := rc.recipe.time(r)
		if math.IsNaN(at) || math.IsInf(at, 0) {
			return 401, "invalid", nil
		}
		tolerance, err := rc.tolerance()
		if err != nil {
			return 0, "", err
		}
		if math.Abs(float64(time.Now().UnixMilli())/1000-at) > tolerance {
			return 400, "stale", nil
		}
	}
	if rc.recipe.signedID && r.get("webhook-id") == "" {
		return 401, "invalid", nil
	}
	keys, err := filepath.Glob(filepath.Join(rc.config, "keys", "*"))
	if err != nil {
		return 0, "", err
	}
	for _, file := range keys {
		key, err := os.ReadFile(file)
		if err != nil {
			return 0, "", err
		}
		if !rc.recipe.good(strings.TrimSpace(string(key)), r) {
			continue
		}
		id := r.get("webhook-id")
		if !rc.recipe.signedID {
			sum := sha256.Sum256(r.body)
			id = string(sum[:])
		}
		return 200, rc.handle(id), nil
	}
	return 401, "invalid", nil
}

func (rc *receiver) tolerance() (float64, error) {
	text, err := os.ReadFile(filepath.Join(rc.config, "tolerance"))
	if os.IsNotExist(err) {
		return 300, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}

func (rc *receiver) handle(id string) string {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.handled[id] {
		return "duplicate"
	}
	if len(rc.order) == maxRemembered {
		delete(rc.handled, rc.order[0])
		rc.order = rc.order[1:]
	}
	rc.handled[id] = true
	rc.order = append(rc.order, id)
	return "ok"
}

func main() {
	known, ok := recipes[os.Getenv("SCHEME")]
	if !ok || os.Getenv("CONFIG") == "" {
		fmt.Fprintln(os.Stderr, "usage: SCHEME=standard CONFIG=folder go run ./test/receivers/go")
		os.Exit(2)
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening", socket.Addr().(*net.TCPAddr).Port)
	server := http.Server{Handler: &receiver{recipe: known, config: os.Getenv("CONFIG"), handled: map[string]bool{}}, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.Serve(socket))
	os.Exit(1)
}
