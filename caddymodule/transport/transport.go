// Package transport is the module http.reverse_proxy.transport.token_broker.
package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// defaultConsumer is the default of [Transport.Consumer].
const defaultConsumer = "{http.request.header.x-apideck-consumer-id}"

// Transport is a reverse_proxy transport that adds a valid credential to each request. It
// has the options of the http transport, except those that would bypass the checks on where
// credentials are sent: proxies, other resolvers, HTTP/3, unverified certificates.
//
// Errors of the broker are responses with the header X-Token-Broker-Error, which
// reverse_proxy neither retries nor counts against the upstream's health. Errors of
// downstream are those of the http transport.
type Transport struct {
	*reverseproxy.HTTPTransport

	// The connector, `crm/hubspot`. Placeholders are evaluated for each request.
	Connector string `json:"connector,omitempty"`

	// The application that callers act for. Anyone who can reach the listener can then use
	// the application's connections, so it should be on loopback. If unset, callers
	// authenticate with x-apideck-app-id and Authorization: Bearer <api key>. Placeholders
	// are evaluated for each request.
	App string `json:"app,omitempty"`

	// The consumer, which is the application's customer. Placeholders are evaluated for each
	// request. Default: `{http.request.header.x-apideck-consumer-id}`.
	Consumer string `json:"consumer,omitempty"`

	// The maximum age of connections to downstream, so that changes of its addresses are
	// noticed; -1 is no limit. Requests in progress are not affected. Default: `5m`.
	MaxConnectionAge caddy.Duration `json:"max_connection_age,omitempty"`

	app     *tokenbroker.App
	logger  *slog.Logger
	public  *exchange.Pool // dials public addresses only
	private *exchange.Pool // dials private addresses too

	// App, Connector and Consumer, parsed.
	connector, application, consumer requestValue

	connectorID connector.ID // if Connector has no placeholders

	callers callerHeaders
	parent  parent
	policy  *atomic.Pointer[fields.Policy] // for headers of responses
	decides dependencies                   // what decides a response, as far as Provision can see
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.token_broker",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

// Provision checks the configuration and creates the transports.
func (t *Transport) Provision(ctx caddy.Context) (err error) {
	t.logger = ctx.Slogger()
	if t.app, err = tokenbroker.FromContext(ctx); err != nil {
		return err
	}
	t.Consumer = cmp.Or(t.Consumer, defaultConsumer)
	if err := t.checkNames(); err != nil {
		return err
	}
	if t.MaxConnectionAge < -1 {
		return errors.New("transport token_broker: max_connection_age must be greater than 0, or -1 for no limit")
	}
	if err := t.checkOptions(); err != nil {
		return err
	}
	t.connector, t.application, t.consumer = prepareValue(t.Connector), prepareValue(t.App), prepareValue(t.Consumer)
	t.callers = newCallerHeaders(t.Connector, t.App, t.Consumer)
	t.parent = parent{t.callers.mayBeSet(ctx), mayNameHost(ctx), mayLeaveUnread(ctx), mayRepeat(ctx), t.logger.Enabled(ctx, slog.LevelDebug)}
	t.app.AcceptHeaders(ctx)
	t.provisionAnswers(ctx)
	t.warnOfUpstreams(ctx)
	return t.provisionTransports(ctx)
}

// checkNames checks that the connector and the application are configured, unless they have
// placeholders.
func (t *Transport) checkNames() error {
	if t.Connector == "" {
		return errors.New("transport token_broker: connector is required: transport token_broker <unified_api>/<service_id>")
	}
	if !strings.Contains(t.Connector, "{") {
		id, err := connector.ParseID(t.Connector)
		if err != nil {
			return fmt.Errorf("transport token_broker: connector %w", err)
		}
		t.connectorID = id
		if t.app.Config().Connectors[id] == nil {
			return fmt.Errorf("transport token_broker: connector %s is not configured: add it to the global option token_broker", id)
		}
	}
	if t.App != "" && !strings.Contains(t.App, "{") && !t.app.HasApplication(t.App) {
		return fmt.Errorf("transport token_broker: app %s is not configured: add it to the global option token_broker", t.App)
	}
	return nil
}

// ActsFor returns the application that callers act for without authenticating, empty if
// they authenticate, and the connector. Placeholders are not evaluated.
func (t *Transport) ActsFor() (application, connector string) { return t.App, t.Connector }

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if isHealthCheck(req) {
		out := new(sending)
		t.direct(out, req, true)
		return t.checkHealth(&out.request)
	}
	body := newCallersBody(req)
	if err := exchange.CheckHeader(req, t.app.MaxRequestHeader()); err != nil {
		return t.refuse(req, body, err)
	}
	key, err := t.authenticate(req)
	if err != nil {
		return t.refuse(req, body, err)
	}
	if err := checkUpstream(req); err != nil {
		return t.refuse(req, body, err)
	}
	if req.Method == http.MethodTrace || req.Method == http.MethodConnect {
		return t.refuse(req, body, apierror.MethodRefused())
	}
	admission, err := t.app.Broker().Admit(req.Context(), key)
	if err != nil {
		return t.refuse(req, body, err)
	}
	c := &call{transport: t, req: req, body: body}
	c.Admission, c.Via, c.MaxBody = admission, t.pool(admission.AllowsPrivate()), t.app.MaxRequestBody(key.Application)
	if t.parent.callerNamesHost {
		c.Authorize = admission.AuthorizeNamed
	}
	defer func() { // deferred to run on a panic, too
		if !c.isAnswered {
			admission.Release()
		}
	}()
	return c.send()
}

