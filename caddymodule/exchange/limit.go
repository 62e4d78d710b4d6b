package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// errRequestBody is what reading a body ends with that is too large.
var errRequestBody = errors.New("the request's body is larger than this application may send")

// limitBody refuses a request whose body is known to be too large (413). One of unknown
// length is cut off when it has become so; the result then says so.
func limitBody(req *http.Request, limit int64) (*limitedBody, error) {
	switch {
	case limit < 0 || req.Body == nil || req.Body == http.NoBody:
		return nil, nil
	case req.ContentLength > limit:
		return nil, apierror.BodyTooLarge(limit)
	case req.ContentLength >= 0: // no more than that is read
		return nil, nil
	}
	b := &limitedBody{ReadCloser: req.Body, limit: limit, left: limit}
	req.Body = b
	return b, nil
}

// A limitedBody is a request's body of unknown length.
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
	if int64(len(p)) > b.left+1 { // one more, to see whether there is more
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.over.Store(true)
		return n - 1, errRequestBody
	}
	return n, err
}

// exceeded returns the error of a body that was too large, nil if it was not.
func (b *limitedBody) exceeded() error {
	if b == nil || !b.over.Load() {
		return nil
	}
	return apierror.BodyTooLarge(b.limit)
}
