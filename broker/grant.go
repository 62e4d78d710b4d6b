package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
)

// grantRefreshToken is the grant_type of a redeem (RFC 6749 section 6).
const grantRefreshToken = "refresh_token"

// nextGrant returns the grant_type of the next token request for a connection, empty if no
// request can bring a token. A refresh token is used where there is one, unless the
// connector's grant ignores them.
func (c *Connector) nextGrant(cred *Credentials) string {
	g := c.Grant()
	switch {
	case cred != nil && !cred.RefreshToken.IsZero() && !g.IgnoresRefreshTokens:
		return grantRefreshToken
	case g.Fetches:
		return string(g.Type)
	default:
		return ""
	}
}

// canRefresh reports whether there is a way to a new token.
func (c *Connector) canRefresh(cred *Credentials) bool { return c.nextGrant(cred) != "" }

// rotationFor returns what an attempt may cost: without a refresh token, nothing.
func (c *Connector) rotationFor(cred *Credentials) connector.Rotation {
	if c.nextGrant(cred) != grantRefreshToken {
		return connector.Rotation{Kind: connector.RotationNever}
	}
	return c.Rotation
}

// clientFor returns the OAuth client of a connection: its own, from its settings, if
// the connector allows that and there is one. The two are never mixed: the secret of
// the configuration's client goes with no other id.
func (c *Connector) clientFor(settings map[string]any) (client Client, own bool) {
	if id, clientSecret, ok := c.OwnClient(settings); ok {
		return Client{ID: id, Secret: NewSecret(clientSecret)}, true
	}
	return c.Client, false
}

// tokenEndpoint returns where the next token request for the record goes.
func (c *Connector) tokenEndpoint(rec *Record) (string, error) {
	if c.nextGrant(rec.Credentials) == grantRefreshToken {
		return c.RenderRefreshURL(rec.Settings)
	}
	return c.RenderTokenURL(rec.Settings)
}

// tokenParams returns the parameters of the next token request for the record, but for
// the client's. It fails if a setting for them is missing.
func (c *Connector) tokenParams(rec *Record) (url.Values, error) {
	params := make(url.Values)
	grant := c.nextGrant(rec.Credentials)
	params.Set("grant_type", grant)
	if grant == grantRefreshToken {
		params.Set("refresh_token", rec.Credentials.RefreshToken.Reveal())
	} else {
		own, err := c.GrantParams(rec.Settings)
		if err != nil {
			return nil, err
		}
		for name, value := range own {
			params.Set(name, value)
		}
	}
	more, err := c.RenderTokenParams(rec.Settings)
	if err != nil {
		return nil, err
	}
	for name, value := range more {
		params.Set(name, value)
	}
	return params, nil
}

// requestToken makes the token request that is due for the record. x/oauth2 makes it
// of a form, whatever the grant: its client credentials take any parameters. The
// transport sends it as JSON where that is called for.
func requestToken(ctx context.Context, c *Connector, tokenURL string, rec *Record) (*oauth2.Token, error) {
	params, err := c.tokenParams(rec)
	if err != nil {
		return nil, err
	}
	client, _ := c.clientFor(rec.Settings)
	style := oauth2.AuthStyleInHeader
	if c.authenticatesInParams(client) {
		style = oauth2.AuthStyleInParams
	}
	cfg := clientcredentials.Config{
		ClientID: client.ID, ClientSecret: client.Secret.Reveal(),
		TokenURL: tokenURL, AuthStyle: style, EndpointParams: params,
	}
	return cfg.Token(ctx)
}

// authenticatesInParams reports whether the client says who it is in the body of a
// request. A public client does, whatever the style: that is its only way to say its id
// (RFC 6749 section 3.2.1).
func (c *Connector) authenticatesInParams(client Client) bool {
	return c.AuthStyle == connector.AuthParams || client.Secret.IsZero()
}

// secrets are what an answer must not be able to smuggle into a log.
func (c *Connector) secrets(rec *Record) []string {
	client, _ := c.clientFor(rec.Settings)
	secrets := []string{client.Secret.Reveal()}
	if cred := rec.Credentials; cred != nil {
		secrets = append(secrets, cred.RefreshToken.Reveal(), cred.AccessToken.Reveal())
	}
	for name, value := range rec.Settings {
		if c.IsSensitive(name) {
			secrets = append(secrets, fmt.Sprint(value)) // numbers too
		}
	}
	return secrets
}

// fellBack removes a refresh token that was refused for good if the grant can fetch another
// one, and reports whether it has: then another attempt is due. Nothing can be lost by it, and
// if the grant's own credentials are refused too, that parks the connection.
func (a *attempt) fellBack(ctx context.Context, held *hold, ans answer) (bool, error) {
	if ans.class != ClassPermanent || !a.conn.Grant().FallsBack || a.conn.nextGrant(held.rec.Credentials) != grantRefreshToken {
		return false, nil
	}
	_, _, err := a.settle(ctx, func(rec *Record) (EventType, error) {
		if rec == nil || rec.IsTombstone() {
			return "", connectionNotFound(a.refresher.key)
		}
		if !rec.holds(held.lease) || rec.refreshTokenHash() != held.lease.RefreshToken {
			return "", errSuperseded
		}
		rec.dropRefreshToken()
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
var noRefreshToken = []TokenHash{"", Secret{}.Hash()}

// isFetched reports whether the answer was had without a refresh token.
func (u *unsaved) isFetched() bool { return slices.Contains(noRefreshToken, u.bought) }
