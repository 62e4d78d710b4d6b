package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/tokenbroker/caddy-token-broker/broker"
)

// LimitsConfig bounds what callers can use up. -1 is no limit.
type LimitsConfig struct {
	// How many requests of an application may be under way at a time, over all its
	// connections. An upgraded connection counts until it ends. What is beyond that is
	// answered 429. Default: `20000`.
	AppConcurrency int `json:"app_concurrency,omitempty"`

	// How many requests of one connection may be under way at a time. Default: `10000`.
	ConnectionConcurrency int `json:"connection_concurrency,omitempty"`

	// How large the body of one request may be, in bytes. What is larger is answered
	// 413. Default: 5 GiB.
	RequestBody int64 `json:"request_body,omitempty"`
}

// defaultMaxRequestBody is more than any common API takes in one request.
const defaultMaxRequestBody = 5 << 30

// noLimit is what `off` stands for.
const noLimit = -1

// brokerLimits returns the limits that the broker counts by.
func (a *App) brokerLimits() broker.Limits {
	limits := broker.Limits{
		Connection: a.Limits.ConnectionConcurrency, Application: a.Limits.AppConcurrency,
		Applications: make(map[string]int),
	}
	for name, app := range a.Applications {
		if app != nil && app.AppConcurrency != 0 {
			limits.Applications[name] = app.AppConcurrency
		}
	}
	return limits
}

// checkLimits finds numbers that are none of a limit.
func (a *App) checkLimits() error {
	numbers := map[string]int64{
		"limits: app_concurrency": int64(a.Limits.AppConcurrency), "limits: connection_concurrency": int64(a.Limits.ConnectionConcurrency),
		"limits: request_body": a.Limits.RequestBody,
	}
	for name, app := range a.Applications {
		if app != nil {
			numbers["app "+name+": app_concurrency"], numbers["app "+name+": request_body"] = int64(app.AppConcurrency), app.RequestBody
		}
	}
	for field, n := range numbers {
		if n < noLimit {
			return fmt.Errorf("%s must be more than 0, or -1 for no limit", field)
		}
	}
	return nil
}

// maxRequestBody returns how large a body the application may send, -1 for no limit.
func (a *App) maxRequestBody(application string) int64 {
	if app := a.Applications[application]; app != nil && app.RequestBody != 0 {
		return app.RequestBody
	}
	if a.Limits.RequestBody != 0 {
		return a.Limits.RequestBody
	}
	return defaultMaxRequestBody
}

// errRequestBody is what reading a body ends with that is too large.
var errRequestBody = errors.New("the request's body is larger than this application may send")

// limitBody refuses a request whose body is known to be too large (413). One of unknown
// length is cut off when it has become so; the result then says so.
func limitBody(req *http.Request, limit int64) (*limitedBody, error) {
	switch {
	case limit < 0 || req.Body == nil || req.Body == http.NoBody:
		return nil, nil
	case req.ContentLength > limit:
		return nil, bodyTooLarge(limit)
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
	return bodyTooLarge(b.limit)
}

// releaseAtEnd releases the admission when the response has been read, or when the
// connection ends that the request was upgraded to.
func releaseAtEnd(resp *http.Response, admission *broker.Admission) {
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &admittedConn{conn, admission}
		return
	}
	resp.Body = &admittedBody{resp.Body, admission}
}

// An admittedBody is a response's body.
type admittedBody struct {
	io.ReadCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (b *admittedBody) Close() error {
	b.admission.Release()
	return b.ReadCloser.Close()
}

// An admittedConn is an upgraded connection.
type admittedConn struct {
	io.ReadWriteCloser
	admission *broker.Admission
}

// Close implements [io.Closer].
func (c *admittedConn) Close() error {
	c.admission.Release()
	return c.ReadWriteCloser.Close()
}

// CloseWrite ends one direction, where the connection can do that.
func (c *admittedConn) CloseWrite() error {
	if conn, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}
