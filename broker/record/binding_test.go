package record_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// Connectors of which a setting decides a host.
var (
	tenant  = []connector.Setting{{Name: "tenant", Required: true}}
	apiHost = connector.Definition{BaseURL: "https://{tenant}.acme.test", Settings: tenant}
)

// A caller who may change a connection's settings may not see its secrets, and so may not have
// them sent to another host.
func TestSettingsCannotSendStoredSecretsElsewhere(t *testing.T) {
	t.Parallel()
	tokenHost := connector.Definition{TokenURL: "https://{tenant}.acme.test/token", Settings: tenant}
	revocationHost := connector.Definition{RevocationURL: "https://{tenant}.acme.test/revoke", Settings: tenant}
	origin := connector.Definition{
		BaseURL: "{instance_url}", AllowHosts: []string{"*.acme.test"},
		Settings: []connector.Setting{{Name: "instance_url", Required: true, Origin: true}},
	}
	apiKey := connector.Definition{
		AuthType: connector.APIKey, BaseURL: "https://{tenant}.acme.test",
		Settings: []connector.Setting{{Name: "tenant", Required: true}, {Name: "api_key", Required: true, Sensitive: true}},
	}
	optionalKey := connector.Definition{
		AuthType: connector.Custom, BaseURL: "https://{tenant}.acme.test",
		Settings: []connector.Setting{{Name: "tenant", Required: true}, {Name: "api_key", Sensitive: true}},
		Inject:   []connector.Placement{{Kind: connector.InHeader, Name: "X-Tenant", Setting: "tenant"}},
	}
	password := connector.Definition{GrantType: connector.Password, TokenURL: "https://{tenant}.acme.test/token", Settings: tenant}

	const day = 24 * time.Hour
	planted := undated("x", "planted")
	planted.IssuedAt, planted.ExpiresIn = now.Add(-700*day), new(1000*day)
	r1 := tokens("a1", "r1", 200*day)
	const mine, evil, moved = `{"tenant":"mine"}`, `{"tenant":"evil"}`, `{"tenant":"moved"}`

	type request struct {
		settings    string
		credentials *record.ImportCredentials
	}
	for name, test := range map[string]struct {
		def    connector.Definition
		first  []request
		second request
		field  string // empty: allowed
		fix    string
	}{
		"token host":                  {tokenHost, []request{{mine, r1}}, request{evil, nil}, "settings.tenant", "import it together with"},
		"revocation host":             {revocationHost, []request{{mine, r1}}, request{evil, nil}, "settings.tenant", "import it together with"},
		"API host":                    {apiHost, []request{{mine, r1}}, request{evil, nil}, "settings.tenant", "import it together with"},
		"origin":                      {origin, []request{{`{"instance_url":"https://mine.acme.test"}`, r1}}, request{`{"instance_url":"https://evil.acme.test"}`, nil}, "settings.instance_url", ""},
		"in two steps":                {apiHost, []request{{mine, r1}}, request{`{"tenant":null}`, nil}, "settings.tenant", ""},
		"a made-up access token":      {tokenHost, []request{{mine, r1}}, request{evil, tokens("x", "", 100*day)}, "settings.tenant", ""},
		"the access token alone":      {apiHost, []request{{mine, r1}}, request{evil, undated("a1", "")}, "settings.tenant", ""},
		"a made-up older token":       {apiHost, []request{{mine, r1}}, request{evil, tokens("x", "x", 300*day)}, "settings.tenant", ""},
		"a token that was planted":    {apiHost, []request{{mine, planted}, {mine, r1}}, request{evil, undated("x", "planted")}, "settings.tenant", ""},
		"the same token":              {apiHost, []request{{mine, r1}}, request{moved, undated("a1", "r1")}, "", ""},
		"new tokens":                  {apiHost, []request{{mine, r1}}, request{moved, undated("a2", "r2")}, "", ""},
		"the same host":               {apiHost, []request{{mine, r1}}, request{`{"tenant":"MINE","color":"red"}`, nil}, "", ""},
		"a host where there was none": {apiHost, []request{{`{}`, r1}}, request{mine, nil}, "", ""},
		"API key":                     {apiKey, []request{{`{"tenant":"mine","api_key":"k"}`, nil}}, request{evil, nil}, "settings.tenant", "send settings.api_key with it"},
		"API key, masked":             {apiKey, []request{{`{"tenant":"mine","api_key":"k"}`, nil}}, request{`{"tenant":"evil","api_key":"********"}`, nil}, "settings.tenant", "send settings.api_key"},
		"API key, sent again":         {apiKey, []request{{`{"tenant":"mine","api_key":"k"}`, nil}}, request{`{"tenant":"moved","api_key":"k"}`, nil}, "", ""},
		"API key, removed":            {optionalKey, []request{{`{"tenant":"mine","api_key":"k"}`, nil}}, request{`{"tenant":"moved","api_key":null}`, nil}, "", ""},
		"password":                    {password, []request{{`{"tenant":"mine","username":"u","password":"p"}`, nil}}, request{evil, nil}, "settings.tenant", "send settings.password with it"},
		"password, sent again":        {password, []request{{`{"tenant":"mine","username":"u","password":"p"}`, nil}}, request{`{"tenant":"moved","password":"p"}`, nil}, "", ""},
	} {
		for _, refreshed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refreshed %v", name, refreshed), func(t *testing.T) {
				t.Parallel()
				c := connect(t, test.def)
				for _, first := range test.first {
					c.must(&record.Import{Settings: object(t, first.settings), Credentials: first.credentials})
				}
				if refreshed && c.conn.AuthType == connector.OAuth2 {
					c.succeed("a2", "refreshed")
				}
				before := c.Record
				_, err := c.try(&record.Import{Settings: object(t, test.second.settings), Credentials: test.second.credentials})
				wantInputError(t, err, test.field, test.fix)
				if test.second.credentials == nil { // an update can say the same
					c.Record = before
					wantInputError(t, c.update(&record.Update{Settings: object(t, test.second.settings)}), test.field, test.fix)
				}
			})
		}
	}
}

