package demo

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sealpost/sealpost/relay"
)

// The events of an imaginary CRM, one a line. Everybody in them is made up; events_test.go made the file and holds it to that.
//
//go:embed events.ndjson
var eventsFile []byte

// Tenant is the CRM account whose events they are.
const Tenant = "acme"

// sensitive are the names of the fields whose values no partner may receive, wherever they stand.
var sensitive = map[string]bool{
	"email": true, "phone": true, "ssn": true, "date_of_birth": true, "street": true, "card_number": true, "iban": true,
	"body": true, "notes": true,
}

// event is one line of the file.
type event struct {
	relay.Event
	doc map[string]any // its data
}

// readEvents reads the file.
func readEvents(file []byte) ([]event, error) {
	var out []event
	for line := range bytes.Lines(file) {
		var in struct {
			ID      string          `json:"id"`
			Type    string          `json:"type"`
			Time    time.Time       `json:"time"`
			Subject string          `json:"subject"`
			Data    json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(line, &in); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(out)+1, err)
		}
		doc, err := object(in.Data)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(out)+1, err)
		}
		out = append(out, event{
			Event: relay.Event{Tenant: Tenant, ID: in.ID, Type: in.Type, Time: in.Time, Subject: in.Subject, Data: in.Data}, doc: doc,
		})
	}
	return out, nil
}

// object reads a JSON object, numbers as they are written. Nothing may follow it, and no name may come twice.
func object(text []byte) (map[string]any, error) {
	if !jsontext.Value(text).IsValid() {
		return nil, errors.New("not one JSON value without doubt")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var out map[string]any
	err := d.Decode(&out)
	return out, err
}

// secrets are all values of sensitive fields in the events.
func secrets(events []event) []string {
	found := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				if text, ok := inner.(string); ok && sensitive[name] {
					found[text] = true
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	for _, e := range events {
		walk(e.doc)
	}
	out := make([]string, 0, len(found))
	for text := range found {
		out = append(out, text)
	}
	return out
}
