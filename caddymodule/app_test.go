package caddymodule

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
)

// references returns how many configurations hold the store in dir.
func references(dir string) int {
	n, _ := pool.References("embedded:" + dir)
	return n
}

func TestValidateTouchesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	options, _ := globals(t, brokerLines(t, dir, connectorLines("crm/acme", "https://api.acme.test")))
	if err := validate(t, options+apiSite); err != nil {
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
	options, _ := globals(t, brokerLines(t, dir))
	if err := validate(t, options+apiSite); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNeedsNoVault(t *testing.T) {
	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "canary-token")
	options, log := globals(t, "")
	if err := validate(t, options+apiSite); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(logged(t, log), "canary") {
		t.Error("the log shows the token")
	}
}

func TestValidateDoesNotDisturbTheRunningConfiguration(t *testing.T) {
	dir := t.TempDir()
	options, _ := globals(t, brokerLines(t, dir, connectorLines("crm/acme", "https://api.acme.test")))
	handler := run(t, options+apiSite)
	importToken(t, handler, "crm/acme", "access-1")

	other, _ := globals(t, brokerLines(t, dir))
	if err := validate(t, other+apiSite); err != nil {
		t.Fatal(err)
	}
	if n := references(dir); n != 1 {
		t.Errorf("got %d references, want 1", n)
	}
	if resp := do(t, handler, "GET", connectionPath, "", caller()...); resp.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", resp.StatusCode, readAll(t, resp))
	}
}

func TestLogSaysWhereConnectionsAreStored(t *testing.T) {
	dir := t.TempDir()
	options, log := globals(t, "storage embedded "+dir)
	run(t, options)
	if text := logged(t, log); !strings.Contains(text, "connections are stored in the embedded store in "+dir) {
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
		options, log := globals(t, "")
		run(t, options)
		if text := logged(t, log); !strings.Contains(text, want) {
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
	options, log := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", "https://api.acme.test", "client_secret {env.TEST_SECRET}"),
		"webhook https://ops.test {\nsecret {env.TEST_SECRET}\n}"))
	t.Setenv("TEST_API_KEY", "canary-key")
	run(t, strings.Replace(options, "admin off", "admin "+admin, 1)+apiSite)
	for path, want := range map[string]string{
		"/config/":                   "{env.TEST_SECRET}",
		"/token_broker/health/live":  `{"status":"ok"}`,
		"/token_broker/health/ready": `{"status":"ok","checks":{"configuration":{"status":"up"},"store":{"status":"up"}}}`,
	} {
		resp, err := http.Get("http://" + admin + path)
		if err != nil {
			t.Fatal(err)
		}
		text := readAll(t, resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(text, want) || strings.Contains(text, "canary") {
			t.Errorf("%s: got status %d with %s, want %s", path, resp.StatusCode, text, want)
		}
	}
	if strings.Contains(logged(t, log), "canary") {
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
			options, log := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", "https://api.acme.test")))
			config, err := adapt(options + "http:// {\n" + tt.site + "\n}")
			if err != nil {
				t.Fatal(err)
			}
			config = []byte(strings.Replace(string(withoutPorts(t, config)), "127.0.0.1:0", tt.listen, 1))
			if err := caddy.Load(config, true); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(logged(t, log), "anybody who reaches this listener"); got != tt.warns {
				t.Errorf("warned: %t, want %t", got, tt.warns)
			}
		})
	}
}
