package tokenbroker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

// ConnectorConfig is a service as this deployment uses it. What is left out is as the
// built-in catalogue has it, if it knows the service.
type ConnectorConfig struct {
	// The service's name for people.
	Name string `json:"name,omitempty"`

	// The kind of credential: `oauth2`, `apiKey`, `basic`, `custom` or `none`.
	AuthType string `json:"auth_type,omitempty"`

	// How OAuth tokens are had: `authorization_code` (the default), `client_credentials`
	// or `password`. With the last two they are fetched when one is needed.
	GrantType string `json:"grant_type,omitempty"`

	// The token endpoint, an https URL. Settings can stand in it: `https://{subdomain}.example.com/token`.
	TokenURL string `json:"token_url,omitempty"`

	// Where refresh tokens are redeemed, if that is not the token endpoint.
	RefreshURL string `json:"refresh_url,omitempty"`

	// Where tokens are revoked (RFC 7009).
	RevocationURL string `json:"revocation_url,omitempty"`

	// How the client authenticates at the token endpoint: `header` (client_secret_basic)
	// or `params` (client_secret_post).
	AuthStyle string `json:"auth_style,omitempty"`

	// How token requests are encoded: `form` (the default) or `json`.
	TokenBody string `json:"token_body,omitempty"`

	// Further parameters of every token request. Settings can stand in the values:
	// `{tenant}`. Secrets stand there only so.
	TokenParams map[string]string `json:"token_params,omitempty"`

	// The token endpoint's own words for a refresh token that does not work any more.
	PermanentErrors []string `json:"permanent_errors,omitempty"`

	// The id of the OAuth client that the connections were authorised for. Placeholders are
	// resolved. A connection of a connector with the setting client_id can have its own.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret, as a placeholder.
	ClientSecret string `json:"client_secret,omitempty"`

	// What becomes of a refresh token that was used. Default: `always`.
	Rotation *RotationConfig `json:"rotation,omitempty"`

	// How long a refresh token may go unused before the service lets it lapse. It is
	// used before, though nobody needs a token. Default: it does not lapse.
	KeepAlive caddy.Duration `json:"keep_alive,omitempty"`

	// The service hands out tokens without a refresh token.
	RefreshTokenOptional bool `json:"refresh_token_optional,omitempty"`

	// Where the API is, an https URL. Settings can stand in it.
	BaseURL string `json:"base_url,omitempty"`

	// The hosts that credentials may be sent to, besides that of base_url:
	// `api.example.com`, `*.example.com`, `api.example.com:8443`.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// The values that each connection has of its own.
	Settings []SettingConfig `json:"settings,omitempty"`

	// Where the credential goes in a request. Default: as the auth type usually has it,
	// such as `Authorization: Bearer` for oauth2.
	Inject []InjectConfig `json:"inject,omitempty"`

	// The hosts may be loopback or private addresses, and speak plain HTTP.
	AllowPrivate bool `json:"allow_private,omitempty"`
}

// RotationConfig says what becomes of a refresh token that was used.
type RotationConfig struct {
	// `always`: it works once. `never`: it stays as it is. `window`: it works again for
	// a while.
	Kind string `json:"kind"`

	// With `window`: for how long.
	Window caddy.Duration `json:"window,omitempty"`
}

// SettingConfig is a value that each connection has of its own.
type SettingConfig struct {
	// Lower-case letters, digits and underscores.
	Name string `json:"name"`

	// Without it a connection cannot be used.
	Required bool `json:"required,omitempty"`

	// It is a secret, and shown to nobody.
	Sensitive bool `json:"sensitive,omitempty"`

	// It is an https URL without path, on a host of allow_hosts.
	Origin bool `json:"origin,omitempty"`
}

// InjectConfig puts one credential into requests.
type InjectConfig struct {
	// The part of the request: `header`, `query`, `basic` or `cookie`.
	In string `json:"in"`

	// The name of the header, the query parameter or the cookie.
	Name string `json:"name,omitempty"`

	// With `header`: the value, with `%s` for the credential. Default: `%s`.
	Format string `json:"format,omitempty"`

	// The setting that is the credential, with `basic` the user name. Default: the access token.
	Setting string `json:"setting,omitempty"`

	// With `basic`: the setting that is the password.
	PasswordSetting string `json:"password_setting,omitempty"`

	// With `basic`, in place of setting: text with settings in it, `{email}/token`.
	Username string `json:"username,omitempty"`

	// With `basic`, in place of password_setting: text with settings in it, which itself
	// is no secret. Default: an empty password.
	Password string `json:"password,omitempty"`
}

