package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apierror"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// defaultConsumer is where the consumer stands unless the configuration says otherwise.
const defaultConsumer = "{http.request.header.x-apideck-consumer-id}"

// Transport is a reverse_proxy transport that puts a valid credential into each
// request. It has the options of the http transport, without those that would lead a
// credential past the checks on where it goes: proxies, other resolvers, HTTP/3,
// certificates that are not verified.
//
// What is wrong on the broker's side is a response with the header
// X-Token-Broker-Error, so that reverse_proxy neither retries it nor holds it against
// the upstream's health. Errors of downstream are as with the http transport.
type Transport struct {
	*reverseproxy.HTTPTransport

	// The connector, `crm/hubspot`. Placeholders are evaluated for each request.
	Connector string `json:"connector,omitempty"`

	// The application that callers act for. Whoever reaches the listener may then use
	// its connections, so it should be on loopback. Without it callers authenticate:
	// x-apideck-app-id and Authorization: Bearer <api key>. Placeholders are evaluated
	// for each request.
	App string `json:"app,omitempty"`

	// The application's customer. Placeholders are evaluated for each request. Default:
	// `{http.request.header.x-apideck-consumer-id}`.
	Consumer string `json:"consumer,omitempty"`

	app     *tokenbroker.App
	logger  *slog.Logger
	private *http.Transport // may dial private addresses; the embedded one may not

	// The three above, prepared.
	connector, application, consumer requestValue

	callers  callerHeaders
	operator bool // reverse_proxy sets headers that could be confused with the caller's
	unread   bool // reverse_proxy can leave responses open
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.token_broker",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

// Provision makes the transports.
func (t *Transport) Provision(ctx caddy.Context) (err error) {
	t.logger = ctx.Slogger()
	if t.app, err = tokenbroker.FromContext(ctx); err != nil {
		return err
	}
	t.Consumer = cmp.Or(t.Consumer, defaultConsumer)
	if err := t.checkNames(); err != nil {
		return err
	}
	if err := t.checkOptions(); err != nil {
		return err
	}
	t.connector, t.application, t.consumer = prepareValue(t.Connector), prepareValue(t.App), prepareValue(t.Consumer)
	t.callers = newCallerHeaders(t.Connector, t.App, t.Consumer)
	t.operator = t.callers.mayBeSet(ctx)
	t.unread = mayLeaveUnread(ctx)
	t.warnOfUpstreams(ctx)
	return t.provisionTransports(ctx)
}

// warnOfUpstreams finds upstreams that the connector does not allow, where there are no
// placeholders in either: each request to them would be refused.
func (t *Transport) warnOfUpstreams(ctx caddy.Context) {
	proxy := parentProxy(ctx)
	if proxy == nil || !t.connector.isStatic {
		return
	}
	id, _ := connector.ParseID(t.Connector) // checkNames has found it
	config := t.app.Config()                // the one that is being provisioned
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
				"the connector allows no requests to this upstream: all will be refused; correct it, or add it to the connector's allow_host",
				slog.String("connector", id.String()), slog.String("upstream", scheme+"://"+upstream.Dial))
		}
	}
}

// parentProxy returns the reverse_proxy around the transport that is being provisioned,
// nil if it is none.
func parentProxy(ctx caddy.Context) *reverseproxy.Handler {
	lineage := ctx.Modules() // the transport last
	if len(lineage) < 2 {
		return nil
	}
	proxy, _ := lineage[len(lineage)-2].(*reverseproxy.Handler)
	return proxy
}

// mayLeaveUnread reports whether the reverse_proxy around this transport has handlers that
// answer in place of a response. If one of them panics, which is how Caddy ends an answer
// that breaks off, that response is never closed.
func mayLeaveUnread(ctx caddy.Context) bool {
	proxy := parentProxy(ctx)
	return proxy == nil || len(proxy.HandleResponse) > 0
}

