package transport

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestTransportRefusesWhatIsNotConfigured(t *testing.T) {
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	for name, tt := range map[string]struct{ site, want string }{
		"connector":     {caddytest.Site("https://api.acme.test", "crm/other", "", ""), "connector crm/other is not configured"},
		"app":           {caddytest.Site("https://api.acme.test", "crm/acme", "app other", ""), "app other is not configured"},
		"local address": {caddytest.Site("https://api.acme.test", "crm/acme", "local_address unix//tmp/x", ""), "local_address"},
	} {
		if err := caddytest.Validate(t, options+tt.site); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if err := caddytest.Validate(t, caddytest.Site("https://api.acme.test", "crm/acme", "", "")); err == nil || !strings.Contains(err.Error(), "the global option token_broker is missing") {
		t.Errorf("got %v, want that the global option is missing", err)
	}
}

func TestRefusedOptionsAreRefusedInJSON(t *testing.T) {
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test")))
	config, err := caddytest.Adapt(options + caddytest.Site("https://api.acme.test", "crm/acme", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	for option, snippet := range map[string]string{
		"network_proxy":            `"network_proxy": {"from": "none"}, "tls": {}`,
		"forward_proxy_url":        `"forward_proxy_url": "http://x.test", "tls": {}`,
		"proxy_protocol":           `"proxy_protocol": "v1", "tls": {}`,
		"resolvers":                `"resolver": {"addresses": ["1.1.1.1"]}, "tls": {}`,
		"versions 3":               `"versions": ["3"], "tls": {}`,
		"tls_insecure_skip_verify": `"tls": {"insecure_skip_verify": true}`,
		"tls_server_name":          `"tls": {"server_name": "{http.request.host}"}`,
	} {
		text := strings.Replace(string(caddytest.WithoutPorts(t, config)), `"tls":{}`, snippet, 1)
		err := caddy.Load([]byte(text), true)
		if err == nil || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), "is not allowed here") {
			t.Errorf("%s: got %v", option, err)
		}
	}
}

func TestUpstreamThatTheConnectorDoesNotAllowIsWarnedOf(t *testing.T) {
	const warning = "the connector does not allow this upstream"
	for _, tt := range []struct {
		name, upstream, connector, options string
		warns                              bool
	}{
		{"the API", "https://api.acme.test", "crm/acme", "", false},
		{"its port", "https://api.acme.test:8443", "crm/acme", "", true},
		{"another host", "https://api.acme.test.evil.test", "crm/acme", "", true},
		{"plain HTTP", "http://api.acme.test", "crm/acme", "", true},
		{"one of two", "https://api.acme.test https://other.test", "crm/acme", "", true},
		{"another one that is listed", "https://eu.acme.test", "crm/acme", "", false},
		{"on this machine", "http://127.0.0.1:1234", "crm/here", "", false},
		{"elsewhere on this machine", "http://127.0.0.1:1235", "crm/here", "", true},
		{"known with the request", "{http.request.header.x-upstream}", "crm/acme", "tls", false},
		{"of a connector that is known with the request", "https://other.test", "{http.request.header.x-connector}", "", false},
		{"a socket", "unix//run/acme.sock", "crm/acme", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", "https://api.acme.test", "allow_host eu.acme.test"),
				caddytest.ConnectorLines("crm/here", "http://127.0.0.1:1234", "allow_private")))
			if err := caddytest.Validate(t, options+caddytest.Site(tt.upstream, tt.connector, tt.options, "")); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(caddytest.Logged(t, log), warning); got != tt.warns {
				t.Errorf("the log warns: %t, want %t\n%s", got, tt.warns, caddytest.Logged(t, log))
			}
		})
	}
}

// The new configuration counts, not the running one.
func TestUpstreamOfAConnectorThatAReloadAddsIsNotWarnedOf(t *testing.T) {
	dir := t.TempDir()
	acme := caddytest.ConnectorLines("crm/acme", "https://api.acme.test")
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme))
	caddytest.Run(t, options+caddytest.Site("https://api.acme.test", "crm/acme", "", ""))
	options, log := caddytest.Globals(t, caddytest.BrokerLines(t, dir, acme, caddytest.ConnectorLines("crm/here", "http://127.0.0.1:1234", "allow_private")))
	if err := caddytest.Load(t, options+caddytest.Site("http://127.0.0.1:1234", "crm/here", "", "")); err != nil {
		t.Fatal(err)
	}
	if text := caddytest.Logged(t, log); strings.Contains(text, "does not allow this upstream") {
		t.Errorf("got a warning:\n%s", text)
	}
}
