package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
)

// maxReplayBody bounds the request bodies that are kept for being sent again, in bytes.
const maxReplayBody = 64 << 10

// maxEarlyResponses bounds how many responses may come before the final one (1xx).
const maxEarlyResponses = 32

// An exchange is one request of a caller, sent with a connection's credential. It is what
// [Transport] and [DownstreamProxy] have in common.
type exchange struct {
	admission *broker.Admission
	via       *http.Transport
	maxBody   int64 // of the request, in bytes; negative: any

	// authorize puts the credential in. Default: that of the connection.
	authorize func(*http.Request) (*broker.Authorization, error)

	// early is called with each 1xx response, scrubbed. It may be nil.
	early func(code int, header http.Header) error

	sent  atomic.Pointer[broker.Authorization] // by the latest attempt
	hints atomic.Int32                         // 1xx responses to it
}

// do sends out, whose context has the exchange's hook, see watch. A request that
// downstream answers 401 is sent once more, as again makes it anew, if there is a newer
// credential to be had, and if its body can be sent: there is none, or it was small and
// has been read to its end.
func (x *exchange) do(out *http.Request, again func() *http.Request) (*http.Response, error) {
	limited, err := limitBody(out, x.maxBody)
	if err != nil {
		return nil, refusal{err}
	}
	body := recordBody(out)
	auth, resp, err := x.attempt(out)
	if tooLarge := limited.exceeded(); tooLarge != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return nil, refusal{tooLarge}
	}
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	sent, ok := body.whole()
	if !ok {
		auth.RenewInBackground()
		return resp, nil
	}
	if !auth.Renew(out.Context()) {
		return resp, nil
	}
	out = again()
	if body != nil {
		out.Body = io.NopCloser(bytes.NewReader(sent))
	}
	_, second, err := x.attempt(out)
	if err != nil {
		return resp, nil //nolint:nilerr // what downstream has said stands
	}
	_ = resp.Body.Close()
	return second, nil
}

func (x *exchange) authorized(out *http.Request) (*broker.Authorization, error) {
	if x.authorize != nil {
		return x.authorize(out)
	}
	return x.admission.Authorize(out)
}

// attempt sends out once.
func (x *exchange) attempt(out *http.Request) (*broker.Authorization, *http.Response, error) {
	auth, err := x.authorized(out)
	if err != nil {
		return nil, nil, refusal{err}
	}
	x.sent.Store(auth)
	x.hints.Store(0)
	resp, err := x.send(out)
	if errors.Is(err, guard.ErrAddressNotAllowed) {
		return nil, nil, refusal{err}
	}
	if err != nil {
		return nil, nil, withoutEcho(err)
	}
	auth.HandleResponse(resp)
	return auth, resp, nil
}

// withoutEcho returns an error that Caddy can log: the text of net/http's quotes what
// downstream has sent, which can be the credential. Dial errors stay as they are, not
// even wrapped, since reverse_proxy tries those again.
func withoutEcho(err error) error {
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	broken := &downstreamError{}
	if timeout, ok := errors.AsType[net.Error](err); ok {
		broken.timeout = timeout.Timeout()
	}
	return broken
}

// A downstreamError is a request that was sent and not answered as it should be.
type downstreamError struct{ timeout bool }

// Error implements error.
func (e *downstreamError) Error() string {
	if e.timeout {
		return "downstream did not answer in time"
	}
	return "downstream broke the connection off, or its response is malformed"
}

// Timeout implements [net.Error]; with it reverse_proxy answers 504 and not 502.
func (e *downstreamError) Timeout() bool { return e.timeout }

// Temporary implements [net.Error].
func (e *downstreamError) Temporary() bool { return false }

var _ net.Error = (*downstreamError)(nil)

// A refusal is an error of the broker, and no fault of downstream.
type refusal struct{ error }

// Unwrap returns the broker's error.
func (r refusal) Unwrap() error { return r.error }

// A recordedBody keeps what is read of a request's body as it is sent. It does not
// read ahead: a body that was not sent at all is there for reverse_proxy's next try.
type recordedBody struct {
	io.ReadCloser

	mu   sync.Mutex // guards what is below; net/http reads on after a response has come
	sent []byte
	done bool // all of the body is in sent
	over bool // there was too much of it
}

// recordBody makes the body of out a recorded one. It returns nil if there is none.
func recordBody(out *http.Request) *recordedBody {
	if out.Body == nil || out.Body == http.NoBody {
		return nil
	}
	b := &recordedBody{ReadCloser: out.Body, over: out.ContentLength > maxReplayBody}
	out.Body = b
	return b
}

// Read implements [io.Reader].
func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over = b.over || len(b.sent)+n > maxReplayBody; b.over {
		b.sent = nil
		return n, err
	}
	b.sent = append(b.sent, p[:n]...)
	b.done = b.done || errors.Is(err, io.EOF)
	return n, err
}

// whole returns the body if all of it was kept, nil for a request without one.
func (b *recordedBody) whole() ([]byte, bool) {
	if b == nil {
		return nil, true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent, b.done && !b.over
}
