package transport

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// balanced returns a Caddyfile whose reverse_proxy has several downstreams.
func balanced(t *testing.T, proxy string, downstreams ...*caddytest.Downstream) string {
	t.Helper()
	var urls, hosts, pools []string
	for _, d := range downstreams {
		urls = append(urls, d.URL)
		hosts = append(hosts, strings.TrimPrefix(d.URL, "https://"))
		pools = append(pools, "pem_file "+d.CA)
	}
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(),
		caddytest.ConnectorLines("crm/acme", urls[0], "allow_private", "allow_host "+strings.Join(hosts, " "))))
	return options + caddytest.Site(strings.Join(urls, " "), "crm/acme",
		"app my-app\ntls_trust_pool file {\n"+strings.Join(pools, "\n")+"\n}", proxy)
}

func asJane(t *testing.T, handler http.Handler, header ...string) *http.Response {
	t.Helper()
	return caddytest.Do(t, handler, "GET", "http://caller.test/", "", append([]string{"X-Apideck-Consumer-Id", "jane"}, header...)...)
}

func TestLoadIsBalanced(t *testing.T) {
	first, second := caddytest.NewDownstream(t, caddytest.OK), caddytest.NewDownstream(t, caddytest.OK)
	handler := caddytest.Run(t, balanced(t, "lb_policy round_robin", first, second))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	for range 4 {
		if resp := asJane(t, handler); resp.StatusCode != http.StatusOK {
			t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
		}
	}
	for _, d := range []*caddytest.Downstream{first, second} {
		for range 2 {
			if got := d.Request(t).Header.Get("Authorization"); got != "Bearer access-1" {
				t.Errorf("got Authorization %q", got)
			}
		}
		d.WantNone(t)
	}
}

func TestAnswersAreRetried(t *testing.T) {
	failing := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	well := caddytest.NewDownstream(t, caddytest.OK)
	handler := caddytest.Run(t, balanced(t, "lb_policy first\nlb_retries 2\nfail_duration 1h\nunhealthy_status 502\nlb_retry_match {\nexpression {rp.status_code} == 502\n}", failing, well))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	if resp := asJane(t, handler, "Cookie", "caller=1"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	failing.Request(t)
	if got := well.Request(t).Header; len(got.Values("Authorization")) != 1 || got.Get("Cookie") != "" {
		t.Errorf("the next attempt has other headers: %v", got)
	}
	// The passive health check has counted the failure against the first one.
	if resp := asJane(t, handler); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d", resp.StatusCode)
	}
	failing.WantNone(t)
}

func TestUnhealthyDownstreamIsLeftOut(t *testing.T) {
	sick := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	well := caddytest.NewDownstream(t, caddytest.OK)
	handler := caddytest.Run(t, balanced(t, "lb_policy first\nhealth_uri /health\nhealth_interval 20ms\nhealth_status 200", sick, well))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	brokertest.Eventually(t, caddytest.Deadline, "the healthy downstream's answer", func() error { // the first check has to fail
		if got := asJane(t, handler).StatusCode; got != http.StatusOK {
			return fmt.Errorf("got status %d", got)
		}
		return nil
	})
}

func TestHeadersOfAnswersCanBeChanged(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Internal", "1")
		w.Header().Set("X-Kept", "1")
	})
	caddyfile, _ := d.Proxy(t, "app my-app", "header_down -X-Internal\nheader_down X-Added yes\nheader_up X-Up {http.request.method}\nheader_up -X-Private\nrewrite /v2{uri}\nmethod PUT")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := asJane(t, handler, "X-Private", "1", "Cookie", "caller=1")
	if resp.Header.Get("X-Internal") != "" || resp.Header.Get("X-Kept") != "1" || resp.Header.Get("X-Added") != "yes" {
		t.Errorf("got %v", resp.Header)
	}
	got := d.Request(t)
	if got.Header.Get("X-Up") != "GET" || got.Header.Get("X-Private") != "" || got.Header.Get("Cookie") != "" || got.URL.Path != "/v2/" || got.Method != http.MethodPut {
		t.Errorf("downstream got %s %s with %v", got.Method, got.URL, got.Header)
	}
}

