package transport

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

// callerHeaders are the canonical names of the headers that a transport's placeholders
// read. They do not reach downstream, like those of [apideck.IsCallersOwn].
type callerHeaders []string

func newCallerHeaders(fields ...string) callerHeaders {
	var h callerHeaders
	for _, field := range fields {
		for _, name := range headersRead(field) {
			h = append(h, http.CanonicalHeaderKey(name))
		}
	}
	return h
}

// headersRead returns the request headers that the placeholders in s read.
func headersRead(s string) []string {
	const prefix = "{http.request.header."
	var names []string
	for _, placeholder := range placeholder.Find(s) {
		if name, ok := strings.CutPrefix(strings.ToLower(placeholder), prefix); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

func (h callerHeaders) has(name string) bool {
	return slices.Contains(h, name) || apideck.IsCallersOwn(name)
}

// checkOnce returns an error if such a header is sent more than once: Caddy's placeholders join
// the values, but the caller's other proxies may each take one of them.
func (h callerHeaders) checkOnce(sent http.Header) error {
	for _, name := range h {
		if len(sent[name]) > 1 {
			_, err := apideck.OnlyValue(sent, name)
			return err
		}
	}
	return nil
}

// mayBeSet reports whether the parent reverse_proxy may set such a header, or Host, with
// header_up. If not, all of them come from the caller.
func (h callerHeaders) mayBeSet(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	if proxy == nil {
		return true
	}
	if proxy.Headers == nil || proxy.Headers.Request == nil {
		return false
	}
	ops := proxy.Headers.Request
	if len(ops.Replace) > 0 {
		return true
	}
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name := range set {
			if name = http.CanonicalHeaderKey(name); strings.Contains(name, "{") || name == "Host" || h.has(name) {
				return true
			}
		}
	}
	return false
}

// mayNameHost reports whether the parent reverse_proxy sets Host to something that a request
// can influence.
func mayNameHost(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	if proxy == nil || proxy.Headers == nil || proxy.Headers.Request == nil {
		return false
	}
	ops := proxy.Headers.Request
	for name := range ops.Replace {
		if strings.EqualFold(name, "Host") || strings.ContainsAny(name, "*{") {
			return true
		}
	}
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name, values := range set {
			if strings.Contains(name, "{") || strings.EqualFold(name, "Host") && slices.ContainsFunc(values, readsRequest) {
				return true
			}
		}
	}
	return false
}

// readsRequest reports whether s has placeholders other than those of the process.
func readsRequest(s string) bool {
	for _, prefix := range []string{"{env.", "{file.", "{system."} {
		s = strings.ReplaceAll(s, prefix, "")
	}
	return strings.Contains(s, "{")
}

// RequestHeaderOps removes the headers that callers send to the broker and sets Host, if the
// operator sets such headers too: Caddy applies it before the operator's header_up, which
// therefore takes effect. RoundTrip could not tell the two apart. If the operator sets none,
// RoundTrip removes them itself, which is much faster.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	if !t.operatorSetsHeaders {
		return nil
	}
	remove := append(apideck.CallersOwn(), t.callers...)
	for i, name := range remove {
		remove[i] = strings.ToLower(name) // saves Caddy from folding it for each request
	}
	slices.Sort(remove)
	remove = slices.Compact(remove)
	return &headers.HeaderOps{
		Set:    http.Header{"Host": {"{http.reverse_proxy.upstream.hostport}"}},
		Delete: remove,
	}
}

// outgoing returns a copy of req to add the credential to, since Caddy logs the original
// and retries with it. Header values are shared: replace them, do not change them.
func (t *Transport) outgoing(ctx context.Context, req *http.Request, body *callersBody, id connector.ID) *http.Request {
	out := t.direct(ctx, req, t.operatorSetsHeaders)
	out.Header = t.outgoingHeader(req.Header)
	if body != nil {
		out.Body = body
		body.trailers.SendWith(out, func(name string) bool {
			return isHopByHop(name) || t.callers.has(name) || slices.Contains(t.app.Broker().InjectedHeaders(id), name)
		})
	}
	return out
}

// direct returns a copy of req, sharing its header, with scheme and host as sent over the
// wire. With keepHost, a Host that is not the upstream's is kept: the operator has set it.
func (t *Transport) direct(ctx context.Context, req *http.Request, keepHost bool) *http.Request {
	out := req.WithContext(ctx)
	target := *req.URL
	out.URL = &target
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
	return out
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
	if !t.operatorSetsHeaders {
		size -= forwardingHeaders
	}
	out := make(http.Header, max(size, 0))
	for name, values := range header {
		if t.operatorSetsHeaders || !t.callers.has(name) {
			out[name] = values
		}
	}
	delete(out, "Baggage") // tracing data of our own services, never meant for downstream
	return out
}
