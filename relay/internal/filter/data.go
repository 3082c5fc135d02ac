package filter

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds the nesting of data; redaction has bounded it before.
const maxDepth = 256

// reads is what a filter needs of the data: all, or some members of the object.
// Members it doesn't name are not decoded, and what is wrong with their numbers
// doesn't matter.
type reads struct {
	all   bool
	names []string
}

func (r *reads) add(name string) {
	if !slices.Contains(r.names, name) {
		r.names = append(r.names, name)
	}
}

// decode turns JSON into values that CEL knows. Integers are int64, other numbers
// float64.
func (r reads) decode(data []byte) (any, error) {
	if !r.all && len(r.names) == 0 {
		return types.NullValue, nil // the filter never looks
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	var v any
	var err error
	if !r.all && dec.PeekKind() == '{' {
		v, err = r.decodeSome(dec)
	} else {
		v, err = decodeValue(dec, 0)
	}
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, ErrData
	}
	return v, nil
}

func (r reads) decodeSome(dec *jsontext.Decoder) (any, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, ErrData
	}
	o := newObject(len(r.names))
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, ErrData
		}
		if at := slices.Index(r.names, name.String()); at >= 0 {
			v, err := decodeValue(dec, 1)
			if err != nil {
				return nil, err
			}
			o.set(r.names[at], v)
		} else if _, err := dec.ReadValue(); err != nil {
			return nil, ErrData
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, ErrData
	}
	return o, nil
}

// object is a map that loops walk in the order its members came in. CEL walks a
// Go map in whatever order, and data.map(k, k)[0] would differ from run to run.
type object struct {
	traits.Mapper
	members map[string]any // what the Mapper holds
	keys    []ref.Val
}

func newObject(size int) *object {
	members := make(map[string]any, size)
	return &object{Mapper: types.NewStringInterfaceMap(types.DefaultTypeAdapter, members), members: members}
}

func (o *object) set(key string, v any) {
	o.members[key] = v
	o.keys = append(o.keys, types.String(key))
}

// Iterator walks the keys.
func (o *object) Iterator() traits.Iterator {
	return types.NewRefValList(types.DefaultTypeAdapter, o.keys).Iterator()
}

func decodeValue(dec *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: nested too deeply", ErrData)
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, ErrData
	}
	switch tok.Kind() {
	case 'n':
		return types.NullValue, nil
	case 't', 'f':
		return tok.Bool(), nil
	case '"':
		text := tok.String()
		if len(text) > MaxString {
			return nil, ErrCost
		}
		return text, nil
	case '0':
		return number(tok.String())
	case '[':
		return decodeArray(dec, depth)
	case '{':
		return decodeObject(dec, depth)
	}
	return nil, ErrData
}

func decodeArray(dec *jsontext.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.PeekKind() != ']' {
		v, err := decodeValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.ReadToken()
	return list, err
}

func decodeObject(dec *jsontext.Decoder, depth int) (any, error) {
	o := newObject(0)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, ErrData
		}
		key := name.String()
		v, err := decodeValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		o.set(key, v)
	}
	_, err := dec.ReadToken()
	return o, err
}

// number refuses what it would have to round away: CEL has no integer beyond
// int64, and as a double two different ids could be equal.
func number(text string) (any, error) {
	if !bytes.ContainsAny([]byte(text), ".eE") {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, ErrInteger
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, ErrNumber
	}
	return f, nil
}
