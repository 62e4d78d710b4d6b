package exchange

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
)

// Watch returns ctx with a hook that scrubs 1xx responses of the exchange. Caddy's
// reverse_proxy passes those on from a hook that it creates for each request; Watch puts
// its own in front of that by changing it in place, because adding a second one would
// compose them by reflection on every request.
func (x *Exchange) Watch(ctx context.Context) context.Context {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil {
		trace = &httptrace.ClientTrace{}
		ctx = httptrace.WithClientTrace(ctx, trace)
	}
	x.Hook(trace)
	return ctx
}

// Hook is [Exchange.Watch] for a trace that the caller provides.
func (x *Exchange) Hook(trace *httptrace.ClientTrace) {
	next := trace.Got1xxResponse
	// Called from a goroutine of net/http.
	trace.Got1xxResponse = func(code int, header textproto.MIMEHeader) error {
		if auth := x.sent.Load(); auth != nil {
			auth.Scrub(http.Header(header))
			x.Response.Clean(http.Header(header), auth)
		}
		if x.hints.Add(1) > maxEarlyResponses { // net/http leaves this limit to hooks
			return &apierror.DownstreamError{}
		}
		if caller := x.Response.Caller; caller != nil && !caller.ProtoAtLeast(1, 1) {
			return nil // HTTP/1.0 has no 1xx responses (RFC 9110 section 15.2)
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
