package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/sealpost/sealpost/relay/app"
)

// config is what a server is run with. The configuration file has its keys; every key also has a SEALPOST_ variable, and some
// a flag. Durations are written 5s, 10m, 72h; sizes as bytes or with a unit: 64MiB, 32GiB.
type config struct {
	app.Options `yaml:",inline"`
	Log         logConfig `yaml:"log"`
}

// logConfig says how the server logs on standard error.
type logConfig struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn or error
}

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// loadConfig reads the configuration file, where one is named, and sets over it what the environment and then the flags say,
// each by its key.
func loadConfig(file string, environ []string, flags map[string]string) (config, error) {
	c := config{Log: logConfig{Format: "text", Level: "info"}}
	if file != "" {
		text, err := readBounded(file, maxConfigBytes)
		if err != nil {
			return c, fmt.Errorf("configuration: %w", err)
		}
		if err := decodeConfig(text, &c); err != nil {
			return c, usagef("configuration %s: %v", file, err)
		}
	}
	keys := leafKeys(reflect.TypeFor[config](), "")
	for _, key := range keys {
		name := variable(key)
		for _, entry := range environ {
			if have, value, _ := strings.Cut(entry, "="); have == name && value != "" {
				if err := setKey(&c, key, value); err != nil {
					return c, usagef("%s: %v", name, err)
				}
			}
		}
	}
	for _, key := range keys {
		if value, ok := flags[key]; ok {
			if err := setKey(&c, key, value); err != nil {
				return c, usagef("--%s: %v", flagOf(key), err)
			}
		}
	}
	return c, nil
}

// decodeConfig is strict: a key that is not known is refused with its line and the nearest one that is.
func decodeConfig(text []byte, c *config) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return brief(err)
	}
	if len(file.Docs) > 1 {
		return errors.New("holds more than one YAML document")
	}
	for _, doc := range file.Docs {
		if err := checkKeys(doc.Body, reflect.TypeFor[config](), ""); err != nil {
			return err
		}
	}
	if err := yaml.UnmarshalWithOptions(text, c, decodeOptions()...); err != nil && !errors.Is(err, io.EOF) {
		return brief(err)
	}
	return nil
}

func decodeOptions() []yaml.DecodeOption {
	return []yaml.DecodeOption{yaml.Strict(), yaml.CustomUnmarshaler(size[int64]), yaml.CustomUnmarshaler(size[int])}
}

// brief is a YAML error without the source around it, which may hold a password.
func brief(err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		return fmt.Errorf("line %d: %s", at.GetToken().Position.Line, at.GetMessage())
	}
	return err
}

// checkKeys refuses the first key below node that t has no field for.
func checkKeys(node ast.Node, t reflect.Type, path string) error {
	if t.Kind() != reflect.Struct || isText(t) {
		return nil
	}
	var pairs []*ast.MappingValueNode
	switch node := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil
	case *ast.MappingNode:
		pairs = node.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{node}
	default:
		what := "the file"
		if path != "" {
			what = path
		}
		return fmt.Errorf("line %d: %s must be a mapping of keys to values", node.GetToken().Position.Line, what)
	}
	fields := yamlFields(t)
	for _, pair := range pairs {
		key := pair.Key.GetToken().Value
		inner, ok := fields[key]
		if !ok {
			return unknownKey(join(path, key), pair.Key.GetToken().Position.Line, fields, path)
		}
		if err := checkKeys(pair.Value, inner.typ, join(path, key)); err != nil {
			return err
		}
		if inner.typ.Kind() == reflect.Struct && !isText(inner.typ) {
			continue
		}
		if err := yaml.NodeToValue(pair.Value, reflect.New(inner.typ).Interface(), decodeOptions()...); err != nil {
			return fmt.Errorf("line %d: %s must be %s", pair.Key.GetToken().Position.Line, join(path, key), formOf(inner.typ))
		}
	}
	return nil
}

// formOf says what a value of the type looks like.
func formOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 5s or 10m"
	case t == reflect.TypeFor[netip.Prefix]():
		return "a CIDR such as 10.0.0.0/8"
	case t.Kind() == reflect.Slice:
		return "a list, each " + formOf(t.Elem())
	case t.Kind() == reflect.Map:
		return "a mapping of names to values with the right keys"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Uint16:
		return "a port"
	}
	return "a number or a size such as 64MiB"
}

