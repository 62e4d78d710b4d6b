package tokenbroker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/placeholder"
)

// ConnectorConfig configures a connector: its definition and the OAuth client. Unset members come
// from the catalogue, if that has the connector.
type ConnectorConfig struct {
	connector.Definition

	// The id of the OAuth client that the connections were authorised for. Placeholders are
	// resolved. If the connector has a setting client_id, a connection can have its own client.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret, as a placeholder.
	ClientSecret string `json:"client_secret,omitempty"`
}

// UnmarshalJSON decodes the members of the client, and leaves all others to the definition, which
// refuses unknown ones.
func (c *ConnectorConfig) UnmarshalJSON(b []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	for name, value := range members {
		var dst *string
		switch strings.ToLower(name) { // as encoding/json matches names
		case "client_id":
			dst = &c.ClientID
		case "client_secret":
			dst = &c.ClientSecret
		default:
			continue
		}
		if json.Unmarshal(value, dst) != nil {
			return fmt.Errorf("%s must be a string", name)
		}
		delete(members, name)
	}
	rest, err := json.Marshal(members)
	if err != nil {
		return err
	}
	return json.Unmarshal(rest, &c.Definition)
}

// provisionConnectors overrides the catalogue's entries with the connector blocks, and
// checks the results.
func (a *App) provisionConnectors() (map[connector.ID]*record.Connector, error) {
	known, err := a.KnownConnectors()
	if err != nil {
		return nil, err
	}
	connectors := make(map[connector.ID]*record.Connector, len(a.Connectors))
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
		if client.ID != "" && client.Secret.IsZero() && def.Grant().NeedsClientSecret {
			a.logger.LogAttrs(context.Background(), slog.LevelWarn,
				"connector has a client_id without a client_secret: this grant is for clients that have one (RFC 6749 section 4.4)",
				slog.String("connector", id.String()))
		}
		connectors[id] = &record.Connector{Definition: def, Client: client}
	}
	return connectors, nil
}

// mistyped adds suggestions to the error of a connector that is not in the catalogue: a block
// with a mistyped name lacks everything that the catalogue's entry says.
func mistyped(id connector.ID, err error, known map[connector.ID]KnownConnector) error {
	near := NearConnectors(id.String(), known)
	if _, ok := known[id]; ok || len(near) == 0 {
		return err
	}
	return fmt.Errorf("%w\nconnector %s is not in the catalogue: did you mean %s?", err, id, strings.Join(near, ", "))
}

// override applies the block to the catalogue's definition, if there is one, and checks the
// result.
func (c *ConnectorConfig) override(id connector.ID, known map[connector.ID]KnownConnector, allowPrivate bool) (connector.Definition, error) {
	if c.ID != (connector.ID{}) && c.ID != id {
		return connector.Definition{}, fmt.Errorf("connector %s: id: is %s: remove it", id, c.ID)
	}
	base := connector.Definition{ID: id}
	if k, ok := known[id]; ok {
		base = k.Definition
	}
	def := connector.Override(base, c.Definition)
	def.AllowPrivate = def.AllowPrivate || allowPrivate
	return def.WithDefaults(), def.Validate()
}

// client resolves the placeholders of the OAuth client.
func (c *ConnectorConfig) client(id connector.ID, logger *slog.Logger) (client record.Client, err error) {
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
