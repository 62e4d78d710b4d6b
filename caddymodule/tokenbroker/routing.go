package tokenbroker

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// A Routing is what a server's routes look at, besides method and URL, before a request
// reaches one of its handlers.
type Routing struct {
	Headers []string // names
	Values  []string // that the request is changed to; they may have placeholders
	More    bool     // something else
}

// A routed module wants to know the routing of its server, which it cannot see while it is
// provisioned.
type routed interface{ RoutedBy(routing Routing) }

// tellRoutings tells the transports of the servers about the routings.
func tellRoutings(servers map[string]*caddyhttp.Server) {
	for _, server := range servers {
		var w routingWalk
		w.routes(server.Routes)
		for _, route := range server.NamedRoutes {
			w.routes(caddyhttp.RouteList{*route})
		}
		if server.Errors != nil {
			w.routes(server.Errors.Routes)
		}
		for _, module := range w.found {
			module.RoutedBy(w.routing)
		}
	}
}

// A routingWalk collects what the routes of a server look at. Which of them a request passes
// depends on those before, so that all count.
type routingWalk struct {
	routing Routing
	found   []routed
}

func (w *routingWalk) routes(routes caddyhttp.RouteList) {
	for _, route := range routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				w.matcher(matcher)
			}
		}
		for _, handler := range route.Handlers {
			w.handler(handler)
		}
	}
}

func (w *routingWalk) matcher(matcher any) {
	switch m := matcher.(type) {
	case *caddyhttp.MatchHeader:
		for name := range *m {
			w.routing.Headers = append(w.routing.Headers, name)
		}
	case *caddyhttp.MatchHeaderRE:
		for name := range *m {
			w.routing.Headers = append(w.routing.Headers, name)
		}
	case *caddyhttp.MatchNot:
		for _, set := range m.MatcherSets {
			for _, matcher := range set {
				w.matcher(matcher)
			}
		}
	case *caddyhttp.MatchHost, *caddyhttp.MatchPath, *caddyhttp.MatchPathRE, *caddyhttp.MatchMethod, *caddyhttp.MatchQuery, *caddyhttp.MatchProtocol:
	default:
		w.routing.More = true
	}
}

func (w *routingWalk) handler(handler caddyhttp.MiddlewareHandler) {
	switch h := handler.(type) {
	case *caddyhttp.Subroute:
		w.routes(h.Routes)
	case *reverseproxy.Handler:
		if module, ok := h.Transport.(routed); ok {
			w.found = append(w.found, module)
		}
		w.responses(h.HandleResponse)
	case *intercept.Intercept:
		w.responses(h.HandleResponse)
	case *caddyauth.Authentication:
		w.routing.Headers = append(w.routing.Headers, "Authorization")
	case *rewrite.Rewrite:
		w.routing.Values = append(w.routing.Values, h.Method, h.URI)
	case *headers.Handler:
		if h.Request != nil {
			w.operations(h.Request)
		}
	}
}

func (w *routingWalk) responses(handlers []caddyhttp.ResponseHandler) {
	for _, h := range handlers {
		w.routes(h.Routes)
	}
}

func (w *routingWalk) operations(ops *headers.HeaderOps) {
	for _, set := range []http.Header{ops.Add, ops.Set} {
		for name, values := range set {
			w.routing.Values = append(append(w.routing.Values, name), values...)
		}
	}
	for _, replacements := range ops.Replace {
		for _, r := range replacements {
			w.routing.Values = append(w.routing.Values, r.Search, r.Replace)
		}
	}
}
