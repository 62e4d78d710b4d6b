package transport

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/tokenbroker"
)

func TestDialErrorsAreRetried(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, 4)
		_, _ = r.Body.Read(body)
		_, _ = w.Write(body)
	})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(),
		caddytest.ConnectorLines("crm/acme", d.URL, "allow_private", "allow_host "+dead.Addr().String())))
	handler := caddytest.Run(t, options+caddytest.Site("https://"+dead.Addr().String()+" "+d.URL, "crm/acme",
		"app my-app\ntls_trust_pool file {\npem_file "+d.CA+"\n}", "lb_policy first\nlb_try_duration 10s\nlb_try_interval 10ms\nfail_duration 1h\nheader_up +X-Attempt 1"))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := caddytest.Do(t, handler, "POST", "http://caller.test/", "ping", "X-Apideck-Consumer-Id", "jane", "Cookie", "caller=1")
	if got := caddytest.ReadAll(t, resp); resp.StatusCode != http.StatusOK || got != "ping" {
		t.Fatalf("got status %d: %s", resp.StatusCode, got)
	}
	got := d.Request(t)
	if len(got.Header.Values("Authorization")) != 1 || len(got.Header.Values("X-Attempt")) != 1 || got.Header.Get("Cookie") != "" {
		t.Errorf("the second attempt has other headers: %v", got.Header)
	}
}

func TestHealthChecksHaveNoCredential(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	caddyfile, _ := d.Proxy(t, "app my-app", "health_uri /health\nhealth_interval 1h\nhealth_headers {\nHost health.acme.test\nCookie operator=1\n}")
	caddytest.Run(t, caddyfile)
	got := d.Request(t)
	if got.URL.Path != "/health" || got.Header.Get("Authorization") != "" {
		t.Errorf("got %s with %v", got.URL, got.Header)
	}
	if got.Host != "health.acme.test" || got.Header.Get("Cookie") != "operator=1" {
		t.Errorf("the operator's headers did not arrive: Host %s with %v", got.Host, got.Header)
	}
}

func TestHealthChecksDialWhereCredentialsMay(t *testing.T) {
	d := caddytest.NewDownstream(t, caddytest.OK)
	localhost := strings.Replace(d.URL, "127.0.0.1", "localhost", 1)
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", localhost)))
	caddytest.Run(t, options+caddytest.Site(localhost, "crm/acme", "app my-app", ""))
	app, err := tokenbroker.Active()
	if err != nil {
		t.Fatal(err)
	}
	transport := testTransport(t)
	transport.Connector, transport.app = "crm/acme", app
	req, err := http.NewRequest(http.MethodGet, localhost+"/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := transport.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Error("a health check reached a private address")
	}
	d.WantNone(t)
}

func TestAnswersAreStreamed(t *testing.T) {
	release := make(chan struct{})
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		<-release
		fmt.Fprint(w, "data: second\n\n")
	})
	caddyfile, _ := d.Proxy(t, "app my-app", "")
	handler := caddytest.Run(t, caddyfile)
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	front := httptest.NewServer(handler)
	t.Cleanup(front.Close)
	req, err := http.NewRequest(http.MethodGet, front.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Apideck-Consumer-Id", "jane")
	resp, err := front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if got, err := lines.ReadString('\n'); err != nil || got != "data: first\n" {
		t.Fatalf("got %q, %v", got, err)
	}
	// A reload does not cut it off.
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir()))
	if err := caddytest.Load(t, options+caddytest.APISite); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got, err := lines.ReadString(0); !strings.Contains(got, "data: second") {
		t.Errorf("got %q, %v", got, err)
	}
}