func unknownKey(key string, line int, fields map[string]yamlField, path string) error {
	known := make([]string, 0, len(fields))
	for name := range fields {
		known = append(known, join(path, name))
	}
	// Also a key that stands at the wrong depth is found.
	known = append(known, leafKeys(reflect.TypeFor[config](), "")...)
	return fmt.Errorf("line %d: unknown key %q; did you mean %q?", line, key, nearest(key, known))
}

// nearest is the one of known with the least edit distance to word; the last part of a path counts most.
func nearest(word string, known []string) string {
	slices.Sort(known)
	best, least := "", math.MaxInt
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if last := distance(strings.ToLower(lastPart(word)), strings.ToLower(lastPart(k))); last == 0 || d > last+2 {
			d = last + 2 // the right name in the wrong place
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// distance is Levenshtein's.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := range s {
		diagonal := row[0]
		row[0] = i + 1
		for j := range t {
			cost := 1
			if s[i] == t[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(t)]
}

// yamlField is a field by its key.
type yamlField struct {
	index []int
	typ   reflect.Type
}

// yamlFields are the keys of a struct, embedded ones too; those that no file can set are left out.
func yamlFields(t reflect.Type) map[string]yamlField {
	out := map[string]yamlField{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name != "" && name != "-" && f.IsExported() {
			out[name] = yamlField{f.Index, f.Type}
		}
	}
	return out
}

// isText tells whether a struct is written as one scalar.
func isText(t reflect.Type) bool {
	_, ok := reflect.New(t).Interface().(interface{ UnmarshalText([]byte) error })
	return ok
}

// leafKeys are all keys that hold a value, by their paths, sorted.
func leafKeys(t reflect.Type, path string) []string {
	var out []string
	for name, f := range yamlFields(t) {
		if f.typ.Kind() == reflect.Struct && !isText(f.typ) {
			out = append(out, leafKeys(f.typ, join(path, name))...)
		} else {
			out = append(out, join(path, name))
		}
	}
	slices.Sort(out)
	return out
}

// setKey sets one value from text in YAML's form; lists may be written with commas.
func setKey(c *config, key, text string) error {
	v := reflect.ValueOf(c).Elem()
	for part := range strings.SplitSeq(key, ".") {
		v = v.FieldByIndex(yamlFields(v.Type())[part].index)
	}
	switch v.Interface().(type) {
	case string:
		v.SetString(text)
		return nil
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
		return nil
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not %s", text, formOf(v.Type()))
		}
		v.SetInt(int64(d))
		return nil
	}
	if v.Kind() == reflect.Slice && !strings.HasPrefix(text, "[") {
		text = "[" + text + "]"
	}
	fresh := reflect.New(v.Type())
	if err := yaml.UnmarshalWithOptions([]byte(text), fresh.Interface(), decodeOptions()...); err != nil {
		return fmt.Errorf("%q is not %s", text, formOf(v.Type()))
	}
	v.Set(fresh.Elem())
	return nil
}

// variable is the environment's name for a key: SEALPOST_JOURNAL_MAX_EVENT_BYTES for journal.maxEventBytes.
func variable(key string) string {
	var b strings.Builder
	b.WriteString("SEALPOST_")
	for i, r := range key {
		switch {
		case r == '.':
			b.WriteByte('_')
		case unicode.IsUpper(r) && i > 0:
			b.WriteByte('_')
			b.WriteRune(r)
		default:
			b.WriteRune(unicode.ToUpper(r))
		}
	}
	return b.String()
}

// size reads a number of bytes or, with the same form, any count: 4096, 64KiB, 64MiB, 32GiB.
func size[T int | int64](to *T, text []byte) error {
	word := strings.Trim(strings.TrimSpace(string(text)), `"'`)
	digits := strings.TrimRight(word, "KMGTiB")
	shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}[word[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n > math.MaxInt64>>shift || n < math.MinInt64>>shift {
		return fmt.Errorf("%q is not a number or a size such as 64MiB", word)
	}
	*to = T(n << shift)
	return nil
}

// printConfig writes the configuration in force, as a file that could be used. A password in a URL is left out.
func printConfig(w io.Writer, c config) error {
	for _, text := range []*string{&c.Redis, &c.NATS.URL} {
		parts := strings.Split(*text, ",")
		for i, part := range parts {
			if u, err := url.Parse(part); err == nil && u.User != nil {
				parts[i] = u.Redacted()
			}
		}
		*text = strings.Join(parts, ",")
	}
	out, err := yaml.MarshalWithOptions(c, yaml.IndentSequence(true))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "# 0, 0s, \"\" and [] stand for a key's default.\n%s", out)
	return err
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// readBounded reads a file that must not be larger.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return text, err
}
