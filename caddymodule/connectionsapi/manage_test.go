package connectionsapi

import (
	"context"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/caller"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// apiConnectors are the connectors of newAPI: OAuth with a revocation endpoint, client
// credentials, an API key.
func apiConnectors() map[connector.ID]*record.Connector {
	client := record.Client{ID: "client", Secret: secret.New(brokertest.ClientSecretCanary)}
	connectors := make(map[connector.ID]*record.Connector)
	for _, def := range []connector.Definition{
		{ID: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}, AuthType: connector.OAuth2, RevocationURL: "https://auth.acme.test/revoke"},
		{ID: connector.ID{UnifiedAPI: "crm", ServiceID: "machine"}, AuthType: connector.OAuth2, GrantType: connector.ClientCredentials},
		{
			ID: connector.ID{UnifiedAPI: "hris", ServiceID: "keyed"}, AuthType: connector.APIKey,
			Settings: []connector.Setting{{Name: "api_key", Required: true, Sensitive: true}, {Name: "region", Required: true}},
		},
	} {
		def.BaseURL = "https://api.acme.test"
		if def.AuthType == connector.OAuth2 {
			def.TokenURL, def.AuthStyle = "https://auth.acme.test/token", connector.AuthHeader
		}
		connectors[def.ID] = &record.Connector{Definition: def.WithDefaults(), Client: client}
	}
	return connectors
}

// A testApp is an app with these callers and this broker.
type testApp struct {
	callers *caller.Keyring
	broker  *broker.Broker
}

func (a testApp) Authenticate(header http.Header) (string, error) {
	return a.callers.Authenticate(header)
}

func (a testApp) Broker() *broker.Broker { return a.broker }

// newAPI returns the API without Caddy, on an in-memory store, for the applications my-app
// and other.
func newAPI(t testing.TB, provider *brokertest.Provider) http.Handler {
	t.Helper()
	store := &brokertest.MemStore{}
	b := broker.New(broker.Options{
		Open:      func(context.Context) (record.Store, error) { return store, nil },
		Transport: func(bool) http.RoundTripper { return provider },
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("closing the broker: %v", err)
		}
	})
	provider.ClientSecret = brokertest.ClientSecretCanary
	b.Configure(&record.Config{Connectors: apiConnectors()})
	keyring := caller.NewKeyring()
	keyring.Add("my-app", secret.New(caddytest.Key))
	keyring.Add("other", secret.New("other-"+caddytest.Key))
	api := &Handler{app: testApp{keyring, b}, logger: discard(), batches: new(atomic.Int32)}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusTeapot)
		return nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := api.ServeHTTP(w, r, next); err != nil {
			t.Errorf("the handler returned an error: %v", err)
		}
	})
}

const vault = "http://broker/vault/"

// mustImport imports a connection for a consumer of my-app.
func mustImport(t *testing.T, api http.Handler, connector, consumer, body string) {
	t.Helper()
	resp := caddytest.Do(t, api, "POST", vault+"connections/"+connector+"/import", body, as(consumer)...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
}

// as returns the headers of my-app for a consumer.
func as(consumer string) []string {
	return []string{"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", consumer}
}

// asOther returns the headers of the other application.
func asOther(consumer string) []string {
	return []string{"Authorization", "Bearer other-" + caddytest.Key, "X-Apideck-App-Id", "other", "X-Apideck-Consumer-Id", consumer}
}

const keyedBody = `{"settings": {"api_key": "canary-key", "region": "eu"}, "metadata": {"plan": "gold"}}`

// dataOf returns the data of a response, which must be a success.
func dataOf[T any](t *testing.T, resp *http.Response) T {
	t.Helper()
	body := caddytest.Decode(t, resp)
	data, ok := body["data"].(T)
	if resp.StatusCode != http.StatusOK || body["status_code"] != 200.0 || body["status"] != "OK" || !ok {
		t.Fatalf("got status %d with %v, want 200 with data", resp.StatusCode, body)
	}
	return data
}

func TestListHasConnectionsAndWhatCouldBeConnected(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	mustImport(t, api, "crm/acme", "john", caddytest.TokenBody("access-1"))
	for query, want := range map[string]string{
		"":                                  "crm+acme available, crm+machine available, hris+keyed callable",
		"?configured=true":                  "hris+keyed callable",
		"?configured=false":                 "crm+acme available, crm+machine available",
		"?api=crm":                          "crm+acme available, crm+machine available",
		"?api=hris&configured=true":         "hris+keyed callable",
		"?api=crm&configured=true":          "",
		"?api=nothing":                      "",
		"?api=&configured=":                 "crm+acme available, crm+machine available, hris+keyed callable",
		"?cursor=x&limit=1&raw=true&filter": "crm+acme available, crm+machine available, hris+keyed callable",
	} {
		var got []string
		for _, c := range dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections"+query, "", as("jane")...)) {
			c := c.(map[string]any)
			got = append(got, c["id"].(string)+" "+c["state"].(string))
			if enabled := c["state"] != "available"; c["enabled"] != enabled {
				t.Errorf("%s: got enabled %v of a connection that is %s", query, c["enabled"], c["state"])
			}
		}
		if list := strings.Join(got, ", "); list != want {
			t.Errorf("%q: got %s, want %s", query, list, want)
		}
	}
	caddytest.WantError(t, caddytest.Do(t, api, "GET", vault+"connections?configured=maybe", "", as("jane")...), 400, "RequestValidationError")
	caddytest.WantError(t, caddytest.Do(t, api, "GET", vault+"connections?api=crm&api=hris", "", as("jane")...), 400, "RequestValidationError")
}

