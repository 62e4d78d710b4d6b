package apideck

import (
	"bytes"
	"encoding/json"
)

// A cursor reads values from valid JSON, one behind the other. [json.Decoder] would check each
// value again, and make an error for the end of each.
type cursor []byte

// next returns the first byte that is no white space and no separator, 0 at the end.
func (c *cursor) next() byte {
	*c = bytes.TrimLeft(*c, " \t\r\n,:")
	if len(*c) == 0 {
		return 0
	}
	return (*c)[0]
}

// value returns the value that begins at the next byte, which must not be the end of an object or
// list.
func (c *cursor) value() json.RawMessage {
	c.next()
	all, depth, i := *c, 0, 0
	for i < len(all) {
		switch all[i] {
		case '"':
			i += stringLen(all[i:])
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			n := bytes.IndexAny(all[i:], `"{[]}, `+"\t\r\n:")
			if n < 0 {
				n = len(all) - i
			}
			i += max(n, 1) // a separator inside an object or list
		}
		if depth == 0 {
			break
		}
	}
	*c = all[i:]
	return json.RawMessage(all[:i:i])
}

// stringLen returns the length of the string that s begins with, with its quotes.
func stringLen(s []byte) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// unquote returns the text of a string in valid JSON without lone surrogates.
func unquote(raw json.RawMessage) (s string, err error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	err = json.Unmarshal(raw, &s)
	return s, err
}
