package inject

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Scrub redacts the credential in the header or trailer of a response from downstream.
func (c *Credential) Scrub(header http.Header) {
	longest := 0
	for name, values := range header {
		longest = max(longest, len(name))
		for _, value := range values {
			longest = max(longest, len(value))
		}
	}
	for _, hidden := range c.redact {
		value := hidden.Reveal()
		if len(value) > longest { // no form of it fits
			continue
		}
		for _, form := range forms(value) {
			scrub(header, form)
		}
	}
}

// scrub replaces hidden in header values and removes headers whose name contains it.
func scrub(header http.Header, hidden string) {
	const shortest = 4 // anything shorter is not secret, and replacing it would garble values
	if len(hidden) < shortest {
		return
	}
	for name, values := range header {
		if len(name) >= len(hidden) && strings.Contains(strings.ToLower(name), strings.ToLower(hidden)) {
			delete(header, name)
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

// redactEncoded replaces hidden where it is percent-encoded. Any byte of a URL may be, with hex
// digits of either case (RFC 3986 section 2.1), and frameworks differ in which they encode.
func redactEncoded(value, hidden string) string {
	decoded, begins := percentDecoded(value)
	if !strings.Contains(decoded, hidden) {
		return value
	}
	var b strings.Builder
	from := 0 // index into decoded
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

// percentDecoded decodes all valid escapes in s. begins holds the index in s at which each
// decoded byte begins, and finally len(s).
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

// forms returns the forms that a value may have in a header. None is shorter than the value.
// The unpadded base64 form also matches the padded one.
func forms(value string) []string {
	b := []byte(value)
	all := []string{value}
	for _, form := range []string{
		url.QueryEscape(value), url.PathEscape(value), base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
	} {
		if !slices.Contains(all, form) {
			all = append(all, form)
		}
	}
	return all
}

// AfterBody arranges for f to be called once the body of resp has been read, when its trailers
// are complete. It leaves the body of a 101 response alone, which is a connection.
func AfterBody(resp *http.Response, f func()) {
	if resp.Body != nil && resp.StatusCode != http.StatusSwitchingProtocols && mayHaveTrailers(resp) {
		resp.Body = &observedBody{ReadCloser: resp.Body, ended: f}
	}
}

// mayHaveTrailers reports whether trailers can follow the body. In HTTP/1.1 the body must be
// chunked (RFC 9112 section 7.1.2), so its length is unknown.
func mayHaveTrailers(resp *http.Response) bool {
	return resp.ProtoMajor != 1 || resp.ContentLength < 0 || len(resp.Trailer) > 0
}

type observedBody struct {
	io.ReadCloser
	ended func()
}

// Read implements [io.Reader].
func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended()
	}
	return n, err
}
