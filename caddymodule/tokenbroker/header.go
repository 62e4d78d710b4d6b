package tokenbroker

import (
	"cmp"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// caddysMaxHeader is the limit of a server that sets none. Caddy does not export it.
const caddysMaxHeader = 16 << 10

// AcceptHeaders makes the server of the handler that is being provisioned read larger headers
// than Caddy's default, so that it is the broker that refuses them: a server's own 431 is plain
// text and says nothing of the limit. A max_header_size of the operator stays.
func (a *App) AcceptHeaders(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if ok && a.Limits.RequestHeader != noLimit && server.MaxHeaderBytes == caddysMaxHeader {
		server.MaxHeaderBytes = max(http.DefaultMaxHeaderBytes, 2*int(a.MaxRequestHeader()))
	}
}

// MaxRequestHeader returns the maximum size of a request's line and header in bytes, -1 for no
// limit.
func (a *App) MaxRequestHeader() int64 {
	return cmp.Or(a.Limits.RequestHeader, defaultMaxRequestHeader)
}
