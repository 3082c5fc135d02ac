package relay

import "log/slog"

const redacted = "[secret]"

// Secret is text that must not be shown: a header's value, a password. It prints, logs and marshals as "[secret]";
// Reveal is the only way to its content. Behind two pointers it is out of reach for fmt also where a Secret is an unexported
// field, whose methods fmt cannot call. Compare what Reveal gives, not Secrets.
type Secret struct{ text **string }

// NewSecret wraps text.
func NewSecret(text string) Secret {
	p := &text
	return Secret{&p}
}

// Reveal is the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return **s.text
}

// Empty tells whether there is no text.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// String, GoString, MarshalText and LogValue show that there is a secret, and nothing of it.
func (s Secret) String() string { return redacted }

// GoString is for %#v.
func (s Secret) GoString() string { return redacted }

// MarshalText is for encoding/json and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue is for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
