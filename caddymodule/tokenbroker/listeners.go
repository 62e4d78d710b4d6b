package tokenbroker

import (
	"log/slog"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// warnOfOpenListeners warns of transports that let whoever reaches them act for an
// application, where that is not only this machine. It is called when everything is
// provisioned; a transport by itself does not know what it is behind.
func (a *App) warnOfOpenListeners() {
	mod, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	app, ok := mod.(*caddyhttp.App)
	if !ok {
		return
	}
	for _, server := range app.Servers {
		for _, address := range server.Listen {
			if isLocal(address) {
				continue
			}
			for _, t := range openTransportsOf(server) {
				a.logger.LogAttrs(a.ctx, slog.LevelWarn,
					"anybody who reaches this listener can use the application's connections; add `bind 127.0.0.1` to the site, or remove `app` so that callers authenticate",
					slog.String("listener", address), slog.String("app", t.application), slog.String("connector", t.connector))
			}
		}
	}
}

// A delegate is a transport that can act for an application without asking who calls.
type delegate interface {
	// ActsFor returns the application, empty if callers authenticate, and the connector.
	ActsFor() (application, connector string)
}

// An openTransport is a transport that callers need no key for.
type openTransport struct{ application, connector string }

// openTransportsOf returns the transports of a server that callers need no key for.
func openTransportsOf(server *caddyhttp.Server) []openTransport {
	found := openTransports(server.Routes)
	if server.Errors != nil {
		found = append(found, openTransports(server.Errors.Routes)...)
	}
	for _, route := range server.NamedRoutes { // which a request can be sent on to
		found = append(found, openTransports(caddyhttp.RouteList{*route})...)
	}
	return found
}

// openTransports returns those in routes.
func openTransports(routes caddyhttp.RouteList) []openTransport {
	var found []openTransport
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				found = append(found, openTransports(handler.Routes)...)
			case *reverseproxy.Handler:
				if t, ok := handler.Transport.(delegate); ok {
					if application, connector := t.ActsFor(); application != "" {
						found = append(found, openTransport{application, connector})
					}
				}
				found = append(found, openTransportsAfter(handler.HandleResponse)...)
			case *intercept.Intercept:
				found = append(found, openTransportsAfter(handler.HandleResponse)...)
			}
		}
	}
	return found
}

// openTransportsAfter returns those that a response can lead to.
func openTransportsAfter(responses []caddyhttp.ResponseHandler) []openTransport {
	var found []openTransport
	for _, response := range responses {
		found = append(found, openTransports(response.Routes)...)
	}
	return found
}

// isLocal reports whether only this machine can reach a listener.
func isLocal(listen string) bool {
	address, err := caddy.ParseNetworkAddress(listen)
	if err != nil {
		return false
	}
	if address.IsUnixNetwork() || address.IsFdNetwork() || address.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(address.Host)
	return err == nil && ip.IsLoopback()
}
