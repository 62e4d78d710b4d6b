package transport

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

// provisionAnswers decides how responses are treated.
func (t *Transport) provisionAnswers(ctx caddy.Context) {
	d := dependencies{headers: make(map[string]bool)}
	d.add(t.Connector, t.App, t.Consumer)
	if t.App == "" {
		d.headers["authorization"], d.headers[strings.ToLower(apideck.AppHeader)] = true, true
	}
	if proxy := parentProxy(ctx); proxy != nil {
		d.addProxy(proxy)
		keepUntyped(proxy)
	}
	t.decides, t.policy = d, &atomic.Pointer[fields.Policy]{}
	t.setPolicy(d)
}

// RoutedBy is called when the server's routes are known.
func (t *Transport) RoutedBy(routing tokenbroker.Routing) {
	d := dependencies{headers: maps.Clone(t.decides.headers), more: t.decides.more || routing.More}
	for _, name := range routing.Headers {
		if strings.Contains(name, "{") {
			d.more = true
		} else if !strings.EqualFold(name, "Host") { // part of the URL
			d.headers[strings.ToLower(name)] = true
		}
	}
	d.add(routing.Values...)
	t.setPolicy(d)
}

func (t *Transport) setPolicy(d dependencies) {
	t.policy.Store(&fields.Policy{
		Vary: strings.Join(slices.Sorted(maps.Keys(d.headers)), ", "), DependsOnMore: d.more, Own: t.app.Authorities(),
	})
}

// dependencies are what the answer to a request depends on, besides its method and URL.
type dependencies struct {
	headers map[string]bool // names in lower case
	more    bool            // it depends on something else too
}

// urlPlaceholders are the beginnings of placeholders whose values a request's URL decides, or
// the configuration alone.
var urlPlaceholders = []string{
	"{http.request.uri", "{http.request.orig_uri", "{http.request.host", "{http.request.hostport", "{http.request.port}", "{http.request.scheme}",
	"{http.request.method}", "{http.request.orig_method}", "{http.reverse_proxy.upstream.", "{env.", "{file.", "{system.", "{http.request.proto",
}

// anyPlaceholder also matches the names that `map` gives to its outputs, which need no dot.
var anyPlaceholder = regexp.MustCompile(`\{[^{}]+\}`)

// add adds what the placeholders in the values read.
func (d *dependencies) add(values ...string) {
	for _, value := range values {
		for _, found := range anyPlaceholder.FindAllString(value, -1) {
			found = strings.ToLower(found)
			switch {
			case strings.HasPrefix(found, "{http.request.header."):
				d.headers[strings.TrimSuffix(found[len("{http.request.header."):], "}")] = true
			case strings.HasPrefix(found, "{http.request.cookie."):
				d.headers["cookie"] = true
			case !slices.ContainsFunc(urlPlaceholders, func(p string) bool { return strings.HasPrefix(found, p) }):
				d.more = true
			}
		}
	}
}

// addProxy adds what a reverse_proxy makes of the request.
func (d *dependencies) addProxy(proxy *reverseproxy.Handler) {
	for _, upstream := range proxy.Upstreams {
		if upstream != nil {
			d.add(upstream.Dial)
		}
	}
	d.addSource(proxy.DynamicUpstreamsRaw) // provisioned only after the transport
	if proxy.Headers != nil && proxy.Headers.Request != nil {
		ops := proxy.Headers.Request
		for _, set := range []http.Header{ops.Add, ops.Set} {
			for name, values := range set {
				if !strings.HasPrefix(http.CanonicalHeaderKey(name), "X-Forwarded-") {
					d.add(name)
					d.add(values...)
				}
			}
		}
		for _, replacements := range ops.Replace {
			for _, r := range replacements {
				d.add(r.Search, r.Replace)
			}
		}
	}
	if proxy.Rewrite != nil {
		d.add(proxy.Rewrite.Method, proxy.Rewrite.URI)
	}
}

// addSource adds what a source of dynamic upstreams reads.
func (d *dependencies) addSource(raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var source struct{ Source, Service, Proto, Name, Port string }
	if err := json.Unmarshal(raw, &source); err != nil || source.Source != "a" && source.Source != "srv" {
		d.more = true // it sees the request
		return
	}
	d.add(source.Service, source.Proto, source.Name, source.Port)
}

// keepUntyped makes reverse_proxy pass on responses without a Content-Type as they are. Otherwise
// net/http guesses one from the body, which may be what an attacker wrote.
func keepUntyped(proxy *reverseproxy.Handler) {
	proxy.HandleResponse = append(slices.Clip(proxy.HandleResponse), caddyhttp.ResponseHandler{
		Match: &caddyhttp.ResponseMatcher{
			StatusCode: []int{2, 3, 4, 5},
			Headers:    http.Header{"Content-Type": nil}, // absent
		},
		Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{untyped{}}}},
	})
}

// An untyped response has no Content-Type.
type untyped struct {
	reverseproxy.CopyResponseHandler
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (u untyped) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w.Header()["Content-Type"] = nil // net/http takes this for a decision
	return u.CopyResponseHandler.ServeHTTP(w, r, next)
}

// wasAsked reports whether a 101 response switches to the protocol that the request asked for
// (RFC 9110 section 15.2.2). reverse_proxy would answer 200.
func wasAsked(req *http.Request, resp *http.Response) bool {
	asked, got := req.Header["Upgrade"], resp.Header["Upgrade"]
	return len(asked) > 0 && len(got) > 0 && len(req.Header["Connection"]) > 0 && strings.EqualFold(asked[0], got[0])
}
