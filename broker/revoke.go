package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tokenendpoint"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// Revoking is tried a few times: other than a redeem it may be repeated, as a token that
// is revoked already is no error (RFC 7009 section 2.2).
const (
	revocationTries = 3
	revocationPause = time.Second // before the second try, and twice that before the third
)

// A revocation is what it takes to take a grant back at the provider, of a connection
// that is gone.
type revocation struct {
	cfg      *Config
	conn     *record.Connector
	key      record.Key
	settings map[string]any // the connection's, for the endpoint's URL
	token    secret.String
	hint     string // token_type_hint (RFC 7009 section 2.1)
}

// newRevocation returns the revocation of a refresh token, or of an access token that
// came without one. It is nil if there is nothing to revoke, or nowhere to.
func newRevocation(cfg *Config, conn *record.Connector, key record.Key, settings map[string]any, access, refresh secret.String) *revocation {
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

// revoke revokes in the background. Nothing depends on whether it succeeds, which the log
// and a span say. rv may be nil.
func (b *Broker) revoke(cause context.Context, rv *revocation) {
	if rv != nil && !b.lifecycle.begin(func() { b.carryOut(cause, rv) }) {
		rv.report(context.Background(), trace.SpanFromContext(cause), ErrShuttingDown)
	}
}

// revokeLate is revoke for what a token endpoint has answered too late. Whoever saves that
// is waited for when the broker closes, and so does it then itself.
func (b *Broker) revokeLate(cause context.Context, rv *revocation) {
	if rv != nil && !b.lifecycle.begin(func() { b.carryOut(cause, rv) }) {
		b.carryOut(cause, rv)
	}
}

// carryOut revokes within the time of a token request.
func (b *Broker) carryOut(cause context.Context, rv *revocation) {
	ctx, span := b.tracing.startRoot(context.Background(), cause, "token_broker.revoke",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(connectorAttribute(rv.key)))
	ctx, cancel := context.WithTimeout(ctx, rv.cfg.refreshTimeout())
	defer cancel()
	err := b.tryToRevoke(ctx, rv)
	rv.report(ctx, span, err)
	endSpan(span, err)
}

func (b *Broker) tryToRevoke(ctx context.Context, rv *revocation) error {
	for try := 1; ; try++ {
		if b.isConnectedAgain(ctx, rv.key) {
			return errConnectedAgain
		}
		err := b.sendRevocation(ctx, rv)
		if err == nil || !errors.Is(err, tokenendpoint.ErrRevokeLater) || try == revocationTries {
			return err
		}
		// Between two tries nothing is under way, so that the broker can close.
		if b.clock.Sleep(b.lifecycle.ctx, time.Duration(try)*revocationPause) != nil || ctx.Err() != nil {
			return err
		}
	}
}

// isConnectedAgain reports whether a deleted connection has been imported anew. That may
// have brought the very grant that it had, or another token of it: revoking one ends all
// of them (RFC 7009 section 2.1), and nobody can tell from outside.
func (b *Broker) isConnectedAgain(ctx context.Context, key record.Key) bool {
	rec, _, err := b.load(ctx, key)
	return err == nil && !rec.IsTombstone() && rec.Credentials != nil
}

// Errors of a revocation. What the endpoint said is not in them, other than its code.
var (
	errConnectedAgain = errors.New("the connection was imported anew meanwhile, maybe with the same grant")
	errNoRevokeTarget = errors.New("the revocation_url needs a setting that the connection does not have")
)

// sendRevocation sends one revocation request, to where a token request could be sent
// too.
func (b *Broker) sendRevocation(ctx context.Context, rv *revocation) error {
	endpoint, err := rv.conn.RenderRevocationURL(rv.settings)
	if err != nil {
		return errNoRevokeTarget
	}
	client, _ := rv.conn.ClientFor(rv.settings)
	return tokenendpoint.Revoke(ctx, b.transport(rv.cfg.AllowsPrivate(rv.conn)), tokenendpoint.Revocation{
		URL: endpoint, Client: client, InParams: rv.conn.AuthenticatesInParams(client), Token: rv.token, Hint: rv.hint,
	})
}

// report tells operators what became of the grant.
func (rv *revocation) report(ctx context.Context, span trace.Span, err error) {
	level, msg := slog.LevelInfo, "the grant of a deleted connection was revoked at the provider"
	attrs := []slog.Attr{slog.String("connection", rv.key.String()), slog.String("token", rv.hint)}
	span.SetAttributes(attribute.Bool("token_broker.revoked", err == nil))
	if err != nil {
		level = slog.LevelWarn
		msg = "the grant of a deleted connection could not be revoked at the provider; it ends when the customer withdraws it there, or by itself"
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if failed, ok := errors.AsType[*tokenendpoint.RevocationError](err); ok && failed.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", failed.Status))
	}
	rv.cfg.logger().LogAttrs(ctx, level, msg, attrs...)
}
