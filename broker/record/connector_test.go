package record_test

import (
	"slices"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestNextTokenRequest(t *testing.T) {
	t.Parallel()
	const url, refreshURL = "https://auth.acme.test/token", "https://auth.acme.test/refresh"
	params := map[string]string{"audience": "{tenant}"}
	code := connector.Definition{RefreshURL: refreshURL, TokenParams: params}
	password := connector.Definition{GrantType: connector.Password, TokenParams: params}
	machines := connector.Definition{GrantType: connector.ClientCredentials, TokenParams: params}
	both := &record.Credentials{AccessToken: secret.New("a"), RefreshToken: secret.New("r")}
	access := &record.Credentials{AccessToken: secret.New("a")}
	for name, test := range map[string]struct {
		def         connector.Definition
		credentials *record.Credentials
		url         string // empty: no request can bring a token
		params      string
		rotation    connector.RotationKind
	}{
		"refresh token":                     {code, both, refreshURL, "audience=t&grant_type=refresh_token&refresh_token=r", connector.RotationAlways},
		"no refresh token":                  {code, access, "", "", connector.RotationNever},
		"no credentials":                    {code, nil, "", "", connector.RotationNever},
		"password":                          {password, nil, url, "audience=t&grant_type=password&password=p&username=u", connector.RotationNever},
		"password, refresh token":           {password, both, url, "audience=t&grant_type=refresh_token&refresh_token=r", connector.RotationAlways},
		"client credentials":                {machines, access, url, "audience=t&grant_type=client_credentials", connector.RotationNever},
		"client credentials, refresh token": {machines, both, url, "audience=t&grant_type=client_credentials", connector.RotationNever},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.def.Settings = tenant
			c := connect(t, test.def)
			c.Settings, c.Credentials = object(t, `{"tenant":"t","username":"u","password":"p"}`), test.credentials
			if got := c.conn.RotationFor(c.Credentials).Kind; got != test.rotation {
				t.Errorf("got rotation %s, want %s", got, test.rotation)
			}
			if got, want := c.conn.CanRefresh(c.Credentials), test.url != ""; got != want {
				t.Errorf("got CanRefresh %v, want %v", got, want)
			}
			if test.url == "" {
				return
			}
			if got, err := c.conn.TokenEndpoint(c.Record); err != nil || got != test.url {
				t.Errorf("got %s, %v, want %s", got, err, test.url)
			}
			if got, err := c.conn.RequestParams(c.Record); err != nil || got.Encode() != test.params {
				t.Errorf("got %s, %v, want %s", got.Encode(), err, test.params)
			}
			c.Settings = nil
			if got, err := c.conn.RequestParams(c.Record); err == nil {
				t.Errorf("without settings: got %v, want an error", got)
			}
		})
	}
}

// The two are never mixed: the configuration's secret goes with no other id.
func TestConnectionsOwnClientReplacesTheConfigurations(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{Settings: []connector.Setting{
		{Name: "client_id"}, {Name: "client_secret", Sensitive: true},
	}})
	for settings, want := range map[string]struct {
		id, secret string
		own        bool
	}{
		`{}`: {"client", "secret", false},
		`{"client_id":"mine","client_secret":"s"}`: {"mine", "s", true},
	} {
		client, own := c.conn.ClientFor(object(t, settings))
		if client.ID != want.id || client.Secret.Reveal() != want.secret || own != want.own {
			t.Errorf("%s: got %s with %q, own %v", settings, client.ID, client.Secret.Reveal(), own)
		}
		if got := c.conn.AuthStyleFor(client); got != c.conn.AuthStyle {
			t.Errorf("%s: authenticates in %s, want %s", settings, got, c.conn.AuthStyle)
		}
	}
	for _, style := range []connector.AuthStyle{connector.AuthHeader, connector.AuthHeaderRaw, connector.AuthParams, connector.AuthBoth} {
		c.conn.AuthStyle = style
		if got := c.conn.AuthStyleFor(c.conn.Client); got != style {
			t.Errorf("got style %s, want the connector's, %s", got, style)
		}
		if got := c.conn.AuthStyleFor(record.Client{ID: "public"}); got != connector.AuthParams {
			t.Errorf("style %s: a public client authenticates in %s and cannot say its id", style, got)
		}
	}
}

func TestSecretsOfARequestAreThoseThatAnAnswerMightEcho(t *testing.T) {
	t.Parallel()
	c := connect(t, connector.Definition{Settings: []connector.Setting{{Name: "pin", Sensitive: true}, {Name: "region"}}})
	c.must(&record.Import{Credentials: tokens("access", "refresh", 0), Settings: object(t, `{"pin":1234,"region":"eu"}`)})
	got := c.conn.Secrets(c.Record)
	for _, want := range []string{"secret", "access", "refresh", "1234"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if slices.Contains(got, "eu") {
		t.Errorf("a setting that is not sensitive is among %q", got)
	}
}
