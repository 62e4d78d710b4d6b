package connectionsapi

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// runAPI runs the connections API with the connectors crm/acme (OAuth) and crm/keyed
// (an API key, and a setting that is not secret).
func runAPI(t *testing.T) (handler http.Handler, log string) {
	t.Helper()
	options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(),
		caddytest.ConnectorLines("crm/acme", "https://api.acme.test"),
		`connector crm/keyed {
			name Keyed
			auth_type apiKey
			base_url https://{region}.keyed.test
			setting region required
			setting instance_url origin
			allow_host *.keyed.test
		}`))
	return caddytest.Run(t, options+"http:// {\nconnections_api\nrespond \"next\" 404\n}"), log
}

func TestImportAnswersWithTheConnection(t *testing.T) {
	handler, _ := runAPI(t)
	before := time.Now().UnixMilli()
	resp := caddytest.Do(t, handler, "POST", caddytest.ImportPath, caddytest.TokenBody("access-1"), caddytest.Caller()...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "X-Token-Broker-Import": "stored",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("got %s %q, want %q", name, got, want)
		}
	}
	body := caddytest.Decode(t, resp)
	if body["status_code"] != 200.0 || body["status"] != "OK" {
		t.Errorf("got %v, want status_code 200 and status OK", body)
	}
	data := body["data"].(map[string]any)
	for name, want := range map[string]any{
		"id": "crm+acme", "service_id": "acme", "unified_api": "crm", "name": "Acme", "state": "callable",
		"integration_state": "configured", "auth_type": "oauth2", "oauth_grant_type": "authorization_code",
		"status": "live", "enabled": true, "health": "ok",
		"credentials_expire_at": 0.0, "last_refresh_failed_at": 0.0,
	} {
		if got := data[name]; got != want {
			t.Errorf("got %s %v, want %v", name, got, want)
		}
	}
	if created := int64(data["created_at"].(float64)); created < before || created > time.Now().UnixMilli() {
		t.Errorf("got created_at %d, want the present in milliseconds", created)
	}

	again := caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "", caddytest.Caller()...)
	if got := caddytest.ReadAll(t, again); again.StatusCode != http.StatusOK || strings.Contains(got, "access-1") || !strings.Contains(got, `"crm+acme"`) {
		t.Errorf("got status %d with %s, want the connection without its token", again.StatusCode, got)
	}
}

func TestImportAgainIsKept(t *testing.T) {
	handler, _ := runAPI(t)
	body := caddytest.TokenBody("access-1")
	caddytest.Do(t, handler, "POST", caddytest.ImportPath, body, caddytest.Caller()...)
	resp := caddytest.Do(t, handler, "POST", caddytest.ImportPath, body, caddytest.Caller()...)
	if got := resp.Header.Get("X-Token-Broker-Import"); resp.StatusCode != http.StatusOK || got != "kept" {
		t.Errorf("got status %d with X-Token-Broker-Import %q, want 200 with kept", resp.StatusCode, got)
	}
}

func TestSettingsAreShownMasked(t *testing.T) {
	handler, _ := runAPI(t)
	resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/keyed/import",
		`{"settings": {"api_key": "canary-key", "region": "eu"}, "metadata": {"plan": "gold"}}`, caddytest.Caller()...)
	text := caddytest.ReadAll(t, resp)
	if resp.StatusCode != http.StatusOK || strings.Contains(text, "canary-key") {
		t.Fatalf("got status %d: %s", resp.StatusCode, text)
	}
	for _, want := range []string{
		`"api_key":"********"`, `"region":"eu"`, `"plan":"gold"`,
		`{"id":"api_key","label":"API key","value":"********","type":"password","required":true,"custom_field":false,"disabled":false,"hidden":false,"sensitive":true}`,
		`{"id":"region","label":"Region","value":"eu","type":"text","required":true,`,
		`{"id":"instance_url","label":"Instance URL","type":"url","required":false,`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s\nwithout %s", text, want)
		}
	}
	if strings.Contains(text, "oauth_grant_type") {
		t.Error("got oauth_grant_type of a connector that is not OAuth")
	}
}

