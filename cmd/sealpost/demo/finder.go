package demo

import (
	"encoding/json"
	"fmt"
)

// minSecret is the length of the shortest value that can be told from chance, in bytes.
const minSecret = 8

// finder looks for any of many values in a text at once: by their first bytes, which it holds in a table.
type finder map[[minSecret]byte][]string

func newFinder(values []string) (finder, error) {
	f := finder{}
	for _, v := range values {
		if len(v) < minSecret {
			return nil, fmt.Errorf("a sensitive value has %d bytes: too few to look for", len(v))
		}
		key := [minSecret]byte([]byte(v[:minSecret]))
		f[key] = append(f[key], v)
	}
	return f, nil
}

// in tells whether any of the values stands in the text.
func (f finder) in(text []byte) bool {
	for i := 0; i+minSecret <= len(text); i++ {
		for _, v := range f[[minSecret]byte(text[i:])] {
			if len(text)-i >= len(v) && string(text[i:i+len(v)]) == v {
				return true
			}
		}
	}
	return false
}

// inJSON looks in the text itself and in every string that it spells, escapes undone.
func (f finder) inJSON(text []byte) bool {
	if f.in(text) {
		return true
	}
	var doc any
	if json.Unmarshal(text, &doc) != nil {
		return false // the text alone is all there is
	}
	var walk func(any) bool
	walk = func(v any) bool {
		switch v := v.(type) {
		case string:
			return f.in([]byte(v))
		case map[string]any:
			for name, inner := range v {
				if f.in([]byte(name)) || walk(inner) {
					return true
				}
			}
		case []any:
			for _, inner := range v {
				if walk(inner) {
					return true
				}
			}
		}
		return false
	}
	return walk(doc)
}
