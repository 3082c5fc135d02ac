package api

import (
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
)

const mediaCSV = "text/csv"

// csvMarshaler writes the inventory as CSV (RFC 4180) for who accepts nothing else, and all other answers as JSON.
type csvMarshaler struct{ jsonMarshaler }

var _ runtime.Marshaler = csvMarshaler{}

// ContentType of an answer.
func (m csvMarshaler) ContentType(v any) string {
	if _, ok := v.(*sealpostv1.ListInventoryResponse); ok {
		return mediaCSV + "; charset=utf-8; header=present"
	}
	return m.jsonMarshaler.ContentType(v)
}

// Marshal writes an answer. The token of the next page has no place in CSV: who wants all asks for pages of 1,000, or for JSON.
func (m csvMarshaler) Marshal(v any) ([]byte, error) {
	if page, ok := v.(*sealpostv1.ListInventoryResponse); ok {
		return sealpostv1.InventoryCSV(page.GetEntries())
	}
	return m.jsonMarshaler.Marshal(v)
}

// NewEncoder writes answers.
func (m csvMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		out, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(out)
		return err
	})
}
