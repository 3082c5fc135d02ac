package receivers

import (
	"net/http"
	"regexp"

	"github.com/sealpost/sealpost/signer"
)

// signedTime is the part of a header in which a scheme's signed time stands, by its last digit; nil where it signs none.
func signedTime(scheme signer.Scheme) (header string, last *regexp.Regexp) {
	facts := scheme.Facts()
	switch {
	case facts.Replayable:
		return "", nil
	case facts.TimeHeader != "":
		return facts.TimeHeader, regexp.MustCompile(`^(\d*)(\d)()$`)
	case scheme == signer.RFC9421:
		return "Signature-Input", regexp.MustCompile(`^(.*;created=\d*)(\d)(;.*)$`)
	}
	return facts.SignatureHeader, regexp.MustCompile(`^(t=\d*)(\d)(,.*)$`)
}

// ChangeTime puts another time, a few seconds away, in place of the signed one. It tells false where the scheme signs none.
func ChangeTime(scheme signer.Scheme, h http.Header) bool {
	return SetTime(scheme, h, "")
}

// SetTime puts a text in place of the signed time; an empty one stands for another time, a few seconds away. It tells false where
// the scheme signs none, and where it did not find it.
func SetTime(scheme signer.Scheme, h http.Header, text string) bool {
	name, last := signedTime(scheme)
	if last == nil {
		return false
	}
	m := last.FindStringSubmatch(h.Get(name))
	if m == nil {
		return false
	}
	if text == "" {
		text = m[1] + string('0'+(m[2][0]-'0'+1)%10)
	} else {
		text = regexp.MustCompile(`\d+$`).ReplaceAllString(m[1], "") + text
	}
	h.Set(name, text+m[3])
	return true
}
