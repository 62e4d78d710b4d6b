package tokenbroker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestUnresolvableSecretIsNamed(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_SET", "x")
	t.Setenv("TEST_LINES", "canary\nsecret")
	const acme = "auth_type oauth2\ntoken_url https://auth.acme.test\nauth_style header\nbase_url https://acme.test\n"
	tests := []struct {
		name, lines string
		want        []string
	}{
		{"api_key", "app a {\napi_key {env.TEST_SET}\napi_key {env.TEST_UNSET}\n}", []string{"app a: api_key 2", "{env.TEST_UNSET}"}},
		{"empty file", "app a {\napi_key {file." + empty + "}\n}", []string{"app a: api_key 1", "{file." + empty + "}"}},
		{"missing file", "app a {\napi_key {file." + empty + ".not}\n}", []string{"app a: api_key 1", "{file." + empty + ".not}"}},
		{"part of a value", "app a {\napi_key canary-{env.TEST_UNSET}\n}", []string{"app a: api_key 1", "{env.TEST_UNSET}"}},
		{"line break", "app a {\napi_key {env.TEST_LINES}\n}", []string{"app a: api_key 1", "{env.TEST_LINES}", "line break"}},
		{"client_id", "connector crm/acme {\n" + acme + "client_id {env.TEST_UNSET}\n}", []string{"connector crm/acme: client_id", "{env.TEST_UNSET}"}},
		{"client_secret", "connector crm/acme {\n" + acme + "client_secret {env.TEST_UNSET}\n}", []string{"connector crm/acme: client_secret", "{env.TEST_UNSET}"}},
		{"webhook", "webhook https://ops.test {\nsecret {env.TEST_UNSET}\n}", []string{"webhook 1: secret", "{env.TEST_UNSET}"}},
		{"vault", "storage vault {\naddress https://vault.test\nauth token {env.TEST_UNSET}\n}", []string{"auth: token", "{env.TEST_UNSET}"}},
		{"vault by default", "storage vault {\naddress https://vault.test\n}", []string{"auth: token", "{env.VAULT_TOKEN}"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("VAULT_TOKEN", "")
			options, _ := caddytest.Globals(t, tt.lines)
			err := caddytest.Validate(t, options)
			if err == nil {
				t.Fatal("it validates")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q without %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

func TestWrongConfigurationNamesTheField(t *testing.T) {
	const acme = "connector crm/acme {\nauth_type oauth2\ntoken_url %s\nauth_style %s\nbase_url https://acme.test\n}"
	tests := []struct {
		name, lines string
		want        []string
	}{
		{"auth_style", fmt.Sprintf(acme, "https://auth.test", "guess"), []string{"connector crm/acme", "auth_style"}},
		{"token_url", fmt.Sprintf(acme, "http://auth.test", "header"), []string{"connector crm/acme", "token_url"}},
		{"unknown connector", "connector crm/nobody-knows\n", []string{"connector crm/nobody-knows", "auth_type"}},
		{"app without key", "app a\n", []string{"app a", "api_key"}},
		{"webhook without secret", "webhook https://ops.test\n", []string{"webhook https://ops.test", "secret"}},
		{"webhook without TLS", "webhook http://ops.test {\nsecret x\n}", []string{"webhook http://ops.test", "https://"}},
		{"vault address", "storage vault {\naddress vault.test\nauth token x\n}", []string{"storage", "address"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			options, _ := caddytest.Globals(t, tt.lines)
			err := caddytest.Validate(t, options)
			if err == nil {
				t.Fatal("it validates")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q without %q", err, want)
				}
			}
		})
	}
}

func TestConnectorRulesHoldInJSONToo(t *testing.T) {
	const config = `{"apps": {"token_broker": {"storage": {"module": "embedded", "dir": %q}, "connectors": {"crm/acme": {
		"auth_type": "oauth2", "grant_type": "password", "token_url": "https://auth.test", "auth_style": "header", "base_url": "https://acme.test",
		"token_body": "xml", "token_params": {"client_secret": "canary"}, "inject": [{"in": "basic", "setting": "username", "password_setting": "nothing"}]}}}}}`
	var cfg caddy.Config
	if err := json.Unmarshal(fmt.Appendf(nil, config, t.TempDir()), &cfg); err != nil {
		t.Fatal(err)
	}
	err := caddy.Validate(&cfg)
	if err == nil {
		t.Fatal("it is valid")
	}
	for _, want := range []string{`crm/acme: token_body: "xml"`, "crm/acme: token_params: client_secret", "crm/acme: inject: uses the setting nothing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v without %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the error shows a value: %v", err)
	}
}

func TestLiteralSecretWarns(t *testing.T) {
	t.Setenv("TEST_SECRET", "canary-env")
	options, log := caddytest.Globals(t, "storage embedded "+t.TempDir()+"\napp a {\napi_key canary-literal\n}\napp b {\napi_key {env.TEST_SECRET}\n}")
	caddytest.Run(t, options+caddytest.APISite)
	text := caddytest.Logged(t, log)
	if !strings.Contains(text, "the configuration contains a literal secret") || !strings.Contains(text, "app a: api_key 1") {
		t.Errorf("got no warning of the literal in %s", text)
	}
	if strings.Contains(text, "app b: api_key") {
		t.Error("got a warning of the placeholder")
	}
	if strings.Contains(text, "canary") {
		t.Error("the log shows a secret")
	}
}
