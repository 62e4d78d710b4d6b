package transport

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// Servers choose a tenant by Host, so one that the caller names must be allowed like a URL's.
func TestHostThatTheCallerNamesMustBeAllowed(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	own := strings.TrimPrefix(d.URL, "https://")
	caddyfile, _ := d.Proxy(t, "app my-app", "header_up Host {http.request.header.X-Named}")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for named, want := range map[string]string{
		own: own, "127.0.0.1": "127.0.0.1", "１２７.0.0.1": "127.0.0.1", "[::ffff:127.0.0.1]": "127.0.0.1",
		"evil.test": "", "127.0.0.1.evil.test": "", "user@127.0.0.1": "", "127.0.0.1%2eevil.test": "", "evil.test#127.0.0.1": "", "127.0.0.1/evil": "",
	} {
		resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane", "X-Named", named)
		if want == "" {
			caddytest.WantError(t, resp, http.StatusForbidden, "ForbiddenError")
			d.WantNone(t)
			continue
		}
		if got := d.Request(t).Host; got != want {
			t.Errorf("%q: downstream got Host %s, want %s", named, got, want)
		}
	}
}

func TestValuesOfTheProcessAreTheOperators(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"api.acme.test": false, "{env.HOST}": false, "{file./run/host}.acme.test": false, "{http.request.header.X}": true, "{env.A}{http.vars.b}": true,
		"{http.reverse_proxy.upstream.hostport}": true, "{labels.1}": true,
	} {
		if got := readsRequest(value); got != want {
			t.Errorf("%s: got %t, want %t", value, got, want)
		}
	}
}

func TestOneLineStaysOne(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"": "", "a=b": "a=b", "a=b HTTP/1.1": "a=b%20HTTP/1.1", " a#b ": "%20a%23b%20", "%zz&&;{\"\xff": "%zz&&;{\"\xff",
	} {
		if got := onOneLine(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
