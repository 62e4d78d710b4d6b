package proxy

import (
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/apideck"
)

// hasOwnCredential reports whether the request brings a credential of the caller's own.
func hasOwnCredential(r *http.Request) bool {
	return slices.ContainsFunc(r.Header[apideck.AuthorizationHeader], func(value string) bool { return value != "" })
}

// logInstead keeps the request out of Caddy's access log, which prints headers that it
// does not know for credentials. What it returns writes the line in its place, if the
// server has an access log: without headers and query.
func (p *passage) logInstead() (write func()) {
	ctx := p.r.Context()
	if ctx.Value(caddyhttp.VarsCtxKey) == nil {
		return func() {} // no server of Caddy's
	}
	caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true)
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return func() {}
	}
	// Before anything is changed on the way.
	begun, r := time.Now(), p.r
	clientIP, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	request := slog.Group("request",
		slog.String("remote_addr", r.RemoteAddr), slog.String("client_ip", clientIP), slog.String("proto", r.Proto),
		slog.String("method", r.Method), slog.String("host", r.Host), slog.String("path", r.URL.EscapedPath()))
	return func() {
		level := slog.LevelInfo
		if p.answer.status >= 500 {
			level = slog.LevelError
		}
		p.proxy.logger.LogAttrs(ctx, level, "handled request", request,
			slog.Int("status", p.answer.status), slog.Duration("duration", time.Since(begun)), slog.String("request_id", p.id))
	}
}
