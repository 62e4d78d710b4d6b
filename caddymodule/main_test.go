package caddymodule_test

import (
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestMain(m *testing.M) { os.Exit(caddytest.Main(m)) }

func TestCaddyKeepsItsFilesInTheTestHome(t *testing.T) {
	for name, path := range map[string]string{
		"home": caddy.HomeDir(), "configuration": caddy.AppConfigDir(), "data": caddy.AppDataDir(),
		"autosave": caddy.ConfigAutosavePath, "storage": caddy.DefaultStorage.Path,
	} {
		if !strings.HasPrefix(path, os.TempDir()) || !strings.Contains(path, "caddytest-home-") {
			t.Errorf("%s: %s is not below the test home", name, path)
		}
	}
}
