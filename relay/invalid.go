package relay

import (
	"fmt"
	"strings"
)

// Violation is one rule that a value breaks: the field by its path in the API (such as
// "redaction.mask[0].path") and what the rule is. Neither part ever holds the offending content of
// an event.
type Violation struct {
	Field string
	Rule  string
}

// Invalid is the error of every validation here: each field that broke a rule, in the order of the
// fields. An empty Invalid is never returned as an error.
type Invalid []Violation

// Error names every field and its rule.
func (v Invalid) Error() string {
	parts := make([]string, len(v))
	for i, one := range v {
		parts[i] = one.Field + ": " + one.Rule
	}
	return strings.Join(parts, "; ")
}

// Add appends a violation of field, the rule in fmt's form.
func (v *Invalid) Add(field, rule string, args ...any) {
	*v = append(*v, Violation{Field: field, Rule: fmt.Sprintf(rule, args...)})
}

// Err is nil where nothing was violated.
func (v Invalid) Err() error {
	if len(v) == 0 {
		return nil
	}
	return v
}
