package connectionsapi

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// FuzzConnectionsAPI sends arbitrary requests: each is answered, without a 5xx and without a
// secret.
func FuzzConnectionsAPI(f *testing.F) {
	key := "Bearer " + caddytest.Key
	for _, method := range []string{"GET", "PATCH", "DELETE", "POST", "HEAD", "OPTIONS"} {
		f.Add(method, "/vault/connections/crm/acme", key, "my-app", "jane", `{"enabled": false, "settings": {"a": {"type": 1}}}`)
	}
	f.Add("GET", "/vault/connections?api=crm&configured=true", key, "my-app", "jane", "")
	f.Add("GET", "/vault/connections?configured=%zz;api&api=", key, "my-app", "jane", "")
	f.Add("DELETE", "/vault/consumers/jane", key, "my-app", "", "")
	f.Add("DELETE", "/vault/consumers/..%2f%00", key, "my-app", "\xff", "")
	f.Add("POST", "/vault/connections/crm/machine/token", key, "my-app", "jane", "{}")
	f.Add("POST", "/vault/connections/crm/acme/validate", key, "my-app", "jane", `{"a": null}`)
	f.Add("POST", "/vault/connections/crm/acme/import", key, "my-app", "jane", `{"credentials": {"access_token": "a", "refresh_token": "b"}}`)
	f.Add("PATCH", "/vault/connections/hris/keyed", key, "my-app", "jane", `{"settings": {"api_key": "********", "region": {"type": {}}}, "consents": []}`)
	f.Add("PATCH", "http://x/%76ault/connections/hris/keyed/", "bearer  "+caddytest.Key, "my-app", "jane", `{"settings": {"": [[{"token": "********"}]]}}`)
	f.Add("POST", "/vault/connections/import", key, "my-app", "", batchOf(batchRow("jane", "a", "b"), batchRow("john", "a", "b"), "{}", "7"))
	f.Add("POST", "/vault/connections/verify", key, "my-app", "", `{"salt": "000102030405060708090a0b0c0d0e0f", "connections": [{"consumer_id": "jane", "unified_api": "crm", "service_id": "acme"}]}`)
	f.Add("GET", "/vault/connections", "Basic eA==", "other", strings.Repeat("x", 300), "\x00")
	f.Fuzz(func(t *testing.T, method, target, authorization, application, consumer, body string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + target + " HTTP/1.1\r\nHost: broker\r\n\r\n")))
		if err != nil {
			t.Skip("no server would take it")
		}
		req.Body = io.NopCloser(strings.NewReader(body))
		for name, value := range map[string]string{"Authorization": authorization, apideck.AppHeader: application, apideck.ConsumerHeader: consumer} {
			if value != "" {
				req.Header.Set(name, value)
			}
		}
		provider := brokertest.NewProvider()
		provider.Grant(brokertest.RefreshCanary)
		api := newAPI(t, provider)
		mustImport(t, api, "crm/acme", "jane",
			`{"credentials": {"access_token": "`+brokertest.AccessCanary+`", "refresh_token": "`+brokertest.RefreshCanary+`", "issued_at": "2022-01-01T00:00:00Z"}}`)
		mustImport(t, api, "crm/machine", "jane", `{"credentials": {"access_token": "`+brokertest.AccessCanary+`", "issued_at": "2022-01-01T00:00:00Z"}}`)
		mustImport(t, api, "hris/keyed", "jane", `{"settings": {"api_key": "`+brokertest.AccessCanary+`", "region": "eu"}}`)

		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, req)
		checkAnswer(t, rec)
	})
}

func checkAnswer(t *testing.T, rec *httptest.ResponseRecorder) {
	t.Helper()
	brokertest.NoCanary(t, "the answer", rec.Body.Bytes())
	if rec.Code == http.StatusTeapot || rec.Code == http.StatusNoContent {
		return
	}
	if rec.Code >= 500 || rec.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("got status %d, %v: %s", rec.Code, rec.Header(), rec.Body)
	}
	var answer map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
		t.Fatalf("the body is no JSON: %v: %s", err, rec.Body)
	}
	members := []string{"status_code", "status", "data"}
	if rec.Code >= 400 {
		members = []string{"status_code", "error", "type_name", "message", "detail", "ref"}
	}
	for _, name := range members {
		if answer[name] == nil {
			t.Errorf("status %d: no %s in %s", rec.Code, name, rec.Body)
		}
	}
	if len(answer) != len(members) || answer["status_code"] != float64(rec.Code) {
		t.Errorf("status %d: got %s, want %v", rec.Code, rec.Body, members)
	}
}
