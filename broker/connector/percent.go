package connector

import (
	"net/url"
	"strings"
)

// hasDotSegment reports whether a server may read a segment of the path as "." or "..": as
// written, after decoding it once or, as some servers do, twice, with backslashes as slashes,
// and with everything after a semicolon cut off.
func hasDotSegment(path string) bool {
	if !strings.ContainsAny(path, ".%") {
		return false
	}
	const rounds = 3
	for range rounds {
		for segment := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
			segment, _, _ = strings.Cut(segment, ";")
			if segment == "." || segment == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(path)
		if err != nil || decoded == path {
			return false
		}
		path = decoded
	}
	return false
}

const upperHex = "0123456789ABCDEF"

// encodeExcept percent-encodes the bytes of s that are not allowed.
func encodeExcept(s string, allowed *byteSet) string {
	i := 0
	for i < len(s) && allowed[s[i]] {
		i++
	}
	if i == len(s) {
		return s
	}
	var b strings.Builder
	b.WriteString(s[:i])
	for ; i < len(s); i++ {
		if c := s[i]; allowed[c] {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// Sets of bytes. pathBytes and queryBytes may stand unescaped in a path (RFC 3986 section
// 3.3) or a query (section 3.4); they include the percent sign and the brackets, which are
// left alone there in practice. plainPath is never escaped in a path (section 2.3).
var (
	pathBytes  = printableBut("\"<>\\^`{|}?#")
	queryBytes = printableBut("\"<>\\^`{|}#")
	plainPath  = only("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")
)

type byteSet [256]bool

func printableBut(excluded string) *byteSet {
	var set byteSet
	for c := ' ' + 1; c < 0x7f; c++ {
		set[c] = !strings.ContainsRune(excluded, c)
	}
	return &set
}

func only(included string) *byteSet {
	var set byteSet
	for _, c := range []byte(included) {
		set[c] = true
	}
	return &set
}
