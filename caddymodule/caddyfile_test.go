package caddymodule

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// TestCaddyfileAdapts compares each testdata/*.caddyfiletest: a Caddyfile, a line of
// hyphens, and the JSON that it stands for.
func TestCaddyfileAdapts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, ok := strings.Cut(string(b), "\n----------\n")
			if !ok {
				t.Fatal("no line of hyphens")
			}
			adapted, err := caddytest.Adapt(caddyfile)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, adapted, "", "\t"); err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(got.String()) != strings.TrimSpace(want) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func TestCaddyfileErrorsNameTheLine(t *testing.T) {
	inBroker := func(lines string) string { return "{\n\ttoken_broker {\n" + lines + "\n\t}\n}\n" }
	inConnector := func(line string) string { return inBroker("\t\tconnector crm/acme {\n" + line + "\n\t\t}") }
	inTransport := func(line string) string {
		return "http:// {\n\treverse_proxy https://api.acme.test {\n\t\ttransport token_broker crm/acme {\n" + line + "\n\t\t}\n\t}\n}\n"
	}
	tests := []struct {
		name, caddyfile string
		want            string
		line            string
	}{
		{"unknown word", inBroker("vault"), "unrecognized subdirective of token_broker: vault", ":3"},
		{"argument", "{\ntoken_broker x\n}", "wrong argument count", ":2"},
		{"journal twice", inBroker("journal /a\njournal /b"), "journal is already set", ":4"},
		{"retention", inBroker("refresh {\nretention never\n}"), "retention: never is not a duration", ":4"},
		{"idle", inBroker("refresh {\nidle 0\n}"), "idle must be longer than 0", ":4"},
		{"idle twice", inBroker("refresh {\nidle off\nidle 1h\n}"), "idle is already set", ":5"},
		{"retention twice", inBroker("refresh {\nretention off\nretention 1h\n}"), "retention is already set", ":5"},
		{"unknown word of refresh", inBroker("refresh {\nevery 1m\n}"), "unrecognized subdirective of refresh: every", ":4"},
		{"no duration", inBroker("cache_ttl soon"), "cache_ttl: soon is not a duration", ":3"},
		{"no time", inBroker("cache_ttl 0s"), "cache_ttl must be longer than 0", ":3"},
		{"cache_ttl twice", inBroker("cache_ttl 1s\ncache_ttl 2s"), "cache_ttl is already set", ":4"},
		{"flag twice", inBroker("allow_private_hosts\nallow_private_hosts"), "allow_private_hosts is already set", ":4"},
		{"storage twice", inBroker("storage embedded\nstorage vault"), "storage is already set", ":4"},
		{"unknown storage", inBroker("storage redis"), "token_broker.storage.redis", ":3"},
		{"unknown word of vault", inBroker("storage vault {\nport 8200\n}"), "unrecognized subdirective of storage vault: port", ":4"},
		{"unknown login", inBroker("storage vault {\nauth approle x\n}"), "unrecognized Vault auth method: approle", ":4"},
		{"two directories", inBroker("storage embedded a b"), "wrong argument count", ":3"},
		{"key twice", inBroker("app a {\napi_key {env.K}\napi_key {env.K}\n}"), "app a already has this api_key", ":5"},
		{"unknown word of app", inBroker("app a {\nkey x\n}"), "unrecognized subdirective of app: key", ":4"},
		{"app without id", inBroker("app {\n}"), "app takes one argument", ":3"},
		{"no connector id", inBroker("connector hubspot {\n}"), "a connector is named <unified_api>/<service_id>", ":3"},
		{"unknown word of connector", inConnector("host x"), "unrecognized subdirective of connector: host", ":4"},
		{"revocation twice", inConnector("revocation_url https://x.test\nrevocation_url https://y.test"), "revocation_url is already set", ":5"},
		{"refresh_url twice", inConnector("refresh_url https://x.test\nrefresh_url https://y.test"), "refresh_url is already set", ":5"},
		{"token_body twice", inConnector("token_body json\ntoken_body form"), "token_body is already set", ":5"},
		{"parameter twice", inConnector("token_params scope a\ntoken_params scope b"), "token_params scope is already set", ":5"},
		{"parameter without value", inConnector("token_params canary"), "token_params takes two arguments", ":4"},
		{"permanent error twice", inConnector("permanent_error a b a"), "permanent_error a is already set", ":4"},
		{"cookie without name", inConnector("inject cookie"), "inject is header <name>", ":4"},
		{"cookie twice", inConnector("inject cookie a\ninject cookie a b"), "inject cookie a is already set", ":5"},
		{"basic without a colon", inConnector("inject basic {api_key}"), "inject is header <name>", ":4"},
		{"basic twice", inConnector("inject basic u p\ninject basic {u}:x"), "inject basic is already set", ":5"},
		{"catalog without directory", inBroker("catalog"), "wrong argument count", ":3"},
		{"catalog twice", inBroker("catalog /a\ncatalog /b /a"), "catalog /a is already set", ":4"},
		{"inject nothing", inConnector("inject body x"), "inject is header <name>", ":4"},
		{"inject twice", inConnector("inject header X-Key %s a\ninject header X-Key %s b"), "inject header X-Key is already set", ":5"},
		{"client_id twice", inConnector("client_id a\nclient_id b"), "client_id is already set", ":5"},
		{"secret with a space", inConnector("client_secret canary secret"), "client_secret takes one argument", ":4"},
		{"rotation", inConnector("rotation sometimes"), "rotation is always, never, or window <duration>", ":4"},
		{"window", inConnector("rotation window"), "rotation is always, never, or window <duration>", ":4"},
		{"rate", inConnector("refresh_rate 20"), `refresh_rate: "20" is not a number per second, such as 50/s`, ":4"},
		{"rate twice", inConnector("refresh_rate 20/s\nrefresh_rate 20/s"), "refresh_rate is already set", ":5"},
		{"probe twice", inConnector("probe_path /me\nprobe_path /me"), "probe_path is already set", ":5"},
		{"concurrency", inConnector("refresh_concurrency many"), "refresh_concurrency: many is not a number above zero", ":4"},
		{"concurrency twice", inConnector("refresh_concurrency 4\nrefresh_concurrency 4"), "refresh_concurrency is already set", ":5"},
		{"refresh token", inConnector("refresh_token required"), "refresh_token: the only allowed value is optional", ":4"},
		{"setting twice", inConnector("setting a\nsetting a"), "setting a is already set", ":5"},
		{"setting word", inConnector("setting a secret"), "setting a: secret is not one of required, sensitive, origin", ":4"},
		{"host twice", inConnector("allow_host a.test b.test\nallow_host a.test"), "allow_host a.test is already set", ":5"},
		{"no host", inConnector("allow_host"), "wrong argument count", ":4"},
		{"unknown word of webhook", inBroker("webhook https://x.test {\nretry 3\n}"), "unrecognized subdirective of webhook: retry", ":4"},
		{"event twice", inBroker("webhook https://x.test {\nevents a a\n}"), "events a is already set", ":4"},
		{"connections_api argument", "http:// {\nconnections_api x\n}", "wrong argument count", ":2"},
		{"connections_api block", "http:// {\nconnections_api {\nkeys\n}\n}", "unrecognized subdirective of connections_api: keys", ":3"},
		{"transport without connector", "http:// {\nreverse_proxy a.test {\ntransport token_broker\n}\n}", "takes one argument, the connector", ":3"},
		{"transport's connector", "http:// {\nreverse_proxy a.test {\ntransport token_broker hubspot\n}\n}", "a connector is named", ":3"},
		{"network_proxy", inTransport("network_proxy none"), "network_proxy is not allowed here", ":4"},
		{"forward_proxy_url", inTransport("forward_proxy_url http://x.test"), "forward_proxy_url is not allowed here", ":4"},
		{"proxy_protocol", inTransport("proxy_protocol v2"), "proxy_protocol is not allowed here", ":4"},
		{"resolvers", inTransport("resolvers 1.1.1.1"), "resolvers is not allowed here", ":4"},
		{"versions 3", inTransport("versions 3"), "versions 3 is not allowed here", ":4"},
		{"tls_insecure_skip_verify", inTransport("tls_insecure_skip_verify"), "tls_insecure_skip_verify is not allowed here", ":4"},
		{"tls_server_name", inTransport("tls_server_name {http.request.host}"), "tls_server_name with a placeholder is not allowed here", ":4"},
		{"the http transport's own errors", inTransport("dial_timeout soon"), "bad timeout value 'soon'", ":4"},
		{"unknown word of transport", inTransport("app a\nkey b"), "unrecognized subdirective key", ":5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := caddytest.Adapt(tt.caddyfile)
			if err == nil {
				t.Fatal("it adapts")
			}
			if got := err.Error(); !strings.Contains(got, tt.want) || !strings.Contains(got, "Caddyfile"+tt.line) {
				t.Errorf("got %q, want %q at line %s", got, tt.want, tt.line)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

func TestRepeatedBlocksMerge(t *testing.T) {
	t.Parallel()
	adapted, err := caddytest.Adapt(`{
		token_broker {
			app a {
				api_key {env.K1}
			}
			connector crm/acme {
				name Acme
				allow_host a.test
			}
			webhook https://ops.test/hooks {
				secret {env.S}
			}
			refresh {
				timeout 10s
			}
		}
		token_broker {
			app a {
				api_key {env.K2}
			}
			connector crm/acme {
				auth_type basic
				allow_host b.test
			}
			webhook https://ops.test/hooks {
				events a*
			}
			refresh {
				give_up 1m
			}
		}
	}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"api_keys":["{env.K1}","{env.K2}"]`,
		`"crm/acme":{"name":"Acme","auth_type":"basic","allow_hosts":["a.test","b.test"]}`,
		`"webhooks":[{"url":"https://ops.test/hooks","secret":"{env.S}","events":["a*"]}]`,
		`"refresh":{"timeout":10000000000,"give_up":60000000000}`,
	} {
		if !bytes.Contains(adapted, []byte(want)) {
			t.Errorf("got %s\nwithout %s", adapted, want)
		}
	}
}

func TestSecondBlockCannotChangeTheFirst(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"storage":   "storage embedded",
		"cache_ttl": "cache_ttl 1s",
		"name":      "connector crm/acme {\nname Acme\n}",
		"secret":    "webhook https://ops.test {\nsecret {env.S}\n}",
		"timeout":   "refresh {\ntimeout 1s\n}",
	} {
		_, err := caddytest.Adapt("{\ntoken_broker {\n" + line + "\n}\ntoken_broker {\n" + line + "\n}\n}")
		if err == nil || !strings.Contains(err.Error(), name+" is already set") {
			t.Errorf("%s: got %v, want that it is already set", name, err)
		}
	}
}
