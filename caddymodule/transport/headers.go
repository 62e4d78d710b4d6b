package transport

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
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

// forget removes headers from reverse_proxy's copy of a request that has its response: all of them,
// since reverse_proxy encodes the copy for a debug message even if that is not logged, which costs
// more than all that RoundTrip does to headers. If it is logged, only those that were not sent.
func (t *Transport) forget(req *http.Request) {
	if t.parent.logsHeaders {
		if !t.parent.setsHeaders {
			maps.DeleteFunc(req.Header, func(name string, _ []string) bool { return t.callers.has(name) })
		}
		return
	}
	header := make(http.Header)
	if encoding := req.Header["Accept-Encoding"]; encoding != nil && req.ProtoMajor == 2 {
		header["Accept-Encoding"] = encoding // reverse_proxy reads it after the response
	}
	req.Header = header
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
	if !t.parent.setsHeaders {
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
