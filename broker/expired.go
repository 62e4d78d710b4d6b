package broker

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// maxExpiredBody bounds the bodies that are searched for a connector's expired_body, in bytes:
// both what downstream sends and what that becomes when it is decompressed.
const maxExpiredBody = 64 << 10

// Expired reports whether the response that [Authorization.HandleResponse] has handled means
// that the access token has expired: a 401, or what the connector says besides.
func (a *Authorization) Expired() bool { return a.expired }

// saysExpired reads the response, and its body if that can matter.
func (a *Authorization) saysExpired(resp *http.Response) bool {
	def := &a.conn.Definition
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return true
	case a.callerSupplied || def.AuthType != connector.OAuth2:
		return false
	case def.IsExpiredStatus(resp.StatusCode):
		return true
	case !def.MayHaveExpiredBody(resp.StatusCode) || resp.ContentLength < 0 || resp.ContentLength > maxExpiredBody:
		return false
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body = &readBody{Reader: io.MultiReader(bytes.NewReader(body), failingReader{err}), Closer: resp.Body}
	return def.IsExpiredBody(resp.StatusCode, withoutGzip(body))
}

// A readBody is a response body of which the beginning was read before.
type readBody struct {
	io.Reader
	io.Closer
}

// A failingReader returns the error that a body ended with; nil: its end.
type failingReader struct{ err error }

// Read implements [io.Reader].
func (r failingReader) Read([]byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return 0, io.EOF
}

// withoutGzip returns the beginning of a body that is compressed with gzip, and other bodies
// as they are.
func withoutGzip(body []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return body
	}
	plain, _ := io.ReadAll(io.LimitReader(r, maxExpiredBody)) // what could be read is searched
	return plain
}

// setHeaders sets the connector's headers that the caller has not set. A User-Agent that
// keeps net/http from sending its own counts as not set.
func setHeaders(req *http.Request, def *connector.Definition) {
	for name, value := range def.Headers {
		name = http.CanonicalHeaderKey(name)
		if values := req.Header[name]; len(values) == 0 || len(values) == 1 && values[0] == "" {
			req.Header[name] = []string{value}
		}
	}
}
