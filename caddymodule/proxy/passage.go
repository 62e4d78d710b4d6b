package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
)

// A passage is one request on its way downstream and back.
type passage struct {
	proxy *Handler
	w     http.ResponseWriter
	r     *http.Request
	below string // what stands below /proxy
	id    string

	callOptions
	exchange exchange.Exchange
	trace    httptrace.ClientTrace // of the exchange
	body     *callersBody          // nil if there is none
	answer   answer

	cancel  context.CancelCauseFunc
	alarm   *alarm
	movedAt atomic.Int64 // when something of the request's body was last read, Unix nanoseconds

	waiting sync.Mutex // guards what is below, and the writer while the wait is ended by the clock
	over    bool       // nobody waits any more for the response's header
	late    bool       // because it took too long
}

// serve does everything. An error means that nothing was answered yet.
func (p *passage) serve() (err error) {
	if p.callOptions, err = p.proxy.readOptions(p.r, p.below); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(p.r.Context())
	defer cancel(nil)
	if hasBody(p.r) {
		p.body = &callersBody{ReadCloser: p.r.Body, movedAt: &p.movedAt}
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
		Admission: admission, Via: p.proxy.transportFor(key.Connector), Early: p.answer.early(p.w),
		MaxBody: p.proxy.app.MaxRequestBody(key.Application),
	}
	if !p.authorization.IsZero() {
		x.Authorize = func(out *http.Request) (*broker.Authorization, error) {
			return b.AuthorizeWith(out, key, p.authorization)
		}
	}
	x.Hook(&p.trace)
	ctx = httptrace.WithClientTrace(ctx, &p.trace)
	query := u.RawQuery // as the caller has it; a credential can come to that
	out := p.outgoing(ctx, u)
	defer func() {
		if p.body != nil {
			_ = p.body.Close()
		}
	}()
	resp, err := x.Do(out, func() *http.Request {
		again := *u
		again.RawQuery = query
		return p.outgoing(ctx, &again)
	})
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
	return p.handOn(resp)
}

// wait begins the wait for the response's header.
func (p *passage) wait(cancel context.CancelCauseFunc) {
	p.cancel = cancel
	p.alarm = p.proxy.alarms.Get().(*alarm)
	p.alarm.of = p
	p.alarm.timer.Reset(p.timeout)
}

// An alarm is a timer for one passage after another.
type alarm struct {
	of    *passage // set before the timer is, as the timer reads it
	timer *time.Timer
}

func newAlarms() *sync.Pool {
	return &sync.Pool{New: func() any {
		a := &alarm{}
		a.timer = time.AfterFunc(time.Hour, func() { a.of.expire() })
		a.timer.Stop()
		return a
	}}
}

// stopWaiting reports false if the response has taken too long. When it returns, the
// clock no longer touches anything of the request, which is soon the server's again.
func (p *passage) stopWaiting() bool {
	stopped := p.alarm != nil && p.alarm.timer.Stop()
	p.waiting.Lock()
	defer p.waiting.Unlock()
	p.over = true
	if stopped { // so it is not about to go off
		p.alarm.of = nil
		p.proxy.alarms.Put(p.alarm)
		p.alarm = nil
	}
	return !p.late
}

// expire ends the wait for the response's header, unless the request's body has moved
// meanwhile.
func (p *passage) expire() {
	p.waiting.Lock()
	defer p.waiting.Unlock()
	if p.over {
		return
	}
	if rest := time.Until(time.Unix(0, p.movedAt.Load()).Add(p.timeout)); rest > 0 {
		p.alarm.timer.Reset(rest)
		return
	}
	p.over, p.late = true, true
	if p.body.cutOff() {
		// net/http waits for a read of the body that is under way, which can wait for the
		// caller. This ends it; the server then ends the connection too.
		_ = http.NewResponseController(p.w).SetReadDeadline(time.Unix(1, 0))
	}
	p.cancel(apierror.ErrTimedOut)
}

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// outgoing returns the request for u to put the credential into.
func (p *passage) outgoing(ctx context.Context, u *url.URL) *http.Request {
	r := p.r
	out := (&http.Request{ // not on the heap: that is what WithContext returns
		Method: p.method, URL: u, Host: u.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: requestHeader(r), ContentLength: r.ContentLength,
	}).WithContext(ctx)
	if p.body == nil {
		out.ContentLength = 0
		delete(out.Header, "Expect")
		return out
	}
	// If downstream refuses the body before it says 100, net/http would send it all the
	// same to keep the connection; but then the caller has to send it.
	out.Close = r.Header["Expect"] != nil
	onEnd := sendTrailers(out, r, p.proxy.app.Broker().InjectedHeaders(p.exchange.Admission.Key().Connector))
	if p.body.onEnd == nil {
		p.body.onEnd = onEnd
		// Otherwise the server would read the rest of the body before it writes, instead of
		// leaving it to us. HTTP/2 needs none of that.
		_ = http.NewResponseController(p.w).EnableFullDuplex()
	} else {
		onEnd() // a repetition: the body has been read, and its trailers are there
	}
	out.Body = p.body
	return out
}

// closeIfUnread makes this the last request of its connection if its body is on its way
// still. Full duplex leaves what remains of it to us, and net/http might take it for the
// next request.
func (p *passage) closeIfUnread() {
	if p.r.ProtoMajor == 1 && p.body.isUnread() {
		p.w.Header()["Connection"] = connectionClose
	}
}

// fail answers with an error. Nothing was answered before.
func (p *passage) fail(err error) {
	p.answer.begin()
	const clientClosedRequest = 499 // as Caddy has it: for the access log, nobody reads it
	switch fault := p.body.fault(); {
	case p.late: // since stopWaiting nobody changes it
		err = apierror.ErrTimedOut
	case p.r.Context().Err() != nil:
		p.w.WriteHeader(clientClosedRequest)
		return
	case fault != nil:
		err = errors.Join(apierror.ErrUnreadBody, fault)
	}
	e := apierror.Of(err, time.Now())
	e.Log(p.r.Context(), p.proxy.logger.With(slog.String("request_id", p.id)))
	p.answer.status = e.Status
	p.w.Header()[apideck.DownstreamErrorHeader] = []string{"false"}
	p.closeIfUnread()
	e.Write(p.w)
}
