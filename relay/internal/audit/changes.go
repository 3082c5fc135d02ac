package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// maxMember bounds one member of what changed, in bytes; a larger one is told by its digest.
const maxMember = 4 << 10

// Changes are the members in which two values differ, as JSON objects. Each is what encoding/json makes an object of, without secrets, or nil for
// what is not there. Members that are too large are told by their digests, so that a change of them shows all the same.
func Changes(before, after any) (was, now json.RawMessage) {
	old, fresh := members(before), members(after)
	for name, value := range fresh {
		if bytes.Equal(old[name], value) {
			delete(old, name)
			delete(fresh, name)
		}
	}
	return object(old), object(fresh)
}

func members(v any) map[string]json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return map[string]json.RawMessage{"unreadable": json.RawMessage("true")}
	}
	out := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &out); err != nil {
		return map[string]json.RawMessage{"value": digested(text)}
	}
	for name, value := range out {
		if len(value) > maxMember {
			out[name] = digested(value)
		}
	}
	return out
}

func digested(text []byte) json.RawMessage {
	sum := sha256.Sum256(text)
	out, err := json.Marshal(map[string]any{"bytes": len(text), "sha256": hex.EncodeToString(sum[:])})
	if err != nil {
		return json.RawMessage("null")
	}
	return out
}

func object(m map[string]json.RawMessage) json.RawMessage {
	if len(m) == 0 {
		return nil
	}
	out, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	if len(out) > maxChanges {
		return digested(out)
	}
	return out
}
