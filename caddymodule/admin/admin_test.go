package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
)

func init() { caddy.RegisterModule(brokenStorage{}) }

// brokenStorage is a storage that cannot be opened.
type brokenStorage struct{}

func (brokenStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_broker.storage.test_broken", New: func() caddy.Module { return new(brokenStorage) }}
}

func (brokenStorage) String() string { return "a broken store" }

func (brokenStorage) StorageKey() string { return "test_broken" }

func (brokenStorage) OpenStore(context.Context, storage.OpenOptions) (record.Store, error) {
	return nil, errors.New("the disk is on fire")
}

// runBroken runs a configuration whose store cannot be opened.
func runBroken(t *testing.T) http.Handler {
	t.Helper()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	config, err := caddytest.Adapt(options + caddytest.APISite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	text := strings.Replace(string(caddytest.WithoutPorts(t, config)), `"module":"embedded"`, `"module":"test_broken"`, 1)
	text = strings.Replace(text, `"dir":`, `"@id":`, 1)
	if err := caddy.Load([]byte(text), true); err != nil {
		t.Fatal(err)
	}
	return caddytest.Server(t)
}

func health(t *testing.T, serve func(http.ResponseWriter, *http.Request) error, method string) (*http.Response, error) {
	t.Helper()
	rec := httptest.NewRecorder()
	err := serve(rec, httptest.NewRequest(method, "http://admin/", nil))
	return rec.Result(), err
}

func TestReadinessSaysWhichPartIsDown(t *testing.T) {
	runBroken(t)
	resp, err := health(t, serveReady, http.MethodGet)
	if err != nil {
		t.Fatal(err)
	}
	text := caddytest.ReadAll(t, resp)
	if resp.StatusCode != http.StatusServiceUnavailable ||
		!strings.Contains(text, `"status":"unavailable"`) || !strings.Contains(text, `"configuration":{"status":"up"}`) ||
		!strings.Contains(text, `"store":{"status":"down","error":`) || !strings.Contains(text, "the disk is on fire") {
		t.Errorf("got status %d with %s", resp.StatusCode, text)
	}
	if resp, err := health(t, serveLive, http.MethodGet); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("live: got status %d, %v, want 200", resp.StatusCode, err)
	}
}

func TestReadinessWithoutConfiguration(t *testing.T) {
	resp, err := health(t, serveReady, http.MethodGet)
	if err != nil {
		t.Fatal(err)
	}
	if text := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, `"configuration":{"status":"down"`) {
		t.Errorf("got status %d with %s", resp.StatusCode, text)
	}
}

func TestHealthIsOnlyRead(t *testing.T) {
	_, err := health(t, serveReady, http.MethodPost)
	var api caddy.APIError
	if !errors.As(err, &api) || api.HTTPStatus != http.StatusMethodNotAllowed {
		t.Errorf("got %v, want 405", err)
	}
}

func TestStoreOutOfReachIsUnavailable(t *testing.T) {
	handler := runBroken(t)
	for _, resp := range []*http.Response{
		caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "", caddytest.Caller()...),
		caddytest.Do(t, handler, "POST", caddytest.ImportPath, caddytest.TokenBody("a"), caddytest.Caller()...),
	} {
		if got := resp.Header.Get("Retry-After"); got == "" || got == "0" {
			t.Errorf("got Retry-After %q", got)
		}
		if body := caddytest.WantError(t, resp, 503, "ServiceUnavailableError"); strings.Contains(body["message"].(string), "fire") {
			t.Errorf("the caller is told about the machinery: %v", body)
		}
	}
}
