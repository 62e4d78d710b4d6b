package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyRefusesURLsThatLeadElsewhere(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	host := strings.TrimPrefix(d.URL, "https://")
	for _, url := range []string{
		"https://user@" + host, "https://" + host + "@evil.test", "https://evil.test", "https://127.0.0.1",
		"https://" + host + ".evil.test", `https://evil.test\@` + host, `https://` + host + `\evil`, "https://[::ffff:127.0.0.1]:1/",
		"https://evil.test#" + host, "https://" + host + "/#x", "//" + host, "/path", host, "ftp://" + host, "https:/" + host, "https:///x",
		"https://" + host + "/../x", "https://" + host + "/a/%2e%2E/x", "https://" + host + "/a/..%2f..", "https://" + host + "/%252e%252e/",
		"https://" + host + "/..;x/", "https://" + host + "/a/..%5c", "https://" + host + "/%", "https://" + host + "/%zz", "https://%31",
		"https://169.254.169.254/", "https://" + host + ":1", "https://" + host + ":99999", "javascript:alert(1)", "https://{host}/", "{url}",
		"https://evil.test:443 " + host, "https://evil.test/?https://" + host, "https://[" + host + "]", "https://", "://x", "https://[", "https://127.1/",
	} {
		resp := caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call(url)...)
		if resp.StatusCode < 400 || resp.StatusCode > 422 {
			t.Errorf("%s: got status %d: %s", url, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		if resp.Header.Get("X-Apideck-Downstream-Error") != "false" || resp.Header.Get("X-Apideck-Request-Id") == "" {
			t.Errorf("%s: got %v", url, resp.Header)
		}
		d.WantNone(t)
	}
	for _, below := range []string{"/proxy/..", "/proxy/%2e%2e/x", "/proxy/a/..%2F..%2Fx", "/proxy/..%5cx", "/proxy/%252e%252e/"} {
		resp := caddytest.Do(t, handler, "GET", "http://broker"+below, "", caddytest.Call(d.URL+"/v1")...)
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got status %d: %s", below, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		d.WantNone(t)
	}
}

func TestProxyTakesTheMethodOfTheHeader(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for _, tt := range []struct{ method, header, want string }{
		{"GET", "", "GET"},
		{"HEAD", "", "HEAD"},
		{"OPTIONS", "", "OPTIONS"},
		{"PATCH", "", "PATCH"},
		{"DELETE", "", "DELETE"},
		{"PROPFIND", "", "PROPFIND"},
		{"POST", "get", "GET"},
		{"GET", "DELETE", "DELETE"},
		{"POST", "REPORT", "REPORT"},
	} {
		resp := caddytest.Do(t, handler, tt.method, "http://broker/proxy", "", caddytest.Call(d.URL, "X-Apideck-Downstream-Method", tt.header)...)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%v: got status %d", tt, resp.StatusCode)
			continue
		}
		if got := d.Request(t).Method; got != tt.want {
			t.Errorf("%v: downstream was asked %s", tt, got)
		}
	}
	for _, tt := range []struct {
		method, header string
		status         int
	}{{"TRACE", "", 405}, {"TRACE", "GET", 405}, {"GET", "trace", 405}, {"GET", "CONNECT", 405}, {"GET", "A B", 400}, {"GET", "GET\x80", 400}} {
		resp := caddytest.Do(t, handler, tt.method, "http://broker/proxy", "", caddytest.Call(d.URL, "X-Apideck-Downstream-Method", tt.header)...)
		if resp.StatusCode != tt.status {
			t.Errorf("%v: got status %d: %s", tt, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		d.WantNone(t)
	}
}

func TestProxyRefusesCallersItDoesNotKnow(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	url := "X-Apideck-Downstream-Url"
	for name, tt := range map[string]struct {
		header []string
		status int
		want   string
	}{
		"nothing":         {nil, 401, "UnauthorizedError"},
		"wrong key":       {[]string{"Authorization", "Bearer wrong", "X-Apideck-App-Id", "my-app", url, d.URL}, 401, "UnauthorizedError"},
		"no consumer":     {[]string{"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", url, d.URL}, 400, "RequestHeadersValidationError"},
		"no URL":          {caddytest.Caller("X-Apideck-Service-Id", "acme"), 400, "RequestHeadersValidationError"},
		"an empty URL":    {caddytest.Caller("X-Apideck-Service-Id", "acme", url, ""), 400, "RequestHeadersValidationError"},
		"two URLs":        {caddytest.Caller(url, d.URL, url, "https://evil.test"), 400, "RequestHeadersValidationError"},
		"unknown service": {caddytest.Caller(url, d.URL, "X-Apideck-Service-Id", "other"), 404, "ConnectorNotFoundError"},
		"unknown API":     {caddytest.Caller(url, d.URL, "X-Apideck-Service-Id", "acme", "X-Apideck-Unified-Api", "hris"), 404, "ConnectorNotFoundError"},
		"no connection": {[]string{
			"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john",
			url, d.URL, "X-Apideck-Service-Id", "acme",
		}, 404, "ConnectionNotFoundError"},
		"no connection, no service": {[]string{
			"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john",
			url, d.URL,
		}, 404, "ConnectionNotFoundError"},
		"no connector for the host": {caddytest.Caller(url, "https://elsewhere.test"), 403, "ForbiddenError"},
	} {
		t.Run(name, func(t *testing.T) {
			caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://broker/proxy", "", tt.header...), tt.status, tt.want)
			d.WantNone(t)
		})
	}
}

func TestProxyFindsTheOnlyConnectionForTheHost(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("hris/acme", d.URL, "allow_private"),
		caddytest.ConnectorLines("crm/other", d.URL, "allow_private"), caddytest.ConnectorLines("crm/far", "https://api.far.test"))
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/far", "far-access")
	caddytest.ImportToken(t, handler, "crm/acme", "acme-access")
	url := []string{"X-Apideck-Downstream-Url", d.URL}
	send := func(more ...string) *http.Response {
		return caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Caller(append(url, more...)...)...)
	}
	want := func(what, token string, more ...string) {
		t.Helper()
		resp := send(more...)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got status %d: %s", what, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		if got := d.Request(t).Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("%s: got %s", what, got)
		}
	}
	// Official clients send headers that are not set, too, empty.
	want("only one", "acme-access", "X-Apideck-Service-Id", "", "X-Apideck-Unified-Api", "", "X-Apideck-Timeout", "", "X-Apideck-Downstream-Authorization", "")
	want("only one of the service", "acme-access", "X-Apideck-Service-Id", "acme")

	caddytest.ImportToken(t, handler, "hris/acme", "hris-access")
	caddytest.ImportToken(t, handler, "crm/other", "other-access")
	body := caddytest.WantError(t, send(), 400, "RequestHeadersValidationError")
	for _, name := range []string{"crm/acme", "hris/acme", "crm/other"} {
		if !strings.Contains(body["message"].(string), name) {
			t.Errorf("%v does not name %s", body, name)
		}
	}
	if strings.Contains(fmt.Sprint(body), "far") {
		t.Errorf("%v names a connection for another host", body)
	}
	body = caddytest.WantError(t, send("X-Apideck-Service-Id", "acme"), 400, "RequestHeadersValidationError")
	if message := body["message"].(string); !strings.Contains(message, "crm/acme, hris/acme") || !strings.Contains(message, "x-apideck-unified-api") {
		t.Errorf("got %s", message)
	}
	caddytest.WantError(t, send("X-Apideck-Unified-Api", "crm"), 400, "RequestHeadersValidationError")
	d.WantNone(t)
	want("whole", "hris-access", "X-Apideck-Service-Id", "acme", "X-Apideck-Unified-Api", "hris")
	want("only one of the API", "hris-access", "X-Apideck-Unified-Api", "hris")
	want("another service", "other-access", "X-Apideck-Service-Id", "other")
}

