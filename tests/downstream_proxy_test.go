package tests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/tests/oauthserver"
)

// stream is a connector with an API key, whose service the test provides.
const stream = "file-storage/stream"

// withService starts a service and adds the connector stream for it.
func (d *deployment) withService(t *testing.T, service http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(service)
	t.Cleanup(srv.Close)
	d.broker += fmt.Sprintf("connector %s {\nauth_type apiKey\nbase_url %s\nallow_private\n}\n", stream, srv.URL)
	return srv
}

// proxied returns a request to the Proxy API. more are names and values of headers.
func (p *process) proxied(ctx context.Context, t *testing.T, method, below, target string, body io.Reader, more ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, p.apiURL("/proxy"+below), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = p.deployment.apiHeader(consumer)
	req.Header.Set("X-Apideck-Downstream-Url", target)
	for i := 0; i < len(more); i += 2 {
		req.Header.Add(more[i], more[i+1])
	}
	return req
}

// stayOpen returns a client without a timeout and with its own connections.
func stayOpen(t *testing.T) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
}

func sendProxied(t *testing.T, req *http.Request) answer {
	t.Helper()
	got, err := do(req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Calls to the Proxy API get the consumer's token, refreshed if necessary.
func TestProxyCallsDownstreamWithAFreshToken(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		p := d.start(t)
		p.importTokens(t, acme, consumer, d.provider.Login(t, consumer, 2*oauthserver.DefaultLifetime)) // expired
		for _, more := range [][]string{
			nil, // it is the only connection for the host
			{"X-Apideck-Service-Id", "acme"},
			{"X-Apideck-Service-Id", "acme", "X-Apideck-Unified-Api", "crm", "X-Apideck-Timeout", "", "X-Apideck-Downstream-Method", "get"},
		} {
			got := sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "/contacts", d.provider.APIURL, nil, more...))
			var body struct{ Generation int }
			got.decode(t, &body)
			if got.status != http.StatusOK || body.Generation != 1 || got.header.Get("X-Apideck-Request-Id") == "" {
				t.Errorf("%q: the response is %v, want one for the refreshed token", more, got)
			}
		}
		sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", d.provider.APIURL, nil, "X-Apideck-Consumer-Id", "")).
			wantError(t, http.StatusBadRequest, "RequestHeadersValidationError")

		// With a second connection for the same host, the caller must name one.
		p.importBody(t, keyed, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", d.provider.APIURL, nil)).
			wantError(t, http.StatusBadRequest, "RequestHeadersValidationError", acme, keyed, "x-apideck-service-id")
		sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", d.provider.APIURL, nil, "X-Apideck-Service-Id", "quickbooks")).
			wantError(t, http.StatusNotFound, "ConnectionNotFoundError")
		p.stop(t)
	})
}

