package tokenbroker

import (
	"log/slog"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// warnOfOpenListeners warns of transports that act for an application without
// authentication on listeners that other machines can reach. It runs once everything is
// provisioned, because a transport does not know which listeners it serves.
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
					"anyone who can reach this listener can use the application's connections; add `bind 127.0.0.1` to the site, or remove `app` so that callers authenticate",
					slog.String("listener", address), slog.String("app", t.application), slog.String("connector", t.connector))
			}
		}
	}
}

// A delegate is a transport that may act for an application without authenticating callers.
type delegate interface {
	// ActsFor returns the application, empty if callers authenticate, and the connector.
	ActsFor() (application, connector string)
}

// An openTransport is a transport that does not authenticate callers.
type openTransport struct{ application, connector string }

// openTransportsOf returns the open transports of a server.
func openTransportsOf(server *caddyhttp.Server) []openTransport {
	found := openTransports(server.Routes)
	if server.Errors != nil {
		found = append(found, openTransports(server.Errors.Routes)...)
	}
	for _, route := range server.NamedRoutes { // reached with `invoke`
		found = append(found, openTransports(caddyhttp.RouteList{*route})...)
	}
	return found
}

// openTransports returns the open transports in routes.
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

// openTransportsAfter returns the open transports that handle responses.
func openTransportsAfter(responses []caddyhttp.ResponseHandler) []openTransport {
	var found []openTransport
	for _, response := range responses {
		found = append(found, openTransports(response.Routes)...)
	}
	return found
}

// isLocal reports whether only this machine can reach the listener.
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
