package onboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Fate is what becomes of a field.
type Fate string

// The fates.
const (
	Kept     Fate = "KEPT"
	Replaced Fate = "REPLACED" // masked, or a pseudonym
	Removed  Fate = "REMOVED"
)

// Field is one leaf of an event's data. Elements of an array are one field: a[*].b.
type Field struct {
	Path string
	Fate Fate
}

// Bounds of a sample.
const (
	maxSampleDepth = 16
	maxFields      = 1000
)

// Sample is data of a synthetic event that has a field at each of the paths, as redact writes them, and one beside them that no path names.
// What a path leaves open is made up: * is a member "any", ** is none and one member "nested".
func Sample(paths []string) []byte {
	root := map[string]any{"beside": "a field that no rule names"}
	for _, path := range paths {
		if path == "$subject" {
			continue
		}
		steps, deep := stepsOf(path)
		put(root, steps)
		if deep {
			put(root, append([]string{"nested"}, steps...))
		}
	}
	out, err := json.Marshal(root)
	if err != nil { // no such value
		return []byte("{}")
	}
	return out
}

// stepsOf are the members on the way to a path, "[]" for an element, and whether a ** stands in it.
func stepsOf(path string) (steps []string, deep bool) {
	for path != "" && len(steps) < maxSampleDepth {
		switch {
		case path[0] == '.':
			path = path[1:]
		case path[0] == '[':
			_, rest, _ := strings.Cut(path, "]")
			steps, path = append(steps, "[]"), rest
		case path[0] == '"':
			quoted, err := strconv.QuotedPrefix(path)
			if err != nil {
				return steps, deep
			}
			var name string
			if json.Unmarshal([]byte(quoted), &name) != nil {
				return steps, deep
			}
			steps, path = append(steps, name), path[len(quoted):]
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			switch name := path[:end]; name {
			case "**":
				deep = true
			case "*":
				steps = append(steps, "any")
			default:
				steps = append(steps, name)
			}
			path = path[end:]
		}
	}
	return steps, deep
}

// put makes a leaf at the end of steps, in a document whose root is an object.
func put(at map[string]any, steps []string) {
	for len(steps) > 0 && steps[0] == "[]" {
		steps = steps[1:] // an element of the root, or of an element: none that a CRM's event has
	}
	if len(steps) == 0 {
		return
	}
	name, rest := steps[0], steps[1:]
	list := len(rest) > 0 && rest[0] == "[]"
	for len(rest) > 0 && rest[0] == "[]" {
		rest = rest[1:]
	}
	var inner map[string]any
	if len(rest) > 0 {
		switch have := at[name].(type) {
		case map[string]any:
			inner = have
		case []any:
			inner, _ = have[0].(map[string]any)
		}
		if inner == nil {
			inner = map[string]any{}
		}
		put(inner, rest)
	}
	switch {
	case inner != nil && list:
		at[name] = []any{inner}
	case inner != nil:
		at[name] = inner
	case at[name] != nil:
	case list:
		at[name] = []any{value(name)}
	default:
		at[name] = value(name)
	}
}

// value is something of the kind that a field of that name holds, and nobody's.
func value(name string) any {
	lower := strings.ToLower(name)
	for _, v := range []struct {
		part  string
		value any
	}{
		{"email", "ann@example.com"}, {"phone", "+49 30 5550 0199"}, {"iban", "DE00123456780000000000"}, {"card", "4000000000000002"},
		{"ssn", "000-00-0000"}, {"date", "2026-01-02"}, {"time", "2026-01-02T03:04:05Z"}, {"amount", 1234.5}, {"count", 3}, {"country", "DE"},
		{"name", "Ann Example"}, {"url", "https://example.com/"}, {"id", "example-1"},
	} {
		if strings.Contains(lower, v.part) {
			return v.value
		}
	}
	return "example"
}

// Fates compares data before and after policy.
func Fates(before, after []byte) ([]Field, error) {
	old, err := leaves(before)
	if err != nil {
		return nil, err
	}
	now, err := leaves(after)
	if err != nil {
		return nil, err
	}
	var out []Field
	for _, path := range slices.Sorted(maps.Keys(old)) {
		fate := Replaced
		switch {
		case len(now[path]) == 0:
			fate = Removed
		case slices.Equal(old[path], now[path]):
			fate = Kept
		}
		if out = append(out, Field{path, fate}); len(out) == maxFields {
			break
		}
	}
	return out, nil
}

// leaves are a document's scalars, and empty objects and arrays, by path.
func leaves(data []byte) (map[string][]string, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var root any
	if err := d.Decode(&root); err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	out := map[string][]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) {
				walk(strings.TrimPrefix(path+"."+name, "."), v[name])
			}
			if len(v) > 0 {
				return
			}
		case []any:
			for _, e := range v {
				walk(path+"[*]", e)
			}
			if len(v) > 0 {
				return
			}
		}
		text, _ := json.Marshal(v)
		out[path] = append(out[path], string(text))
	}
	walk("", root)
	return out, nil
}
