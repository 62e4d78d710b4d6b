// Package exchange sends requests downstream with a connection's credential. It is what
// the transport and the Proxy API have in common.
package exchange

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/guard"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
)

// maxEarlyResponses is how many 1xx responses may precede the final one.
const maxEarlyResponses = 32

// An Exchange is one request of a caller, sent with a connection's credential. Before Do
// its hook must be in the request's context, see [Exchange.Watch] and [Exchange.Hook].
type Exchange struct {
	Admission *broker.Admission
	Via       *Pool
	MaxBody   int64 // limit of the request body in bytes; negative: none

	// Authorize adds the credential. Default: the connection's.
	Authorize func(*http.Request) (*broker.Authorization, error)

	// Response says how headers of responses are treated.
	Response fields.Response

	// Early is called with each 1xx response, scrubbed. It may be nil.
	Early func(code int, header http.Header) error

	sent  atomic.Pointer[broker.Authorization] // of the latest attempt
	hints atomic.Int32                         // 1xx responses to the latest attempt
}

// Do sends out. If downstream answers 401, or what else the connector takes for an expired
// token, Do sends the request that again returns, once,
// provided that a newer credential can be obtained and the body can be repeated: there is
// none, or what was read of it is small. The rest follows as it comes. Errors of the broker are
// [BrokerError]s.
func (x *Exchange) Do(out *http.Request, again func() *http.Request) (*http.Response, error) {
	limited, err := limitBody(out, x.MaxBody)
	if err != nil {
		return nil, BrokerError{err}
	}
	body := recordBody(out)
	defer body.end()
	auth, resp, err := x.attempt(out, limited)
	if err != nil || !auth.Expired() {
		return resp, err
	}
	if !body.isKept() {
		auth.RenewInBackground()
		return unlessDead(out.Context(), auth, resp)
	}
	if !auth.Renew(out.Context()) {
		return unlessDead(out.Context(), auth, resp)
	}
	out = again()
	isWhole, err := body.repeat(out)
	if err != nil { // by now more of it was read than is kept
		return unlessDead(out.Context(), auth, resp)
	}
	if !isWhole {
		// Downstream did not read the body, so the next request must not follow on this connection.
		_ = resp.Body.Close()
	}
	_, second, err := x.attempt(out, limited)
	if err != nil && isWhole {
		return resp, nil // the first response stands
	}
	_ = resp.Body.Close()
	return second, err
}

// unlessDead returns downstream's 401, or the broker's if there will be no other token: only
// that one tells the caller that the connection must be authorised again.
func unlessDead(ctx context.Context, auth *broker.Authorization, resp *http.Response) (*http.Response, error) {
	if err := auth.Dead(ctx); err != nil {
		_ = resp.Body.Close()
		return nil, BrokerError{err}
	}
	return resp, nil
}

func (x *Exchange) authorized(out *http.Request) (*broker.Authorization, error) {
	if x.Authorize != nil {
		return x.Authorize(out)
	}
	return x.Admission.Authorize(out)
}

// attempt sends out, whose body is limited, without repeating it.
func (x *Exchange) attempt(out *http.Request, limited *limitedBody) (*broker.Authorization, *http.Response, error) {
	auth, err := x.authorized(out)
	if err != nil {
		if out.Body != nil {
			_ = out.Body.Close()
		}
		return nil, nil, BrokerError{err}
	}
	x.sent.Store(auth)
	x.hints.Store(0)
	resp, err := x.send(out)
	if tooLarge := limited.exceeded(); tooLarge != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return nil, nil, BrokerError{tooLarge}
	}
	if errors.Is(err, guard.ErrAddressNotAllowed) {
		return nil, nil, BrokerError{err}
	}
	if err != nil {
		return nil, nil, withoutEcho(err)
	}
	auth.HandleResponse(resp)
	x.Response.Clean(resp.Header, auth)
	x.Response.CleanTrailer(resp.Trailer) // the announced names
	if resp.StatusCode != http.StatusSwitchingProtocols {
		x.Response.Cache(resp.Header, out.Method)
	}
	return auth, resp, nil
}

// withoutEcho returns an error that is safe to log. The text of net/http's errors quotes
// what downstream sent, possibly the credential. Dial errors are returned unwrapped, since
// reverse_proxy recognises and retries them.
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

// A BrokerError is an error of the broker; downstream is not to blame.
type BrokerError struct{ error }

// Unwrap returns the broker's error.
func (r BrokerError) Unwrap() error { return r.error }