// The broker has rotated the refresh token, and the owner of the first one corrects a host.
func TestReimportWithTheFirstTokenCorrectsAHost(t *testing.T) {
	t.Parallel()
	c := connect(t, apiHost)
	c.must(&record.Import{Settings: object(t, `{"tenant":"TYPO"}`), Credentials: undated("a1", "r1")})
	c.succeed("a2", "r2")
	if got := c.must(&record.Import{Settings: object(t, `{"tenant":"mine"}`), Credentials: undated("a1", "r1")}); got != record.ImportKept {
		t.Errorf("got %s, want kept", got)
	}
	if c.Settings["tenant"] != "mine" || c.Credentials.RefreshToken.Reveal() != "r2" {
		t.Errorf("got settings %v, or the spent token is back", c.Settings)
	}
}

// Without a refresh token the access token is all that there is to know.
func TestAccessTokenProvesWhereThereIsNoRefreshToken(t *testing.T) {
	t.Parallel()
	def := apiHost
	def.RefreshTokenOptional = true
	c := connect(t, def)
	c.must(&record.Import{Settings: object(t, `{"tenant":"mine"}`), Credentials: undated("a1", "")})
	moved := object(t, `{"tenant":"moved"}`)
	_, err := c.try(&record.Import{Settings: moved})
	wantInputError(t, err, "settings.tenant", "")
	if got := c.must(&record.Import{Settings: moved, Credentials: undated("a1", "")}); got != record.ImportKept {
		t.Errorf("got %s, want kept", got)
	}
}

// A token that was fetched with other settings may be another user's.
func TestChangeOfIdentityRemovesFetchedTokens(t *testing.T) {
	t.Parallel()
	def := connector.Definition{
		GrantType: connector.ClientCredentials, Settings: tenant, TokenParams: map[string]string{"tenant": "{tenant}"},
	}
	change := object(t, `{"tenant":"b"}`)
	for name, do := range map[string]func(*connection){
		"import": func(c *connection) {
			if got := c.must(&record.Import{Settings: change}); got != record.ImportStored {
				t.Errorf("import: got %s, want stored", got)
			}
		},
		"update": func(c *connection) {
			if err := c.update(&record.Update{Settings: change}); err != nil {
				t.Error(err)
			}
		},
	} {
		c := connect(t, def)
		c.must(&record.Import{Settings: object(t, `{"tenant":"a"}`)})
		c.succeed("a1", "")
		c.Lease, c.Cycle.Queued = &record.Lease{ID: "x"}, true // a request for a is in progress
		before := c.Generation
		if err := c.update(&record.Update{Metadata: object(t, `{"plan":"gold"}`)}); err != nil || c.Credentials == nil || c.Generation != before {
			t.Errorf("%s: metadata: got %v, generation %d, or the token is gone", name, err, c.Generation)
		}
		do(c)
		if c.Credentials != nil || c.Lease != nil || c.Cycle != (record.Cycle{}) {
			t.Errorf("%s: something of the other identity is left: credentials %v, lease %v, cycle %+v", name, c.Credentials != nil, c.Lease, c.Cycle)
		}
		if c.Generation != before+1 {
			t.Errorf("%s: got generation %d, want %d", name, c.Generation, before+1)
		}
	}
}

// The fix must not reveal what a caller has to prove that they know.
func TestErrorOfAMovedHostQuotesNoSecret(t *testing.T) {
	t.Parallel()
	c := connect(t, apiHost)
	c.must(&record.Import{Settings: object(t, `{"tenant":"mine"}`), Credentials: undated("ACCESS", "REFRESH")})
	_, err := c.try(&record.Import{Settings: object(t, `{"tenant":"evil"}`)})
	if err == nil || strings.Contains(err.Error(), "ACCESS") || strings.Contains(err.Error(), "REFRESH") {
		t.Errorf("got %v", err)
	}
}
