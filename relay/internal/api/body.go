package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sealpost/sealpost/proto/sealpost/v1"
	"github.com/sealpost/sealpost/relay"
	"github.com/sealpost/sealpost/relay/internal/redact"
)

// maxViolations bounds what one answer lists.
const maxViolations = 16

// body is a REST request's body on its way to the gateway's decoder. The gateway reduces what a decoder says to a
// line of text; the error kept here is what the caller gets.
type body struct {
	io.ReadCloser
	limit    int64
	complete func()   // called when all was read
	fields   []string // paths that were present, in proto's names: the mask of an update that names none
	err      error
}

// all reads the whole body.
func (b *body) all() ([]byte, error) {
	raw, err := io.ReadAll(b.ReadCloser)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large), int64(len(raw)) > b.limit:
		return nil, tooLarge{what: "body", limit: b.limit}
	case err != nil:
		return nil, errBodyUnread
	}
	b.complete()
	return raw, nil
}

// decode reads the whole body into msg.
func (b *body) decode(msg proto.Message) error {
	raw, err := b.all()
	if err == nil {
		b.fields, err = decodeJSON(raw, msg)
	}
	b.err = err
	return err
}

// decodeJSON reads exactly one JSON object (RFC 8259) into msg, in protobuf's JSON mapping, and gives the paths of the
// fields that were present. An empty body is an empty object. Unknown fields, names that occur twice, invalid
// UTF-8 and trailing content are refused; the error is relay.Invalid. Fields that hold raw JSON (see rawFields)
// take their value's bytes as they stand.
func decodeJSON(raw []byte, msg proto.Message) ([]string, error) {
	if len(bytes.TrimLeft(raw, " \t\r\n")) == 0 {
		return nil, nil
	}
	w := walk{src: raw, dec: jsontext.NewDecoder(bytes.NewBuffer(raw))}
	if w.dec.PeekKind() != '{' && w.dec.PeekKind() != 0 {
		return nil, relay.Invalid{{Field: "body", Rule: "must be a JSON object"}}
	}
	if err := w.object(msg.ProtoReflect().Descriptor(), ""); err != nil {
		return nil, malformed(msg.ProtoReflect().Descriptor(), raw, err)
	}
	if rest := bytes.TrimLeft(raw[w.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, relay.Invalid{{Field: "body", Rule: fmt.Sprintf("must be one JSON value; there is more at byte %d", len(raw)-len(rest))}}
	}
	if err := w.bad.Err(); err != nil {
		return nil, err
	}
	w.out.Write(raw[w.copied:])
	if err := protojson.Unmarshal(w.out.Bytes(), msg); err != nil {
		return nil, w.violation(err)
	}
	return w.fields, w.restore(msg)
}

// walk goes through a body once beside the schema of the message that it is to become: it finds what the
// schema does not have, and takes out the raw values, for which it leaves their number.
type walk struct {
	src    []byte
	dec    *jsontext.Decoder
	out    bytes.Buffer // src with the raw values replaced
	copied int64        // of src, to out
	raws   [][]byte
	marks  []mark
	fields []string
	bad    relay.Invalid
}

// mark is where in out a field's value begins.
type mark struct {
	at    int64
	path  string
	field protoreflect.FieldDescriptor
}

// maxBodyDepth bounds the objects of a body around its raw values; the schema ends long before, but for what is skipped.
const maxBodyDepth = redact.MaxDepth

func (w *walk) object(schema protoreflect.MessageDescriptor, path string) error {
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	for w.dec.PeekKind() != '}' {
		name, err := w.dec.ReadToken()
		if err != nil {
			return err
		}
		text := name.String()
		field := schema.Fields().ByJSONName(text)
		if field == nil {
			field = schema.Fields().ByTextName(text)
		}
		if field == nil {
			w.unknown(schema, path, text)
			if err := w.skip(); err != nil {
				return err
			}
			continue
		}
		if err := w.field(field, join(path, field.JSONName())); err != nil {
			return err
		}
	}
	_, err := w.dec.ReadToken()
	return err
}

func (w *walk) field(field protoreflect.FieldDescriptor, path string) error {
	w.marks = append(w.marks, mark{at: int64(w.out.Len()) + w.dec.InputOffset() - w.copied, path: path, field: field})
	kind := w.dec.PeekKind()
	switch {
	case isRaw(field):
		return w.lift()
	case field.Message() == nil || wellKnown(field.Message()):
		w.present(path)
		return w.skip()
	case field.IsList() && kind == '[':
		return w.list(field, path)
	case !field.IsList() && kind == '{':
		before := len(w.fields)
		if err := w.object(field.Message(), path); err != nil {
			return err
		}
		if len(w.fields) == before {
			w.present(path)
		}
		return nil
	}
	w.present(path) // null, or the wrong kind: the decoder says so
	return w.skip()
}

func (w *walk) list(field protoreflect.FieldDescriptor, path string) error {
	kept := len(w.fields)
	if _, err := w.dec.ReadToken(); err != nil {
		return err
	}
	for i := 0; w.dec.PeekKind() != ']'; i++ {
		item := path + "[" + strconv.Itoa(i) + "]"
		w.marks = append(w.marks, mark{at: int64(w.out.Len()) + w.dec.InputOffset() - w.copied, path: item, field: field})
		var err error
		if w.dec.PeekKind() == '{' {
			err = w.object(field.Message(), item)
		} else {
			err = w.skip()
		}
		if err != nil {
			return err
		}
	}
	w.fields = w.fields[:kept] // a list is set as a whole
	w.present(path)
	_, err := w.dec.ReadToken()
	return err
}

// skip passes over a value; what is nested deeper than any field is, is refused.
func (w *walk) skip() error {
	if k := w.dec.PeekKind(); k != '{' && k != '[' {
		return w.dec.SkipValue()
	}
	base := w.dec.StackDepth()
	for {
		if _, err := w.dec.ReadToken(); err != nil {
			return err
		}
		if depth := w.dec.StackDepth(); depth > maxBodyDepth {
			return redact.ErrTooDeep
		} else if depth <= base {
			return nil
		}
	}
}

// lift takes a raw value out of the body and leaves its number, as the bytes of a bytes field.
func (w *walk) lift() error {
	value, err := w.dec.ReadValue()
	if err != nil {
		return err
	}
	end := w.dec.InputOffset()
	start := end - int64(len(value))
	w.out.Write(w.src[w.copied:start])
	w.out.WriteByte('"')
	w.out.WriteString(base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, int64(len(w.raws)), 10)))
	w.out.WriteByte('"')
	w.copied = end
	w.raws = append(w.raws, w.src[start:end:end])
	return nil
}

