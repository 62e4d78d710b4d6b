package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// requestToken makes the token request that is due for the record. x/oauth2 makes it
// of a form, whatever the grant: its client credentials take any parameters. The
// transport sends it as JSON where that is called for.
func requestToken(ctx context.Context, c *record.Connector, tokenURL string, rec *record.Record) (*oauth2.Token, error) {
	params, err := c.RequestParams(rec)
	if err != nil {
		return nil, err
	}
	client, _ := c.ClientFor(rec.Settings)
	style := oauth2.AuthStyleInHeader
	if c.AuthenticatesInParams(client) {
		style = oauth2.AuthStyleInParams
	}
	cfg := clientcredentials.Config{
		ClientID: client.ID, ClientSecret: client.Secret.Reveal(),
		TokenURL: tokenURL, AuthStyle: style, EndpointParams: params,
	}
	return cfg.Token(ctx)
}

// fellBack removes a refresh token that was refused for good if the grant can fetch another
// one, and reports whether it has: then another attempt is due. Nothing can be lost by it, and
// if the grant's own credentials are refused too, that parks the connection.
func (a *attempt) fellBack(ctx context.Context, held *hold, ans record.Answer) (bool, error) {
	if ans.Class != record.ClassPermanent || !a.conn.Grant().FallsBack || a.conn.NextGrant(held.rec.Credentials) != record.GrantRefreshToken {
		return false, nil
	}
	_, _, err := a.settle(ctx, func(rec *record.Record) (record.EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", record.ConnectionNotFound(a.refresher.key)
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

// noRefreshToken are the hashes that a lease has of none.
var noRefreshToken = []secret.Hash{"", secret.String{}.Hash()}

// isFetched reports whether the answer was had without a refresh token.
func (u *unsaved) isFetched() bool { return slices.Contains(noRefreshToken, u.bought) }
