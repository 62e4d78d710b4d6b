package apideck

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
)

var acme = connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}

func TestConnectionAsJSON(t *testing.T) {
	t.Parallel()
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	for name, test := range map[string]struct {
		conn record.Connection
		want string
	}{
		"OAuth": {
			record.Connection{
				Key: record.Key{Application: "app", Consumer: "jane", Connector: acme},
				Connector: connector.Definition{
					ID: acme, Name: "Acme", Website: "https://acme.test", AuthType: connector.OAuth2,
					Settings: []connector.Setting{
						{Name: "instance_url", Required: true, Origin: true},
						{Name: "api_key", Label: "The key", Sensitive: true},
						{Name: "region"},
					},
				},
				State: record.StateCallable, Health: record.HealthOK, Enabled: true,
				Settings:  map[string]any{"instance_url": "https://jane.acme.test", "api_key": record.Mask},
				Metadata:  map[string]any{"plan": "gold"},
				CreatedAt: at(1), UpdatedAt: at(2), CredentialsExpireAt: at(3), LastRefreshFailedAt: at(4), RefreshTokenExpiresAt: at(5),
			},
			`{"id":"crm+acme","service_id":"acme","name":"Acme","unified_api":"crm","state":"callable",` +
				`"integration_state":"configured","auth_type":"oauth2","oauth_grant_type":"authorization_code","status":"live",` +
				`"enabled":true,"website":"https://acme.test",` +
				`"settings":{"api_key":"********","instance_url":"https://jane.acme.test"},"metadata":{"plan":"gold"},"form_fields":[` +
				`{"id":"instance_url","label":"Instance url","value":"https://jane.acme.test","type":"url","required":true,` +
				`"custom_field":false,"disabled":false,"hidden":false,"sensitive":false},` +
				`{"id":"api_key","label":"The key","value":"********","type":"password","required":false,` +
				`"custom_field":false,"disabled":false,"hidden":false,"sensitive":true},` +
				`{"id":"region","label":"Region","type":"text","required":false,` +
				`"custom_field":false,"disabled":false,"hidden":false,"sensitive":false}],` +
				`"health":"ok","credentials_expire_at":3000,"last_refresh_failed_at":4000,"refresh_token_expires_at":5000,"created_at":1000,"updated_at":2000}`,
		},
		"a connector without a connection": {
			record.Connection{
				Key:       record.Key{Application: "app", Consumer: "jane", Connector: acme},
				Connector: connector.Definition{ID: acme, AuthType: connector.APIKey}, State: record.StateAvailable,
			},
			`{"id":"crm+acme","service_id":"acme","name":"acme","unified_api":"crm","state":"available",` +
				`"integration_state":"configured","auth_type":"apiKey","status":"live","enabled":false,` +
				`"settings":{},"metadata":{},"form_fields":[],` +
				`"credentials_expire_at":0,"last_refresh_failed_at":0,"created_at":0,"updated_at":0}`,
		},
	} {
		got, err := json.Marshal(NewConnection(&test.conn))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if string(got) != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, test.want)
		}
	}
}

// Views are masked already. A form field must not depend on it.
func TestSensitiveFormFieldIsMaskedAnyway(t *testing.T) {
	t.Parallel()
	f := newFormField(connector.Setting{Name: "api_key", Sensitive: true}, brokertest.SettingCanary)
	if f.Value != record.Mask {
		t.Error("a form field shows a sensitive value")
	}
}

func TestWriteDataSendsTheEnvelope(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	if err := WriteData(w, ConnectionState{ID: "crm+acme", State: record.StateCallable}); err != nil {
		t.Fatal(err)
	}
	const want = `{"status_code":200,"status":"OK","data":{"id":"crm+acme","state":"callable"}}`
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want {
		t.Errorf("got %d %s, want 200 %s", w.Code, got, want)
	}
	if got := w.Header().Get("Content-Type") + ", " + w.Header().Get("Cache-Control"); got != "application/json, no-store" {
		t.Errorf("got headers %s", got)
	}

	w = httptest.NewRecorder()
	if err := WriteData(w, func() {}); err == nil || w.Body.Len() > 0 || len(w.Header()) > 0 {
		t.Errorf("data that cannot be encoded: got %v, body %q, headers %v", err, w.Body, w.Header())
	}
}
