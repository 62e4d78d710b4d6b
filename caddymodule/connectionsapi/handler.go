// Package connectionsapi is the module http.handlers.connections_api: the part of the
// Apideck API with which applications import and manage connections.
package connectionsapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("connections_api", parse)
	httpcaddyfile.RegisterDirectiveOrder("connections_api", httpcaddyfile.Before, "respond") // and reverse_proxy
}

// requestTimeout is the timeout of a request to the API, including the reading of its body.
const requestTimeout = 30 * time.Second

// Handler serves the part of the Apideck API with which applications import and manage
// connections, below /vault/. Requests for other paths go to the next handler. Credentials
// are accepted but never returned.
type Handler struct {
	app     app
	logger  *slog.Logger
	batches *atomic.Int32 // in progress
}

// An app is what the handler needs from the app token_broker.
type app interface {
	Authenticate(header http.Header) (application string, err error)
	Broker() *broker.Broker
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.connections_api", New: func() caddy.Module { return new(Handler) }}
}

// parse parses the directive. Syntax:
//
//	connections_api [<matcher>]
func parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	api := &Handler{}
	return api, api.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile parses the directive, which takes no arguments.
func (api *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "connections_api"
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("unrecognized subdirective of connections_api: %s", d.Val())
	}
	return nil
}

// Provision gets the app.
func (api *Handler) Provision(ctx caddy.Context) error {
	api.logger, api.batches = ctx.Slogger(), new(atomic.Int32)
	tokenBroker, err := tokenbroker.FromContext(ctx)
	if err != nil {
		return err
	}
	api.app = tokenBroker
	return nil
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. It answers errors itself, because
// Caddy's error log would contain the request's headers.
func (api *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	parts, ok := vaultPath(r.URL)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	if err := api.serve(w, r, parts); err != nil {
		e := apierror.Of(err, time.Now())
		e.Log(r.Context(), api.logger)
		e.Write(w)
	}
	return nil
}

// vaultPath returns the decoded segments of the path after /vault, and whether the path
// begins with that. It splits before decoding, since consumer ids may contain slashes.
func vaultPath(u *url.URL) ([]string, bool) {
	path, ok := strings.CutPrefix(u.EscapedPath(), "/")
	if !ok {
		return nil, false
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		decoded, err := url.PathUnescape(part)
		if err != nil {
			return nil, false
		}
		parts[i] = decoded
	}
	return parts[1:], parts[0] == "vault"
}

// A request is an authenticated request: who sent it, and its path segments.
type request struct {
	application string
	path        []string
}

// A route is a path of the API and its methods.
type route struct {
	path    string // segments in braces match any value
	methods methods
}

// An operation is what a method of a path does.
type operation = func(*Handler, http.ResponseWriter, *http.Request, request) error

type methods = map[string]operation

// routes are the paths below /vault/.
var routes = []route{
	{"connections", methods{http.MethodGet: (*Handler).list}},
	{"connections/activate", methods{http.MethodPost: (*Handler).activate}},
	{"connections/standby", methods{http.MethodPost: (*Handler).enterStandby}},
	{"connections/import", methods{http.MethodPost: inTurn((*Handler).importBatch)}},
	{"connections/verify", methods{http.MethodPost: inTurn((*Handler).verifyBatch)}},
	{"connections/{unified_api}/{service_id}", methods{
		http.MethodGet: forConnection((*Handler).get), http.MethodPatch: forConnection((*Handler).update),
		http.MethodDelete: forConnection((*Handler).delete),
	}},
	{"connections/{unified_api}/{service_id}/import", methods{http.MethodPost: forConnection((*Handler).importConnection)}},
	{"connections/{unified_api}/{service_id}/token", methods{http.MethodPost: forConnection((*Handler).obtainToken)}},
	{"connections/{unified_api}/{service_id}/validate", methods{http.MethodPost: forConnection((*Handler).validate)}},
	{"consumers/{consumer_id}", methods{http.MethodDelete: (*Handler).deleteConsumer}},
}

// matches reports whether the route matches the path segments.
func (rt *route) matches(parts []string) bool {
	pattern := strings.Split(rt.path, "/")
	if len(pattern) != len(parts) {
		return false
	}
	for i, segment := range pattern {
		if segment != parts[i] && (segment[0] != '{' || parts[i] == "") {
			return false
		}
	}
	return true
}

// allowed returns the methods of the route for the Allow header.
func (rt *route) allowed() string {
	var names []string
	for name := range rt.methods {
		names = append(names, name)
		if name == http.MethodGet {
			names = append(names, http.MethodHead) // RFC 9110 section 9.1 requires HEAD wherever there is GET
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// serve authenticates first, so that an unauthenticated caller learns nothing.
func (api *Handler) serve(w http.ResponseWriter, r *http.Request, parts []string) error {
	application, err := api.app.Authenticate(r.Header)
	if err != nil {
		return err
	}
	if err := refuseLed(r); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()

	i := slices.IndexFunc(routes, func(rt route) bool { return rt.matches(parts) })
	if i < 0 {
		return &apierror.Error{
			Status: http.StatusNotFound, TypeName: "EntityNotFoundError",
			Message: "There is nothing at this path", Detail: "known paths: " + knownPaths(),
		}
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	serve, ok := routes[i].methods[method]
	if !ok {
		return &apierror.Error{
			Status: http.StatusMethodNotAllowed, TypeName: "MethodNotAllowedError",
			Message: "The method is not allowed here", Detail: "allowed: " + routes[i].allowed(), Allow: routes[i].allowed(),
		}
	}
	return serve(api, w, r.WithContext(ctx), request{application, parts})
}

func knownPaths() string {
	var known []string
	for _, rt := range routes {
		known = append(known, "/vault/"+rt.path)
	}
	return strings.Join(known, ", ")
}

// forConnection adapts an operation on a connection, which the path and the consumer header
// identify.
func forConnection(
	serve func(*Handler, http.ResponseWriter, *http.Request, record.Key) error,
) func(*Handler, http.ResponseWriter, *http.Request, request) error {
	return func(api *Handler, w http.ResponseWriter, r *http.Request, c request) error {
		consumer, err := apideck.RequiredValue(r.Header, apideck.ConsumerHeader)
		if err != nil {
			return err
		}
		key := record.Key{
			Application: c.application, Consumer: consumer,
			Connector: connector.ID{UnifiedAPI: c.path[1], ServiceID: c.path[2]},
		}
		if err := key.Validate(); err != nil {
			return err
		}
		return serve(api, w, r, key)
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
