package exchange

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// maxEarlyResponses bounds how many responses may come before the final one (1xx).
const maxEarlyResponses = 32

// An Exchange is one request of a caller, sent with a connection's credential. It is what
// [transport.Transport] and [proxy.Handler] have in common.
type Exchange struct {
	Admission *broker.Admission
	Via       *http.Transport
	MaxBody   int64 // of the request, in bytes; negative: any

	// authorize puts the credential in. Default: that of the connection.
	Authorize func(*http.Request) (*broker.Authorization, error)

	// early is called with each 1xx response, scrubbed. It may be nil.
	Early func(code int, header http.Header) error

	sent  atomic.Pointer[broker.Authorization] // by the latest attempt
	hints atomic.Int32                         // 1xx responses to it
}

// Do sends out, whose context has the exchange's hook, see watch. A request that
// downstream answers 401 is sent once more, as again makes it anew, if there is a newer
// credential to be had, and if its body can be sent: there is none, or it was small and
// has been read to its end.
func (x *Exchange) Do(out *http.Request, again func() *http.Request) (*http.Response, error) {
	limited, err := limitBody(out, x.MaxBody)
	if err != nil {
		return nil, Refusal{err}
	}
	body := recordBody(out)
	auth, resp, err := x.attempt(out)
	if tooLarge := limited.exceeded(); tooLarge != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return nil, Refusal{tooLarge}
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

func (x *Exchange) authorized(out *http.Request) (*broker.Authorization, error) {
	if x.Authorize != nil {
		return x.Authorize(out)
	}
	return x.Admission.Authorize(out)
}

// attempt sends out once.
func (x *Exchange) attempt(out *http.Request) (*broker.Authorization, *http.Response, error) {
	auth, err := x.authorized(out)
	if err != nil {
		return nil, nil, Refusal{err}
	}
	x.sent.Store(auth)
	x.hints.Store(0)
	resp, err := x.send(out)
	if errors.Is(err, broker.ErrAddressNotAllowed) {
		return nil, nil, Refusal{err}
	}
	if err != nil {
		return nil, nil, withoutEcho(err)
	}
	auth.Observe(resp)
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
	broken := &apierror.DownstreamError{}
	if timeout, ok := errors.AsType[net.Error](err); ok {
		broken.TimedOut = timeout.Timeout()
	}
	return broken
}

// A Refusal is an error of the broker, and no fault of downstream.
type Refusal struct{ error }

// Unwrap returns the broker's error.
func (r Refusal) Unwrap() error { return r.error }
