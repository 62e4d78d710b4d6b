package connector

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTokenParamsRender(t *testing.T) {
	t.Parallel()
	d := acme()
	d.TokenParams = map[string]string{"scope": "a b", "audience": "https://{tenant}.acme.test/{tenant}"}
	d.Settings = []Setting{{Name: "tenant"}}
	full := d.WithDefaults()
	for _, d := range []*Definition{&d, &full} {
		got, err := d.RenderTokenParams(map[string]any{"tenant": "a/b?"})
		if want := "map[audience:https://a/b?.acme.test/a/b? scope:a b]"; err != nil || fmt.Sprint(got) != want {
			t.Errorf("got %v, %v, want %s", got, err, want)
		}
		for _, value := range []any{nil, "", "a\n", []any{}} {
			var fault *SettingError
			if _, err := d.RenderTokenParams(map[string]any{"tenant": value}); !errors.As(err, &fault) || fault.Setting != "tenant" {
				t.Errorf("%q: got %v, want a *SettingError", value, err)
			}
		}
	}
}

// TestChangedDefinitionIsReadAgain: templates of the text before a change are never used.
func TestChangedDefinitionIsReadAgain(t *testing.T) {
	t.Parallel()
	d := acme()
	d = d.WithDefaults()
	d.BaseURL, d.TokenURL, d.AllowHosts = "https://new.test", "https://auth.new.test/{x}", []string{"*.new.test"}
	d.Inject = []Placement{{Kind: InQuery, Name: "t"}}
	d.TokenParams = map[string]string{"a": "{x}"}
	for host, want := range map[string]bool{"new.test": true, "a.new.test": true, "api.acme.test": false, "a.acme.test": false} {
		if err := d.AllowsHost("https", host, nil); (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	if got, err := d.RenderTokenURL(map[string]any{"x": "1"}); err != nil || got != "https://auth.new.test/1" {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := d.Injections(nil, "t0ken"); err != nil || len(got) != 1 || got[0].Kind != InQuery {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := d.RenderTokenParams(map[string]any{"x": "1"}); err != nil || got["a"] != "1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestDestinationsAreWhatSettingsDecide(t *testing.T) {
	t.Parallel()
	d := Definition{
		ID: ID{"crm", "acme"}, AuthType: OAuth2, AuthStyle: AuthHeader,
		BaseURL: "{site}/v1", TokenURL: "https://auth.acme.test/{tenant}", RefreshURL: "https://{tenant}.acme.test:8443/x",
		AllowHosts: []string{"*.acme.test"}, Settings: []Setting{{Name: "site", Origin: true}, {Name: "tenant"}},
	}
	for _, test := range []struct{ site, tenant, want string }{
		{"https://A.acme.test", "T", "[https://a.acme.test:443  https://t.acme.test:8443 ]"},
		{"https://a.acme.test:443/", "t", "[https://a.acme.test:443  https://t.acme.test:8443 ]"},
		{"https://evil.test", "a.b", "[   ]"},
		{"", "", "[   ]"},
	} {
		if got := fmt.Sprint(d.Destinations(map[string]any{"site": test.site, "tenant": test.tenant})); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	if got := strings.Join(d.DestinationSettings(), " "); got != "site tenant" {
		t.Errorf("got %s", got)
	}
}

func TestOwnClientTakesTheDeclaration(t *testing.T) {
	t.Parallel()
	d := acme()
	settings := map[string]any{"client_id": "id", "client_secret": "s"}
	if _, _, ok := d.OwnClient(settings); ok {
		t.Error("settings that nobody declared are taken for an OAuth client")
	}
	d.Settings = []Setting{{Name: "client_id"}, {Name: "client_secret", Sensitive: true}}
	if id, secret, ok := d.OwnClient(settings); !ok || id != "id" || secret != "s" {
		t.Errorf("got %q, %q, %t", id, secret, ok)
	}
	if _, _, ok := d.OwnClient(map[string]any{"client_secret": "s"}); ok {
		t.Error("a secret alone is taken for a client")
	}
	var fault *SettingError
	if err := d.CheckSettings(map[string]any{"client_secret": "s"}); !errors.As(err, &fault) || fault.Setting != "client_id" {
		t.Errorf("got %v, want a *SettingError for client_id", err)
	}
}
