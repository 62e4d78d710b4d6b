package broker_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

func TestSettingThatDoesNotFitIsRefusedAtImport(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		id := connector.ID{UnifiedAPI: "crm", ServiceID: "tenants"}
		def := connector.Definition{
			ID: id, Name: "Tenants", AuthType: connector.OAuth2, AuthStyle: connector.AuthHeader,
			TokenURL: "https://{tenant}.acme.test/token", BaseURL: "https://{tenant}.acme.test",
			AllowHosts: []string{"*.acme.test"}, Settings: []connector.Setting{{Name: "tenant", Required: true}},
		}
		if err := def.Validate(); err != nil {
			t.Fatal(err)
		}
		h.config.Connectors[id] = &record.Connector{Definition: def.WithDefaults()}
		for setting, good := range map[string]bool{
			`"eu"`: true, `"evil.test/x"`: false, `"a.b"`: false, `"x#"`: false, `"-"`: false, `["eu"]`: false, `7`: true,
		} {
			_, _, err := h.importBody(h.at(id), `{"credentials":{"access_token":"a","refresh_token":"r",`+issued(0)+`},"settings":{"tenant":`+setting+`}}`)
			input, bad := errors.AsType[*record.InputError](err)
			if bad == good || bad && (input.Field != "settings.tenant" || input.Kind != record.InputInvalid) {
				t.Errorf("%s: got %v", setting, err)
			}
		}
	})
}

func TestMaskInsideASettingStaysAsItWas(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		for _, settings := range []string{
			`{"proxy":{"user":"u","password":"` + brokertest.SettingCanary + `"},"keys":[{"api_key":"k"}]}`,
			`{"proxy":{"user":"v","password":"` + record.Mask + `"},"keys":[{"api_key":"` + record.Mask + `"}]}`,
		} {
			if _, _, err := h.importBody(h.key, `{"settings":`+settings+`}`); err != nil {
				t.Fatal(err)
			}
		}
		got := fmt.Sprint(h.record(h.key).Settings)
		if want := "map[keys:[map[api_key:k]] proxy:map[password:" + brokertest.SettingCanary + " user:v]]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestImportOfOnlySettingsKeepsCredentials(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		_, outcome, err := h.importBody(h.key, `{"settings":{"realm":"1"}}`)
		if err != nil || outcome != record.ImportKept {
			t.Fatalf("got %q, %v, want kept", outcome, err)
		}
		rec := h.record(h.key)
		if rec.Credentials.RefreshToken.Reveal() != "r1" || rec.Settings["realm"] != "1" || rec.Generation != 1 {
			t.Errorf("got refresh token and settings %v, generation %d", rec.Settings, rec.Generation)
		}
	})
}
