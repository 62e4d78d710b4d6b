package apideck

import (
	"bytes"
	"strconv"
	"unicode/utf16"
)

// hasLoneSurrogate reports whether valid JSON has an escape of half a character: \ud800 without
// a low surrogate behind it, or a low one alone. The decoder would replace it, and so store
// another text than was sent (RFC 8259 section 8.2).
func hasLoneSurrogate(body []byte) bool {
	for {
		i := bytes.IndexByte(body, '\\')
		if i < 0 {
			return false
		}
		body = body[i:]
		r, ok := escapedUnit(body)
		switch {
		case !ok:
			body = body[min(2, len(body)):] // another escape, perhaps of a backslash
		case !utf16.IsSurrogate(r):
			body = body[escapeLen:]
		default:
			low, _ := escapedUnit(body[escapeLen:])
			if utf16.DecodeRune(r, low) == '\uFFFD' {
				return true
			}
			body = body[2*escapeLen:]
		}
	}
}

// escapeLen is the length of \uXXXX.
const escapeLen = len(`\uXXXX`)

// escapedUnit returns the UTF-16 code unit that s begins with, as \uXXXX.
func escapedUnit(s []byte) (unit rune, ok bool) {
	if len(s) < escapeLen || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s[2:escapeLen]), 16, 16)
	return rune(n), err == nil
}
