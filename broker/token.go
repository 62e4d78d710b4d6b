package broker

import (
	"context"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Token is an access token that was valid when it was handed out.
type Token struct {
	AccessToken secret.String
	Type        string    // "Bearer", or what the token endpoint named it
	Expiry      time.Time // zero: unknown
	Generation  uint64    // of the connection's credentials
}

// A Source hands out one connection's tokens. It is safe for concurrent use and
// need not be kept: sources of the same connection share everything.
type Source struct{ refresher *refresher }

// Source returns the source of key's tokens.
func (b *Broker) Source(key record.Key) Source { return Source{b.refresher(key)} }

// Token returns a valid token. It waits for a refresh only if there is none at hand;
// when ctx ends it stops waiting, which does not end the refresh.
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

// OAuth2 returns an [oauth2.TokenSource] over the source, for code that wants one.
// Its Token method waits as long as ctx allows.
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

// current returns a snapshot whose credentials can be used now.
func (r *refresher) current(ctx context.Context, conn *record.Connector) (*snapshot, error) {
	snap, err := r.latest(ctx)
	if err != nil {
		return nil, err
	}
	return r.usable(ctx, conn, snap)
}

// usable returns snap if its credentials can be used now, and otherwise the one that a
// refresh leads to.
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
			r.start(ctx) // nobody waits: the token is valid still
		}
		return snap, nil
	case refused != nil:
		return nil, refused
	default:
		return r.await(ctx)
	}
}

// refused says from what was read lately why no refresh can begin now, nil if it may.
// That spares the store: of a dead connection there can be very many calls.
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

// await joins the refresh under way, or starts one, and returns what it led to.
func (r *refresher) await(ctx context.Context) (*snapshot, error) {
	f := r.start(ctx)
	select {
	case <-f.done:
		if now := r.broker.clock.Now(); f.err == nil && !f.snap.servable(now) {
			// Landed long ago: its token is being saved still, and has expired meanwhile.
			return nil, &record.TokenError{Key: r.key, Class: record.ClassTransient, RetryAt: now.Add(storeRetry), Err: record.ErrStoreUnavailable}
		}
		return f.snap, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
