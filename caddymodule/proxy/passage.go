package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
)

// A passage is one request to downstream and its response. What nearly every request needs is
// allocated with it.
type passage struct {
	proxy  *Handler
	caller callersRequest

	callOptions
	exchange exchange.Exchange
	trace    httptrace.ClientTrace // of the exchange
	body     *callersBody          // nil if the request has no body
	answer   answer
	deadline deadline
	first    sending
}

// A sending is a request to downstream, with its URL.
type sending struct {
	request http.Request
	url     url.URL
}

// A callersRequest is the request as it came, and where its response goes.
type callersRequest struct {
	w     http.ResponseWriter
	r     *http.Request
	below string    // the path below /proxy
	id    [1]string // as a header has it
}

// A deadline ends the wait for the response header.
type deadline struct {
	cancel  context.CancelCauseFunc
	alarm   *alarm
	movedAt atomic.Int64 // when data of the request body was last read, in Unix nanoseconds

	mu   sync.Mutex // also guards the ResponseWriter while expire runs
	over bool       // guarded by mu; the wait for the response header is over
	late bool       // guarded by mu; it timed out
}

// serve handles the request. If it returns an error, no response was written yet.
func (p *passage) serve() (err error) {
	if p.callOptions, err = p.proxy.readOptions(p.caller.r, p.caller.below); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(p.caller.r.Context())
	defer cancel(nil)
	if hasBody(p.caller.r) {
		p.body = &callersBody{ReadCloser: p.caller.r.Body, movedAt: &p.deadline.movedAt, trailers: exchange.TrailersOf(p.caller.r)}
	}
	p.wait(cancel)
	defer p.stopWaiting()

	b := p.proxy.app.Broker()
	admission, u, err := b.AdmitCall(ctx, p.call)
	if err != nil {
		return err
	}
	defer admission.Release()
	key := admission.Key()
	x := &p.exchange
	*x = exchange.Exchange{
		Admission: admission, Via: p.proxy.pool(admission.AllowsPrivate()), Early: p.answer.early(p.caller.w),
		MaxBody:  p.proxy.app.MaxRequestBody(key.Application),
		Response: fields.Response{Policy: &p.proxy.policy, Caller: p.caller.r, Scheme: u.Scheme, Host: u.Host, Path: u},
	}
	if p.replaces {
		x.Authorize = func(out *http.Request) (*broker.Authorization, error) {
			return b.AuthorizeWith(out, key, p.authorization)
		}
	}
	x.Hook(&p.trace)
	ctx = httptrace.WithClientTrace(ctx, &p.trace)
	out := p.outgoing(ctx, &p.first, u)
	if p.body != nil {
		// Otherwise the server reads the rest of the body before it writes the response. HTTP/2
		// does not need this.
		_ = http.NewResponseController(p.caller.w).EnableFullDuplex()
		defer p.body.Close()
	}
	resp, err := x.Do(out, func() *http.Request { return p.outgoing(ctx, new(sending), u) })
	p.answer.begin()
	if !p.stopWaiting() {
		if err == nil {
			_ = resp.Body.Close()
		}
		return apierror.ErrTimedOut
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return p.respond(resp)
}

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// outgoing makes s the request to u, without a credential. It copies u, because a credential
// may be put into the request's URL, and a repeated request must start without it.
func (p *passage) outgoing(ctx context.Context, s *sending, u *url.URL) *http.Request {
	r, out := p.caller.r, &s.request
	s.url = *u
	*out = *(&http.Request{ // both this and what WithContext returns stay on the stack
		Method: p.method, URL: &s.url, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: requestHeader(r), ContentLength: r.ContentLength,
	}).WithContext(ctx)
	if p.body == nil {
		out.ContentLength = 0
		delete(out.Header, "Expect")
		return out
	}
	// If downstream refuses the request before it answers 100, net/http still sends the body
	// to keep the connection usable, and the caller would have to send it.
	out.Close = r.Header["Expect"] != nil
	out.Body = p.body
	p.body.trailers.SendWith(out, func(name string) bool {
		return name == "" || dropInRequest(name) || slices.Contains(p.proxy.app.Broker().InjectedHeaders(p.exchange.Admission.Key().Connector), name)
	})
	return out
}

// closeIfUnread closes the connection after this request if its body was not read in full.
// In full duplex the server does not discard the rest, and might parse it as the next
// request.
func (p *passage) closeIfUnread() {
	if p.caller.r.ProtoMajor == 1 && p.body.isUnread() {
		p.caller.w.Header()["Connection"] = connectionClose
	}
}

// fail answers with an error. No response was written yet.
func (p *passage) fail(err error) {
	p.answer.begin()
	const clientClosedRequest = 499 // as Caddy does, for the access log: the caller is gone
	switch fault := p.body.fault(); {
	case p.deadline.late: // no longer changes after stopWaiting
		err = apierror.ErrTimedOut
	case p.caller.r.Context().Err() != nil && !errors.Is(fault, io.ErrUnexpectedEOF): // a caller that sent half can still read
		p.caller.w.WriteHeader(clientClosedRequest)
		return
	case fault != nil:
		err = errors.Join(apierror.ErrUnreadBody, fault)
	}
	e := apierror.Of(err, time.Now())
	e.Log(p.caller.r.Context(), p.proxy.logger.With(slog.String("request_id", p.caller.id[0])))
	p.answer.status = e.Status
	p.caller.w.Header()[apideck.DownstreamErrorHeader] = []string{"false"}
	p.closeIfUnread()
	e.Write(p.caller.w)
}