// restore puts the raw values where their numbers stand.
func (w *walk) restore(msg proto.Message) error {
	for _, at := range rawFields(msg) {
		if len(*at) == 0 {
			continue
		}
		n, err := strconv.Atoi(string(*at))
		if err != nil || n < 0 || n >= len(w.raws) {
			return errors.New("a raw value lost its place")
		}
		*at = w.raws[n]
	}
	return nil
}

// present notes a field for the mask of an update. Only updates use it, and their lists are set as a whole.
func (w *walk) present(path string) { w.fields = append(w.fields, path) }

func (w *walk) unknown(schema protoreflect.MessageDescriptor, path, name string) {
	if len(w.bad) >= maxViolations {
		return
	}
	rule := "is not a field here"
	if near := nearest(schema, name); near != "" {
		rule += "; the nearest is " + near
	}
	w.bad.Add(join(path, shown(name)), "%s", rule)
}

// violation turns what protojson says into the field and its rule. protojson names the place by line and column; its
// own words quote the value, so they are not passed on.
func (w *walk) violation(err error) error {
	at, ok := position(err.Error(), w.out.Bytes())
	if !ok {
		return relay.Invalid{{Field: "body", Rule: "does not have the form that the API documents"}}
	}
	found := mark{path: "body"}
	for _, m := range w.marks {
		if m.at > at {
			break
		}
		found = m
	}
	if found.field == nil {
		return relay.Invalid{{Field: "body", Rule: "does not have the form that the API documents"}}
	}
	return relay.Invalid{{Field: found.path, Rule: form(found.field)}}
}

var positionPattern = regexp.MustCompile(`\(line (\d+):(\d+)\)`)

// position finds the byte that protojson's "(line 1:15)" means; its columns count characters.
func position(text string, in []byte) (int64, bool) {
	m := positionPattern.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	at := 0
	for ; line > 1; line-- {
		n := bytes.IndexByte(in[at:], '\n')
		if n < 0 {
			return 0, false
		}
		at += n + 1
	}
	for ; column > 1 && at < len(in); column-- {
		_, size := utf8.DecodeRune(in[at:])
		at += size
	}
	return int64(at), true
}

// form says what a field's value must look like.
func form(field protoreflect.FieldDescriptor) string {
	if field.ContainingOneof() != nil && !field.HasOptionalKeyword() {
		return "must stand alone among its alternatives"
	}
	one := scalarForm(field)
	if field.IsList() {
		return "must be an array, each item of which " + one
	}
	return one
}

