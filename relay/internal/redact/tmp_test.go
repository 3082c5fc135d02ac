package redact

import (
	"bytes"
	"fmt"
	"github.com/go-json-experiment/json/jsontext"
	"testing"
)

func doc(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"id":"x","contacts":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"first_name":"Ann","last_name":"Lee %d","email":"ann.lee%d@example.com","phone":"+49 30 1234%d","address":{"street":"Hauptstr. %d","city":"Berlin","zip":"10115"},"score":0.10,"vip":true,"tags":["a","b"]}`, i, i, i, i, i)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}
func BenchmarkWhole(b *testing.B) {
	d := doc(256 << 10)
	b.SetBytes(int64(len(d)))
	b.ReportAllocs()
	var buf bytes.Buffer
	_ = buf
	dec := jsontext.NewDecoder(&buf)
	for b.Loop() {
		bb := bytes.NewBuffer(d)
		dec.Reset(bb)
		_, err := dec.ReadValue()
		if err != nil {
			b.Fatal(err)
		}
	}
}
func BenchmarkSkip(b *testing.B) {
	d := doc(256 << 10)
	b.SetBytes(int64(len(d)))
	b.ReportAllocs()
	var buf bytes.Buffer
	_ = buf
	dec := jsontext.NewDecoder(&buf)
	for b.Loop() {
		bb := bytes.NewBuffer(d)
		dec.Reset(bb)
		err := dec.SkipValue()
		if err != nil {
			b.Fatal(err)
		}
	}
}
func BenchmarkTok(b *testing.B) {
	d := doc(256 << 10)
	b.SetBytes(int64(len(d)))
	b.ReportAllocs()
	var buf bytes.Buffer
	_ = buf
	dec := jsontext.NewDecoder(&buf)
	for b.Loop() {
		bb := bytes.NewBuffer(d)
		dec.Reset(bb)
		for {
			_, err := dec.ReadToken()
			if err != nil {
				break
			}
		}
	}
}
func BenchmarkTokV(b *testing.B) {
	d := doc(256 << 10)
	b.SetBytes(int64(len(d)))
	b.ReportAllocs()
	var buf bytes.Buffer
	_ = buf
	dec := jsontext.NewDecoder(&buf)
	for b.Loop() {
		bb := bytes.NewBuffer(d)
		dec.Reset(bb)
		for {
			k := dec.PeekKind()
			var err error
			switch k {
			case '{', '}', '[', ']':
				_, err = dec.ReadToken()
			default:
				_, err = dec.ReadValue()
			}
			if err != nil {
				break
			}
		}
	}
}