// A credential is sent only to the connector's hosts, whatever a URL looks like.
func TestProxySendsNoCredentialElsewhere(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		reached := make(chan string, 100)
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.String() }))
		t.Cleanup(other.Close)
		service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
			if code, err := strconv.Atoi(strings.Trim(r.URL.Path, "/")); err == nil {
				http.Redirect(w, r, other.URL+"/redirected", code)
				return
			}
			reached <- "the service: " + r.URL.String()
		})
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		host, elsewhere := strings.TrimPrefix(service.URL, "http://"), strings.TrimPrefix(other.URL, "http://")
		for _, target := range []string{
			other.URL, "http://" + host + "@" + elsewhere, "http://" + elsewhere + "#" + host, "http://" + elsewhere + "?" + host,
			"http://" + elsewhere + "/" + host, `http://` + elsewhere + `\@` + host, "http://localhost:" + service.Listener.Addr().String()[10:],
			"http://127.1:" + host[10:], "http://0x7f000001:" + host[10:], "http://2130706433:" + host[10:], "http://0.0.0.0:" + host[10:],
			"http://[::]:" + host[10:], "http://[::1]:" + host[10:], "http://[64:ff9b::7f00:1]:" + host[10:], "http://169.254.169.254/latest/meta-data",
			"http://" + host + ".evil.example", "http://" + strings.Replace(host, ":", "%3A", 1), "//" + host, host, "file:///etc/passwd",
			"http://" + host + "/../x", "http://" + host + "/%2e%2e%2fx", "http://" + host + "/a/..;/x", "http://" + host + "/%252e%252e%252fx",
			"{api_key}/x", "http://" + host + "/?q={api_key}", "http://{api_key}.example/", "http://" + host + "/{missing}",
		} {
			for _, more := range [][]string{{"X-Apideck-Service-Id", "stream"}, nil, {"X-Apideck-Service-Id", "stream", "X-Apideck-Downstream-Authorization", "Bearer x"}} {
				got := sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", target, nil, more...))
				if got.status < 400 || got.status > 422 || got.header.Get("X-Token-Broker-Error") == "" || got.header.Get("X-Apideck-Downstream-Error") != "false" {
					t.Errorf("%s, %q: the response is %v, want a refusal", target, more, got)
				}
				if strings.Contains(string(got.body), "a-key") {
					t.Errorf("%s: the response contains the key: %v", target, got)
				}
			}
		}
		for _, code := range []int{301, 302, 303, 307, 308} {
			got := sendProxied(t, p.proxied(t.Context(), t, http.MethodPost, fmt.Sprintf("/%d", code), service.URL, strings.NewReader("body"), "X-Apideck-Service-Id", "stream"))
			if got.status != code || got.header.Get("Location") != other.URL+"/redirected" {
				t.Errorf("%d: the response is %v, want the redirect", code, got)
			}
		}
		select {
		case what := <-reached:
			t.Errorf("the request for %s was sent, want none", what)
		default:
		}
	})
}

// Headers about the caller and its connection do not reach downstream, and no request is
// smuggled past the proxy.
func TestProxyForwardsNeitherCallersHeadersNorSmuggledRequests(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		requests := make(chan *http.Request, 100)
		service := d.withService(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			requests <- r
		})
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		host := strings.TrimPrefix(p.apiURL(""), "http://")
		head := "Host: " + host + "\r\nAuthorization: Bearer " + d.apiKey + "\r\nx-apideck-app-id: " + application + "\r\nx-apideck-consumer-id: " + consumer +
			"\r\nx-apideck-service-id: stream\r\nx-apideck-downstream-url: " + service.URL + "\r\nCookie: a=1\r\n"
		cases := map[string]struct {
			request string
			status  int // 0: any below 500
			sent    bool
		}{
			"connection names authorization": {"GET /proxy HTTP/1.1\r\n" + head + "Connection: authorization, close\r\n\r\n", 200, true},
			"connection in two headers":      {"GET /proxy HTTP/1.1\r\n" + head + "Connection: x-a\r\nConnection: x-b, close\r\nX-A: 1\r\nX-B: 1\r\n\r\n", 200, true},
			"absolute form":                  {"GET http://" + host + "/proxy HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", 200, true},
			"length and chunks":              {"POST /proxy HTTP/1.1\r\n" + head + "Connection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n", 0, true},
			"two lengths":                    {"POST /proxy HTTP/1.1\r\n" + head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400, false},
			"chunked twice":                  {"POST /proxy HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501, false}, // net/http's answer
			"folded header":                  {"GET /proxy HTTP/1.1\r\n" + head + "Connection: close\r\nX-Folded: a\r\n Authorization: Bearer forged\r\n\r\n", 0, true},
			"space in a name":                {"GET /proxy HTTP/1.1\r\n" + head + "X-A : 1\r\n\r\n", 400, false},
			"two authorizations":             {"GET /proxy HTTP/1.1\r\n" + head + "Authorization: Bearer x\r\nConnection: close\r\n\r\n", 400, false},
			"a bare CR":                      {"GET /proxy HTTP/1.1\r\n" + head + "X-A: 1\rX-B: 2\r\n\r\n", 400, false},
			"a NUL":                          {"GET /proxy HTTP/1.1\r\n" + head + "X-A: 1\x002\r\n\r\n", 400, false},
			"a trace":                        {"TRACE /proxy HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n", 405, false},
			"a broken body":                  {"POST /proxy HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, true},
		}
		for name, tt := range cases {
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(waitTimeout))
			path := "/" + strings.ReplaceAll(name, " ", "-") // of the request to downstream
			_, _ = io.WriteString(conn, strings.Replace(tt.request, service.URL, service.URL+path, 1))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			_ = conn.Close()
			if tt.status != 0 && resp.StatusCode != tt.status || tt.status == 0 && resp.StatusCode >= 500 {
				t.Errorf("%s: the status is %d, want %d", name, resp.StatusCode, tt.status)
			}
		}
		p.stop(t)
		service.Close() // it waits for requests whose caller has its answer already
		for len(requests) > 0 {
			got := <-requests
			name := strings.ReplaceAll(strings.TrimPrefix(got.URL.Path, "/"), "-", " ")
			for _, header := range []string{"Cookie", "X-Apideck-App-Id", "X-A", "X-B"} {
				if got.Header.Get(header) != "" {
					t.Errorf("%s: downstream got %s: %q", name, header, got.Header.Values(header))
				}
			}
			if values := got.Header.Values("Authorization"); !cases[name].sent || len(values) != 1 || values[0] != "Bearer a-key" {
				t.Errorf("%s: downstream got %s %s with %q", name, got.Method, got.URL, values)
			}
		}
	})
}