func scalarForm(field protoreflect.FieldDescriptor) string {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return "must be true or false"
	case protoreflect.StringKind:
		return "must be a string"
	case protoreflect.BytesKind:
		return "must be base64"
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return "must be a number"
	case protoreflect.EnumKind:
		return "must be one of " + enumNames(field.Enum())
	case protoreflect.MessageKind:
		switch field.Message().FullName() {
		case "google.protobuf.Timestamp":
			return "must be a time as in RFC 3339, such as 2026-01-02T03:04:05Z"
		case "google.protobuf.Duration":
			return `must be a duration in seconds, such as "15s"`
		case "google.protobuf.FieldMask":
			return "must be field names, joined by commas"
		}
		return "must be an object"
	}
	return "must be a whole number of 32 or 64 bits"
}

// enumNames lists the values, but for the first one, which stands for none.
func enumNames(enum protoreflect.EnumDescriptor) string {
	values := enum.Values()
	names := make([]string, 0, values.Len())
	for i := 1; i < values.Len(); i++ {
		names = append(names, string(values.Get(i).Name()))
	}
	return strings.Join(names, ", ")
}

// malformed describes a body that is not JSON as it must be: the field of schema that the fault is in, the rule and the
// byte of the body. Names beyond the schema are content and are not repeated.
func malformed(schema protoreflect.MessageDescriptor, raw []byte, err error) error {
	if errors.Is(err, redact.ErrTooDeep) {
		return relay.Invalid{{Field: "body", Rule: redact.ErrTooDeep.Error()}}
	}
	var doc *redact.DocumentError
	if !errors.As(err, &doc) && !errors.As(redact.Validate(raw), &doc) {
		return relay.Invalid{{Field: "body", Rule: "is not valid JSON (RFC 8259)"}}
	}
	return relay.Invalid{{Field: fieldAt(schema, doc.Pointer), Rule: fmt.Sprintf("%v at byte %d of the body", doc.Rule, doc.Offset)}}
}

// fieldAt is the innermost field of schema that a pointer leads through; "body" where there is none.
func fieldAt(schema protoreflect.MessageDescriptor, pointer jsontext.Pointer) string {
	path, list := "", false
	for token := range pointer.Tokens() {
		if list {
			path, list = path+"["+token+"]", false
			continue
		}
		var field protoreflect.FieldDescriptor
		if schema != nil {
			field = schema.Fields().ByJSONName(token)
		}
		if field == nil {
			break
		}
		path, list, schema = join(path, field.JSONName()), field.IsList(), nil
		if field.Message() != nil && !wellKnown(field.Message()) {
			schema = field.Message()
		}
	}
	if path == "" {
		return "body"
	}
	return path
}

func wellKnown(m protoreflect.MessageDescriptor) bool {
	return m.FullName().Parent() == "google.protobuf"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// shown is a name from outside as an error may show it.
func shown(name string) string {
	const most = 64
	cut := len(name) > most
	if cut {
		name = strings.ToValidUTF8(name[:most], "")
	}
	name = strings.Trim(strconv.QuoteToASCII(name), `"`)
	if cut {
		name += "..."
	}
	return name
}

// nearest is the field whose name is at most two edits away.
func nearest(schema protoreflect.MessageDescriptor, name string) string {
	if len(name) > 64 {
		return ""
	}
	best, found := 3, ""
	fields := schema.Fields()
	for i := range fields.Len() {
		candidate := fields.Get(i).JSONName()
		if d := edits(strings.ToLower(name), strings.ToLower(candidate)); d < best && d < len(candidate) {
			best, found = d, candidate
		}
	}
	return found
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// isRaw tells whether a bytes field holds one JSON value, which over REST is the value itself.
func isRaw(field protoreflect.FieldDescriptor) bool {
	switch field.FullName() {
	case "sealpost.v1.Event.data", "sealpost.v1.EndpointPreview.data":
		return true
	}
	return false
}

// rawFields are the fields of msg that isRaw means, in the order in which protojson writes them.
func rawFields(msg proto.Message) []*[]byte {
	switch m := msg.(type) {
	case *sealpostv1.Event:
		return []*[]byte{&m.Data}
	case *sealpostv1.BatchPublishEventsRequest:
		all := make([]*[]byte, 0, len(m.GetEvents()))
		for _, e := range m.GetEvents() {
			if e != nil {
				all = append(all, &e.Data)
			}
		}
		return all
	case *sealpostv1.PublishEventResponse:
		all := make([]*[]byte, 0, len(m.GetPreview().GetEndpoints()))
		for _, e := range m.GetPreview().GetEndpoints() {
			all = append(all, &e.Data)
		}
		return all
	}
	return nil
}
