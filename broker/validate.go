package broker

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Validate says what state a connection is in after a look at its credentials. One with an
// OAuth token is refreshed, however long that is valid, and if its refresh token was
// refused for good that is tried once more. Of others the required settings must be there.
//
// A refresh is not forced more often than a 401 forces one, nor that of a refused refresh
// token more often than every 30 s, nor while an earlier failure says to wait: the state is
// then that of the last attempt. It is [record.StateInvalid] if the refresh token was refused,
// even while the access token in hand is valid.
//
// Errors: [*record.InputError], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [record.ErrConnectionDisabled], [record.ErrStoreUnavailable], ctx's, and a [*record.TokenError] if there is
// no valid token and it could not be found out whether there can be one.
func (b *Broker) Validate(ctx context.Context, key record.Key) (_ *record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.validate", trace.WithAttributes(engine.ConnectorAttribute(key)))
	defer func() { engine.EndSpan(span, err) }()
	conn, view, err := b.look(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case !view.Enabled:
		return nil, record.ErrConnectionDisabled
	case conn.AuthType != connector.OAuth2, view.State == record.StateAuthorized, view.State == record.StateAdded:
		return view, nil
	}
	r := b.engine.Refresher(key)
	if _, err := r.RenewOnce(ctx, conn); err != nil && !isVerdict(err) {
		return nil, err
	}
	if view, err = b.show(ctx, conn, key); err != nil {
		return nil, err
	}
	if r.IsParked() {
		view.State = record.StateInvalid
	}
	return view, nil
}

// isVerdict reports whether err says that there can be no token, rather than that it
// could not be found out.
func isVerdict(err error) bool {
	failed, ok := errors.AsType[*record.TokenError](err)
	return ok && failed.Err == nil && (failed.Parked || failed.Code == record.CodeStaleStore)
}

// ObtainToken fetches an access token for a connection whose tokens are had with what is
// stored, and stores it; calls use it from then on. Within the time that [Broker.Validate]
// waits between two refreshes a valid one is left as it is. Errors: those of
// [Broker.Validate], a [*record.TokenError] also if the token endpoint refused for good, and a
// [*record.InputError] if the connector's tokens are not had like that.
func (b *Broker) ObtainToken(ctx context.Context, key record.Key) (_ *record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.obtain_token", trace.WithAttributes(engine.ConnectorAttribute(key)))
	defer func() { engine.EndSpan(span, err) }()
	conn, view, err := b.look(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case !conn.FetchesTokens():
		return nil, notFetched(conn)
	case !view.Enabled:
		return nil, record.ErrConnectionDisabled
	}
	snap, err := b.engine.Refresher(key).RenewOnce(ctx, conn)
	if err != nil {
		return nil, err
	}
	// A valid token is served whatever became of its refresh: here that is no success.
	now := b.engine.Now()
	if err := b.engine.PausedNow(conn, snap.Record, now); err != nil {
		return nil, err
	}
	if snap.Record.Cycle.Phase != record.PhaseHealthy {
		return nil, snap.Record.TokenError(now)
	}
	return b.show(ctx, conn, key)
}

func notFetched(c *record.Connector) error {
	how := "auth_type " + string(c.AuthType)
	if c.AuthType == connector.OAuth2 {
		how = "grant_type " + string(c.GrantType)
	}
	return &record.InputError{
		Kind: record.InputInvalid, Field: "grant_type",
		Fault: fmt.Sprintf("of %s does not fetch tokens (%s)", c.ID, how),
		Fix:   "import the connection; to refresh its token, validate it",
	}
}
