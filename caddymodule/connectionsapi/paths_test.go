package connectionsapi

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/caller"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestConsumerIsDeletedWhole(t *testing.T) {
	t.Parallel()
	for _, consumer := range []string{"jane", "a/b", "a b", "..", "%2e", "ünï", "jane?x=1#y", "+"} {
		api := newAPI(t, brokertest.NewProvider())
		mustImport(t, api, "crm/acme", consumer, caddytest.TokenBody("access-1"))
		mustImport(t, api, "hris/keyed", consumer, keyedBody)
		mustImport(t, api, "hris/keyed", consumer+"2", keyedBody)
		path := vault + "consumers/" + url.PathEscape(consumer)
		for range 2 { // repeated, like a caller that did not get the first response
			got := dataOf[map[string]any](t, caddytest.Do(t, api, "DELETE", path, "", as("")[:4]...))
			if want := map[string]any{"consumer_id": consumer}; !reflect.DeepEqual(got, want) {
				t.Errorf("%q: got %v, want %v", consumer, got, want)
			}
		}
		if got := dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections?configured=true", "", as(consumer)...)); len(got) != 0 {
			t.Errorf("%q: got %v, want nothing", consumer, got)
		}
		if got := dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections?configured=true", "", as(consumer+"2")...)); len(got) != 1 {
			t.Errorf("%q: another consumer has %v, want one connection", consumer, got)
		}
	}
}

func TestUnknownConsumerIsA404(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	caddytest.WantError(t, caddytest.Do(t, api, "DELETE", vault+"consumers/nobody", "", as("jane")...), 404, "EntityNotFoundError")
	body := caddytest.WantError(t, caddytest.Do(t, api, "DELETE", vault+"consumers/"+strings.Repeat("x", 256), "", as("jane")...), 400, "RequestValidationError")
	if !strings.Contains(body["message"].(string), "consumer_id is longer") {
		t.Errorf("got message %v", body["message"])
	}
}

// Connections of another application are treated as if they did not exist.
func TestApplicationsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("access-1"))
	mustImport(t, api, "hris/keyed", "jane", keyedBody)
	for _, request := range []struct{ method, path, body string }{
		{"GET", "connections/crm/acme", ""},
		{"GET", "connections/hris/keyed", ""},
		{"PATCH", "connections/crm/acme", `{"enabled": false}`},
		{"DELETE", "connections/crm/acme", ""},
		{"POST", "connections/crm/acme/validate", ""},
		{"POST", "connections/crm/machine/token", ""},
		{"DELETE", "consumers/%s", ""},
		{"GET", "connections", ""},
	} {
		ask := func(consumer string) string {
			path := strings.ReplaceAll(request.path, "%s", consumer)
			resp := caddytest.Do(t, api, request.method, vault+path, request.body, asOther(consumer)...)
			return resp.Status + strings.ReplaceAll(caddytest.ReadAll(t, resp), consumer, "?")
		}
		if of, none := ask("jane"), ask("nobody"); of != none {
			t.Errorf("%s %s: got %s\nfor another application's, and\n%s\nfor none", request.method, request.path, of, none)
		}
	}
	if got := dataOf[[]any](t, caddytest.Do(t, api, "GET", vault+"connections?configured=true", "", as("jane")...)); len(got) != 2 {
		t.Errorf("the application has %d connections left, want 2", len(got))
	}
}

func TestPathsAreTakenAsTheyAreSent(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("access-1"))
	for path, want := range map[string]int{
		"vault/connections/crm/acme": 200, "%76ault/connections/crm/acme": 200, "vault/connections/%63rm/acme": 200,
		"vault/connections/crm%2Facme": 404, "vault/connections/crm/acme/": 404, "vault/connections/": 404,
		"vault/connections//acme": 404, "vault//connections/crm/acme": 404, "vault/connections/crm/..": 404,
		"vault/connections/crm/acme/../acme": 404, "vault/connections/%2e%2e/acme": 404, "vault/connections/crm/acme%00": 404,
		"vault/connections/crm/acme/import/x": 404, "vault/connections/import": 405, "vault/connections/verify": 405,
		"vault/connections/import/": 404, "vault/connections/import/verify": 404, "vault/connections/crm/import": 404, "vault/connections/other": 404, "vault/consumers": 404, "vault/consumers/": 404, "vault/sessions": 404,
		"vault": 404, "vault/": 404, "VAULT/connections": 418, "/vault/connections": 418, "vaults": 418, "": 418,
	} {
		resp := caddytest.Do(t, api, "GET", "http://broker/"+path, "", as("jane")...)
		if resp.StatusCode != want {
			t.Errorf("%s: got status %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestMethodsThatAPathHasNotAreA405(t *testing.T) {
	t.Parallel()
	api := newAPI(t, brokertest.NewProvider())
	mustImport(t, api, "crm/acme", "jane", caddytest.TokenBody("access-1"))
	for path, want := range map[string]string{
		"connections":                   "GET, HEAD",
		"connections/crm/acme":          "DELETE, GET, HEAD, PATCH",
		"connections/crm/acme/import":   "POST",
		"connections/crm/acme/validate": "POST",
		"connections/crm/acme/token":    "POST",
		"connections/import":            "POST",
		"connections/verify":            "POST",
		"consumers/jane":                "DELETE",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"} {
			if strings.Contains(want, method) && method != "X" {
				continue
			}
			resp := caddytest.Do(t, api, method, vault+path, "", as("jane")...)
			caddytest.WantError(t, resp, 405, "MethodNotAllowedError")
			if got := resp.Header.Get("Allow"); got != want {
				t.Errorf("%s %s: got Allow %q, want %q", method, path, got, want)
			}
		}
	}
	srv := httptest.NewServer(api)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, srv.URL+"/vault/connections/crm/acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, header := 0, as("jane"); i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || caddytest.ReadAll(t, resp) != "" {
		t.Errorf("HEAD: got status %d, want 200 and no body", resp.StatusCode)
	}
}

func TestStoreThatIsOutOfReachIsA503(t *testing.T) {
	t.Parallel()
	b := broker.New(broker.Options{Open: func(context.Context) (record.Store, error) { return nil, record.ErrStoreUnavailable }})
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	b.Configure(&record.Config{Connectors: apiConnectors()})
	keyring := caller.NewKeyring()
	keyring.Add("my-app", secret.New(caddytest.Key))
	api := &Handler{app: testApp{keyring, b}, logger: discard(), batches: new(atomic.Int32)}
	for _, request := range []struct{ method, path, body string }{
		{"GET", "connections", ""},
		{"GET", "connections/crm/acme", ""},
		{"PATCH", "connections/crm/acme", "{}"},
		{"DELETE", "connections/crm/acme", ""},
		{"POST", "connections/crm/acme/import", caddytest.TokenBody("a")},
		{"POST", "connections/crm/acme/validate", ""},
		{"POST", "connections/crm/machine/token", ""},
		{"DELETE", "consumers/jane", ""},
	} {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = api.ServeHTTP(w, r, nil) })
		resp := caddytest.Do(t, handler, request.method, vault+request.path, request.body, as("jane")...)
		body := caddytest.WantError(t, resp, 503, "ServiceUnavailableError")
		if resp.Header.Get("Retry-After") == "" || body["detail"] == nil {
			t.Errorf("%s %s: got %v with Retry-After %q", request.method, request.path, body, resp.Header.Get("Retry-After"))
		}
	}
}
