package redact

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a policy's paths.
const (
	MaxPaths     = 256 // paths of one policy, all fields together
	MaxPathBytes = 256 // bytes of one path as written
	MaxSegments  = 32  // segments of one path; [n] and ** count
)

// subjectPath names the event's subject, which stands beside the data.
const subjectPath = "$subject"

type segmentKind uint8

const (
	segName  segmentKind = iota // one object member, by decoded key
	segAny                      // *: any member, any array element
	segElem                     // [*]: any array element
	segIndex                    // [n]: one array element, counted in the document as it came in
	segDeep                     // **: any number of members and elements, none too
)

type segment struct {
	kind  segmentKind
	name  string
	index int
}

// pathError is what is wrong with a path, and at which byte (from 1).
type pathError struct {
	column int
	rule   string
}

// parsePath reads one path relative to the data. The grammar:
//
//	path    = step *( "." name-step / index )
//	step    = name-step / index
//	name-step = bare / quoted / "*" / "**"
//	index   = "[*]" / "[" decimal "]"
//
// A quoted name is a JSON string; a bare one holds no . [ ] " * \, no space and
// no control character, and does not start with $.
func parsePath(s string) ([]segment, *pathError) {
	switch {
	case s == "":
		return nil, &pathError{1, "is empty"}
	case len(s) > MaxPathBytes:
		return nil, &pathError{MaxPathBytes + 1, fmt.Sprintf("is longer than %d bytes", MaxPathBytes)}
	case !utf8.ValidString(s):
		return nil, &pathError{1, "is not valid UTF-8"}
	}
	var segs []segment
	for at := 0; at < len(s); {
		seg, n, bad := parseStep(s, at, len(segs) == 0)
		if bad != nil {
			return nil, bad
		}
		if len(segs) == MaxSegments {
			return nil, &pathError{at + 1, fmt.Sprintf("has more than %d segments", MaxSegments)}
		}
		at += n
		// ** after ** adds nothing but states.
		if seg.kind != segDeep || len(segs) == 0 || segs[len(segs)-1].kind != segDeep {
			segs = append(segs, seg)
		}
	}
	return segs, nil
}

// parseStep reads the step at byte `at`, with the dot before it.
func parseStep(s string, at int, first bool) (segment, int, *pathError) {
	if s[at] == '[' {
		return parseIndex(s, at)
	}
	start := at
	if !first {
		if s[at] != '.' {
			return segment{}, 0, &pathError{at + 1, "needs a dot or an index here"}
		}
		at++
	}
	if at == len(s) {
		return segment{}, 0, &pathError{at + 1, "ends in a dot"}
	}
	seg, n, bad := parseName(s, at)
	return seg, at - start + n, bad
}

func parseName(s string, at int) (segment, int, *pathError) {
	rest := s[at:]
	switch rest[0] {
	case '"':
		return parseQuoted(s, at)
	case '$':
		return segment{}, 0, &pathError{at + 1, "a name that starts with $ must be quoted"}
	case '*':
		seg, n := segment{kind: segAny}, 1
		if strings.HasPrefix(rest, "**") {
			seg, n = segment{kind: segDeep}, 2
		}
		if n < len(rest) && rest[n] != '.' && rest[n] != '[' {
			return segment{}, 0, &pathError{at + n + 1, "a wildcard stands for whole segments; quote a name that holds *"}
		}
		return seg, n, nil
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`.[]"*\`, r) })
	if end < 0 {
		end = len(rest)
	}
	if end == 0 {
		return segment{}, 0, &pathError{at + 1, "needs a name here"}
	}
	if end < len(rest) && rest[end] != '.' && rest[end] != '[' {
		return segment{}, 0, &pathError{at + end + 1, "this character must stand in a quoted name"}
	}
	return segment{kind: segName, name: rest[:end]}, end, nil
}

func parseQuoted(s string, at int) (segment, int, *pathError) {
	rest := s[at:]
	end := 1
	for end < len(rest) && rest[end] != '"' {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(rest) {
		return segment{}, 0, &pathError{at + 1, "the quoted name is not closed"}
	}
	name, err := jsontext.AppendUnquote(nil, rest[:end+1])
	if err != nil {
		return segment{}, 0, &pathError{at + 1, "the quoted name is not a JSON string"}
	}
	return segment{kind: segName, name: string(name)}, end + 1, nil
}

func parseIndex(s string, at int) (segment, int, *pathError) {
	inner, _, closed := strings.Cut(s[at+1:], "]")
	if !closed {
		return segment{}, 0, &pathError{at + 1, "the index is not closed"}
	}
	if inner == "*" {
		return segment{kind: segElem}, 3, nil
	}
	n, err := strconv.ParseUint(inner, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != inner {
		return segment{}, 0, &pathError{at + 2, "an index is * or a number from 0, without leading zeros"}
	}
	return segment{kind: segIndex, index: int(n)}, len(inner) + 2, nil
}
