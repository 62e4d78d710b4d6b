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

// shortest is the length of a secret, in bytes. Anything shorter is not secret, and replacing it
// would garble values.
const shortest = 4

// Scrub redacts the credential in the header or trailer of a response from downstream.
func (c *Credential) Scrub(header http.Header) {
	longest := 0
	for name, values := range header {
		longest = max(longest, len(name))
		for _, value := range values {
			longest = max(longest, len(value))
		}
	}
	if longest < c.least { // no form of any fits, as for most responses
		return
	}
	for _, hidden := range c.redact {
		if hidden.length > longest {
			continue
		}
		forms := hidden.forms()
		for _, form := range forms {
			scrub(header, form)
		}
		scrubEscaped(header, forms)
	}
}

// scrub replaces hidden in header values and removes headers whose name contains it.
func scrub(header http.Header, hidden string) {
	for name, values := range header {
		if len(name) >= len(hidden) && strings.Contains(strings.ToLower(name), strings.ToLower(hidden)) {
			delete(header, name)
			continue
		}
		for i, value := range values {
			if strings.Contains(value, hidden) {
				values[i] = strings.ReplaceAll(value, hidden, secret.Redacted)
			}
		}
	}
}

// scrubEscaped replaces the hidden texts in header values where they are escaped.
func scrubEscaped(header http.Header, hidden []string) {
	for _, values := range header {
		for i, value := range values {
			if len(value) >= len(hidden[0]) && strings.ContainsAny(value, escapes) {
				values[i] = redactEscaped(value, hidden)
			}
		}
	}
}

// A hidden value is redacted from responses.
type hidden struct {
	all    []secret.String // the forms that it may have in a header
	length int             // of the value, in bytes; none of its forms is shorter
}

func hide(value string) hidden {
	h := hidden{length: len(value)}
	for _, form := range forms(value) {
		h.all = append(h.all, secret.New(form))
	}
	return h
}

func (h *hidden) forms() []string {
	texts := make([]string, len(h.all))
	for i, form := range h.all {
		texts[i] = form.Reveal()
	}
	return texts
}

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
// are complete.
func AfterBody(resp *http.Response, f func()) {
	resp.Body = &observedBody{ReadCloser: resp.Body, ended: f}
}

// MayHaveTrailers reports whether trailers can follow the body. In HTTP/1.1 the body must be
// chunked (RFC 9112 section 7.1.2), so its length is unknown. The body of a 101 response is a
// connection.
func MayHaveTrailers(resp *http.Response) bool {
	return resp.Body != nil && resp.StatusCode != http.StatusSwitchingProtocols &&
		(resp.ProtoMajor != 1 || resp.ContentLength < 0 || len(resp.Trailer) > 0)
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
