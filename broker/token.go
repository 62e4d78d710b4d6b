package broker

import (
	"context"
	"time"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/caddy-token-broker/broker/internal/engine"
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
type Source struct {
	broker    *Broker
	refresher *engine.Refresher
}

// Source returns the source of key's tokens.
func (b *Broker) Source(key record.Key) Source { return Source{b, b.engine.Refresher(key)} }

// Token returns a valid token. It waits for a refresh only if the current token is not
// valid; when ctx ends it stops waiting, and the refresh goes on.
//
// Errors: [record.ErrConnectorNotFound], [record.ErrConnectionNotFound], [record.ErrConnectionDisabled],
// [record.ErrStoreUnavailable], [*record.TokenError], ctx's.
func (s Source) Token(ctx context.Context) (Token, error) {
	conn, err := s.broker.Config().ConnectorOf(s.refresher.Key)
	if err != nil {
		return Token{}, err
	}
	snap, err := s.refresher.Current(ctx, conn)
	if err != nil {
		return Token{}, err
	}
	return tokenOf(snap.Record), nil
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

func tokenOf(rec *record.Record) Token {
	c := rec.Credentials
	if c == nil {
		return Token{Generation: rec.Generation}
	}
	t := Token{AccessToken: c.AccessToken, Type: c.TokenType, Expiry: c.Expiry, Generation: rec.Generation}
	if t.Type == "" {
		t.Type = "Bearer"
	}
	return t
}
