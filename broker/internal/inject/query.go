package inject

import (
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// setQuery replaces a query parameter and leaves the others as they are, byte for byte.
func setQuery(u *url.URL, name, value string) {
	query := withoutParameter(u.RawQuery, name)
	if query != "" && !strings.HasSuffix(query, "&") {
		query += "&"
	}
	u.RawQuery = query + url.QueryEscape(name) + "=" + url.QueryEscape(value)
}

// withoutParameter removes a parameter from a query. On some servers a semicolon separates
// parameters, too, so a part that only they would read is also removed.
func withoutParameter(query, name string) string {
	if !hasParameter(query, name) {
		return query
	}
	var b strings.Builder
	kept, separator := false, byte(';') // before the next part; an ampersand if one of several is
	for rest, more := query, true; more; {
		part := rest
		end := strings.IndexAny(rest, "&;")
		if more = end >= 0; more {
			part, rest = rest[:end], rest[end+1:]
		}
		if !setsParameter(part, name) {
			if kept {
				b.WriteByte(separator)
			}
			b.WriteString(part)
			kept, separator = true, ';'
		}
		if more && query[len(query)-len(rest)-1] == '&' {
			separator = '&'
		}
	}
	return b.String()
}

func hasParameter(query, name string) bool {
	for part := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		if setsParameter(part, name) {
			return true
		}
	}
	return false
}

// setsParameter reports whether a server may read part as the parameter name.
func setsParameter(part, name string) bool {
	key, _, _ := strings.Cut(part, "=")
	if key == name {
		return true
	}
	if strings.IndexByte(key, '%') < 0 && strings.IndexByte(key, '+') < 0 {
		return false
	}
	if decoded, err := url.QueryUnescape(key); err == nil {
		return decoded == name
	}
	// Servers differ in how they decode what does not begin an encoded byte.
	return slices.Contains([]string{
		decodeLeniently(key, 0, false), decodeLeniently(key, 1, false), decodeLeniently(key, 3, false), decodeLeniently(key, 0, true),
	}, name)
}

// decodeLeniently decodes a name, but skips that many bytes of what does not begin an encoded
// byte. With unicode it also decodes %uXXXX, as Microsoft's servers do.
func decodeLeniently(s string, skipped int, unicode bool) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		switch {
		case s[i] == '+':
			b.WriteByte(' ')
			i++
		case s[i] != '%':
			b.WriteByte(s[i])
			i++
		case isEncoded(s[i+1:], 2):
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2])))
			i += 3
		case unicode && strings.HasPrefix(s[i+1:], "u") && isEncoded(s[i+2:], 4):
			r := rune(unhex(s[i+2])<<12 | unhex(s[i+3])<<8 | unhex(s[i+4])<<4 | unhex(s[i+5]))
			b.Write(utf8.AppendRune(nil, r))
			i += 6
		case skipped == 0:
			b.WriteByte('%')
			i++
		default:
			i = min(i+skipped, len(s))
		}
	}
	return b.String()
}

// isEncoded reports whether s begins with n hexadecimal digits.
func isEncoded(s string, n int) bool {
	if len(s) < n {
		return false
	}
	for i := range n {
		if unhex(s[i]) < 0 {
			return false
		}
	}
	return true
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }
