package courier

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sealpost/sealpost/relay"
)

// MaxResponseRead is how much of a response's body is read, in bytes; the rest is never asked for.
const MaxResponseRead = 64 << 10

const (
	masked      = "[secret]"
	maxSecret   = 4 << 10 // looked for beyond what is kept
	shortSecret = 3       // shorter texts would mask half of every answer and hide nothing
)

// keep reads a response's body up to its bound and returns what an attempt keeps of it, and how many bytes were read.
// That a body ends early, trickles or breaks is no concern: its status has said everything.
func keep(body io.Reader, secrets *mask) (kept []byte, size int64) {
	head := make([]byte, 0, 512)
	var rest [2 << 10]byte
	const want = relay.MaxResponseKept + maxSecret
	for size < MaxResponseRead {
		into := rest[:min(len(rest), int(MaxResponseRead-size))]
		if len(head) < want {
			if len(head) == cap(head) {
				head = slices.Grow(head, len(head))
			}
			into = head[len(head):min(cap(head), want)]
		}
		n, err := body.Read(into)
		if len(head) < want {
			head = head[:len(head)+n]
		}
		size += int64(n)
		if err != nil {
			break
		}
	}
	return secrets.clean(head), size
}

// mask hides an endpoint's own secrets in what its receiver answers: some echo the request's headers.
type mask struct {
	secrets  []string // the longest first
	replacer *strings.Replacer
}

// newMask looks for the secrets themselves and for what they become in a JSON string.
func newMask(secrets ...string) *mask {
	m := &mask{}
	for _, s := range secrets {
		if len(s) < shortSecret {
			continue
		}
		forms := []string{s}
		if quoted, err := json.Marshal(s); err == nil {
			forms = append(forms, string(quoted[1:len(quoted)-1]))
		}
		for _, form := range forms { // some encoders escape the slash, too
			m.secrets = append(m.secrets, form, strings.ReplaceAll(form, "/", `\/`))
		}
	}
	slices.SortFunc(m.secrets, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	m.secrets = slices.Compact(m.secrets)
	if len(m.secrets) > 0 {
		pairs := make([]string, 0, 2*len(m.secrets))
		for _, s := range m.secrets {
			pairs = append(pairs, s, masked)
		}
		m.replacer = strings.NewReplacer(pairs...)
	}
	return m
}

func secretsOf(ep *relay.Endpoint) []string {
	var out []string
	for _, h := range ep.Headers {
		out = append(out, h.Value.Reveal())
	}
	if !ep.BasicPass.Empty() {
		out = append(out, ep.BasicPass.Reveal(), basicToken(ep))
	}
	return append(out, ep.Bearer.Reveal())
}

func basicToken(ep *relay.Endpoint) string {
	return base64.StdEncoding.EncodeToString([]byte(ep.BasicUser + ":" + ep.BasicPass.Reveal()))
}

// clean is what may be kept of text: text only, without secrets, up to the bound. Of what is not UTF-8 nothing is kept.
func (m *mask) clean(text []byte) []byte {
	text = wholeRunes(text)
	if len(text) == 0 || !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return nil
	}
	if m.replacer != nil {
		text = m.hide(text)
	}
	if len(text) > relay.MaxResponseKept {
		text = wholeRunes(text[:relay.MaxResponseKept])
	}
	return bytes.Clone(text) // small, as the buffer behind it may not be
}

func (m *mask) hide(text []byte) []byte {
	found := false
	for _, s := range m.secrets {
		if bytes.Contains(text, []byte(s)) {
			found = true
			break
		}
	}
	if found {
		text = []byte(m.replacer.Replace(string(text)))
	}
	// The text may end in the middle of a secret.
	for _, s := range m.secrets {
		for n := min(len(s)-1, len(text)); n >= shortSecret; n-- {
			if bytes.HasSuffix(text, []byte(s[:n])) {
				return append(text[:len(text)-n:len(text)-n], masked...)
			}
		}
	}
	return text
}

// wholeRunes drops the beginning of a character at the end of a cut text.
func wholeRunes(text []byte) []byte {
	for cut := 1; cut < utf8.UTFMax && cut <= len(text); cut++ {
		if tail := text[len(text)-cut:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return text[:len(text)-cut]
			}
			break
		}
	}
	return text
}
