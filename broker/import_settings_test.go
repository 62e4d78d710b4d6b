package broker_test

import (
	"encoding/json"
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
		h.connect(def)
		for setting, good := range map[string]bool{
			`"eu"`: true, `"evil.test/x"`: false, `"a.b"`: false, `"x#"`: false, `"-"`: false, `["eu"]`: false, `7`: true,
		} {
			_, _, err := h.importBody(h.at(id), `{"credentials":{"access_token":"a","refresh_token":"r",`+issued(0)+`},"settings":{"tenant":`+setting+`}}`)
			if !good {
				wantInvalid(t, err, "settings.tenant")
			} else if err != nil {
				t.Errorf("%s: got %v, want no error", setting, err)
			}
		}
	})
}

func TestMaskInsideASettingStaysAsItWas(t *testing.T) {
	t.Parallel()
	virtually(t, func(t *testing.T, h *harness) {
		h.mustImport("a1", "r1", issued(0))
		settings := func(user, password, key string) string {
			return fmt.Sprintf(`{"keys":[{"api_key":%q}],"proxy":{"password":%q,"user":%q}}`, key, password, user)
		}
		wantJSON := func(what string, got map[string]any, want string) {
			t.Helper()
			if encoded, err := json.Marshal(got); err != nil || string(encoded) != want {
				t.Errorf("%s: got settings %s, %v; want %s", what, encoded, err, want)
			}
		}
		const canary = brokertest.SettingCanary
		for _, step := range []struct{ what, sent, stored, shown string }{
			{"secrets", settings("u", canary, "k"), settings("u", canary, "k"), settings("u", record.Mask, record.Mask)},
			{"masks and a change beside them", settings("v", record.Mask, record.Mask), settings("v", canary, "k"), settings("v", record.Mask, record.Mask)},
			{"a mask and a new secret", settings("v", record.Mask, "k2"), settings("v", canary, "k2"), settings("v", record.Mask, record.Mask)},
		} {
			shown, _, err := h.importBody(h.key, `{"settings":`+step.sent+`}`)
			if err != nil {
				t.Fatalf("%s: %v", step.what, err)
			}
			wantJSON(step.what+", stored", h.record(h.key).Settings, step.stored)
			wantJSON(step.what+", shown", shown.Settings, step.shown)
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
		rec := h.wantRecord(h.key, recordWant{access: "a1", refresh: "r1", generation: 1})
		if rec.Settings["realm"] != "1" {
			t.Errorf("got settings %v, want the imported one", rec.Settings)
		}
	})
}