func TestProxyFillsTheURLInFromTheConnectionsSettings(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("crm/tenant", d.URL+"/{realm_id}", "setting realm_id\nsetting note sensitive\nallow_private"))
	handler := caddytest.Run(t, caddyfile)
	body := strings.TrimSuffix(caddytest.TokenBody("access-1"), "}") + `, "settings": {"realm_id": "a b", "note": "canary-note", "depth": "x/y", "Region": 7}}`
	if resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/tenant/import", body, caddytest.Caller()...); resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: %s", caddytest.ReadAll(t, resp))
	}
	send := func(url string) *http.Response {
		return caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Caller("X-Apideck-Service-Id", "tenant", "X-Apideck-Downstream-Url", d.URL+url)...)
	}
	if resp := send("/{realm_id}/x?q={realm_id}&r={Region}"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	if got := d.Request(t).RequestURI; got != "/a%20b/x?q=a%20b&r=7" {
		t.Errorf("downstream was asked for %s", got)
	}
	for _, url := range []string{"/{missing}", "/{depth}", "/{note}", "/?q={note}"} {
		body := caddytest.WantError(t, send(url), http.StatusUnprocessableEntity, "InvalidStateError")
		if message := body["message"].(string); !strings.HasPrefix(message, "x-apideck-downstream-url ") || strings.Contains(message, "canary") {
			t.Errorf("%s: got %s", url, message)
		}
	}
	d.WantNone(t)
}
