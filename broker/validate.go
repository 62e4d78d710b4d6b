package broker

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/internal/tracing"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Validate checks a connection's credentials and returns the connection with its new state.
// An OAuth token is refreshed even if it is still valid, and a refresh token that was refused
// for good is sent once more. Other connections need only have their required settings.
//
// A refresh is forced at most as often as by 401s, with a refused refresh token at most every
// 30 s, and not while an earlier failure says to wait; the state is then that of the last
// attempt. It is [record.StateInvalid] if the refresh token was refused, even while the access
// token is still valid.
//
// Nothing is tried of a connection in standby, whose state depends only on its access token.
//
// Errors: [*record.InputError], [record.ErrConnectorNotFound], [record.ErrConnectionNotFound],
// [record.ErrConnectionDisabled], [record.ErrStandby], [record.ErrStoreUnavailable], ctx's, and a [*record.TokenError] if there is
// no valid token and the broker could not determine whether one can be obtained.
func (b *Broker) Validate(ctx context.Context, key record.Key) (_ *record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.validate", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() { tracing.EndSpan(span, err) }()
	conn, view, err := b.look(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case !view.Enabled:
		return nil, record.ErrConnectionDisabled
	case view.Standby:
		return view, nil
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
	if r.NeedsAuth() {
		view.State = record.StateInvalid
	}
	return view, nil
}

// isVerdict reports whether err says that no token can be obtained, rather than that the
// broker could not determine it.
func isVerdict(err error) bool {
	failed, ok := errors.AsType[*record.TokenError](err)
	return ok && failed.Err == nil && (failed.Parked || failed.Code == record.CodeStaleStore)
}

// ObtainToken obtains an access token for a connection whose tokens are fetched with stored
// credentials (client_credentials, password), and stores it; calls use it from then on. A
// valid token is left as it is for the time that [Broker.Validate] waits between two
// refreshes. Errors: those of [Broker.Validate], a [*record.TokenError] also if the token
// endpoint refused for good, and a [*record.InputError] if the connector's grant does not
// fetch tokens.
func (b *Broker) ObtainToken(ctx context.Context, key record.Key) (_ *record.Connection, err error) {
	ctx, span := b.engine.StartSpan(ctx, "token_broker.obtain_token", trace.WithAttributes(tracing.ConnectorAttribute(key)))
	defer func() { tracing.EndSpan(span, err) }()
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
	if err := snap.Record.StandbyError(); err != nil {
		return nil, err
	}
	// Calls get a valid token even if its refresh failed. Here that is an error.
	now := b.engine.Now()
	if err := b.engine.PausedNow(conn, snap.Record, now); err != nil {
		return nil, err
	}
	if cycle := snap.Record.Cycle; cycle.Phase != record.PhaseHealthy || cycle.Class != "" {
		return nil, snap.Record.TokenError(now)
	}
	return b.show(ctx, conn, key)
}

// notFetched returns the error for a connector whose grant does not fetch tokens.
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
