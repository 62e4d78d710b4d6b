package breaker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

// A subject is what refusals of a client concern.
type subject struct {
	connector  connector.ID
	endpoint   string     // of a tenant, if it depends on settings; empty: the connector's
	connection record.Key // one that has its own client; zero: every connection of the connector, or of the endpoint
}

// isShared reports whether the subject covers more than one connection.
func (s *subject) isShared() bool { return s.connection == (record.Key{}) }

// subjectOf returns the subject of the record's token requests. A refusal of the connector's
// client says nothing about a connection that has its own.
func subjectOf(c *record.Connector, rec *record.Record) subject {
	if _, own := c.ClientFor(rec.Settings); own {
		return subject{connector: c.ID, connection: rec.Key}
	}
	return subject{connector: c.ID, endpoint: EndpointOf(c, rec)}
}

// EndpointOf returns the token endpoint of the record's tenant, empty if all connections have
// the same. That one tenant's endpoint refuses the client says nothing about another's: it
// may be in another region, or belong to a customer who has removed the integration.
func EndpointOf(c *record.Connector, rec *record.Record) string {
	if !strings.Contains(c.TokenURL+c.RefreshURL, "{") {
		return ""
	}
	endpoint, err := c.TokenEndpoint(rec)
	if err != nil {
		return "" // a setting is missing, so no request will be sent
	}
	return endpoint
}

// clientSettings is everything that decides whether a token endpoint accepts the client.
type clientSettings struct {
	tokenURL, refreshURL string
	authStyle            connector.AuthStyle
	method               connector.TokenMethod
	body                 connector.TokenBody
	clientID             string
	secret               secret.Hash
	more                 secret.Hash // of parameters and headers; for a single connection also of its settings
}

// clientSettingsOf returns the client settings for requests of a subject. rec may be nil if
// the subject is shared.
func clientSettingsOf(c *record.Connector, subj subject, rec *record.Record) clientSettings {
	client, more := c.Client, strings.Builder{}
	for _, pairs := range []map[string]string{c.TokenParams, c.TokenHeaders} {
		for _, name := range slices.Sorted(maps.Keys(pairs)) {
			fmt.Fprintf(&more, "%q=%q ", name, pairs[name])
		}
		more.WriteByte(';')
	}
	if !subj.isShared() {
		client, _ = c.ClientFor(rec.Settings)
		for _, name := range c.TokenSettings() {
			fmt.Fprintf(&more, "%q=%q ", name, fmt.Sprint(rec.Settings[name]))
		}
	}
	return clientSettings{
		c.TokenURL, c.RefreshURL, c.AuthStyle, c.TokenMethod, c.TokenBody, client.ID, client.Secret.Hash(), secret.New(more.String()).Hash(),
	}
}

// Fingerprint identifies a connector's client and how it requests tokens.
func Fingerprint(c *record.Connector) secret.Hash {
	return secret.New(fmt.Sprintf("%q", clientSettingsOf(c, subject{connector: c.ID}, nil))).Hash()
}
