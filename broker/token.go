package broker

import (
	"context"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Token is an access token that was valid when [Source.Token] returned it. For a
// connection without OAuth, AccessToken is empty.
type Token struct {
	AccessToken secret.String
	Type        string    // token_type of the token endpoint (RFC 6749 section 5.1); default: "Bearer"
	Expiry      time.Time // zero: unknown
	Generation  uint64    // of the connection's credentials
}

// A Source is where embedders get one connection's tokens, to send them by other means than
// [Admission.Authorize]. The caller decides where they go; the hosts that the connector
// allows are not checked. A Source is safe for concurrent use and need not be kept: sources
// of the same connection share all state.
type Source struct{ refresher *refresher }

// Source returns the source of key's tokens.
func (b *Broker) Source(key record.Key) Source { return Source{b.refresher(key)} }

// Token returns a valid token. It waits for a refresh only if the current token is not
// valid; when ctx ends it stops waiting, and the refresh goes on.
//
// Errors: [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [ErrConnectionDisabled],
// [record.ErrStoreUnavailable], [*record.TokenError], ctx's.
func (s Source) Token(ctx context.Context) (Token, error) {
	conn, err := s.refresher.broker.Config().connector(s.refresher.key)
	if err != nil {
		return Token{}, err
	}
	snap, err := s.refresher.current(ctx, conn)
	if err != nil {
		return Token{}, err
	}
	return snap.token(), nil
}

// OAuth2 returns the source as an [oauth2.TokenSource], for embedders whose HTTP client
// takes one. Its Token method waits no longer than ctx allows.
func (s Source) OAuth2(ctx context.Context) oauth2.TokenSource { return oauth2Source{ctx, s} }

type oauth2Source struct {
	ctx    context.Context
	source Source
}

// Token implements [oauth2.TokenSource].
func (s oauth2Source) Token() (*oauth2.Token, error) {
	t, err := s.source.Token(s.ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: t.AccessToken.Reveal(), TokenType: t.Type, Expiry: t.Expiry}, nil
}

var _ oauth2.TokenSource = oauth2Source{}

func (s *snapshot) token() Token {
	c := s.rec.Credentials
	if c == nil {
		return Token{Generation: s.rec.Generation}
	}
	t := Token{AccessToken: c.AccessToken, Type: c.TokenType, Expiry: c.Expiry, Generation: s.rec.Generation}
	if t.Type == "" {
		t.Type = "Bearer"
	}
	return t
}

// current returns a snapshot whose credentials are usable now.
func (r *refresher) current(ctx context.Context, conn *record.Connector) (*snapshot, error) {
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	return r.usable(ctx, conn, snap)
}

// usable returns snap if its credentials are usable now, and otherwise the result of a
// refresh.
func (r *refresher) usable(ctx context.Context, conn *record.Connector, snap *snapshot) (*snapshot, error) {
	if !snap.rec.Enabled {
		return nil, ErrConnectionDisabled
	}
	if conn.AuthType != connector.OAuth2 {
		return snap, nil
	}
	now := r.broker.clock.Now()
	refused := r.refused(snap, conn, now)
	switch {
	case snap.servable(now) && !snap.rec.IsRejected():
		if snap.wantsRefresh(now) && conn.CanRefresh(snap.rec.Credentials) && refused == nil && !isWithin(storeRetry, r.attempts.idleSince.Load(), now) {
			r.start(ctx) // without waiting, since the token is still valid
		}
		return snap, nil
	case refused != nil:
		return nil, refused
	default:
		return r.await(ctx)
	}
}

// refused returns an error if, according to the snapshot, no refresh can begin now. This
// spares the store, since a dead connection may get very many calls.
func (r *refresher) refused(snap *snapshot, conn *record.Connector, now time.Time) error {
	if snap.servable(now) && !snap.wantsRefresh(now) && !snap.rec.IsRejected() {
		return nil
	}
	if snap.rec.IsParked() || now.Before(snap.rec.Cycle.RetryAt) {
		return snap.rec.TokenError(now)
	}
	if until := r.broker.refusals.breakers.openUntil(conn, snap.rec, now); !until.IsZero() {
		return pausedError(r.key, until)
	}
	return nil
}

// await joins the refresh in progress, or starts one, and returns its result.
func (r *refresher) await(ctx context.Context) (*snapshot, error) {
	f := r.start(ctx)
	select {
	case <-f.done:
		if now := r.broker.clock.Now(); f.err == nil && !f.snap.servable(now) {
			// The flight landed long ago and is still saving its token, which has expired.
			return nil, &record.TokenError{Key: r.key, Class: record.ClassTransient, RetryAt: now.Add(storeRetry), Err: record.ErrStoreUnavailable}
		}
		return f.snap, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
