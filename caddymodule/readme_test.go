package caddymodule

import (
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing" // a directive of the README's configuration

	"github.com/tokenbroker/caddy-token-broker/caddymodule/admin"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/connectionsapi"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/proxy"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/storage"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/transport"
)

// TestConfigurationOfTheReadmeAdapts holds every Caddyfile in the README to the parser,
// and to its formatting.
func TestConfigurationOfTheReadmeAdapts(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(readme), "```caddyfile\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("there is none")
	}
	for _, block := range blocks {
		caddyfile, _, _ := strings.Cut(block, "```")
		_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "README.md"})
		if err != nil {
			t.Error(err)
		}
		for _, warning := range warnings {
			t.Error(warning)
		}
	}
}

// TestReadmeKnowsEveryModule holds the list of module IDs to what is registered.
func TestReadmeKnowsEveryModule(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{
		"http.handlers.sandbox_provider",
		string(tokenbroker.App{}.CaddyModule().ID), string(storage.Vault{}.CaddyModule().ID), string(storage.Embedded{}.CaddyModule().ID),
		string(connectionsapi.Handler{}.CaddyModule().ID), string(proxy.Handler{}.CaddyModule().ID), string(transport.Transport{}.CaddyModule().ID), string(admin.API{}.CaddyModule().ID),
	} {
		if !strings.Contains(string(readme), "`"+id+"`") {
			t.Errorf("the README does not name the module %s", id)
		}
	}
}
