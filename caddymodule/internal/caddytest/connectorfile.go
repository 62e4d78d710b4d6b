package caddytest

import (
	"os"
	"path/filepath"
	"testing"
)

// AcmeFile is the connector file of a service that is not in the built-in catalogue.
const AcmeFile = `{
	"id": "crm/acme", "name": "Acme", "website": "https://acme.test",
	"source": "https://docs.acme.test/oauth", "checked": "How refreshing works.",
	"auth_type": "oauth2", "grant_type": "password",
	"token_url": "https://{tenant}.acme.test/token", "auth_style": "params", "token_body": "json",
	"token_params": {"audience": "{tenant}"}, "rotation": "window 30m", "keep_alive": "720h",
	"base_url": "https://{tenant}.acme.test/v1", "allow_hosts": ["files.acme.test"],
	"settings": [{"name": "tenant", "required": true}, {"name": "client_id"}, {"name": "client_secret", "sensitive": true}],
	"inject": [{"kind": "cookie", "name": "session"}, {"kind": "basic", "username": "{tenant}/token", "password": ""}]
}`

// ConnectorFiles creates a directory with files, given by name.
func ConnectorFiles(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
