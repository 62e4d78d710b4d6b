// Package proxy is the module http.handlers.downstream_proxy: the Proxy API, which sends a
// caller's request to the URL that the caller names.
package proxy

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/exchange"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/fields"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Defaults of a [Handler].
const (
	defaultTimeout    = 28 * time.Second // as in the Apideck API
	defaultMaxTimeout = 2 * time.Minute
)

// Handler is the Proxy API: it forwards requests for /proxy and below to the URL in the
// header x-apideck-downstream-url, with the credential of the consumer's connection.
// Requests for other paths go to the next handler.
//
// The path below /proxy is appended to the URL's path, and the request's query to the URL's
// query. Bodies, event streams and upgraded connections (WebSocket) are passed on unchanged,
// as they arrive. Redirects are returned to the caller.
//
// A request with its own credential, in x-apideck-downstream-authorization, is left out of
// the access log, which would print that header; the handler logs it itself.
type Handler struct {
	// How long downstream may take to begin its response after the last byte of the request
	// arrived from the caller. The response body has no time limit. Callers can choose
	// another timeout with the header x-apideck-timeout, in milliseconds. Default: `28s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The longest timeout that callers can choose; longer ones are reduced to it. Default:
	// `2m`, or the timeout if that is longer.
	MaxTimeout caddy.Duration `json:"max_timeout,omitempty"`

	// The certificate authorities to trust. Default: those of the system.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// The maximum age of connections to downstream, so that changes of its addresses are
	// noticed; -1 is no limit. Requests in progress are not affected. Default: `5m`.
	MaxConnectionAge caddy.Duration `json:"max_connection_age,omitempty"`

	app     *tokenbroker.App
	logger  *slog.Logger
	public  *exchange.Pool // dials public addresses only
	private *exchange.Pool // dials private addresses too
	policy  fields.Policy  // for headers of responses
	tunnels *tunnels
	alarms  *sync.Pool // of *alarm
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.downstream_proxy", New: func() caddy.Module { return new(Handler) }}
}

// Provision creates the transports.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.logger = ctx.Slogger()
	if h.app, err = tokenbroker.FromContext(ctx); err != nil {
		return err
	}
	if h.Timeout < 0 || h.MaxTimeout < 0 {
		return errors.New("downstream_proxy: timeout and max_timeout must not be negative")
	}
	if h.MaxConnectionAge < -1 {
		return errors.New("downstream_proxy: max_connection_age must be greater than 0, or -1 for no limit")
	}
	if h.Timeout == 0 {
		h.Timeout = caddy.Duration(defaultTimeout)
	}
	if h.MaxTimeout == 0 {
		h.MaxTimeout = max(h.Timeout, caddy.Duration(defaultMaxTimeout))
	}
	if h.MaxTimeout < h.Timeout {
		return fmt.Errorf("downstream_proxy: max_timeout %s is less than timeout %s", time.Duration(h.MaxTimeout), time.Duration(h.Timeout))
	}
	h.tunnels, h.alarms = newTunnels(), newAlarms()
	h.app.AcceptHeaders(ctx)
	h.policy = fields.Policy{IsProxy: true, Vary: vary, Own: h.app.Authorities()}
	return h.provisionTransports(ctx)
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. It answers errors itself, because
// Caddy's error log would contain the request's headers.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	below, ok := belowProxy(r.URL)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	p := &passage{proxy: h, caller: callersRequest{w: w, r: r, below: below, id: [1]string{newRequestID()}}}
	w.Header()[apideck.RequestIDHeader] = p.caller.id[:]
	if hasOwnCredential(r) {
		defer p.logInstead()()
	}
	if err := p.serve(); err != nil {
		p.fail(err)
	}
	return nil
}

// newRequestID returns a random UUID (RFC 9562 section 5.4). It need not be unpredictable,
// so it does not use the slower crypto/rand.
func newRequestID() string {
	var id uuid.UUID
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // variant
	return id.String()
}

// belowProxy returns the part of the path below /proxy, percent-encoded as received, and
// whether the path is /proxy or below it. An encoded slash is not a separator.
func belowProxy(u *url.URL) (below string, ok bool) {
	const root = "/proxy"
	if !strings.HasPrefix(u.Path, root) {
		return "", false
	}
	if u.RawPath == "" {
		below = u.Path[len(root):]
		if below == "" {
			return "", true
		}
		return strings.TrimPrefix(u.EscapedPath(), root), below[0] == '/'
	}
	escaped := u.RawPath // EscapedPath would decode it if it had a space, which HTTP/2 carries
	if decoded, err := url.PathUnescape(escaped); err != nil || decoded != u.Path {
		escaped = u.EscapedPath() // another handler has rewritten the path
	}
	first, rest, slash := strings.Cut(strings.TrimPrefix(escaped, "/"), "/")
	if decoded, err := url.PathUnescape(first); err != nil || "/"+decoded != root {
		return "", false
	}
	if slash {
		rest = "/" + rest
	}
	return rest, true
}

// pool returns the connections to a connector's hosts.
func (h *Handler) pool(allowsPrivate bool) *exchange.Pool {
	if allowsPrivate {
		return h.private
	}
	return h.public
}

// Cleanup closes upgraded connections, which would otherwise outlive their configuration,
// and idle connections to downstream. Requests in progress are not affected.
func (h *Handler) Cleanup() error {
	if h.tunnels != nil {
		h.tunnels.close()
	}
	h.public.Close()
	h.private.Close()
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
