package signer

import (
	"errors"
	"strconv"
)

// The part of Structured Field Values (RFC 9651) that RFC 9421 and RFC 9530 use:
// dictionaries of inner lists and byte sequences, with parameters. Parsing is
// strict and bounded: what it accepts has one meaning and, by the serialisers
// below, one canonical text. Beyond the RFC's own rules it refuses duplicate
// dictionary keys and parameters, of which the RFC lets the last one win.

const (
	maxFieldBytes = 16 << 10
	maxMembers    = 8
	maxItems      = 32
	maxParams     = 16
	maxKeyBytes   = 64
)

var errField = errors.New("not a structured field of the allowed form")

type bareKind uint8

const (
	bareTrue bareKind = iota
	bareFalse
	bareInteger
	bareString
	bareToken
	bareBytes
)

type bareItem struct {
	kind bareKind
	num  int64
	text string // of bareString and bareToken; the bytes of bareBytes
}

type param struct {
	name  string
	value bareItem
}

type params []param

func (ps params) get(name string) (bareItem, bool) {
	for _, p := range ps {
		if p.name == name {
			return p.value, true
		}
	}
	return bareItem{}, false
}

// item is a bare item with its parameters.
type item struct {
	value  bareItem
	params params
}

// member is one entry of a dictionary: an inner list or an item.
type member struct {
	name   string
	isList bool
	list   []item
	item   bareItem
	params params
}

type fieldParser struct {
	s string
	i int
}

// parseDictionary reads a whole field value (RFC 9651 section 4.2.2).
func parseDictionary(s string) ([]member, error) {
	if len(s) > maxFieldBytes {
		return nil, errField
	}
	p := &fieldParser{s: s}
	p.spaces()
	var members []member
	for {
		m, err := p.member()
		if err != nil {
			return nil, err
		}
		for _, earlier := range members {
			if earlier.name == m.name {
				return nil, errField
			}
		}
		if members = append(members, m); len(members) > maxMembers {
			return nil, errField
		}
		p.optionalWhitespace()
		if p.i == len(p.s) {
			return members, nil
		}
		if !p.skip(',') {
			return nil, errField
		}
		p.optionalWhitespace()
	}
}

func (p *fieldParser) member() (member, error) {
	var m member
	var err error
	if m.name, err = p.key(); err != nil {
		return member{}, err
	}
	if !p.skip('=') {
		m.params, err = p.params()
		return m, err
	}
	if p.skip('(') {
		m.isList = true
		if m.list, err = p.innerList(); err != nil {
			return member{}, err
		}
	} else if m.item, err = p.bare(); err != nil {
		return member{}, err
	}
	m.params, err = p.params()
	return m, err
}

func (p *fieldParser) innerList() ([]item, error) {
	items := []item{}
	for {
		p.spaces()
		if p.skip(')') {
			return items, nil
		}
		if len(items) == maxItems {
			return nil, errField
		}
		if len(items) > 0 && p.s[p.i-1] != ' ' {
			return nil, errField
		}
		value, err := p.bare()
		if err != nil {
			return nil, err
		}
		ps, err := p.params()
		if err != nil {
			return nil, err
		}
		items = append(items, item{value, ps})
	}
}

func (p *fieldParser) params() (params, error) {
	var ps params
	for p.skip(';') {
		p.spaces()
		name, err := p.key()
		if err != nil {
			return nil, err
		}
		var value bareItem
		if p.skip('=') {
			if value, err = p.bare(); err != nil {
				return nil, err
			}
		}
		if _, twice := ps.get(name); twice || len(ps) == maxParams {
			return nil, errField
		}
		ps = append(ps, param{name, value})
	}
	return ps, nil
}

func (p *fieldParser) key() (string, error) {
	start := p.i
	for p.i < len(p.s) {
		c := p.s[p.i]
		first := 'a' <= c && c <= 'z' || c == '*'
		if !first && (p.i == start || !('0' <= c && c <= '9' || c == '_' || c == '-' || c == '.')) {
			break
		}
		p.i++
	}
	if p.i == start || p.i-start > maxKeyBytes {
		return "", errField
	}
	return p.s[start:p.i], nil
}

func (p *fieldParser) bare() (bareItem, error) {
	if p.i == len(p.s) {
		return bareItem{}, errField
	}
	switch c := p.s[p.i]; {
	case c == '"':
		return p.quoted()
	case c == ':':
		return p.bytes()
	case c == '?':
		return p.boolean()
	case c == '-' || '0' <= c && c <= '9':
		return p.integer()
	case c == '*' || letter(c):
		return p.token(), nil
	}
	return bareItem{}, errField
}

