package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// jsonMarshaler is protobuf's JSON for the gateway, with an event's data as the JSON value that it is, byte for byte in
// both directions.
type jsonMarshaler struct{}

var _ runtime.Marshaler = jsonMarshaler{}

// ContentType of every answer.
func (jsonMarshaler) ContentType(any) string { return "application/json" }

// Marshal writes a message, or the one-member object that the gateway makes for each item of a stream.
func (jsonMarshaler) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case proto.Message:
		return encodeJSON(v)
	case map[string]any:
		if msg, ok := v["result"].(proto.Message); ok && len(v) == 1 {
			return member("result", msg)
		}
	case map[string]proto.Message:
		if msg, ok := v["error"]; ok && len(v) == 1 {
			return member("error", msg)
		}
	}
	return nil, fmt.Errorf("cannot write a %T", v)
}

func member(name string, msg proto.Message) ([]byte, error) {
	inner, err := encodeJSON(msg)
	if err != nil {
		return nil, err
	}
	out := append([]byte(`{"`+name+`":`), inner...)
	return append(out, '}'), nil
}

// Unmarshal reads what a query parameter or a body of known bytes holds.
func (jsonMarshaler) Unmarshal(data []byte, v any) error {
	msg, err := target(v)
	if err != nil {
		return err
	}
	_, err = decodeJSON(data, msg)
	return err
}

// NewDecoder reads a request's body.
func (jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		msg, err := target(v)
		if err != nil {
			return err
		}
		b, ok := r.(*body)
		if !ok {
			return errors.New("the body is not bounded")
		}
		return b.decode(msg)
	})
}

// NewEncoder writes answers.
func (m jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		out, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(out)
		return err
	})
}

// target finds the message that v is or points to, and makes it where the pointer is nil.
func target(v any) (proto.Message, error) {
	if msg, ok := v.(proto.Message); ok {
		return msg, nil
	}
	p := reflect.ValueOf(v)
	if p.Kind() == reflect.Pointer && p.Elem().Kind() == reflect.Pointer {
		if p.Elem().IsNil() {
			p.Elem().Set(reflect.New(p.Elem().Type().Elem()))
		}
		if msg, ok := p.Elem().Interface().(proto.Message); ok {
			return msg, nil
		}
	}
	return nil, fmt.Errorf("cannot read into a %T", v)
}

// encodeJSON writes msg with every field that has a value or a default, and its raw fields as they are; one that is
// empty is null. The message is changed while it is written: it must be the caller's own.
func encodeJSON(msg proto.Message) ([]byte, error) {
	fields := rawFields(msg)
	raws := make([][]byte, len(fields))
	for i, at := range fields {
		raws[i], *at = *at, nil
	}
	out, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(msg)
	for i, at := range fields {
		*at = raws[i]
	}
	if err != nil || len(fields) == 0 {
		return out, err
	}
	return insert(out, raws), nil
}

// insert puts each raw value where protojson wrote the empty string for it. The bytes searched for begin with a quote
// that is not escaped and end outside of strings: no string's content can hold them.
func insert(out []byte, raws [][]byte) []byte {
	const key = `"data":`
	size := len(out)
	for _, raw := range raws {
		size += len(raw)
	}
	all := make([]byte, 0, size)
	for _, raw := range raws {
		at := bytes.Index(out, []byte(key))
		if at < 0 {
			break
		}
		at += len(key)
		all = append(all, out[:at]...)
		out = bytes.TrimPrefix(bytes.TrimLeft(out[at:], " "), []byte(`""`))
		if len(raw) == 0 {
			raw = []byte("null")
		}
		all = append(all, raw...)
	}
	return append(all, out...)
}
