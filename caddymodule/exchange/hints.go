package exchange

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// Watch returns ctx with a hook that scrubs the 1xx responses to requests of the
// exchange. Caddy's reverse_proxy hands those on from a hook that it made for this
// request alone: ours is put in front, in place. Another one beside it would be composed
// with it by reflection, for each request.
func (x *Exchange) Watch(ctx context.Context) context.Context {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil {
		trace = &httptrace.ClientTrace{}
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	x.Hook(trace)
	return ctx
}

// Hook puts the hook that watch speaks of into trace, in front of what is there.
func (x *Exchange) Hook(trace *httptrace.ClientTrace) {
	next := trace.Got1xxResponse
	// It is called from a goroutine of net/http.
	trace.Got1xxResponse = func(code int, header textproto.MIMEHeader) error {
		if auth := x.sent.Load(); auth != nil {
			auth.Scrub(http.Header(header))
		}
		if x.hints.Add(1) > maxEarlyResponses { // net/http leaves it to hooks how many there may be
			return &apierror.DownstreamError{}
		}
		if x.Early != nil {
			if err := x.Early(code, http.Header(header)); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		return next(code, header)
	}
}