func TestCallersAuthenticateFirst(t *testing.T) {
	handler, _ := runAPI(t)
	key := "Bearer " + caddytest.Key
	tests := []struct {
		name     string
		path     string
		header   []string
		status   int
		typeName string
		detail   string
	}{
		{"no authorization", caddytest.ConnectionPath, []string{"X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "jane"}, 401, "UnauthorizedError", "Missing authentication"},
		{"no application", caddytest.ConnectionPath, []string{"Authorization", key, "X-Apideck-Consumer-Id", "jane"}, 400, "RequestHeadersValidationError", "Missing Header: x-apideck-app-id"},
		{"no consumer", caddytest.ConnectionPath, []string{"Authorization", key, "X-Apideck-App-Id", "my-app"}, 400, "RequestHeadersValidationError", "Missing Header: x-apideck-consumer-id"},
		{"wrong key", caddytest.ConnectionPath, []string{"Authorization", "Bearer wrong", "X-Apideck-App-Id", "my-app"}, 401, "UnauthorizedError", "Unknown application or wrong API key"},
		{"another application's key", caddytest.ConnectionPath, []string{"Authorization", key, "X-Apideck-App-Id", "other"}, 401, "UnauthorizedError", "Unknown application or wrong API key"},
		{"not a bearer token", caddytest.ConnectionPath, []string{"Authorization", "Basic " + caddytest.Key, "X-Apideck-App-Id", "my-app"}, 401, "UnauthorizedError", "Unknown authentication scheme"},
		{"two applications", caddytest.ConnectionPath, caddytest.Caller("X-Apideck-App-Id", "other"), 400, "RequestHeadersValidationError", "x-apideck-app-id is sent more than once"},
		{"two consumers", caddytest.ConnectionPath, caddytest.Caller("X-Apideck-Consumer-Id", "john"), 400, "RequestHeadersValidationError", "x-apideck-consumer-id is sent more than once"},
		{"an unknown path", "http://broker/vault/nothing", nil, 401, "UnauthorizedError", "Missing authentication"},
		{"an unknown connector", "http://broker/vault/connections/crm/other", nil, 401, "UnauthorizedError", "Missing authentication"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := caddytest.WantError(t, caddytest.Do(t, handler, "GET", tt.path, "", tt.header...), tt.status, tt.typeName)
			if got, _ := body["detail"].(string); !strings.HasPrefix(got, tt.detail) {
				t.Errorf("got detail %q, want %q", got, tt.detail)
			}
		})
	}
}

func TestWhatIsNotThereIsToldApart(t *testing.T) {
	handler, _ := runAPI(t)
	tests := []struct {
		name, method, path string
		status             int
		typeName           string
	}{
		{"connector", "GET", "http://broker/vault/connections/crm/other", 404, "ConnectorNotFoundError"},
		{"no connector's name", "GET", "http://broker/vault/connections/CRM/a%20b", 404, "ConnectorNotFoundError"},
		{"connector to import to", "POST", "http://broker/vault/connections/crm/other/import", 404, "ConnectorNotFoundError"},
		{"connection", "GET", caddytest.ConnectionPath, 404, "ConnectionNotFoundError"},
		{"path", "GET", "http://broker/vault/nothing", 404, "EntityNotFoundError"},
		{"root", "GET", "http://broker/vault", 404, "EntityNotFoundError"},
		{"trailing slash", "GET", caddytest.ConnectionPath + "/", 404, "EntityNotFoundError"},
		{"method", "PUT", caddytest.ConnectionPath, 405, "MethodNotAllowedError"},
		{"method of an import", "GET", caddytest.ImportPath, 405, "MethodNotAllowedError"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := caddytest.Do(t, handler, tt.method, tt.path, caddytest.TokenBody("a"), caddytest.Caller()...)
			caddytest.WantError(t, resp, tt.status, tt.typeName)
			if allow := resp.Header.Get("Allow"); (tt.status == 405) != (allow != "") {
				t.Errorf("got Allow %q", allow)
			}
		})
	}
}

func TestOtherPathsGoToTheNextHandler(t *testing.T) {
	handler, _ := runAPI(t)
	for _, path := range []string{"http://broker/", "http://broker/vaults/connections", "http://broker/api/vault/x"} {
		if got := caddytest.ReadAll(t, caddytest.Do(t, handler, "GET", path, "")); got != "next" {
			t.Errorf("%s: got %q, want the next handler's answer", path, got)
		}
	}
}

func TestBadImportNamesTheField(t *testing.T) {
	handler, log := runAPI(t)
	tests := []struct {
		name, body string
		status     int
		typeName   string
		message    string
	}{
		{"no JSON", `{`, 400, "RequestValidationError", "JSON"},
		{"nothing", ``, 400, "RequestValidationError", "empty"},
		{"unknown member", `{"tokens": {}}`, 400, "RequestValidationError", "tokens"},
		{"wrong type", `{"credentials": {"access_token": 1}}`, 400, "RequestValidationError", "credentials.access_token"},
		{"no refresh token", `{"credentials": {"access_token": "a"}}`, 422, "InvalidStateError", "credentials.refresh_token"},
		{"negative lifetime", `{"credentials": {"access_token": "a", "refresh_token": "canary-1", "expires_in": -1}}`, 422, "InvalidStateError", "credentials.expires_in"},
		{"another consumer", `{"consumer_id": "john", "credentials": {"access_token": "a", "refresh_token": "canary-2"}}`, 422, "InvalidStateError", "consumer_id"},
		{"too large", `{"metadata": {"a": "` + strings.Repeat("x", 1<<20) + `"}}`, 413, "RequestEntityTooLargeError", "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body := caddytest.WantError(t, caddytest.Do(t, handler, "POST", caddytest.ImportPath, tt.body, caddytest.Caller()...), tt.status, tt.typeName)
			if got := body["message"].(string); !strings.Contains(got, tt.message) {
				t.Errorf("got message %q, want one with %q", got, tt.message)
			}
		})
	}
	caddytest.WantError(t, caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "", caddytest.Caller()...), 404, "ConnectionNotFoundError")
	if text := caddytest.Logged(t, log); strings.Contains(text, "canary") || strings.Contains(text, caddytest.Key) {
		t.Error("the log contains a secret")
	}
}

func TestConsumersSeeTheirOwnConnectionsOnly(t *testing.T) {
	handler, _ := runAPI(t)
	caddytest.Do(t, handler, "POST", caddytest.ImportPath, caddytest.TokenBody("access-1"), caddytest.Caller()...)
	resp := caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "",
		"Authorization", "Bearer "+caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john")
	caddytest.WantError(t, resp, 404, "ConnectionNotFoundError")
}