func TestListWithoutAConsumerIsA400(t *testing.T) {
	t.Parallel()
	body := caddytest.WantError(t, caddytest.Do(t, newAPI(t, brokertest.NewProvider()), "GET", vault+"connections", "", as("jane")[:4]...),
		400, "RequestHeadersValidationError")
	if body["detail"] != "Missing Header: x-apideck-consumer-id" {
		t.Errorf("got detail %v", body["detail"])
	}
}

func TestUpdateChangesWhatIsSent(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	path := vault + "connections/hris/keyed"
	got := dataOf[map[string]any](t, caddytest.Do(t, api, "PATCH", path, `{"settings": {"region": "us", "tier": 1}, "metadata": {"plan": null}}`, as("jane")...))
	if want := map[string]any{"api_key": "********", "region": "us", "tier": 1.0}; !reflect.DeepEqual(got["settings"], want) {
		t.Errorf("got settings %v, want %v", got["settings"], want)
	}
	if want := map[string]any{}; !reflect.DeepEqual(got["metadata"], want) || got["enabled"] != true {
		t.Errorf("got metadata %v, enabled %v; want %v, true", got["metadata"], got["enabled"], want)
	}
	got = dataOf[map[string]any](t, caddytest.Do(t, api, "PATCH", path, `{"enabled": false, "settings": null}`, as("jane")...))
	if got["enabled"] != false || got["state"] != "callable" {
		t.Errorf("got enabled %v, state %v; want false, callable", got["enabled"], got["state"])
	}
	got = dataOf[map[string]any](t, caddytest.Do(t, api, "PATCH", path, `{"settings": {"api_key": null}}`, as("jane")...))
	if got["state"] != "added" || got["health"] != "missing_settings" {
		t.Errorf("without its key: got state %v, health %v; want added, missing_settings", got["state"], got["health"])
	}
}

// A caller changes one member of a response and sends all of it back.
func TestConnectionThatComesBackChangesNothing(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	path := vault + "connections/hris/keyed"
	before := caddytest.ReadAll(t, caddytest.Do(t, api, "GET", path, "", as("jane")...))
	data := before[strings.Index(before, `"data":`)+len(`"data":`) : strings.LastIndex(before, "}")]
	for read := time.Now(); time.Since(read) < 2*time.Millisecond; { // an update would change updated_at, which has a resolution of milliseconds
		runtime.Gosched()
	}
	if after := caddytest.ReadAll(t, caddytest.Do(t, api, "PATCH", path, data, as("jane")...)); after != before {
		t.Errorf("got %s\nwant %s", after, before)
	}
}

func TestBadUpdateNamesTheField(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	for _, tt := range []struct {
		body     string
		status   int
		typeName string
		message  string
	}{
		{``, 400, "RequestValidationError", "empty"},
		{`[]`, 400, "RequestValidationError", "JSON object"},
		{`{"enabled": "yes"}`, 400, "RequestValidationError", "enabled must be true or false"},
		{`{"settings": []}`, 400, "RequestValidationError", "settings"},
		{`{"metadata": 1}`, 400, "RequestValidationError", "metadata"},
		{`{"enable": true}`, 400, "RequestValidationError", "known are enabled, metadata, settings"},
		{`{"enabled": true, "enabled": false}`, 400, "RequestValidationError", "enabled is sent twice"},
		{`{"credentials": {"access_token": "canary"}}`, 400, "RequestValidationError", "import the connection"},
		{`{"consent_state": "denied"}`, 422, "InvalidStateError", "consent_state is not kept"},
		{`{"configuration": [{"resource": "leads"}]}`, 422, "InvalidStateError", "configuration is not kept"},
		{`{"settings": {"a": "` + strings.Repeat("x", 300<<10) + `"}}`, 422, "InvalidStateError", "bytes together"},
		{strings.Repeat(" ", 1<<20+1), 413, "RequestEntityTooLargeError", "too large"},
	} {
		body := caddytest.WantError(t, caddytest.Do(t, api, "PATCH", vault+"connections/hris/keyed", tt.body, as("jane")...), tt.status, tt.typeName)
		if got := body["message"].(string); !strings.Contains(got, tt.message) || strings.Contains(got, "canary") {
			t.Errorf("got message %q, want one with %q", got, tt.message)
		}
	}
	for _, tolerated := range []string{`{}`, `{"configuration": [], "custom_mappings": [], "latest_consent": null}`, `{"state": "invalid", "form_fields": [], "updated_at": 1}`} {
		dataOf[map[string]any](t, caddytest.Do(t, api, "PATCH", vault+"connections/hris/keyed", tolerated, as("jane")...))
	}
}

