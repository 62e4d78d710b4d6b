package proxy

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/tokenbroker/caddy-token-broker/broker/apideck"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// FuzzDownstreamProxy sends requests with arbitrary headers and paths. None of them makes the
// proxy fail or sends a credential where it is not allowed.
func FuzzDownstreamProxy(f *testing.F) {
	d := caddytest.NewDownstream(f, caddytest.OK)
	for _, target := range []string{d.URL, d.URL + "/a?b={c}", "https://evil.test", d.URL + "/../", "{x}/y", "https://" + d.Listener.Addr().String() + "@evil.test/", "", "é"} {
		f.Add("GET", "/proxy", target, "", "", "acme", "", "X-Custom", "1")
		f.Add("POST", "/proxy/%2e%2e/x?y=z", target, "delete", "10", "", "crm", "Connection", "authorization, upgrade")
		f.Add("PUT", "/proxy//x", target, "TRACE", "-1", "", "", "Upgrade", "websocket")
		f.Add("HEAD", "/proxy", target, "X\x80", "99999999999999999999", "other", "", "Te", "trailers")
	}
	caddyfile, _ := d.Forward(f, "")
	handler := caddytest.Run(f, caddyfile)
	caddytest.ImportToken(f, handler, "crm/acme", "canary-access")
	f.Fuzz(func(t *testing.T, method, path, target, asMethod, timeout, service, api, name, value string) {
		if timeout != "" {
			timeout = "5000" // long enough not to cause a failure
		}
		header := make(http.Header)
		for i, more := 0, caddytest.Call(target, "X-Apideck-Downstream-Method", asMethod, "X-Apideck-Timeout", timeout, "X-Apideck-Unified-Api", api, name, value); i < len(more); i += 2 {
			if !httpguts.ValidHeaderFieldName(more[i]) || !httpguts.ValidHeaderFieldValue(more[i+1]) {
				return // no server accepts it
			}
			header.Add(more[i], more[i+1])
		}
		header.Set("X-Apideck-Service-Id", service)
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " " + path + " HTTP/1.1\r\nHost: broker\r\n\r\n")))
		if err != nil {
			return
		}
		req.Header, req.RemoteAddr = header, "192.0.2.1:1"
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		if rec.Code >= 500 {
			t.Errorf("got status %d: %s", rec.Code, rec.Body)
		}
		if strings.Contains(rec.Body.String()+strings.Join(rec.Header()["Location"], ""), "canary") {
			t.Errorf("got %s", rec.Body)
		}
		for {
			select {
			case got := <-d.Requests:
				for _, name := range []string{"Cookie", "X-Apideck-App-Id", "Proxy-Authorization", "Baggage", "X-Forwarded-For"} {
					if got.Header.Get(name) != "" {
						t.Errorf("downstream got %s", name)
					}
				}
				if values := got.Header["Authorization"]; len(values) != 1 || values[0] != "Bearer canary-access" && header.Get(apideck.AuthorizationHeader) == "" {
					t.Errorf("downstream got %q", values)
				}
			default:
				return
			}
		}
	})
}
