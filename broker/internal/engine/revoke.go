package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tokenendpoint"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Unlike redeeming a refresh token, revoking one can be repeated: that it is already revoked
// is no error (RFC 7009 section 2.2).
const (
	revocationTries = 3
	revocationPause = time.Second // before the second try, and twice that before the third
)

// A revocation revokes the grant of a connection that is gone (RFC 7009).
type revocation struct {
	cfg      *record.Config
	conn     *record.Connector
	key      record.Key
	settings map[string]any // the connection's, for the endpoint's URL
	token    secret.String
	hint     string // token_type_hint (RFC 7009 section 2.1)
}

// newRevocation returns the revocation of a refresh token or, without one, of an access
// token. It is nil without a token, or without a revocation endpoint.
func newRevocation(cfg *record.Config, conn *record.Connector, key record.Key, settings map[string]any, access, refresh secret.String) *revocation {
	if conn == nil || conn.AuthType != connector.OAuth2 || conn.RevocationURL == "" {
		return nil
	}
	rv := &revocation{cfg: cfg, conn: conn, key: key, settings: settings, token: refresh, hint: "refresh_token"}
	if refresh.IsZero() {
		rv.token, rv.hint = access, "access_token"
	}
	if rv.token.IsZero() {
		return nil
	}
	return rv
}

// revoke revokes in the background. The outcome is only logged and traced. rv may be nil.
func (e *Engine) revoke(cause context.Context, rv *revocation) {
	if rv != nil && !e.lifecycle.begin(func() { e.carryOut(cause, rv) }) {
		rv.report(context.Background(), trace.SpanFromContext(cause), record.ErrShuttingDown)
	}
}

// revokeLate is revoke for a token response that arrived after its connection was deleted.
// Its caller runs in a goroutine that Close waits for, so while the broker is closing the
// caller revokes the token itself.
func (e *Engine) revokeLate(cause context.Context, rv *revocation) {
	if rv != nil && !e.lifecycle.begin(func() { e.carryOut(cause, rv) }) {
		e.carryOut(cause, rv)
	}
}

// carryOut revokes, with the timeout of a token request.
func (e *Engine) carryOut(cause context.Context, rv *revocation) {
	ctx, span := e.tracing.StartRoot(context.Background(), cause, "token_broker.revoke",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(tracing.ConnectorAttribute(rv.key)))
	ctx, cancel := context.WithTimeout(ctx, rv.cfg.RequestTimeout())
	defer cancel()
	err := e.tryToRevoke(ctx, rv)
	rv.report(ctx, span, err)
	tracing.EndSpan(span, err)
}

func (e *Engine) tryToRevoke(ctx context.Context, rv *revocation) error {
	for try := 1; ; try++ {
		if e.isConnectedAgain(ctx, rv.key) {
			return errConnectedAgain
		}
		err := e.sendRevocation(ctx, rv)
		if err == nil || !errors.Is(err, tokenendpoint.ErrRevokeLater) || try == revocationTries {
			return err
		}
		// No request is in progress between two tries, so the broker may close.
		if e.clock.Sleep(e.lifecycle.ctx, time.Duration(try)*revocationPause) != nil || ctx.Err() != nil {
			return err
		}
	}
}

// isConnectedAgain reports whether a deleted connection has been imported again. The import
// may have brought another token of the same grant, which cannot be told from outside, and
// revoking one token of a grant ends all of them (RFC 7009 section 2.1).
func (e *Engine) isConnectedAgain(ctx context.Context, key record.Key) bool {
	rec, _, err := e.Load(ctx, key)
	return err == nil && !rec.IsTombstone() && rec.Credentials != nil
}

// Errors that prevent a revocation.
var (
	errConnectedAgain = errors.New("the connection was imported again, possibly with the same grant")
)

// sendRevocation sends one revocation request. The same addresses are allowed as for token
// requests.
func (e *Engine) sendRevocation(ctx context.Context, rv *revocation) error {
	endpoint, err := rv.conn.RenderRevocationURL(rv.settings)
	if err != nil {
		return tokenendpoint.ErrRevokeTarget
	}
	client, _ := rv.conn.ClientFor(rv.settings)
	return tokenendpoint.Revoke(ctx, e.transport(rv.cfg.AllowsPrivate(rv.conn)), tokenendpoint.Revocation{
		URL: endpoint, Client: client, Style: rv.conn.AuthStyleFor(client), Token: rv.token, Hint: rv.hint,
	})
}

// report logs the outcome of the revocation, and records it in the span.
func (rv *revocation) report(ctx context.Context, span trace.Span, err error) {
	level, msg := slog.LevelInfo, "the grant of a deleted connection was revoked at the provider"
	attrs := []slog.Attr{slog.String("connection", rv.key.String()), slog.String("token", rv.hint)}
	span.SetAttributes(attribute.Bool("token_broker.revoked", err == nil))
	if err != nil {
		level = slog.LevelWarn
		msg = "the grant of a deleted connection could not be revoked at the provider; it lasts until it expires or the customer withdraws it there"
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if failed, ok := errors.AsType[*tokenendpoint.RevocationError](err); ok && failed.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", failed.Status))
	}
	rv.cfg.Log().LogAttrs(ctx, level, msg, attrs...)
}

// RevokeGrant revokes the grant of a deleted connection in the background, if its connector
// has a revocation endpoint.
func (e *Engine) RevokeGrant(cause context.Context, cfg *record.Config, conn *record.Connector, key record.Key, settings map[string]any, access, refresh secret.String) {
	e.revoke(cause, newRevocation(cfg, conn, key, settings, access, refresh))
}
