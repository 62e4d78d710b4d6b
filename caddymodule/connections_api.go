package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

func init() {
	caddy.RegisterModule(ConnectionsAPI{})
	httpcaddyfile.RegisterHandlerDirective("connections_api", parseConnectionsAPI)
	httpcaddyfile.RegisterDirectiveOrder("connections_api", httpcaddyfile.Before, "respond") // and reverse_proxy
}

// requestTimeout bounds a request to the API, the reading of its body included.
const requestTimeout = 30 * time.Second

// ConnectionsAPI is the part of the Vault API by which applications import
// connections and look at them, below /vault/. Requests for other paths go on to the
// next handler. Credentials come in and never go out.
type ConnectionsAPI struct {
	app    *App
	logger *slog.Logger
}

// CaddyModule returns the Caddy module information.
func (ConnectionsAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.connections_api", New: func() caddy.Module { return new(ConnectionsAPI) }}
}

// parseConnectionsAPI reads the directive. Syntax:
//
//	connections_api [<matcher>]
func parseConnectionsAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	api := &ConnectionsAPI{}
	return api, api.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the directive, which takes no arguments.
func (api *ConnectionsAPI) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // "connections_api"
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("unrecognized subdirective of connections_api: %s", d.Val())
	}
	return nil
}

// Provision finds the app.
func (api *ConnectionsAPI) Provision(ctx caddy.Context) (err error) {
	api.logger = ctx.Slogger()
	api.app, err = loadApp(ctx)
	return err
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. Errors are answered here, for
// Caddy's error log would print the request's headers.
func (api *ConnectionsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/vault")
	if !ok || path != "" && path[0] != '/' {
		return next.ServeHTTP(w, r)
	}
	if err := api.serve(w, r, path); err != nil {
		e := apiErrorOf(err, time.Now())
		e.log(r.Context(), api.logger)
		e.write(w)
	}
	return nil
}

// serve authenticates before anything else, so that who cannot do that learns nothing.
func (api *ConnectionsAPI) serve(w http.ResponseWriter, r *http.Request, path string) error {
	application, err := api.app.authenticate(r.Header)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	r = r.WithContext(ctx)

	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case len(parts) == 3 && parts[0] == "connections":
		return api.serveConnection(w, r, application, parts[1], parts[2], api.get, http.MethodGet, http.MethodHead)
	case len(parts) == 4 && parts[0] == "connections" && parts[3] == "import":
		return api.serveConnection(w, r, application, parts[1], parts[2], api.importConnection, http.MethodPost)
	default:
		return &apiError{
			status: http.StatusNotFound, typeName: "EntityNotFoundError",
			message: "There is nothing at this path", detail: "known are " +
				"GET /vault/connections/{unified_api}/{service_id} and POST /vault/connections/{unified_api}/{service_id}/import",
		}
	}
}

func (api *ConnectionsAPI) serveConnection(
	w http.ResponseWriter, r *http.Request, application, unifiedAPI, serviceID string,
	serve func(http.ResponseWriter, *http.Request, broker.Key) error, methods ...string,
) error {
	if !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return &apiError{
			status: http.StatusMethodNotAllowed, typeName: "MethodNotAllowedError",
			message: "The method is not allowed here", detail: "allowed: " + strings.Join(methods, ", "),
		}
	}
	consumer, err := requiredValue(r.Header, consumerHeader)
	if err != nil {
		return err
	}
	key := broker.Key{
		Application: application, Consumer: consumer,
		Connector: connector.ID{UnifiedAPI: unifiedAPI, ServiceID: serviceID},
	}
	if err := key.Validate(); err != nil {
		return err
	}
	return serve(w, r, key)
}

func (api *ConnectionsAPI) get(w http.ResponseWriter, r *http.Request, key broker.Key) error {
	conn, err := api.app.shared.broker.Connection(r.Context(), key)
	if err != nil {
		return err
	}
	return writeData(w, wireConnection(conn))
}

func (api *ConnectionsAPI) importConnection(w http.ResponseWriter, r *http.Request, key broker.Key) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	imp, err := broker.ParseImport(body)
	if err != nil {
		return err
	}
	conn, outcome, err := api.app.shared.broker.Import(r.Context(), key, imp)
	if err != nil {
		return err
	}
	w.Header().Set(broker.ImportHeader, string(outcome))
	return writeData(w, wireConnection(conn))
}

// readBody reads the body of an import, which is small and should be here soon.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Not every ResponseWriter can, and then the server's own timeouts have to do.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(requestTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, broker.MaxImportBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &apiError{
			status: http.StatusRequestEntityTooLarge, typeName: "RequestEntityTooLargeError",
			message: "The body is too large", detail: fmt.Sprintf("an import has at most %d bytes", tooLarge.Limit),
		}
	}
	if err != nil {
		return nil, &broker.InputError{Kind: broker.BadSyntax, Fault: "the body could not be read to its end", Fix: "send it again"}
	}
	return body, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*ConnectionsAPI)(nil)
	_ caddyfile.Unmarshaler       = (*ConnectionsAPI)(nil)
	_ caddyhttp.MiddlewareHandler = (*ConnectionsAPI)(nil)
)
