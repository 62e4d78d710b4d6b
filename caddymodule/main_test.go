package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// testHome is where Caddy keeps files during the tests. TestMain sets it.
var testHome string

func TestMain(m *testing.M) { os.Exit(runAtTestHome(m)) }

// runAtTestHome keeps the tests away from the user's own Caddy: they would overwrite its
// autosaved configuration, and add to its journals and keys.
func runAtTestHome(m *testing.M) int {
	home, err := os.MkdirTemp("", "caddymodule-home-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(home) }()
	testHome = home
	for name, dir := range map[string]string{
		"HOME": home, "USERPROFILE": home, "AppData": home,
		"XDG_CONFIG_HOME": filepath.Join(home, "config"), "XDG_DATA_HOME": filepath.Join(home, "data"),
	} {
		if err := os.Setenv(name, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// Caddy read the environment when it was initialized.
	caddy.ConfigAutosavePath = filepath.Join(caddy.AppConfigDir(), "autosave.json")
	caddy.DefaultStorage.Path = caddy.AppDataDir()
	return m.Run()
}

func TestCaddyKeepsItsFilesInTheTestHome(t *testing.T) {
	for name, path := range map[string]string{
		"home": caddy.HomeDir(), "configuration": caddy.AppConfigDir(), "data": caddy.AppDataDir(),
		"autosave": caddy.ConfigAutosavePath, "storage": caddy.DefaultStorage.Path,
	} {
		if !strings.HasPrefix(path, testHome) {
			t.Errorf("%s: %s is not below %s", name, path, testHome)
		}
	}
}