// Headers for the broker do not reach downstream, whether the transport removes them or, if
// the operator sets such headers too, Caddy does.
func TestCallersHeadersAreRemovedEitherWay(t *testing.T) {
	for name, proxy := range map[string]string{
		"no header_up":                  "",
		"another header_up":             "header_up X-Operator 1",
		"header_up of such a header":    "header_up X-Apideck-Trace 1",
		"header_up adds such a header":  "header_up +Forwarded by=operator",
		"header_up with a placeholder":  "header_up X-{http.request.method} 1",
		"header_up of Host":             "header_up Host {http.reverse_proxy.upstream.hostport}",
		"header_up removes such a one":  "header_up -Cookie",
		"header_up replaces such a one": "header_up Cookie caller operator",
	} {
		d := caddytest.NewDownstream(t, caddytest.OK)
		caddyfile, _ := d.Proxy(t, "app my-app\nconsumer {http.request.header.X-Tenant}", proxy)
		handler := caddytest.Run(t, caddyfile)
		caddytest.ImportToken(t, handler, "crm/acme", "access-1")
		resp := caddytest.Do(t, handler, "GET", "http://caller.test/", "", "X-Tenant", "jane", "X-Apideck-Consumer-Id", "caller", "Cookie", "caller=1",
			"Authorization", "caller", "Forwarded", "for=caller", "X-Forwarded-For", "caller", "X-Apideck-Other", "caller", "X-Token-Broker-Error", "caller",
			"Proxy-Authorization", "caller", "Baggage", "user=caller", "X-Real-Ip", "caller", "X-Forwarded-Port", "caller", "X-Token-Broker-Import", "caller")
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got status %d: %s", name, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		got := d.Request(t)
		if text := fmt.Sprint(got.Header, got.Host); strings.Contains(text, "caller") || strings.Contains(text, "jane") || strings.Contains(text, "X-Forwarded") {
			t.Errorf("%s: downstream got %s", name, text)
		}
		if got := got.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer access-1" {
			t.Errorf("%s: downstream got Authorization %q", name, got)
		}
	}
}

func TestTransportCarriesAWebSocket(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.EchoUpgrade)
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(caddytest.Deadline))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: caller.test\r\nX-Apideck-Consumer-Id: jane\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || strings.Contains(fmt.Sprint(resp.Header), "canary") {
		t.Fatalf("got %v, %v", resp, err)
	}
	fmt.Fprintln(conn, "1")
	if line, err := buffered.ReadString('\n'); err != nil || line != "echo 1\n" {
		t.Errorf("got %q, %v", line, err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if line, err := buffered.ReadString('\n'); err != nil || line != "bye\n" {
		t.Errorf("after the caller's last word: got %q, %v", line, err)
	}
	if got := d.Request(t).Header.Get("Authorization"); got != "Bearer canary-access" {
		t.Errorf("downstream got Authorization %q", got)
	}
}

func TestHTTP2Downstream(t *testing.T) {
	d := caddytest.NewDownstreamOver(t, "h2", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Late")
		fmt.Fprint(w, r.Proto)
		w.Header().Set("X-Late", r.Header.Get("Authorization"))
	})
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "canary-access")
	resp := asJane(t, handler)
	if got := caddytest.ReadAll(t, resp); got != "HTTP/2.0" {
		t.Errorf("downstream was asked over %s", got)
	}
	if late := resp.Trailer.Get("X-Late"); late != "Bearer REDACTED" {
		t.Errorf("got the trailer %q", late)
	}
	if got := d.Request(t); got.Header.Get("Authorization") != "Bearer canary-access" {
		t.Errorf("got %v", got.Header)
	}
}

// Each attempt begins with the original request: what an earlier one added is neither logged
// nor sent to the next upstream.
func TestNextAttemptHasNoCredentialOfTheOneBefore(t *testing.T) {
	for _, inject := range []string{"inject header X-Api-Key", "inject query key", "inject cookie session"} {
		failing := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		well := caddytest.NewDownstream(t, caddytest.OK)
		caddyfile := balanced(t, "lb_policy first\nlb_retries 1\nfail_duration 1h\nunhealthy_status 502\nlb_retry_match {\nexpression {rp.status_code} == 502\n}", failing, well)
		connector := fmt.Sprintf("connector crm/keyed {\nauth_type apiKey\nbase_url %s\nallow_host %s\n%s\nallow_private\n}\n",
			failing.URL, strings.TrimPrefix(well.URL, "https://"), inject)
		options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), connector))
		_, site, _ := strings.Cut(caddyfile, "http:// {")
		handler := caddytest.Run(t, options+"http:// {\nlog"+strings.Replace(site, "token_broker crm/acme", "token_broker crm/keyed", 1))
		resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/keyed/import", `{"settings": {"api_key": "canary-secret"}}`, caddytest.Caller()...)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("importing: status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		if resp := asJane(t, handler); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got status %d: %s", inject, resp.StatusCode, caddytest.ReadAll(t, resp))
		}
		for _, d := range []*caddytest.Downstream{failing, well} {
			got := d.Request(t)
			if n := strings.Count(fmt.Sprint(got.URL, got.Header), "canary-secret"); n != 1 {
				t.Errorf("%s: downstream got the credential %d times: %s with %v", inject, n, got.URL, got.Header)
			}
		}
		if text := caddytest.Logged(t, log); strings.Contains(text, "canary") || strings.Count(text, "upstream roundtrip") != 2 {
			t.Errorf("%s: the log shows the credential, or lacks an attempt:\n%s", inject, text)
		}
	}
}

