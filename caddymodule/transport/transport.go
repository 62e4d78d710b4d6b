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

	callers             callerHeaders
	policy              *atomic.Pointer[fields.Policy] // for headers of responses
	decides             dependencies                   // what decides a response, as far as Provision can see
	operatorSetsHeaders bool                           // reverse_proxy may set headers that are otherwise the caller's
	callerMayNameHost   bool                           // reverse_proxy may set Host to something of the request
	leavesUnread        bool                           // reverse_proxy may leave response bodies open
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
	t.operatorSetsHeaders, t.callerMayNameHost = t.callers.mayBeSet(ctx), mayNameHost(ctx)
	t.leavesUnread = mayLeaveUnread(ctx)
	t.app.AcceptHeaders(ctx)
	t.provisionAnswers(ctx)
	t.warnOfUpstreams(ctx)
	return t.provisionTransports(ctx)
}

// warnOfUpstreams warns of upstreams that the connector does not allow, since every request
// to them would be refused. It skips upstreams and connectors with placeholders.
func (t *Transport) warnOfUpstreams(ctx caddy.Context) {
	proxy := parentProxy(ctx)
	if proxy == nil || !t.connector.isStatic {
		return
	}
	id, _ := connector.ParseID(t.Connector) // checkNames has parsed it
	config := t.app.Config()                // not that of the broker, which still has the old one
	scheme := "http"
	if t.TLS != nil {
		scheme = "https"
	}
	for _, upstream := range proxy.Upstreams {
		if upstream == nil || strings.Contains(upstream.Dial, "{") {
			continue
		}
		target, err := connector.ParseTarget(scheme+"://"+upstream.Dial, "", "")
		if err != nil || !config.MayAllow(config.Connectors[id], target) {
			t.logger.LogAttrs(ctx, slog.LevelWarn,
				"the connector does not allow this upstream, so every request will be refused; correct it, or add it to the connector's allow_host",
				slog.String("connector", id.String()), slog.String("upstream", scheme+"://"+upstream.Dial))
		}
	}
}

// parentProxy returns the reverse_proxy that the transport being provisioned belongs to, nil
// if its parent is something else.
func parentProxy(ctx caddy.Context) *reverseproxy.Handler {
	lineage := ctx.Modules() // ends with the transport
	if len(lineage) < 2 {
		return nil
	}
	proxy, _ := lineage[len(lineage)-2].(*reverseproxy.Handler)
	return proxy
}

// mayLeaveUnread reports whether the parent reverse_proxy has handle_response routes. If one
// of them panics, which is how Caddy aborts a response, reverse_proxy never closes the body
// of downstream's response.
func mayLeaveUnread(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	return proxy == nil || len(proxy.HandleResponse) > 0
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
		return t.checkHealth(t.direct(req.Context(), req, true))
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
	x := exchange.Exchange{Admission: admission, Via: t.transportFor(key.Connector), MaxBody: t.app.MaxRequestBody(key.Application)}
	if t.callerMayNameHost {
		x.Authorize = admission.AuthorizeNamed
	}
	answered := false
	defer func() { // deferred to run on a panic, too
		if !answered {
			admission.Release()
		}
	}()
	ctx := x.Watch(req.Context())
	outgoing := func() *http.Request { return t.outgoing(ctx, req, body, key.Connector) }
	out := outgoing()
	x.Response = fields.Response{Policy: t.policy.Load(), Caller: req, Scheme: out.URL.Scheme, Host: out.URL.Host, Path: req.URL}
	resp, err := x.Do(out, outgoing)
	if err != nil {
		return t.failed(req, body, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && !wasAsked(req, resp) {
		_ = resp.Body.Close()
		return t.refuse(req, body, apierror.ErrBadResponse)
	}
	resp.Request = req // the outgoing copy carries the credential
	body.endConnection(resp)
	releaseAtEnd(resp, &x)
	if t.leavesUnread {
		context.AfterFunc(req.Context(), admission.Release)
	}
	answered = true
	return resp, nil
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
	if !t.operatorSetsHeaders { // these headers can only be the caller's
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
	if key.Connector, err = connector.ParseID(t.connector.resolve(repl, sent)); err != nil {
		return key, fmt.Errorf("%w: %w", record.ErrConnectorNotFound, err)
	}
	return key, nil // Admit validates it
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

// transportFor returns the transport for a connector's hosts.
func (t *Transport) transportFor(id connector.ID) *exchange.Pool {
	if t.app.AllowsPrivate(id) {
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
