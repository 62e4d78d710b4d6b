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

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// The defaults of a [Handler].
const (
	defaultTimeout    = 28 * time.Second // the Proxy API's
	defaultMaxTimeout = 2 * time.Minute
)

// Handler is the Proxy API: it sends requests for /proxy, and for all that is
// below it, on to the URL in the header x-apideck-downstream-url, with the credential of
// the consumer's connection. Requests for other paths go on to the next handler.
//
// What is below /proxy is added to the URL's path, and the request's query to the URL's
// query. Bodies, events and upgraded connections (WebSocket) pass byte for byte as they
// come. Redirects are handed to the caller.
//
// A request whose x-apideck-downstream-authorization brings a credential of the caller's
// own is kept out of the access log, which would print it; this handler's log has a line
// about it instead.
type Handler struct {
	// How long downstream may take to begin its response, counted from the last byte of
	// the request that came from the caller. The response's body may take as long as it
	// does. Callers choose another with the header x-apideck-timeout, in milliseconds.
	// Default: `28s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The longest timeout that callers can choose; more counts as this. Default: `2m`,
	// or the timeout if that is longer.
	MaxTimeout caddy.Duration `json:"max_timeout,omitempty"`

	// Whose certificates are trusted. Default: those that the system trusts.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	app     *tokenbroker.App
	logger  *slog.Logger
	public  *http.Transport // dials public addresses only
	private *http.Transport // and private ones too
	tunnels *tunnels
	alarms  *sync.Pool // of *alarm
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.downstream_proxy", New: func() caddy.Module { return new(Handler) }}
}

// Provision makes the transports.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.logger = ctx.Slogger()
	if h.app, err = tokenbroker.FromContext(ctx); err != nil {
		return err
	}
	if h.Timeout < 0 || h.MaxTimeout < 0 {
		return errors.New("downstream_proxy: timeout and max_timeout must not be negative")
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
	return h.provisionTransports(ctx)
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. Errors are answered here, for
// Caddy's error log would print the request's headers.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	below, ok := belowProxy(r.URL)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	p := &passage{proxy: h, w: w, r: r, below: below, id: newRequestID()}
	w.Header()[apideck.RequestIDHeader] = []string{p.id}
	if hasOwnCredential(r) {
		defer p.logInstead()()
	}
	if err := p.serve(); err != nil {
		p.fail(err)
	}
	return nil
}

// newRequestID returns a random UUID (RFC 9562 section 5.4). It is for finding a request
// again, and no secret: the kernel is not asked for each.
func newRequestID() string {
	var id uuid.UUID
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // variant
	return id.String()
}

// belowProxy returns what stands below /proxy, percent-encoded as it came, and whether
// the path is /proxy or below it at all. A slash that is percent-encoded is none.
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
	first, rest, slash := strings.Cut(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if decoded, err := url.PathUnescape(first); err != nil || "/"+decoded != root {
		return "", false
	}
	if slash {
		rest = "/" + rest
	}
	return rest, true
}

// transportFor returns the transport for a connector's hosts.
func (h *Handler) transportFor(id connector.ID) *http.Transport {
	if h.app.AllowsPrivate(id) {
		return h.private
	}
	return h.public
}

// Cleanup ends upgraded connections, which would go on by a configuration that is no
// longer valid, and closes those to downstream that are idle. Requests can still be
// under way and are not disturbed.
func (h *Handler) Cleanup() error {
	if h.tunnels != nil {
		h.tunnels.close()
	}
	for _, transport := range []*http.Transport{h.public, h.private} {
		if transport != nil {
			transport.CloseIdleConnections()
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
