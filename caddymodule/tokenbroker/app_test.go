package tokenbroker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/boltstore"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// references returns how many configurations use the store in dir.
func references(dir string) int {
	n, _ := pool.References("embedded:" + dir)
	return n
}

func TestValidateTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	if err := caddytest.Validate(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that the store's directory is not there", err)
	}
	if n := references(dir); n != 0 {
		t.Errorf("got %d references, want none", n)
	}
}

func TestValidateNeedsNoLock(t *testing.T) {
	dir := t.TempDir()
	store, err := boltstore.Open(context.Background(), boltstore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir))
	if err := caddytest.Validate(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNeedsNoVault(t *testing.T) {
	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "canary-token")
	options, log := caddytest.Globals(t, "")
	if err := caddytest.Validate(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(caddytest.Logged(t, log), "canary") {
		t.Error("the log shows the token")
	}
}

func TestValidateDoesNotDisturbTheRunningConfiguration(t *testing.T) {
	dir := t.TempDir()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	handler := caddytest.Run(t, options+caddytest.APISite)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")

	other, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir))
	if err := caddytest.Validate(t, other+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	if n := references(dir); n != 1 {
		t.Errorf("got %d references, want 1", n)
	}
	if resp := caddytest.Do(t, handler, "GET", caddytest.ConnectionPath, "", caddytest.Caller()...); resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
}

func TestLogSaysWhereConnectionsAreStored(t *testing.T) {
	dir := t.TempDir()
	options, log := caddytest.Globals(t, "storage embedded "+dir)
	caddytest.Run(t, options)
	if text := caddytest.Logged(t, log); !strings.Contains(text, "connections are stored in the embedded store in "+dir) {
		t.Errorf("got %s", text)
	}
}

func TestStorageByDefault(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("VAULT_TOKEN", "x")
	t.Setenv("VAULT_NAMESPACE", "")
	for address, want := range map[string]string{
		"":                     "the embedded store in " + filepath.Join(caddy.AppDataDir(), "token-broker"),
		"http://127.0.0.1:1/x": "Vault at http://127.0.0.1:1/x, mount secret, prefix token-broker",
	} {
		t.Setenv("VAULT_ADDR", address)
		options, log := caddytest.Globals(t, "")
		caddytest.Run(t, options)
		if text := caddytest.Logged(t, log); !strings.Contains(text, want) {
			t.Errorf("VAULT_ADDR=%q: got %s, want %q", address, text, want)
		}
	}
}

func TestAdminShowsNoSecret(t *testing.T) {
	t.Setenv("TEST_API_KEY", "canary-key")
	t.Setenv("TEST_SECRET", "canary-secret")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := listener.Addr().String()
	listener.Close()
	options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test", "client_secret {env.TEST_SECRET}"),
		"webhook https://ops.test {\nsecret {env.TEST_SECRET}\n}"))
	t.Setenv("TEST_API_KEY", "canary-key")
	caddytest.Run(t, strings.Replace(options, "admin off", "admin "+admin, 1)+caddytest.APISite)
	for path, want := range map[string]string{
		"/config/":                   "{env.TEST_SECRET}",
		"/token_broker/health/live":  `{"status":"ok"}`,
		"/token_broker/health/ready": `{"status":"ok","checks":{"configuration":{"status":"up"},"store":{"status":"up"}}}`,
	} {
		resp, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		text := caddytest.ReadAll(t, resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(text, want) || strings.Contains(text, "canary") {
			t.Errorf("%s: got status %d with %s, want %s", path, resp.StatusCode, text, want)
		}
	}
	if strings.Contains(caddytest.Logged(t, log), "canary") {
		t.Error("the log shows a secret")
	}
}

func TestOpenListenerWarns(t *testing.T) {
	site := func(app string) string {
		return "reverse_proxy https://api.acme.test {\ntransport token_broker crm/acme {\n" + app + "\n}\n}"
	}
	for name, tt := range map[string]struct {
		listen, site string
		warns        bool
	}{
		"app, everywhere":       {":0", site("app my-app"), true},
		"app, everywhere, deep": {"0.0.0.0:0", "route /x/* {\nhandle {\n" + site("app my-app") + "\n}\n}", true},
		"app, everywhere, behind another proxy": {
			":0", "reverse_proxy 127.0.0.1:1 {\nhandle_response {\n" + site("app my-app") + "\n}\n}", true,
		},
		"app, everywhere, behind an interception": {
			":0", "intercept {\nhandle_response {\n" + site("app my-app") + "\n}\n}\nrespond 200", true,
		},
		"app, everywhere, after an error":   {":0", "handle_errors {\n" + site("app my-app") + "\n}\nerror 404", true},
		"app, everywhere, in a named route": {":0", "invoke open\n}\n&(open) {\n" + site("app my-app"), true},
		"app, loopback":                     {"127.0.0.1:0", site("app my-app"), false},
		"app, unix":                         {"unix//" + t.TempDir() + "/s", site("app my-app"), false},
		"keys, everywhere":                  {":0", site(""), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { _ = caddy.Stop() })
			options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
			config, err := caddytest.Adapt(options + "http:// {\n" + tt.site + "\n}")
			if err != nil {
				t.Fatal(err)
			}
			config = []byte(strings.Replace(string(caddytest.WithoutPorts(t, config)), "127.0.0.1:0", tt.listen, 1))
			if err := caddy.Load(config, true); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(caddytest.Logged(t, log), "anyone who can reach this listener"); got != tt.warns {
				t.Errorf("warned: %t, want %t", got, tt.warns)
			}
		})
	}
}
