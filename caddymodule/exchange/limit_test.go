package exchange

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/internal/caddytest"
)

// limited runs the transport and the Proxy API for d with limits. Callers of the transport
// authenticate, too. It returns a server and, for each of the two, a function that creates
// requests.
func limited(t *testing.T, d *caddytest.Downstream, app, limits string) (srv *httptest.Server, ways map[string]func(method, consumer string, body io.Reader, header ...string) *http.Request) {
	t.Helper()
	options, _ := caddytest.Globals(t, caddytest.BrokerLines(t, t.TempDir(), caddytest.ConnectorLines("crm/acme", d.URL, "allow_private"),
		"app my-app {\n"+app+"\n}", "limits {\n"+limits+"\n}"))
	trust := fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", d.CA)
	handler := caddytest.Run(t, options+fmt.Sprintf("http:// {\nconnections_api\ndownstream_proxy {\n%s\n}\nreverse_proxy %s {\ntransport token_broker crm/acme {\n%s\nversions 1.1\n}\n}\n}", trust, d.URL, trust))
	caddytest.ImportToken(t, handler, "crm/acme", "access-1")
	resp := caddytest.Do(t, handler, "POST", "http://broker/vault/connections/crm/acme/import", caddytest.TokenBody("access-2"),
		"Authorization", "Bearer "+caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: status %d: %s", resp.StatusCode, caddytest.ReadAll(t, resp))
	}
	srv = httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	request := func(path string, more ...string) func(method, consumer string, body io.Reader, header ...string) *http.Request {
		return func(method, consumer string, body io.Reader, header ...string) *http.Request {
			req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			header = append(append([]string{"Authorization", "Bearer " + caddytest.Key, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", consumer}, more...), header...)
			for i := 0; i < len(header); i += 2 {
				req.Header.Add(header[i], header[i+1])
			}
			return req
		}
	}
	return srv, map[string]func(method, consumer string, body io.Reader, header ...string) *http.Request{
		"transport": request("/"),
		"proxy":     request("/proxy", "X-Apideck-Service-Id", "acme", "X-Apideck-Downstream-Url", d.URL+"/"),
	}
}

func TestRequestsUnderWayAreLimited(t *testing.T) {
	for name, tt := range map[string]struct {
		app, limits  string
		othersAreToo bool // the limit covers other connections of the application
	}{
		"of a connection": {"", "connection_concurrency 1", false},
		"of a connection, and refusals do not count":  {"", "connection_concurrency 1\napp_concurrency 2", false},
		"of all applications":                         {"", "app_concurrency 1", true},
		"of an application":                           {"app_concurrency 1", "app_concurrency 100", true},
		"of an application that has more than others": {"app_concurrency off", "app_concurrency 1\nconnection_concurrency 1", false},
	} {
		for _, way := range []string{"transport", "proxy"} {
			for _, upgrade := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, upgraded %t", name, way, upgrade), func(t *testing.T) {
					d := caddytest.NewDownstream(t, holdOn)
					_, ways := limited(t, d, tt.app, tt.limits)
					request := ways[way]
					var header []string
					if upgrade {
						header = []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version", "13"}
					}
					held := caddytest.RoundTrip(t, request("GET", "jane", nil, append(header, "X-Hold", "yes")...))
					if _, err := bufio.NewReader(held.Body).ReadString('\n'); err != nil {
						t.Fatalf("the first request: %v with %v", err, held)
					}
					d.Request(t)

					refused := caddytest.RoundTrip(t, request("GET", "jane", nil))
					if refused.Header.Get("Retry-After") != "1" {
						t.Errorf("got Retry-After %q, want 1", refused.Header.Get("Retry-After"))
					}
					caddytest.WantError(t, refused, http.StatusTooManyRequests, "TooManyRequestsError")
					d.WantNone(t)
					other := caddytest.RoundTrip(t, request("GET", "john", nil))
					if got := other.StatusCode == http.StatusTooManyRequests; got != tt.othersAreToo {
						t.Errorf("another connection got status %d", other.StatusCode)
					}

					held.Body.Close()
					// The proxy notices at its next read or write.
					brokertest.Eventually(t, caddytest.Deadline, "room for the next request", func() error {
						if got := caddytest.RoundTrip(t, request("GET", "jane", nil)).StatusCode; got != http.StatusOK {
							return fmt.Errorf("got status %d", got)
						}
						return nil
					})
				})
			}
		}
	}
}

// holdOn answers at once, or with X-Hold begins to and continues until the caller is gone.
func holdOn(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Hold") == "" {
		return
	}
	if r.Header.Get("Upgrade") == "" {
		fmt.Fprintln(w, "held")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nheld\n")
	_, _ = io.Copy(io.Discard, conn)
}

func TestRequestsThatFailAreUnderWayNoLonger(t *testing.T) {
	d := caddytest.NewDownstream(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, ways := limited(t, d, "app_concurrency 1", "connection_concurrency 1")
	for way, request := range ways {
		for range 3 {
			for consumer, want := range map[string]int{"jane": http.StatusBadGateway, "nobody": http.StatusNotFound} {
				if got := caddytest.RoundTrip(t, request("GET", consumer, nil)).StatusCode; got != want {
					t.Errorf("%s, %s: got status %d, want %d", way, consumer, got, want)
				}
			}
		}
	}
}

func TestBodiesOfRequestsAreLimited(t *testing.T) {
	d := caddytest.NewDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	for name, tt := range map[string]struct{ app, limits string }{
		"of all applications": {"", "request_body 100KB"},
		"of an application":   {"request_body 100KB", "request_body 10"},
	} {
		_, ways := limited(t, d, tt.app, tt.limits)
		for way, request := range ways {
			for what, body := range map[string]func(n int) io.Reader{
				"known":   func(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) },
				"unknown": func(n int) io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", n))) },
			} {
				if got := caddytest.RoundTrip(t, request("POST", "jane", body(100_000))); got.StatusCode != http.StatusOK || caddytest.ReadAll(t, got) != "100000" {
					t.Errorf("%s, %s, a length that is %s: got status %d for the largest body", name, way, what, got.StatusCode)
				}
				caddytest.WantError(t, caddytest.RoundTrip(t, request("POST", "jane", body(100_001))), http.StatusRequestEntityTooLarge, "RequestEntityTooLargeError")
			}
		}
	}
}
