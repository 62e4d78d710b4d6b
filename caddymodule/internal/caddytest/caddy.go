// Package caddytest runs Caddy with the token broker in tests, and has downstream servers
// for it. It registers no modules: tests import package caddymodule for that, from an
// external test package, since caddymodule imports the packages under test.
//
// Caddy runs in the test process, where there can be only one, so tests that run it are
// not parallel.
package caddytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/logging" // to read in tests what was logged
)

// Key is the API key of the application my-app.
const Key = "test-key-0123456789"

// Globals returns global options with the given lines in token_broker, and the path of the
// log. The admin endpoint is off.
func Globals(t testing.TB, broker string) (options, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	return fmt.Sprintf(`{
		admin off
		persist_config off
		auto_https off
		log {
			output file %q
			level DEBUG
		}
		token_broker {
			%s
		}
	}
	`, log, broker), log
}

// BrokerLines returns lines of token_broker: an embedded storage in dir, the application
// my-app, and more.
func BrokerLines(t testing.TB, dir string, more ...string) string {
	t.Helper()
	t.Setenv("TEST_API_KEY", Key)
	return fmt.Sprintf("storage embedded %q\napp my-app {\napi_key {env.TEST_API_KEY}\n}\n", dir) + strings.Join(more, "\n")
}

// ConnectorLines returns an OAuth connector, for imported tokens.
func ConnectorLines(name, baseURL string, more ...string) string {
	return fmt.Sprintf("connector %s {\nauth_type oauth2\ntoken_url https://auth.acme.test/token\nauth_style header\nclient_id acme\nbase_url %s\n%s\n}\n",
		name, baseURL, strings.Join(more, "\n"))
}

// Adapt turns a Caddyfile into JSON.
func Adapt(caddyfile string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return adapted, err
}

// WithoutPorts makes every server of the configuration listen on a free port.
func WithoutPorts(t testing.TB, config []byte) []byte {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(config, &v); err != nil {
		t.Fatal(err)
	}
	apps, _ := v["apps"].(map[string]any)
	if app, ok := apps["http"].(map[string]any); ok {
		for _, server := range app["servers"].(map[string]any) {
			server.(map[string]any)["listen"] = []string{"127.0.0.1:0"}
		}
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Load loads the Caddyfile as the running configuration, on free ports.
func Load(t testing.TB, caddyfile string) error {
	t.Helper()
	config, err := Adapt(caddyfile)
	if err != nil {
		t.Fatalf("adapting: %v\n%s", err, caddyfile)
	}
	return caddy.Load(WithoutPorts(t, config), true)
}

// RunAsItIs runs the Caddyfile, on its own ports, until the test ends.
func RunAsItIs(t *testing.T, caddyfile string) {
	t.Helper()
	config, err := Adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
}

// Run runs the Caddyfile, on free ports, until the test ends, and returns its server.
func Run(t testing.TB, caddyfile string) http.Handler {
	t.Helper()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	if err := Load(t, caddyfile); err != nil {
		t.Fatalf("loading: %v", err)
	}
	return Server(t)
}

// Server returns the only server of the running configuration, nil if it has none.
func Server(t testing.TB) http.Handler {
	t.Helper()
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range app.(*caddyhttp.App).Servers {
		return srv
	}
	t.Fatal("there is no server")
	return nil
}

// Do sends a request to handler. header alternates names and values.
func Do(t testing.TB, handler http.Handler, method, target, body string, header ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, req)
	return rec.Result()
}

// Caller returns the headers of an authenticated request for the consumer jane.
func Caller(more ...string) []string {
	return append([]string{"Authorization", "Bearer " + Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "jane"}, more...)
}

// ImportToken imports a connection of the consumer jane with a valid access token.
func ImportToken(t testing.TB, handler http.Handler, connector, accessToken string) {
	t.Helper()
	resp := Do(t, handler, "POST", "http://broker/vault/connections/"+connector+"/import", TokenBody(accessToken), Caller()...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: status %d: %s", resp.StatusCode, ReadAll(t, resp))
	}
}

// TokenBody returns the body of an import with an access token that is valid for hours.
func TokenBody(accessToken string) string {
	return fmt.Sprintf(`{"credentials": {"access_token": %q, "refresh_token": "refresh-of-%s", "issued_at": %q, "expires_in": 36000}}`,
		accessToken, accessToken, time.Now().Add(-time.Minute).Format(time.RFC3339))
}

// ReadAll returns the body of a response.
func ReadAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Decode returns the JSON body of a response.
func Decode(t *testing.T, resp *http.Response) map[string]any {
	t.Helper()
	var v map[string]any
	dec := json.NewDecoder(bytes.NewBufferString(ReadAll(t, resp)))
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("the body is no JSON: %v", err)
	}
	return v
}

// Logged returns the contents of the log.
func Logged(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// WantError checks that resp is an error of the broker, and returns its body.
func WantError(t *testing.T, resp *http.Response, status int, typeName string) map[string]any {
	t.Helper()
	body := Decode(t, resp)
	if resp.StatusCode != status || body["type_name"] != typeName {
		t.Errorf("got status %d with %v, want %d with %s", resp.StatusCode, body, status, typeName)
	}
	if got := resp.Header.Get("X-Token-Broker-Error"); got != typeName {
		t.Errorf("got X-Token-Broker-Error %q, want %q", got, typeName)
	}
	if got, want := body["ref"], "https://developers.apideck.com/errors#"+strings.ToLower(typeName); got != want {
		t.Errorf("got ref %v, want %v", got, want)
	}
	if got := body["status_code"]; got != float64(status) {
		t.Errorf("got status_code %v, want %d", got, status)
	}
	return body
}

// APISite is a site with the connections API.
const APISite = "http:// {\nconnections_api\n}"

// Validate provisions the Caddyfile and cleans up again, as `caddy validate` does.
func Validate(t *testing.T, caddyfile string) error {
	t.Helper()
	config, err := Adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&cfg)
}

// URLs of the connections API for crm/acme.
const (
	ImportPath     = "http://broker/vault/connections/crm/acme/import"
	ConnectionPath = "http://broker/vault/connections/crm/acme"
)
