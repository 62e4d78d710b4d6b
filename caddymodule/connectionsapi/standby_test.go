package connectionsapi

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestImportHeaderPutsAConnectionIntoStandby(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	path := vault + "connections/crm/acme"
	for _, step := range []struct {
		header  string
		standby any
	}{{"", nil}, {"true", true}, {"", true}, {"false", nil}, {"true", true}} {
		resp := caddytest.Do(t, api, "POST", path+"/import", caddytest.TokenBody("access-1"), append(as("jane"), "X-Token-Broker-Standby", step.header)...)
		if got := dataOf[map[string]any](t, resp)["standby"]; got != step.standby {
			t.Errorf("after %q the import shows standby %v, want %v", step.header, got, step.standby)
		}
	}
	if got := dataOf[map[string]any](t, caddytest.Do(t, api, "GET", path, "", as("jane")...))["standby"]; got != true {
		t.Errorf("the connection shows standby %v, want true", got)
	}
	if got := dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections?configured=true", "", as("jane")...)); len(got) != 1 || got[0].(map[string]any)["standby"] != true {
		t.Errorf("the list has %v, want a connection in standby", got)
	}
	if got := dataOf[map[string]any](t, caddytest.Do(t, api, "POST", path+"/validate", "", as("jane")...)); got["state"] != "callable" || got["standby"] != true {
		t.Errorf("a validation answers %v, want callable in standby", got)
	}
	for _, header := range []string{"yes", "TRUE", "1"} {
		resp := caddytest.Do(t, api, "POST", path+"/import", caddytest.TokenBody("access-1"), append(as("jane"), "X-Token-Broker-Standby", header)...)
		caddytest.WantError(t, resp, 400, "RequestHeadersValidationError")
	}
	// A connection can be sent back as it was received.
	dataOf[map[string]any](t, caddytest.Do(t, api, "PATCH", path, `{"standby": false, "refresh_token_expires_at": 1, "enabled": true}`, as("jane")...))
}

func TestStandbyWithoutAValidTokenIsAnErrorOfItsOwn(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	resp := caddytest.Do(t, api, "POST", vault+"connections/crm/machine/import", `{}`, append(as("jane"), "X-Token-Broker-Standby", "true")...)
	dataOf[map[string]any](t, resp)
	resp = caddytest.Do(t, api, "POST", vault+"connections/crm/machine/token", "", as("jane")...)
	if body := caddytest.WantError(t, resp, 503, "StandbyError"); !strings.Contains(body["message"].(string), "import the connection to crm/machine again") {
		t.Errorf("got %v", body)
	}
	if got := resp.Header.Get("Retry-After"); got != "60" {
		t.Errorf("got Retry-After %q, want 60", got)
	}
}

func TestConnectionsAreSwitchedPageByPage(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	for i := range 5 {
		mustImport(t, api, "crm/acme", fmt.Sprint("jane ", i), caddytest.TokenBody("access-1"))
		mustImport(t, api, "hris/keyed", fmt.Sprint("jane ", i), keyedBody)
	}
	changed, cursor := 0.0, ""
	for pages := 1; ; pages++ {
		resp := caddytest.Do(t, api, "POST", vault+"connections/standby", `{"unified_api": "crm", "limit": 2`+cursor+`}`, as("")[:4]...)
		body := caddytest.Decode(t, resp)
		data := body["data"].(map[string]any)
		changed += data["changed"].(float64)
		next := body["meta"].(map[string]any)["cursors"].(map[string]any)["next"]
		if next == nil {
			if pages != 3 || changed != 5 {
				t.Errorf("got %v changed on %d pages, want 5 on 3", changed, pages)
			}
			break
		}
		cursor = fmt.Sprintf(`, "cursor": %q`, next)
	}
	for _, test := range []struct {
		caller []string
		want   map[string]any
	}{
		{as("")[:4], map[string]any{"changed": 5.0, "unchanged": 5.0, "failed": []any{}}},
		{asOther("")[:4], map[string]any{"changed": 0.0, "unchanged": 0.0, "failed": []any{}}},
	} {
		got := dataOf[map[string]any](t, caddytest.Do(t, api, "POST", vault+"connections/activate", "", test.caller...))
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("got %v, want %v", got, test.want)
		}
	}
	for _, body := range []string{`{"limit": 0}`, `{"limit": 1001}`, `{"limit": 1.5}`, `{"cursor": "x"}`, `{"unified_api": ""}`, `{"consumer": "x"}`, `[]`, `{"consumer_id": 1}`, `{"consumer_id": "\u0000"}`} {
		caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+"connections/standby", body, as("")[:4]...), 400, "RequestValidationError")
	}
	caddytest.WantError(t, caddytest.Do(t, api, "GET", vault+"connections/standby", "", as("")[:4]...), 405, "MethodNotAllowedError")
	resp := caddytest.Do(t, api, "POST", vault+"connections/standby", "", "x-apideck-app-id", "my-app")
	caddytest.WantError(t, resp, http.StatusUnauthorized, "UnauthorizedError")
}