// failed handles the error of an exchange.
func (t *Transport) failed(req *http.Request, body *callersBody, err error) (*http.Response, error) {
	refused, isRefused := errors.AsType[exchange.BrokerError](err)
	fault := body.fault()
	switch {
	case isRefused:
		err = refused.Unwrap()
	case fault != nil:
		err = fault
	default:
		return nil, err
	}
	return t.refuse(req, body, err)
}

// authenticate returns the connection that the request is for.
func (t *Transport) authenticate(req *http.Request) (key record.Key, err error) {
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return key, errors.New("the request has no replacer: the transport only works in reverse_proxy")
	}
	var sent http.Header
	if !t.parent.setsHeaders { // these headers can only be the caller's
		sent = req.Header
	}
	// Before the rest, so that an unauthenticated caller learns nothing.
	if key.Application, err = t.applicationOf(repl, sent); err != nil {
		return key, err
	}
	if err := t.callers.checkOnce(sent); err != nil {
		return key, err
	}
	key.Consumer = t.consumer.resolve(repl, sent)
	if t.connector.isStatic {
		key.Connector = t.connectorID
		return key, nil // Admit validates it
	}
	if key.Connector, err = connector.ParseID(t.connector.resolve(repl, sent)); err != nil {
		return key, fmt.Errorf("%w: %w", record.ErrConnectorNotFound, err)
	}
	return key, nil
}

func (t *Transport) applicationOf(repl *caddy.Replacer, sent http.Header) (string, error) {
	if t.App == "" {
		// From the original request: RequestHeaderOps has removed these from the copy.
		header := make(http.Header)
		for _, name := range []string{"Authorization", apideck.AppHeader} {
			if _, err := apideck.OnlyValue(sent, name); err != nil {
				return "", err
			}
			if value, _ := repl.GetString("http.request.header." + name); value != "" {
				header.Set(name, value)
			}
		}
		return t.app.Authenticate(header)
	}
	if t.application.isStatic {
		return t.App, nil // checkNames has checked it
	}
	application := t.application.resolve(repl, sent)
	if !t.app.HasApplication(application) {
		return "", apierror.ErrUnauthorized
	}
	return application, nil
}

// checkUpstream refuses upstreams without a host, such as Unix sockets: a connector's
// allowed hosts cannot cover them. It also refuses request targets such as `a:b`, which
// would replace the path.
func checkUpstream(req *http.Request) error {
	if req.URL.Opaque != "" {
		return &record.InputError{Kind: record.InputSyntax, Field: "the request target", Fault: "has no path", Fix: "send a path"}
	}
	info, ok := reverseproxy.GetDialInfo(req.Context())
	if ok && !strings.HasPrefix(info.Network, "tcp") {
		return fmt.Errorf("%w: the upstream %s is not a TCP address", record.ErrHostNotAllowed, info)
	}
	return nil
}

// pool returns the connections to a connector's hosts.
func (t *Transport) pool(allowsPrivate bool) *exchange.Pool {
	if allowsPrivate {
		return t.private
	}
	return t.public
}

// refuse answers req with an error of the broker.
func (t *Transport) refuse(req *http.Request, body *callersBody, err error) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	if errors.Is(req.Context().Err(), context.Canceled) && !errors.Is(err, io.ErrUnexpectedEOF) { // a caller that sent half can still read
		return nil, context.Canceled // the caller is gone; reverse_proxy blames no upstream for this
	}
	e := apierror.Of(err, time.Now())
	e.Log(req.Context(), t.logger)
	resp := e.Response(req)
	body.endConnection(resp)
	return resp, nil
}

// Cleanup closes idle connections. Requests of this configuration may still be in progress.
func (t *Transport) Cleanup() error {
	t.public.Close()
	t.private.Close()
	return t.HTTPTransport.Cleanup()
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ interface{ RoutedBy(tokenbroker.Routing) }       = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
)
