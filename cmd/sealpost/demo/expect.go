package demo

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// What a partner should get is worked out here from the file alone, with none of the product's code, so that a fault there is
// not repeated here.

// pseudonym stands for a value that should come as a pseudonym, which only the relay's key can make.
type pseudonym struct{ of string }

// redacted is what a partner should get of a document, and how many values were taken out or replaced on the way.
func (r rules) redacted(doc map[string]any) (map[string]any, int) {
	n := 0
	var out any
	if len(r.allow) > 0 {
		out, _ = r.allowed(doc, "", &n)
	} else {
		out = r.denied(doc, "", &n)
	}
	if out == nil {
		out = map[string]any{}
	}
	return out.(map[string]any), n
}

// denied is everything but what the rules name.
func (r rules) denied(v any, name string, n *int) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for inner, value := range v {
			if slices.Contains(r.drop, inner) {
				*n++
				continue
			}
			out[inner] = r.denied(value, inner, n)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = r.denied(v[i], "", n)
		}
		return out
	case string:
		if slices.Contains(r.pseudonymize, name) {
			*n++
			return pseudonym{v}
		}
		if keep, ok := r.mask[name]; ok {
			*n++
			all := []rune(v)
			return strings.Repeat("*", len(all)-keep) + string(all[len(all)-keep:])
		}
	}
	return v
}

// allowed is nothing but what is named, with what leads there.
func (r rules) allowed(v any, path string, n *int) (any, bool) {
	if slices.Contains(r.allow, path) {
		return v, true
	}
	if path != "" && !slices.ContainsFunc(r.allow, func(a string) bool {
		return strings.HasPrefix(a, path+".") || strings.HasPrefix(a, path+"[")
	}) {
		*n++
		return nil, false
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, value := range v {
			if inner, ok := r.allowed(value, strings.TrimPrefix(path+"."+name, "."), n); ok {
				out[name] = inner
			}
		}
		return out, len(out) > 0
	case []any:
		var out []any
		for _, value := range v {
			if inner, ok := r.allowed(value, path+"[*]", n); ok {
				out = append(out, inner)
			}
		}
		return out, len(out) > 0
	}
	*n++
	return nil, false
}

// pseudonyms learns which pseudonym stands for which value: always the same one, and for that value alone.
type pseudonyms struct{ byValue, byName map[string]string }

func (p *pseudonyms) match(value, got string) bool {
	const form = "psn_"
	if !strings.HasPrefix(got, form) || len(got) < len(form)+16 || strings.Contains(got, value) {
		return false
	}
	name, known := p.byValue[value]
	of, taken := p.byName[got]
	if !known && !taken {
		p.byValue[value], p.byName[got] = got, value
		return true
	}
	return name == got && of == value
}

// differs tells where what came is not what should have, or "". It never repeats a value.
func (p *pseudonyms) differs(want, got any, path string) string {
	switch want := want.(type) {
	case pseudonym:
		if text, ok := got.(string); !ok || !p.match(want.of, text) {
			return path + " is not the value's pseudonym"
		}
		return ""
	case map[string]any:
		have, ok := got.(map[string]any)
		if !ok {
			return path + " is not an object"
		}
		for name := range have {
			if _, ok := want[name]; !ok {
				return path + "." + name + " should not be there"
			}
		}
		for name, value := range want {
			inner, ok := have[name]
			if !ok {
				return path + "." + name + " is missing"
			}
			if d := p.differs(value, inner, path+"."+name); d != "" {
				return d
			}
		}
		return ""
	case []any:
		have, ok := got.([]any)
		if !ok || len(have) != len(want) {
			return fmt.Sprintf("%s is not an array of %d", path, len(want))
		}
		for i := range want {
			if d := p.differs(want[i], have[i], fmt.Sprintf("%s[%d]", path, i)); d != "" {
				return d
			}
		}
		return ""
	case json.Number:
		if n, ok := got.(json.Number); !ok || n != want {
			return path + " is another number, or written differently"
		}
		return ""
	}
	if want != got {
		return path + " has another value"
	}
	return ""
}
