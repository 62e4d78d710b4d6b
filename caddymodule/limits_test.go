package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/tokenbroker/caddy-token-broker/broker/brokertest"
)

// limited runs both ways to the downstream with limits: callers of the transport
// authenticate too. It returns a server and a function that makes requests by each way.
func (d *downstream) limited(t *testing.T, app, limits string) (srv *httptest.Server, ways map[string]func(method, consumer string, body io.Reader, header ...string) *http.Request) {
	t.Helper()
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", d.URL, "allow_private"),
		"app my-app {\n"+app+"\n}", "limits {\n"+limits+"\n}"))
	trust := fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", d.ca)
	handler := run(t, options+fmt.Sprintf("http:// {\nconnections_api\ndownstream_proxy {\n%s\n}\nreverse_proxy %s {\ntransport token_broker crm/acme {\n%s\nversions 1.1\n}\n}\n}", trust, d.URL, trust))
	importToken(t, handler, "crm/acme", "access-1")
	resp := do(t, handler, "POST", "http://broker/vault/connections/crm/acme/import", tokenBody("access-2"),
		"Authorization", "Bearer "+testKey, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", "john")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("importing: status %d: %s", resp.StatusCode, readAll(t, resp))
	}
	srv = httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	request := func(path string, more ...string) func(method, consumer string, body io.Reader, header ...string) *http.Request {
		return func(method, consumer string, body io.Reader, header ...string) *http.Request {
			req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, body)
			if err != nil {
				t.Fatal(err)
			}
			header = append(append([]string{"Authorization", "Bearer " + testKey, "X-Apideck-App-Id", "my-app", "X-Apideck-Consumer-Id", consumer}, more...), header...)
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
		othersAreToo bool // other connections of the application
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
					d := newDownstream(t, holdOn)
					_, ways := d.limited(t, tt.app, tt.limits)
					request := ways[way]
					var header []string
					if upgrade {
						header = []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version", "13"}
					}
					held := roundTrip(t, request("GET", "jane", nil, append(header, "X-Hold", "yes")...))
					if _, err := bufio.NewReader(held.Body).ReadString('\n'); err != nil {
						t.Fatalf("the first request: %v with %v", err, held)
					}
					d.request(t)

					refused := roundTrip(t, request("GET", "jane", nil))
					if refused.Header.Get("Retry-After") != "1" {
						t.Errorf("got Retry-After %q, want 1", refused.Header.Get("Retry-After"))
					}
					wantError(t, refused, http.StatusTooManyRequests, "TooManyRequestsError")
					d.wantNone(t)
					other := roundTrip(t, request("GET", "john", nil))
					if got := other.StatusCode == http.StatusTooManyRequests; got != tt.othersAreToo {
						t.Errorf("another connection got status %d", other.StatusCode)
					}

					held.Body.Close()
					// The proxy learns of it when it next reads or writes.
					brokertest.Eventually(t, deadline, "room for the next request", func() error {
						if got := roundTrip(t, request("GET", "jane", nil)).StatusCode; got != http.StatusOK {
							return fmt.Errorf("got status %d", got)
						}
						return nil
					})
				})
			}
		}
	}
}

// holdOn answers at once, or begins to and ends only when the caller has gone.
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
	d := newDownstream(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, ways := d.limited(t, "app_concurrency 1", "connection_concurrency 1")
	for way, request := range ways {
		for range 3 {
			for consumer, want := range map[string]int{"jane": http.StatusBadGateway, "nobody": http.StatusNotFound} {
				if got := roundTrip(t, request("GET", consumer, nil)).StatusCode; got != want {
					t.Errorf("%s, %s: got status %d, want %d", way, consumer, got, want)
				}
			}
		}
	}
}

func TestBodiesOfRequestsAreLimited(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	for name, tt := range map[string]struct{ app, limits string }{
		"of all applications": {"", "request_body 100KB"},
		"of an application":   {"request_body 100KB", "request_body 10"},
	} {
		_, ways := d.limited(t, tt.app, tt.limits)
		for way, request := range ways {
			for what, body := range map[string]func(n int) io.Reader{
				"known":   func(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) },
				"unknown": func(n int) io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", n))) },
			} {
				if got := roundTrip(t, request("POST", "jane", body(100_000))); got.StatusCode != http.StatusOK || readAll(t, got) != "100000" {
					t.Errorf("%s, %s, a length that is %s: got status %d for the largest body", name, way, what, got.StatusCode)
				}
				wantError(t, roundTrip(t, request("POST", "jane", body(100_001))), http.StatusRequestEntityTooLarge, "RequestEntityTooLargeError")
			}
		}
	}
}

func TestLimitsThatAreNone(t *testing.T) {
	for lines, want := range map[string]string{
		"limits {\napp_concurrency 0\n}":                                 "0 is neither a number above 0 nor off",
		"limits {\nconnection_concurrency -1\n}":                         "neither a number",
		"limits {\nrequest_body many\n}":                                 "many is neither a size",
		"limits {\nrequest_body 1MB\nrequest_body 2MB\n}":                "request_body is already set",
		"limits {\nconnections 1\n}":                                     "unrecognized subdirective of limits: connections",
		"limits 5":                                                       "wrong argument count",
		"app my-app {\napp_concurrency 1\napp_concurrency off\n}":        "app_concurrency is already set",
		"app my-app {\nrequest_body 99999999999999999999999999999999\n}": "neither a size",
	} {
		options, _ := globals(t, brokerLines(t, t.TempDir(), lines))
		if _, err := adapt(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", lines, err, want)
		}
	}
	for field, want := range map[string]string{
		`"limits": {"app_concurrency": -2}`:  "limits: app_concurrency must be more than 0, or -1",
		`"limits": {"request_body": -2}`:     "limits: request_body must be more than 0",
		`"limits": {"app_concurrency": "x"}`: "app_concurrency",
	} {
		options, _ := globals(t, brokerLines(t, t.TempDir(), "cache_ttl 1s"))
		config, err := adapt(options + apiSite)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(config), `"cache_ttl":1000000000`, field, 1)
		if err := caddy.Load([]byte(text), true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", field, err, want)
		}
	}
}

// A handler that takes over from reverse_proxy and fails in the middle leaves downstream's
// response unread and open.
func TestResponseThatNobodyReadsIsUnderWayNoLonger(t *testing.T) {
	d := newDownstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "downstream's") })
	broken := newDownstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "cut off")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	options, _ := globals(t, brokerLines(t, t.TempDir(), connectorLines("crm/acme", d.URL, "allow_private"), "limits {\nconnection_concurrency 1\n}"))
	trust := func(d *downstream) string { return fmt.Sprintf("tls_trust_pool file {\npem_file %s\n}", d.ca) }
	handler := run(t, options+site(d.URL, "crm/acme", "app my-app\n"+trust(d),
		fmt.Sprintf("@found status 200\nhandle_response @found {\nreverse_proxy %s {\ntransport http {\n%s\n}\n}\n}", broken.URL, trust(broken))))
	importToken(t, handler, "crm/acme", "access-1")
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	for range 3 {
		var resp *http.Response
		// The request before ends a moment after its answer.
		brokertest.Eventually(t, deadline, "room for the next request", func() error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Apideck-Consumer-Id", "jane")
			if resp = roundTrip(t, req); resp.StatusCode == http.StatusTooManyRequests {
				return fmt.Errorf("got status %d", resp.StatusCode)
			}
			return nil
		})
		if _, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || err == nil {
			t.Fatalf("got status %d, %v, want the answer that is cut off", resp.StatusCode, err)
		}
	}
}
