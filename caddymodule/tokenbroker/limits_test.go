package tokenbroker

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestLimitsThatAreNone(t *testing.T) {
	for lines, want := range map[string]string{
		"limits {\napp_concurrency 0\n}":                                 "0 is neither a number above 0 nor off",
		"limits {\nconnection_concurrency -1\n}":                         "neither a number",
		"limits {\nrequest_body many\n}":                                 "many is neither a size",
		"limits {\nrequest_body 1MB\nrequest_body 2MB\n}":                "request_body is already set",
		"limits {\nrequest_header 1KB\nrequest_header off\n}":            "request_header is already set",
		"limits {\nconnections 1\n}":                                     "unrecognized subdirective of limits: connections",
		"limits 5":                                                       "wrong argument count",
		"app my-app {\napp_concurrency 1\napp_concurrency off\n}":        "app_concurrency is already set",
		"app my-app {\nrequest_body 99999999999999999999999999999999\n}": "neither a size",
	} {
		options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), lines))
		if _, err := caddytest.Adapt(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", lines, err, want)
		}
	}
	for field, want := range map[string]string{
		`"limits": {"app_concurrency": -2}`:  "limits: app_concurrency must be greater than 0, or -1",
		`"limits": {"request_body": -2}`:     "limits: request_body must be greater than 0",
		`"limits": {"request_header": -2}`:   "limits: request_header must be greater than 0",
		`"limits": {"app_concurrency": "x"}`: "app_concurrency",
	} {
		options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), "cache_ttl 1s"))
		config, err := caddytest.Adapt(options + caddytest.APISite)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(config), `"cache_ttl":1000000000`, field, 1)
		if err := caddy.Load([]byte(text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", field, err, want)
		}
	}
}
