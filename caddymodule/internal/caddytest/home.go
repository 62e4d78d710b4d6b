package caddytest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// Main runs the tests of a package with a home of their own, which it removes afterwards:
// otherwise they would overwrite the autosaved configuration of the user's own Caddy, and
// add to its journals and keys. It returns the exit code.
func Main(m *testing.M) int {
	home, err := os.MkdirTemp("", "caddytest-home-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(home) }()
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
