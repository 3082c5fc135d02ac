package relay

import "log/slog"

const redacted = "[secret]"

// Secret is text that must not be shown: a header's value, a password. It prints, logs and marshals as "[secret]";
// Reveal is the only way to its content.
type Secret struct{ text string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal is the text itself.
func (s Secret) Reveal() string { return s.text }

// Empty tells whether there is no text.
func (s Secret) Empty() bool { return s.text == "" }

// String, GoString, MarshalText and LogValue show that there is a secret, and nothing of it.
func (s Secret) String() string { return redacted }

// GoString is for %#v.
func (s Secret) GoString() string { return redacted }

// MarshalText is for encoding/json and the like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue is for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
