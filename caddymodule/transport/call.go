package transport

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
)

// A call is a request of a caller on its way to downstream. All that nearly every request needs
// until its response was read is allocated at once.
type call struct {
	exchange.Exchange
	transport  *Transport
	req        *http.Request // as reverse_proxy sends it
	body       *callersBody  // of req; nil if it has none
	first      sending
	response   admittedBody
	isAnswered bool // the end of the response releases the admission
}

// A sending is a request to downstream, with its URL.
type sending struct {
	request http.Request
	url     url.URL
}

// send returns the response to an admitted request.
func (c *call) send() (*http.Response, error) {
	t, req := c.transport, c.req
	if ctx := c.Watch(req.Context()); ctx != req.Context() {
		req = req.WithContext(ctx)
	}
	out := c.outgoing(&c.first, req)
	c.Response = fields.Response{Policy: t.policy.Load(), Caller: c.req, Scheme: out.URL.Scheme, Host: out.URL.Host, Path: c.req.URL}
	resp, err := c.Do(out, func() *http.Request { return c.outgoing(new(sending), req) })
	if err != nil {
		return t.failed(c.req, c.body, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && !wasAsked(c.req, resp) {
		_ = resp.Body.Close()
		return t.refuse(c.req, c.body, apierror.ErrBadResponse)
	}
	resp.Request = c.req // the outgoing copy carries the credential
	if !t.parent.repeats && resp.StatusCode != http.StatusSwitchingProtocols {
		t.forget(c.req)
	}
	c.body.endConnection(resp)
	c.releaseAtEnd(resp)
	if t.parent.leavesUnread {
		context.AfterFunc(c.req.Context(), c.Admission.Release)
	}
	return resp, nil
}

// outgoing makes s a copy of req to add the credential to, since Caddy logs the original
// and retries with it. Header values are shared: replace them, do not change them.
func (c *call) outgoing(s *sending, req *http.Request) *http.Request {
	t := c.transport
	t.direct(s, req, t.parent.setsHeaders)
	out := &s.request
	out.Header = t.outgoingHeader(req.Header)
	if c.body != nil {
		out.Body = c.body
		c.body.trailers.SendWith(out, func(name string) bool {
			return isHopByHop(name) || t.callers.has(name) || slices.Contains(t.app.Broker().InjectedHeaders(c.Admission.Key().Connector), name)
		})
	}
	return out
}

// direct makes s a copy of req, sharing its header, with scheme and host as sent over the
// wire. With keepHost, a Host that is not the upstream's is kept: the operator has set it.
func (t *Transport) direct(s *sending, req *http.Request, keepHost bool) {
	s.request, s.url = *req, *req.URL
	out, target := &s.request, &s.url
	out.URL = target
	t.SetScheme(out)
	toUpstream := !keepHost || out.Host == target.Host
	switch target.Scheme {
	case "https":
		target.Host = strings.TrimSuffix(target.Host, ":443")
	case "http":
		target.Host = strings.TrimSuffix(target.Host, ":80")
	}
	if toUpstream {
		out.Host = target.Host
	}
	target.RawPath, target.RawQuery = onOneLine(target.RawPath), onOneLine(target.RawQuery)
	out.Trailer = nil // the caller's, which nothing has checked
}

// onOneLine encodes the bytes of a path or query that HTTP/2 carries but that would end it in
// the request line of HTTP/1.1, or in a URL. Others are left as they are.
func onOneLine(s string) string {
	if !strings.ContainsAny(s, " #") {
		return s
	}
	return strings.NewReplacer(" ", "%20", "#", "%23").Replace(s)
}

// forwardingHeaders is the number of headers that reverse_proxy adds to each request and
// outgoingHeader removes.
const forwardingHeaders = 3

func (t *Transport) outgoingHeader(header http.Header) http.Header {
	size := len(header) + 2 // the credential and, if traced, the span context
	if !t.parent.setsHeaders {
		size -= forwardingHeaders
	}
	out := make(http.Header, max(size, 0))
	for name, values := range header {
		// Baggage is tracing data of our own services, never meant for downstream.
		if t.parent.setsHeaders && name != "Baggage" || !t.parent.setsHeaders && !t.callers.has(name) {
			out[name] = values
		}
	}
	return out
}