func (p *fieldParser) quoted() (bareItem, error) {
	p.i++
	var text []byte
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			return bareItem{kind: bareString, text: string(text)}, nil
		case c < ' ' || c > '~':
			return bareItem{}, errField
		case c == '\\':
			if p.i == len(p.s) || p.s[p.i] != '"' && p.s[p.i] != '\\' {
				return bareItem{}, errField
			}
			c = p.s[p.i]
			p.i++
		}
		text = append(text, c)
	}
	return bareItem{}, errField
}

func (p *fieldParser) bytes() (bareItem, error) {
	start := p.i + 1
	for end := start; end < len(p.s); end++ {
		if p.s[end] == ':' {
			raw, err := decode64(p.s[start:end])
			if err != nil {
				return bareItem{}, errField
			}
			p.i = end + 1
			return bareItem{kind: bareBytes, text: string(raw)}, nil
		}
	}
	return bareItem{}, errField
}

func (p *fieldParser) boolean() (bareItem, error) {
	if p.i+1 == len(p.s) {
		return bareItem{}, errField
	}
	c := p.s[p.i+1]
	p.i += 2
	switch c {
	case '1':
		return bareItem{kind: bareTrue}, nil
	case '0':
		return bareItem{kind: bareFalse}, nil
	}
	return bareItem{}, errField
}

// integer reads at most 15 digits (RFC 9651 section 4.2.4); a decimal is refused,
// since no parameter of RFC 9421 is one.
func (p *fieldParser) integer() (bareItem, error) {
	start := p.i
	if p.s[p.i] == '-' {
		p.i++
	}
	digits := p.i
	for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
		p.i++
	}
	if p.i == digits || p.i-digits > 15 || p.i < len(p.s) && p.s[p.i] == '.' {
		return bareItem{}, errField
	}
	n, err := strconv.ParseInt(p.s[start:p.i], 10, 64)
	if err != nil {
		return bareItem{}, errField
	}
	return bareItem{kind: bareInteger, num: n}, nil
}

func (p *fieldParser) token() bareItem {
	start := p.i
	for p.i < len(p.s) && (tokenChar(p.s[p.i]) || p.s[p.i] == ':' || p.s[p.i] == '/') {
		p.i++
	}
	return bareItem{kind: bareToken, text: p.s[start:p.i]}
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// tokenChar is tchar of RFC 9110 section 5.6.2.
func tokenChar(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return letter(c) || '0' <= c && c <= '9'
}

func (p *fieldParser) skip(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *fieldParser) spaces() {
	for p.i < len(p.s) && p.s[p.i] == ' ' {
		p.i++
	}
}

func (p *fieldParser) optionalWhitespace() {
	for p.i < len(p.s) && (p.s[p.i] == ' ' || p.s[p.i] == '\t') {
		p.i++
	}
}

func appendBare(dst []byte, b bareItem) []byte {
	switch b.kind {
	case bareTrue:
		return append(dst, "?1"...)
	case bareFalse:
		return append(dst, "?0"...)
	case bareInteger:
		return strconv.AppendInt(dst, b.num, 10)
	case bareToken:
		return append(dst, b.text...)
	case bareBytes:
		dst = append(dst, ':')
		dst = strict64.AppendEncode(dst, []byte(b.text))
		return append(dst, ':')
	}
	dst = append(dst, '"')
	for i := range len(b.text) {
		if b.text[i] == '"' || b.text[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, b.text[i])
	}
	return append(dst, '"')
}

func appendParams(dst []byte, ps params) []byte {
	for _, p := range ps {
		dst = append(dst, ';')
		dst = append(dst, p.name...)
		if p.value.kind != bareTrue {
			dst = append(dst, '=')
			dst = appendBare(dst, p.value)
		}
	}
	return dst
}

func appendItem(dst []byte, it item) []byte {
	return appendParams(appendBare(dst, it.value), it.params)
}

func appendInnerList(dst []byte, list []item, ps params) []byte {
	dst = append(dst, '(')
	for i, it := range list {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = appendItem(dst, it)
	}
	return appendParams(append(dst, ')'), ps)
}

func appendMember(dst []byte, m member) []byte {
	dst = append(dst, m.name...)
	if m.isList {
		return appendInnerList(append(dst, '='), m.list, m.params)
	}
	if m.item.kind == bareTrue {
		return appendParams(dst, m.params)
	}
	return appendParams(appendBare(append(dst, '='), m.item), m.params)
}
