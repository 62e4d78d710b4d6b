package broker_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

// wantInputError checks that err is about the field, or nil if there is none.
func wantInputError(t *testing.T, err error, field, fix string) {
	t.Helper()
	var input *record.InputError
	switch {
	case field == "" && err != nil:
		t.Error(err)
	case field != "" && (!errors.As(err, &input) || input.Field != field || input.Kind != record.InputInvalid || !strings.Contains(input.Fix, fix)):
		t.Errorf("got %v, want an InputError for %s: %s", err, field, fix)
	}
}

// TestSettingsCannotSendStoredSecretsElsewhere: who may change a connection's settings
// may not see its secrets, and so may not have them sent to a host of their own.
func TestSettingsCannotSendStoredSecretsElsewhere(t *testing.T) {
	t.Parallel()
	tenant := []connector.Setting{{Name: "tenant", Required: true}}
	origin := []connector.Setting{{Name: "instance_url", Required: true, Origin: true}}
	keys := []connector.Setting{{Name: "tenant", Required: true}, {Name: "api_key", Required: true, Sensitive: true}}
	tokens := func(access, refresh, more string) string {
		return `"credentials":{"access_token":"` + access + `","refresh_token":"` + refresh + `"` + more + `}`
	}
	oauthAPI := connector.Definition{BaseURL: "https://{tenant}.acme.test", Settings: tenant}
	oauthToken := connector.Definition{TokenURL: "https://{tenant}.acme.test/token", Settings: tenant}
	oauthRevoke := connector.Definition{RevocationURL: "https://{tenant}.acme.test/revoke", Settings: tenant}
	oauthOrigin := connector.Definition{BaseURL: "{instance_url}", AllowHosts: []string{"*.acme.test"}, Settings: origin}
	apiKey := connector.Definition{AuthType: connector.APIKey, BaseURL: "https://{tenant}.acme.test", Settings: keys}
	password := connector.Definition{GrantType: connector.Password, TokenURL: "https://{tenant}.acme.test/token", Settings: tenant}
	first := `{"settings":{"tenant":"mine"},` + tokens("a1", "r1", `,"issued_at":"1999-06-01T00:00:00Z"`) + `}`
	for name, test := range map[string]struct {
		def           connector.Definition
		first, second string
		field         string // empty: it is fine
		fix           string
	}{
		"token host":      {oauthToken, first, `{"settings":{"tenant":"evil"}}`, "settings.tenant", "import it together with"},
		"revocation host": {oauthRevoke, first, `{"settings":{"tenant":"evil"}}`, "settings.tenant", "import it together with"},
		"API host":        {oauthAPI, first, `{"settings":{"tenant":"evil"}}`, "settings.tenant", "import it together with"},
		"origin":          {oauthOrigin, `{"settings":{"instance_url":"https://mine.acme.test"},` + tokens("a1", "r1", "") + `}`, `{"settings":{"instance_url":"https://evil.acme.test"}}`, "settings.instance_url", ""},
		"in two steps":    {oauthAPI, first, `{"settings":{"tenant":null}}`, "settings.tenant", ""},
		"a made-up access token": {
			oauthToken, first, `{"settings":{"tenant":"evil"},"credentials":{"access_token":"x","issued_at":"1999-09-01T00:00:00Z"}}`,
			"settings.tenant", "",
		},
		"a made-up older token": {oauthAPI, first, `{"settings":{"tenant":"evil"},` + tokens("x", "x", `,"issued_at":"1999-01-01T00:00:00Z"`) + `}`, "settings.tenant", ""},
		"a token that was planted": {
			oauthAPI, `{"settings":{"tenant":"mine"},` + tokens("x", "planted", `,"issued_at":"1998-01-01T00:00:00Z","expires_in":86400000`) + `}`,
			`{"settings":{"tenant":"evil"},` + tokens("x", "planted", "") + `}`, "settings.tenant", "",
		},
		"the same token":       {oauthAPI, first, `{"settings":{"tenant":"moved"},` + tokens("a1", "r1", "") + `}`, "", ""},
		"new tokens":           {oauthAPI, first, `{"settings":{"tenant":"moved"},` + tokens("a2", "r2", "") + `}`, "", ""},
		"the same host":        {oauthAPI, first, `{"settings":{"tenant":"MINE","color":"red"}}`, "", ""},
		"the host, at last":    {oauthAPI, `{` + tokens("a1", "r1", "") + `}`, `{"settings":{"tenant":"mine"}}`, "", ""},
		"API key":              {apiKey, `{"settings":{"tenant":"mine","api_key":"k"}}`, `{"settings":{"tenant":"evil"}}`, "settings.tenant", "send settings.api_key with it"},
		"API key, masked":      {apiKey, `{"settings":{"tenant":"mine","api_key":"k"}}`, `{"settings":{"tenant":"evil","api_key":"********"}}`, "settings.tenant", "send settings.api_key"},
		"API key, sent again":  {apiKey, `{"settings":{"tenant":"mine","api_key":"k"}}`, `{"settings":{"tenant":"moved","api_key":"k"}}`, "", ""},
		"password":             {password, `{"settings":{"tenant":"mine","username":"u","password":"p"}}`, `{"settings":{"tenant":"evil"}}`, "settings.tenant", "send settings.password with it"},
		"password, sent again": {password, `{"settings":{"tenant":"mine","username":"u","password":"p"}}`, `{"settings":{"tenant":"moved","password":"p"}}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtually(t, func(t *testing.T, h *harness) {
				test.def.ID = acme
				h.connect(test.def)
				h.provider.Grant("r1")
				h.mustImportBody(h.key, test.first)
				if strings.Contains(test.first, "planted") {
					h.mustImportBody(h.key, first)
				}
				synctest.Wait()
				before := h.record(h.key)
				if !strings.Contains(test.second, "credentials") { // an update can say it too
					_, err := h.update(h.key, test.second)
					wantInputError(t, err, test.field, test.fix)
					if test.field == "" {
						return
					}
				}
				_, _, err := h.importBody(h.key, test.second)
				wantInputError(t, err, test.field, test.fix)
				if test.field != "" && h.record(h.key).UpdatedAt != before.UpdatedAt {
					t.Error("something was stored")
				}
			})
		})
	}
}

// TestReimportWithTheFirstTokenMendsAHost: the broker has rotated the refresh token, and
// whoever imported the first one may correct a host that was wrong.
func TestReimportWithTheFirstTokenMendsAHost(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.connect(connector.Definition{
			ID: acme, BaseURL: "https://{tenant}.acme.test", Settings: []connector.Setting{{Name: "tenant", Required: true}},
		})
		h.provider.Grant("r1")
		body := `{"settings":{"tenant":"TYPO"},"credentials":{"access_token":"a1","refresh_token":"r1"}}`
		h.mustImportBody(h.key, body)
		h.token(h.key)
		synctest.Wait()
		if got := h.mustImportBody(h.key, strings.Replace(body, "TYPO", "mine", 1)); got != record.ImportKept {
			t.Errorf("got %s, want kept", got)
		}
		rec := h.record(h.key)
		if rec.Settings["tenant"] != "mine" || rec.Credentials.RefreshToken.Reveal() == "r1" {
			t.Errorf("got settings %v, or the spent token is back", rec.Settings)
		}
	})
}