// provisionConnectors lays each connector block over the catalogue's entry, if there
// is one, and checks the outcome.
func (a *App) provisionConnectors() (map[connector.ID]*broker.Connector, error) {
	known, err := a.KnownConnectors()
	if err != nil {
		return nil, err
	}
	connectors := make(map[connector.ID]*broker.Connector, len(a.Connectors))
	for _, name := range slices.Sorted(maps.Keys(a.Connectors)) {
		id, err := connector.ParseID(name)
		if err != nil {
			return nil, fmt.Errorf("connector %w", err)
		}
		block := a.Connectors[name]
		if block == nil {
			block = &ConnectorConfig{}
		}
		def, err := block.override(id, known, a.AllowPrivateHosts)
		if err != nil {
			return nil, mistyped(id, err, known)
		}
		client, err := block.client(id, a.logger)
		if err != nil {
			return nil, err
		}
		if def.AuthType == connector.OAuth2 && client.ID == "" && !def.TakesClient() {
			a.logger.LogAttrs(context.Background(), slog.LevelWarn, "connector has no client_id: its tokens cannot be refreshed",
				slog.String("connector", id.String()))
		}
		if client.ID != "" && client.Secret.IsZero() && def.GrantType == connector.ClientCredentials {
			a.logger.LogAttrs(context.Background(), slog.LevelWarn,
				"connector has a client_id without a client_secret: this grant is for clients that have one (RFC 6749 section 4.4)",
				slog.String("connector", id.String()))
		}
		connectors[id] = &broker.Connector{Definition: def, Client: client}
	}
	return connectors, nil
}

// mistyped adds to the fault of a connector that is not known the names that may have been
// meant: a block with a mistyped name lacks everything that the catalogue would have said.
func mistyped(id connector.ID, err error, known map[connector.ID]KnownConnector) error {
	near := NearConnectors(id.String(), known)
	if _, ok := known[id]; ok || len(near) == 0 {
		return err
	}
	return fmt.Errorf("%w\nconnector %s is not in the catalogue: did you mean %s?", err, id, strings.Join(near, ", "))
}

// override lays the block over what is known of the connector, and checks the outcome.
func (c *ConnectorConfig) override(id connector.ID, known map[connector.ID]KnownConnector, allowPrivate bool) (connector.Definition, error) {
	base := connector.Definition{ID: id}
	if k, ok := known[id]; ok {
		base = k.Definition
	}
	def := connector.Override(base, c.definition(id))
	def.AllowPrivate = def.AllowPrivate || allowPrivate
	return def.WithDefaults(), def.Validate()
}

// definition returns what the block says.
func (c *ConnectorConfig) definition(id connector.ID) connector.Definition {
	def := connector.Definition{
		ID: id, Name: c.Name,
		AuthType: connector.AuthType(c.AuthType), GrantType: connector.GrantType(c.GrantType),
		TokenURL: c.TokenURL, RefreshURL: c.RefreshURL, RevocationURL: c.RevocationURL,
		AuthStyle: connector.AuthStyle(c.AuthStyle), TokenBody: connector.TokenBody(c.TokenBody), TokenParams: c.TokenParams,
		PermanentErrors:      c.PermanentErrors,
		KeepAlive:            time.Duration(c.KeepAlive),
		RefreshTokenOptional: c.RefreshTokenOptional,
		BaseURL:              c.BaseURL, AllowHosts: c.AllowHosts, AllowPrivate: c.AllowPrivate,
	}
	if c.Rotation != nil {
		def.Rotation = connector.Rotation{Kind: connector.RotationKind(c.Rotation.Kind), Window: time.Duration(c.Rotation.Window)}
	}
	for _, s := range c.Settings {
		def.Settings = append(def.Settings,
			connector.Setting{Name: s.Name, Required: s.Required, Sensitive: s.Sensitive, Origin: s.Origin})
	}
	for _, p := range c.Inject {
		def.Inject = append(def.Inject, connector.Placement{
			Kind: connector.PlacementKind(p.In),
			Name: p.Name, Format: p.Format, Setting: p.Setting, PasswordSetting: p.PasswordSetting,
			Username: p.Username, Password: p.Password,
		})
	}
	return def
}

// client resolves the OAuth client.
func (c *ConnectorConfig) client(id connector.ID, logger *slog.Logger) (client broker.Client, err error) {
	if c.ClientID != "" {
		if client.ID, err = placeholder.Resolve(fmt.Sprintf("connector %s: client_id", id), c.ClientID); err != nil {
			return client, err
		}
	}
	if c.ClientSecret != "" {
		client.Secret, err = placeholder.Secret(logger, fmt.Sprintf("connector %s: client_secret", id), c.ClientSecret)
	}
	return client, err
}