// checkNames finds what is misspelt, where there is no placeholder in it.
func (t *Transport) checkNames() error {
	if t.Connector == "" {
		return errors.New("transport token_broker: connector is missing: transport token_broker <unified_api>/<service_id>")
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

// ActsFor returns the application that callers act for without a key of their own, if
// there is one, and the connector, both as they are configured.
func (t *Transport) ActsFor() (application, connector string) { return t.App, t.Connector }

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if isHealthCheck(req) {
		return t.checkHealth(t.direct(req.Context(), req, true))
	}
	key, err := t.authenticate(req)
	if err != nil {
		return t.refuse(req, err)
	}
	if err := checkUpstream(req); err != nil {
		return t.refuse(req, err)
	}
	if req.Method == http.MethodTrace || req.Method == http.MethodConnect {
		return t.refuse(req, apierror.MethodRefused())
	}
	admission, err := t.app.Broker().Admit(req.Context(), key)
	if err != nil {
		return t.refuse(req, err)
	}
	x := exchange.Exchange{Admission: admission, Via: t.transportFor(key.Connector), MaxBody: t.app.MaxRequestBody(key.Application)}
	answered := false
	defer func() { // by a panic, too
		if !answered {
			admission.Release()
		}
	}()
	ctx := x.Watch(req.Context())
	resp, err := x.Do(t.outgoing(ctx, req), func() *http.Request { return t.outgoing(ctx, req) })
	if err != nil {
		if refused, ok := errors.AsType[exchange.Refusal](err); ok {
			return t.refuse(req, refused.Unwrap())
		}
		return nil, err
	}
	resp.Request = req // what was sent has the credential
	releaseAtEnd(resp, admission)
	if t.unread {
		context.AfterFunc(req.Context(), admission.Release)
	}
	answered = true
	return resp, nil
}

// authenticate finds out whose connection the request is for.
func (t *Transport) authenticate(req *http.Request) (key broker.Key, err error) {
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return key, errors.New("the request has no replacer: the transport works in reverse_proxy only")
	}
	var sent http.Header
	if !t.operator { // nobody but the caller has set what is read here
		sent = req.Header
	}
	// Before anything else, so that who cannot do that learns nothing.
	if key.Application, err = t.applicationOf(repl, sent); err != nil {
		return key, err
	}
	key.Consumer = t.consumer.of(repl, sent)
	if key.Connector, err = connector.ParseID(t.connector.of(repl, sent)); err != nil {
		return key, fmt.Errorf("%w: %w", broker.ErrConnectorNotFound, err)
	}
	return key, nil // Admit says what is wrong with it
}

func (t *Transport) applicationOf(repl *caddy.Replacer, sent http.Header) (string, error) {
	if t.App == "" {
		// From the request as it came: RequestHeaderOps has removed these from the copy.
		header := make(http.Header)
		for _, name := range []string{"Authorization", apideck.AppHeader} {
			if value, _ := repl.GetString("http.request.header." + name); value != "" {
				header.Set(name, value)
			}
		}
		return t.app.Authenticate(header)
	}
	application := t.application.of(repl, sent)
	if !t.app.HasApplication(application) {
		return "", apierror.ErrUnauthorized
	}
	return application, nil
}

// checkUpstream refuses upstreams that have no host name: which of them a connector
// allows, nobody could say.
func checkUpstream(req *http.Request) error {
	info, ok := reverseproxy.GetDialInfo(req.Context())
	if ok && !strings.HasPrefix(info.Network, "tcp") {
		return fmt.Errorf("%w: the upstream %s is not a TCP address", broker.ErrHostNotAllowed, info)
	}
	return nil
}

// transportFor returns the transport for a connector's hosts.
func (t *Transport) transportFor(id connector.ID) *http.Transport {
	if t.app.AllowsPrivate(id) {
		return t.private
	}
	return t.Transport
}

// isHealthCheck reports whether req is an active health check of reverse_proxy: then no
// server has received it and given it variables. (It does have a server in its context,
// the one that the proxy was provisioned for.)
func isHealthCheck(req *http.Request) bool {
	return req.Context().Value(caddyhttp.VarsCtxKey) == nil
}

// checkHealth sends a health check as it is. It has no consumer, so it gets no
// credential, but it goes nowhere where one could not go.
func (t *Transport) checkHealth(out *http.Request) (*http.Response, error) {
	if err := checkUpstream(out); err != nil {
		return nil, err
	}
	id, _ := connector.ParseID(t.Connector) // with a placeholder in it: of no connector
	return t.transportFor(id).RoundTrip(out)
}

// refuse answers req with an error of the broker.
func (t *Transport) refuse(req *http.Request, err error) (*http.Response, error) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	if errors.Is(req.Context().Err(), context.Canceled) {
		return nil, context.Canceled // the caller is gone, which reverse_proxy holds against nobody
	}
	e := apierror.Of(err, time.Now())
	e.Log(req.Context(), t.logger)
	return e.Response(req), nil
}

// Cleanup closes connections that are idle. Requests of this configuration can still
// be under way.
func (t *Transport) Cleanup() error {
	if t.private != nil {
		t.private.CloseIdleConnections()
	}
	return t.HTTPTransport.Cleanup()
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
)
