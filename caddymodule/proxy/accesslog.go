package proxy

import (
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
)

// hasOwnCredential reports whether the request has the caller's own credential: in the header
// for it or, if that says none, probably in the URL.
func hasOwnCredential(r *http.Request) bool {
	return slices.ContainsFunc(r.Header[apideck.AuthorizationHeader], func(value string) bool { return value != "" })
}

// logInstead keeps the request out of Caddy's access log, which would print the header with
// the caller's credential. The function it returns logs the request, without headers and
// query, if the server has an access log.
func (p *passage) logInstead() (write func()) {
	ctx := p.caller.r.Context()
	if ctx.Value(caddyhttp.VarsCtxKey) == nil {
		return func() {} // not in a Caddy server
	}
	caddyhttp.SetVar(ctx, caddyhttp.LogSkipVar, true)
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return func() {}
	}
	// Taken now, before handlers change the request.
	begun, r := time.Now(), p.caller.r
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
			slog.Int("status", p.answer.status), slog.Duration("duration", time.Since(begun)), slog.String("request_id", p.caller.id[0]))
	}
}
