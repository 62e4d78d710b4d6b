package caddymodule

import (
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing" // a directive of the README's configuration
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
		string(App{}.CaddyModule().ID), string(VaultStorage{}.CaddyModule().ID), string(EmbeddedStorage{}.CaddyModule().ID),
		string(ConnectionsAPI{}.CaddyModule().ID), string(DownstreamProxy{}.CaddyModule().ID), string(Transport{}.CaddyModule().ID), string(adminAPI{}.CaddyModule().ID),
	} {
		if !strings.Contains(string(readme), "`"+id+"`") {
			t.Errorf("the README does not name the module %s", id)
		}
	}
}
