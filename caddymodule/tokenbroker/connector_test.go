package tokenbroker

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/connector"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// TestConnectorInJSONIsWrittenLikeAFile has the spellings of connector files.
func TestConnectorInJSONIsWrittenLikeAFile(t *testing.T) {
	t.Parallel()
	var got ConnectorConfig
	if err := json.Unmarshal([]byte(strings.Replace(caddytest.AcmeFile, "{", `{"client_id": "x", "Client_Secret": "{env.X}",`, 1)), &got); err != nil {
		t.Fatal(err)
	}
	want, err := connector.ParseFile([]byte(caddytest.AcmeFile))
	if err != nil {
		t.Fatal(err)
	}
	def := got.WithDefaults()
	a, _ := json.Marshal(def)
	b, _ := json.Marshal(want)
	if string(a) != string(b) || got.ClientID != "x" || got.ClientSecret != "{env.X}" {
		t.Errorf("got\n%s, client %s, %s\nwant\n%s", a, got.ClientID, got.ClientSecret, b)
	}

	emitted, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"rotation":{"kind":"window","window":1800000000000}`, `"keep_alive":2592000000000000`, `{"in":"cookie","name":"session"}`, `"client_id":"x"`} {
		if !strings.Contains(string(emitted), want) {
			t.Errorf("got %s without %s", emitted, want)
		}
	}
}

func TestConnectorErrorsInJSONNameTheMember(t *testing.T) {
	const config = `{"apps": {"token_broker": {"storage": {"module": "embedded", "dir": %q}, "connectors": {"crm/acme": {
		"auth_type": "apiKey", "base_url": "https://acme.test", %s}}}}}`
	for members, want := range map[string]string{
		`"token_uri": "https://acme.test"`:             `unknown field "token_uri"`,
		`"inject": [{"in": "header", "header": "X"}]`:  `unknown field "header"`,
		`"client_secret": ["canary"]`:                  "client_secret must be a string",
		`"id": "crm/other"`:                            "connector crm/acme: id: is crm/other",
		`"id": "crm/acme", "rotation": {"kind": true}`: "rotation: must be text",
	} {
		text := strings.Replace(config, "%q", `"`+filepath.Join(t.TempDir(), "store")+`"`, 1)
		var cfg caddy.Config
		if err := json.Unmarshal([]byte(strings.Replace(text, "%s", members, 1)), &cfg); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v, want %q", members, err, want)
		}
	}
}
