package caddymodule

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestTransportRefusesWhatIsNotConfigured(t *testing.T) {
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", "https://api.acme.test")))
	for name, tt := range map[string]struct{ site, want string }{
		"connector":     {site("https://api.acme.test", "crm/other", "", ""), "connector crm/other is not configured"},
		"app":           {site("https://api.acme.test", "crm/acme", "app other", ""), "app other is not configured"},
		"local address": {site("https://api.acme.test", "crm/acme", "local_address unix//tmp/x", ""), "local_address"},
	} {
		if err := validate(t, options+tt.site); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	if err := validate(t, site("https://api.acme.test", "crm/acme", "", "")); err == nil || !strings.Contains(err.Error(), "the global option token_broker is missing") {
		t.Errorf("got %v, want that the global option is missing", err)
	}
}

func TestRefusedOptionsAreRefusedInJSON(t *testing.T) {
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", "https://api.acme.test")))
	config, err := adapt(options + site("https://api.acme.test", "crm/acme", "", ""))
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
		text := strings.Replace(string(withoutPorts(t, config)), `"tls":{}`, snippet, 1)
		err := caddy.Load([]byte(text), true)
		if err == nil || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), "is not possible here") {
			t.Errorf("%s: got %v", option, err)
		}
	}
}