// The caller's own credential reaches downstream and no log, at any level.
func TestProxyKeepsTheCallersCredentialOutOfTheLogs(t *testing.T) {
	inEveryStore(t, func(t *testing.T, d *deployment) {
		const own = "Bearer own-" + brokertest.AccessCanary
		got := make(chan string, 10)
		service := d.withService(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			got <- r.Header.Get("Authorization")
		})
		d.global = "debug\nmetrics"
		accessLog := filepath.Join(d.dir, "access.log")
		d.site = "log {\noutput file " + accessLog + "\n}\nlog stderr {\noutput stderr\n}"
		p := d.start(t)
		p.importBody(t, stream, consumer, `{"settings": {"api_key": "a-key"}}`).connection(t)
		for _, target := range []string{service.URL, "http://127.0.0.1:1", "http://evil.example", service.URL + "/%"} {
			for _, more := range [][]string{{"X-Apideck-Service-Id", "stream"}, {"X-Apideck-Service-Id", "none"}, {"X-Apideck-App-Id", "second"}} {
				answer := sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "", target, nil, append(more, "X-Apideck-Downstream-Authorization", own)...))
				wantNoCanaryInAnswer(t, "the response for "+target, answer)
			}
		}
		sendProxied(t, p.proxied(t.Context(), t, http.MethodGet, "/seen", service.URL, nil, "X-Apideck-Service-Id", "stream"))
		p.stop(t)
		if first := <-got; first != own {
			t.Errorf("downstream got Authorization %q, want %q", first, own)
		}
		access, err := os.ReadFile(accessLog)
		if err != nil {
			t.Fatal(err)
		}
		wantNoCanary(t, "the access log", access)
		wantNoCanary(t, "the log", []byte(p.log.String()))
		if !strings.Contains(string(access), "/proxy/seen") {
			t.Error("a request without the header is not in the access log: the test proves nothing")
		}
		if lines := strings.Count(p.log.String(), `"logger":"http.handlers.downstream_proxy","msg":"handled request"`); lines != 12 {
			t.Errorf("the proxy logged %d requests, want 12", lines)
		}
	})
}
