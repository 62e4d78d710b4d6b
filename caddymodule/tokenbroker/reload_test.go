package tokenbroker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/broker/record"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func init() { caddy.RegisterModule(failingApp{}) }

func TestReloadKeepsTheBroker(t *testing.T) {
	dir := t.TempDir()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	handler := caddytest.Run(t, options+caddytest.APISite)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	before, err := Active()
	if err != nil {
		t.Fatal(err)
	}

	options, _ = caddytest.Globals(t, caddytest.BrokerLines(t, dir, caddytest.ConnectorLines("crm/acme", "https://api.acme.test"),
		caddytest.ConnectorLines("crm/other", "https://api.other.test")))
	if err := caddytest.Load(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	after, err := Active()
	if err != nil {
		t.Fatal(err)
	}
	if before == after || before.shared.broker != after.shared.broker {
		t.Error("want another app with the same broker")
	}
	if n := references(dir); n != 1 {
		t.Errorf("got %d references, want 1", n)
	}
	if got := len(before.shared.broker.Config().Connectors); got != 2 {
		t.Errorf("got %d connectors, want those of the new configuration", got)
	}
	// A request of the old configuration still in progress.
	if resp := caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "", caddytest.Caller()...); resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
}

func TestReloadSaysThatTheJournalStays(t *testing.T) {
	dir := t.TempDir()
	const message = "another journal is used only after a restart"
	acme := caddytest.ConnectorLines("crm/acme", "https://api.acme.test")
	options, log := caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme))
	caddytest.Run(t, options+caddytest.APISite)
	if strings.Contains(caddytest.Logged(t, log), message) {
		t.Error("the first configuration counts as a change")
	}
	journal := filepath.Join(dir, "another")
	options, log = caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme, "journal "+journal))
	if err := caddytest.Load(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	if got := caddytest.Logged(t, log); !strings.Contains(got, message) || !strings.Contains(got, journal) {
		t.Errorf("the log does not say that the journal stays:\n%s", got)
	}
}

func TestFailedProvisionLeavesTheOldConfiguration(t *testing.T) {
	dir := t.TempDir()
	acme := caddytest.ConnectorLines("crm/acme", "https://api.acme.test")
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme))
	caddytest.Run(t, options+caddytest.APISite)
	running, err := Active()
	if err != nil {
		t.Fatal(err)
	}
	for name, caddyfile := range map[string]func() string{
		"of the app": func() string {
			options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme, "app b {\napi_key {env.TEST_UNSET}\n}"))
			return options + caddytest.APISite
		},
		"of another module": func() string {
			options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir))
			return options + "http:// {\nreverse_proxy https://a.test {\ntransport token_broker crm/other\n}\n}"
		},
	} {
		if err := caddytest.Load(t, caddyfile()); err == nil {
			t.Fatalf("%s: it loads", name)
		}
		if n := references(dir); n != 1 {
			t.Errorf("%s: got %d references, want 1", name, n)
		}
		if running.shared.newest.Load() != running {
			t.Errorf("%s: the running configuration does not count any more", name)
		}
		if conns := running.shared.broker.Config().Connectors; conns[connector.ID{UnifiedAPI: "crm", ServiceID: "acme"}] == nil {
			t.Errorf("%s: the broker goes by the configuration that failed", name)
		}
	}
}

// failingApp is an app that cannot be started.
type failingApp struct{}

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "token_broker_test_failing", New: func() caddy.Module { return new(failingApp) }}
}

func (failingApp) Start() error { return errors.New("cannot be started") }

func (failingApp) Stop() error { return nil }

func TestFailedStartReturnsToTheOldConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TEST_API_KEY", caddytest.Key)
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir))
	caddytest.Run(t, options+caddytest.APISite)
	running, err := Active()
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Appendf(nil, `{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {"token_broker_test_failing": {}, "token_broker": {"storage": {"module": "embedded", "dir": %q}, "cache_ttl": "1s"}}}`, dir)
	// Apps start in random order; this needs ours to be the first.
	for range 8 {
		if err := caddy.Load(config, true); err == nil {
			t.Fatal("it loads")
		}
		if running.shared.newest.Load() != running || running.shared.broker.Config().CacheTTL != 0 {
			t.Fatal("the running configuration does not count any more")
		}
	}
	if n := references(dir); n != 1 {
		t.Errorf("got %d references, want 1", n)
	}
}

func TestStopClosesTheStore(t *testing.T) {
	dir := t.TempDir()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	handler := caddytest.Run(t, options+caddytest.APISite)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	store, err := boltstore.Open(context.Background(), boltstore.Config{Dir: dir})
	if err != nil {
		t.Fatalf("the store is still open: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

func TestStopWaitsForTheRefreshUnderWay(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "access-2", "refresh_token": "refresh-2", "token_type": "Bearer", "expires_in": 3600}`)
	}))
	t.Cleanup(endpoint.Close)
	dir := t.TempDir()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, fmt.Sprintf(
		"connector crm/acme {\nauth_type oauth2\ntoken_url %s\nauth_style header\nclient_id acme\nbase_url https://api.acme.test\nallow_private\n}", endpoint.URL)))
	handler := caddytest.Run(t, options+caddytest.APISite)
	caddytest.Do(t, handler, "POST", caddytest.ImportPath,
		`{"credentials": {"access_token": "access-1", "refresh_token": "refresh-1", "issued_at": "2020-01-01T00:00:00Z", "expires_in": 60}}`, caddytest.Caller()...)
	<-asked
	stopped := make(chan error, 1)
	go func() { stopped <- caddy.Stop() }()
	select {
	case err := <-stopped:
		t.Errorf("stopped with a refresh under way: %v", err)
	case answer <- struct{}{}:
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}

	store, err := boltstore.Open(context.Background(), boltstore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rec, _, err := store.Load(context.Background(), record.Key{
		Application: "my-app", Consumer: "jane",
		Connector: connector.ID{UnifiedAPI: "crm", ServiceID: "acme"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := rec.Credentials.RefreshToken.Reveal(); got != "refresh-2" {
		t.Errorf("the store has %q, want what the token endpoint answered", got)
	}
}