func TestDeletedConnectionIsA404(t *testing.T) {
	t.Parallel()
	provider := brokertest.NewProvider()
	api := newAPI(t, provider)
	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("access-1"))
	path := vault + "connections/crm/acme"
	resp := caddytest.Do(t, api, "DELETE", path, "", as("jane")...)
	if body := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusNoContent || body != "" || resp.Header.Get("Content-Type") != "" {
		t.Errorf("got status %d with %q, want 204 with nothing", resp.StatusCode, body)
	}
	for _, method := range []string{"GET", "DELETE", "PATCH"} {
		caddytest.WantError(t, caddytest.Do(t, api, method, path, `{}`, as("jane")...), 404, "ConnectionNotFoundError")
	}
	for _, action := range []string{"/validate", "/token"} {
		caddytest.WantError(t, caddytest.Do(t, api, "POST", path+action, "", as("jane")...), 404, "ConnectionNotFoundError")
	}
}

func TestValidateAnswersWithTheStateAlone(t *testing.T) {
	t.Parallel()
	provider := brokertest.NewProvider()
	provider.Grant("refresh-of-alive")
	api := newAPI(t, provider)
	mustImport(t, api, "crm/acme", "alive", caddytest.TokenBody("alive"))
	mustImport(t, api, "crm/acme", "dead", caddytest.TokenBody("dead"))
	mustImport(t, api, "hris/keyed", "alive", keyedBody)
	for _, tt := range []struct{ connector, consumer, body, id, state string }{
		{"crm/acme", "alive", "", "crm+acme", "callable"},
		{"crm/acme", "alive", "{}", "crm+acme", "callable"}, // within the cooldown
		{"crm/acme", "dead", "{}", "crm+acme", "invalid"},
		{"crm/acme", "dead", " ", "crm+acme", "invalid"},
		{"hris/keyed", "alive", "", "hris+keyed", "callable"},
	} {
		got := dataOf[map[string]any](t, caddytest.Do(t, api, "POST", vault+"connections/"+tt.connector+"/validate", tt.body, as(tt.consumer)...))
		if want := map[string]any{"id": tt.id, "state": tt.state}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if got := len(provider.Requests()); got != 2 {
		t.Errorf("got %d token requests, want one for each connection", got)
	}
	body := caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+"connections/crm/acme/validate", `{"a": 1}`, as("alive")...), 400, "RequestValidationError")
	if !strings.Contains(body["message"].(string), "empty object") {
		t.Errorf("got message %v", body["message"])
	}
}

func TestTokenIsFetchedAndNotAnswered(t *testing.T) {
	t.Parallel()
	provider := brokertest.NewProvider()
	api := newAPI(t, provider)
	mustImport(t, api, "crm/machine", "jane", `{"credentials": {"access_token": "old", "issued_at": "2022-01-01T12:00:00Z", "expires_in": 36000000}}`)
	path := vault + "connections/crm/machine/token"
	resp := caddytest.Do(t, api, "POST", path, "{}", as("jane")...)
	text := caddytest.ReadAll(t, resp)
	if resp.StatusCode != http.StatusOK || !strings.Contains(text, `"state":"callable"`) || !strings.Contains(text, `"oauth_grant_type":"client_credentials"`) {
		t.Errorf("got status %d: %s", resp.StatusCode, text)
	}
	brokertest.NoCanary(t, "the answer", []byte(text))

	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("a"))
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	for _, id := range []string{"crm/acme", "hris/keyed"} {
		caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+"connections/"+id+"/token", "", as("jane")...), 422, "InvalidStateError")
	}
	caddytest.WantError(t, caddytest.Do(t, api, "POST", path, `{"access_token": "x"}`, as("jane")...), 400, "RequestValidationError")
}

func TestDisabledConnectionIsNotValidated(t *testing.T) {
	t.Parallel()
	provider := brokertest.NewProvider()
	api := newAPI(t, provider)
	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("a"))
	caddytest.Do(t, api, "PATCH", vault+"connections/crm/acme", `{"enabled": false}`, as("jane")...)
	caddytest.WantError(t, caddytest.Do(t, api, "POST", vault+"connections/crm/acme/validate", "", as("jane")...), 403, "ConnectorDisabledError")
	if got := len(provider.Requests()); got != 0 {
		t.Errorf("got %d token requests, want none", got)
	}
}
