package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tokenendpoint"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// redeem sends the record's token request, once.
func (a *attempt) redeem(ctx context.Context, held *heldLease, sentAt time.Time) (ans record.Answer) {
	r, conn, rec := a.refresher, a.conn, held.rec
	ctx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout())
	defer cancel()
	ctx, span := r.engine.tracing.Start(ctx, "token_broker.token_request", trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(tracing.ConnectorAttribute(r.Key), attribute.String("http.request.method", requestMethod(conn))))
	defer func() {
		if ans.Status != 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", ans.Status))
		}
		if ans.Detail != "" {
			span.SetAttributes(attribute.String("token_broker.refusal.detail", ans.Detail))
		}
		tracing.EndSpan(span, ans.Err())
	}()

	req, err := tokenRequest(conn, rec, sentAt)
	if err != nil { // checked before the lease was taken
		return record.Answer{Class: record.ClassTransient, Code: record.CodeMissingSettings}
	}
	if u, err := url.Parse(req.URL); err == nil {
		span.SetAttributes(attribute.String("server.address", u.Hostname()))
	}
	r.setUnsent()
	ans = tokenendpoint.Send(ctx, r.engine.transport(a.cfg.AllowsPrivate(conn)), req)
	ans.Captured = a.allowedOf(ctx, rec, ans.Captured)
	if conn.Grant().IgnoresRefreshTokens {
		ans.RefreshToken = secret.String{}
	}
	if ans.Class == record.ClassTransient {
		r.setUnsent(held.lease.ID) // nothing was spent with the lease
	}
	return ans
}

// tokenRequest returns the next token request for the record. It fails if a setting that
// the request needs is missing.
func tokenRequest(conn *record.Connector, rec *record.Record, sentAt time.Time) (tokenendpoint.Request, error) {
	endpoint, err := conn.TokenEndpoint(rec)
	if err != nil {
		return tokenendpoint.Request{}, err
	}
	params, err := conn.RequestParams(rec)
	if err != nil {
		return tokenendpoint.Request{}, err
	}
	header, err := conn.RenderTokenHeaders(rec.Settings)
	if err != nil {
		return tokenendpoint.Request{}, err
	}
	client, _ := conn.ClientFor(rec.Settings)
	return tokenendpoint.Request{
		URL: endpoint, Client: client, Style: conn.AuthStyleFor(client), Method: conn.TokenMethod, JSON: conn.TokenBody == connector.BodyJSON,
		Params: params, Header: header, SentAt: sentAt, Answer: conn.AnswerPaths(), Capture: conn.CapturePaths(),
		Secrets: conn.Secrets(rec), PermanentErrors: conn.PermanentErrors, ConfigurationErrors: conn.ConfigurationErrors,
		TransientErrors: conn.TransientErrors, EarlyErrors: conn.EarlyErrors,
	}, nil
}

func requestMethod(conn *record.Connector) string {
	return cmp.Or(string(conn.TokenMethod), http.MethodPost)
}

// allowedOf returns the settings in the answer that the connector allows, and logs the others.
func (a *attempt) allowedOf(ctx context.Context, rec *record.Record, captured map[string]string) map[string]string {
	allowed, refused := a.conn.Captured(rec.Settings, captured)
	if len(refused) > 0 {
		a.cfg.Log().LogAttrs(ctx, slog.LevelWarn, "the token response has settings that the connector does not allow; they are ignored",
			slog.String("connection", a.refresher.Key.String()), slog.Any("settings", refused))
	}
	return allowed
}

// fellBack removes a refresh token that was refused for good, if the grant can obtain a token
// without it, and reports whether it did: then another try is due. The refused token is of no
// use. If the grant's own credentials are refused too, the connection is parked.
func (a *attempt) fellBack(ctx context.Context, held *heldLease, ans record.Answer) (bool, error) {
	if ans.Class != record.ClassPermanent || !a.conn.Grant().FallsBack || a.conn.NextGrant(held.rec.Credentials) != record.GrantRefreshToken {
		return false, nil
	}
	_, _, err := a.settle(ctx, held, func(rec *record.Record) (record.EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", record.ConnectionNotFound(a.refresher.Key)
		}
		if !rec.Holds(held.lease) || rec.RefreshTokenHash() != held.lease.RefreshToken {
			return "", errSuperseded
		}
		rec.DropRefreshToken()
		return "", nil
	})
	if err == nil {
		a.log(ctx, slog.LevelInfo, "the refresh token was refused; the grant's own credentials are sent instead", nil)
	}
	if errors.Is(err, errSuperseded) {
		err = nil
	}
	return err == nil, err
}
