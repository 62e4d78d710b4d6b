package webhook

import (
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
)

func TestBodyIsAConnectionEventOfTheApideckAPI(t *testing.T) {
	t.Parallel()
	event := testEvent("9755c355-56c3-4a2f-a2da-86ff4411fccb")
	event.Connection.LastRefreshFailedAt = event.OccurredAt
	got, err := body(&event, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"payload":{"entity":{"auth_type":"oauth2","consumer_id":"cust_1","created_at":"2026-03-04T04:06:07.008Z",` +
		`"enabled":true,"health":"needs_auth","id":"app+cust_1","last_refresh_failed_at":"2026-03-04T04:06:07.008Z",` +
		`"metadata":{"plan":"enterprise"},"name":"HubSpot","service_id":"hubspot",` +
		`"settings":{"instance_url":"https://eu28.acme.test","pin":"********"},"state":"added","unified_api":"crm",` +
		`"updated_at":"2026-03-04T04:06:07.008Z","website":"https://www.hubspot.com"},"entity_id":"app+cust_1",` +
		`"entity_type":"Connection","event_id":"9755c355-56c3-4a2f-a2da-86ff4411fccb",` +
		`"event_type":"vault.connection.token_refresh.failed","execution_attempt":2,` +
		`"occurred_at":"2026-03-04T04:06:07.008Z","service_id":"apideck-vault"}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestABodyNeverCarriesASecretSetting(t *testing.T) {
	t.Parallel()
	event := testEvent("e")
	// Settings come masked; the body must be safe even if they did not.
	event.Connection.Settings = map[string]any{"pin": "canary-1", "client_secret": "canary-2", "realm": "r"}
	got, err := body(&event, 1)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), "canary") {
		t.Errorf("the body contains a secret: %s", got)
	}
	if event.Connection.Settings["pin"] != "canary-1" {
		t.Error("the event was changed")
	}
}

func TestSignatureIsHexHMACSHA256(t *testing.T) {
	t.Parallel()
	// RFC 4231 section 4.3, test case 2.
	got := signature(secret.New("Jefe"), []byte("what do ya want for nothing?"))
	if want := "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
