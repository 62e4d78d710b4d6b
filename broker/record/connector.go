package record

import (
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A Connector is a service as this deployment uses it: its definition and the OAuth client
// for which the connections were authorised.
type Connector struct {
	connector.Definition
	Client Client
}

// A Client is an OAuth client (RFC 6749 section 2).
type Client struct {
	ID     string
	Secret secret.String
}

// GrantRefreshToken is the grant_type of a request that redeems a refresh token (RFC 6749
// section 6).
const GrantRefreshToken = "refresh_token"

// NextGrant returns the grant_type of the next token request for a connection, empty if no
// request can obtain a token. A refresh token is used if there is one, unless the connector's
// grant ignores refresh tokens.
func (c *Connector) NextGrant(cred *Credentials) string {
	g := c.Grant()
	switch {
	case cred != nil && !cred.RefreshToken.IsZero() && !g.IgnoresRefreshTokens:
		return GrantRefreshToken
	case g.Fetches:
		return string(g.Type)
	default:
		return ""
	}
}

// CanRefresh reports whether a new token can be obtained.
func (c *Connector) CanRefresh(cred *Credentials) bool { return c.NextGrant(cred) != "" }

// RotationFor returns what the next attempt does to the refresh token. Without one there is
// nothing to lose.
func (c *Connector) RotationFor(cred *Credentials) connector.Rotation {
	if c.NextGrant(cred) != GrantRefreshToken {
		return connector.Rotation{Kind: connector.RotationNever}
	}
	return c.Rotation
}

// ClientFor returns the OAuth client of a connection: its own, from its settings, if the
// connector allows that and the connection has one, otherwise the connector's. The two are
// never mixed: the configured secret is sent only with the configured id.
func (c *Connector) ClientFor(settings map[string]any) (client Client, own bool) {
	if id, clientSecret, ok := c.OwnClient(settings); ok {
		return Client{ID: id, Secret: secret.New(clientSecret)}, true
	}
	return c.Client, false
}

// TokenEndpoint returns where the next token request for the record goes.
func (c *Connector) TokenEndpoint(rec *Record) (string, error) {
	if c.NextGrant(rec.Credentials) == GrantRefreshToken {
		return c.RenderRefreshURL(rec.Settings)
	}
	return c.RenderTokenURL(rec.Settings)
}

// RequestParams returns the parameters of the next token request for the record, without
// the client's. It fails if a setting for them is missing.
func (c *Connector) RequestParams(rec *Record) (url.Values, error) {
	params := make(url.Values)
	grant := c.NextGrant(rec.Credentials)
	params.Set("grant_type", grant)
	if grant == GrantRefreshToken {
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

// AuthStyleFor returns how the client authenticates. A public client always does in the body of
// a request: it has no other way to send its id (RFC 6749 section 3.2.1).
func (c *Connector) AuthStyleFor(client Client) connector.AuthStyle {
	if client.Secret.IsZero() {
		return connector.AuthParams
	}
	return c.AuthStyle
}

// Secrets returns the values that an error code from a token endpoint must not contain, since
// codes are logged.
func (c *Connector) Secrets(rec *Record) []string {
	client, _ := c.ClientFor(rec.Settings)
	secrets := []string{client.Secret.Reveal()}
	if cred := rec.Credentials; cred != nil {
		secrets = append(secrets, cred.RefreshToken.Reveal(), cred.AccessToken.Reveal())
	}
	for name, value := range rec.Settings {
		if c.IsSensitive(name) {
			secrets = append(secrets, fmt.Sprint(value)) // it can be a number
		}
	}
	return secrets
}

// checkFit reports a setting that is not valid where the connector puts it. A missing setting
// is not a fault yet.
func (c *Connector) checkFit(settings map[string]any) error {
	if wrong, ok := errors.AsType[*connector.SettingError](c.CheckSettings(settings)); ok {
		return &InputError{
			Kind: InputInvalid, Field: "settings." + wrong.Setting, Fault: wrong.Fault,
			Fix: fmt.Sprintf("send one that fits %s", c.ID),
		}
	}
	return nil
}

// requireTokens reports which token is missing from an import. A refresh token alone will do:
// it is redeemed before the first call.
func (c *Connector) requireTokens(sent *ImportCredentials) error {
	if sent.AccessToken.IsZero() && sent.RefreshToken.IsZero() {
		return &InputError{
			Kind: InputInvalid, Field: "credentials.access_token",
			Fix: fmt.Sprintf("%s uses OAuth: send the access token, the refresh token, or both", c.ID),
		}
	}
	if sent.RefreshToken.IsZero() && !c.RefreshTokenOptional && !c.FetchesTokens() {
		return &InputError{
			Kind: InputInvalid, Field: "credentials.refresh_token",
			Fix: fmt.Sprintf("send it, or configure %s with `refresh_token optional` if its tokens come without one", c.ID),
		}
	}
	return nil
}

// requireSettings reports missing settings. Call it if the settings are the credentials, or
// are needed to obtain a token.
func (c *Connector) requireSettings(settings map[string]any) error {
	missing := c.MissingSettings(settings)
	if len(missing) == 0 {
		return nil
	}
	return &InputError{
		Kind: InputInvalid, Field: "settings." + missing[0],
		Fix: fmt.Sprintf("%s needs the settings %s", c.ID, strings.Join(missing, ", ")),
	}
}

// injectsOther reports whether a change of settings changes what is injected into calls.
func (c *Connector) injectsOther(before, after map[string]any) bool {
	const token = "any" // the same before and after
	was, wasErr := c.Injections(before, token)
	is, isErr := c.Injections(after, token)
	return (wasErr == nil) != (isErr == nil) || !reflect.DeepEqual(was, is)
}
