package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

func TestProxyRenewsAndRepeatsAfterA401(t *testing.T) {
	tokens := make(chan string, 10)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600, "token_type": "Bearer"}`)
	}))
	t.Cleanup(auth.Close)
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		tokens <- r.Header.Get("Authorization") + " " + string(body) + " " + r.Header.Get("X-Custom")
		if r.Header.Get("Authorization") != "Bearer access-2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	caddyfile, _ := d.Forward(t, "")
	caddyfile = strings.Replace(caddyfile, "https://auth.acme.test/token", auth.URL, 1)
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := caddytest.Do(t, handler, "POST", "http://broker/proxy", "body", caddytest.Call(d.URL, "X-Custom", "kept")...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	if first, second := <-tokens, <-tokens; first != "Bearer access-1 body kept" || second != "Bearer access-2 body kept" {
		t.Errorf("downstream got %q, then %q", first, second)
	}
}

// A credential in the query is part of the URL: a repeated request must have the new
// credential only, and all of the caller's query.
func TestProxyRenewsACredentialInTheQuery(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token": "access-2", "refresh_token": "refresh-2", "expires_in": 3600, "token_type": "Bearer"}`)
	}))
	t.Cleanup(auth.Close)
	asked := make(chan string, 10)
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
		if r.FormValue("key") != "access-2" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	caddyfile, _ := d.Forward(t, "", caddytest.ConnectorLines("crm/query", d.URL, "allow_private", "inject query key"))
	handler := caddytest.Run(t, strings.ReplaceAll(caddyfile, "https://auth.acme.test/token", auth.URL))
	caddytest.ImportToken(t, handler, "crm/query", "access-1")
	resp := caddytest.Do(t, handler, "GET", "http://broker/proxy/x?b=2", "", caddytest.Caller("X-Apideck-Service-Id", "query", "X-Apideck-Downstream-Url", d.URL+"?a=1&key=mine")...)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	if first, second := <-asked, <-asked; first != "/x?a=1&b=2&key=access-1" || second != "/x?a=1&b=2&key=access-2" {
		t.Errorf("downstream was asked for %s, then %s", first, second)
	}
}

// The test also changes the path, which no placement does yet.
func TestRepeatedRequestsStartWithoutTheFirstCredential(t *testing.T) {
	t.Parallel()
	const target = "https://api.acme.test/a%2Fb/c?a=1"
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &passage{caller: callersRequest{r: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://broker/proxy", nil)}, callOptions: callOptions{method: http.MethodGet}}
	for _, token := range []string{"access-1", "access-2"} {
		out := p.outgoing(t.Context(), new(sending), u)
		if out.URL.String() != target || out.Header.Get("X-Key") != "" {
			t.Fatalf("before it has %s, the request to %s has the header %v", token, out.URL, out.Header)
		}
		// Change the URL in place, as package inject does.
		out.URL.Path, out.URL.RawPath = "/"+token+out.URL.Path, "/"+token+out.URL.RawPath
		out.URL.RawQuery += "&key=" + token
		out.Header.Set("X-Key", token)
		if got, want := out.URL.String(), "https://api.acme.test/"+token+"/a%2Fb/c?a=1&key="+token; got != want {
			t.Errorf("the request goes to %s, want %s", got, want)
		}
	}
}

func TestProxySendsTheCallersOwnCredential(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusUnauthorized)
	})
	caddyfile, log := d.Forward(t, "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	own := []string{"X-Apideck-Downstream-Authorization", "Token canary-own"}
	resp := caddytest.Do(t, handler, "GET", "http://broker/proxy?q=canary-query", "", caddytest.Call(d.URL, own...)...)
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("X-Apideck-Downstream-Error") != "true" || resp.Header.Get("X-Token-Broker-Error") != "" {
		t.Errorf("got status %d with %v", resp.StatusCode, resp.Header)
	}
	if strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Errorf("got %v", resp.Header)
	}
	if got := d.Request(t).Header.Values("Authorization"); len(got) != 1 || got[0] != "Token canary-own" {
		t.Errorf("downstream got %q", got)
	}
	d.WantNone(t) // the request is not repeated

	caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call("https://evil.test", own...)...), 403, "ForbiddenError")
	caddytest.WantError(t, caddytest.Do(t, handler, "GET", "http://broker/proxy", "", append([]string{"X-Apideck-App-Id", "x"}, own...)...), 401, "UnauthorizedError")
	caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call(d.URL, "X-Apideck-Downstream-Authorization", "")...)
	text := caddytest.Logged(t, log)
	if strings.Contains(text, "canary") {
		t.Errorf("the log shows the credential: %s", text)
	}
	if got := strings.Count(text, `"msg":"handled request"`); got != 5 { // the import, and the four above
		t.Errorf("the log has %d lines about requests:\n%s", got, text)
	}
	if got := strings.Count(text, `"logger":"http.handlers.downstream_proxy","msg":"handled request"`); got != 3 {
		t.Errorf("the proxy has logged %d lines:\n%s", got, text)
	}
}
