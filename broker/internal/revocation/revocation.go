// Package revocation revokes the grants of deleted connections at their providers (RFC 7009).
package revocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/clock"
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

// A Revoker revokes grants in the background. Its fields must not change.
type Revoker struct {
	Clock     clock.Clock
	Tracer    *tracing.Tracer
	Transport func(allowPrivate bool) http.RoundTripper

	// Begin runs work in a goroutine. It reports false once the broker is closing.
	Begin func(work func()) bool
	// Closing is done once the broker is closing.
	Closing context.Context //nolint:containedctx // the broker's, not a request's
	// IsSpared reports whether the grant of a connection must not be revoked: the connection has
	// credentials again, or was deleted while another system refreshed them.
	IsSpared func(ctx context.Context, key record.Key) (bool, error)
}

// A Grant is the grant of a connection that is gone, with the tokens that are known of it.
type Grant struct {
	Config    *record.Config
	Connector *record.Connector // may be nil
	Key       record.Key
	Settings  map[string]any // the connection's, for the endpoint's URL

	AccessToken, RefreshToken secret.String
}

// A revocation is one that was begun.
type revocation struct {
	Grant

	token secret.String
	hint  string // token_type_hint (RFC 7009 section 2.1)
}

// newRevocation returns the revocation of a refresh token or, without one, of an access
// token. It is nil without a token, or without a revocation endpoint.
func newRevocation(g Grant) *revocation {
	if c := g.Connector; c == nil || c.AuthType != connector.OAuth2 || c.RevocationURL == "" {
		return nil
	}
	rv := &revocation{Grant: g, token: g.RefreshToken, hint: "refresh_token"}
	if rv.token.IsZero() {
		rv.token, rv.hint = g.AccessToken, "access_token"
	}
	if rv.token.IsZero() {
		return nil
	}
	return rv
}

// Revoke revokes a grant, if its connector has a revocation endpoint. The outcome is only
// logged and traced.
func (r *Revoker) Revoke(cause context.Context, g Grant) {
	if rv := newRevocation(g); rv != nil && !r.Begin(func() { r.carryOut(cause, rv) }) {
		rv.report(context.Background(), trace.SpanFromContext(cause), record.ErrShuttingDown)
	}
}

// RevokeLate is Revoke for a token response that arrived after its connection was deleted.
// Its caller runs in a goroutine that the broker's end waits for, so while the broker is
// closing the caller revokes the token itself.
func (r *Revoker) RevokeLate(cause context.Context, g Grant) {
	if rv := newRevocation(g); rv != nil && !r.Begin(func() { r.carryOut(cause, rv) }) {
		r.carryOut(cause, rv)
	}
}

// carryOut revokes, with the timeout of a token request.
func (r *Revoker) carryOut(cause context.Context, rv *revocation) {
	ctx, span := r.Tracer.StartRoot(context.Background(), cause, "token_broker.revoke",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(tracing.ConnectorAttribute(rv.Key)))
	ctx, cancel := context.WithTimeout(ctx, rv.Config.RequestTimeout())
	defer cancel()
	err := r.tryToRevoke(ctx, rv)
	rv.report(ctx, span, err)
	tracing.EndSpan(span, err)
}

func (r *Revoker) tryToRevoke(ctx context.Context, rv *revocation) error {
	for try := 1; ; try++ {
		// The import may have brought another token of the same grant, which cannot be told from
		// outside, and revoking one token of a grant ends all of them (RFC 7009 section 2.1).
		spared, err := r.IsSpared(ctx, rv.Key)
		switch {
		case spared:
			return errSpared
		case err == nil:
			err = r.send(ctx, rv)
		default: // nothing is revoked until the record can be read
			err = fmt.Errorf("%w: %w", errUnread, err)
		}
		mayPass := errors.Is(err, tokenendpoint.ErrRevokeLater) || errors.Is(err, errUnread)
		if !mayPass || try == revocationTries {
			return err
		}
		// No request is in progress between two tries, so the broker may close.
		if r.Clock.Sleep(r.Closing, time.Duration(try)*revocationPause) != nil || ctx.Err() != nil {
			return err
		}
	}
}

// errSpared prevents a revocation.
var errSpared = errors.New("the connection was imported again, possibly with the same grant, or it was in standby")

// errUnread means that the record could not be read, which says whether the grant must be spared.
var errUnread = errors.New("whether the connection was imported again is unknown")

// send sends one revocation request. The same addresses are allowed as for token
// requests.
func (r *Revoker) send(ctx context.Context, rv *revocation) error {
	endpoint, err := rv.Connector.RenderRevocationURL(rv.Settings)
	if err != nil {
		return tokenendpoint.ErrRevokeTarget
	}
	client, _ := rv.Connector.ClientFor(rv.Settings)
	return tokenendpoint.Revoke(ctx, r.Transport(rv.Config.AllowsPrivate(rv.Connector)), tokenendpoint.Revocation{
		URL: endpoint, Client: client, Style: rv.Connector.AuthStyleFor(client), Token: rv.token, Hint: rv.hint,
	})
}

// report logs the outcome of the revocation, and records it in the span.
func (rv *revocation) report(ctx context.Context, span trace.Span, err error) {
	level, msg := slog.LevelInfo, "the grant of a deleted connection was revoked at the provider"
	attrs := []slog.Attr{slog.String("connection", rv.Key.String()), slog.String("token", rv.hint)}
	span.SetAttributes(attribute.Bool("token_broker.revoked", err == nil))
	if err != nil {
		level = slog.LevelWarn
		msg = "the grant of a deleted connection could not be revoked at the provider; it lasts until it expires or the customer withdraws it there"
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if failed, ok := errors.AsType[*tokenendpoint.RevocationError](err); ok && failed.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", failed.Status))
	}
	rv.Config.Log().LogAttrs(ctx, level, msg, attrs...)
}
