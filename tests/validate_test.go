package tests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// Checking a configuration needs neither Vault nor the embedded store, which a running process
// may have open.
func TestValidateAndAdaptNeedNoStore(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, d *deployment) {
		t.Helper()
		path := filepath.Join(d.dir, "Caddyfile.check")
		writeFile(t, path, d.caddyfile(t, ports{freePort(t), freePort(t), freePort(t)}))
		for _, subcommand := range []string{"validate", "adapt"} {
			out, err := d.command(subcommand, "--config", path).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", subcommand, err, out)
			}
			if strings.Contains(string(out), d.clientSecret) || strings.Contains(string(out), d.apiKey) {
				t.Errorf("%s prints a secret:\n%s", subcommand, out)
			}
		}
	}
	t.Run("Vault is down", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, oauthserver.Config{})
		writeFile(t, d.vaultTokenPath(), "a-vault-token\n")
		check(t, d.vaultBlock(fmt.Sprintf("http://127.0.0.1:%d", freePort(t)), "secret"))
	})
	t.Run("nothing was ever stored", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, oauthserver.Config{}).onDisk()
		check(t, d)
		if _, err := os.Stat(filepath.Join(d.dir, "data", "caddy", "token-broker")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the store's directory: %v, want none", err)
		}
	})
	t.Run("a process is running", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, oauthserver.Config{}).onDisk()
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 0))
		check(t, d)
		d.wantUnbroken(t, p, consumer, 0)
		p.importTokens(t, acme, "another", d.provider.Login(t, "another", 0))
		d.wantUnbroken(t, p, "another", 0)
		if strings.Contains(p.log.String(), `"level":"error"`) {
			t.Errorf("the process has logged an error:\n%s", p.log)
		}
	})
}
