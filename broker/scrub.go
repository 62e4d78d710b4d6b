package broker

import (
	"net/http"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// scrub replaces secret wherever it stands in header values, and removes headers that
// have it in their name.
func scrub(header http.Header, hidden string) {
	const shortest = 4 // below that it is no secret, and replacing it would garble
	if len(hidden) < shortest {
		return
	}
	for name, values := range header {
		if len(name) >= len(hidden) && strings.Contains(strings.ToLower(name), strings.ToLower(hidden)) {
			delete(header, name) // names are read without regard to case
			continue
		}
		for i, value := range values {
			if strings.Contains(value, hidden) {
				value = strings.ReplaceAll(value, hidden, secret.Redacted)
				values[i] = value
			}
			if strings.Contains(value, "%") {
				values[i] = redactEncoded(value, hidden)
			}
		}
	}
}

// redactEncoded replaces secret where it stands percent-encoded: in a URL any byte may
// be, with digits of either case (RFC 3986 section 2.1), as an http.Redirect or a
// framework of another language writes it.
func redactEncoded(value, hidden string) string {
	decoded, begins := percentDecoded(value)
	if !strings.Contains(decoded, hidden) {
		return value
	}
	var b strings.Builder
	from := 0 // in decoded
	for {
		i := strings.Index(decoded[from:], hidden)
		if i < 0 {
			b.WriteString(value[begins[from]:])
			return b.String()
		}
		b.WriteString(value[begins[from]:begins[from+i]] + secret.Redacted)
		from += i + len(hidden)
	}
}

// percentDecoded decodes what can be, and says where in s each byte of it begins; the
// last entry is the end of s.
func percentDecoded(s string) (decoded string, begins []int) {
	b := make([]byte, 0, len(s))
	begins = make([]int, 0, len(s)+1)
	for i := 0; i < len(s); i++ {
		begins = append(begins, i)
		if s[i] == '%' && i+2 < len(s) {
			if high, low := unhex(s[i+1]), unhex(s[i+2]); high >= 0 && low >= 0 {
				b = append(b, byte(high<<4|low))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b), append(begins, len(s))
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }
