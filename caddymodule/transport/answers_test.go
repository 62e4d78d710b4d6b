package transport

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// What decides a response can be anywhere in front of the transport.
func TestVaryHasAllThatTheServerLooksAt(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	const consumer = "x-apideck-consumer-id"
	for name, tt := range map[string]struct {
		site, transport, proxy string
		vary                   string
	}{
		"the consumer alone":              {"", "app my-app", "", consumer},
		"with authentication":             {"", "", "", "authorization, x-apideck-app-id, " + consumer},
		"header_up":                       {"", "app my-app", "header_up X-Tenant {header.X-Customer}", "x-apideck-consumer-id, x-customer"},
		"header_up with the path":         {"", "app my-app", "header_up X-Path {path}", consumer},
		"header_up with the address":      {"", "app my-app", "header_up X-Caller {remote_host}", "*"},
		"a matcher on a header":           {"@x header X-Plan gold\nrespond @x 402", "app my-app", "", consumer + ", x-plan"},
		"a matcher on a missing header":   {"@x {\nnot {\nnot header_regexp X-Plan ^g\n}\n}\nrespond @x 402", "app my-app", "", consumer + ", x-plan"},
		"a matcher on the URL":            {"@x {\npath /gone*\nmethod PUT\nquery a=b\n}\nrespond @x 410", "app my-app", "", consumer},
		"a matcher on the address":        {"@x remote_ip 198.51.100.1\nrespond @x 402", "app my-app", "", "*"},
		"a consumer from the site":        {"request_header X-Apideck-Consumer-Id {header.X-User}", "app my-app", "", "x-apideck-consumer-id, x-user"},
		"a consumer from elsewhere":       {"request_header X-Apideck-Consumer-Id {http.auth.user.id}", "app my-app", "", "*"},
		"an upstream that a header names": {"", "app my-app", "dynamic a {\nname {header.X-Node}\nport 1\n}", consumer + ", x-node"},
		"a consumer by a variable":        {"vars who jane", "app my-app\nconsumer {vars.who}", "", "*"},
		"a consumer of the host's name":   {"", "app my-app\nconsumer {http.request.host.labels.1}", "", ""},
		"a consumer that does not change": {"", "app my-app\nconsumer jane", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			caddyfile, _ := d.Proxy(t, tt.transport, tt.proxy)
			handler := caddytest.Run(t, strings.Replace(caddyfile, "http:// {\n", "http:// {\n"+tt.site+"\n", 1))
			sent := caddytest.Caller("X-User", "jane")
			imported := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/acme/import", caddytest.TokenBody("access-1"), sent...)
			resp := caddytest.Do(t, handler, "GET", "http://jane.test/", "", sent...)
			if imported.StatusCode != http.StatusOK {
				t.Fatal(caddytest.ReadAll(t, imported))
			}
			if got := resp.Header.Get("Vary"); got != tt.vary || resp.StatusCode != http.StatusOK {
				t.Errorf("got status %d with Vary %q, want %q", resp.StatusCode, got, tt.vary)
			}
			wantCaches := "" // downstream says nothing to caches, and Vary is enough
			if tt.vary == "" || tt.vary == "*" {
				wantCaches = "private"
			}
			if got := resp.Header.Get("Cache-Control"); got != wantCaches {
				t.Errorf("got Cache-Control %q, want %q", got, wantCaches)
			}
		})
	}
}

// The operator's header_down comes after what the transport does.
func TestOperatorsHaveTheLastWordOnResponses(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header()["Content-Type"] = nil
		fmt.Fprint(w, "<html>")
	})
	caddyfile, _ := d.Proxy(t, "app my-app", "header_down Access-Control-Allow-Origin https://app.test\nheader_down Content-Type text/plain")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Apideck-Consumer-Id", "jane")
	if resp.Header.Get("Access-Control-Allow-Origin") != "https://app.test" || resp.Header.Get("Content-Type") != "text/plain" || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("got %v", resp.Header)
	}
}

// An operator's own handle_response comes first.
func TestHandleResponseStillWorks(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		w.WriteHeader(map[string]int{"/teapot": http.StatusTeapot}[r.URL.Path] + map[bool]int{true: http.StatusOK}[r.URL.Path != "/teapot"])
	})
	caddyfile, _ := d.Proxy(t, "app my-app", "@teapot status 418\nhandle_response @teapot {\nrespond short 200\n}")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for path, want := range map[string]string{"/teapot": "short", "/": ""} {
		resp := caddytest.Do(t, handler, "GET", "http://caller.test"+path, "", "X-Apideck-Consumer-Id", "jane")
		if got := caddytest.ReadAll(t, resp); got != want || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got %d %q, want %q", path, resp.StatusCode, got, want)
		}
	}
}
