package webhook

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The signature covers the body as it is sent. Some receivers hash the bytes they received;
// others parse them, sort the keys of every object (some of them also inside arrays), and
// hash the output of JSON.stringify. So that both get the same hash, the body is sent in the
// form that the second kind computes.
//
// That form is RFC 8785 (JCS) with two differences, which come from ECMAScript objects:
//   - Keys that are array indices ("7", "10") come first, in numeric order: objects list
//     them so, whatever order they were added in.
//   - Members named "__proto__" are left out: assigning to one sets the prototype, so the
//     sorted copy has no such member.
//
// ECMAScript numbers are float64s: integers beyond 2^53 are rounded, and numbers out of range
// become null.

// appendCanonical appends the canonical form of a JSON value as encoding/json
// decodes it, with or without UseNumber.
func appendCanonical(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v), nil
	case float64:
		return appendNumber(b, v), nil
	case json.Number:
		// A number out of range parses as an infinity, as in ECMAScript.
		f, err := strconv.ParseFloat(v.String(), 64)
		if err != nil && !math.IsInf(f, 0) {
			return nil, fmt.Errorf("%q is not a JSON number", v.String())
		}
		return appendNumber(b, f), nil
	case []any:
		return appendArray(b, v)
	case map[string]any:
		return appendObject(b, v)
	default:
		return appendOther(b, v)
	}
}

// appendOther encodes and decodes a value of a type that encoding/json does not decode to.
func appendOther(b []byte, v any) ([]byte, error) {
	encoded, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(encoded))
	dec.UseNumber()
	var decoded any
	if err := dec.Decode(&decoded); err != nil {
		return nil, err
	}
	return appendCanonical(b, decoded)
}

func appendArray(b []byte, a []any) ([]byte, error) {
	b = append(b, '[')
	for i, v := range a {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendCanonical(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendObject(b []byte, o map[string]any) ([]byte, error) {
	b = append(b, '{')
	first := true
	for _, key := range slices.SortedFunc(maps.Keys(o), compareKeys) {
		if key == "__proto__" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendString(b, key), ':')
		var err error
		if b, err = appendCanonical(b, o[key]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// compareKeys orders keys as an ECMAScript object with sorted keys lists them: array indices
// by number, then the others by UTF-16 code units.
func compareKeys(a, b string) int {
	i, aIsIndex := arrayIndex(a)
	j, bIsIndex := arrayIndex(b)
	switch {
	case aIsIndex && bIsIndex:
		return cmp.Compare(i, j)
	case aIsIndex:
		return -1
	case bIsIndex:
		return 1
	default:
		return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
	}
}

// arrayIndex reports whether s is an array index, 0 to 2^32-2 in its canonical form
// (ECMA-262 section 6.1.7).
func arrayIndex(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return n, err == nil && n != math.MaxUint32 && strconv.FormatUint(n, 10) == s
}

// appendNumber appends the result of Number::toString (ECMA-262 section 6.1.6.1.20).
func appendNumber(b []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 0) || math.IsNaN(f):
		return append(b, "null"...)
	case f == 0:
		return append(b, '0') // -0 too
	}
	// encoding/json writes the same digits and exponents.
	encoded, err := json.Marshal(f)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, encoded...)
}

// appendString appends the result of QuoteJSONString (ECMA-262 section 25.5.2.3).
// encoding/json escapes more characters, such as U+2028. Invalid UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\b':
			b = append(b, '\\', 'b')
		case c == '\f':
			b = append(b, '\\', 'f')
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
