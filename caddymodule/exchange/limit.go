package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// errRequestBody ends the reading of a body that is too large.
var errRequestBody = errors.New("the request body exceeds the application's limit")

// limitBody returns an error (413) for a request whose body is known to be too large. A
// body of unknown length is cut off at the limit, which the result reports.
func limitBody(req *http.Request, limit int64) (*limitedBody, error) {
	switch {
	case limit < 0 || req.Body == nil || req.Body == http.NoBody:
		return nil, nil
	case req.ContentLength > limit:
		return nil, apierror.BodyTooLarge(limit)
	case req.ContentLength >= 0: // net/http reads no more than that
		return nil, nil
	}
	b := &limitedBody{ReadCloser: req.Body, limit: limit, left: limit}
	req.Body = b
	return b, nil
}

// A limitedBody is a request body of unknown length.
type limitedBody struct {
	io.ReadCloser
	limit, left int64
	over        atomic.Bool
}

// Read implements [io.Reader].
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errRequestBody
	}
	if int64(len(p)) > b.left+1 { // one byte more, to notice that there is more
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.over.Store(true)
		return n - 1, errRequestBody
	}
	return n, err
}

// exceeded returns the error if the body was too large, otherwise nil.
func (b *limitedBody) exceeded() error {
	if b == nil || !b.over.Load() {
		return nil
	}
	return apierror.BodyTooLarge(b.limit)
}

// CheckHeader returns an error (431) for a request whose line and header have more than limit
// bytes. A negative limit is none.
func CheckHeader(r *http.Request, limit int64) error {
	if limit < 0 {
		return nil
	}
	const separators = int64(len(": \r\n"))
	size := int64(len(r.Method)+len(r.URL.Path)+len(r.URL.RawQuery)) + separators
	for name, values := range r.Header {
		for _, value := range values {
			size += int64(len(name)+len(value)) + separators
		}
	}
	if size > limit {
		return apierror.HeaderTooLarge(limit)
	}
	return nil
}