// What reverse_proxy logs of a request is what was sent, without the credential.
func TestLogOfAttemptLacksHeadersThatWereNotSent(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, log := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	if resp := caddytest.Do(t, handler, "GET", "http://broker/", "", "X-Apideck-Consumer-Id", "jane", "X-Other", "kept"); resp.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	found := false
	for line := range strings.Lines(caddytest.Logged(t, log)) {
		if !strings.Contains(line, "upstream roundtrip") {
			continue
		}
		found = true
		if !strings.Contains(line, "X-Other") || strings.Contains(line, "jane") || strings.Contains(line, "X-Forwarded") {
			t.Errorf("got %s", line)
		}
	}
	if !found {
		t.Error("the attempt was not logged")
	}
}

// Caddy redacts only Authorization and Cookie in its logs.
func TestNoLogShowsACredentialWhereverItGoes(t *testing.T) {
	for name, tt := range map[string]struct{ inject, settings string }{
		"header":              {"inject header X-Api-Key", `"api_key": "canary-secret"`},
		"header of two words": {`inject header X-Auth "Token token=%s"`, `"api_key": "canary-secret"`},
		"query":               {"inject query key", `"api_key": "canary-secret"`},
		"basic":               {"inject basic user api_key\nsetting user", `"api_key": "canary-secret", "user": "me"`},
		"basic with text":     {`inject basic {user}/token:{api_key}` + "\nsetting user", `"api_key": "canary-secret", "user": "me"`},
		"cookie":              {"inject cookie session", `"api_key": "canary-secret"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Echo", r.URL.Query().Get("key")+r.Header.Get("X-Api-Key")+r.Header.Get("X-Auth")+r.Header.Get("Authorization")+r.Header.Get("Cookie"))
				w.Header().Set("Location", "/?"+r.URL.RawQuery)
				w.WriteHeader(http.StatusFound)
			})
			connector := fmt.Sprintf("connector crm/acme {\nauth_type apiKey\nbase_url %s\n%s\nallow_private\n}\n", d.URL, tt.inject)
			options, log := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), connector))
			trust := "tls_trust_pool file {\npem_file " + d.CA + "\n}"
			handler := caddytest.Run(t, options+fmt.Sprintf("http:// {\nlog\nconnections_api\ndownstream_proxy {\n%s\n}\nreverse_proxy %s {\ntransport token_broker crm/acme {\napp my-app\n%s\n}\n}\n}", trust, d.URL, trust))
			resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/acme/import", `{"settings": {`+tt.settings+`}}`, caddytest.Caller()...)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("importing: status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
			}
			for way, resp := range map[string]*http.Response{
				"transport": asJane(t, handler),
				"proxy":     caddytest.Do(t, handler, "GET", "http://broker/proxy", "", caddytest.Call(d.URL+"/")...),
			} {
				if resp.StatusCode != http.StatusFound || resp.Header.Get("X-Echo") == "" || strings.Contains(fmt.Sprint(resp.Header), "canary") {
					t.Errorf("%s: got status %d with %v: %s", way, resp.StatusCode, resp.Header, caddytest.ReadAll(t, resp))
				}
			}
			text := caddytest.Logged(t, log)
			if !strings.Contains(text, "upstream roundtrip") || !strings.Contains(text, "handled request") {
				t.Error("the log lacks what could show it")
			}
			for _, credential := range []string{
				"canary", base64.StdEncoding.EncodeToString([]byte("me:canary-secret")),
				base64.StdEncoding.EncodeToString([]byte("me/token:canary-secret")),
			} {
				if strings.Contains(text, credential) {
					t.Errorf("the log shows the credential:\n%s", text)
				}
			}
		})
	}
}
