package record_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestStateAndHealthOfAConnection(t *testing.T) {
	t.Parallel()
	oauth := connector.Definition{Settings: []connector.Setting{{Name: "realm", Required: true}}}
	fetched := connector.Definition{GrantType: connector.ClientCredentials}
	keyed := connector.Definition{AuthType: connector.APIKey}
	const realm = `{"realm":"1"}`
	permanent := func(c *connection) { c.fail(record.ClassPermanent) }
	for name, test := range map[string]struct {
		def      connector.Definition
		imported *record.ImportCredentials
		settings string
		then     func(*connection)
		state    record.State
		health   record.Health
	}{
		"healthy":                   {oauth, tokens("a", "r", 0), realm, nil, record.StateCallable, record.HealthOK},
		"a setting is missing":      {oauth, tokens("a", "r", 0), `{}`, nil, record.StateAuthorized, record.HealthMissingSettings},
		"a refresh failed":          {oauth, tokens("a", "r", 0), realm, func(c *connection) { c.fail(record.ClassTransient) }, record.StateCallable, record.HealthPendingRefresh},
		"expired, a refresh failed": {oauth, tokens("a", "r", 2*time.Hour), realm, func(c *connection) { c.fail(record.ClassTransient) }, record.StateCallable, record.HealthPendingRefresh},
		"parked, token valid":       {oauth, tokens("a", "r", 0), realm, permanent, record.StateCallable, record.HealthNeedsAuth},
		"parked, token expired":     {oauth, tokens("a", "r", 2*time.Hour), realm, permanent, record.StateInvalid, record.HealthNeedsAuth},
		"parked, token rejected": {
			oauth, tokens("a", "r", 0), realm, func(c *connection) {
				c.failAt(now, record.Answer{Class: record.ClassPermanent, Code: record.CodeAccessTokenRejected}, record.Policy{})
			}, record.StateInvalid, record.HealthNeedsAuth,
		},
		"credentials cleared":        {oauth, tokens("a", "r", 0), realm, func(c *connection) { c.Credentials = nil }, record.StateAdded, record.HealthNeedsAuth},
		"cleared, a setting missing": {oauth, tokens("a", "r", 0), `{}`, func(c *connection) { c.Credentials = nil }, record.StateAdded, record.HealthMissingSettings},
		"fetched, no token yet":      {fetched, nil, `{}`, nil, record.StateCallable, record.HealthOK},
		"fetched, refused":           {fetched, nil, `{}`, permanent, record.StateInvalid, record.HealthNeedsAuth},
		"API key":                    {keyed, nil, `{"api_key":"k"}`, nil, record.StateCallable, record.HealthOK},
		"API key removed":            {keyed, nil, `{"api_key":"k"}`, func(c *connection) { c.Settings = nil }, record.StateAdded, record.HealthMissingSettings},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, test.def)
			c.must(&record.Import{Credentials: test.imported, Settings: object(t, test.settings)})
			if test.then != nil {
				test.then(c)
			}
			got := c.View(&c.conn.Definition, now)
			if got.State != test.state || got.Health != test.health {
				t.Errorf("got %s and %s, want %s and %s", got.State, got.Health, test.state, test.health)
			}
		})
	}
}
