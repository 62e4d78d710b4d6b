package inject

import (
	"html"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// escapes are the bytes that begin an escape: of URLs (%2F), of JSON and JavaScript (\/, \u002f,
// \x2f), of HTML and XML (&#47;).
const escapes = `%\&`

// maxEscaping is how many layers of escapes are taken off: a URL in JSON in a URL.
const maxEscaping = 4

// maxFound is how often a value is searched again. It ends the search for a secret that is part
// of the mark which replaces it.
const maxFound = 32

// redactEscaped replaces hidden texts where they are escaped. Encoders differ in what they
// escape, and any byte can be.
func redactEscaped(value string, hidden []string) string {
	text, found := unescaped{text: value}, 0
	for layer := 0; layer < maxEscaping; layer++ {
		next := text.unescape()
		if len(next.text) == len(text.text) { // escapes are longer than what they stand for
			break
		}
		text = next
		for _, h := range hidden {
			if found < maxFound && strings.Contains(text.text, h) {
				value = text.redact(value, h)
				text, layer = unescaped{text: value}, -1 // again, since positions have changed
				found++
				break
			}
		}
	}
	return value
}

// An unescaped text knows where in the original each of its bytes comes from.
type unescaped struct {
	text   string
	begins []int // for each byte, and for the end; nil: the text is the original
}

func (u *unescaped) begin(i int) int {
	if u.begins == nil {
		return i
	}
	return u.begins[i]
}

// redact replaces what hidden comes from in the original.
func (u *unescaped) redact(original, hidden string) string {
	var b strings.Builder
	from := 0 // index into text
	for {
		i := strings.Index(u.text[from:], hidden)
		if i < 0 {
			b.WriteString(original[u.begin(from):])
			return b.String()
		}
		b.WriteString(original[u.begin(from):u.begin(from+i)] + secret.Redacted)
		from += i + len(hidden)
	}
}

// unescape decodes all valid escapes, once.
func (u *unescaped) unescape() unescaped {
	s := u.text
	b, from := make([]byte, 0, len(s)), make([]int, 0, len(s)+1)
	for i := 0; i < len(s); {
		decoded, length := s[i:i+1], 1
		if strings.IndexByte(escapes, s[i]) >= 0 {
			if d, n := decodeEscape(s[i:]); n > 0 {
				decoded, length = d, n
			}
		}
		for range len(decoded) {
			from = append(from, u.begin(i))
		}
		b = append(b, decoded...)
		i += length
	}
	return unescaped{string(b), append(from, u.begin(len(s)))}
}

// decodeEscape decodes the escape at the beginning of s and returns its length, 0 if there is
// none.
func decodeEscape(s string) (decoded string, length int) {
	switch s[0] {
	case '%':
		return decodeHex(s, 1, 2)
	case '&':
		const longest = len("&CounterClockwiseContourIntegral;")
		if end := strings.IndexByte(s[:min(len(s), longest)], ';'); end > 0 {
			if decoded = html.UnescapeString(s[:end+1]); decoded != s[:end+1] {
				return decoded, end + 1
			}
		}
		return "", 0
	}
	if len(s) < 2 {
		return "", 0
	}
	switch s[1] {
	case 'u', 'U':
		return decodeHex(s, 2, 4)
	case 'x':
		return decodeHex(s, 2, 2)
	case '/', '\\', '"', '\'':
		return s[1:2], 2
	default:
		return "", 0
	}
}

// decodeHex decodes digits at from: two are a byte, four a code point.
func decodeHex(s string, from, digits int) (decoded string, length int) {
	if len(s) < from+digits {
		return "", 0
	}
	n, err := strconv.ParseUint(s[from:from+digits], 16, 32)
	if err != nil {
		return "", 0
	}
	if digits == 2 {
		return string([]byte{byte(n)}), from + digits
	}
	return string(utf8.AppendRune(nil, rune(n))), from + digits
}
